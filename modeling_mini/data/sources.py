"""Reads the splits of local files, a Hub data set or a built-in data set, without changing them."""

import errno
import logging
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, concatenate_datasets, config, load_dataset
from datasets.exceptions import DatasetGenerationError

from ..errors import UserError, first_line
from ..options import check_path, names_a_path
from . import filters
from .arguments import DataArguments
from .builtin import BUILTIN, load_builtin
from .columns import TEXT, WrongValue, name_some
from .examples import ExampleFormat, Examples, columns_of, features_or_row, map_columns, map_options, missing_column
from .files import data_files, divide_into_splits
from .fingerprint import code_hash
from .formats import check_no_list_of_rows, file_columns, format_of
from .tables import WATCHED_VALUES, Table, cache_failure, warn_about_splits


logger = logging.getLogger(__name__)


@dataclass
class Source:
    """Splits by name, and the files that they come from, if they are local."""

    splits: Mapping[str, Examples]
    files: list[Path] = field(default_factory=list)


def read_source(args: DataArguments, example_format: ExampleFormat) -> Source:
    """All splits of the source, unchanged, except that `--where` and `--split_column` are applied.

    The splits of local files are read when they are taken from the mapping.

    Raises:
        UserError: a path does not exist or cannot be read, or `--where` or `--split_column` is wrong.
    """
    where = None if args.where is None else filters.Where(args.where)
    is_builtin = args.dataset in BUILTIN and not args.split_files
    files = None if is_builtin else local_files(args, example_format)
    check_delimiter(args, files or {})
    if files is not None:
        warn_about_shared_files(files)
        local = LocalSplits(args, example_format, files, where)
        return Source(local, local.paths)
    check_cache()
    if is_builtin:
        splits = load_builtin(args.dataset, args.dataset_config)
        splits = {name: split.to_iterable_dataset() if args.streaming else split for name, split in splits.items()}
    else:
        splits = load_dataset(args.dataset, args.dataset_config, streaming=args.streaming)
    return Source(_divided(splits, args, where))


def local_files(args: DataArguments, example_format: ExampleFormat) -> dict[str, list[Path]] | None:
    """Split -> its files, or None if the data set is not local. Raises `UserError` for a path that cannot be read."""
    with_text = _is_plain_text(example_format)
    if args.split_files:
        paths = {split: check_path(f"--{split}_file", path) for split, path in args.split_files.items()}
        return {split: data_files(f"--{split}_file", path, with_text) for split, path in paths.items()}
    if not (os.path.lexists(args.dataset) or names_a_path(args.dataset)):
        return None
    path = check_path("--dataset", args.dataset)
    files = data_files("--dataset", path, with_text)
    if path.is_file() or args.split_column is not None:
        return {"train": files}
    return divide_into_splits(path, files)


def check_delimiter(args: DataArguments, files: Mapping[str, list[Path]]) -> None:
    """Raises `UserError` for a delimiter of data without a CSV file."""
    if args.delimiter is not None and not any(format_of(path) == "csv" for paths in files.values() for path in paths):
        raise UserError(f"--delimiter is for .csv and .tsv files; {args.source_name} has none. Leave it out.")


def warn_about_shared_files(files: Mapping[str, list[Path]]) -> None:
    """Warn of a file that several splits read, by whatever name: a score on rows of the training means nothing."""
    splits = {}
    for split, paths in files.items():
        for path in paths:
            splits.setdefault(path.resolve(), []).append(split)
    for path, names in splits.items():
        if len(names) > 1:
            logger.warning(
                "%s is read for %s: scores on the same rows say nothing about other data.", path, " and ".join(names)
            )


def _is_plain_text(example_format: ExampleFormat) -> bool:
    return tuple(example_format.columns) == ("text",)


