"""Packs documents or examples into rows of token ids of one length, with as little padding as possible.

A stored row is compact: its token ids in the smallest integer type, and a few numbers from which the collator
`UnpackRows` makes positions and labels.

    input_ids       `[block_size]` token ids, with padding at the end
    starts          indices of the first token of each document, or example, that begins in the row
    prompt_lengths  number of tokens of each example that are not targets; packed documents have 1 for each
    padding         number of tokens of padding
"""

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, IterableDataset, List, Value
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from ..loss_mini import IGNORED_LABEL
from .arguments import DataArguments
from .cache import rows_file
from .fingerprint import code_hash, content_hash, tokenizer_hash


THIS_CODE = code_hash(__file__)

DOCUMENTS_PER_BATCH = 1000  # documents that are packed together
LINE_START = re.compile(r"(?<=\S)\n(?=\S)")  # spaces around a line break may be one token with it
CHARACTERS_AT_ONCE = 1_000_000  # the tokenizer needs about 100 bytes of memory for each token


@dataclass
class EncodedData:
    """Rows ready for the collator, and the size of their source.

    `row_length` is the length of a row in tokens, or the mean length if rows differ. The sizes of a stream are
    unknown. `first_rows` are the rows of the first documents of a stream. `unit` and `row_unit` are what a log calls
    the documents and the rows.
    """

    rows: Dataset | IterableDataset
    row_length: int
    num_documents: int | None = None
    num_bytes: int | None = None
    num_tokens: int | None = None
    first_rows: IterableDataset | None = None
    unit: str = "documents"
    row_unit: str = "rows of"

    @cached_property
    def fingerprint(self) -> str | None:
        """Hash of the content of the rows, or of a stream's first rows; None if a stream has none."""
        if isinstance(self.rows, Dataset):
            return content_hash(self.rows)
        rows = [row["input_ids"] for row in self.first_rows or ()]
        return content_hash(Dataset.from_dict({"input_ids": rows})) if rows else None


def encoded_examples(
    rows: Dataset, num_examples: int, num_bytes: int, unit: str = "examples", row_unit: str = "rows of on average"
) -> EncodedData:
    """Rows of examples without padding: the collator pads. An example has one row, or several."""
    num_tokens = int(row_lengths(rows).sum())
    row_length = round(num_tokens / max(len(rows), 1))
    return EncodedData(rows, row_length, num_examples, num_bytes, num_tokens, unit=unit, row_unit=row_unit)


def pack(
    documents: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, args: DataArguments, name: str
) -> EncodedData:
    """Tokenize documents and pack them into rows of `block_size` tokens.

    Every token of a document except the first is the target of exactly one row. Positions restart at 0 with each
    document: this is how the model separates documents.

    The rows of a stream never end: the stream is repeated in the same order. No pass has to fill its last batch with
    rows that were already read, and a resumed run counts rows from the start of the first pass.
    """
    dtype = token_type(tokenizer).dtype
    steps = TokenizeDocuments(tokenizer, dtype), PackRows(args.block_size, tokenizer.pad_token_id or 0)
    if isinstance(documents, IterableDataset):
        options = {"batched": True, "batch_size": DOCUMENTS_PER_BATCH, "remove_columns": ["text"]}
        rows = documents.map(Steps(steps), **options)
        shuffled = rows.shuffle(seed=args.split_seed, buffer_size=args.shuffle_buffer)
        first_rows = documents.take(DOCUMENTS_PER_BATCH).map(Steps(steps), **options)
        # Repeating before shuffling would favour small files.
        return EncodedData(shuffled.repeat(None), args.block_size, first_rows=first_rows)
    features = packed_features(tokenizer, args.block_size)
    rows = encode_batches(documents, steps, features, args, f"Encoding {name} text")
    sizes = len(documents), text_bytes(documents, ["text"]), column_sum(rows, "num_tokens")
    return EncodedData(rows, args.block_size, *sizes)


