"""Metrics as `evaluate.Metric` classes that need no network: import them, or `evaluate.load` the path of their file.

Each file imports its library at its top, which is how `evaluate.load` finds what is missing, and names its class when
asked, so that a run without ROUGE starts without it.
"""

import importlib


_FILES = {
    "Classification": "classification",
    "Rouge": "rouge",
    "SpanAnswers": "answers",
    "TextLoss": "text_loss",
    "TranslationQuality": "translation",
}
__all__ = list(_FILES)


def __getattr__(name: str):
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
