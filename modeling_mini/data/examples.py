"""Examples of a data set: which columns an application reads, and whether each example can be used."""

import inspect
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from datasets import Dataset, Features, IterableDataset

from ..errors import UserError
from .arguments import DataArguments
from .columns import ColumnType, WrongValue, column_names, kind_of, lookup, name_some, quoted, spelling
from .fingerprint import code_hash
from .formats import format_of, separated_by
from .tables import FILE, ID, LINE, PLACE, place_of


logger = logging.getLogger(__name__)

Examples = Dataset | IterableDataset
MAX_WRONG_SHARE = 0.1  # of the examples of a local file with a `SkippableProblem`


class SkippableProblem(str):
    """What is wrong with an example that is left out, unless too many are wrong."""

    __slots__ = ()


class ExampleFormat:
    """What an application reads of a data set.

    Attributes:
        columns: columns of an example; those in `text_columns` must hold text that is not blank.
        optional_columns: columns that it may also hold.
        varying_columns: optional columns that some splits may lack, unless --columns names them. The other ones are in
            every split and in what the model reads, or in none.
        column_types: what a column of a local file holds, if it is not text.
        advice_on_missing: for columns that many data sets lack, what to do without them.
        group_column: examples with the same value in it are never split between training and validation.
        present_columns: those of the optional columns that the training examples have; None until they are known.
    """

    columns: ClassVar[tuple[str, ...]]
    text_columns: ClassVar[tuple[str, ...]]
    optional_columns: ClassVar[tuple[str, ...]] = ()
    varying_columns: ClassVar[tuple[str, ...]] = ()
    column_types: ClassVar[dict[str, ColumnType]] = {}
    advice_on_missing: ClassVar[dict[str, str]] = {}
    group_column: ClassVar[str | None] = None

    def __init__(self, args: DataArguments):
        self.args = args
        self.present_columns: set[str] | None = None

    @property
    def agreed_columns(self) -> list[str]:
        """The optional columns that all splits, and what the model reads, have or lack together."""
        return [name for name in self.optional_columns if name not in self.varying_columns]

    @property
    def code(self) -> tuple[str, ...]:
        """Cache key of the files that define how examples are read."""
        classes = [parent for parent in type(self).__mro__ if parent.__module__.partition(".")[0] == "modeling_mini"]
        return tuple(code_hash(inspect.getfile(parent)) for parent in classes)

    def expand_row(self, row: dict) -> Iterable[dict] | None:
        """The rows that an object in a JSON file stands for, or None if it is itself a row.

        Raises:
            WrongValue: the object is in a known format, but not quite.
        """
        return None

    def prepare(self, examples: Examples) -> Examples:
        """Convert the examples of a split to what `find_problem` expects. The training split comes first."""
        return examples

    def find_problem(self, example: dict) -> str | None:
        """What is wrong with an example and how to fix it, or None; `{column}` stands for a column's name."""
        for column in self.text_columns:
            value = example[column]
            if value is not None and not isinstance(value, str):
                return (
                    f"{{{column}}} holds {kind_of(value)}, but must hold text; correct it, or choose another "
                    f"column with --columns {column}=NAME."
                )
            if not (value and value.strip()):
                return f"there is no {column} in {{{column}}}; fill it in, or remove the row."
        return None

    def is_used(self, example: dict) -> bool:
        """Whether an example without a problem is used."""
        return True

    def texts(self, examples: Examples) -> Iterable[str]:
        """The texts that a new tokenizer is trained on."""
        return column_texts(examples, self.text_columns)


def column_texts(examples: Examples, columns: Iterable[str]) -> Iterator[str]:
    """The texts of those columns that the examples have: all texts of an example, then those of the next."""
    for batch in examples.iter(1000):  # ten times as fast as one example at a time
        for texts in zip(*(batch[column] for column in columns if column in batch), strict=True):
            yield from texts