def encode_batches(
    examples: Dataset,
    steps: tuple[Callable[[dict], dict], ...],
    features: Features,
    args: DataArguments,
    description: str,
) -> Dataset:
    """Rows with these `features`, from functions that are applied one after the other to a batch of examples.

    Batches of 1,000 examples are counted from the first example, so that the rows do not depend on the number of
    processes. No intermediate result is stored. The rows are stored in a file, which is reused if the content of the
    examples, the tokenizers and the other attributes of the functions are the same. A function that has a tokenizer is
    a dataclass.

    Raises:
        OSError: the rows cannot be written, for example because the disk is full.
    """
    fingerprint = Hasher.hash([content_hash(examples), str(features), *map(_cache_key, steps)])
    batches = Dataset.from_dict({"start": range(0, len(examples), DOCUMENTS_PER_BATCH)})
    processes = min(args.preprocessing_workers or 1, len(batches))
    return batches.map(
        _EncodeBatch(examples, Steps(steps)),
        batched=True,
        batch_size=1,
        remove_columns=["start"],
        features=features,
        num_proc=processes if processes > 1 else None,
        new_fingerprint=fingerprint,
        cache_file_name=str(rows_file(fingerprint)),
        desc=f"{description} ({DOCUMENTS_PER_BATCH:,} at a time)",
    )


def _cache_key(step: Callable) -> tuple:
    tokenizer = getattr(step, "tokenizer", None)
    return (step,) if tokenizer is None else (replace(step, tokenizer=None), tokenizer_hash(tokenizer))


@dataclass
class Steps:
    """Batched map: functions that are applied one after the other."""

    steps: tuple[Callable[[dict], dict], ...]

    def __call__(self, batch: dict) -> dict:
        for step in self.steps:
            batch = step(batch)
        return batch


@dataclass
class _EncodeBatch:
    """Map over the starts of batches of stored examples."""

    examples: Dataset
    encode: Callable[[dict], dict]

    def __call__(self, batch: dict) -> dict:
        (start,) = batch["start"]
        return self.encode(self.examples[start : start + DOCUMENTS_PER_BATCH])


