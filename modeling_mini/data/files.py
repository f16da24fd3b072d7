"""Local files: reading a file or a folder, and finding the line or row that is wrong."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset, load_dataset

from ..errors import UserError
from .arguments import DataArguments


if TYPE_CHECKING:
    from .examples import ExampleFormat, Examples

FILE_FORMATS = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_SPLIT_WORDS = {"train": "train", "valid": "validation", "dev": "validation", "test": "test"}


def read_file(path: Path, args: DataArguments, example_format: "ExampleFormat") -> Mapping[str, "Examples"]:
    """The examples of a file, as the split `train`: by `datasets`, or by the application if the format is its own.

    Raises:
        UserError: the file is empty, has an unknown extension, or is a stream with a wrong line.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{args.dataset} is empty; give a file with at least two examples.")
    if args.streaming and (reason := first_bad_json_line(path)):  # otherwise training would stop at that line
        raise UserError(f"{args.dataset} could not be read: {reason}")
    kind = file_format(path)
    if (examples := example_format.read_file(path)) is not None:
        return {"train": examples}
    return load_dataset(kind, streaming=args.streaming, data_files=str(path), **_text_options(kind, args))


def read_folder(folder: Path, args: DataArguments, example_format: "ExampleFormat") -> Mapping[str, "Examples"]:
    """The splits of a folder: by `datasets`, or from files in a format of the application's own."""
    if splits := _read_own_files(folder, example_format):
        return splits
    kind = "text" if any(folder.rglob("*.txt")) else None
    return load_dataset(str(folder), streaming=args.streaming, **_text_options(kind, args))


def _read_own_files(folder: Path, example_format: "ExampleFormat") -> dict[str, Dataset]:
    """Splits from files in a format of the application's own, whose names contain the name of the split."""
    splits = {}
    for path in sorted(folder.glob("*.json")):
        split = split_in_name(path)
        if split is not None and (examples := example_format.read_file(path)) is not None:
            splits[split] = examples
    return splits


def _text_options(kind: str | None, args: DataArguments) -> dict:
    return {"sample_by": args.text_unit} if kind == "text" else {}


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
