"""modeling_mini: a small Transformer language model that the Hugging Face ecosystem treats as its own.

Importing the package registers the model with transformers' Auto classes; see `registration.py`.
"""

from .configuration_mini import MiniConfig
from .modeling_mini import (
    MiniForCausalLM,
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
    MiniForTokenClassification,
    MiniModel,
    MiniPreTrainedModel,
)
from .registration import register


__version__ = "0.1.0"
__all__ = [
    "MiniConfig",
    "MiniForCausalLM",
    "MiniForMaskedLM",
    "MiniForQuestionAnswering",
    "MiniForSequenceClassification",
    "MiniForTokenClassification",
    "MiniModel",
    "MiniPreTrainedModel",
    "register",
]

register()
