# Copyright 2026 The modeling_mini authors.
# SPDX-License-Identifier: Apache-2.0
"""What attention needs to know of a batch: positions after padding, packed documents, and the name of the cache.

Saving a model copies every `*_mini.py` into the checkpoint, so this file imports only torch and transformers.

Shapes:
    B batch, T tokens of this call, P tokens in the cache, S = P + T keys, D hidden_size.
"""

import functools
import inspect
from collections.abc import Callable

import torch
from transformers import PretrainedConfig
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.import_utils import is_tracing


# transformers' name for the keys and values of earlier tokens: `cache` since 5.24, `past_key_values` before.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def takes_cache(forward: Callable) -> Callable:
    """Rename the parameter `past_key_values` of a forward to transformers' name for it, for callers and inspection.

    The old name still works, with transformers' own deprecation warning. The forwards themselves are not written with
    `cache`, because before 5.24 continuous batching passes something else of that name through them.
    """
    if CACHE_NAME == "past_key_values":
        return forward

    @functools.wraps(forward)
    def renamed(*args, **kwargs):
        if "cache" in kwargs:
            kwargs["past_key_values"] = kwargs.pop("cache")
        return forward(*args, **kwargs)

    signature = inspect.signature(forward)
    parameters = [p.replace(name="cache") if p.name == "past_key_values" else p for p in signature.parameters.values()]
    renamed.__signature__ = signature.replace(parameters=parameters)
    return deprecate_kwarg("past_key_values", version="5.40.0", new_name="cache")(renamed)


def default_positions(attention_mask: torch.Tensor | None, past_length, embeds: torch.Tensor) -> torch.Tensor:
    """Positions `[B or 1, T]` where the caller gives none: they count from the first token that is not padding."""
    length = embeds.shape[1]
    if attention_mask is not None and attention_mask.ndim == 2:
        positions = attention_mask.long().cumsum(-1) - 1  # [B, S]
        return positions.clamp(min=0)[:, -length:]
    return (torch.arange(length, device=embeds.device) + past_length).unsqueeze(0)


def document_mask(
    config: PretrainedConfig,
    position_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values,
    inputs_embeds: torch.Tensor,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs,
) -> Callable | None:
    """Mask function that keeps packed documents apart, or None where the call or the backend does not need one.

    A server's own backend separates its requests itself. Flash attention takes no mask function; it reads
    `cu_seq_lens_*`, or in a batch of one row `position_ids`. Raises `ValueError` where neither is possible.
    """
    backend = config._attn_implementation
    uses_mask, is_flash = backend in ("eager", "sdpa", "flex_attention"), "flash" in backend
    if not (uses_mask or is_flash) or not holds_packed_rows(inputs_embeds, attention_mask, past_key_values):
        return None
    rows = inputs_embeds.shape[0]
    mask_function = same_document_mask(position_ids, attention_mask, rows)
    if uses_mask:
        return mask_function
    if mask_function is not None and rows > 1 and cu_seq_lens_q is None and not is_tracing(position_ids):
        raise ValueError(
            f"{backend} separates packed documents by their positions only in a batch of one row, and this batch has "
            f"{rows} rows; choose attn_implementation='sdpa', pack all documents into one row, or pass "
            "`cu_seq_lens_q`."
        )
    return None


def holds_packed_rows(inputs_embeds, attention_mask, past_key_values) -> bool:
    """Whether a call has the form of packed rows: several tokens, one mask value per token, and an empty cache.

    A static cache is for generation, where each row holds one document, and its length is unknown while tracing. The
    cache of continuous batching is not a `Cache`, and comes with its own mask.
    """
    is_first = past_key_values is None or (
        isinstance(past_key_values, Cache)
        and not past_key_values.is_compileable
        and past_key_values.get_seq_length() == 0
    )
    is_aligned = attention_mask is None or attention_mask.shape == inputs_embeds.shape[:2]
    return inputs_embeds.shape[1] > 1 and is_first and is_aligned


def same_document_mask(
    position_ids: torch.Tensor, attention_mask: torch.Tensor | None, batch_size: int
) -> Callable | None:
    """Mask function that is true within a document, or None where no row holds more than one document.

    A document starts at each position 0 except the first of its row. transformers detects this only for causal models
    without a mask and without a cache; this function works for every call. While tracing, the result may not depend on
    the data, so the mask is always applied.
    """
    starts = (position_ids == 0).expand(batch_size, -1)  # [B, T]
    attended = torch.ones_like(starts) if attention_mask is None else attention_mask.to(starts.device).bool()
    starts = starts & attended & (attended.cumsum(-1) > 1)
    if not is_tracing(starts) and not starts.any():
        return None
    document = starts.cumsum(-1)

    def mask_function(batch_idx, head_idx, q_idx, kv_idx):
        return document[batch_idx, q_idx] == document[batch_idx, kv_idx]

    return mask_function
