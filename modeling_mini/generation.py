"""Text in, text out."""

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from .errors import UserError


def continue_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int = 50,
) -> str:
    """The prompt and a continuation, drawn at `temperature` from the `top_k` likeliest tokens; greedy at 0.

    Raises:
        UserError: a setting out of range, or a prompt that fills the context of the model.
    """
    for name, value, least in (
        ("max_new_tokens", max_new_tokens, 1),
        ("top_k", top_k, 1),
        ("temperature", temperature, 0),
    ):
        if value < least:
            raise UserError(f"--{name} is {value}; give at least {least}.")
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    used, context = inputs["input_ids"].shape[1], model.config.max_position_embeddings
    if used >= context:
        raise UserError(f"The prompt has {used} tokens, and the model reads at most {context}; shorten it.")
    drawn = (
        {"do_sample": True, "temperature": temperature, "top_k": top_k} if temperature > 0 else {"do_sample": False}
    )
    settings = GenerationConfig(
        max_new_tokens=min(max_new_tokens, context - used),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **drawn,
    )
    model.eval()
    with torch.no_grad():
        tokens = model.generate(**inputs, generation_config=settings)
    return tokenizer.decode(tokens[0], skip_special_tokens=True)
