"""From documents or examples to rows of token ids of one length, with as little padding as possible."""

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

    `row_length` is the length of a row in tokens, a mean where rows differ. The sizes of a stream are unknown.
    """

    rows: Dataset | IterableDataset
    row_length: int
    num_documents: int | None = None
    num_bytes: int | None = None
    num_tokens: int | None = None


def encoded_examples(rows: Dataset, num_bytes: int) -> EncodedData:
    """Rows of one example each, which the collator pads."""
    lengths = [len(ids) for ids in rows.with_format("numpy")["input_ids"]]
    return EncodedData(rows, round(sum(lengths) / max(len(rows), 1)), len(rows), num_bytes, sum(lengths))


def pack(
    documents: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, args: DataArguments, name: str
) -> EncodedData:
    """Tokenize documents and pack them into rows of `block_size` tokens.

    Every token after the first of its document is the target of exactly one row. Positions restart at 0 with each
    document, which is how the model separates documents.

    The rows of a stream have no end: the stream is repeated in the same order, so that no pass has to fill its last
    batch with rows that were already read, and a resumed run counts rows from the start of the first pass.
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
    # In one process: rows must not depend on how many processes share the documents.
    rows = tokenized.map(fill, batched=True, remove_columns=tokenized.column_names, desc=f"Packing {name} rows")
    num_tokens = sum(map(len, tokenized.with_format("numpy")["input_ids"]))
    return EncodedData(rows, args.block_size, len(documents), sum(tokenized["num_bytes"]), num_tokens)


def check_training_rows(train: EncodedData, args: DataArguments) -> None:
    """Refuse a training text that fills no row, or has nothing to predict. Raises `UserError`."""
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


@dataclass
class TokenizeDocuments:
    """Batched map: `text` -> `input_ids` (bos, the text, eos) and `num_bytes` (of the text in UTF-8)."""

    tokenizer: PreTrainedTokenizerBase
    code: str = THIS_CODE

    def __call__(self, batch: dict) -> dict:
        # The characters "<eos>" in a document are text, not the special token.
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

    The last token of a row is also the first token of the next row, as the context of the token after it, so that each
    token is predicted once. The first token of a document is never a target, because the token before it belongs to
    another document. The last row is filled with padding, which counts as a document.
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
        starts = np.cumsum([0, *map(len, documents)])  # of the documents, and of the padding
        document_start = np.repeat(starts, [*map(len, documents), padding])
        labels = tokens.copy()
        labels[starts[:-1]] = IGNORED_LABEL
        labels[total:] = IGNORED_LABEL

        index = np.arange(num_rows)[:, None] * step + np.arange(self.block_size)  # [rows, block_size]
        positions = index - np.maximum(document_start[index], index[:, :1])
        kept = (labels[index][:, 1:] != IGNORED_LABEL).any(axis=1)  # a row without a target has no loss
        return {
            "input_ids": tokens[index][kept],
            "position_ids": positions[kept],
            "labels": labels[index][kept],
        }


@dataclass
class PackExamples:
    """Batched map: examples of `input_ids` and `prompt_length` -> rows of `block_size`, with every example in one row.

    The longest examples go first, each into the first row with room for it. Positions restart at 0 with each example,
    and with the padding at the end of a row; neither prompts nor padding are targets.
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
        flat = [value for part in parts for value in part]
        return flat + [filler] * (self.block_size - len(flat))
