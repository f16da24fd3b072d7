"""Reads JSON files that others wrote, with a sentence for each way in which they can be wrong."""

import json
from pathlib import Path

from .errors import UserError, one_line


_LFS_POINTER = b"version https://git-lfs"


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is the stand-in that Git LFS leaves for a file that was not downloaded."""
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def read_object(path: Path, source: str | None = None) -> dict:
    """The JSON object in a file.

    Args:
        path: the file.
        source: how the user named its folder; by default the folder itself.

    Raises:
        UserError: the file is missing, is a Git LFS pointer, or does not hold a JSON object.
    """
    where = f"{path.name} in {source or path.parent}"
    try:
        if is_lfs_pointer(path):
            raise UserError(
                f"{where} is a Git LFS pointer, not the file itself; run `git lfs pull` there, or download the folder "
                "with `hf download`."
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({one_line(error)}); copy it again, or write it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} holds a {type(content).__name__}, not a JSON object; copy it again.")
    return content
