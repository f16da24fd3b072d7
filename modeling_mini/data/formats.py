"""Reads one local file row by row: CSV, TSV, JSON, JSON Lines, plain text or Parquet, plain or compressed with gzip.

A row is a pair of its line (in Parquet, its number, from 1) and its columns. All values of CSV are text. Text is
UTF-8; nothing is guessed.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features

from ..errors import UserError, first_line
from ..json_files import MOST_DIGITS
from .columns import WrongValue, column_names


Row = tuple[int, Mapping]
Expand = Callable[[dict], Iterable[dict] | None]

FORMATS = {
    ".txt": "text",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_START = 4096  # bytes that show the kind of a file
_SEP_LINE = re.compile(r"sep=([^\r\n])[\r\n]+")
_DELIMITER_NAMES = {",": "commas", "\t": "tabs"}
_CHARACTERS = 10 << 20  # of a text file that are read at a time
_PARQUET_ROWS = 1000  # that are in memory as Python objects at a time
_ROWS_WITH_ALL_COLUMNS = 1000  # first rows of a JSON file, whose columns are those of the file
_PARQUET = b"PAR1"
_QUOTED_CELL = re.compile(r'"(?:[^"]|"")*"([,;\t|])')  # and the delimiter after it
_SIGNATURES = {
    b"\x1f\x8b": "is compressed with gzip; add .gz to its name.",
    b"PK\x03\x04": "is a zip archive; unpack it.",
    _PARQUET: "is a Parquet file; let its name end in .parquet.",
    b"BZh91AY&SY": "is compressed with bzip2; unpack it, or compress it with gzip.",
    b"\xfd7zXZ\x00": "is compressed with xz; unpack it, or compress it with gzip.",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it, or compress it with gzip.",
    b"%PDF-": "is a PDF; extract its text, for example with pdftotext.",
    b"SQLite format 3\x00": "is a database; export a table of it as CSV.",
    b"version https://git-lfs": "is a pointer of Git LFS instead of the data; download them with `git lfs pull`.",
}
# The mark of UTF-32 begins with that of UTF-16.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def format_of(path: Path) -> str | None:
    """The format of a file by its extension, in capital or small letters, with or without `.gz`; or None."""
    name = path.name.lower().removesuffix(".gz")
    return next((kind for extension, kind in FORMATS.items() if name.endswith(extension)), None)


def delimiter_of(path: Path) -> str:
    """The delimiter of a CSV file by its extension."""
    return "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","


def read_rows(
    path: Path, columns: Collection[str], text_unit: str, expand: Expand, delimiter: str | None = None
) -> Iterator[Row]:
    """The rows of a file, with at least those of `columns` that it has, and an `id` for errors.

    Args:
        path: a file whose format `format_of` knows.
        columns: names as `columns.lookup` takes them.
        text_unit: what a row of a plain text file is: the `document`, a `paragraph` or a `line`.
        expand: the rows that an object of a JSON file stands for, or None for the object itself.
        delimiter: what separates the cells of CSV; by default what the extension says.

    Raises:
        UserError: the file cannot be read to its end. The sentence names the line.
    """
    kind = format_of(path)
    with _readable(path):
        if kind == "parquet":
            yield from _read_parquet(path, columns)
            return
        _check_beginning(path)
        with _open(path) as file:
            if kind == "json":
                yield from _read_json(path, file, columns, expand)
            elif kind == "csv":
                yield from _read_csv(path, file, columns, delimiter)
            else:
                yield from _read_text(file, text_unit)


def file_columns(path: Path, expand: Expand, delimiter: str | None = None) -> list[str]:
    """The names of the columns of a file; of JSON, those of the first rows. Raises `UserError`."""
    kind = format_of(path)
    if kind == "text":
        return ["text"]
    if kind == "json":
        first = zip(range(_ROWS_WITH_ALL_COLUMNS), read_rows(path, (), "line", expand), strict=False)
        return list(dict.fromkeys(name for _, (_, row) in first for name in column_names(row)))
    with _readable(path):
        if kind == "parquet":
            with _open_parquet(path) as file:
                return [leaf for field in file.schema_arrow for leaf in _leaves(field)]
        _check_beginning(path)
        with _open(path) as file:
            return _header(path, _csv_reader(path, file, delimiter))


def check_no_list_of_rows(path: Path, columns: Collection[str]) -> None:
    """Raises `UserError` for a JSON file that is one object with its rows, with a column that it lacks, in a list."""
    if not path.name.lower().endswith((".json", ".json.gz")):
        return
    rows = [row for _, row in islice(read_rows(path, columns, "line", lambda _: None), 2)]
    for name, value in rows[0].items() if len(rows) == 1 else ():
        objects = [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
        if any(({*columns} - {*rows[0]}) & {*item} for item in objects):
            raise UserError(f"{path} holds its rows in the list {name!r}; write that list alone into the file.")


def class_names(path: Path, column: str) -> list[str] | None:
    """The names of the classes that a column of a Parquet file holds as numbers, if `datasets` has written them."""
    if format_of(path) != "parquet":
        return None
    with _readable(path), _open_parquet(path) as file:
        try:
            feature = Features.from_arrow_schema(file.schema_arrow).get(column)
        except (ValueError, TypeError, KeyError, AttributeError):  # metadata of another program, or another version
            return None
    return feature.names if isinstance(feature, ClassLabel) else None


# Every error of a file, with its line where it has lines


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        if format_of(path) == "parquet":
            raise UserError(f"{path} holds bytes that are not UTF-8 in a column of text; write it again.") from error
        raise UserError(_wrong_byte(path)) from error
    except EOFError as error:
        raise UserError(
            f"{path} is truncated: the compressed data end too early; copy or download it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path} is not compressed with gzip, or damaged ({error}); copy it again, or rename it."
        ) from error
    except pa.ArrowException as error:
        raise UserError(
            f"{path} is not a Parquet file, or damaged ({first_line(error)}); copy or download it again."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}.") from error


def _wrong_byte(path: Path) -> str:
    """The sentence about the first line that is not UTF-8."""
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = f"0x{line[error.start]:02X}"
                return f"{path} is not UTF-8 (byte {byte} at line {number}); convert it, for example with iconv."
    return f"{path} is not UTF-8; convert it, for example with iconv."


def _check_beginning(path: Path) -> None:
    """Raises `UserError` for a file of another kind or encoding, as its first bytes show."""
    with _open(path) as file:
        start = file.read(_START)
    for mark, encoding in _OTHER_MARKS.items():
        if start.startswith(mark):
            raise UserError(f"{path} is in {encoding}; convert it to UTF-8, for example with iconv.")
    _check_kind(path, start)
    for parity in (0, 1):  # UTF-16 without a mark: every other byte of European text is 0
        zeros, others = start[parity::2].count(0), start[1 - parity :: 2].count(0)
        if zeros > 0.4 * len(start) and others == 0:
            raise UserError(f"{path} is in UTF-16; convert it to UTF-8, for example with iconv.")


def _check_kind(path: Path, start: bytes) -> None:
    """Raises `UserError` for a file whose first bytes show another kind than its name."""
    for signature, sentence in _SIGNATURES.items():
        if start.startswith(signature) and (signature, format_of(path)) != (_PARQUET, "parquet"):
            raise UserError(f"{path} {sentence}")


def _open(path: Path) -> BinaryIO:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


# Plain text


def _read_text(file: BinaryIO, unit: str) -> Iterator[Row]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig")
    if unit == "document":
        yield 1, {"text": text.read()}
    elif unit == "line":
        for number, line in enumerate(text, start=1):
            yield number, {"text": line.removesuffix("\n")}
    else:
        yield from _paragraphs(text)


def _paragraphs(text: io.TextIOBase) -> Iterator[Row]:
    """What stands between empty lines."""
    line, rest = 1, ""
    while batch := text.read(_CHARACTERS):
        *paragraphs, rest = (rest + batch + text.readline()).split("\n\n")
        for paragraph in paragraphs:
            if paragraph:
                yield line, {"text": paragraph}
            line += paragraph.count("\n") + 2
    if rest:
        yield line, {"text": rest}


# CSV


def separated_by(delimiter: str) -> str:
    """The end of a sentence about cells with another delimiter than the extension of their file says."""
    argument = r"'\t'" if delimiter == "\t" else f"'{delimiter}'"
    return f"separated by {_DELIMITER_NAMES.get(delimiter, argument)}; read them with --delimiter {argument}"


def _csv_reader(path: Path, file: BinaryIO, delimiter: str | None):
    """A reader with the given delimiter; or that of a first line `sep=;`, as Excel writes it; or the extension's."""
    csv.field_size_limit(2**31 - 1)
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    first = lines.readline()
    if stated := _SEP_LINE.fullmatch(first):
        first, delimiter = "\n", delimiter or stated[1]
    # Strict: otherwise a quote that is never closed would make one cell of the rest of the file.
    return csv.reader(chain([first], lines), delimiter=delimiter or delimiter_of(path), strict=True)


