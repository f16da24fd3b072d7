"""modeling_mini: a small Transformer language model that the Hugging Face ecosystem treats as its own.

Importing the package registers the model with transformers' Auto classes as soon as those are imported too
(`registration.py`). Until then, and until one of the names below is used, it imports neither torch nor transformers.
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


__version__ = "0.2.0"
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


if not TYPE_CHECKING:  # a type checker would accept any name because of it

    def __getattr__(name: str):
        if name in ("configuration_mini", "modeling_mini"):
            return importlib.import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(__getattr__("configuration_mini" if name == "MiniConfig" else "modeling_mini"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
