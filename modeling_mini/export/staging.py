"""The folder in which an export is written before its files get their final names."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def staging_folder(output: Path) -> Iterator[Path]:
    """A new folder next to `output`, which is removed at the end; those of exports that were killed are removed first.

    A running export holds a lock on its folder, which the system releases however the process ends.
    """
    prefix = f".{output.name}-unfinished-export-"
    _remove_leftovers(output.parent, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=output.parent) as folder:
        lock = _lock(Path(folder))
        try:
            yield Path(folder)
        finally:
            if lock is not None:
                os.close(lock)


def _remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove folders with this prefix, except those that are locked, or empty: an export may have just made those."""
    for folder in [path for path in parent.iterdir() if path.name.startswith(prefix)]:
        if folder.is_symlink() or not folder.is_dir() or (lock := _lock(folder)) is None:
            continue
        if any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder: the open descriptor, or None if another process holds it, or the file system has no locks."""
    with suppress(OSError, ImportError):  # Windows has no fcntl
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
    return None
