"""In the place of transformers' `ExportTesterMixin`, which its source distribution leaves out."""


class ExportTesterMixin:
    """No tests: export of the Mini models is held to equivalences of our own in `tests/test_export.py`."""
