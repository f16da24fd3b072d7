"""Fit a conversation into the context of a model, for the chat in the terminal and the page of `demo`."""

from jinja2 import TemplateError
from transformers import BatchEncoding, PreTrainedTokenizerBase

from ..errors import UserError


_SHARE_OF_ANSWER = 4  # an answer gets at least 1 / 4 of the context, if it may be that long


class MessageTooLong(UserError):
    """The last message alone fills the context."""


def fit_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    context: int,
    max_new_tokens: int,
    system: list[dict[str, str]],
) -> tuple[BatchEncoding, list[dict[str, str]]]:
    """The encoded conversation, and its messages without the oldest turns that leave too little room for an answer.

    Args:
        messages: what user and assistant wrote; unchanged. The last one is always kept.
        system: a first message that is always kept, or none.

    Raises:
        UserError: the chat template refuses the messages, or the last one alone fills the context (`MessageTooLong`).
    """
    room = min(max_new_tokens, context // _SHARE_OF_ANSWER)
    kept = messages
    while (inputs := _encode(tokenizer, system + kept))["input_ids"].shape[1] > context - room and len(kept) > 1:
        kept = kept[1:]
        while len(kept) > 1 and kept[0]["role"] != "user":  # an answer whose question is left out
            kept = kept[1:]
    length = inputs["input_ids"].shape[1]
    if length >= context:
        raise MessageTooLong(
            f"The message has {length} tokens, and the model reads at most {context - 1}; shorten it."
        )
    return inputs, kept


def _encode(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> BatchEncoding:
    try:
        return tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            tokenizer_kwargs={"verbose": False},  # no warning about a conversation that is shortened
        )
    except TemplateError as error:
        raise UserError(f"The chat template refuses the conversation: {error}.") from error
