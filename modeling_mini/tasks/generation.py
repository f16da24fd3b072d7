"""Continue a text with a causal model."""

import logging
import math

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError


logger = logging.getLogger(__name__)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, context: int) -> torch.Tensor:
    """Ids `[1, T]` of a prompt, encoded like the start of a training document: bos, if there is one, and the text.

    Raises:
        UserError: the prompt has no tokens, or fills the context of the model.
    """
    prefix = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = prefix + tokenizer(prompt, add_special_tokens=False).input_ids
    if not ids:
        raise UserError("The prompt is empty, and the tokenizer has no bos token to start from; give a word.")
    if len(ids) >= context:
        raise UserError(f"The prompt has {len(ids)} tokens, and the model reads at most {context}; shorten it.")
    if (unknown := ids.count(tokenizer.unk_token_id)) > 0:
        logger.warning("%d tokens of the prompt are unknown to the tokenizer and will be missing.", unknown)
    return torch.tensor([ids])


def continue_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int = 50,
) -> str:
    """The prompt and a continuation, sampled at `temperature` from the `top_k` likeliest tokens; greedy at 0.

    Raises:
        UserError: the model is bidirectional, a setting is out of range, or the prompt fills the context of the model.
    """
    if not getattr(model.config, "is_causal", True):
        raise UserError("This model has is_causal=False and does not continue text; choose a causal checkpoint.")
    for name, value, minimum in (
        ("max_new_tokens", max_new_tokens, 1),
        ("top_k", top_k, 1),
        ("temperature", temperature, 0),
    ):
        if not minimum <= value < math.inf:
            raise UserError(f"--{name} is {value}; give at least {minimum}.")
    context = model.config.max_position_embeddings
    ids = encode_prompt(tokenizer, prompt, context).to(model.device)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": top_k} if temperature > 0 else {"do_sample": False}
    )
    settings = GenerationConfig(
        max_new_tokens=min(max_new_tokens, context - ids.shape[1]),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **sampling,
    )
    model.eval()
    with torch.no_grad():
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return tokenizer.decode(tokens[0], skip_special_tokens=True)
