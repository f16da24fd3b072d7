# Copyright 2026 The modeling_mini authors.
# SPDX-License-Identifier: Apache-2.0
"""Configuration of the Mini Transformer language model.

Saving a model copies every `*_mini.py` into the checkpoint, so this file imports only transformers and
huggingface_hub.
Annotations must stay real objects (no `from __future__ import annotations`): `@strict` reads them to check types.
"""

from difflib import get_close_matches
from numbers import Integral
from typing import TYPE_CHECKING, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import PretrainedConfig
from transformers.activations import ACT2FN
from transformers.utils import logging


if TYPE_CHECKING:
    # Never executed, but transformers parses it: when it copies this file, it copies the model's files as well.
    from .modeling_mini import MiniModel  # noqa: F401

logger = logging.get_logger(__name__)

# The newest `format_version`. Increase it when a change of the config or of the weights' names would make an older
# modeling_mini fail on a new checkpoint, or compute something else with it.
FORMAT_VERSION = 1

# Attributes that transformers stores in a config.json without declaring them as fields.
_LIBRARY_ATTRIBUTES = {"auto_map", "model_type", "quantization_config", "trust_remote_code", "transformers_weights"}

# Each model class, and the Auto class of transformers that opens it.
AUTO_CLASSES = {
    "MiniModel": "AutoModel",
    "MiniForCausalLM": "AutoModelForCausalLM",
    "MiniForMaskedLM": "AutoModelForMaskedLM",
    "MiniForSequenceClassification": "AutoModelForSequenceClassification",
    "MiniForTokenClassification": "AutoModelForTokenClassification",
    "MiniForQuestionAnswering": "AutoModelForQuestionAnswering",
}

# Written into every checkpoint, so that the checkpoint opens as any of these classes without this package.
_AUTO_MAP = {
    "AutoConfig": "configuration_mini.MiniConfig",
    **{auto_class: f"modeling_mini.{model_class}" for model_class, auto_class in AUTO_CLASSES.items()},
}


