"""Where the text of local files is stored while a run reads it."""

import os
from pathlib import Path

from datasets import config


def source_cache() -> Path:
    """The folder for the text of local files that this process reads. Raises `OSError` if it cannot be written."""
    folder = Path(config.HF_DATASETS_CACHE) / "modeling_mini" / "sources" / str(os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    return folder