def forget_truncation(tokenizer: PreTrainedTokenizerBase) -> None:
    """Reset the truncation that a fast tokenizer keeps from its last call and would save in tokenizer.json."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()


def smallest_type(largest: int) -> Value:
    """The smallest type for integers from 0 to `largest`."""
    return Value(np.min_scalar_type(int(largest)).name)


def token_type(tokenizer: PreTrainedTokenizerBase) -> Value:
    """The smallest integer type for all ids of a tokenizer: two bytes up to 65,536 entries."""
    return smallest_type(max(tokenizer.get_vocab().values()))


def packed_features(tokenizer: PreTrainedTokenizerBase, block_size: int, **more: Value | List) -> Features:
    """Columns of packed rows, and `more` columns."""
    index = smallest_type(block_size)
    columns = {"input_ids": List(token_type(tokenizer)), "starts": List(index), "padding": index}
    return Features({**columns, "num_tokens": Value("int32"), **more})


def check_training_rows(train: EncodedData, args: DataArguments) -> None:
    """Raises `UserError` if the training text does not fill a row or has no token to predict."""
    if isinstance(train.rows, Dataset) and len(train.rows) == 0:
        raise UserError(
            f"No document of {args.dataset} has more than one token, so there is no token to predict; give longer "
            "documents or another --text_unit."
        )
    if train.num_tokens is not None and train.num_tokens < args.block_size:
        raise UserError(
            f"The training text of {args.dataset} has {train.num_tokens} tokens, fewer than one row of --block_size "
            f"{args.block_size}; give more text or a smaller --block_size."
        )


def text_bytes(examples: Dataset, columns: list[str]) -> int:
    """Bytes of the texts of these columns in UTF-8."""
    tables = examples.select_columns(columns).with_format("arrow").iter(DOCUMENTS_PER_BATCH)
    return sum(pc.sum(pc.binary_length(table[name])).as_py() or 0 for table in tables for name in columns)


def column_sum(rows: Dataset, column: str) -> int:
    """Sum of a column of integers."""
    tables = rows.select_columns([column]).with_format("arrow").iter(100_000)
    return sum(pc.sum(table[column]).as_py() or 0 for table in tables)


def row_lengths(rows: Dataset, column: str = "input_ids") -> np.ndarray:
    """Number of values that each row has in a column of lists."""
    tables = rows.select_columns([column]).with_format("arrow").iter(DOCUMENTS_PER_BATCH)
    lengths = [pc.list_value_length(table[column]).to_numpy() for table in tables]
    return np.concatenate(lengths) if lengths else np.empty(0, dtype=np.int32)


@dataclass
class TokenizeDocuments:
    """Batched map: `text` -> `input_ids` (bos, the text, eos), as arrays of `dtype`.

    If a document contains the characters "<eos>", they are text, not the special token.
    """

    tokenizer: PreTrainedTokenizerBase
    dtype: str = "int32"
    code: str = THIS_CODE

    def __call__(self, batch: dict) -> dict:
        parts = [self._divide(text) for text in batch["text"]]
        slices = slices_of_text(list(itertools.chain(*parts)), CHARACTERS_AT_ONCE)
        ids = itertools.chain.from_iterable(map(self._ids, slices))
        before, after = (
            np.array([] if token is None else [token], dtype=self.dtype)
            for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        )
        return {"input_ids": [np.concatenate([before, *itertools.islice(ids, len(texts)), after]) for texts in parts]}

    def _ids(self, texts: list[str]) -> list[np.ndarray]:
        if not self.tokenizer.is_fast:
            options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
            return [np.array(ids, dtype=self.dtype) for ids in self.tokenizer(texts, **options)["input_ids"]]
        tokenizer = self.tokenizer.backend_tokenizer  # without the offsets, masks and lists of the call above
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    def _divide(self, text: str) -> list[str]:
        """A long text in parts that together have the tokens of the whole text."""
        parts, start = [], 0
        while len(text) - start > 2 * CHARACTERS_AT_ONCE:
            lines = itertools.islice(LINE_START.finditer(text, start + CHARACTERS_AT_ONCE), 20)
            end = next((line.end() for line in lines if self._is_boundary(text, line.end())), None)
            if end is None:
                break
            parts.append(text[start:end])
            start = end
        return [*parts, text[start:]]

    def _is_boundary(self, text: str, index: int) -> bool:
        """Whether the text around an index has the same tokens if it is divided there."""
        left, right = text[index - 1000 : index], text[index : index + 1000]
        whole, *halves = self._ids([left + right, left, right])
        return np.array_equal(whole, np.concatenate(halves))


def slices_of_text(texts: list[str], characters: int) -> list[list[str]]:
    """Texts in slices of about so many characters, to limit the memory of the tokenizer. A text is not divided."""
    ends = np.cumsum([len(text) for text in texts])
    boundaries = np.flatnonzero(np.diff(ends // characters)) + 1
    edges = [0, *boundaries.tolist(), len(texts)]
    return [texts[start:end] for start, end in itertools.pairwise(edges)]


@dataclass
class PackRows:
    """Batched map: `input_ids` of documents -> packed rows of `block_size`, for `UnpackRows`.

    The last token of a row is repeated as the first token of the next row: it is the context for the token after it,
    so that each token is predicted once. The first token of a document is never a target, because the token before it
    belongs to another document. The last row is filled with padding, which counts as a document. A row without a
    target is left out.

    `num_tokens` counts the tokens since the last row. The sum is the number of tokens of the documents.
    """

    block_size: int
    pad_token_id: int
    code: str = THIS_CODE

    def __call__(self, batch: dict) -> dict:
        documents = [np.asarray(ids) for ids in batch["input_ids"]]
        step = self.block_size - 1
        total = sum(map(len, documents))
        num_rows = max(1, -(-(total - 1) // step))
        padding = num_rows * step + 1 - total
        filler = np.full(padding, self.pad_token_id, dtype=documents[0].dtype)
        tokens = np.concatenate([*documents, filler])
        starts = np.unique(np.cumsum([0, *map(len, documents)])[:-1])  # a document without tokens has no start
        starts = starts[starts < total]

        first = np.arange(num_rows) * step  # index of the first token of each row; first + step is the last
        last = np.minimum(first + step, total - 1)  # without padding
        begin = np.searchsorted(starts, first)
        end = np.searchsorted(starts, last, side="right")
        num_targets = (last - first) - (end - np.searchsorted(starts, first, side="right"))
        has_target = num_targets > 0  # a row without a target has no loss
        kept = np.flatnonzero(has_target)
        ends = last[kept] + 1
        ends[-1:] = total
        return {
            "input_ids": np.lib.stride_tricks.sliding_window_view(tokens, self.block_size)[::step][kept],
            "starts": [starts[begin[row] : end[row]] - first[row] for row in kept],
            "padding": np.where(kept == num_rows - 1, padding, 0),
            "num_tokens": np.diff(ends, prepend=0),
        }


@dataclass
class PackExamples:
    """Batched map: examples of `input_ids` and `prompt_length` -> packed rows, for `UnpackRows`. No example is split.

    The longest examples are placed first, each into the first row with room for it. Positions restart at 0 with each
    example, and with the padding at the end of a row. Prompts and padding are not targets.

    Other columns of the examples are numbers; a row has their sums.
    """

    block_size: int
    pad_token_id: int
    code: str = THIS_CODE

    def __call__(self, batch: dict) -> dict:
        lengths = [len(ids) for ids in batch["input_ids"]]
        rows, free = self._place(lengths)
        counts = [name for name in batch if name not in ("input_ids", "prompt_length")]
        filled = [
            [*(token for i in row for token in batch["input_ids"][i]), *[self.pad_token_id] * int(room)]
            for row, room in zip(rows, free, strict=True)
        ]
        return {
            "input_ids": filled,
            "starts": [np.cumsum([0, *(lengths[i] for i in row[:-1])]) for row in rows],
            "prompt_lengths": [[batch["prompt_length"][i] for i in row] for row in rows],
            "padding": free,
            "num_tokens": self.block_size - free,
            **{name: [sum(batch[name][i] for i in row) for row in rows] for name in counts},
        }

    def _place(self, lengths: list[int]) -> tuple[list[list[int]], np.ndarray]:
        """Indices of the examples of each row, and the number of tokens that are free in it."""
        rows, free = [], np.empty(0, dtype=int)
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            fitting = np.flatnonzero(free >= lengths[i])
            if fitting.size == 0:
                rows.append([])
                free = np.append(free, self.block_size)
                fitting = [len(rows) - 1]
            rows[fitting[0]].append(i)
            free[fitting[0]] -= lengths[i]
        return rows, free


@dataclass
class UnpackRows:
    """Collator: packed rows -> `input_ids`, `position_ids` and `labels`, each int64 `[B, T]`.

    Positions restart at 0 at the start of a row, of a document or example, and of the padding. A label is the token
    itself, or -100 for prompts, first tokens of documents, and padding.
    """

    def __call__(self, rows: list[Mapping]) -> dict[str, torch.Tensor]:
        ids = np.array([row["input_ids"] for row in rows], dtype=np.int64)  # [B, T]
        labels = ids.copy()
        start = np.zeros_like(ids)  # index of the start that is the last one before each token
        for row, row_labels, row_start in zip(rows, labels, start, strict=True):
            starts = np.asarray(row["starts"], dtype=np.int64)
            row_start[starts] = starts
            if "prompt_lengths" in row:
                for first, length in zip(starts, row["prompt_lengths"], strict=True):
                    row_labels[first : first + length] = IGNORED_LABEL
            else:
                row_labels[starts] = IGNORED_LABEL
            if row["padding"]:
                end = len(row_labels) - int(row["padding"])
                row_start[end] = end
                row_labels[end:] = IGNORED_LABEL
        positions = np.arange(ids.shape[1]) - np.maximum.accumulate(start, axis=1)
        columns = {"input_ids": ids, "position_ids": positions, "labels": labels}
        return {name: torch.from_numpy(column) for name, column in columns.items()}
