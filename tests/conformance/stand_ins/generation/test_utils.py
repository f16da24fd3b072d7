"""Replaces transformers' `GenerationTesterMixin`, which its source distribution does not contain."""


class GenerationTesterMixin:
    """No tests: our own `tests/model/test_generation.py` checks decoding of the Mini models."""
