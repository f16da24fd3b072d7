"""One run at a time in an output folder."""

import json
import os
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from ..errors import UserError
from ..json_files import parse


LOCK_NAME = "_lock.json"  # with an underscore, so that the Trainer does not push it
START_OF_LOCK = '{"process": '  # as `_acquire` writes it; a kill may leave less
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # of Linux


@contextmanager
def locked(output_dir: str | Path, is_first_process: bool) -> Iterator[None]:
    """Hold the lock of an output folder: a file with the process and the host that write there.

    The lock of a process that is gone is replaced, if it ran on this host. A folder that does not exist yet is created
    for the lock, and removed again if nothing else was written.

    Args:
        is_first_process: the other processes of a run write only what the first one asks for, and take no lock.

    Raises:
        UserError: another run writes there, or may do so; the folder cannot be written; or the name of the lock is
            taken by something else.
    """
    if not is_first_process:
        yield
        return
    folder = Path(output_dir)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(folder / LOCK_NAME)
    except OSError as error:
        raise UserError(f"--output_dir {folder} cannot be written: {error.strerror}; choose another.") from error
    try:
        yield
    finally:
        (folder / LOCK_NAME).unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # the run has written something
                folder.rmdir()


def _acquire(path: Path) -> None:
    holder = {"process": os.getpid(), **start_of(psutil.Process()), "host": socket.gethostname()}
    complete = path.with_name(f"{LOCK_NAME}.{os.getpid()}.part")
    complete.write_text(json.dumps(holder) + "\n", encoding="utf-8")
    try:
        for _ in range(3):
            try:
                _create(path, complete)
                return
            except FileExistsError:
                _remove_stale(path)
    finally:
        complete.unlink()
    raise UserError(f"{path} is taken by several runs at once; choose another --output_dir for this one.")


def _create(path: Path, complete: Path) -> None:
    """Create a lock with the content of a complete file. Raises `FileExistsError` if there is a lock."""
    try:
        os.link(complete, path)  # never shows half of a lock
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: exFAT, or a mounted cloud drive
        with path.open("x", encoding="utf-8") as file:
            file.write(complete.read_text(encoding="utf-8"))


def _remove_stale(path: Path) -> None:
    """Remove the lock of a process that is gone.

    Raises:
        UserError: the process may still be running, or no run wrote the file.
    """
    _require_file(path)
    text = _read(path)
    if not START_OF_LOCK.startswith(text[: len(START_OF_LOCK)]):
        raise UserError(
            f"{path} was not written by a run of this program, which would overwrite it; rename it, or choose another "
            "--output_dir."
        )
    if not _is_stale(text):
        raise UserError(_in_use(path, text))
    # Renamed first: if another run has replaced the lock since it was read, that run gets it back.
    renamed = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        path.rename(renamed)
        if _read(renamed) != text:
            renamed.rename(path)
            raise UserError(_in_use(path, _read(path)))
        renamed.unlink()


def _require_file(path: Path) -> None:
    """Raise `UserError` for a link, a folder, a pipe or a device in place of a lock."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "not a file"
        raise UserError(
            f"{path} is {kind}, but a run writes its lock there; rename it, or choose another --output_dir."
        )


def _read(path: Path) -> str:
    """The text of a lock, or "" if it is gone. Raises `UserError` if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}), so a run may be active in --output_dir {path.parent}; choose "
            f"another --output_dir, or delete the file if no run is active there: rm {shlex.quote(str(path))}"
        ) from error


def _holder(text: str) -> dict:
    with suppress(ValueError):
        if isinstance(holder := parse(text), dict):
            return holder
    return {}


def _is_stale(text: str) -> bool:
    """Whether the process that wrote a lock is gone; an unreadable lock was written by one that was killed."""
    holder = _holder(text)
    if holder.get("host") != socket.gethostname():
        return "host" not in holder
    try:
        process = psutil.Process(holder["process"])
        return not _is_same_start(start_of(process), holder) or process.status() == psutil.STATUS_ZOMBIE
    except (psutil.AccessDenied, PermissionError):
        return False
    except (psutil.Error, KeyError, TypeError, ValueError):
        return True


def _is_same_start(start: dict, holder: dict) -> bool:
    """Whether the process is the one that wrote the lock, and not a later one with the same number."""
    if start.get("boot") and holder.get("boot") and start["boot"] != holder["boot"]:
        return False
    clocks = [name for name in ("started", "since_boot") if name in holder and name in start]
    return any(abs(start[name] - holder[name]) <= 2 for name in clocks)


def start_of(process: psutil.Process) -> dict[str, str | float]:
    """When a process started, as the system reports it.

    Linux counts from the boot, and psutil adds the time of the boot, which changes when the clock is set. So on Linux
    the seconds since the boot are here too, with the id of the boot ("" if a sandbox hides it).
    """
    boot_time = psutil.boot_time()  # before `create_time`, to which psutil below 7.1 adds the boot time that it stored
    start: dict[str, str | float] = {"started": process.create_time()}
    if psutil.LINUX:
        start |= {"boot": "", "since_boot": start["started"] - boot_time}
        with suppress(OSError):
            start["boot"] = BOOT_ID.read_text(encoding="ascii").strip()
    return start


def _in_use(path: Path, text: str) -> str:
    holder = _holder(text)
    process, host = holder.get("process"), holder.get("host")
    if host == socket.gethostname():
        return (
            f"--output_dir {path.parent} is in use by another run (process {process}); wait for its end, or choose "
            "another --output_dir."
        )
    return (
        f"--output_dir {path.parent} is in use by a run on another machine (host {host}, process {process}, started "
        f"{_age(path)} ago), which cannot be checked from {socket.gethostname()}. Choose another --output_dir; or, if "
        f"that run was killed, delete its lock and start again: rm {shlex.quote(str(path))}"
    )


def _age(path: Path) -> str:
    """How long ago a file was written, in words."""
    try:
        seconds = max(0, time.time() - path.stat().st_mtime)
    except OSError:  # it was released meanwhile
        seconds = 0
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"
