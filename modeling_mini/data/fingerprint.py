"""Fingerprints of code, as keys for the cache of `datasets`."""

import hashlib
from pathlib import Path


def code_hash(path: str, *more: str) -> str:
    """Cache key of a source file. `datasets` hashes an importable function by name only and would reuse old rows."""
    return hashlib.sha256(b"\0".join([Path(path).read_bytes(), *(text.encode() for text in more)])).hexdigest()[:32]
