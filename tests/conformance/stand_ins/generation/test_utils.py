"""In the place of transformers' `GenerationTesterMixin`, which its source distribution leaves out."""


class GenerationTesterMixin:
    """No tests: decoding of the Mini models is held to equivalences of our own in `tests/test_generation.py`."""
