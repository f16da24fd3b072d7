"""How every command ends: with its result, with one sentence on standard error, or with a report for developers."""

import atexit
import errno
import importlib.util
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from types import FrameType

from .errors import UserError, one_line, shortened
from .streams import OutputError, check_arguments_are_text, draw_bars_rarely, prepared_streams


_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Of a file that the user named, or of a folder of the user: permissions, names, devices.
_USERS_FILES = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EMFILE, errno.EIO, errno.ESTALE}
_BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended: 128 + 13
# Extras of pyproject.toml, and the packages of each that the code imports.
EXTRAS = {
    "demo": {"gradio", "plotly"},
    "serving": {"fastapi", "openai", "pydantic", "uvicorn"},
    "train": {"accelerate", "datasets", "evaluate", "matplotlib", "yaml"},
    "tasks": {"django", "gramps", "rouge_score", "sacrebleu", "sklearn", "trac"},
    "onnx": {"onnx", "onnxruntime", "onnxscript"},
    "executorch": {"executorch"},
    "openvino": {"openvino"},
    "litert": {"ai_edge_litert", "litert_torch"},
    "gguf": {"gguf"},
}


class Interrupted(Exception):
    """A signal stopped the command, after it had saved its work: the sentence, and the exit code."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Stopped(KeyboardInterrupt):
    """A signal stops the command at once."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number


def finish(
    command: Callable[[], int | None],
    argv: list[str],
    again: str = "",
    say: Callable[[str], None] | None = None,
) -> int:
    """Run a command, and return its exit code: the one place where every command ends.

    Args:
        command: does the work; returns an exit code, or None for 0.
        argv: the words of the command line, which must be text.
        again: a sentence for a command that a signal or a full disk stopped: what is kept, and how to go on.
        say: takes the last sentence; writes it to standard error by default.
    """
    draw_bars_rarely()
    with prepared_streams():
        try:
            with stop_on_signals():
                _check_folder()
                check_arguments_are_text(argv)
                exit_code = command() or 0
                sys.stdout.flush()
                return exit_code
        except SystemExit:  # of argparse, which ignores a --help that cannot be written
            try:
                sys.stdout.flush()
            except OSError as error:
                return _end(error, again, say or _write_error)
            raise
        except BaseException as error:
            return _end(error, again, say or _write_error)


def _end(error: BaseException, again: str, say: Callable[[str], None]) -> int:
    """Say what ended the command; returns the exit code."""
    _flush_or_discard()
    again = again and f" {again}"
    if isinstance(error, OutputError) and error.errno == errno.EPIPE:  # the reader has seen enough
        return _BROKEN_PIPE
    if isinstance(error, Interrupted):
        say(str(error))
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        number = getattr(error, "signal_number", signal.SIGINT)
        say(f"Stopped by {signal.Signals(number).name}.{again}")
        return 128 + number
    if sentence := _sentence(error, again):
        say(f"Error: {sentence}")
        return 1
    try:
        traceback.print_exception(error)
    except OSError:  # nobody reads standard error, which may be the error itself
        _discard(sys.stderr)
        return _BROKEN_PIPE
    say(f"This is a defect; please report it with the command, the lines above and the versions: {_versions()}.")
    return 1


def _sentence(error: BaseException, again: str) -> str | None:
    """What the user can fix, in one sentence; None for a defect of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OutputError):
        return f"Standard output cannot be written: {error.strerror}."
    if is_disk_full(error):
        # Of a copy, `filename` is the source, and `filename2` the file that could not be written.
        name = getattr(error, "filename2", None) or getattr(error, "filename", None)
        file, reason = f"{name}: " if name else "", getattr(error, "strerror", None) or one_line(error)
        return f"{file}the disk is full ({reason}); free some space, and run the command again.{again}"
    if isinstance(error, OSError) and error.errno in _USERS_FILES and error.filename is not None:
        name = shortened(str(error.filename), 200)
        return f"{name}: {error.strerror}; choose another place, or change its permissions."
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return f"The memory is full ({one_line(error)}); choose a smaller batch, shorter rows or a smaller model."
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(error)
    return None


def is_disk_full(error: BaseException) -> bool:
    """Whether writing failed because the disk is full; torch and safetensors raise their own errors for it."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    phrases = ("No space left", "File too large", "PytorchStreamWriter failed", "quota exceeded")
    return any(phrase in str(error) for phrase in phrases)


def _is_out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _missing_package(error: ModuleNotFoundError) -> str | None:
    """The sentence for a package that is not installed; None if it is, and a module of it is missing."""
    package = (error.name or "").partition(".")[0]
    with suppress(ValueError):  # a module without a spec
        if not package or importlib.util.find_spec(package) is not None:
            return None
    return _how_to_install(package)


def _how_to_install(package: str) -> str:
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    requirement = package if extra is None else f'"modeling_mini[{extra}]"'
    return f"The package {package} is not installed; install it with: pip install {requirement}"


def require_packages(extra: str) -> None:
    """Raise `UserError` if a package of an extra is not installed; nothing is imported."""
    for package in sorted(EXTRAS[extra]):
        if importlib.util.find_spec(package) is None:
            raise UserError(_how_to_install(package))


def _check_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"The current folder cannot be read ({error.strerror}); change to another folder.") from error


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise `Stopped` from the first line of a command to its last.

    Handlers are set even where the process was started with Ctrl-C ignored, as a script starts its background
    processes: `kill -INT` must end a run. With several processes, SIGTERM keeps its default, which also ends a process
    that waits for another in a collective operation.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number, frame):
        if os.getpid() != process:  # a worker that was forked: its parent reports
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if is_in_finalizer(frame):  # let it end first
            stop_later(number)
            return
        raise Stopped(number)

    def stop_later(number):
        threading.Timer(0.05, os.kill, (process, number)).start()

    def report_ignored(ignored):
        """Called for an exception that Python ignores, as in the callback of a weak reference."""
        if isinstance(ignored.exc_value, Stopped):
            stop_later(ignored.exc_value.signal_number)
        else:
            previous_hook(ignored)

    previous_hook, sys.unraisablehook = sys.unraisablehook, report_ignored
    previous = {number: signal.signal(number, stop) for number in _stopping_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.unraisablehook = previous_hook


def is_in_finalizer(frame: FrameType | None) -> bool:
    """Whether a frame belongs to a `__del__`, whose exceptions Python ignores."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def exit_on_signals() -> None:
    """Exit with 128 + number where a signal arrives before or after the command; ignore it while Python ends.

    Call it first in a program. When Python ends, it restores the default of each signal that has a handler, and torch
    then needs up to a second. Signals are ignored there: a finished run should not look like a killed one.
    """

    def leave(number, frame):
        os._exit(128 + number)

    for number in _stopping_signals():
        signal.signal(number, leave)
        atexit.register(signal.signal, number, signal.SIG_IGN)  # registered first, called last


def _stopping_signals() -> list[int]:
    return [signal.SIGINT] + [signal.SIGTERM] * (int(os.environ.get("WORLD_SIZE", "1")) == 1)


def _flush_or_discard() -> None:
    """Write what standard output still holds; if that fails, discard it, so that Python's own end is quiet."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard(sys.stdout)


def _discard(stream) -> None:
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    with suppress(OSError, ValueError):
        stream.flush()


def _write_error(sentence: str) -> None:
    try:
        sys.stderr.write(f"{sentence}\n")
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _versions() -> str:
    package = sys.modules[__package__]
    versions = [f"{__package__} {package.__version__}", f"Python {python_version()}"]
    for name in ("torch", "transformers"):
        with suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    return ", ".join(versions)
