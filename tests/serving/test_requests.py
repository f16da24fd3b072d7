"""Requests that transformers' server would misread are refused with a sentence."""

import json

import pytest
from transformers import GenerationConfig

from modeling_mini.serving.requests import RequestError, check_request, fit_context
from modeling_mini.tokenization import train_tokenizer


NAMES = ["mini", "runs/mini"]
HELLO = [{"role": "user", "content": "Hello"}]
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a text"], vocab_size=300)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("field", "fields", "sentence"),
    [
        ("prompt", {}, "The request has no prompt."),
        ("messages", {"prompt": "a"}, "The request has no messages."),
        ("prompt", {"prompt": ["a", "b"]}, "prompt is a list; give one text per request."),
        ("prompt", {"prompt": [[1, 2]]}, "prompt is a list; give one text per request."),
        ("prompt", {"prompt": "a", "model": "other"}, "There is no model 'other' here; ask for 'mini'."),
        ("prompt", {"prompt": "a", "n": 3}, "n is 3, which this server cannot do; leave it out."),
        ("prompt", {"prompt": "a", "echo": True}, "echo is True, which this server cannot do; leave it out."),
        ("prompt", {"prompt": "a", "logprobs": 5}, "logprobs is 5, which"),
        ("messages", {"messages": HELLO, "logprobs": True}, "logprobs is True, which"),
        ("messages", {"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format is "),
        ("prompt", {"prompt": "a", "max_tokens": 0}, "max_tokens is 0; give a whole number of at least 1."),
        ("prompt", {"prompt": "a", "max_tokens": "9"}, "max_tokens is '9'; give a whole number"),
        ("prompt", {"prompt": "a", "temperature": -1}, "temperature is -1; give a number of at least 0 and at most"),
        ("prompt", {"prompt": "a", "temperature": True}, "temperature is True; give a number"),
        ("prompt", {"prompt": "a", "top_p": 0}, "top_p is 0; give a number of at least 0.001 and at most 1."),
        ("prompt", {"prompt": "a", "frequency_penalty": -1}, "frequency_penalty is -1"),
        ("prompt", {"prompt": "a", "seed": 1.5}, "seed is 1.5; give a whole number"),
        ("prompt", {"prompt": "a", "stop": 3}, "stop is 3; give a text or a list of texts."),
        ("prompt", {"prompt": "a", "stop": ["a", ""]}, "stop is "),
        ("prompt", {"prompt": "a\ud83d"}, "The request holds half of a character, such as the code \\ud83d"),
        ("prompt", {"prompt": "a", "stop": ["\ud83d"]}, "half of a character"),
        ("messages", {"messages": [{"role": "user", "content": "\ud83d"}]}, "half of a character"),
        ("messages", {"messages": HELLO, "tools": nested(100_000)}, "The request is nested too deeply"),
        ("messages", {"messages": [{"role": "user", "content": []}]}, "This model reads text only"),
        ("messages", {"messages": HELLO, "generation_config": "{"}, "generation_config is not one of transformers"),
        ("messages", {"messages": HELLO, "generation_config": "[1]"}, "generation_config is not one of transformers"),
        ("messages", {"messages": []}, "messages is not a list of messages such as"),
        ("messages", {"messages": "Hello"}, "messages is not a list of messages such as"),
        ("messages", {"messages": [{"content": "a"}]}, "A message in messages has no role"),
        ("messages", {"messages": [{"role": "user"}]}, "This model reads text only"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "reads text only"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "x", "text": "a"}]}]}, "reads text only"),
        ("messages", {"messages": [{"type": "x"}]}, "A message in messages has no role"),
        ("messages", {"messages": [{"role": 5, "content": "a"}]}, "A role in messages is 5; give 'system'"),
        ("messages", {"messages": [{"role": "assistant", "tool_calls": [1]}]}, "tool_calls is [1]; give a list of"),
        (
            "messages",
            {"messages": [{"role": "assistant", "tool_calls": [CALL | {"arguments": "["}]}]},
            "tool_calls is",
        ),
        ("messages", {"messages": HELLO, "tools": [1]}, "tools is [1]; give a list of JSON objects."),
        ("messages", {"messages": HELLO, "tool_choice": "required"}, "tool_choice is 'required', which this server"),
        ("messages", {"messages": HELLO, "tool_choice": {"type": "function"}}, "tool_choice is {"),
        ("messages", {"messages": HELLO, "chat_template_kwargs": {"chat_template": "a"}}, "chat_template_kwargs is {"),
        ("messages", {"messages": HELLO, "chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs is {"),
        ("messages", {"messages": HELLO, "logit_bias": [1]}, "logit_bias is [1]; give a JSON object"),
        ("messages", {"messages": HELLO, "logit_bias": {"a": 1}}, "logit_bias has 'a'; give the id of a token, 0 to"),
        ("messages", {"messages": HELLO, "logit_bias": {"999999": 1}}, "logit_bias has '999999'"),
        ("messages", {"messages": HELLO, "logit_bias": {"9" * 9999: 1}}, "logit_bias has '999"),
        ("messages", {"messages": HELLO, "logit_bias": {"5": "1"}}, "logit_bias of 5 is '1'; give a number"),
        ("prompt", {"prompt": "a", "logit_bias": {"5": 1}}, "logit_bias has an effect in /v1/chat/completions only"),
        ("prompt", {"prompt": "a", "suffix": 1}, "suffix is 1; give a text."),
        ("prompt", {"prompt": "a", "generation_config": '{"num_beams": 4}'}, "generation_config asks for beam search"),
        (
            "prompt",
            {"prompt": "a", "generation_config": '{"num_beams": 4, "do_sample": true}'},
            "asks for beam sample",
        ),
        (
            "prompt",
            {"prompt": "a", "generation_config": '{"do_sample": true, "num_return_sequences": 2}'},
            "num_return_sequences is 2; this server writes one text.",
        ),
        (
            "input",
            {"input": "a", "previous_response_id": "b"},
            "previous_response_id is 'b', which this server cannot",
        ),
        ("input", {"input": [{"type": "x"}]}, "reads text only"),
        ("input", {"input": [*HELLO, {"type": "x"}]}, "A message in input has no role"),
        ("input", {"input": [*HELLO, {"type": "function_call", "name": "f"}]}, "call_id of a function_call is None"),
        ("input", {"input": [*HELLO, CALL | {"arguments": "{"}]}, "arguments of a function_call is '{'"),
        ("input", {"input": [*HELLO, {"type": "reasoning", "content": [1]}]}, "content of a reasoning is not a list"),
        ("input", {"input": 3}, "input is not a list of messages"),
        ("input", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "reads text only"),
    ],
)
def test_a_wrong_field_is_named(tokenizer, field, fields, sentence):
    with pytest.raises(RequestError) as refused:
        check_request(dict(fields), field, NAMES, tokenizer)
    assert sentence in str(refused.value)
    assert refused.value.status == (404 if fields.get("model") else 400)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("prompt", {"prompt": "", "n": 1, "temperature": 0, "max_tokens": 10**9, "stop": "a", "logprobs": None}),
        ("messages", {"messages": HELLO, "response_format": {"type": "text"}, "presence_penalty": 0, "seed": 1}),
        ("messages", {"messages": HELLO, "generation_config": json.dumps({"do_sample": True})}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}),
        ("messages", {"messages": [{"role": "assistant", "tool_calls": []}]}),
        ("input", {"input": "a"}),
        ("input", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]}),
        ("input", {"input": [{"type": "input_text", "text": "a"}]}),
        ("input", {"input": [*HELLO, CALL, {"type": "function_call_output", "call_id": "1", "output": "a"}]}),
        (
            "messages",
            {"messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": [{"function": CALL}]}]},
        ),
        ("messages", {"messages": HELLO, "tool_choice": "auto", "tools": [{}], "chat_template_kwargs": {}}),
    ],
)
@pytest.mark.parametrize("name", [None, *NAMES])
def test_usual_requests_are_accepted_under_each_name(tokenizer, field, fields, name):
    body = {**fields, "model": name}
    check_request(body, field, NAMES, tokenizer)
    assert body["model"] == "mini"


