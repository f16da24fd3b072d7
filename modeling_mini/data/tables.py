"""Local files as data sets: the columns that are used, each of one type, and every row with its place in a file."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value, config
from datasets.table import MemoryMappedTable
from datasets.utils import tqdm

from ..errors import UserError
from . import columns, files, filters, formats
from .cache import source_cache
from .columns import ColumnType, WrongValue, lookup
from .fingerprint import code_hash
from .formats import Expand, class_names, format_of, read_rows


logger = logging.getLogger(__name__)

# Columns that say where a row stands: the index of its file, its line (in Parquet, its number), and its own `id`.
FILE, LINE, ID = "__file", "__line", "__id"
PLACE = {FILE: Value("int32"), LINE: Value("int64"), ID: Value("string")}
_BATCH_ROWS, _BATCH_CHARACTERS = 1000, 1 << 24
WATCHED_VALUES = 20  # different ones of a column that may divide the rows into splits
_CODE = [code_hash(module.__file__) for module in (columns, files, filters, formats)] + [code_hash(__file__)]


def place_of(path: Path, line: int, row_id: str | None) -> str:
    """File, line and id of a row, for an error."""
    unit = "row" if format_of(path) == "parquet" else "line"
    return f"{path}, {unit} {line}" + (f" (id {row_id})" if row_id else "")


@dataclass
class Table:
    """The rows of local files: all of one split, or divided into splits by a column.

    Attributes:
        files: index and path of each file. Rows hold the index.
        sources: column of the rows -> column of the files.
        types: column of the rows -> what it holds.
        missing: optional columns of the application that the files do not have.
        text_unit: what a row of a plain text file is.
        expand: see `formats.read_rows`; `code` is the cache key of its code.
        delimiter: what separates the cells of CSV; by default what the extension says.
        where: which rows are used.
        split_column: the column that divides the rows into splits.
        watched: columns that may divide the rows into splits, although there is no `split_column`.
    """

    files: list[tuple[int, Path]]
    sources: Mapping[str, str]
    types: Mapping[str, ColumnType]
    missing: Sequence[str]
    text_unit: str
    expand: Expand
    code: Sequence[str]
    delimiter: str | None = None
    where: filters.Where | None = None
    split_column: str | None = None
    watched: Sequence[str] = ()
    classes: dict[str, list[str]] = field(default_factory=dict, init=False)  # labels that are numbers with names

    def __post_init__(self):
        for column, source in self.sources.items():
            names = [class_names(path, source) for _, path in self.files if self.types[column] is columns.LABEL]
            if names and names[0] and all(other == names[0] for other in names):
                self.classes[column] = names[0]

    @property
    def features(self) -> Features:
        classes = {column: ClassLabel(names=names) for column, names in self.classes.items()}
        return Features(PLACE | {column: self.types[column].feature for column in self.sources} | classes)

    @property
    def name(self) -> str:
        first = self.files[0][1]
        return str(first) if len(self.files) == 1 else f"{len(self.files)} files such as {first}"

    def read(self) -> dict[str | None, Dataset]:
        """The rows by split, stored on the disk; with `None` as the split if there is no `split_column`.

        Raises:
            UserError: a file cannot be read, a value has the wrong type, no row remains, or the cache is full.
        """
        with _writable_cache():
            index = source_cache() / f"{self._key}.index"
            if not index.exists():
                self._write(index)
            parts = json.loads(index.read_text())
            return {
                split: Dataset(MemoryMappedTable.from_file(str(index.with_name(name))), fingerprint=fingerprint)
                for split, name, fingerprint in parts
            }

    def stream(self, split: str | None = None) -> IterableDataset:
        """The rows of a split, read from the files in each pass."""
        return IterableDataset.from_generator(
            self._examples, features=self.features, gen_kwargs={"files": self.files, "split": split}
        )

    def count(self) -> Counter:
        """Rows by split. Reads all files, and raises `UserError` as `read` does."""
        return Counter(split for split, _ in self._checked_rows("Checking"))

    def _examples(self, files: list[tuple[int, Path]], split: str | None) -> Iterator[dict]:
        for value, row in self._rows(files):
            if row is not None and (self.split_column is None or value == split):
                yield row

    def _checked_rows(self, verb: str) -> Iterator[tuple[str | None, dict]]:
        """Split and row; afterwards what is worth a word is logged."""
        total = used = 0
        watched = {name: set() for name in self.watched}
        with tqdm(desc=f"{verb} {self.name}", unit=" rows") as progress:
            for value, row in self._rows(self.files):
                total += 1
                if total % _BATCH_ROWS == 0:
                    progress.update(_BATCH_ROWS)
                if row is None:
                    continue
                used += 1
                for seen, other in zip(watched.values(), value if watched else (), strict=True):
                    if len(seen) < WATCHED_VALUES:
                        seen.add(other)
                yield (value if self.split_column else None), row
            progress.update(total % _BATCH_ROWS)
        if self.where is not None:
            logger.info(
                "--where %s: %s of %s rows of %s remain", self.where.expression, f"{used:,}", f"{total:,}", self.name
            )
            if total and not used:
                raise UserError(
                    f"--where {self.where.expression}: no row of {self.name} remains; correct the condition."
                )
        for column, values in watched.items():
            warn_about_splits(self.name, column, values)

    def _rows(self, files: list[tuple[int, Path]]) -> Iterator[tuple[Any, dict | None]]:
        """The value of `split_column`, or those of `watched`, and the row; None for a row that is not used."""
        where = self.where
        names = {*self.sources.values(), *self.missing, *(where.columns if where else ())}
        names |= {*self.watched, *([self.split_column] if self.split_column else [])}
        for index, path in files:
            labels = {
                column: class_names(path, source)
                for column, source in self.sources.items()
                if self.types[column] is columns.LABEL
            }
            for line, row in read_rows(path, names, self.text_unit, self.expand, self.delimiter):
                row_id = _id_of(row)
                try:
                    if where is not None and not where.matches(row, is_text=format_of(path) == "csv"):
                        yield None, None
                        continue
                    values = self._values(row, labels)
                    split = self._split(row)
                except WrongValue as error:
                    raise UserError(f"{place_of(path, line, row_id)}: {error}") from error
                yield split, {FILE: index, LINE: line, ID: row_id, **values}

    def _values(self, row: Mapping, labels: Mapping[str, list[str] | None]) -> dict:
        for column in self.missing:
            if lookup(row, column) is not None:
                raise WrongValue(
                    f"there is a {column!r}, which the first rows do not have; give it to all rows, or rename it."
                )
        values = {}
        for column, source in self.sources.items():
            try:
                value = lookup(row, source)
                if labels.get(column) and isinstance(value, int):
                    value = labels[column][value] if 0 <= value < len(labels[column]) else None  # -1: a hidden label
                value = self.types[column].convert(value)
                values[column] = self.classes[column].index(value) if value and column in self.classes else value
            except WrongValue as error:
                raise WrongValue(f"{source!r} {str(error).replace('{column}', column)}") from error
        return values

    def _split(self, row: Mapping) -> Any:
        if self.split_column is None:
            return [_watched_value(row, name) for name in self.watched]
        try:
            return filters.split_of(lookup(row, self.split_column))
        except WrongValue as error:
            raise WrongValue(f"{self.split_column!r} {error}") from error

    @property
    def _key(self) -> str:
        """Another key for other files or indices, other content (by size and time), other columns or other code."""
        stats = [(i, str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for i, path in self.files]
        parts = [stats, dict(self.sources), list(self.missing), self.text_unit, self.classes, [*self.code, *_CODE]]
        parts += [self.where and self.where.expression, self.split_column, list(self.watched), self.delimiter]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _write(self, index: Path) -> None:
        """Write a file per split, then their index. Other processes of the run see only complete files."""
        writers = {} if self.split_column else {None: _Writer(index, 0, self.features.arrow_schema)}
        try:
            for split, row in self._checked_rows("Reading"):
                if split not in writers:
                    writers[split] = _Writer(index, len(writers), self.features.arrow_schema)
                try:
                    writers[split].write(row)
                except pa.ArrowCapacityError as error:
                    raise UserError(
                        f"{place_of(dict(self.files)[row[FILE]], row[LINE], row[ID])}: a text has more than 2 GB; "
                        "choose --text_unit line or paragraph."
                    ) from error
            for writer in writers.values():
                writer.close()
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise
        parts = [(split, writer.publish(), f"{index.stem}{i}") for i, (split, writer) in enumerate(writers.items())]
        part = index.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(parts))
        part.replace(index)


class _Writer:
    """Writes rows into an Arrow file, a batch at a time."""

    def __init__(self, index: Path, number: int, schema: pa.Schema):
        self.path = index.with_name(f"{index.stem}-{number}.arrow")
        self.part = self.path.with_suffix(f".{os.getpid()}")
        self.schema = schema
        self.sink = pa.OSFile(str(self.part), "wb")
        self.stream = pa.ipc.new_stream(self.sink, schema)
        self.rows, self.characters = [], 0

    def write(self, row: dict) -> None:
        self.rows.append(row)
        self.characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(self.rows) == _BATCH_ROWS or self.characters > _BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        rows, self.rows, self.characters = self.rows, [], 0
        if rows:
            self.stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=self.schema))

    def close(self) -> None:
        self.flush()
        self.stream.close()
        self.sink.close()

    def abandon(self) -> None:
        with suppress(OSError):  # the disk is full
            self.sink.close()
        self.part.unlink(missing_ok=True)

    def publish(self) -> str:
        self.part.replace(self.path)
        return self.path.name


@contextmanager
def _writable_cache() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(cache_failure(error)) from error


def cache_failure(error: OSError) -> str:
    """The sentence about a cache of `datasets` that cannot be written."""
    reason = error.strerror or str(error).splitlines()[0]
    return (
        f"The cache {config.HF_DATASETS_CACHE} cannot be written: {reason}; free some space there, or name another "
        "folder in the environment variable HF_HOME."
    )


def _id_of(row: Mapping) -> str | None:
    row_id = row.get("id")
    if not isinstance(row_id, (str, int)) or isinstance(row_id, bool):
        return None
    return str(row_id)[:80].encode(errors="replace").decode()


def _watched_value(row: Mapping, column: str) -> str | int | float | None:
    try:
        value = lookup(row, column)
    except WrongValue:  # another kind of row, which the task may be able to use
        return None
    return value if isinstance(value, (str, int, float)) else None


def warn_about_splits(name: str, column: str, values: set) -> None:
    """Warn if a column divides the rows into splits and nothing says so."""
    if advice := filters.advice_about_splits(column, values - {None, ""}):
        logger.warning("The column %r of %s %s", column, name, advice)
