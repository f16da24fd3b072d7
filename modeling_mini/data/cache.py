"""Where prepared data is stored: texts for as long as a run lasts, and rows of token ids for later runs.

Both are folders in the cache of `datasets` (`HF_DATASETS_CACHE`):

    modeling_mini/sources/HOST-PROCESS/   the text of local files, in the form that is read fast; removed after the run
    modeling_mini/rows/FINGERPRINT.arrow  rows of token ids, for runs with the same text and settings
"""

import atexit
import os
import secrets
import shutil
import socket
from pathlib import Path

import datasets
from datasets.fingerprint import get_temporary_cache_files_directory
from filelock import FileLock, Timeout


_locks: dict[Path, FileLock] = {}  # of the folders that this process removes when it ends


def source_cache() -> Path:
    """The folder for the text of local files that this run reads.

    The processes of one run on one machine share the folder. The first of them to call this function removes it when
    it ends. Folders of processes that were killed are removed by the next run. Write a file under a temporary name and
    rename it, because another process of the run may look for it.

    Raises:
        OSError: the cache of `datasets` cannot be written.
    """
    sources = _root() / "sources"
    # The processes of a run have the same parent: torchrun, or another launcher.
    process = os.getppid() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else os.getpid()
    folder = sources / f"{socket.gethostname()}-{process}"
    if folder not in _locks:
        sources.mkdir(parents=True, exist_ok=True)
        if lock := _acquire(folder):
            _locks[folder] = lock
            atexit.register(_remove_own, folder, os.getpid())
            _remove_abandoned(sources)
    folder.mkdir(exist_ok=True)
    return folder


def rows_file(fingerprint: str) -> Path:
    """The file of the rows with this fingerprint, which later runs reuse.

    If caching is disabled in `datasets`, it is a new file that is removed at the end of the process.
    """
    if datasets.is_caching_enabled():
        return _root() / "rows" / f"{fingerprint}.arrow"
    return Path(get_temporary_cache_files_directory()) / f"{fingerprint}-{secrets.token_hex(8)}.arrow"


def _root() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "modeling_mini"


def _acquire(folder: Path) -> FileLock | None:
    """The lock of a folder, or None while another process holds it. A lock is released when its process dies."""
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _remove_abandoned(sources: Path) -> None:
    for folder in sources.iterdir():
        if folder.is_dir() and folder not in _locks and (lock := _acquire(folder)):
            _remove(folder, lock)


def _remove_own(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked
        _remove(folder, _locks.pop(folder))


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
