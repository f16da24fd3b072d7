# Copyright 2026 The modeling_mini authors.
# SPDX-License-Identifier: Apache-2.0
"""The Mini Transformer language model: token embedding + sinusoidal positions -> Transformer layers -> heads.

Saving a model copies every `*_mini.py` into the checkpoint, so this file imports only torch, transformers and those.

Shapes:
    B batch, T tokens of this call, P tokens in the cache, S = P + T keys, D hidden_size, H heads, K = D / H head size,
    F intermediate_size, V vocab_size, L labels.
"""

import copy
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
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
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_mini import AUTO_CLASSES, MiniConfig
from .loss_mini import IGNORED_LABEL, MiniLMHead, loss_divisor
from .masking_mini import CACHE_NAME, default_positions, document_mask, takes_cache


def sinusoidal_positions(position_ids: torch.Tensor, hidden_size: int) -> torch.Tensor:
    """Position encoding of Vaswani et al. 2017 (section 3.5), `[..., T]` -> `[..., T, D]` in float32:

        PE(pos, 2i) = sin(pos / 10000^(2i/D)),  PE(pos, 2i+1) = cos(pos / 10000^(2i/D))

    Computed from the positions at every call: a table in a buffer would be left uninitialised by `from_pretrained`,
    rounded by a bfloat16 load, and limited in length. Angles are computed in float64, because in float32 the angle of
    position 100,000 is off by 4e-3 radians; a device without float64 (Apple MPS) uses float32.
    """
    dtype = torch.float32 if position_ids.device.type == "mps" else torch.float64
    even = torch.arange(0, hidden_size, 2, device=position_ids.device, dtype=dtype)
    frequencies = torch.exp(even * (-math.log(10000.0) / hidden_size))  # [D/2]
    angles = position_ids.to(dtype).unsqueeze(-1) * frequencies  # [..., T, D/2]
    angles = torch.remainder(angles, 2 * math.pi).float()
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # [..., T, D/2, 2] -> [..., T, D]


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
        # Three projections instead of a fused one: tensor parallel plans and LoRA address them by name.
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
        heads_shape = (*input_shape, -1, self.head_dim)  # -1: tensor parallelism gives each rank some of the heads
        query = self.q_proj(hidden_states).view(heads_shape).transpose(1, 2)  # [B, T, D] -> [B, H, T, K]
        key = self.k_proj(hidden_states).view(heads_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads_shape).transpose(1, 2)
        if past_key_values is not None:
            # The cache of continuous batching adds what its attention needs to `kwargs`.
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
            # By keyword: PEFT's adaption prompts replace the attention by a module that takes nothing else.
            inputs = {"hidden_states": x, "attention_mask": attention_mask, "past_key_values": past_key_values}
            return self.dropout(self.self_attn(**inputs, **kwargs)[0])

        def transform(x):
            return self.dropout(self.mlp(x))

        if self.norm_first:
            hidden_states = hidden_states + attend(self.input_layernorm(hidden_states))
            return hidden_states + transform(self.post_attention_layernorm(hidden_states))
        hidden_states = self.input_layernorm(hidden_states + attend(hidden_states))
        return self.post_attention_layernorm(hidden_states + transform(hidden_states))


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
        if cls.__name__ in AUTO_CLASSES:
            cls.register_for_auto_class(AUTO_CLASSES[cls.__name__])
        elif cls.__module__.startswith("torch."):
            # FSDP2 makes the model an instance of a class in torch, whose code transformers would copy into the
            # checkpoint. Our code is copied with the config.
            cls._auto_class = None

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, **kwargs):
        """Save config, weights and code; for a checkpoint of the Trainer, save the code in the folder above as well.

        With `push_to_hub=True` the Trainer uploads the folder above its checkpoints during training. It copies the
        config and the weights of the last checkpoint there, but not the code, without which the repository does not
        open.
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
        | embedding | D^-0.5 | times sqrt(D) in the forward, so tokens and sinusoids have the same scale |
        | linear | initializer_range | |
        | o_proj, down_proj | initializer_range / sqrt(2 * layers) | keeps the residual's scale with depth (GPT-2) |
        """
        super()._init_weights(module)
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.hidden_size**-0.5)
        elif getattr(module, "closes_residual", False):
            # The mark is on the linear module, because transformers calls this method only for modules with weights.
            std = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
            init.normal_(module.weight, std=std)