class LocalSplits(Mapping):
    """Split -> its rows, read from local files when the split is taken. Streams are read once, to check them."""

    def __init__(
        self,
        args: DataArguments,
        example_format: ExampleFormat,
        files: dict[str, list[Path]],
        where: filters.Where | None,
    ):
        self.args = args
        self.example_format = example_format
        self.where = where
        self.paths = [path for paths in files.values() for path in paths]
        numbered = list(enumerate(self.paths))
        self.files = {}
        for split, paths in files.items():
            self.files[split], numbered = numbered[: len(paths)], numbered[len(paths) :]
        self.divided = self._divide() if args.split_column is not None else None
        self.names = list(self.files if self.divided is None else self.divided)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, split: object) -> bool:  # the default reads the split
        return split in self.names

    def __getitem__(self, split: str) -> Examples:
        if self.divided is not None:
            return self.divided[split]
        table = self._table(self.files[split])
        if self.args.streaming:
            self._check_rows(table, split, table.count()[None])
            return table.stream()
        examples = table.read()[None]
        self._check_rows(table, split, len(examples))
        return examples

    def _divide(self) -> dict[str, Examples]:
        table = self._table([file for files in self.files.values() for file in files])
        if self.args.streaming:
            splits = {split: table.stream(split) for split in table.count()}
        else:
            splits = table.read()
        if not splits:
            self._check_rows(table, "train", 0)
        return splits

    @staticmethod
    def _check_rows(table: Table, split: str, count: int) -> None:
        if count == 0:
            raise UserError(f"{table.name}: there is no example for {split}; fill the file, or remove it.")

    def _table(self, files: list[tuple[int, Path]]) -> Table:
        expand = self.example_format.expand_row
        delimiter = self.args.cell_delimiter
        found = {path: file_columns(path, expand, delimiter) for _, path in files}
        columns = list(dict.fromkeys(name for names in found.values() for name in names))
        try:
            sources = map_columns(columns, self.args, self.example_format)
        except UserError:
            named = self.args.named_columns
            for path in found:
                check_no_list_of_rows(path, {named.get(name, name) for name in self.example_format.columns})
            raise
        for path, names in found.items() if columns else ():
            for column, source in sources.items():
                is_optional = column in self.example_format.optional_columns
                if names and source not in names and not is_optional:
                    raise UserError(missing_column(str(path), column, source, names, self.example_format))
        name = str(files[0][1]) if len(files) == 1 else self.args.source_name
        if self.where is not None and columns:
            self.where.check_columns(columns, name)
        if (split_column := self.args.split_column) is not None and columns and split_column not in columns:
            raise UserError(
                f"--split_column: {name} has no column {split_column!r}; its columns are {name_some(columns)}."
            )
        return Table(
            files,
            sources,
            types={column: self.example_format.column_types.get(column, TEXT) for column in sources},
            missing=[name for name in self.example_format.agreed_columns if name not in {*sources, *sources.values()}],
            text_unit=self.args.text_unit,
            expand=expand,
            code=self.example_format.code,
            delimiter=delimiter,
            where=self.where,
            split_column=split_column,
            watched=() if split_column is not None else _split_like(found.values(), sources.values()),
        )


def _split_like(headers: Iterable[list[str]], used: Collection[str] = ()) -> list[str]:
    """The columns whose names say that they may divide the rows into splits; none that a header has twice."""
    headers = list(headers)
    names = dict.fromkeys(name for header in headers for name in header if filters.may_divide(name))
    return [name for name in names if name not in used and all(header.count(name) < 2 for header in headers)]


# Data sets of `datasets`


def _divided(
    splits: Mapping[str, Examples], args: DataArguments, where: filters.Where | None
) -> Mapping[str, Examples]:
    """The splits with `--where` and `--split_column` applied."""
    if where is not None:
        splits = {name: _filtered(split, name, args, where) for name, split in splits.items()}
    column = args.split_column
    if column is None:
        for name, split in splits.items():
            if isinstance(split, Dataset):
                _warn_about_columns(f"{args.dataset}, {name}", split.flatten())
        return splits
    if args.streaming:
        raise UserError("--split_column: only local files can be streamed and divided; leave out --streaming.")
    splits = {name: split.flatten() for name, split in splits.items()}
    for name, split in splits.items():
        if column not in split.column_names:
            raise UserError(
                f"--split_column: {args.dataset} has no column {column!r} in {name}; its columns are "
                f"{name_some(split.column_names)}."
            )
    rows = concatenate_datasets(list(splits.values()))
    options = map_options(args, "Dividing by --split_column")
    try:
        names = {value: filters.split_of(_named(rows, column, value)) for value in rows.unique(column)}
    except WrongValue as error:
        raise UserError(f"{args.dataset}: {column!r} {error}") from error
    return {name: rows.filter(_IsIn(column, name, names), **options) for name in dict.fromkeys(names.values())}


