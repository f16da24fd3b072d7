"""Code blocks and commands of Markdown pages."""

import io
import re
import shlex
from itertools import dropwhile, groupby
from pathlib import Path

from modeling_mini.cli import _check_eval, _parse, main
from modeling_mini.training.arguments import parse_arguments


ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


FILE_OPTIONS = {"--dataset", "--train_file", "--validation_file", "--test_file"}
PARSED_ONLY = ("chat", "demo", "export", "serve")  # they wait for a user, or need an extra
NEED_HUB = ("push", "upgrade-repo")  # only the tests of the READMEs have one
# Programs of others, which no test of a page runs, and why.
OTHER_PROGRAMS = {
    ".": "prepares the shell",
    "accelerate": "needs several devices; tests/training/test_launching.py runs it with two processes",
    "cd": "prepares the shell",
    "curl": "needs a server; `make serving` and `make vllm` send requests to theirs",
    "git": "needs a network",
    "hf": "needs a Hub with accounts",
    "llama-completion": "is not installed by pip; `make llamacpp` runs the same library",
    "llama-server": "is not installed by pip; `make llamacpp` runs the same library",
    "lm_eval": "`make ecosystem` runs it",
    "npm": "needs a network",
    "ollama": "is not installed by pip",
    "pip": "needs a network",
    "pre-commit": "changes the clone",
    "python": "the script must exist",
    "python3": "as python",
    "tar": "unpacks what npm has downloaded",
    "torchrun": "tests/training/test_accelerate.py runs it",
    "vllm": "`make vllm` runs it",
}


def blocks(name, language):
    """The code blocks of a page in a language, without the indentation of a list."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)


def commands(name):
    """The commands of the shell blocks as lists of words, without comments and variables of the environment."""
    text = "".join(blocks(name, "bash")).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in text.splitlines()]
    parts = [list(part) for line in words for is_and, part in groupby(line, lambda word: word == "&&") if not is_and]
    return [list(dropwhile(lambda word: re.match("[A-Z_]+=", word), part)) for part in parts]


def run_commands(name, monkeypatch):
    """Run the commands of a page, or check that they exist if they take long; returns what was seen."""
    seen = set()
    for command in commands(name):
        if "<" in command:
            monkeypatch.setattr("sys.stdin", io.StringIO(Path(command.pop()).read_text()))
            command.remove("<")
        for option in FILE_OPTIONS & {*command}:  # files of the reader
            path = Path(command[command.index(option) + 1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if command[0] == "modeling-mini":
            _run_ours(command[1:], has_hub=name.startswith("README"))
            seen.add(command[1])
        elif command[:2] == ["python", "train.py"] and command[2:] != ["--help"]:
            parse_arguments(command[2:])
            seen.add("train")
        elif command[0] == "make":
            assert f"\n{command[1]}:" in (ROOT / "Makefile").read_text()
            seen.add(command[1])
        else:
            assert command[0].rpartition("/")[2] in OTHER_PROGRAMS, f"{name}: what is {command[0]}?"
            paths = [word for word in command if re.match(r"(benchmarks|configuration|examples|tests)/", word)]
            assert all((ROOT / path).exists() for path in paths), command
    return seen


def _run_ours(command, has_hub):
    is_missing = not {"runs/merged", "runs/two-labels"}.isdisjoint(command)  # a program of the page writes it
    if command[0] == "eval" and not has_hub:
        _check_eval(command[1:])  # its baselines take long on the built-in text
    elif command[0] in PARSED_ONLY or (command[0] in NEED_HUB and not has_hub) or is_missing:
        _parse(command)
    else:
        assert main([word.replace("USER/REPO", "alice/mini") for word in command]) == 0
