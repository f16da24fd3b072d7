# Copyright 2026 The modeling_mini authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The Mini Transformer language model: token embedding + sinusoidal positions -> Transformer layers -> heads.

This file is copied into every saved checkpoint, so it imports only torch, transformers and the config beside it.

Shapes:
    B batch, T tokens of this call, P tokens in the cache, S = P + T keys, D hidden_size, H heads, K = D / H head size,
    F intermediate_size, V vocab_size, L labels.
"""

import copy
import functools
import inspect
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.dynamic_module_utils import custom_object_save
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from .configuration_mini import MiniConfig


IGNORED_LABEL = -100  # the label that every transformers loss skips

# Most logits that the training loss holds at a time: 2^23 are 32 MiB in float32.
LOGITS_PER_CHUNK = 2**23

# What transformers calls the keys and values of earlier tokens: `cache` since 5.24, `past_key_values` before.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def takes_cache(forward: Callable) -> Callable:
    """Let a forward written with `past_key_values` be called, and inspected, by the name that transformers uses.

    The old name stays, with the warning that transformers itself gives. The forwards are not written with `cache`:
    before 5.24, that is what continuous batching passes through them to its attention.
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


def sinusoidal_positions(position_ids: torch.Tensor, hidden_size: int) -> torch.Tensor:
    """Position encoding of Vaswani et al. 2017 (section 3.5), `[..., T]` -> `[..., T, D]` in float32:

        PE(pos, 2i) = sin(pos / 10000^(2i/D)),  PE(pos, 2i+1) = cos(pos / 10000^(2i/D))

    Computed from the positions at every call: a table in a buffer would be left uninitialised by `from_pretrained`,
    rounded by a bfloat16 load, and limited in length. Angles are formed in float64, because position 100,000 in
    float32 is already off by 4e-3 radians; where the device has no float64 (Apple MPS) they stay in float32.
    """
    dtype = torch.float32 if position_ids.device.type == "mps" else torch.float64
    even = torch.arange(0, hidden_size, 2, device=position_ids.device, dtype=dtype)
    frequencies = torch.exp(even * (-math.log(10000.0) / hidden_size))  # [D/2]
    angles = position_ids.to(dtype).unsqueeze(-1) * frequencies  # [..., T, D/2]
    angles = torch.remainder(angles, 2 * math.pi).float()
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # [..., T, D/2, 2] -> [..., T, D]


def positions_of(attention_mask: torch.Tensor | None, past_length, embeds: torch.Tensor) -> torch.Tensor:
    """Positions `[B or 1, T]` of tokens that came without any: counted from the first token that is not padding."""
    length = embeds.shape[1]
    if attention_mask is not None and attention_mask.ndim == 2:
        positions = attention_mask.long().cumsum(-1) - 1  # [B, S]
        return positions.clamp(min=0)[:, -length:]
    return (torch.arange(length, device=embeds.device) + past_length).unsqueeze(0)


