"""Packs documents or examples into rows of token ids of one length, with as little padding as possible."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from ..loss_mini import IGNORED_LABEL
from .arguments import DataArguments
from .examples import map_options
from .fingerprint import code_hash


THIS_CODE = code_hash(__file__)


@dataclass
class EncodedData:
    """Rows ready for the Trainer, and the size of their source.

    `row_length` is the length of a row in tokens, or the mean length if rows differ. The sizes of a stream are
    unknown.
    """

    rows: Dataset | IterableDataset
    row_length: int
    num_documents: int | None = None
    num_bytes: int | None = None
    num_tokens: int | None = None


def encoded_examples(rows: Dataset, num_bytes: int) -> EncodedData:
    """One example per row, without padding: the collator pads."""
    lengths = [len(ids) for ids in rows.with_format("numpy")["input_ids"]]
    return EncodedData(rows, round(sum(lengths) / max(len(rows), 1)), len(rows), num_bytes, sum(lengths))


def pack(
    documents: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, args: DataArguments, name: str
) -> EncodedData:
    """Tokenize documents and pack them into rows of `block_size` tokens.

    Every token of a document except the first is the target of exactly one row. Positions restart at 0 with each
    document: this is how the model separates documents.

    The rows of a stream never end: the stream is repeated in the same order. No pass has to fill its last batch with
    rows that were already read, and a resumed run counts rows from the start of the first pass.
    """
    tokenize = TokenizeDocuments(tokenizer)
    fill = PackRows(args.block_size, tokenizer.pad_token_id or 0)
    if isinstance(documents, IterableDataset):
        tokenized = documents.map(tokenize, batched=True, remove_columns=["text"])
        rows = tokenized.map(fill, batched=True, remove_columns=["input_ids", "num_bytes"])
        shuffled = rows.shuffle(seed=args.split_seed, buffer_size=args.shuffle_buffer)
        return EncodedData(shuffled.repeat(None), args.block_size)  # repeating first would favour small files
    tokenized = documents.map(
        tokenize, batched=True, remove_columns=["text"], **map_options(args, f"Tokenizing {name} text")
    )
    # In one process, so that the rows do not depend on the number of processes.
    rows = tokenized.map(fill, batched=True, remove_columns=tokenized.column_names, desc=f"Packing {name} rows")
    num_tokens = sum(map(len, tokenized.with_format("numpy")["input_ids"]))
    return EncodedData(rows, args.block_size, len(documents), sum(tokenized["num_bytes"]), num_tokens)


def check_training_rows(train: EncodedData, args: DataArguments) -> None:
    """Raises `UserError` if the training text does not fill a row or has no token to predict."""
    if train.num_tokens is not None and train.num_tokens < args.block_size:
        raise UserError(
            f"The training text of {args.dataset} has {train.num_tokens} tokens, fewer than one row of --block_size "
            f"{args.block_size}; give more text or a smaller --block_size."
        )
    if isinstance(train.rows, Dataset) and len(train.rows) == 0:
        raise UserError(
            f"No document of {args.dataset} has more than one token, so there is no token to predict; give longer "
            "documents or another --text_unit."
        )


@dataclass
class TokenizeDocuments:
    """Batched map: `text` -> `input_ids` (bos, the text, eos) and `num_bytes` (of the text in UTF-8)."""

    tokenizer: PreTrainedTokenizerBase
    code: str = THIS_CODE

    def __call__(self, batch: dict) -> dict:
        # If a document contains the characters "<eos>", they are text, not the special token.
        encoded = self.tokenizer(
            batch["text"],
            add_special_tokens=False,
            return_attention_mask=False,
            split_special_tokens=True,
            verbose=False,  # a document may be longer than a row
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

    The last token of a row is repeated as the first token of the next row: it is the context for the token after it,
    so that each token is predicted once. The first token of a document is never a target, because the token before it
    belongs to another document. The last row is filled with padding, which counts as a document.
    """

    block_size: int
    pad_token_id: int
    code: str = THIS_CODE

    def __call__(self, batch: dict) -> dict:
        documents = [np.asarray(ids) for ids in batch["input_ids"]]
        step = self.block_size - 1
        total = sum(map(len, documents))
        num_rows = max(1, -(-(total - 1) // step))
        length = num_rows * step + 1
        padding = length - total

        tokens = np.concatenate([*documents, np.full(padding, self.pad_token_id)])
        starts = np.cumsum([0, *map(len, documents)])  # start of each document, then of the padding
        document_start = np.repeat(starts, [*map(len, documents), padding])
        labels = tokens.copy()
        labels[starts[:-1]] = IGNORED_LABEL
        labels[total:] = IGNORED_LABEL

        index = np.arange(num_rows)[:, None] * step + np.arange(self.block_size)  # [rows, block_size]
        positions = index - np.maximum(document_start[index], index[:, :1])
        has_target = (labels[index][:, 1:] != IGNORED_LABEL).any(axis=1)  # a row without a target has no loss
        return {
            "input_ids": tokens[index][has_target],
            "position_ids": positions[has_target],
            "labels": labels[index][has_target],
        }


@dataclass
class PackExamples:
    """Batched map: examples of `input_ids` and `prompt_length` -> rows of `block_size`. No example is split.

    The longest examples are placed first, each into the first row with room for it. Positions restart at 0 with each
    example, and with the padding at the end of a row. Prompts and padding are not targets.
    """

    block_size: int
    pad_token_id: int
    code: str = THIS_CODE

    def __call__(self, batch: dict) -> dict:
        examples = sorted(zip(batch["input_ids"], batch["prompt_length"], strict=True), key=lambda e: -len(e[0]))
        rows, free = [], np.empty(0, dtype=int)
        for example in examples:
            fitting = np.flatnonzero(free >= len(example[0]))
            if fitting.size == 0:
                rows.append([])
                free = np.append(free, self.block_size)
                fitting = [len(rows) - 1]
            rows[fitting[0]].append(example)
            free[fitting[0]] -= len(example[0])
        return {
            "input_ids": [self._fill([ids for ids, _ in row], self.pad_token_id) for row in rows],
            "position_ids": [
                np.concatenate([np.arange(len(ids)) for ids, _ in row] + [np.arange(room)])
                for row, room in zip(rows, free, strict=True)
            ],
            "labels": [
                self._fill([[IGNORED_LABEL] * length + ids[length:] for ids, length in row], IGNORED_LABEL)
                for row in rows
            ],
        }

    def _fill(self, parts: list[list[int]], filler: int) -> list[int]:
        row = [value for part in parts for value in part]
        return row + [filler] * (self.block_size - len(row))
