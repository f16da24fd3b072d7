"""Where examples come from: embedded data, files, folders and the Hub, as splits of checked examples."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from datasets import Dataset, Features, IterableDataset, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from .caching import code_hash
from .embedded import EMBEDDED, load_embedded
from .errors import UserError
from .tasks import task_class, task_names


if TYPE_CHECKING:
    from .task import Task

logger = logging.getLogger(__name__)

Examples = Dataset | IterableDataset

LEARNT_FROM = ("train", "validation")

_THIS_CODE = code_hash(__file__)
_SPLIT_WORDS = {"train": "train", "valid": "validation", "dev": "validation", "test": "test"}
_FILE_FORMATS = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


# What a checkpoint was trained with and must be read with, whatever it reads.
ENCODING_ARGUMENTS = (
    "task",
    "block_size",
    "max_source_tokens",
    "max_target_tokens",
    "stride",
    "unanswerable",
    "mask_probability",
)


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
        metadata={"help": "Read the text while training, again and again; needs --max_steps."},
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
    unanswerable: bool = field(
        default=True,
        metadata={
            "help": "Whether a context may lack the answer, as in SQuAD 2.0; --no_unanswerable for SQuAD 1.1 "
            "(answering)."
        },
    )
    mask_probability: float = field(
        default=0.15, metadata={"help": "Share of the tokens that fill-mask learns to predict."}
    )
    preprocessing_workers: int | None = field(default=None, metadata={"help": "Processes that tokenize."})
    split_seed: int = field(
        default=0, metadata={"help": "Seed of the split into training and validation, and of the order of a stream."}
    )


def choose_dataset(args: DataArguments) -> None:
    """Take the task's own data where none are named. Raises `UserError` if it has none."""
    args.dataset = args.dataset or task_class(args.task).embedded
    if args.dataset is None:
        raise UserError(f"{args.task} has no data of its own; name some with --dataset.")


def load_splits(
    args: DataArguments,
    task: "Task",
    divide: bool = True,
    roles: tuple[str, ...] = LEARNT_FROM,
    needs_train: bool = True,
) -> dict[str, Examples]:
    """Those of `train`, `validation` and `test` that `roles` names: examples with the task's columns alone, checked.

    Without a validation split, `validation_fraction` of the training examples is set aside at random (by
    `split_seed`), those that share the task's `group_column` together; of a single text it is the last part, cut at a
    line; of a stream the first documents; nothing if `divide` is False. What is wrong in a data set that is not the
    user's own files is passed over, and counted.

    Raises:
        UserError: the source, the split or a column does not exist, a file does not parse, an example is not what the
            task wants, or there is none.
    """
    check_data_arguments(args)
    path = Path(args.dataset)
    try:
        splits = _read(path, args, task)
        names = _split_names(splits, args, roles, needs_train)
        return _choose_splits({role: splits[name] for role, name in names.items()}, names, args, task, divide)
    except DatasetGenerationError as error:
        reason = _first_bad_json_line(path) or _reason(error.__cause__ or error)
        raise UserError(f"{args.dataset} could not be read: {reason}") from error
    except (ConnectionError, FileNotFoundError) as error:  # DatasetNotFoundError is one of the latter
        if path.is_dir():
            endings = ", ".join(_FILE_FORMATS)
            raise UserError(f"--dataset {path}: the folder holds no file that ends in {endings}.") from error
        raise UserError(
            f"--dataset {args.dataset}: there is no such file or folder, {_nearest_embedded(args)}"
        ) from error
    except (ValueError, RuntimeError) as error:  # a stream, the configuration of a Hub data set, one that is a script
        bad_line = _first_bad_json_line(path) if path.is_file() else None
        raise UserError(f"--dataset {args.dataset}: {bad_line or _reason(error)}") from error


def _nearest_embedded(args: DataArguments) -> str:
    if nearest := get_close_matches(args.dataset, EMBEDDED, n=1, cutoff=0.8):
        return f"and the embedded data set is called {nearest[0]}."
    return "and no such data set could be reached on the Hub; check the spelling and the connection."