class MiniModel(MiniPreTrainedModel):
    """The trunk: embedding x sqrt(D) + sinusoidal positions -> dropout -> layers -> LayerNorm (if pre-norm)."""

    def __init__(self, config: MiniConfig):
        super().__init__(config)
        # Without padding_idx, which would give that row no gradient.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList([MiniDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        # A post-norm layer already ends in a LayerNorm.
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

        `inputs_embeds` are rows of the embedding table, before scaling and without positions. `attention_mask` is
        `[B, S]` with 0 at padding, or a complete 4-D mask. `position_ids` `[B, T]` count from the first token that is
        not padding by default; a position 0 starts a new document, and documents do not attend to each other. Raises
        `ValueError` unless exactly one kind of input is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of `input_ids` and `inputs_embeds`.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if not self.config.is_causal:
            use_cache = False  # each new token changes the keys and values of all others
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)

        mask_function = None
        if position_ids is None:
            past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = default_positions(attention_mask, past_length, inputs_embeds)
        else:
            mask_function = document_mask(
                self.config, position_ids, attention_mask, past_key_values, inputs_embeds, **kwargs
            )
        mask = create_causal_mask(  # bidirectional where config.is_causal is False
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            and_mask_function=mask_function,
            **{CACHE_NAME: past_key_values},
        )

        hidden_states = inputs_embeds
        # Pipeline parallelism passes hidden states to a later stage as `inputs_embeds` and replaces the layers before
        # it with placeholders. Only the first stage holds a real first layer, so only that stage adds positions.
        if hasattr(self.layers[0], "self_attn"):
            positions = sinusoidal_positions(position_ids, self.config.hidden_size)
            hidden_states = self.scaled_embeddings(hidden_states) + positions.to(hidden_states.dtype)
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

    def scaled_embeddings(self, inputs_embeds: torch.FloatTensor) -> torch.FloatTensor:
        """Embeddings `[B, T, D]` x sqrt(D). In training, token dropout sets whole tokens to zero."""
        # `dropout1d` takes the dimension of T for channels, and drops whole ones.
        embeddings = nn.functional.dropout1d(inputs_embeds, self.config.token_dropout, self.training)
        return embeddings * self.config.hidden_size**0.5


