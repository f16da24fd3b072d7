"""Text in and out of a command: arguments, standard input and standard output, and folders that must be writable."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from .errors import UserError


SECONDS_BETWEEN_LINES = 10  # in a log file


def check_arguments_are_text(argv: list[str]) -> None:
    """Raise `UserError` for an argument whose bytes are not UTF-8; Python holds them as lone surrogates."""
    for word in argv:
        if has_lone_surrogate(word):
            raise UserError(f"The argument {word!a} is not UTF-8; convert the text, or rename the file.")


def has_lone_surrogate(text: str) -> bool:
    """Whether a text holds half a character, which no UTF-8 file can hold: a byte that is not UTF-8, or `\\ud83d`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


class StandardInput(io.TextIOBase):
    """Standard input as UTF-8 text, whatever the locale says: read when it is first needed, without a byte order mark.

    Raises:
        UserError: standard input is closed, or is not UTF-8; names the line.
    """

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> str:
        """One text, without the line breaks at its end: a file ends in one, the same text as an argument does not."""
        return "".join(self).rstrip("\n")

    def __iter__(self) -> Iterator[str]:
        if sys.stdin is None:
            raise UserError("Standard input is closed; give the text as an argument.")
        for number, line in enumerate(getattr(sys.stdin, "buffer", sys.stdin), start=1):
            text = _decode(line, number) if isinstance(line, bytes) else line
            yield text.replace("\r\n", "\n")


def _decode(line: bytes, number: int) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if line.startswith((b"\xff\xfe", b"\xfe\xff")) else f"not UTF-8 ({error.reason})"
        raise UserError(f"Standard input, line {number} is {encoding}; convert it to UTF-8.") from error
    if "\0" in text:
        raise UserError(f"Standard input, line {number} holds a NUL character, as UTF-16 does; convert it to UTF-8.")
    return text


@contextmanager
def prepared_streams() -> Iterator[None]:
    """Standard output and standard error that accept every character, and an `OutputError` where output fails.

    A character that the terminal cannot show is written as its code, e.g. `\\u4e2d`. A closed standard output refuses
    all.
    """
    streams = sys.stdout, sys.stderr
    for number in range(3):
        _occupy(number)
    sys.stdout = _ClosedOutput() if sys.stdout is None else _Output(sys.stdout)
    sys.stderr = io.StringIO() if sys.stderr is None else sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def draw_bars_rarely() -> None:
    """Redraw the progress bars of libraries at most every ten seconds, except on a terminal.

    tqdm reads the setting when it is imported.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", str(SECONDS_BETWEEN_LINES))


class OutputError(OSError):
    """Standard output could not be written: its reader is gone, or its disk is full."""


class _Output:
    """A stream whose own errors are `OutputError`, so that they differ from those of other files."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


def _occupy(descriptor: int) -> None:
    """Open the null device in place of a closed stream, whose number the next opened file would get."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


class _ClosedOutput(io.TextIOBase):
    """Standard output of a process that was started without one."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise UserError("Standard output is closed; there is nowhere to write the result.")


def is_utf8(stream: TextIO) -> bool:
    """Whether a stream can hold every character."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") in ("utf8", "utf8sig")


def check_writable(folder: str | Path, option: str) -> None:
    """Create a folder, and write to it, before any long work. Raises `UserError` that names the option."""
    folder = Path(folder)
    probe = folder / f".write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0")
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        raise UserError(
            f"{option} {folder} cannot be written: {getattr(error, 'strerror', None) or error}; choose another."
        ) from error
    finally:
        with suppress(OSError, ValueError):
            probe.unlink(missing_ok=True)