def check_data_arguments(args: DataArguments) -> None:
    """Refuse what no task can use, before anything is read. Raises `UserError`."""
    for name in ("validation_fraction", "mask_probability"):
        if not 0 < getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; give a share between 0 and 1.")
    if args.block_size < 8:
        raise UserError(f"--block_size is {args.block_size}; give at least 8 tokens.")
    least = {"max_train_documents": 1, "max_validation_documents": 1, "preprocessing_workers": 1}
    for name, smallest in {**least, "max_source_tokens": 0, "max_target_tokens": 1, "stride": 0}.items():
        value = getattr(args, name)
        if value is not None and value < smallest:
            leave_out = ", or leave it out" if DataArguments.__dataclass_fields__[name].default is None else ""
            raise UserError(f"--{name} is {value}; give at least {smallest}{leave_out}.")


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
        if own := _read_own_files(path, task):
            return own
        file_format = "text" if any(path.rglob("*.txt")) else None
        return load_dataset(str(path), streaming=args.streaming, **_text_options(file_format, args))
    return load_dataset(args.dataset, args.dataset_config, streaming=args.streaming)


def _read_own_files(folder: Path, task: "Task") -> dict[str, Dataset]:
    """Splits from files in a format of the task's own, which have the name of their split in theirs."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        split = _split_of(path)
        if split is not None and (examples := task.read_file(path)) is not None:
            found[split] = examples
    return found


def _split_of(path: Path) -> str | None:
    """The split that a file has in its name."""
    return next((split for word, split in _SPLIT_WORDS.items() if word in path.name.lower()), None)


def _split_names(
    splits: Mapping[str, Examples], args: DataArguments, roles: tuple[str, ...], needs_train: bool
) -> dict[str, str]:
    """Which split of the source is which."""
    names = {}
    for role in roles:
        name = getattr(args, f"{role}_split")
        is_named = name != DataArguments.__dataclass_fields__[f"{role}_split"].default
        if name in splits:
            if role == "train" or name != args.train_split:
                names[role] = name
        elif is_named or (role == "train" and needs_train):
            raise UserError(
                f"{args.dataset} has no split {name!r}; choose one of {', '.join(splits)} with --{role}_split."
            )
    if not names:
        raise UserError(
            f"{args.dataset} has the splits {', '.join(splits)}; say with --{roles[-1]}_split which one is meant."
        )
    return names


def _choose_splits(
    found: Mapping[str, Examples], names: dict[str, str], args: DataArguments, task: "Task", divide: bool
) -> dict[str, Examples]:
    # The training split first: it says which labels there are.
    chosen = {
        role: check_examples(found[role], names[role], args, task)
        for role in ("train", "validation", "test")
        if role in names
    }
    if "train" in chosen and args.streaming:
        chosen["train"], chosen["validation"] = _divide_stream(chosen["train"], chosen.get("validation"), args)
    elif "train" in chosen and divide and "validation" not in chosen:
        chosen["train"], chosen["validation"] = _divide(chosen["train"], args, task.group_column)
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


def _reason(error: BaseException) -> str:
    """Why a source could not be read, in the user's terms where they are known."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, UnicodeDecodeError):
        return f"{reason}; convert the file to UTF-8"
    if empty := re.match(r"Instruction \"(\w+)\" corresponds to no data", reason):
        return f"there is no example for {empty[1]}; fill the file, or remove it."
    return reason


def _first_bad_json_line(path: Path) -> str | None:
    """Where a file of JSON lines, or one of a folder, stops being a table; `datasets` names only a row of a block."""
    if path.is_dir():
        found = ((file, _first_bad_json_line(file)) for file in sorted(path.rglob("*.jsonl")))
        return next((f"{file.relative_to(path)}, {reason}" for file, reason in found if reason), None)
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
    """The task's columns alone, by the task's names, without what the task passes over.

    Raises:
        UserError: a column is missing, or an example of a local file is not what the task wants; so is every example
            of another data set, of which single ones are passed over.
    """
    if isinstance(examples, Dataset):
        examples = examples.flatten()
    found = examples.column_names or list(next(iter(examples), {}))  # a stream may not know its columns
    sources = _sources(found, args, task)
    examples = examples.select_columns(list(sources.values()))
    renamed = {source: column for column, source in sources.items() if source != column}
    if renamed:
        examples = examples.rename_columns(renamed)
    examples = task.prepare(examples)
    check = _CheckExample(task, args.dataset, split, sources)
    kept = examples.filter(check, with_indices=True, **map_options(args, f"Checking the {split} split"))
    if not check.is_local and isinstance(examples, Dataset) and len(kept) < len(examples):
        wrong = examples.filter(check.is_wrong, **map_options(args, f"Counting what is wrong in the {split} split"))
        reason = check.problem(wrong[0]).partition(";")[0] if len(wrong) > 0 else None  # without advice on a file
        if 0 < len(wrong) == len(examples):
            raise UserError(
                f"{args.dataset}: no example of the split {split!r} can be used: {reason}; choose another."
            )
        if reason is not None:
            count = f"{len(wrong):,} of {len(examples):,}"
            logger.warning("%s: %s examples of %r are passed over: %s", args.dataset, count, split, reason)
    return kept