def same_document_mask(
    position_ids: torch.Tensor, attention_mask: torch.Tensor | None, batch_size: int
) -> Callable | None:
    """Mask function that keeps packed documents apart, or None where no row holds more than one document.

    A document starts at each position 0 but the first of its row. transformers finds this by itself only for causal
    models without a mask and without a cache; here it holds for every call. Under tracing the answer may not depend on
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


def loss_divisor(targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    """The number of targets, labels that are not -100; 1 where there is none, so that the mean is 0 and not NaN.

    `num_items_in_batch` is that number for all batches of an update, where gradients are accumulated.
    """
    if num_items_in_batch is None:
        num_items_in_batch = (targets != IGNORED_LABEL).sum()
    return num_items_in_batch.clamp(min=1) if torch.is_tensor(num_items_in_batch) else max(num_items_in_batch, 1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q K^T / sqrt(K)) V (Vaswani et al. 2017, equation 1), with the softmax in float32."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling  # [B, H, T, S]
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    output = torch.matmul(weights, value)  # [B, H, T, K]
    return output.transpose(1, 2).contiguous(), weights


class MiniAttention(nn.Module):
    """Multi-head self-attention through the attention interface (eager, sdpa, flex, flash, or a server's own)."""

    def __init__(self, config: MiniConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = config.is_causal
        # Three projections and no fused one: tensor parallel plans and LoRA address them by name.
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj.closes_residual = True

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        heads_shape = (*input_shape, -1, self.head_dim)  # -1: under tensor parallelism a rank holds some of the heads
        query = self.q_proj(hidden_states).view(heads_shape).transpose(1, 2)  # [B, T, D] -> [B, H, T, K]
        key = self.k_proj(hidden_states).view(heads_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads_shape).transpose(1, 2)
        if past_key_values is not None:
            # The cache of continuous batching leaves in `kwargs` what its attention needs.
            key, value = past_key_values.update(key, value, self.layer_idx, kwargs=kwargs)  # [B, H, S, K]

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        output = output.reshape(*input_shape, -1).contiguous()  # [B, T, H, K] -> [B, T, D]
        return self.o_proj(output), weights


class MiniMLP(nn.Module):
    """Position-wise feed-forward layer (Vaswani et al. 2017, equation 2)."""

    def __init__(self, config: MiniConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.down_proj.closes_residual = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.dropout(self.act_fn(self.up_proj(hidden_states))))  # [B, T, D] -> F -> D


class MiniDecoderLayer(GradientCheckpointingLayer):
    """Exactly `torch.nn.TransformerEncoderLayer`, `norm_first` False (post-norm) or True (pre-norm)."""

    def __init__(self, config: MiniConfig, layer_idx: int):
        super().__init__()
        self.norm_first = config.norm_first
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = MiniAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MiniMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    @takes_cache
    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        def attend(x):
            return self.dropout(self.self_attn(x, attention_mask, past_key_values, **kwargs)[0])

        def transform(x):
            return self.dropout(self.mlp(x))

        if self.norm_first:
            hidden_states = hidden_states + attend(self.input_layernorm(hidden_states))
            return hidden_states + transform(self.post_attention_layernorm(hidden_states))
        hidden_states = self.input_layernorm(hidden_states + attend(hidden_states))
        return self.post_attention_layernorm(hidden_states + transform(hidden_states))


def nll_and_gradient(hidden, weight, bias, labels, with_gradient):
    """Summed negative log-likelihood in nats, and its gradient with respect to the logits `[rows, V]` or None.

    The gradient, softmax minus one-hot, is formed in the place of the log-probabilities.
    """
    is_learnt = (labels != IGNORED_LABEL).unsqueeze(-1)  # [rows, 1]
    targets = labels.clamp(min=0).unsqueeze(-1)
    log_probabilities = nn.functional.linear(hidden, weight, bias).float().log_softmax(-1)  # [rows, V]
    nll = -log_probabilities.gather(-1, targets).masked_fill(~is_learnt, 0).sum()
    if not with_gradient:
        return nll, None
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(-1, targets, gradient.new_full(targets.shape, -1))
    return nll, gradient.mul_(is_learnt).to(hidden.dtype)


class SummedNLL(torch.autograd.Function):
    """Negative log-likelihood of labels under a linear layer, summed in nats, some rows at a time.

    The gradient of a sum with respect to logits needs nothing but the logits: it is brought to hidden states, weight
    and bias at once, in the forward pass. So the backward pass finds gradients of the size of its inputs, and logits
    are neither kept nor computed again (as Liger Kernel, Hsu et al. 2024).
    """

    @staticmethod
    def forward(ctx, hidden_states, weight, bias, labels, rows, with_gradients):
        """`hidden_states` `[N, D]`, `weight` `[V, D]`, `bias` `[V]` or None, `labels` `[N]`, -100 where to skip.

        Products are formed in the precision of `hidden_states`, and summed over chunks in float32.
        """
        total = torch.zeros((), dtype=torch.float32, device=hidden_states.device)
        needed = [with_gradients and is_needed for is_needed in ctx.needs_input_grad[:3]]
        chunks, weight_gradient, bias_gradient = [], None, None
        ctx.dtypes = (hidden_states.dtype, weight.dtype, weight.dtype)
        weight, bias = weight.to(hidden_states.dtype), None if bias is None else bias.to(hidden_states.dtype)
        for hidden, targets in zip(hidden_states.split(rows), labels.split(rows), strict=True):
            nll, gradient = nll_and_gradient(hidden, weight, bias, targets, any(needed))
            total += nll
            if needed[0]:
                chunks.append(gradient @ weight)
            if needed[1]:
                if weight_gradient is None:
                    weight_gradient = (gradient.mT @ hidden).float()
                elif hidden.dtype == torch.float32:
                    weight_gradient.addmm_(gradient.mT, hidden)
                else:
                    weight_gradient += gradient.mT @ hidden
            if needed[2]:
                bias_gradient = gradient.float().sum(0) + (0 if bias_gradient is None else bias_gradient)
            del gradient  # or it would be there while the next logits are computed
        ctx.save_for_backward(torch.cat(chunks) if chunks else None, weight_gradient, bias_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, output_gradient):
        gradients = [
            None if gradient is None else (gradient * output_gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None


class MiniLMHead(nn.Linear):
    """Projection to the vocabulary, which can also return the loss without ever holding all logits.

    `head(hidden_states)` gives logits `[..., T, V]`. `head(hidden_states, labels)` gives the summed negative
    log-likelihood in nats over the labels that are not -100: at most `LOGITS_PER_CHUNK` logits exist at a time. The
    chunks live in this module, so that FSDP, ZeRO and offloading, which gather a module's weight around its forward,
    see a plain call.
    """

    def forward(self, hidden_states: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        if labels is None:
            return super().forward(hidden_states)
        hidden_states = hidden_states.reshape(-1, self.in_features)  # [B*T, D]
        labels = labels.reshape(-1).to(hidden_states.device)  # [B*T]
        if not is_tracing(labels):  # logits are the costliest part of a small model, and most of BERT's have no label
            learnt = labels != IGNORED_LABEL
            hidden_states, labels = hidden_states[learnt], labels[learnt]
        rows = max(1, LOGITS_PER_CHUNK // self.out_features)
        device = hidden_states.device.type
        if torch.is_autocast_enabled(device):
            hidden_states = hidden_states.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            return SummedNLL.apply(hidden_states, self.weight, self.bias, labels, rows, torch.is_grad_enabled())


class MiniPreTrainedModel(PreTrainedModel):
    """Base of every Mini model: the capabilities, the initial weights, and the code in every checkpoint."""

    config: MiniConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MiniDecoderLayer"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": MiniDecoderLayer, "attentions": MiniAttention}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("torch."):
            # FSDP2 makes the model an instance of a class of torch's, whose code transformers would copy into a
            # checkpoint. Ours comes there with the config.
            cls._auto_class = None

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, **kwargs):
        """As in every model of transformers, and the code beside it; of a checkpoint of the Trainer, above it as well.

        With `push_to_hub=True` the Trainer uploads the folder above its checkpoints while it trains; it puts the
        config and the weights of the last checkpoint there, and the repository would not open without the code.
        """
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        folder = Path(save_directory).absolute()
        is_checkpoint = re.fullmatch(r"checkpoint-\d+", folder.name)
        if is_checkpoint and self.should_save_on_this_rank(is_main_process):
            custom_object_save(self.config, folder.parent)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initial weights, drawn from normal distributions around zero; biases start at 0, LayerNorm weights at 1.

        | weights | standard deviation | why |
        |---|---|---|
        | embedding | D^-0.5 | times sqrt(D) in the forward: tokens and sinusoids meet at like size |
        | linear | initializer_range | |
        | o_proj, down_proj | initializer_range / sqrt(2 * layers) | keeps the scale of the sum with depth (GPT-2) |
        """
        super()._init_weights(module)
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.hidden_size**-0.5)
        elif getattr(module, "closes_residual", False):
            # Known by a mark on the module itself: modules without weights of their own, such as a layer, do not
            # come by here.
            init.normal_(
                module.weight, std=self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
            )


class MiniModel(MiniPreTrainedModel):
    """The trunk: embedding x sqrt(D) + sinusoidal positions -> dropout -> layers -> LayerNorm (if pre-norm)."""

    def __init__(self, config: MiniConfig):
        super().__init__(config)
        # No padding_idx: it would freeze that row at zero gradient.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList([MiniDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        # A post-norm layer ends in its own LayerNorm.
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.norm_first else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    @takes_cache
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Hidden states `[B, T, D]` of `input_ids` `[B, T]` or of `inputs_embeds` `[B, T, D]`.

        `inputs_embeds` are rows of the embedding table, neither scaled nor with positions. `attention_mask` is
        `[B, S]` with 0 at padding, or a ready 4-D mask. `position_ids` `[B, T]` default to counting from the first
        token that is not padding; where they start again at 0, a new document begins, and documents do not attend to
        each other. Raises `ValueError` unless exactly one kind of input is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of `input_ids` and `inputs_embeds`.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if not self.config.is_causal:
            use_cache = False  # each token would have to be encoded again once the next one is known
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)

        document_mask = None
        if position_ids is None:
            past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = positions_of(attention_mask, past_length, inputs_embeds)
        elif _holds_whole_rows(inputs_embeds, attention_mask, past_key_values):
            document_mask = self._document_mask(position_ids, attention_mask, inputs_embeds, **kwargs)
        mask = create_causal_mask(  # bidirectional where config.is_causal is False
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            and_mask_function=document_mask,
            **{CACHE_NAME: past_key_values},
        )

        hidden_states = inputs_embeds
        # Pipeline parallelism feeds a later stage its hidden states as `inputs_embeds` and puts placeholders in the
        # place of the layers before it: only the first stage, which holds a real first layer, adds positions.
        if hasattr(self.layers[0], "self_attn"):
            positions = sinusoidal_positions(position_ids, self.config.hidden_size)
            hidden_states = hidden_states * self.config.hidden_size**0.5 + positions.to(hidden_states.dtype)
            hidden_states = self.dropout(hidden_states)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_ids=position_ids,
                use_cache=use_cache,
                **{CACHE_NAME: past_key_values},
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE_NAME: past_key_values})

    def _document_mask(
        self, position_ids, attention_mask, inputs_embeds, cu_seq_lens_q=None, **kwargs
    ) -> Callable | None:
        """Keeps packed documents apart in the backends whose masks transformers builds.

        A server's own backend separates its requests itself. Flash attention takes no such mask; it looks at
        `cu_seq_lens_*`, or in a batch of one row at `position_ids`: raises `ValueError` where neither would do.
        """
        backend = self.config._attn_implementation
        if backend not in ("eager", "sdpa", "flex_attention") and "flash" not in backend:
            return None
        document_mask = same_document_mask(position_ids, attention_mask, inputs_embeds.shape[0])
        if "flash" not in backend:
            return document_mask
        rows = inputs_embeds.shape[0]
        if document_mask is not None and rows > 1 and cu_seq_lens_q is None and not is_tracing(position_ids):
            raise ValueError(
                f"{backend} keeps packed documents apart by their positions only in a batch of one row, and this one "
                f"has {rows}; choose attn_implementation='sdpa', pack all into one row, or pass `cu_seq_lens_q`."
            )
        return None


def _holds_whole_rows(inputs_embeds, attention_mask, past_key_values) -> bool:
    """Whether a call has the form of packed rows: several tokens, one flag per token in a mask, nothing in the cache.

    A static cache is for generation, where rows hold one document; its length is not known when traced. That of
    continuous batching is no `Cache`, and comes with a mask of its own.
    """
    is_first = past_key_values is None or (
        isinstance(past_key_values, Cache)
        and not past_key_values.is_compileable
        and past_key_values.get_seq_length() == 0
    )
    is_aligned = attention_mask is None or attention_mask.shape == inputs_embeds.shape[:2]
    return inputs_embeds.shape[1] > 1 and is_first and is_aligned


class MiniLanguageModel(MiniPreTrainedModel):
    """What the causal and the masked language model share: trunk, head and a loss that never holds T x V logits."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: MiniConfig):
        super().__init__(config)
        self.model = MiniModel(config)
        self.lm_head = MiniLMHead(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    def _chunked_loss(self, hidden_states, targets, skip_logits=None, num_items_in_batch=None, **kwargs):
        """Mean loss in nats over `targets` `[B, T]`, already aligned with `hidden_states` `[B, T, D]`.

        Returns None where logits are wanted, or where the head is not ours (LoRA, quantized, replaced by a resize) or
        is split over devices, whose hook expects logits: then the caller computes the loss from the logits.
        Under gradient accumulation `num_items_in_batch` is the number of targets of the whole update.
        """
        skip_logits = self.training if skip_logits is None else skip_logits
        if targets is None or not skip_logits or not isinstance(self.lm_head, MiniLMHead) or (self.tp_size or 1) > 1:
            return None
        loss = self.lm_head(hidden_states, targets)
        count = loss_divisor(targets, num_items_in_batch)
        return loss / (count.to(loss.device) if torch.is_tensor(count) else count)


class MiniForCausalLM(MiniLanguageModel, GenerationMixin):
    """Next-token prediction, and `generate`."""

    @takes_cache
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Logits `[B, T, V]` for the next token, and the mean loss in nats if `labels` `[B, T]` are given.

        Labels equal the inputs (the shift happens here), -100 where there is nothing to learn; already shifted ones go
        in as `shift_labels`. While training with labels, `logits` is None unless `skip_logits=False`: they would be
        the largest tensor of the step. `logits_to_keep` limits the logits to the last so many positions, or to a 1-D
        tensor of indices.
        """
        outputs = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache=use_cache, **kwargs
        )
        hidden_states = outputs.last_hidden_state
        targets = kwargs.get("shift_labels")
        if targets is None and labels is not None:
            targets = nn.functional.pad(labels[..., 1:], (0, 1), value=IGNORED_LABEL)

        logits, loss = None, self._chunked_loss(hidden_states, targets, **kwargs)
        if loss is None:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, kept, :])
            if targets is not None:
                kwargs["num_items_in_batch"] = loss_divisor(targets, kwargs.get("num_items_in_batch"))
                loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
        )

    # transformers looks for `inputs_embeds` in this signature before it generates from them.
    def prepare_inputs_for_generation(self, *args, inputs_embeds=None, **kwargs):
        if not self.config.is_causal:
            raise ValueError(
                "This model was built with `is_causal=False`: it sees whole texts and has not learnt to continue one. "
                "Generate with a causal checkpoint, or use MiniForMaskedLM to fill in masked words."
            )
        return super().prepare_inputs_for_generation(*args, inputs_embeds=inputs_embeds, **kwargs)


class MiniForMaskedLM(MiniLanguageModel):
    """Prediction of masked tokens from both sides (BERT). Always bidirectional, whatever the config says."""

    def __init__(self, config: MiniConfig):
        config = copy.deepcopy(config)  # the caller may build a causal model from the same config
        config.is_causal = False
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Logits `[B, T, V]` for each position, and the mean loss in nats over the `labels` `[B, T]` but -100.

        While training with labels, `logits` is None unless `skip_logits=False`.
        """
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds, **kwargs)
        logits, loss = None, self._chunked_loss(outputs.last_hidden_state, labels, **kwargs)
        if loss is None:
            logits = self.lm_head(outputs.last_hidden_state)
            if labels is not None:
                kwargs["num_items_in_batch"] = loss_divisor(labels, kwargs.get("num_items_in_batch"))
                loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MiniForSequenceClassification(MiniPreTrainedModel):
    """One label, several labels or one number for a whole sequence, by `config.problem_type`."""

    # The loss is a mean over sequences, for which the Trainer's count of target tokens is the wrong divisor.
    accepts_loss_kwargs = False

    def __init__(self, config: MiniConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = MiniModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    @takes_cache
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Logits `[B, L]` read from the pooled hidden states, and the loss if `labels` (`[B]` or `[B, L]`) are given.

        Padding is what `attention_mask` says; without a mask, tokens equal to `pad_token_id`.
        """
        outputs = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, **kwargs)
        pooled = self._pool(outputs.last_hidden_state, self._token_mask(input_ids, attention_mask))
        logits = self.score(self.dropout(pooled))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _token_mask(self, input_ids, attention_mask):
        """`[B, T]`, True at tokens, or None where nothing tells padding from tokens."""
        if attention_mask is not None and attention_mask.ndim == 2:
            return attention_mask.bool()
        if input_ids is not None and self.config.pad_token_id is not None:
            return input_ids != self.config.pad_token_id
        return None

    def _pool(self, hidden_states, token_mask):
        """`[B, T, D]` -> `[B, D]`: the mean over the tokens, or the last token."""
        if token_mask is None:
            token_mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        token_mask = token_mask[:, -hidden_states.shape[1] :].to(hidden_states.device)
        if self.config.classifier_pooling == "last":
            indices = torch.arange(token_mask.shape[1], device=token_mask.device)
            last = (indices * token_mask).argmax(-1)  # [B]
            return hidden_states[torch.arange(last.shape[0], device=last.device), last]
        weights = token_mask.unsqueeze(-1).to(hidden_states.dtype)  # [B, T, 1]
        return (hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1)


class MiniForTokenClassification(MiniPreTrainedModel):
    """A label for each token."""

    def __init__(self, config: MiniConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = MiniModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @takes_cache
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Logits `[B, T, L]`, and the mean loss over the `labels` `[B, T]` that are not -100."""
        outputs = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, **kwargs)
        logits = self.score(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            kwargs["num_items_in_batch"] = loss_divisor(labels, kwargs.get("num_items_in_batch"))
            loss = self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MiniForQuestionAnswering(MiniPreTrainedModel):
    """The start and the end of the answer's span in a text (extractive question answering, as in SQuAD)."""

    # The loss is a mean over sequences: see MiniForSequenceClassification.
    accepts_loss_kwargs = False

    def __init__(self, config: MiniConfig):
        super().__init__(config)
        self.model = MiniModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @takes_cache
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuestionAnsweringModelOutput:
        """Start and end logits `[B, T]` each, and the mean of both losses if both positions `[B]` are given.

        Positions outside the sequence are ignored.
        """
        outputs = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, **kwargs)
        logits = self.qa_outputs(self.dropout(outputs.last_hidden_state))  # [B, T, 2]
        start_logits, end_logits = (part.squeeze(-1).contiguous() for part in logits.split(1, dim=-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions, **kwargs)
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


MiniModel.register_for_auto_class("AutoModel")
MiniForCausalLM.register_for_auto_class("AutoModelForCausalLM")
MiniForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
MiniForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
MiniForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
MiniForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")

__all__ = [
    "MiniForCausalLM",
    "MiniForMaskedLM",
    "MiniForQuestionAnswering",
    "MiniForSequenceClassification",
    "MiniForTokenClassification",
    "MiniModel",
    "MiniPreTrainedModel",
]