class MiniLanguageModel(MiniPreTrainedModel):
    """Base of the causal and the masked language model: trunk, head, and a loss that never holds T x V logits."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: MiniConfig):
        super().__init__(config)
        self.model = MiniModel(config)
        self.lm_head = MiniLMHead(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    def _logits_and_loss(self, hidden_states, labels, targets, positions=slice(None), **kwargs):
        """Logits `[B, T, V]` or None, and the mean loss in nats over `targets` `[B, T]` that are not -100, or None.

        `targets` are `labels` aligned with `hidden_states` `[B, T, D]`; the logits are those of `positions`. Logits
        are the largest tensor of a training step. The loss is computed without them with `skip_logits=True`, and in
        training mode with `num_items_in_batch`, which the Trainer passes, unless `skip_logits=False`. A head that is
        not ours (LoRA, quantized, replaced by a resize), or that tensor parallelism splits, always returns them.
        """
        num_items, skip_logits = kwargs.get("num_items_in_batch"), kwargs.get("skip_logits")
        if skip_logits is None:
            skip_logits = self.training and num_items is not None
        has_own_head = isinstance(self.lm_head, MiniLMHead) and (self.tp_size or 1) == 1
        if targets is not None and skip_logits and has_own_head:
            loss, count = self.lm_head(hidden_states, targets), loss_divisor(targets, num_items)
            return None, loss / (count.to(loss.device) if torch.is_tensor(count) else count)

        logits = self.lm_head(hidden_states[:, positions, :])
        if targets is None:
            return logits, None
        kwargs["num_items_in_batch"] = loss_divisor(targets, num_items)
        return logits, self.loss_function(logits, labels, self.config.vocab_size, **kwargs)


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

        Labels equal the inputs, with -100 at tokens that are not predicted; the shift happens here. Labels that are
        already shifted are passed as `shift_labels`. `logits_to_keep` limits the logits to the last N positions, or to
        a 1-D tensor of indices. `logits` is None with `skip_logits=True`, and in training mode with
        `num_items_in_batch`, which the Trainer passes, unless `skip_logits=False`.
        """
        outputs = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache=use_cache, **kwargs
        )
        hidden_states = outputs.last_hidden_state
        targets = kwargs.get("shift_labels")
        if targets is None and labels is not None:
            targets = nn.functional.pad(labels[..., 1:], (0, 1), value=IGNORED_LABEL)

        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits, loss = self._logits_and_loss(hidden_states, labels, targets, positions, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
        )

    # transformers checks that this signature has `inputs_embeds` before it generates from them.
    def prepare_inputs_for_generation(self, *args, inputs_embeds=None, **kwargs):
        if not self.config.is_causal:
            raise ValueError(
                "This model was built with `is_causal=False`: it reads whole texts and was not trained to continue "
                "one. Generate with a causal checkpoint, or use MiniForMaskedLM to fill in masked words."
            )
        return super().prepare_inputs_for_generation(*args, inputs_embeds=inputs_embeds, **kwargs)


class MiniForMaskedLM(MiniLanguageModel):
    """Prediction of masked tokens from both sides (BERT). Always bidirectional, whatever the config says."""

    def __init__(self, config: MiniConfig):
        config = copy.deepcopy(config)  # the caller may also build a causal model from this config
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
        """Logits `[B, T, V]`, and the mean loss in nats over the `labels` `[B, T]` that are not -100.

        `logits` is None as in `MiniForCausalLM`.
        """
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds, **kwargs)
        logits, loss = self._logits_and_loss(outputs.last_hidden_state, labels, labels, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MiniForSequenceClassification(MiniPreTrainedModel):
    """One label, several labels or one number for a whole sequence, by `config.problem_type`."""

    # The loss is a mean over sequences; the Trainer's count of target tokens would be the wrong divisor.
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
        """Logits `[B, L]` from the pooled hidden states, and the loss if `labels` (`[B]` or `[B, L]`) are given.

        `attention_mask` marks padding; without a mask, tokens equal to `pad_token_id` are padding.
        """
        outputs = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, **kwargs)
        hidden_states = outputs.last_hidden_state
        if self.config.classifier_pooling == "first_last_mean":
            if inputs_embeds is None:
                inputs_embeds = self.model.embed_tokens(input_ids)
            embeddings = self.model.scaled_embeddings(inputs_embeds)
            hidden_states = hidden_states + embeddings.to(hidden_states.device)
        pooled = self._pool(hidden_states, self._token_mask(input_ids, attention_mask))
        logits = self.score(self.dropout(pooled))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _token_mask(self, input_ids, attention_mask):
        """`[B, T]`, True at tokens that are not padding, or None where padding is unknown."""
        if attention_mask is not None and attention_mask.ndim == 2:
            return attention_mask.bool()
        if input_ids is not None and self.config.pad_token_id is not None:
            return input_ids != self.config.pad_token_id
        return None

    def _pool(self, hidden_states, token_mask):
        """`[B, T, D]` -> `[B, D]`: the last token, or the mean over the tokens."""
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
    """The start and the end of the answer in a text (extractive question answering, as in SQuAD)."""

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


__all__ = [*AUTO_CLASSES, "MiniPreTrainedModel"]
