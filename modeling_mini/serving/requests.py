"""Refuse requests that transformers' server would answer with "Internal Server Error", or with something else."""

import json
from collections.abc import Sequence
from math import inf
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from ..errors import one_line


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
# transformers' server ignores these fields, so any value but these would get a wrong answer.
_IGNORED = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
}


def check_request(
    body: dict[str, Any], text_field: str, names: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check the fields of a request, and write the first of `names` as its model.

    Args:
        text_field: the field of this endpoint that holds what the model reads: `messages`, `input` or `prompt`.

    Raises:
        RequestError: names the field, what it holds and what is allowed.
    """
    if body.get("model") not in (None, *names):
        message = f"There is no model {body['model']!r} here; ask for {names[0]!r}."
        raise RequestError(message, 404, "model_not_found")
    body["model"] = names[0]
    for name, values in _IGNORED.items():
        if body.get(name) not in values:
            raise RequestError(f"{name} is {body[name]!r}, which this server cannot do; give {values[1]!r}.")
    for name, (lowest, highest) in _RANGES.items():
        _check_number(name, body.get(name), lowest, highest)
    _check_stop(body.get("stop"))
    _check_settings(body.get("generation_config"))
    if text_field not in body:
        raise RequestError(f"The request has no {text_field}.")
    if text_field == "prompt":
        _check_prompt(body)
        return
    if not isinstance(body[text_field], str) or text_field == "messages":
        _check_messages(text_field, body[text_field])
    if not tokenizer.chat_template:
        raise RequestError("This model has no chat template; send a prompt to /v1/completions instead.")


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
        GenerationConfig(**json.loads(settings))
    except Exception as error:  # a field raises whatever its check raises
        raise RequestError(f"generation_config is not one of transformers in JSON: {one_line(error)}") from error


def _check_messages(name: str, messages: Any) -> None:
    is_list = isinstance(messages, list) and messages
    if not is_list or not all(isinstance(message, dict) for message in messages):
        raise RequestError(f"{name} is not a list of messages such as {{'role': 'user', 'content': 'Hello'}}.")
    for message in messages:
        is_tool = "tool_calls" in message or "type" in message  # of tools, and of earlier answers in /v1/responses
        if "role" not in message and not is_tool:
            raise RequestError(f"A message in {name} has no role; give 'system', 'user' or 'assistant'.")
        if not is_tool and not _is_text(message.get("content")):
            raise RequestError("This model reads text only: content must be a text, or a list of text parts.")


def _is_text(content: Any) -> bool:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return all(isinstance(part, dict) and "type" in part and isinstance(part.get("text"), str) for part in parts)


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
