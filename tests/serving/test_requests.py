"""Requests that transformers' server would misread are refused with a sentence."""

import json

import pytest
from transformers import GenerationConfig

from modeling_mini.serving.requests import RequestError, check_request, fit_context
from modeling_mini.tokenization import train_tokenizer


NAMES = ["mini", "runs/mini"]
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a text"], vocab_size=300)


@pytest.mark.parametrize(
    ("field", "fields", "sentence"),
    [
        ("prompt", {}, "The request has no prompt."),
        ("messages", {"prompt": "a"}, "The request has no messages."),
        ("prompt", {"prompt": ["a", "b"]}, "prompt is a list; give one text per request."),
        ("prompt", {"prompt": [[1, 2]]}, "prompt is a list; give one text per request."),
        ("prompt", {"prompt": "a", "model": "other"}, "There is no model 'other' here; ask for 'mini'."),
        ("prompt", {"prompt": "a", "n": 3}, "n is 3, which this server cannot do; give 1."),
        ("prompt", {"prompt": "a", "echo": True}, "echo is True, which this server cannot do; give False."),
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
        ("messages", {"messages": HELLO, "generation_config": "{"}, "generation_config is not one of transformers"),
        ("messages", {"messages": HELLO, "generation_config": "[1]"}, "generation_config is not one of transformers"),
        ("messages", {"messages": []}, "messages is not a list of messages such as"),
        ("messages", {"messages": "Hello"}, "messages is not a list of messages such as"),
        ("messages", {"messages": [{"content": "a"}]}, "A message in messages has no role"),
        ("messages", {"messages": [{"role": "user"}]}, "This model reads text only"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "reads text only"),
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
        ("input", {"input": [{"type": "function_call_output", "output": "a"}]}),
    ],
)
@pytest.mark.parametrize("name", [None, *NAMES])
def test_usual_requests_are_accepted_under_each_name(tokenizer, field, fields, name):
    body = {**fields, "model": name}
    check_request(body, field, NAMES, tokenizer)
    assert body["model"] == "mini"


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
