"""Columns of a row: names of nested values, and the types that an application needs."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import List, Value


class WrongValue(Exception):
    """A value of a type that the column cannot have. Its text continues the name of the column."""


@dataclass(frozen=True)
class ColumnType:
    """What a column holds: how it is stored, and `convert`, which raises `WrongValue` for any other value."""

    feature: Any
    convert: Callable[[Any], Any]


def lookup(row: Mapping, name: str) -> Any:
    """The value of a column, or None. `a.b` is the value of `b` in the object `a`, or in each object of the list `a`.

    Raises:
        WrongValue: `a` is neither.
    """
    if name in row or "." not in name:
        return row.get(name)
    for position in (index for index, character in enumerate(name) if character == "."):
        head, tail = name[:position], name[position + 1 :]
        if head not in row:
            continue
        value = row[head]
        if value is None:
            return None
        if isinstance(value, Mapping):
            return lookup(value, tail)
        if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            return [lookup(item, tail) for item in value]
        raise WrongValue(
            f"holds {type(value).__name__} in {head!r}, but must hold an object with {tail!r}; correct it."
        )
    return None


def column_names(row: Mapping) -> Iterator[str]:
    """The names of the columns of a row as `lookup` takes them, nested ones with dots."""
    for name, value in row.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, Mapping) and inner:
            yield from (f"{name}.{nested}" for nested in column_names(inner))
        else:
            yield str(name)


def name_some(names: Iterable[str], count: int = 20) -> str:
    """The first names, as part of a sentence."""
    names = list(names)
    shown = ", ".join(name if len(name) <= 80 else f"{name[:77]}..." for name in names[:count])
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"


def spelling(name: str) -> str:
    """The same text for names that differ only in spaces, capital letters, Unicode form, or as 1 and 1.0."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    text = " ".join(unicodedata.normalize("NFKC", visible.casefold()).split())
    return re.sub(r"(?<=\d)\.0+$", "", text) if re.fullmatch(r"[+-]?\d+\.0+", text) else text


def quoted(names: Iterable[str]) -> list[str]:
    """The names in quotes, so that spaces show; with codes of characters if names would look the same."""
    names = list(names)
    look_alike = len({unicodedata.normalize("NFC", name) for name in names}) < len(names)
    return [ascii(name) if look_alike else repr(name) for name in names]


def kind_of(value: Any) -> str:
    """What a value is, for a sentence: its type, or `NaN` and `Infinity`, as JSON files of Python have them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity, or a number that is too large"
    return type(value).__name__


def _to_text(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise WrongValue(
            f"holds {kind_of(value)}, but must hold text; correct it, or choose another column with "
            "--columns {column}=NAME."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise WrongValue(
            f"holds half of a surrogate pair ({ascii(value[error.start])[1:-1]}), which is not a character; correct "
            "it, or remove the row."
        ) from error
    return value


def _to_label(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if value is not None and not isinstance(value, str):
        raise WrongValue(f"holds {kind_of(value)}, but must hold a name or a whole number; correct it.")
    return _to_text(value)


def _to_texts(value: Any) -> list[str]:
    if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise WrongValue(
            "is not a list of texts; write answers in JSON, as in SQuAD, and [] for no answer, or remove the row."
        )
    return [_to_text(item) for item in value]


def _to_answers(value: Any) -> list[str]:
    if value is None or isinstance(value, str):
        return one_answer(_to_text(value))
    try:
        return _to_texts(value)
    except WrongValue as error:
        raise WrongValue("is neither a text nor a list of texts; correct it, or remove the row.") from error


def one_answer(text: str | None) -> list[str]:
    """The answers of a column with one plain text per row; a blank text is not an answer."""
    return [text] if text and text.strip() else []


def _to_numbers(value: Any) -> list[int]:
    numbers = value if isinstance(value, list) else [None]
    numbers = [int(n) if isinstance(n, float) and n.is_integer() else n for n in numbers]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise WrongValue("is not a list of whole numbers; write answers in JSON, as in SQuAD, and [] for no answer.")
    if too_large := next((number for number in numbers if abs(number) >= 2**63), None):
        digits = len(str(abs(too_large)))
        raise WrongValue(
            f"holds a number of {digits} digits, which is not a position in a text; correct it, or remove the row."
        )
    return numbers


def _to_numbers_if_any(value: Any) -> list[int] | None:
    try:
        return _to_numbers(value)
    except WrongValue:
        return None


TEXT = ColumnType(Value("string"), _to_text)
LABEL = ColumnType(Value("string"), _to_label)
TEXTS = ColumnType(List(Value("string")), _to_texts)
ANSWERS = ColumnType(List(Value("string")), _to_answers)
NUMBERS = ColumnType(List(Value("int64")), _to_numbers)
NUMBERS_IF_ANY = ColumnType(List(Value("int64")), _to_numbers_if_any)  # for a column that a task can do without
