"""Replaces transformers' `ExportTesterMixin`, which its source distribution does not contain."""


class ExportTesterMixin:
    """No tests: our own `tests/model/test_export.py` checks export of the Mini models."""
