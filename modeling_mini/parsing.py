"""Dataclasses from a command line, for train, eval and plan: `--argument value`, with errors in one sentence."""

from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches

from transformers import HfArgumentParser

from .errors import UserError


def parse_dataclasses(
    classes: tuple[type, ...],
    argv: list[str],
    command: str,
    add_options: Callable[[HfArgumentParser], None] | None = None,
) -> tuple:
    """`--argument value ...` as an instance of each class.

    Args:
        classes: dataclasses whose fields are the arguments, with `help` in their metadata.
        argv: the command line, without the command.
        command: the words before the arguments, for the usage line.
        add_options: adds further spellings of an argument to the parser.

    Raises:
        UserError: an argument does not exist, or has a value that its class refuses.
        SystemExit: after `--help`.
    """
    parser = _Parser(classes, allow_abbrev=False, usage=f"{command} [--argument value ...]")
    if add_options is not None:
        add_options(parser)
    try:
        *arguments, unknown = parser.parse_args_into_dataclasses(
            argv, look_for_args_file=False, return_remaining_strings=True
        )
    except ValueError as error:  # values that the Trainer refuses together
        raise UserError(str(error).splitlines()[0]) from error
    except ImportError as error:  # DeepSpeed, or a logger, is not installed
        raise UserError(f"{str(error).splitlines()[0]} Install it, or choose another option.") from error
    if unknown:
        name = unknown[0].split("=")[0]  # the value may be a secret
        raise UserError(f"There is no argument {name}{nearest_argument(name, classes)}")
    return tuple(arguments)


class _Parser(HfArgumentParser):
    def error(self, message):
        raise UserError(message)


def argument_names(classes: tuple[type, ...]) -> list[str]:
    """The names of all arguments of the classes."""
    return [f.name for argument_class in classes for f in fields(argument_class) if f.init]


def nearest_argument(name: str, classes: tuple[type, ...]) -> str:
    """The end of a sentence about an unknown argument: the nearest name, or where to find them all."""
    nearest = get_close_matches(name.lstrip("-"), argument_names(classes), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else "; --help lists all arguments."