@strict
class MiniConfig(PretrainedConfig):
    """Configuration of every Mini model.

    A field of the wrong type raises `StrictDataclassFieldValidationError`; sizes that do not fit together raise
    `StrictDataclassClassValidationError` (both from `huggingface_hub.errors`). An unknown field is kept, as in every
    transformers config, and a warning names it and the nearest existing field.

    The names of `torch.nn.Transformer` are accepted too: `d_model`, `nhead`, `num_layers`, `num_tokens`,
    `dim_feedforward`.

    Args:
        vocab_size (`int`, defaults to 8192): Number of tokens, which is the number of rows of the embedding table.
        hidden_size (`int`, defaults to 256): Width of the residual stream. Even, and divisible by the number
            of heads.
        intermediate_size (`int`, defaults to 1024): Width of the feed-forward layer.
        num_hidden_layers (`int`, defaults to 4): Number of Transformer layers.
        num_attention_heads (`int`, defaults to 4): Number of attention heads.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the feed-forward layer, a name in
            `transformers.activations.ACT2FN`.
        norm_first (`bool`, defaults to `True`): `True` applies LayerNorm before each sublayer and once at the end
            (pre-norm, Xiong et al. 2020); `False` applies it after each residual sum (post-norm, Vaswani et al. 2017).
            As in `torch.nn.TransformerEncoderLayer`.
        is_causal (`bool`, defaults to `True`): Whether a token attends only to itself and earlier tokens (GPT), or to
            the whole sequence (BERT).
        max_position_embeddings (`int`, defaults to 1024): Longest sequence that the model is meant for. The forward
            pass does not enforce it; `generate` and the tokenizer read it.
        hidden_dropout (`float`, defaults to 0.0): Dropout after the embedding, on the feed-forward activation and on
            the output of each sublayer.
        attention_dropout (`float`, defaults to 0.0): Dropout of the attention weights.
        token_dropout (`float`, defaults to 0.0): Probability that a training step replaces the embedding of a token by
            zeros, so that the model relies on no single word (word dropout, Iyyer et al. 2015). The others are scaled
            by 1 / (1 - p). With `classifier_pooling="first_last_mean"`, the layers and the bag of words drop tokens
            independently.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of every LayerNorm.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the initial linear weights.
        lm_head_bias (`bool`, defaults to `False`): Whether the projection to the vocabulary has a bias.
        tie_word_embeddings (`bool`, defaults to `True`): Whether the projection to the vocabulary reuses the embedding
            table.
        classifier_pooling (`str`, defaults to `"mean"`): What a sequence classifier reads. `"mean"`: the mean of the
            last hidden states over the tokens that are not padding. `"first_last_mean"`: this mean plus that of the
            embeddings x sqrt(D), without positions, which is a bag of words (after the first-last average of Su et al.
            2021). `"last"`: the hidden state of the last token that is not padding.
        use_cache (`bool`, defaults to `True`): Whether to return keys and values for the next decoding step.
        pad_token_id (`int`, *optional*, defaults to 0): Padding token. Must differ from `eos_token_id`.
        bos_token_id (`int`, *optional*, defaults to 1): Token that starts a document.
        eos_token_id (`int` or `list[int]`, *optional*, defaults to 2): Token or tokens that end a document.
        format_version (`int`, defaults to 1): Version of the checkpoint format; never set it by hand. A checkpoint
            with a newer format than this code knows is refused.
        problem_type (`str`, *optional*): What a sequence classifier predicts: `"regression"`,
            `"single_label_classification"` or `"multi_label_classification"`. By default the labels decide.
        text_pair (`bool`, *optional*): Whether a sequence classifier was trained on pairs of texts. Training sets it.

    Example:
        >>> from modeling_mini import MiniConfig, MiniForCausalLM
        >>> model = MiniForCausalLM(MiniConfig(vocab_size=2048, hidden_size=192, num_attention_heads=6))
    """

    model_type = "modeling_mini"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    attribute_map = {
        "d_model": "hidden_size",
        "nhead": "num_attention_heads",
        "num_layers": "num_hidden_layers",
        "num_tokens": "vocab_size",
        "dim_feedforward": "intermediate_size",
        # Servers and trainers read the number of key-value heads of a decoder; here each head has its own.
        "num_key_value_heads": "num_attention_heads",
    }
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }
    base_model_fsdp_plan = {
        "embed_tokens": "free_full_weight",
        "layers.*": "free_full_weight",
        "norm": "keep_full_weight",
    }

    vocab_size: int = 8192
    hidden_size: int = 256
    intermediate_size: int = 1024
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    hidden_act: str = "gelu"
    norm_first: bool = True
    is_causal: bool = True
    max_position_embeddings: int = 1024
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    token_dropout: float | int = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float | int = 0.02
    lm_head_bias: bool = False
    tie_word_embeddings: bool = True
    classifier_pooling: Literal["mean", "first_last_mean", "last"] = "mean"
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    format_version: int = FORMAT_VERSION
    # transformers declares it too, but newer releases do so in a file whose annotations `@strict` cannot read.
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    text_pair: bool | None = None

    def __post_init__(self, **kwargs):
        self.auto_map = {**_AUTO_MAP, **(kwargs.pop("auto_map", None) or {})}
        super().__post_init__(**kwargs)
        for name in kwargs:
            if name in vars(self) and name not in _LIBRARY_ATTRIBUTES and not name.startswith("_"):
                _warn_unknown_field(name, self._nearest_fields(name))

    def __setattr__(self, name, value):
        # transformers resolves an alias only after the type check, so a value given by an alias would go unchecked.
        name = self.attribute_map.get(name, name)
        if name == "num_labels":
            _require_count(name, value)  # a property of transformers, not a field that `@strict` checks
        elif name == "pad_token_id" and "auto_map" in vars(self):
            # The config is complete. The Trainer sets the tokenizer's padding token here; without this check, the
            # first save would fail.
            try:
                _require_separate_padding(value, self.eos_token_id)
            except ValueError as cause:
                raise StrictDataclassClassValidationError("validate_special_tokens", cause) from cause
        super().__setattr__(name, value)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Build a config from a dictionary and overrides; the overrides are validated like the dictionary."""
        return_unused_kwargs = kwargs.pop("return_unused_kwargs", False)
        _require_known_format(config_dict.get("format_version", FORMAT_VERSION))  # before its fields are checked
        if "pad_token_id" in kwargs:  # checked against `eos_token_id`, which must be set first
            kwargs["pad_token_id"] = kwargs.pop("pad_token_id")
        config, unused_kwargs = super().from_dict(config_dict, return_unused_kwargs=True, **kwargs)
        config.validate()
        for name in unused_kwargs:
            # Arguments of `from_pretrained` arrive here as well, so only names close to a field get a warning.
            if nearest := config._nearest_fields(name, cutoff=0.8):
                _warn_unknown_field(name, nearest)
        return (config, unused_kwargs) if return_unused_kwargs else config

    @classmethod
    def _nearest_fields(cls, name, cutoff=0.6):
        return get_close_matches(name, [*cls.__dataclass_fields__, *cls.attribute_map], n=1, cutoff=cutoff)

    def validate_architecture(self):
        """Refuse sizes that do not fit together. Raises `ValueError` with the field, its value and the fix."""
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give a whole number of at least 1.")
        if self.hidden_size % 2:
            raise ValueError(
                f"`hidden_size` is {self.hidden_size}; give an even number, because sinusoidal positions pair a sine "
                "with a cosine."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` is {self.hidden_size}, which is not divisible by `num_attention_heads` = "
                f"{self.num_attention_heads}; choose a multiple of the number of heads."
            )

    def validate_format(self):
        """Refuse a format that this code does not know."""
        _require_known_format(self.format_version)

    def validate_numbers(self):
        """Refuse dropouts below 0 or not below 1, and scales that are not positive."""
        for name in ("hidden_dropout", "attention_dropout", "token_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give a probability of at least 0 and below 1.")
        if not 0 < self.layer_norm_eps < float("inf"):
            raise ValueError(f"`layer_norm_eps` is {self.layer_norm_eps}; give a small positive number such as 1e-5.")
        if not 0 < self.initializer_range < float("inf"):  # transformers treats 0 as its own default
            raise ValueError(f"`initializer_range` is {self.initializer_range}; give a positive number such as 0.02.")

    def validate_activation(self):
        """Refuse an activation that transformers does not know, or that has trainable weights."""
        if self.hidden_act not in ACT2FN:
            nearest = get_close_matches(self.hidden_act, list(ACT2FN), n=1, cutoff=0)
            raise ValueError(
                f"`hidden_act` is {self.hidden_act!r}, which is not in transformers.activations.ACT2FN; "
                f"the nearest name there is {nearest[0]!r}."
            )
        if list(ACT2FN[self.hidden_act].parameters()):
            raise ValueError(
                f"`hidden_act` is {self.hidden_act!r}, which has trainable weights; give an activation without "
                "weights, such as 'gelu'."
            )

    def validate_special_tokens(self):
        """Refuse a padding token that also ends documents: masking it would hide the end from the loss.

        transformers logs a warning for ids outside the vocabulary; they are not checked here.
        """
        if self.eos_token_id == []:
            raise ValueError("`eos_token_id` is an empty list; give a token id, or None for no end token.")
        _require_separate_padding(self.pad_token_id, self.eos_token_id)

    def validate_labels(self):
        """Refuse a classifier without labels, and single-label classification with one label: its loss is always 0."""
        if self.num_labels == 0:
            raise ValueError("`id2label` is empty; give at least one label, or leave it out.")
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise ValueError(
                "`problem_type` is 'single_label_classification' but `num_labels` is 1; give at least 2 labels, or "
                "`problem_type='regression'` for a single number."
            )


def _require_separate_padding(pad_token_id, eos_token_id):
    end_tokens = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
    if pad_token_id is not None and pad_token_id in end_tokens:
        raise ValueError(
            f"`pad_token_id` and `eos_token_id` are both {pad_token_id}; give padding a separate token, or None, so "
            "that the model can learn where a text ends."
        )


def _require_known_format(format_version):
    if not (isinstance(format_version, int) and 1 <= format_version <= FORMAT_VERSION):
        raise ValueError(
            f"`format_version` is {format_version!r}, and this modeling_mini reads formats up to {FORMAT_VERSION}; "
            "install a newer modeling_mini (pip install -U modeling_mini)."
        )


def _require_count(name, value):
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        cause = ValueError(f"`{name}` is {value!r}; give a whole number of at least 1.")
        raise StrictDataclassFieldValidationError(field=name, cause=cause) from cause


def _warn_unknown_field(name, nearest):
    suggestion = f"; did you mean `{nearest[0]}`?" if nearest else "."
    logger.warning(f"MiniConfig has no field `{name}`: it changes nothing in the model{suggestion}")


MiniConfig.register_for_auto_class()

__all__ = ["MiniConfig"]
