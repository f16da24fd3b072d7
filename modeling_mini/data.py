"""From a corpus to rows of token ids: documents -> tokens -> packed rows, all through `datasets`."""

import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase

from . import corpus
from .corpus import python_documents
from .errors import UserError
from .modeling_mini import IGNORED_LABEL


EMBEDDED_CORPUS = "python-docs"

_FILE_FORMATS = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass
class DataArguments:
    """Where the text comes from, and how it becomes rows."""

    dataset: str = field(
        default=EMBEDDED_CORPUS,
        metadata={
            "help": f"'{EMBEDDED_CORPUS}' (embedded, no download), a local .txt, .jsonl, .json, .csv or .parquet "
            "file, a folder of such files, or a data set on the Hub."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the text."})
    text_unit: Literal["document", "paragraph", "line"] = field(
        default="document", metadata={"help": "What one document of a plain text file is."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to learn from."})
    validation_split: str = field(
        default="validation", metadata={"help": "Split to validate on; made from the training split if there is none."}
    )
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
    preprocessing_workers: int | None = field(default=None, metadata={"help": "Processes that tokenize."})
    split_seed: int = field(
        default=0, metadata={"help": "Seed of the split into training and validation, and of the order of a stream."}
    )


@dataclass
class PackedText:
    """Rows ready for the Trainer (`input_ids`, `position_ids`, `labels`, each of `block_size`), and their source size.

    The sizes of a stream are not known.
    """

    rows: Dataset | IterableDataset
    num_documents: int | None = None
    num_bytes: int | None = None
    num_tokens: int | None = None


def load_documents(args: DataArguments) -> tuple[Dataset | IterableDataset, Dataset]:
    """Training and validation documents, each a data set with the one column `text`.

    Without a validation split, `validation_fraction` of the documents is set aside at random (by `split_seed`); of a
    single document it is the last part, cut at a line; of a stream the first documents.

    Raises:
        UserError: the source, the split or the column does not exist, a file does not parse, or there is no text.
    """
    _check_data_arguments(args)
    path = Path(args.dataset)
    try:
        return _split_documents(_load_splits(path, args), args)
    except DatasetGenerationError as error:
        reason = _first_bad_json_line(path) or _first_line(error.__cause__ or error)
        raise UserError(f"{args.dataset} could not be read: {reason}") from error
    except (ConnectionError, FileNotFoundError) as error:  # DatasetNotFoundError is one of the latter
        if path.is_dir():
            endings = ", ".join(_FILE_FORMATS)
            raise UserError(f"--dataset {path}: the folder holds no file that ends in {endings}.") from error
        raise UserError(
            f"--dataset {args.dataset}: there is no such file or folder, and no such data set could be reached on the "
            "Hub; check the spelling and the connection."
        ) from error
    except ValueError as error:  # what is wrong with a stream, or with the configuration of a Hub data set
        raise UserError(f"--dataset {args.dataset}: {_first_line(error)}") from error


def _check_data_arguments(args: DataArguments) -> None:
    if not 0 < args.validation_fraction < 1:
        raise UserError(f"--validation_fraction is {args.validation_fraction}; give a share between 0 and 1.")
    if args.block_size < 8:
        raise UserError(f"--block_size is {args.block_size}; give at least 8 tokens.")
    for name in ("max_train_documents", "max_validation_documents", "preprocessing_workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; give at least 1, or leave it out.")


def _load_splits(path: Path, args: DataArguments) -> DatasetDict | IterableDatasetDict | dict[str, Dataset]:
    if args.dataset == EMBEDDED_CORPUS:
        documents = Dataset.from_generator(python_documents, fingerprint=_code_hash(corpus.__file__, sys.version))
        return {"train": documents.to_iterable_dataset() if args.streaming else documents}
    if path.is_file():
        if args.streaming and (reason := _first_bad_json_line(path)):  # or training would stop at that line
            raise UserError(f"{args.dataset} could not be read: {reason}")
        file_format = _file_format(path)
        options = {"data_files": str(path), **_text_options(file_format, args)}
        return load_dataset(file_format, streaming=args.streaming, **options)
    if path.is_dir():
        file_format = "text" if any(path.rglob("*.txt")) else None
        return load_dataset(str(path), streaming=args.streaming, **_text_options(file_format, args))
    return load_dataset(args.dataset, args.dataset_config, streaming=args.streaming)


def _split_documents(splits, args: DataArguments) -> tuple[Dataset | IterableDataset, Dataset]:
    if args.train_split not in splits:
        raise UserError(
            f"{args.dataset} has no split {args.train_split!r}; choose one of {', '.join(splits)} with --train_split."
        )
    train = _text_only(splits[args.train_split], args)
    validation = None
    if args.validation_split in splits and args.validation_split != args.train_split:
        validation = _text_only(splits[args.validation_split], args)
    if args.streaming:
        train, validation = _divide_stream(train, validation, args)
    elif validation is None:
        train, validation = _divide(train, args)
    if args.max_train_documents is not None:
        train = train.take(args.max_train_documents)
    if args.max_validation_documents is not None:
        validation = validation.take(args.max_validation_documents)
    for name, documents in (("training", train), ("validation", validation)):
        if isinstance(documents, Dataset) and len(documents) == 0:
            raise UserError(f"{args.dataset} has no {name} text; give documents that are not empty.")
    return train, validation


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
    """Where a file of JSON lines stops being one; `datasets` names only a row within a block of the file."""
    if not path.name.endswith(".jsonl"):
        return None
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                if line.strip():
                    json.loads(line)
            except ValueError as error:
                return f"line {number} is not JSON ({error})"
    return None


def _text_only(documents, args: DataArguments):
    """The text column alone, named `text`, without empty documents."""
    columns = documents.column_names or list(next(iter(documents), {}))  # a stream may not know its columns
    if args.text_column not in columns:
        found = ", ".join(columns)
        raise UserError(
            f"{args.dataset} has no column {args.text_column!r}; choose one of {found} with --text_column."
        )
    documents = documents.select_columns([args.text_column])
    if args.text_column != "text":
        documents = documents.rename_column(args.text_column, "text")
    return documents.filter(_HasText(args.dataset, args.text_column), **_map_options(args, "Dropping empty documents"))


@dataclass
class _HasText:
    source: str
    column: str

    def __call__(self, document: dict) -> bool:
        text = document["text"]
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"{self.source}: column {self.column!r} holds {type(text).__name__} where text is wanted; choose "
                "another with --text_column."
            )
        return bool(text and text.strip())


def _map_options(args: DataArguments, description: str) -> dict:
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


def _divide(documents: Dataset, args: DataArguments) -> tuple[Dataset, Dataset]:
    if len(documents) == 0:
        raise UserError(f"{args.dataset} has no text: every document is empty.")
    if len(documents) > 1:
        try:
            halves = documents.train_test_split(test_size=args.validation_fraction, seed=args.split_seed)
        except ValueError as error:  # one part would be empty
            raise UserError(
                f"{args.dataset} has {len(documents)} documents, of which --validation_fraction "
                f"{args.validation_fraction} leaves nothing on one side; choose another share."
            ) from error
        return halves["train"], halves["test"]
    text = documents[0]["text"]
    cut = text.rfind("\n", 0, int(len(text) * (1 - args.validation_fraction))) + 1
    if cut == 0:
        raise UserError(
            f"{args.dataset} is one document that cannot be cut at a line into training and validation; give more "
            "documents, a validation split, or --text_unit line or paragraph."
        )
    return Dataset.from_dict({"text": [text[:cut]]}), Dataset.from_dict({"text": [text[cut:]]})


def pack(
    documents: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, args: DataArguments, name: str
) -> PackedText:
    """Tokenize documents and pack them into rows of `block_size` tokens.

    Every token after the first of its document is the target of exactly one row. Positions start again at 0 with each
    document, which is how the model keeps documents apart.
    """
    tokenize = TokenizeDocuments(tokenizer)
    fill = PackRows(args.block_size, tokenizer.pad_token_id or 0)
    if isinstance(documents, IterableDataset):
        tokenized = documents.map(tokenize, batched=True, remove_columns=["text"])
        rows = tokenized.map(fill, batched=True, remove_columns=["input_ids", "num_bytes"])
        return PackedText(rows.shuffle(seed=args.split_seed, buffer_size=args.shuffle_buffer))
    tokenized = documents.map(
        tokenize, batched=True, remove_columns=["text"], **_map_options(args, f"Tokenizing {name} text")
    )
    # In one process: rows must not depend on how many processes share the documents.
    rows = tokenized.map(fill, batched=True, remove_columns=tokenized.column_names, desc=f"Packing {name} rows")
    num_tokens = sum(map(len, tokenized.with_format("numpy")["input_ids"]))
    return PackedText(rows, len(documents), sum(tokenized["num_bytes"]), num_tokens)


def check_training_rows(train: PackedText, args: DataArguments) -> None:
    """Refuse a training text that fills no row, or in which there is nothing to predict. Raises `UserError`."""
    if train.num_tokens is not None and train.num_tokens < args.block_size:
        raise UserError(
            f"The training text of {args.dataset} has {train.num_tokens} tokens, fewer than one row of --block_size "
            f"{args.block_size}; give more text or a smaller --block_size."
        )
    if isinstance(train.rows, Dataset) and len(train.rows) == 0:
        raise UserError(
            f"No document of {args.dataset} has a second token to predict from the first; give longer documents or "
            "another --text_unit."
        )


def _code_hash(path: str, *more: str) -> str:
    """Cache key of code: `datasets` hashes an importable function by its name, and would reuse stale rows."""
    return hashlib.sha256(b"\0".join([Path(path).read_bytes(), *(text.encode() for text in more)])).hexdigest()[:32]


_THIS_CODE = _code_hash(__file__)


@dataclass
class TokenizeDocuments:
    """Batched map: `text` -> `input_ids` (bos, the text, eos) and `num_bytes` (of the text in UTF-8)."""

    tokenizer: PreTrainedTokenizerBase
    code: str = _THIS_CODE

    def __call__(self, batch: dict) -> dict:
        # A document that spells out "<eos>" means those five characters.
        encoded = self.tokenizer(
            batch["text"],
            add_special_tokens=False,
            return_attention_mask=False,
            split_special_tokens=True,
            verbose=False,  # a document may be longer than the model: it is cut into rows
        )
        before = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        after = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        return {
            "input_ids": [before + ids + after for ids in encoded["input_ids"]],
            "num_bytes": [len(text.encode()) for text in batch["text"]],
        }


@dataclass
class PackRows:
    """Batched map: `input_ids` of documents -> rows of `block_size` with `position_ids` and `labels`.

    Consecutive rows share one token: the last of a row is the first of the next, where it has lost its past but gives
    the next token one. So each token is predicted once. The first token of a document is never a target, since only
    another document stands before it. The last row is filled with padding, which is a document of its own.
    """

    block_size: int
    pad_token_id: int
    code: str = _THIS_CODE

    def __call__(self, batch: dict) -> dict:
        documents = [np.asarray(ids) for ids in batch["input_ids"]]
        step = self.block_size - 1
        total = sum(map(len, documents))
        num_rows = max(1, -(-(total - 1) // step))
        length = num_rows * step + 1
        padding = length - total

        tokens = np.concatenate([*documents, np.full(padding, self.pad_token_id)])
        starts = np.cumsum([0, *map(len, documents)])  # of the documents, and of the padding
        document_start = np.repeat(starts, [*map(len, documents), padding])
        labels = tokens.copy()
        labels[starts[:-1]] = IGNORED_LABEL
        labels[total:] = IGNORED_LABEL

        index = np.arange(num_rows)[:, None] * step + np.arange(self.block_size)  # [rows, block_size]
        positions = index - np.maximum(document_start[index], index[:, :1])
        kept = (labels[index][:, 1:] != IGNORED_LABEL).any(axis=1)  # a row without a target teaches nothing
        return {
            "input_ids": tokens[index][kept],
            "position_ids": positions[kept],
            "labels": labels[index][kept],
        }