def check_examples(
    examples: Examples, split: str, args: DataArguments, example_format: ExampleFormat, files: Sequence[Path] = ()
) -> Examples:
    """The format's columns, under the format's names, without the examples that it does not use.

    Wrong examples of a data set that is not a local file are skipped and counted. Of local `files`, only those with a
    `SkippableProblem` are.

    Raises:
        UserError: a column is missing, or an optional one is not as in the training examples; an example of a local
            file is wrong, or too many examples are.
    """
    if files:
        named = args.named_columns
        sources = {column: named.get(column, column) for column in examples.column_names if column not in PLACE}
    else:
        if isinstance(examples, Dataset):
            examples = examples.flatten()
        row = features_or_row(examples)
        sources = map_columns(columns_of(row), args, example_format)
        examples = _with_columns(examples, sources, list(row), args.source_name)
    require_same_columns(sources, args.split_files.get(split, f"{args.source_name}, split {split!r}"), example_format)
    examples = example_format.prepare(examples)
    check = _CheckExample(example_format, args.source_name, split, sources, list(files))
    used = examples.filter(check, **map_options(args, f"Checking the {split} split"))
    if isinstance(examples, Dataset) and len(used) < len(examples):
        _report_skipped(examples, used, check, args)
    return used.remove_columns(list(PLACE)) if files else used


def require_same_columns(columns: Iterable[str], source: str, example_format: ExampleFormat) -> None:
    """Refuse optional columns that the training examples do not have, and the lack of one that they have.

    The first call defines which ones these are, if the model does not. Raises `UserError`.
    """
    present = {name for name in example_format.agreed_columns if name in columns}
    trained = example_format.present_columns
    if trained is None:
        example_format.present_columns = trained = present
    for name in sorted(trained - present):
        raise UserError(
            f"{source} has no {name}, but the training examples have one; add it, name its column with --columns "
            f"{name}=NAME, or choose other data."
        )
    for name in sorted(present - trained):
        raise UserError(
            f"{source} has a {name}, but the training examples have none; rename or remove the column, or choose "
            "other data."
        )


def features_or_row(examples: Examples) -> Features | dict:
    """The features of the examples, or the first row of a stream that does not know them."""
    return examples.features or next(iter(examples), {})


def columns_of(row: Features | dict) -> list[str]:
    """The names of the columns, nested ones with dots, of what `features_or_row` returns."""
    return list(row.flatten() if isinstance(row, Features) else column_names(row))


def _with_columns(examples: Examples, sources: dict[str, str], top_level: list[str], dataset: str) -> Examples:
    """The examples with only the columns of the format, which are read from `sources`."""
    if not {*sources.values()} <= {*top_level}:  # nested columns of a stream, which has no `flatten`
        parents = [
            name for name in top_level if any(f"{source}.".startswith(f"{name}.") for source in sources.values())
        ]
        examples = examples.select_columns(parents).map(_Columns(sources, dataset))
        return examples.select_columns(list(sources))
    examples = examples.select_columns(list(sources.values()))
    renamed = {source: column for column, source in sources.items() if source != column}
    return examples.rename_columns(renamed) if renamed else examples


@dataclass
class _Columns:
    """Map: a row of a stream -> the format's columns."""

    sources: dict[str, str]
    dataset: str

    def __call__(self, row: dict) -> dict:
        try:
            return {column: lookup(row, source) for column, source in self.sources.items()}
        except WrongValue as error:
            raise UserError(f"{self.dataset}: {error}") from error


def _report_skipped(examples: Dataset, used: Dataset, check: "_CheckExample", args: DataArguments) -> None:
    """Log how many examples are skipped. Raises `UserError` if too many are wrong."""
    counting = map_options(args, f"Counting wrong examples in the {check.split} split")
    wrong = examples.filter(check.is_wrong, **counting)
    if empty := len(examples) - len(used) - len(wrong):
        counts = f"{empty:,} of {len(examples):,}"
        logger.info("%s: %s documents of %r are empty and are not used", check.dataset, counts, check.split)
    if len(wrong) == 0:
        return
    problem, advice = check.problem(wrong[0]).partition(";")[::2]
    count = f"{len(wrong):,} of {len(examples):,}"
    if check.files:
        problem = f"{check.place(wrong[0])}: {problem}"
        if len(wrong) > MAX_WRONG_SHARE * len(examples):
            raise UserError(f"{count} examples of the split {check.split!r} are wrong. {problem};{advice}")
    elif len(wrong) == len(examples):  # without the advice, which is for the user's own file
        raise UserError(
            f"{check.dataset}: no example of the split {check.split!r} can be used: {problem}; choose another data "
            "set."
        )
    logger.warning("%s: %s examples of %r are skipped: %s", check.dataset, count, check.split, problem)


