"""Reads the splits of a file, a folder, a Hub data set or a built-in data set, without changing them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError

from ..errors import UserError
from .arguments import DataArguments
from .builtin import BUILTIN, load_builtin
from .examples import ExampleFormat, Examples
from .files import FILE_FORMATS, first_bad_json_line, read_failure, read_file, read_folder


def read_source(args: DataArguments, example_format: ExampleFormat) -> Mapping[str, Examples]:
    """All splits of the source, unchanged. Raises `UserError` for a file that cannot be read."""
    path = Path(args.dataset)
    if args.dataset in BUILTIN:
        splits = load_builtin(args.dataset, args.dataset_config)
        return {name: split.to_iterable_dataset() if args.streaming else split for name, split in splits.items()}
    if path.is_file():
        return read_file(path, args, example_format)
    if path.is_dir():
        return read_folder(path, args, example_format)
    return load_dataset(args.dataset, args.dataset_config, streaming=args.streaming)


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
