"""Dataclasses from a command line, for train, eval and plan: `--argument value`, with errors in one sentence."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from .errors import UserError
from .options import SuggestingParser, nearest


def parse_dataclasses(
    classes: tuple[type, ...],
    argv: list[str],
    command: str,
    add_options: Callable[[HfArgumentParser], None] | None = None,
    about: str = "",
) -> tuple:
    """`--argument value ...` as an instance of each class.

    Args:
        classes: dataclasses whose fields are the arguments, with `help` in their metadata.
        argv: the command line, without the command.
        command: the words before the arguments, for the usage line.
        add_options: adds further spellings of an argument to the parser.
        about: what stands before the list of arguments in the help, such as the meaning of words without an option.

    Raises:
        UserError: an argument does not exist, or has a value that its class refuses.
        SystemExit: after `--help`.
    """
    parser = _Parser(classes, allow_abbrev=False, usage=f"{command} [--argument value ...]", description=about)
    _accept_lists(parser, classes)
    _explain_negations(parser)
    if add_options is not None:
        add_options(parser)
    try:
        *arguments, unknown = parser.parse_args_into_dataclasses(
            argv, look_for_args_file=False, return_remaining_strings=True
        )
    except ValueError as error:  # values that the Trainer refuses together
        raise UserError(str(error).splitlines()[0]) from error
    if unknown:
        name = unknown[0].split("=")[0]  # the value may be a secret
        raise UserError(f"There is no argument {name}{nearest(name, argument_names(classes))}")
    return tuple(arguments)


class _Parser(SuggestingParser, HfArgumentParser):
    def error(self, message):
        raise UserError(message)


def argument_names(classes: tuple[type, ...]) -> list[str]:
    """The names of all arguments of the classes."""
    return [f.name for argument_class in classes for f in fields(argument_class) if f.init]


def arguments_holding(kind: type, classes: tuple[type, ...]) -> list[str]:
    """The arguments whose type allows a `list` or a `dict`."""
    hints = {name: hint for argument_class in classes for name, hint in get_type_hints(argument_class).items()}
    return [name for name in argument_names(classes) if kind in map(_kind, (hints[name], *get_args(hints[name])))]


def _kind(hint) -> type:
    return get_origin(hint) or hint


def _accept_lists(parser: HfArgumentParser, classes: tuple[type, ...]) -> None:
    """Let an argument such as `--report_to`, which is a text or a list, take several values."""
    names = arguments_holding(list, classes)
    for action in parser._actions:
        if action.dest in names and action.nargs is None:
            action.nargs, action.__class__ = "+", _OneOrMore


class _OneOrMore(argparse.Action):
    """A single value as it is, and several as a list."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values if len(values) > 1 else values[0])


def _explain_negations(parser: HfArgumentParser) -> None:
    """Say what `--no_baselines` does: the parser repeats the help of `--baselines`, which it switches off."""
    for action in parser._actions:
        if action.option_strings[0] == f"--no_{action.dest}":
            action.help, action.default = f"The same as --{action.dest} false.", argparse.SUPPRESS
