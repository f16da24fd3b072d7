"""Which rows are used, and for what: `--where` and `--split_column`."""

import ast
import keyword
import operator
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import UserError, shortened
from .columns import WrongValue, lookup, name_some
from .files import SPLIT_WORDS, words_of


# Words in the names of columns that divide data sets: `split`, `data_split`, `meta.fold`, `is_test`, `in_train_set`.
_SPLIT_NAMES = {"split", "splits", "fold", "subset", "part", "partition", "set", "dataset", "phase", "stage", "usage"}
_NUMBERED = {"split", "partition"}  # may hold 0, 1 and 2; a `fold` of numbers is for cross-validation
_AROUND_FLAGS = {"is", "in", "for", "use", "used", "set", "split", "subset", "sample", "row", "data"}
_FLAGS = {"train", "training", "validation", "val"}  # without a word around: `test` may be a test of anything
_TRUE, _FALSE = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0"}
_HELP = "write for example --where \"domain == 'movies' and year >= 2000\"."
_COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, container: value in container,
    ast.NotIn: lambda value, container: value not in container,
}
_ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_MISSING = object()


@dataclass(frozen=True)
class Where:
    """A condition on the columns of a row: comparisons of columns with texts, numbers and lists, `and`, `or`, `not`.

    Nothing in it is run as Python: it is parsed, and only what is listed here is computed.

    Raises:
        UserError: the expression does not parse, or holds anything else.
    """

    expression: str

    def __post_init__(self):
        try:
            _check_condition(self._tree, self.expression)
        except RecursionError as error:
            raise UserError("--where is nested too deeply; write a shorter condition.") from error

    @cached_property
    def _tree(self) -> ast.expr:
        try:
            return ast.parse(self.expression.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
            raise UserError(
                f"--where {self.expression}: this is not a condition ({reason}); {_HELP} "
                'A column with another kind of name is row["my column"].'
            ) from error

    def __getstate__(self):  # without the tree
        return {"expression": self.expression}

    def __setstate__(self, state: dict):
        object.__setattr__(self, "expression", state["expression"])

    @property
    def columns(self) -> list[str]:
        """The columns that the condition reads."""
        names = []
        nodes = [self._tree]
        while nodes:
            node = nodes.pop(0)
            if (name := _column(node)) is not None:
                names.append(name)
            else:
                nodes += ast.iter_child_nodes(node)
        return list(dict.fromkeys(names))

    def check_columns(self, columns: Collection[str], source: str) -> None:
        """Raises `UserError` if the condition reads a column that the source does not have."""
        for name in self.columns:
            if name not in columns and not any(column.startswith(f"{name}.") for column in columns):
                raise UserError(
                    f"--where {self.expression}: {source} has no column {name!r}; "
                    f"its columns are {name_some(columns)}."
                )

    def matches(self, row: Mapping, is_text: bool = False) -> bool:
        """Whether the condition holds for a row. With `is_text`, all values are text, as in CSV.

        Raises:
            WrongValue: a column is compared with a value of another type.
        """
        return _holds(self._tree, row, is_text)


def _column(node: ast.AST) -> str | None:
    """The name of a column: `domain`, `meta.domain`, or `row["my domain"]`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (outer := _column(node.value)) is not None:
        return f"{outer}.{node.attr}"
    is_row = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "row"
    if is_row and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return node.slice.value
    return None


def _refuse(expression: str, part: ast.AST, reason: str):
    raise UserError(f"--where {expression}: {ast.unparse(part)!r} {reason}; {_HELP}")


def _check_condition(node: ast.expr, expression: str) -> None:
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            _check_condition(value, expression)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check_condition(node.operand, expression)
    elif isinstance(node, ast.Compare):
        _check_comparison(node, expression)
    else:
        _refuse(expression, node, "is not a comparison")


def _check_comparison(node: ast.Compare, expression: str) -> None:
    operands = [node.left, *node.comparators]
    for operand in operands:
        if _column(operand) is None and not _is_literal(operand):
            _refuse(expression, operand, "is not a column, a text in quotes, a number or a list of these")
    for comparison, right in zip(node.ops, node.comparators, strict=True):
        if type(comparison) not in _COMPARISONS:
            _refuse(expression, node, "compares with is; use == or !=")
        if isinstance(comparison, (ast.In, ast.NotIn)) and _column(right) is None and not _is_list(right):
            _refuse(expression, right, "is not a list or a column")
    if all(_column(operand) is None for operand in operands):
        _refuse(expression, node, "reads no column")


def _is_list(node: ast.expr) -> bool:
    return isinstance(node, (ast.List, ast.Tuple, ast.Set))


def _shown(value: Any) -> str:
    return shortened(repr(value), 80)


def _is_literal(node: ast.expr) -> bool:
    if _is_list(node):
        return all(_is_literal(element) and not _is_list(element) for element in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return isinstance(node.operand, ast.Constant) and type(node.operand.value) in (int, float)
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, bool, type(None)))


def _holds(node: ast.expr, row: Mapping, is_text: bool) -> bool:
    if isinstance(node, ast.BoolOp):
        holds = (_holds(value, row, is_text) for value in node.values)
        return all(holds) if isinstance(node.op, ast.And) else any(holds)
    if isinstance(node, ast.UnaryOp):
        return not _holds(node.operand, row, is_text)
    operands = [node.left, *node.comparators]
    return all(
        _compare(comparison, left, right, row, is_text)
        for comparison, left, right in zip(node.ops, operands, operands[1:], strict=False)
    )


def _compare(comparison: ast.cmpop, left: ast.expr, right: ast.expr, row: Mapping, is_text: bool) -> bool:
    values = [lookup(row, name) if (name := _column(node)) is not None else _literal(node) for node in (left, right)]
    for i, node in enumerate((left, right)):
        if is_text and _column(node) is not None:
            values[i] = _as_typed(values[i], values[1 - i])
    first, second = values
    if isinstance(comparison, (ast.In, ast.NotIn)):
        is_in = _is_in(first, second, _column(left) or _column(right), is_text)
        return is_in == isinstance(comparison, ast.In)
    if _MISSING in values or (isinstance(comparison, _ORDERED) and None in values):
        return isinstance(comparison, ast.NotEq)
    if None not in values:
        _check_types(first, second, _column(left) or _column(right))
    return _COMPARISONS[type(comparison)](first, second)


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(node)


def _is_in(value: Any, container: Any, column: str, is_text: bool) -> bool:
    if value is None or container is None:
        return isinstance(container, (list, tuple, set)) and None in container
    if isinstance(container, str):
        if not isinstance(value, str):
            raise WrongValue(
                f"{column!r}: {_shown(value)} is searched for in a text, but is not a text; put it in quotes."
            )
        return value in container
    if not isinstance(container, (list, tuple, set)):
        raise WrongValue(f"{column!r} holds {type(container).__name__}, which is not a list or a text.")
    if is_text:
        return any(_as_typed(value, element) == element for element in container)
    for element in container:
        if element is not None:
            _check_types(value, element, column)
    return value in container


def _as_typed(text: str | None, other: Any) -> Any:
    """A cell of CSV as the type that it is compared with; `_MISSING` if it cannot be."""
    if not isinstance(text, str):
        return text
    if isinstance(other, bool):
        return {"true": True, "false": False}.get(text.strip().lower(), _MISSING)
    if isinstance(other, (int, float)):
        try:
            return int(text) if text.strip().lstrip("+-").isdecimal() else float(text)
        except ValueError:
            return _MISSING
    return (text or None) if other is None else text


def _check_types(first: Any, second: Any, column: str) -> None:
    kinds = {float if type(value) in (int, float) else type(value) for value in (first, second)}
    if len(kinds) > 1:
        raise WrongValue(
            f"{column!r}: {_shown(first)} and {_shown(second)} cannot be compared ({type(first).__name__} and "
            f"{type(second).__name__}); put texts in quotes, and numbers without."
        )


def split_of(value: Any) -> str:
    """The split that a value of `--split_column` names; other names and whole numbers are splits of their own.

    Raises:
        WrongValue: the value is not a text or a whole number, or blank.
    """
    if isinstance(value, (bool, int)) or (isinstance(value, float) and value.is_integer()):
        return _plain(value)
    if not (isinstance(value, str) and value.strip()):
        raise WrongValue("does not name a split; write train, validation or test, or remove the row.")
    return SPLIT_WORDS.get(value.strip().lower(), value.strip())


def may_divide(name: str) -> bool:
    """Whether the name of a column, nested ones with dots, says that it may divide the rows into splits."""
    return _has_split_name(name) or _flagged_split(name) is not None


def advice_about_splits(name: str, values: Collection[Any]) -> str | None:
    """What a column holds, and the option that divides its rows, as part of a sentence.

    None if its name and its values together do not say that it divides the rows into splits: names of splits, 0 and 1
    (and 2), or a flag such as `is_test`.
    """
    shown = ", ".join(sorted(str(value) for value in values))
    divide = f"divide them with --split_column {shlex.quote(name)}"
    if _has_split_name(name) and _are_split_names(values):
        return f"names splits ({shown}), but all rows are used alike; {divide}."
    used = _flag_of_training(name, values) or _number_of_training(name, values)
    if not used:
        return None
    condition = f"{name if _is_identifier(name) else f'row[{name!r}]'} == {used[0]!r}"
    return (
        f'may mark splits ({shown}), but all rows are used alike; choose rows with --where "{condition}", or {divide} '
        f"--train_split {split_of(used[0])}."
    )


def _flag_of_training(name: str, values: Collection[Any]) -> list:
    """The value that marks training rows in a column such as `is_test` of flags; an empty list for other columns."""
    true, false = ([value for value in values if _plain(value).lower() in texts] for texts in (_TRUE, _FALSE))
    split = _flagged_split(name)
    if split is None or not true or not false or len(true) + len(false) < len(values):
        return []
    return true if split == "train" else false


def _number_of_training(name: str, values: Collection[Any]) -> list:
    """The lowest number in a column such as `partition` of 0, 1 and 2; an empty list for other columns."""
    is_numbered = _NUMBERED & {*words_of(_leaf(name))} and {_plain(value) for value in values} <= {"0", "1", "2"}
    return sorted(values, key=_plain)[:1] if is_numbered and len(values) > 1 else []


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _has_split_name(name: str) -> bool:
    words = words_of(_leaf(name))
    return not _SPLIT_NAMES.isdisjoint(words) or sum(word in SPLIT_WORDS for word in words) > 1


def _flagged_split(name: str) -> str | None:
    """The split whose rows a column such as `is_test` marks."""
    words = words_of(_leaf(name))
    splits = [word for word in words if word not in _AROUND_FLAGS]
    if len(splits) != 1 or splits == ["valid"]:  # `is_valid` mostly means that a row is good
        return None
    return SPLIT_WORDS.get(splits[0]) if len(words) > 1 or splits[0] in _FLAGS else None


def _are_split_names(values: Collection[Any]) -> bool:
    """Whether at least two values name different splits, and most values name one: others may be `challenge`."""
    names = [SPLIT_WORDS.get(value.strip().lower()) for value in values if isinstance(value, str)]
    return len({*names} - {None}) > 1 and 2 * names.count(None) < len(values)


def _plain(value: Any) -> str:
    """A whole number without `.0`, and `true` for True, as JSON writes them; text without spaces around it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _is_identifier(name: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))
