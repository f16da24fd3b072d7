"""How commands end: one sentence and an exit code, whatever the arguments, the streams, the disk and the signals."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from modeling_mini.cli import main
from modeling_mini.commands import Interrupted, Stopped, finish, stop_on_signals
from modeling_mini.errors import UserError
from modeling_mini.streams import OutputError, StandardInput, has_lone_surrogate


ROOT = Path(__file__).parents[2]


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "exit_code", "sentence"),
    [
        (UserError("The file is empty."), 1, "Error: The file is empty."),
        (KeyboardInterrupt(), 130, "Stopped by SIGINT. The work is kept."),
        (Stopped(signal.SIGTERM), 143, "Stopped by SIGTERM. The work is kept."),
        (Interrupted("Stopped after update 3.", signal.SIGTERM), 143, "Stopped after update 3."),
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), 1, "Error: a.bin: the disk is full"),
        (OSError(errno.ENOSPC, "No space left on device", "a.py", None, "b.py"), 1, "Error: b.py: the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "Error: the disk is full"),
        (RuntimeError("PytorchStreamWriter failed writing file"), 1, "Error: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 1, "Error: /root/x: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), 1, "...: File name too long"),
        (MemoryError(), 1, "Error: The memory is full"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "Error: The memory is full"),
        (ModuleNotFoundError("No module named 'sacrebleu2'", name="sacrebleu2"), 1, "pip install sacrebleu2"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_the_user_can_fix_ends_with_one_sentence(capsys, error, exit_code, sentence):
    assert finish(raising(error), [], "The work is kept.") == exit_code
    output = capsys.readouterr().err
    assert sentence in output
    assert output.count("\n") == 1


def test_a_missing_package_of_an_extra_is_named_with_the_extra(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = ModuleNotFoundError("No module named 'sklearn'", name="sklearn.svm")
    assert finish(raising(error), []) == 1
    assert 'sklearn is not installed; install it with: pip install "modeling_mini[tasks]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [KeyError("eval_loss"), ValueError("x"), ModuleNotFoundError("no json.x", name="json.x"), OSError("x")]
)
def test_a_defect_shows_its_traceback_and_where_the_versions_are_needed(capsys, error):
    assert finish(raising(error), []) == 1
    output = capsys.readouterr().err
    assert "Traceback" in output
    assert output.splitlines()[-1].startswith("This is a defect; please report it")
    assert all(
        name in output.splitlines()[-1] for name in ("modeling_mini 0", "torch 2", "transformers 5", "Python 3")
    )


def test_the_usual_end_returns_zero_and_restores_the_handlers():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert finish(lambda: None, []) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_even_where_it_was_ignored(capsys, number):
    """A script starts its background processes with Ctrl-C ignored."""
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        assert finish(lambda: os.kill(os.getpid(), number), []) == 128 + number
    finally:
        signal.signal(number, previous)
    assert f"Stopped by {number.name}." in capsys.readouterr().err


OUTSIDE_THE_COMMAND = """
import os, signal
from modeling_mini.commands import exit_on_signals
exit_on_signals()
os.kill(os.getpid(), signal.{name})
"""
WHILE_PYTHON_ENDS = """
import os, signal
from modeling_mini.commands import exit_on_signals
class Last:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.{name}):
        kill(process, number)
exit_on_signals()
last = Last()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("script", "exit_code"), [(OUTSIDE_THE_COMMAND, 128), (WHILE_PYTHON_ENDS, 0)])
def test_a_signal_outside_the_command_ends_the_program_or_is_ignored(script, exit_code, number):
    command = [sys.executable, "-c", script.format(name=number.name)]
    process = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120, check=False)
    assert process.returncode == (exit_code and exit_code + number)


def test_help_that_cannot_be_written_is_not_a_success(capsys, monkeypatch):
    def print_help():  # argparse ignores an output that fails
        monkeypatch.setattr(sys.stdout, "flush", raising(OutputError(errno.ENOSPC, "No space left on device")))
        raise SystemExit(0)

    assert finish(print_help, []) == 1
    assert capsys.readouterr().err == "Error: Standard output cannot be written: No space left on device.\n"


def test_a_folder_that_was_deleted_is_named(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert main(["presets"]) == 1
    assert "The current folder cannot be read" in capsys.readouterr().err


# Arguments and standard input


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "run", "caf\udce9"],
        ["classify", "run", "caf\udce9"],
        ["train", "--prompt", "caf\udce9"],
        ["eval", "caf\udce9"],
        ["plan", "caf\udce9"],
        ["push", "run", "user/caf\udce9"],
    ],
    ids=" ".join,
)
def test_arguments_that_are_not_utf8_are_refused(capsys, argv):
    assert main(argv) == 1
    assert r"caf\udce9' is not UTF-8; convert the text" in capsys.readouterr().err


