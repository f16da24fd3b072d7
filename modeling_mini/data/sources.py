"""Reads the splits of a file, a folder, a Hub data set or a built-in data set, without changing them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from ..errors import UserError
from .arguments import DataArguments
from .builtin import BUILTIN, load_builtin
from .examples import ExampleFormat, Examples
from .files import FILE_FORMATS, file_format, first_bad_json_line, read_failure, split_in_name


def read_source(args: DataArguments, example_format: ExampleFormat) -> Mapping[str, Examples]:
    """All splits of the source, unchanged. Raises `UserError` for a file that cannot be read."""
    path = Path(args.dataset)
    if args.dataset in BUILTIN:
        splits = load_builtin(args.dataset, args.dataset_config)
        return {name: split.to_iterable_dataset() if args.streaming else split for name, split in splits.items()}
    if path.is_file():
        return _read_file(path, args, example_format)
    if path.is_dir():
        if splits := _read_own_files(path, example_format):
            return splits
        kind = "text" if any(path.rglob("*.txt")) else None
        return load_dataset(str(path), streaming=args.streaming, **_text_options(kind, args))
    return load_dataset(args.dataset, args.dataset_config, streaming=args.streaming)


def _read_file(path: Path, args: DataArguments, example_format: ExampleFormat) -> Mapping[str, Examples]:
    if path.stat().st_size == 0:
        raise UserError(f"{args.dataset} is empty; give a file with at least two examples.")
    if args.streaming and (reason := first_bad_json_line(path)):  # otherwise training would stop at that line
        raise UserError(f"{args.dataset} could not be read: {reason}")
    kind = file_format(path)
    if (examples := example_format.read_file(path)) is not None:
        return {"train": examples}
    return load_dataset(kind, streaming=args.streaming, data_files=str(path), **_text_options(kind, args))


def _read_own_files(folder: Path, example_format: ExampleFormat) -> dict[str, Dataset]:
    """Splits from files in a format of the application's own, whose names contain the name of the split."""
    splits = {}
    for path in sorted(folder.glob("*.json")):
        split = split_in_name(path)
        if split is not None and (examples := example_format.read_file(path)) is not None:
            splits[split] = examples
    return splits


def _text_options(kind: str | None, args: DataArguments) -> dict:
    return {"sample_by": args.text_unit} if kind == "text" else {}


@contextmanager
def readable_errors(args: DataArguments) -> Iterator[None]:
    """Turn the errors of `datasets` into a `UserError` that names the file, and the line if it is known."""
    path = Path(args.dataset)
    try:
        yield
    except DatasetGenerationError as error:
        reason = first_bad_json_line(path) or read_failure(error.__cause__ or error)
        raise UserError(f"{args.dataset} could not be read: {reason}") from error
    except (ConnectionError, FileNotFoundError) as error:  # DatasetNotFoundError is a FileNotFoundError
        if path.is_dir():
            extensions = ", ".join(FILE_FORMATS)
            raise UserError(f"--dataset {path}: the folder holds no file with the extension {extensions}.") from error
        raise UserError(
            f"--dataset {args.dataset}: there is no such file or folder, {_nearest_builtin(args)}"
        ) from error
    except (ValueError, RuntimeError) as error:  # a stream, a wrong configuration, a data set that is a script
        bad_line = first_bad_json_line(path) if path.is_file() else None
        raise UserError(f"--dataset {args.dataset}: {bad_line or read_failure(error)}") from error


def _nearest_builtin(args: DataArguments) -> str:
    if nearest := get_close_matches(args.dataset, BUILTIN, n=1, cutoff=0.8):
        return f"and the built-in data set is called {nearest[0]}."
    return "and no such data set could be reached on the Hub; check the spelling and the connection."
