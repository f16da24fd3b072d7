"""Where examples come from: embedded data, files, folders and the Hub, as splits of checked examples."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from datasets import Dataset, Features, IterableDataset, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from .embedded import EMBEDDED, load_embedded
from .errors import UserError
from .tasks import task_names


if TYPE_CHECKING:
    from .task import Task

Examples = Dataset | IterableDataset

_FILE_FORMATS = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass
class DataArguments:
    """What is learnt, where its examples come from, and how they become rows."""

    task: str = field(
        default="text-generation",
        metadata={"help": "What the model learns to do, as the Hub names it.", "choices": task_names()},
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A local .txt, .jsonl, .json, .csv or .parquet file, a folder of such files, a data set on the "
            f"Hub, or one that is embedded and needs no download ({', '.join(EMBEDDED)}); the task's own embedded "
            "data if not given."
        },
    )
    dataset_config: str | None = field(
        default=None,
        metadata={"help": "Configuration of a Hub data set; of the embedded message-catalogues, the language."},
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Which column of the data set is which of the task, where the names differ: "
            "document=article summary=highlights, or source=translation.en for a nested one."
        },
    )
    text_unit: Literal["document", "paragraph", "line"] = field(
        default="document", metadata={"help": "What one document of a plain text file is."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to learn from."})
    validation_split: str = field(
        default="validation", metadata={"help": "Split to validate on; made from the training split if there is none."}
    )
    test_split: str = field(default="test", metadata={"help": "Split that only `modeling-mini eval` looks at."})
    validation_fraction: float = field(
        default=0.05, metadata={"help": "Share of the documents to validate on when no split is given."}
    )
    max_train_documents: int | None = field(default=None, metadata={"help": "Read at most so many documents."})
    max_validation_documents: int | None = field(
        default=None,
        metadata={"help": "Validate on at most so many documents; 500 of a stream unless told otherwise."},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the text while training; needs --max_steps, and resumes exactly within the first pass."
        },
    )
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows among which a stream is shuffled."})
    block_size: int = field(default=256, metadata={"help": "Tokens in a row."})
    max_source_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Read at most so many tokens of what is translated or summarized; all that fit if left out."
        },
    )
    max_target_tokens: int = field(
        default=64, metadata={"help": "Longest translation, summary or answer, in tokens; the rest is cut off."}
    )
    stride: int = field(
        default=64, metadata={"help": "Tokens that two neighbouring windows of a long context share (answering)."}
    )
    mask_probability: float = field(
        default=0.15, metadata={"help": "Share of the tokens that fill-mask learns to predict."}
    )
    preprocessing_workers: int | None = field(default=None, metadata={"help": "Processes that tokenize."})
    split_seed: int = field(
        default=0, metadata={"help": "Seed of the split into training and validation, and of the order of a stream."}
    )


def load_splits(args: DataArguments, task: "Task", divide: bool = True) -> dict[str, Examples]:
    """`train`, `validation` and, where the source has it, `test`: examples with the task's columns alone, checked.

    Without a validation split, `validation_fraction` of the training examples is set aside at random (by
    `split_seed`); of a single text it is the last part, cut at a line; of a stream the first documents; nothing if
    `divide` is False.

    Raises:
        UserError: the source, the split or a column does not exist, a file does not parse, an example is not what the
            task wants, or there is none.
    """
    _check_data_arguments(args)
    path = Path(args.dataset)
    try:
        return _choose_splits(_read(path, args, task), args, task, divide)
    except DatasetGenerationError as error:
        reason = _first_bad_json_line(path) or _first_line(error.__cause__ or error)
        raise UserError(f"{args.dataset} could not be read: {reason}") from error
    except (ConnectionError, FileNotFoundError) as error:  # DatasetNotFoundError is one of the latter
        if path.is_dir():
            endings = ", ".join(_FILE_FORMATS)
            raise UserError(f"--dataset {path}: the folder holds no file that ends in {endings}.") from error
        raise UserError(
            f"--dataset {args.dataset}: there is no such file or folder, {_nearest_embedded(args)}"
        ) from error
    except ValueError as error:  # what is wrong with a stream, or with the configuration of a Hub data set
        raise UserError(f"--dataset {args.dataset}: {_first_line(error)}") from error


def _nearest_embedded(args: DataArguments) -> str:
    if nearest := get_close_matches(args.dataset, EMBEDDED, n=1, cutoff=0.8):
        return f"and the embedded data set is called {nearest[0]}."
    return "and no such data set could be reached on the Hub; check the spelling and the connection."


def _check_data_arguments(args: DataArguments) -> None:
    if not 0 < args.validation_fraction < 1:
        raise UserError(f"--validation_fraction is {args.validation_fraction}; give a share between 0 and 1.")
    if args.block_size < 8:
        raise UserError(f"--block_size is {args.block_size}; give at least 8 tokens.")
    for name in ("max_train_documents", "max_validation_documents", "preprocessing_workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; give at least 1, or leave it out.")


def _read(path: Path, args: DataArguments, task: "Task") -> Mapping[str, Examples]:
    """All splits of the source, as they come."""
    if args.dataset in EMBEDDED:
        splits = load_embedded(args.dataset, args.dataset_config)
        return {name: split.to_iterable_dataset() if args.streaming else split for name, split in splits.items()}
    if path.is_file():
        if path.stat().st_size == 0:
            raise UserError(f"{args.dataset} is empty; give a file with at least two examples.")
        if args.streaming and (reason := _first_bad_json_line(path)):  # or training would stop at that line
            raise UserError(f"{args.dataset} could not be read: {reason}")
        file_format = _file_format(path)
        if (examples := task.read_file(path)) is not None:
            return {"train": examples}
        options = {"data_files": str(path), **_text_options(file_format, args)}
        return load_dataset(file_format, streaming=args.streaming, **options)
    if path.is_dir():
        file_format = "text" if any(path.rglob("*.txt")) else None
        return load_dataset(str(path), streaming=args.streaming, **_text_options(file_format, args))
    return load_dataset(args.dataset, args.dataset_config, streaming=args.streaming)


def _choose_splits(
    splits: Mapping[str, Examples], args: DataArguments, task: "Task", divide: bool
) -> dict[str, Examples]:
    if args.train_split not in splits:
        raise UserError(
            f"{args.dataset} has no split {args.train_split!r}; choose one of {', '.join(splits)} with --train_split."
        )
    chosen = {"train": check_examples(splits[args.train_split], args.train_split, args, task)}
    for role, name in (("validation", args.validation_split), ("test", args.test_split)):
        if name in splits and name != args.train_split:
            chosen[role] = check_examples(splits[name], name, args, task)
    if args.streaming:
        chosen["train"], chosen["validation"] = _divide_stream(chosen["train"], chosen.get("validation"), args)
    elif divide and "validation" not in chosen:
        chosen["train"], chosen["validation"] = _divide(chosen["train"], args)
    for role, limit in (("train", args.max_train_documents), ("validation", args.max_validation_documents)):
        if limit is not None and role in chosen:
            chosen[role] = chosen[role].take(limit)
    for role, examples in chosen.items():
        if isinstance(examples, Dataset) and len(examples) == 0:
            name = {"train": "training"}.get(role, role)
            raise UserError(f"{args.dataset} has no {name} text; give documents that are not empty.")
    return chosen


def _file_format(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    for extension, file_format in _FILE_FORMATS.items():
        if name.endswith(extension):
            return file_format
    raise UserError(f"--dataset {path}: its ending is none of {', '.join(_FILE_FORMATS)}; convert or rename it.")


def _text_options(file_format: str | None, args: DataArguments) -> dict:
    return {"sample_by": args.text_unit} if file_format == "text" else {}


def _first_line(error: BaseException) -> str:
    hint = "; convert the file to UTF-8" if isinstance(error, UnicodeDecodeError) else ""
    return (str(error) or type(error).__name__).splitlines()[0] + hint


def _first_bad_json_line(path: Path) -> str | None:
    """Where a file of JSON lines stops being a table; `datasets` names only a row within a block of the file."""
    if not (path.name.endswith(".jsonl") and path.is_file()):
        return None
    kinds = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError as error:
                return f"line {number} is not JSON ({error})"
            if not isinstance(row, dict):
                return f"line {number} is no JSON object of columns and values"
            for column, value in row.items():
                kind = kinds.setdefault(column, type(value)) if value is not None else None
                if kind not in (None, type(value)) and {kind, type(value)} != {int, float}:
                    return (
                        f"line {number} has {type(value).__name__} in {column!r}, where the lines before it have "
                        f"{kind.__name__}"
                    )
    return None


def check_examples(examples: Examples, split: str, args: DataArguments, task: "Task") -> Examples:
    """The task's columns alone, by the task's names, without what the task passes over. Raises `UserError`."""
    if isinstance(examples, Dataset):
        examples = examples.flatten()
    found = examples.column_names or list(next(iter(examples), {}))  # a stream may not know its columns
    sources = _sources(found, args, task)
    examples = examples.select_columns(list(sources.values()))
    renamed = {source: column for column, source in sources.items() if source != column}
    if renamed:
        examples = examples.rename_columns(renamed)
    check = _CheckExample(task, args.dataset, split, sources)
    return examples.filter(check, with_indices=True, **map_options(args, f"Checking the {split} split"))


def _sources(found: list[str], args: DataArguments, task: "Task") -> dict[str, str]:
    """Column of the task -> column of the data set."""
    known = [*task.columns, *task.optional_columns]
    named = {}
    for item in args.columns:
        column, equals, source = item.partition("=")
        if not equals or column not in known:
            raise UserError(f"--columns {item}: write COLUMN=NAME with one of the task's columns {', '.join(known)}.")
        named[column] = source
    sources = {column: named.get(column, column) for column in task.columns}
    sources |= {column: named.get(column, column) for column in task.optional_columns if column in {*named, *found}}
    for column, source in sources.items():
        if source not in found:
            # One line with another kind of value keeps `datasets` from seeing what is nested in the others.
            if "." in source and (reason := _first_bad_json_line(Path(args.dataset))):
                raise UserError(f"{args.dataset}: {reason}; correct it, or remove it.")
            raise UserError(
                f"{args.dataset} has no column {source!r}; say which of {', '.join(found)} is the {column} with "
                f"--columns {column}=NAME."
            )
    return sources


@dataclass
class _CheckExample:
    """A filter that keeps what the task learns from, and raises `UserError` at the first example that is wrong."""

    task: "Task"
    dataset: str
    split: str
    sources: dict[str, str]

    def __call__(self, example: dict, index: int) -> bool:
        if problem := self.task.problem(example):
            for column, source in self.sources.items():
                problem = problem.replace(f"{{{column}}}", repr(source))
            raise UserError(f"{self.place(index)}: {problem}")
        return self.task.keeps(example)

    def place(self, index: int) -> str:
        path = Path(self.dataset)
        if path.name.endswith(".jsonl") and path.is_file():
            with path.open("rb") as lines:
                full = [number for number, line in enumerate(lines, start=1) if line.strip()]
            return f"{path}, line {full[index]}"
        return f"{self.dataset}, row {index + 1} of the split {self.split!r}"


def map_options(args: DataArguments, description: str) -> dict:
    """Progress and processes; a stream is mapped while it is read and takes neither."""
    return {} if args.streaming else {"desc": description, "num_proc": args.preprocessing_workers}


def _divide_stream(train: IterableDataset, validation: IterableDataset | None, args: DataArguments):
    held_out = args.max_validation_documents or 500
    if validation is None:
        validation, train = train.take(held_out), train.skip(held_out)
    if next(iter(train), None) is None:
        raise UserError(
            f"{args.dataset} has no document beyond the {held_out} that are held out for validation; hold out fewer "
            "with --max_validation_documents, or read it without --streaming."
        )
    return train, Dataset.from_list(list(validation.take(held_out)), features=Features({"text": Value("string")}))


def _divide(examples: Dataset, args: DataArguments) -> tuple[Dataset, Dataset]:
    if len(examples) == 0:
        raise UserError(f"{args.dataset} has no text: every document is empty.")
    if len(examples) > 1:
        try:
            halves = examples.train_test_split(test_size=args.validation_fraction, seed=args.split_seed)
        except ValueError as error:  # one part would be empty
            raise UserError(
                f"{args.dataset} has {len(examples)} documents, of which --validation_fraction "
                f"{args.validation_fraction} leaves nothing on one side; choose another share."
            ) from error
        return halves["train"], halves["test"]
    text = examples[0].get("text", "")
    cut = text.rfind("\n", 0, int(len(text) * (1 - args.validation_fraction))) + 1
    if cut == 0 or examples.column_names != ["text"]:
        raise UserError(
            f"{args.dataset} is one document that cannot be cut at a line into training and validation; give more "
            "documents, a validation split, or --text_unit line or paragraph."
        )
    return Dataset.from_dict({"text": [text[:cut]]}), Dataset.from_dict({"text": [text[cut:]]})