def _check_unique(path: Path, header: list[str], columns: Iterable[str]) -> None:
    if repeated := next((name for name in columns if header.count(name) > 1), None):
        raise UserError(f"{path} has several columns {repeated!r}; rename or remove all but one.")


def _only_id(header: list[str]) -> set[str]:
    return {"id"} if header.count("id") == 1 else set()


def _header(path: Path, reader) -> list[str]:
    with _csv_errors(path, reader):
        return next((cells for cells in reader if cells), [])


def _other_delimiter(path: Path, delimiter: str) -> str | None:
    """What follows the quoted first cell of a file, if it is a usual delimiter but not that of the reader."""
    with _open(path) as file:
        start = file.read(_START).decode("utf-8-sig", errors="replace").lstrip("\r\n")
    cell = _QUOTED_CELL.match(start)
    return cell[1] if cell and cell[1] != delimiter else None


def _read_csv(path: Path, file: BinaryIO, columns: Collection[str], delimiter: str | None) -> Iterator[Row]:
    reader = _csv_reader(path, file, delimiter)
    header = _header(path, reader)
    _check_unique(path, header, columns)
    places = [(name, header.index(name)) for name in {*columns, *_only_id(header)} if name in header]
    with _csv_errors(path, reader):
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) > len(header):
                mark = reader.dialect.delimiter
                raise UserError(
                    f"{path}, line {line} has {len(cells)} cells, but the header has {len(header)}; put quotes around "
                    f"text with {_DELIMITER_NAMES.get(mark, repr(mark))}."
                )
            if cells:
                yield line, {name: cells[place] for name, place in places if place < len(cells)}
            line = reader.line_num + 1


