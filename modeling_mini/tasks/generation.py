"""Write a text with a causal model: continue a prompt, or write the target of a source."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    set_seed,
)
from transformers.generation import BaseStreamer

from ..decoding import CONTINUATION, DecodingArguments
from ..errors import UserError


logger = logging.getLogger(__name__)

_PROBE = "The Cat\n  sat."
_FIRST_LETTERS = "taoswcTAS1("  # one of them is in a token after a space, if the tokenizer has such tokens


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, context: int, warns: bool = True) -> torch.Tensor:
    """Ids `[1, T]` of a prompt, encoded like the start of a training document: bos, if there is one, and the text.

    A space at its end is left out where the next token begins with it (`heal`). `warns`: of unknown tokens.

    Raises:
        UserError: the prompt has no tokens, or fills the context of the model.
    """
    prefix = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = prefix + heal(tokenizer, prompt)[0]
    if not ids:
        raise UserError("The prompt is empty, and the tokenizer has no bos token to start from; give a word.")
    if len(ids) >= context:
        raise UserError(f"The prompt has {len(ids)} tokens, and the model reads at most {context}; shorten it.")
    if warns and (unknown := ids.count(tokenizer.unk_token_id)) > 0:
        logger.warning("%d tokens of the prompt are unknown to the tokenizer and will be missing.", unknown)
    return torch.tensor([ids])


def warn_about_lost_text(tokenizer: PreTrainedTokenizerBase, cost: str = "") -> None:
    """Warn of a tokenizer that loses capitals, line breaks or spaces; `cost` continues the sentence.

    A tokenizer without one of the letters is not examined: unknown tokens have a warning of their own.
    """
    ids = tokenizer(_PROBE, add_special_tokens=False).input_ids
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()
    if text != _PROBE and tokenizer.unk_token_id not in ids:
        logger.warning("The tokenizer turns %r into %r: the model cannot write what is lost%s.", _PROBE, text, cost)


def heal(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[list[int], list[int]]:
    """The ids of a prompt without special tokens, and the ids that the first new token is chosen from ([]: any).

    Byte-level BPE writes a space into the token of the word after it: "The cat" is "The", " cat". The tokens "The",
    " " of the prompt "The " never occur before a word in training. So the model reads "The", and the first new token
    must begin with a space ("token healing"). A prompt that does not end in white space needs no healing, nor does a
    tokenizer that does not join spaces and words.
    """
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    if not prompt[-1:].isspace() or not tokenizer.is_fast:
        return ids, []
    continued = [
        tokenizer(prompt + letter, add_special_tokens=False, return_offsets_mapping=True) for letter in _FIRST_LETTERS
    ]
    encoded = min(continued, key=lambda encoded: encoded["offset_mapping"][-1][0])
    *healed, last = encoded["input_ids"]
    if not healed and tokenizer.bos_token_id is None:
        return ids, []
    if encoded["offset_mapping"][-1][0] >= len(prompt):
        return healed, []
    space = tokenizer.convert_ids_to_tokens(last)[:-1]  # as the tokenizer spells it
    return healed, [token for text, token in tokenizer.get_vocab().items() if text.startswith(space)]


class FirstToken(LogitsProcessor):
    """Allows only some tokens at the first step: after `length` tokens."""

    def __init__(self, length: int, allowed: list[int]):
        self.length, self.allowed = length, allowed

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if input_ids.shape[1] > self.length:
            return scores
        only = torch.full_like(scores, -torch.inf)
        only[:, self.allowed] = scores[:, self.allowed]
        return only


class NoRepeatedNgrams(NoRepeatNGramLogitsProcessor):
    """transformers' processor for the tokens after the first `ignored` ones.

    The stock processor of a decoder-only model counts the source as well: a summary could not repeat a phrase of its
    document.
    """

    def __init__(self, ngram_size: int, ignored: int):
        super().__init__(ngram_size)
        self.ignored = ignored

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return super().__call__(input_ids[:, self.ignored :], scores)


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Mapping[str, torch.Tensor],
    decoding: DecodingArguments,
    ignored: int,
    *processors: LogitsProcessor,
    streamer: BaseStreamer | None = None,
) -> torch.Tensor:
    """Prompt and written tokens `[B, T]`, as `decoding` (with `max_new_tokens`) says.

    Args:
        inputs: `input_ids` and `attention_mask` `[B, T]`, padded on the left.
        ignored: number of first tokens at which repetition penalty and blocked n-grams do not look.
        processors: further rules for the next token.
        streamer: gets the prompt, and then each token as soon as it is written; for one text, without beams.
    """
    # Written out, because transformers takes what is None from the checkpoint's generation_config.json.
    sampling = {}
    if decoding.do_sample:
        sampling = {
            "temperature": decoding.temperature or 1.0,
            "top_k": decoding.top_k or 0,
            "top_p": decoding.top_p or 1.0,
        }
    settings = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=decoding.do_sample,
        num_beams=decoding.num_beams or 1,
        length_penalty=1.0 if decoding.length_penalty is None else decoding.length_penalty,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **sampling,
    )
    rules = LogitsProcessorList(processors)
    if (penalty := decoding.repetition_penalty or 1.0) != 1.0:
        rules.append(RepetitionPenaltyLogitsProcessor(float(penalty), prompt_ignore_length=ignored))
    if decoding.no_repeat_ngram_size:
        rules.append(NoRepeatedNgrams(decoding.no_repeat_ngram_size, ignored))
    with torch.no_grad():
        return model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            generation_config=settings,
            logits_processor=rules,
            streamer=streamer,
        )


def continue_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    streamer: BaseStreamer | None = None,
    warns: bool = True,
    **options: Any,
) -> str:
    """The prompt and a continuation.

    Args:
        streamer: as in `write`.
        warns: whether to warn of unknown tokens in the prompt, and of a text that ends where the context does.
        options: values of `DecodingArguments`. By default, 100 tokens are sampled at temperature 0.8 from the 50 most
            likely ones; a temperature of 0 takes the most likely token.

    Raises:
        UserError: the model is bidirectional, a setting is out of range, or the prompt fills the context of the model.
    """
    if not getattr(model.config, "is_causal", True):
        raise UserError("This model has is_causal=False and does not continue text; choose a causal checkpoint.")
    decoding = DecodingArguments(**options).completed(CONTINUATION)
    context = model.config.max_position_embeddings
    ids = encode_prompt(tokenizer, prompt, context, warns).to(model.device)
    length, wanted = ids.shape[1], decoding.max_new_tokens
    decoding.max_new_tokens = min(wanted, context - length)
    if decoding.seed is not None:
        set_seed(decoding.seed)
    model.eval()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    _, first_tokens = heal(tokenizer, prompt)
    rules = [FirstToken(length, first_tokens)] if first_tokens else []
    tokens = write(model, tokenizer, inputs, decoding, 0, *rules, streamer=streamer)
    if warns and length + wanted > context == tokens.shape[1] and tokens[0, -1] != tokenizer.eos_token_id:
        logger.warning(
            "The text ends after %d of %d new tokens (--max_new_tokens): the model reads at most %d tokens, and the "
            "prompt has %d.",
            context - length,
            wanted,
            context,
            length,
        )
    return tokenizer.decode(tokens[0], skip_special_tokens=True)
