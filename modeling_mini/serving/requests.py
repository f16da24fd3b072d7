"""Refuse requests that transformers' server would answer with "Internal Server Error", or with something else."""

import json
from collections.abc import Sequence
from math import inf
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.generation import GenerationMode

from ..errors import one_line
from ..streams import has_lone_surrogate


class RequestError(Exception):
    """A request that the client can correct: a sentence, the HTTP status, and OpenAI's code for it, if it has one."""

    def __init__(self, message: str, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


# Lowest and highest value. transformers' repetition penalty is 1 + frequency_penalty.
_RANGES = {
    "max_tokens": (1, inf),
    "max_completion_tokens": (1, inf),
    "max_output_tokens": (1, inf),
    "temperature": (0, 100),
    "top_p": (0.001, 1),
    "frequency_penalty": (-0.9, 9),
    "seed": (0, 2**32 - 1),
}
_WHOLE = ("max_tokens", "max_completion_tokens", "max_output_tokens", "seed")
# What this server can do of fields that transformers' server ignores, so that other values would get a wrong answer.
# `chat_template_kwargs` is the exception: it may replace the chat template, by one that never ends.
_ALLOWED = {
    "n": [1],
    "best_of": [1],
    "echo": [False],
    "logprobs": [False],
    "top_logprobs": [0],
    "presence_penalty": [0],
    "response_format": [{"type": "text"}],
    "text": [{"format": {"type": "text"}}],
    "tool_choice": ["auto", "none"],
    "previous_response_id": [],
    "chat_template_kwargs": [{}],
}
_BIAS = 100  # OpenAI's limit; more would forbid a token no less
_TEXT_PARTS = ("text", "input_text", "output_text")
# The texts of an item of `/v1/responses` that has no role.
_ITEMS = {"reasoning": (), "function_call": ("call_id", "name"), "function_call_output": ("call_id", "output")}


def check_request(
    body: dict[str, Any], text_field: str, names: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check the fields of a request, drop those without a value, and write the first of `names` as its model.

    Args:
        text_field: the field of this endpoint that holds what the model reads: `messages`, `input` or `prompt`.

    Raises:
        RequestError: names the field, what it holds and what is allowed.
    """
    for name in [name for name, value in body.items() if value is None or (name == "stop" and value == [])]:
        del body[name]
    _check_characters(body)
    body["model"] = served_name(body.get("model", names[0]), names)
    _check_options(body)
    _check_bias(body, text_field, len(tokenizer))
    _check_text(body, text_field)
    if text_field != "prompt" and not tokenizer.chat_template:
        raise RequestError("This model has no chat template; send a prompt to /v1/completions instead.")


def served_name(requested: Any, names: Sequence[str]) -> str:
    """The first of `names`, which is in the answers. Raises `RequestError` if another model is requested."""
    if requested not in names:
        message = f"There is no model {requested!r} here; ask for {names[0]!r}."
        raise RequestError(message, 404, "model_not_found")
    return names[0]


def _check_characters(body: dict[str, Any]) -> None:
    try:
        text = json.dumps(body, ensure_ascii=False)
    except RecursionError as error:
        raise RequestError("The request is nested too deeply; send fewer levels.") from error
    if has_lone_surrogate(text):
        raise RequestError("The request holds half of a character, such as the code \\ud83d; send whole characters.")


def _check_options(body: dict[str, Any]) -> None:
    """The fields that mean the same at all endpoints."""
    for name, allowed in _ALLOWED.items():
        if name in body and body[name] not in allowed:
            raise RequestError(f"{name} is {body[name]!r}, which this server cannot do; leave it out.")
    for name, (lowest, highest) in _RANGES.items():
        _check_number(name, body.get(name), lowest, highest)
    for name in ("instructions", "suffix"):
        if not isinstance(body.get(name, ""), str):
            raise RequestError(f"{name} is {body[name]!r}; give a text.")
    _check_stop(body.get("stop"))
    _check_settings(body.get("generation_config"))
    _check_tools(body.get("tools", []))


def _check_text(body: dict[str, Any], text_field: str) -> None:
    """What the model reads."""
    if text_field not in body:
        raise RequestError(f"The request has no {text_field}.")
    if text_field == "prompt":
        _check_prompt(body)
    elif not isinstance(body[text_field], str) or text_field == "messages":
        _check_messages(text_field, body[text_field])


def _check_prompt(body: dict[str, Any]) -> None:
    """A text, or a list of one text."""
    prompt = body["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1:
        body["prompt"] = prompt = prompt[0]
    if not isinstance(prompt, str):
        raise RequestError(f"prompt is a {type(prompt).__name__}; give one text per request.")


def _check_number(name: str, value: Any, lowest: float, highest: float) -> None:
    if value is None:
        return
    kinds = (int,) if name in _WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not lowest <= value <= highest:
        limit = "" if highest == inf else f" and at most {highest}"
        kind = "a whole number" if name in _WHOLE else "a number"
        raise RequestError(f"{name} is {value!r}; give {kind} of at least {lowest}{limit}.")


def _check_stop(stop: Any) -> None:
    texts = [stop] if isinstance(stop, str) else stop
    if stop is not None and not (isinstance(texts, list) and all(isinstance(text, str) and text for text in texts)):
        raise RequestError(f"stop is {stop!r}; give a text or a list of texts.")


def _check_settings(settings: Any) -> None:
    """`transformers chat` sends a whole generation config, as JSON in a string."""
    if settings is None:
        return
    try:
        config = GenerationConfig(**json.loads(settings))
        mode = config.get_generation_mode()
    except Exception as error:  # a field raises whatever its check raises
        raise RequestError(f"generation_config is not one of transformers in JSON: {one_line(error)}") from error
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise RequestError(
            f"generation_config asks for {mode.value.replace('_', ' ')}, and this server writes word by word; leave "
            "out num_beams and the other options of it."
        )
    if (config.num_return_sequences or 1) > 1:
        raise RequestError(f"num_return_sequences is {config.num_return_sequences}; this server writes one text.")


def _check_tools(tools: Any) -> None:
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RequestError(f"tools is {tools!r}; give a list of JSON objects.")


def _check_bias(body: dict[str, Any], text_field: str, vocab_size: int) -> None:
    """`logit_bias` as transformers reads it: not empty, with floats, and only for chats."""
    bias = body.pop("logit_bias", {})
    if bias == {}:
        return
    if text_field != "messages":
        raise RequestError("logit_bias has an effect in /v1/chat/completions only; leave it out.")
    if not isinstance(bias, dict):
        raise RequestError(f"logit_bias is {bias!r}; give a JSON object such as {{'17': -100}}.")
    for token, value in bias.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 10 and int(token) < vocab_size):
            raise RequestError(f"logit_bias has {token!r}; give the id of a token, 0 to {vocab_size - 1}.")
        _check_number(f"logit_bias of {token}", value, -_BIAS, _BIAS)
    body["logit_bias"] = {token: float(value) for token, value in bias.items()}


def _check_messages(name: str, messages: Any) -> None:
    is_list = isinstance(messages, list) and messages
    if not is_list or not all(isinstance(message, dict) for message in messages):
        raise RequestError(f"{name} is not a list of messages such as {{'role': 'user', 'content': 'Hello'}}.")
    if name == "input" and "role" not in messages[0]:  # the parts of one message
        messages = [{"role": "user", "content": messages}]
    for message in messages:
        if name == "input" and "role" not in message and message.get("type") in _ITEMS:
            _check_item(message)
        else:
            _check_message(name, message)


def _check_message(name: str, message: dict[str, Any]) -> None:
    if "role" not in message:
        raise RequestError(f"A message in {name} has no role; give 'system', 'user' or 'assistant'.")
    if not isinstance(message["role"], str):
        raise RequestError(f"A role in {name} is {message['role']!r}; give 'system', 'user' or 'assistant'.")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(map(_is_call, calls))):
        raise RequestError(f"tool_calls is {calls!r}; give a list of functions, with a name and arguments in JSON.")
    if (calls is None or message.get("content")) and not _is_text(message.get("content")):
        raise RequestError("This model reads text only: content must be a text, or a list of text parts.")


def _check_item(item: dict[str, Any]) -> None:
    """A thought or a call of a function, from an earlier answer."""
    kind = item["type"]
    for field in _ITEMS[kind]:
        if not isinstance(item.get(field), str):
            raise RequestError(f"{field} of a {kind} is {item.get(field)!r}; give a text.")
    if kind == "function_call" and not _is_call(item):
        raise RequestError(f"arguments of a function_call is {item.get('arguments')!r}; give an object in JSON.")
    if kind == "reasoning" and item.get("content") and not _is_text(item["content"]):
        raise RequestError("content of a reasoning is not a list of text parts.")


def _is_call(call: Any) -> bool:
    """Whether the arguments of a call are an object, or one in JSON."""
    function = (call.get("function") or call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return False
    arguments = function.get("arguments")
    try:
        return isinstance(json.loads(arguments) if isinstance(arguments, str) else arguments, dict)
    except (ValueError, RecursionError):
        return False


def _is_text(content: Any) -> bool:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return bool(parts) and all(
        isinstance(part, dict) and part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str)
        for part in parts
    )


def fit_context(settings: GenerationConfig, length: int, context: int) -> None:
    """Limit `max_new_tokens` to what follows `length` tokens in the context; sets it where the request does not.

    Raises:
        RequestError: there is no text, or it fills the context.
    """
    if length == 0:
        raise RequestError("The text of the request is empty; give a word.")
    room = context - length
    if room <= 0:
        message = f"The request has {length} tokens, and the model reads at most {context - 1}; shorten it."
        raise RequestError(message, code="context_length_exceeded")
    settings.max_new_tokens = min(settings.max_new_tokens or room, room)