@contextmanager
def _csv_errors(path: Path, reader) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        if (mark := _other_delimiter(path, reader.dialect.delimiter)) is not None:
            raise UserError(f"{path} has cells that are {separated_by(mark)}.") from error
        reason = str(error).replace("\t", r"\t")
        raise UserError(
            f"{path}, line {max(reader.line_num, 1)} is not CSV ({reason}); correct the quotes: a quote inside a "
            'quoted cell is written twice ("").'
        ) from error


# JSON and JSON Lines


class _RepeatedKey(Exception):
    pass


_SPACE = re.compile(r"[ \t\n\r]*")


def _whole_number(text: str) -> int | float:
    """A number; infinity for thousands of digits, which Python does not convert, and which no used column can hold."""
    return int(text) if len(text) <= MOST_DIGITS else float(text)


_DECODER = json.JSONDecoder()
_DECODER_OF_LONG_NUMBERS = json.JSONDecoder(parse_int=_whole_number)


def _read_json(path: Path, file: BinaryIO, columns: Collection[str], expand: Expand) -> Iterator[Row]:
    decoder = _Decoder(columns)
    is_first, line = True, 0
    try:
        for line, content in enumerate(file, start=1):
            text = (content.removeprefix(codecs.BOM_UTF8) if line == 1 else content).decode().rstrip(" \t\r\n")
            if not text:
                continue
            if is_first and _continues(path, text):
                yield from _read_values(path, f"{text}\n{file.read().decode()}", line, decoder, expand)
                return
            is_first = False
            value, end = decoder.decode(text, _SPACE.match(text).end())
            if end < len(text):
                raise json.JSONDecodeError("Extra data", text, end)
            yield from _rows_of(path, line, value, expand)
    except (json.JSONDecodeError, RecursionError, _RepeatedKey) as error:
        raise UserError(_json_failure(path, error, line, line)) from error


def _continues(path: Path, text: str) -> bool:
    """Whether a JSON value goes on after the first line of the file: an array, or an object on several lines."""
    if text.lstrip().startswith("["):
        return True
    if text != "{" and path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        return False
    try:
        _Decoder().decode(text, _SPACE.match(text).end())
    except (json.JSONDecodeError, RecursionError):
        return True
    return False