def test_null_and_an_empty_bias_are_as_if_left_out(tokenizer):
    body = {"messages": HELLO, "chat_template_kwargs": None, "tools": None, "logit_bias": {}, "stop": None}
    check_request(body, "messages", NAMES, tokenizer)
    assert body == {"messages": HELLO, "model": "mini"}


def test_a_bias_is_given_as_transformers_reads_it(tokenizer):
    body = {"messages": HELLO, "logit_bias": {"5": -100}}
    check_request(body, "messages", NAMES, tokenizer)
    assert isinstance(body["logit_bias"]["5"], float)


def test_a_list_of_one_prompt_is_a_prompt(tokenizer):
    body = {"prompt": ["a"]}
    check_request(body, "prompt", NAMES, tokenizer)
    assert body["prompt"] == "a"


@pytest.mark.parametrize(("field", "text"), [("messages", HELLO), ("input", "Hello")])
def test_without_a_chat_template_only_completions_are_answered(field, text):
    tokenizer = train_tokenizer(["a text"], vocab_size=300)
    tokenizer.chat_template = None
    check_request({"prompt": "a"}, "prompt", NAMES, tokenizer)
    with pytest.raises(RequestError, match="This model has no chat template; send a prompt to /v1/completions"):
        check_request({field: text}, field, NAMES, tokenizer)


@pytest.mark.parametrize(("requested", "length", "allowed"), [(5, 10, 5), (100, 10, 22), (None, 10, 22), (5, 31, 1)])
def test_new_tokens_stay_within_the_context(requested, length, allowed):
    settings = GenerationConfig(max_new_tokens=requested)
    fit_context(settings, length, context=32)
    assert settings.max_new_tokens == allowed


def test_a_text_that_fills_the_context_and_an_empty_one_are_refused():
    with pytest.raises(RequestError, match="The request has 32 tokens, and the model reads at most 31") as refused:
        fit_context(GenerationConfig(), 32, context=32)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(RequestError, match="The text of the request is empty"):
        fit_context(GenerationConfig(), 0, context=32)