def _warn_about_columns(name: str, rows: Dataset) -> None:
    for column in _split_like([rows.column_names]):
        kind = getattr(rows.features[column], "dtype", "")
        if kind in ("string", "large_string", "bool") or "int" in kind:
            values = rows.unique(column)[:WATCHED_VALUES]
            warn_about_splits(name, column, {_named(rows, column, value) for value in values})


def _named(rows: Dataset, column: str, value: Any) -> Any:
    """A value, or the name of the class that it is the number of."""
    feature = rows.features[column]
    return feature.int2str(value) if isinstance(feature, ClassLabel) and value not in (None, -1) else value


@dataclass
class _IsIn:
    """A filter that keeps the rows of one split."""

    column: str
    split: str
    names: dict[str, str]

    def __call__(self, example: dict) -> bool:
        return self.names[example[self.column]] == self.split


@dataclass
class _Matches:
    """A filter that keeps the rows for which a condition holds."""

    where: filters.Where
    dataset: str
    code: str = code_hash(filters.__file__)

    def __call__(self, example: dict) -> bool:
        try:
            return self.where.matches(example)
        except WrongValue as error:
            raise UserError(f"--where {self.where.expression}: {self.dataset}: {error}") from error


def _filtered(split: Examples, name: str, args: DataArguments, where: filters.Where) -> Examples:
    where.check_columns(columns_of(features_or_row(split)), f"{args.dataset}, split {name!r},")
    remaining = split.filter(_Matches(where, args.dataset), **map_options(args, f"Filtering the {name} split"))
    if isinstance(split, Dataset):
        logger.info(
            "--where %s: %s of %s rows of %r remain", where.expression, f"{len(remaining):,}", f"{len(split):,}", name
        )
        if len(remaining) == 0 < len(split) and name == args.train_split:
            raise UserError(f"--where {where.expression}: no row of {args.dataset} remains; correct the condition.")
    return remaining


# Errors


def check_cache() -> None:
    """Raises `UserError` if `datasets` cannot write its cache, which it would report as a missing data set."""
    folder = Path(config.HF_DATASETS_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0" * 4096)
    except OSError as error:
        raise UserError(cache_failure(error)) from error


@contextmanager
def readable_errors(args: DataArguments) -> Iterator[None]:
    """Turn the errors of `datasets` for a data set of the Hub into a `UserError`."""
    try:
        yield
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, OSError) and _is_of_cache(error.__cause__):
            raise UserError(cache_failure(error.__cause__)) from error
        raise UserError(f"{args.dataset} could not be read: {first_line(error.__cause__ or error)}") from error
    except (ConnectionError, FileNotFoundError) as error:  # DatasetNotFoundError is a FileNotFoundError
        raise UserError(
            f"--dataset {args.dataset}: there is no such file or folder, {_nearest_builtin(args)}"
        ) from error
    except OSError as error:
        if not _is_of_cache(error):
            raise
        raise UserError(cache_failure(error)) from error
    except (ValueError, RuntimeError) as error:  # a stream, a wrong configuration, a data set that is a script
        raise UserError(f"--dataset {args.dataset}: {first_line(error)}") from error


_CACHE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def _is_of_cache(error: OSError) -> bool:
    return error.errno in _CACHE_ERRORS or "No space left" in str(error)  # Arrow does not set `errno`


def _nearest_builtin(args: DataArguments) -> str:
    if nearest := get_close_matches(args.dataset, BUILTIN, n=1, cutoff=0.8):
        return f"and the built-in data set is called {nearest[0]}."
    return "and no such data set could be reached on the Hub; check the spelling and the connection."
