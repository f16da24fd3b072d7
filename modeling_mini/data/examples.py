"""Examples of a data set: which columns an application reads, and whether each example can be used."""

import inspect
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from datasets import Dataset, IterableDataset

from ..errors import UserError
from .arguments import DataArguments
from .files import first_bad_json_line, row_location
from .fingerprint import code_hash


logger = logging.getLogger(__name__)

Examples = Dataset | IterableDataset


class ExampleFormat:
    """What an application reads of a data set.

    Attributes:
        columns: columns of an example; those in `text_columns` must hold text that is not blank.
        optional_columns: columns that it may also hold.
        group_column: examples with the same value in it are never split between training and validation.
    """

    columns: ClassVar[tuple[str, ...]]
    text_columns: ClassVar[tuple[str, ...]]
    optional_columns: ClassVar[tuple[str, ...]] = ()
    group_column: ClassVar[str | None] = None

    def __init__(self, args: DataArguments):
        self.args = args

    @property
    def code(self) -> tuple[str, ...]:
        """Cache key of the files that define how examples are read."""
        classes = [parent for parent in type(self).__mro__ if parent.__module__.partition(".")[0] == "modeling_mini"]
        return tuple(code_hash(inspect.getfile(parent)) for parent in classes)

    def read_file(self, path: Path) -> Dataset | None:
        """Examples of a file in a format of the application's own, or None if `datasets` reads the file."""
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
                    f"{{{column}}} holds {type(value).__name__}, but must hold text; correct it, or choose another "
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


def check_examples(examples: Examples, split: str, args: DataArguments, example_format: ExampleFormat) -> Examples:
    """The format's columns, under the format's names, without the examples that it does not use.

    Single wrong examples of a data set that is not a local file are skipped and counted.

    Raises:
        UserError: a column is missing, an example of a local file is wrong, or all examples of another data set are.
    """
    if isinstance(examples, Dataset):
        examples = examples.flatten()
    columns = examples.column_names or list(next(iter(examples), {}))  # a stream may not know its columns
    sources = _map_columns(columns, args, example_format)
    examples = examples.select_columns(list(sources.values()))
    renamed = {source: column for column, source in sources.items() if source != column}
    if renamed:
        examples = examples.rename_columns(renamed)
    examples = example_format.prepare(examples)
    check = _CheckExample(example_format, args.dataset, split, sources)
    used = examples.filter(check, with_indices=True, **map_options(args, f"Checking the {split} split"))
    if not check.is_local and isinstance(examples, Dataset) and len(used) < len(examples):
        _report_skipped(examples, check, args)
    return used


def _report_skipped(examples: Dataset, check: "_CheckExample", args: DataArguments) -> None:
    """Log how many examples are skipped. Raises `UserError` if all are wrong."""
    counting = map_options(args, f"Counting wrong examples in the {check.split} split")
    wrong = examples.filter(check.is_wrong, **counting)
    if len(wrong) == 0:
        return
    reason = check.problem(wrong[0]).partition(";")[0]  # without the advice, which is for the user's own file
    if len(wrong) == len(examples):
        raise UserError(
            f"{args.dataset}: no example of the split {check.split!r} can be used: {reason}; choose another data set."
        )
    count = f"{len(wrong):,} of {len(examples):,}"
    logger.warning("%s: %s examples of %r are skipped: %s", args.dataset, count, check.split, reason)


def _map_columns(columns: list[str], args: DataArguments, example_format: ExampleFormat) -> dict[str, str]:
    """Column of the format -> column of the data set."""
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
    optional = [column for column in example_format.optional_columns if column in {*named, *columns}]
    sources |= {column: named.get(column, column) for column in optional}
    for column, source in sources.items():
        if source not in columns:
            # If one line has another type of value, `datasets` does not see the columns nested in the other lines.
            if "." in source and (reason := first_bad_json_line(Path(args.dataset))):
                raise UserError(f"{args.dataset}: {reason}; correct it, or remove it.")
            raise UserError(
                f"{args.dataset} has no column {source!r}; choose the {column} from {', '.join(columns)} with "
                f"--columns {column}=NAME."
            )
    return sources


@dataclass
class _CheckExample:
    """A filter that keeps the examples that are used, and raises `UserError` at a wrong example of a local file."""

    example_format: ExampleFormat
    dataset: str
    split: str
    sources: dict[str, str]
    code: tuple[str, ...] = ()

    def __post_init__(self):
        self.code = self.example_format.code

    @property
    def is_local(self) -> bool:
        return Path(self.dataset).exists()

    def __call__(self, example: dict, index: int) -> bool:
        problem = self.problem(example)
        if problem is not None and self.is_local:
            raise UserError(f"{row_location(self.dataset, self.split, index)}: {problem}")
        return problem is None and self.example_format.is_used(example)

    def problem(self, example: dict) -> str | None:
        problem = self.example_format.find_problem(example)
        for column, source in self.sources.items() if problem else ():
            problem = problem.replace(f"{{{column}}}", repr(source))
        return problem

    def is_wrong(self, example: dict) -> bool:
        return self.problem(example) is not None


def map_options(args: DataArguments, description: str) -> dict:
    """Progress bar and processes for `Dataset.map`. A stream is mapped while it is read and takes neither."""
    return {} if args.streaming else {"desc": description, "num_proc": args.preprocessing_workers}
