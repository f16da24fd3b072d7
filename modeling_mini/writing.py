"""Writes files that are complete or absent, wherever a full disk, a signal or a kill ends the process."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


_PREFIX = "_unfinished-"  # with an underscore, so that the Trainer does not push it


@contextmanager
def complete_files(folder: str | Path) -> Iterator[Path]:
    """A new folder whose files replace those of `folder` when all of them are written.

    Files that were complete stay as they are if the block fails. The files move in the order of their names.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder) as unfinished:
        yield Path(unfinished)
        for path in sorted(Path(unfinished).iterdir()):
            if (target := Path(folder) / path.name).is_dir():  # additional_chat_templates of a tokenizer
                shutil.rmtree(target)
            os.replace(path, target)


def remove_unfinished(folder: str | Path) -> None:
    """Delete what `complete_files` left in the folder of a run when a process was killed."""
    for path in Path(folder).glob(f"{_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file that is complete or absent."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
