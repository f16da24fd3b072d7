"""Metrics as `evaluate.Metric` classes that need no network: import them, or `evaluate.load` the path of their file.

Each file imports its library at the top, so that `evaluate.load` can report a missing library. A class is imported at
its first use, so that a run without ROUGE does not import the ROUGE library.
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
