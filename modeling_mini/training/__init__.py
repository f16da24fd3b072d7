"""From a recipe to a finished run; start reading in `run.py`."""
