"""Code blocks and commands of Markdown pages."""

import io
import re
import shlex
from pathlib import Path

from modeling_mini.cli import _check_eval, _parse, main
from modeling_mini.training.arguments import parse_arguments


ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


OTHER_PROGRAMS = (".", "accelerate", "cd", "hf", "pip", "python", "python3")


def blocks(name, language):
    """The code blocks of a page in a language, without the indentation of a list."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)


def commands(name):
    """The command lines of the shell blocks, without comments."""
    lines = "".join(blocks(name, "bash")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def run_commands(name, monkeypatch):
    """Run the commands of a page, or check that they exist if they take long; returns what was seen."""
    seen = set()
    for command in commands(name):
        if "<" in command:
            monkeypatch.setattr("sys.stdin", io.StringIO(Path(command.pop()).read_text()))
            command.remove("<")
        for option in {"--dataset", "--train_file", "--validation_file"} & {*command}:  # files of the reader
            Path(command[command.index(option) + 1]).touch()
        if command[0] == "modeling-mini":
            _run_ours(command[1:], is_quick=name.startswith("README"))
            seen.add(command[1])
        elif command[:2] == ["python", "train.py"] and command[2:] != ["--help"]:
            parse_arguments(command[2:])
            seen.add("train")
        elif command[0] == "make":
            assert f"\n{command[1]}:" in (ROOT / "Makefile").read_text()
            seen.add(command[1])
        elif command[0] in OTHER_PROGRAMS:
            paths = [
                word for word in command if word.startswith(("benchmarks/", "configuration/", "examples/", "tests/"))
            ]
            assert all((ROOT / path).exists() for path in paths), command
        else:
            raise AssertionError(f"{name}: what is {command[0]}?")
    return seen


def _run_ours(command, is_quick):
    if command[0] in ("chat", "demo", "export", "serve"):
        _parse(command)  # it would wait for a user, or needs an extra
    elif command[0] == "eval" and not is_quick:
        _check_eval(command[1:])  # its baselines take long on the built-in text
    else:
        assert main([word.replace("USER/REPO", "alice/mini") for word in command]) == 0
