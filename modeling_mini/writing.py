"""Writes files that are complete or absent, wherever a full disk, a signal or a kill ends the process."""

import json
import os
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
            os.replace(path, Path(folder) / path.name)


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file that is complete or absent."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