class Bytes:
    """A standard input of these bytes."""

    def __init__(self, content):
        self.buffer = io.BytesIO(content)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\n a\n\nb\r\n\n", "\n a\n\nb"),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", "a\n\ufeffb"),  # only the first is a byte order mark
        (b"a\r\nb", "a\nb"),
        ("中文\u2028x\n".encode(), "中文\u2028x"),
        (b"", ""),
    ],
)
def test_standard_input_is_utf8_without_a_byte_order_mark_and_final_line_breaks(monkeypatch, content, text):
    monkeypatch.setattr("sys.stdin", Bytes(content))
    assert StandardInput().read() == text


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (Bytes(b"a\ncaf\xe9\n"), "Standard input, line 2 is not UTF-8 .*; convert it"),
        (Bytes("caf\u00e9".encode("utf-16")), "Standard input, line 1 is UTF-16; convert it"),
        (Bytes("ab".encode("utf-16-le")), "line 1 holds a NUL character, as UTF-16 does"),
        (None, "Standard input is closed; give the text as an argument"),
    ],
)
def test_standard_input_that_is_no_text_is_refused(monkeypatch, stream, sentence):
    monkeypatch.setattr("sys.stdin", stream)
    with pytest.raises(UserError, match=sentence):
        StandardInput().read()


def test_half_characters_are_recognised():
    assert has_lone_surrogate("\ud83d")
    assert has_lone_surrogate("caf\udce9")
    assert not has_lone_surrogate("\U0001f600 café")


# Standard output, in processes of its own: a pipe, a device and an encoding


def shell(command, **environment):
    """Run a command of bash with `$M` for modeling-mini; returns exit code, standard output and standard error."""
    variables = os.environ | {"M": f"{sys.executable} -m modeling_mini.cli", "PYTHONPATH": str(ROOT)} | environment
    result = subprocess.run(["bash", "-c", command], env=variables, capture_output=True, timeout=120, check=False)
    return result.returncode, result.stdout, result.stderr.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "exit_codes", "sentence"),
    [
        ("set -o pipefail; $M presets | true", (0, 141), ""),
        ("set -o pipefail; PYTHONUNBUFFERED=1 $M presets | true", (0, 141), ""),
        ("$M presets > /dev/full", (1,), "Error: Standard output cannot be written: No space left on device."),
        (
            "PYTHONUNBUFFERED= $M presets > /dev/full",
            (1,),
            "Error: Standard output cannot be written: No space left on device.",
        ),
        ("$M --help > /dev/full", (0, 1), ""),
        ("$M presets >&-", (1,), "Error: Standard output is closed; there is nowhere to write the result."),
        ("$M presets 2>&-", (0,), ""),
        ("$M presets <&-", (0,), ""),
        ("$M generate nosuch 2> /dev/full", (1,), ""),
    ],
)
def test_an_output_that_is_gone_ends_a_command_quietly(command, exit_codes, sentence):
    exit_code, _, error = shell(command)
    assert exit_code in exit_codes
    assert error.strip() == sentence


# Signals during a run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment", "seconds"),
    [
        (signal.SIGTERM, None, 3),  # the imports
        (signal.SIGINT, "Tokens per update", 0.1),
        (signal.SIGTERM, "are in", 0.0),  # the report is written, and the program ends
    ],
)
def test_a_signal_ends_a_run_at_every_moment(run, arguments, number, moment, seconds):
    """Also with Ctrl-C ignored, as for the background processes of a script."""

    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    steps = ["--max_steps", "2000", "--save_steps", "2000", "--eval_steps", "2000"] if moment != "are in" else []
    process = run.start([*arguments, *steps], preexec_fn=ignore)
    lines = []
    while moment is not None and moment not in "".join(lines[-1:]):
        lines.append(process.stdout.readline())
    time.sleep(seconds)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert "Traceback" not in output
    if moment == "are in":
        assert process.returncode in (0, 128 + number)
    else:  # a shell reports both as 128 + number; on a busy machine the signal may come before the first line
        assert process.returncode in (128 + number, -number)
        assert "Stopped" in output or (moment is None and process.returncode < 0)


@pytest.mark.parametrize("ignored", ["__del__", "the callback of a weak reference"])
def test_a_signal_where_python_ignores_exceptions_stops_the_command_soon(ignored, capfd):
    """Python would print the exception with a traceback, and go on."""
    ended = []

    class Held:
        if ignored == "__del__":

            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
                ended.append(self)

    def command():
        held = Held()
        reference = weakref.ref(held, lambda _: os.kill(os.getpid(), signal.SIGTERM)) if ignored != "__del__" else None
        del held
        time.sleep(5)
        return reference

    with pytest.raises(Stopped), stop_on_signals():
        command()
    assert capfd.readouterr().err == ""
    assert len(ended) == (ignored == "__del__"), "the finalizer ends first"


def test_other_exceptions_that_python_ignores_are_still_reported(capfd):
    class Held:
        def __del__(self):
            raise ValueError("in a finalizer")

    hook, sys.unraisablehook = sys.unraisablehook, sys.__unraisablehook__  # pytest has one of its own
    try:
        with stop_on_signals():
            Held()
    finally:
        sys.unraisablehook = hook
    assert "ValueError: in a finalizer" in capfd.readouterr().err