def _sources(found: list[str], args: DataArguments, task: "Task") -> dict[str, str]:
    """Column of the task -> column of the data set."""
    known = [*task.columns, *task.optional_columns]
    named = {}
    for item in args.columns:
        column, equals, source = item.partition("=")
        if not equals or column not in known:
            raise UserError(f"--columns {item}: write COLUMN=NAME with one of the task's columns {', '.join(known)}.")
        named[column] = source
    if len(set(named.values())) < len(args.columns):
        raise UserError(f"--columns {' '.join(args.columns)}: name each column once.")
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
    """A filter that keeps what the task learns from; at the first wrong example of a local file, `UserError`."""

    task: "Task"
    dataset: str
    split: str
    sources: dict[str, str]
    code: tuple[str, ...] = ()

    def __post_init__(self):
        self.code = _THIS_CODE, *self.task.code

    @property
    def is_local(self) -> bool:
        return Path(self.dataset).exists()

    def __call__(self, example: dict, index: int) -> bool:
        problem = self.problem(example)
        if problem is not None and self.is_local:
            raise UserError(f"{self.place(index)}: {problem}")
        return problem is None and self.task.keeps(example)

    def problem(self, example: dict) -> str | None:
        problem = self.task.problem(example)
        for column, source in self.sources.items() if problem else ():
            problem = problem.replace(f"{{{column}}}", repr(source))
        return problem

    def is_wrong(self, example: dict) -> bool:
        return self.problem(example) is not None

    def place(self, index: int) -> str:
        path = self._file()
        if path.name.endswith(".jsonl") and path.is_file():
            with path.open("rb") as lines:
                full = [number for number, line in enumerate(lines, start=1) if line.strip()]
            return f"{path}, line {full[index]}"
        return f"{path if path.is_file() else self.dataset}, row {index + 1} of the split {self.split!r}"

    def _file(self) -> Path:
        """The file that holds the split, or the folder where it is not one alone."""
        path = Path(self.dataset)
        files = [file for file in path.rglob("*") if file.suffix in _FILE_FORMATS and _split_of(file) == self.split]
        return files[0] if len(files) == 1 else path


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


def _divide(examples: Dataset, args: DataArguments, group_column: str | None) -> tuple[Dataset, Dataset]:
    if len(examples) == 0:
        raise UserError(f"{args.dataset} has no text: every document is empty.")
    if len(examples) > 1:
        return _divide_at_random(examples, args, group_column)
    text = examples[0].get("text", "")
    cut = text.rfind("\n", 0, int(len(text) * (1 - args.validation_fraction))) + 1
    if cut == 0 or examples.column_names != ["text"]:
        unit = ", or --text_unit line or paragraph" if examples.column_names == ["text"] else ""
        raise UserError(
            f"{args.dataset} holds one example, which cannot be divided into training and validation; give more, or a "
            f"validation split{unit}."
        )
    return Dataset.from_dict({"text": [text[:cut]]}), Dataset.from_dict({"text": [text[cut:]]})


def _divide_at_random(examples: Dataset, args: DataArguments, group_column: str | None) -> tuple[Dataset, Dataset]:
    groups = None if group_column is None else Dataset.from_dict({"group": examples.unique(group_column)})
    try:
        halves = (groups or examples).train_test_split(test_size=args.validation_fraction, seed=args.split_seed)
    except ValueError as error:  # one part would be empty
        count = f"{len(examples)} documents" if groups is None else f"{len(groups)} different {group_column}s"
        raise UserError(
            f"{args.dataset} has {count}, of which --validation_fraction {args.validation_fraction} leaves nothing on "
            "one side; choose another share."
        ) from error
    if groups is None:
        return halves["train"], halves["test"]
    held_out = set(halves["test"]["group"])
    places = {True: [], False: []}
    for place, group in enumerate(examples[group_column]):
        places[group in held_out].append(place)
    return examples.select(places[False]), examples.select(places[True])