def map_columns(columns: list[str], args: DataArguments, example_format: ExampleFormat) -> dict[str, str]:
    """Column of the format -> column of the data set. Raises `UserError` for a column that does not exist."""
    accepted = [*example_format.columns, *example_format.optional_columns]
    named = {}
    for item in args.columns:
        column, equals, source = item.partition("=")
        if not equals or column not in accepted:
            raise UserError(
                f"--columns {item}: write COLUMN=NAME with one of the task's columns {', '.join(accepted)}."
            )
        named[column] = source
    if len(set(named.values())) < len(args.columns):
        raise UserError(f"--columns {' '.join(args.columns)}: name each column once.")
    sources = {column: named.get(column, column) for column in example_format.columns}
    unnamed = {*columns} - {*named.values()}  # a column that is read under another name is not read under its own
    optional = [column for column in example_format.optional_columns if column in named or column in unnamed]
    sources |= {column: named.get(column, column) for column in optional}
    for column, source in sources.items():
        if columns and source not in columns:
            raise UserError(missing_column(args.source_name, column, source, columns, example_format))
        if column not in named and source in named.values():
            other = next(name for name in named if named[name] == source)
            raise UserError(
                f"--columns {other}={source}: the {column} is in the column {source!r} too; add {column}=NAME."
            )
    return sources


def missing_column(where: str, column: str, source: str, columns: Sequence[str], example_format: ExampleFormat) -> str:
    """The sentence about a data set or file without a column of the format, which it calls `source`."""
    advice = example_format.advice_on_missing.get(column)
    hint = "" if advice is None else f" {advice}"
    is_csv = format_of(Path(where)) in ("csv", None)
    if is_csv and len(columns) == 1 and (mark := next((mark for mark in ";\t|," if mark in columns[0]), None)):
        return f"{where} has the one column {columns[0]!r}: its cells seem to be {separated_by(mark)}."
    if alike := next((name for name in columns if spelling(name) == spelling(source)), None):
        wanted, other = quoted([source, alike])
        hint += f" {other} differs from {wanted} only in spaces, capital letters or Unicode form."
    return (
        f"{where} has no column {source!r}; choose the {column} from {name_some(columns)} with --columns "
        f"{column}=NAME.{hint}"
    )


@dataclass
class _CheckExample:
    """A filter that keeps the examples that are used, and raises `UserError` at a wrong example of a local file."""

    example_format: ExampleFormat
    dataset: str
    split: str
    sources: dict[str, str]
    files: list[Path] = field(default_factory=list)
    code: tuple[str, ...] = ()

    def __post_init__(self):
        self.code = self.example_format.code

    def __call__(self, example: dict) -> bool:
        problem = self.example_format.find_problem(example)
        if problem is not None and self.files and not isinstance(problem, SkippableProblem):
            raise UserError(f"{self.place(example)}: {self.problem(example)}")
        return problem is None and self.example_format.is_used(example)

    def place(self, example: dict) -> str:
        return place_of(self.files[example[FILE]], example[LINE], example[ID])

    def problem(self, example: dict) -> str | None:
        problem = self.example_format.find_problem(example)
        for column, source in self.sources.items() if problem else ():
            problem = problem.replace(f"{{{column}}}", repr(source))
        return problem

    def is_wrong(self, example: dict) -> bool:
        return self.example_format.find_problem(example) is not None


def map_options(args: DataArguments, description: str) -> dict:
    """Progress bar and processes for `Dataset.map`. A stream is mapped while it is read and takes neither."""
    return {} if args.streaming else {"desc": description, "num_proc": args.preprocessing_workers}
