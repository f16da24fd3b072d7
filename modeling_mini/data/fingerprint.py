"""Fingerprints of code, tokenizers and rows: keys for the cache, and a check that a resumed run has the same data."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import xxhash
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase


def code_hash(path: str, *more: str) -> str:
    """Cache key of a source file. `datasets` hashes an importable function by name only and would reuse old rows."""
    return hashlib.sha256(b"\0".join([Path(path).read_bytes(), *(text.encode() for text in more)])).hexdigest()[:32]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Cache key of a tokenizer: the same after it is saved and loaded, or has truncated or padded other texts."""
    if not tokenizer.is_fast:
        return Hasher.hash(tokenizer)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    del state["truncation"], state["padding"]  # of the last call
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    settings = [type(tokenizer).__name__, tokenizer.truncation_side, tokenizer.padding_side, special]
    return Hasher.hash(json.dumps([state, settings], sort_keys=True))


def content_hash(rows: Dataset) -> str:
    """Hash of all columns of rows: numbers, and lists of numbers. Reads the rows in batches, about 1 GB a second."""
    hashes = {name: (xxhash.xxh3_128(), xxhash.xxh3_128()) for name in sorted(rows.column_names)}
    for table in rows.with_format("arrow").iter(1000):
        for name, (values, lengths) in hashes.items():
            for chunk in table[name].chunks:
                if pa.types.is_list(chunk.type):
                    lengths.update(chunk.value_lengths().to_numpy().tobytes())
                    chunk = chunk.flatten()
                values.update(chunk.to_numpy(zero_copy_only=False).tobytes())
    parts = [(name, values.hexdigest(), lengths.hexdigest()) for name, (values, lengths) in hashes.items()]
    return Hasher.hash(json.dumps(parts))
