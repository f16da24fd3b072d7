"""Mistakes on a command line that can be found before torch and transformers are imported, which takes seconds."""

import argparse
import ast
import importlib.util
import os
import re
import stat
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from .errors import UserError


_DATA_FILE = re.compile(r"\.(txt|jsonl?|csv|tsv|parquet|arrow|md|html?|xml|pdf|docx|xlsx|zip)(\.\w+)?$|\.gz$", re.I)
_PACKAGE = Path(__file__).parent

# File of the package, and class: the dataclasses whose fields are arguments.
DATA_CLASSES = (("data/arguments.py", "DataArguments"), ("tasks/base.py", "TaskArguments"))
TRAIN_CLASSES = (
    *DATA_CLASSES,
    ("training/arguments.py", "ModelArguments"),
    ("training/arguments.py", "MiniTrainingArguments"),
    ("transformers/training_args.py", "TrainingArguments"),
)
EVAL_CLASSES = (*DATA_CLASSES, ("inference/evaluate.py", "EvalArguments"), ("decoding.py", "DecodingArguments"))
PLAN_CLASSES = (("planning.py", "PlanArguments"),)
FILE_ARGUMENTS = ("train_file", "validation_file", "test_file")  # instead of --dataset
OLDER_NAMES = ("use_muon",)  # accepted by train in addition to the fields


@cache
def names_in_source(classes: tuple[tuple[str, str], ...]) -> list[str]:
    """The names of all fields of dataclasses, read from their source: importing them would import torch."""
    return list(dict.fromkeys(name for file, class_name in classes for name in _fields(_path(file), class_name)))


def _path(file: str) -> Path:
    if not file.startswith("transformers/"):
        return _PACKAGE / file
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise UserError("The package transformers is not installed; install it with: pip install modeling_mini")
    return Path(spec.origin).parent / file.removeprefix("transformers/")


def _fields(path: Path, class_name: str) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    return [
        node.target.id
        for node in body
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation)
    ]


def options(argv: list[str]) -> dict[str, str | None]:
    """The options of a command line with their last value; None where the value is in no word, or in several.

    A word with a space is a text, to argparse too, and nothing after `--` is an option.
    """
    values: dict[str, str | None] = {}
    words = argv[: argv.index("--")] if "--" in argv else argv
    for index, word in enumerate(words):
        following = words[index + 1] if index + 1 < len(words) else "-"
        if match := re.fullmatch(r"(?s)--([\w-]+)(?:=(.*))?", word):
            value = match[2] if match[2] is not None else following
            values[match[1].replace("-", "_")] = None if match[2] is None and following.startswith("-") else value
    return values


def check_names(argv: list[str], names: list[str]) -> None:
    """Raise `UserError` for an option that no argument has, with the nearest name."""
    accepted = {*names, *(f"no_{name}" for name in names), "help"}
    for name in options(argv):
        if name not in accepted:
            raise UserError(f"There is no argument --{name}{nearest(name, names)}")


def nearest(name: str, names: list[str]) -> str:
    """The end of a sentence about an unknown argument: the nearest name, or where to find them all."""
    question = did_you_mean(name.lstrip("-"), names)
    return f"; {question}" if question else "; --help lists all arguments."


def did_you_mean(value: str, names: Iterable[str]) -> str:
    """A question for the nearest of some names, or "" if none is near."""
    matches = get_close_matches(value, list(names), n=1)
    return f"did you mean {matches[0]}?" if matches else ""


def check_choice(option: str, value: str, choices: list[str]) -> None:
    """Raise `UserError` for a value that is not one of a few, with the nearest."""
    if value not in choices:
        raise UserError(f"{option} {value}: there is no such choice; {choice_hint(value, choices)}")


def choice_hint(value: str, choices: Iterable[str]) -> str:
    """The end of a sentence about a value that is not one of a few: the nearest, or all of them."""
    choices = list(choices)
    return did_you_mean(value, choices) or f"choose one of {', '.join(choices)}."


class SuggestingParser(argparse.ArgumentParser):
    """A parser whose error for a value that is none of the choices ends with the nearest of them."""

    def _check_value(self, action, value):
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if question := did_you_mean(str(value), map(str, action.choices)):
                error.message += f"; {question}"
            raise


def check_data(given: Mapping[str, str | None]) -> None:
    """Raise `UserError` for an empty name of data, and for a path that does not exist or cannot be read.

    Names on the Hub are accepted as `--dataset`. `given` holds the value of each option.
    """
    for name in ("dataset", *FILE_ARGUMENTS):
        value = given.get(name)
        if value is None:
            continue
        if not value.strip():
            raise UserError(f"--{name} is empty; name a file or a folder, or leave it out.")
        if name in FILE_ARGUMENTS or names_a_path(value):
            check_path(f"--{name}", value)


def is_same(name: str | None, other: str | None) -> bool:
    """Whether two names mean the same data set or checkpoint, or the same file or folder."""
    if name is None or other is None:
        return False
    return name == other or (os.path.exists(name) and os.path.realpath(name) == os.path.realpath(other))


def names_a_path(dataset: str) -> bool:
    """Whether the name of a data set can only be a path: names on the Hub are shorter, and none ends in `.csv`."""
    return len(dataset) > 100 or _is_path(dataset) or _DATA_FILE.search(dataset) is not None


def check_path(option: str, path: str) -> Path:
    """The path of a file or folder that exists.

    Raises:
        UserError: there is no such file or folder, or it cannot be read.
    """
    shown = path if len(path) <= 200 else f"{path[:197]}..."
    if os.path.islink(path) and not os.path.exists(path):
        raise UserError(f"{option} {shown} is a link to {os.readlink(path)}, which does not exist; correct the link.")
    if not os.path.exists(path):
        raise UserError(f"{option} {shown}: there is no such file or folder; check the path.")
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{option} {shown} is a pipe or a device, not a file; write the data to a file first.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{option} {shown} cannot be read: permission denied.")
    return Path(path)


def check_checkpoint(checkpoint: str, option: str = "") -> None:
    """Raise `UserError` for a checkpoint that is neither an existing path nor named as on the Hub: `USER/REPO`."""
    prefix = f"{option} " if option else ""
    if not checkpoint.strip():
        raise UserError(f"{prefix or 'The checkpoint '}is empty; name the folder of a trained model.")
    if (_is_path(checkpoint) or "/" not in checkpoint) and not os.path.exists(checkpoint):
        raise UserError(
            f"{prefix}{checkpoint}: there is no such folder; name the folder of a trained model, or USER/REPO on the "
            "Hub."
        )


def check_folder(checkpoint: str) -> None:
    """Raise `UserError` for a checkpoint to push that is not a folder."""
    if not os.path.isdir(checkpoint):
        raise UserError(f"There is no folder {checkpoint}; give a trained model, such as runs/quickstart.")


def _is_path(name: str) -> bool:
    """Whether a name can only be a path: a name on the Hub has at most one slash, in its middle."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name
