"""Reads JSON that others wrote, with a sentence for each way in which it can be wrong."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError, one_line, shortened


_LFS_POINTER = b"version https://git-lfs"
MOST_DIGITS = 4000  # of a whole number; Python does not convert more than 4,300


def parse(text: str, object_pairs_hook: Callable | None = None, allow_nan: bool = False) -> Any:
    """A JSON value.

    Args:
        text: the JSON.
        object_pairs_hook: makes an object from its keys and values, as in `json.loads`.
        allow_nan: accept NaN and Infinity, which Python writes although JSON does not have them.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or has a number that Python does not read.
    """
    constants = {} if allow_nan else {"parse_constant": _refuse_constant}
    try:
        return json.loads(
            text, object_pairs_hook=object_pairs_hook, parse_int=_whole_number, parse_float=_number, **constants
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _whole_number(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number has {len(text.lstrip('-')):,} digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {shortened(text, 20)} is too large")
    return number


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a JSON value; write null")


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
        content = parse(path.read_text(encoding="utf-8"), allow_nan=True)
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({one_line(error)}); copy it again, or write it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} holds a {type(content).__name__}, not a JSON object; copy it again.")
    return content
