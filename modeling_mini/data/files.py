"""Local files: which formats can be read, and which line or row of a file is wrong."""

import json
import re
from pathlib import Path

from ..errors import UserError


FILE_FORMATS = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_SPLIT_WORDS = {"train": "train", "valid": "validation", "dev": "validation", "test": "test"}


def file_format(path: Path) -> str:
    """The name of a file's format in `datasets`. Raises `UserError` for an unknown extension."""
    name = path.name.removesuffix(".gz")
    for extension, file_format in FILE_FORMATS.items():
        if name.endswith(extension):
            return file_format
    raise UserError(
        f"--dataset {path}: its extension is not one of {', '.join(FILE_FORMATS)}; convert or rename the file."
    )


def split_in_name(path: Path) -> str | None:
    """The split that the name of a file contains, or None."""
    return next((split for word, split in _SPLIT_WORDS.items() if word in path.name.lower()), None)


def first_bad_json_line(path: Path) -> str | None:
    """The first line of a JSON Lines file, or of such files in a folder, that is not a row of a table, and why.

    `datasets` names only a row of a block.
    """
    if path.is_dir():
        reasons = ((file, first_bad_json_line(file)) for file in sorted(path.rglob("*.jsonl")))
        return next((f"{file.relative_to(path)}, {reason}" for file, reason in reasons if reason), None)
    if not (path.name.endswith(".jsonl") and path.is_file()):
        return None
    types = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError as error:
                return f"line {number} is not JSON ({error})"
            if not isinstance(row, dict):
                return f"line {number} is not a JSON object of columns and values"
            for column, value in row.items():
                earlier = types.setdefault(column, type(value)) if value is not None else None
                if earlier not in (None, type(value)) and {earlier, type(value)} != {int, float}:
                    return (
                        f"line {number} has {type(value).__name__} in {column!r}, but the lines before it have "
                        f"{earlier.__name__}"
                    )
    return None


def row_location(dataset: str, split: str, index: int) -> str:
    """File and line of the row `index` of a split, or its row number if lines do not correspond to rows."""
    path = _file_of_split(Path(dataset), split)
    if path.name.endswith(".jsonl") and path.is_file():
        with path.open("rb") as lines:
            filled = [number for number, line in enumerate(lines, start=1) if line.strip()]
        return f"{path}, line {filled[index]}"
    return f"{path if path.is_file() else dataset}, row {index + 1} of the split {split!r}"


def _file_of_split(path: Path, split: str) -> Path:
    """The file of a folder that holds the split, or the folder if several files or none do."""
    files = [file for file in path.rglob("*") if file.suffix in FILE_FORMATS and split_in_name(file) == split]
    return files[0] if len(files) == 1 else path


def read_failure(error: BaseException) -> str:
    """Why a source could not be read, in the user's terms if they are known."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, UnicodeDecodeError):
        return f"{reason}; convert the file to UTF-8"
    if empty := re.match(r"Instruction \"(\w+)\" corresponds to no data", reason):
        return f"there is no example for {empty[1]}; fill the file, or remove it."
    return reason
