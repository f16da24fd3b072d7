"""A recipe in, a finished run out; `run.py` reads top to bottom."""
