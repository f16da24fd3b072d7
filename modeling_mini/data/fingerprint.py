"""Fingerprints of code, tokenizers and rows: keys for the cache, and a check that a resumed run has the same data."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    """Hash of the content of all columns, wherever it is stored. Reads the rows in batches, about 1 GB a second."""
    hashes = defaultdict(xxhash.xxh3_128)
    for table in rows.with_format("arrow").iter(1000):
        for name in table.column_names:
            for chunk in table[name].chunks:
                _update(hashes, name, chunk)
    parts = [(name, content.hexdigest()) for name, content in sorted(hashes.items())]
    return xxhash.xxh3_128(json.dumps([sorted(rows.column_names), parts]).encode()).hexdigest()


def _update(hashes: dict[str, xxhash.xxh3_128], name: str, values: pa.Array) -> None:
    """Add values to the hashes of their parts: the same in one chunk or in several. The length of a null is -1."""
    if pa.types.is_struct(values.type):
        for field, part in zip(values.type, values.flatten(), strict=True):
            _update(hashes, f"{name}.{field.name}", part)
    elif pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        _update(hashes, f"{name} lengths", pc.fill_null(values.value_lengths(), -1))
        _update(hashes, f"{name} values", values.flatten())
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        _update(hashes, f"{name} lengths", pc.fill_null(pc.binary_length(values), -1))
        hashes[name].update(_text_bytes(values))
    else:
        array = values.to_numpy(zero_copy_only=False)
        hashes[name].update(repr(values.to_pylist()).encode() if array.dtype.hasobject else array.tobytes())


def _text_bytes(texts: pa.Array) -> pa.Buffer:
    """The bytes of all texts, one after the other."""
    texts = pc.fill_null(texts, "")
    _, offsets, content = texts.buffers()
    offset_type = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    offsets = np.frombuffer(offsets, offset_type)[texts.offset : texts.offset + len(texts) + 1]
    return content.slice(offsets[0], offsets[-1] - offsets[0]) if content and len(texts) else pa.py_buffer(b"")