def _read_values(path: Path, text: str, start_line: int, decoder: "_Decoder", expand: Expand) -> Iterator[Row]:
    """The rows of an array, or of objects that follow each other."""
    position = _SPACE.match(text).end()
    in_array = text.startswith("[", position)
    line, counted = start_line, 0
    try:
        for value, start in _values(text, position + in_array, in_array, decoder):
            line, counted = line + text.count("\n", counted, start), start
            is_text = in_array and isinstance(value, str)
            yield from _rows_of(path, line, {"text": value} if is_text else value, expand)
    except (json.JSONDecodeError, RecursionError, _RepeatedKey) as error:
        line = start_line + text.count("\n", 0, decoder.position)
        raise UserError(_json_failure(path, error, start_line, line)) from error


def _values(text: str, position: int, in_array: bool, decoder: "_Decoder") -> Iterator[tuple[Any, int]]:
    """The values, with the position where each begins."""
    while True:
        position = _SPACE.match(text, position).end()
        if position == len(text) and not in_array:
            return
        if in_array and text.startswith("]", position):
            if _SPACE.match(text, position + 1).end() < len(text):
                raise json.JSONDecodeError("Extra data", text, position + 1)
            return
        value, end = decoder.decode(text, position)
        yield value, position
        position = _SPACE.match(text, end).end()
        if in_array and not text.startswith(("]", ","), position):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        position += in_array and text.startswith(",", position)


class _Decoder:
    """Decodes JSON values, and refuses objects that have a key of one of the columns twice."""

    def __init__(self, columns: Collection[str] = ()):
        self.keys = {part for column in columns for part in (column, *column.split("."))}
        self.position = 0  # where the last value begins
        # A file may write the characters of a key as such, or as escapes.
        self.quoted = {json.dumps(key, ensure_ascii=is_ascii) for key in self.keys for is_ascii in (False, True)}

    def decode(self, text: str, start: int) -> tuple[Any, int]:
        """The value at `start`, and its end.

        Raises:
            JSONDecodeError: there is no JSON value.
            _RepeatedKey: an object has a key twice.
        """
        self.position = start
        try:
            value, end = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except ValueError:
            value, end = _DECODER_OF_LONG_NUMBERS.raw_decode(text, start)
        for key in self.quoted:
            if text.count(key, start, end) > 1:  # counting is fast, and rules out a repeated key for most rows
                json.JSONDecoder(object_pairs_hook=self._check_keys, parse_int=_whole_number).raw_decode(text, start)
                break
        return value, end

    def _check_keys(self, pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs if name in self.keys]
        if len(names) > len(set(names)):
            raise _RepeatedKey(max(names, key=names.count))


def _json_failure(path: Path, error: Exception, start_line: int, line: int) -> str:
    """The sentence about a value at `line`, in a text that begins at `start_line`."""
    if isinstance(error, json.JSONDecodeError):
        reason = f"line {start_line - 1 + error.lineno} is not JSON ({error.msg} at column {error.colno})"
        return f"{path}, {reason}; correct it, or remove it."
    if isinstance(error, _RepeatedKey):
        return f"{path}, line {line} has the key '{error}' twice; remove one of the two."
    return f"{path}, line {line} is nested too deeply; correct it, or remove it."


def _rows_of(path: Path, line: int, value: Any, expand: Expand) -> Iterable[Row]:
    if not isinstance(value, dict):
        name = "null" if value is None else type(value).__name__
        raise UserError(
            f"{path}, line {line} holds {name}, but must hold a JSON object of columns and values; correct it, or "
            "remove it."
        )
    try:
        rows = expand(value)
        return [(line, value)] if rows is None else [(line, row) for row in rows]
    except WrongValue as error:
        raise UserError(f"{path}: {error}") from error


# Parquet


@contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    with _open(path) as file:
        _check_kind(path, file.read(64))
        file.seek(0)
        compressed = path.name.lower().endswith(".gz")
        with pq.ParquetFile(pa.BufferReader(file.read()) if compressed else path) as parquet:
            yield parquet


def _read_parquet(path: Path, columns: Collection[str]) -> Iterator[Row]:
    with _open_parquet(path) as file:
        names = file.schema_arrow.names
        roots = {name for name in names for column in columns if f"{column}.".startswith(f"{name}.")}
        _check_unique(path, names, roots)
        roots |= _only_id(names)
        number = 0
        for batch in file.iter_batches(_PARQUET_ROWS, columns=sorted(roots)):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _leaves(field: pa.Field, prefix: str = "") -> Iterator[str]:
    name, kind = prefix + field.name, field.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        for nested in kind:
            yield from _leaves(nested, f"{name}.")
    else:
        yield name
