"""modeling_mini: a small Transformer language model that the Hugging Face ecosystem treats as its own.

Importing the package registers the model with transformers' Auto classes, once they are imported themselves
(`registration.py`). Until then, and until one of the names below is used, neither torch nor transformers is imported.
"""

import importlib
from typing import TYPE_CHECKING

from .registration import register


if TYPE_CHECKING:
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


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "configuration_mini" if name == "MiniConfig" else "modeling_mini"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
