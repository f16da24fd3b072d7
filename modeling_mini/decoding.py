"""How a model writes a text: the options of `generate`, `translate`, `summarize`, `answer` and `eval`.

This module imports neither torch nor transformers, so that a command line is parsed without them.
"""

import argparse
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

from .errors import UserError


CONTINUATION = {"max_new_tokens": 100, "do_sample": True, "temperature": 0.8, "top_k": 50}  # defaults of `generate`
SAMPLE_PROMPT = "The "  # of the sample at the end of a training
MOST_BEAMS = 100
# Lowest and highest value. Outside it, logits overflow, or all tokens become equally likely.
_RANGES = {
    "max_new_tokens": (1, math.inf),
    "num_beams": (1, MOST_BEAMS),
    "no_repeat_ngram_size": (0, math.inf),
    "repetition_penalty": (0.1, 10),
    "length_penalty": (-10, 10),
    "top_k": (1, math.inf),
    "top_p": (0.001, 1),
    "seed": (0, 2**32 - 1),
}
_OF_SAMPLING = ("temperature", "top_k", "top_p", "seed")


@dataclass
class DecodingArguments:
    """The options of transformers' `generate`, under its names. None is the default of the task.

    Repetition penalty and blocked n-grams look at the written text only where the model reads a source first: a
    summary or an answer may repeat its source. Where the model continues a text, they look at the prompt too.
    """

    max_new_tokens: int | None = field(
        default=None,
        metadata={"help": "longest text to write, in tokens; 100 in `generate`, elsewhere as in training"},
    )
    num_beams: int | None = field(
        default=None, metadata={"help": "beams of beam search; 1 takes the most likely token at each step"}
    )
    no_repeat_ngram_size: int | None = field(
        default=None, metadata={"help": "write no sequence of this many tokens twice; 0 allows repetition"}
    )
    repetition_penalty: float | None = field(
        default=None, metadata={"help": "divides the logits of tokens that are already written; 1 changes nothing"}
    )
    length_penalty: float | None = field(
        default=None, metadata={"help": "with beams: above 1 prefers long texts, below 1 short ones"}
    )
    do_sample: bool = field(  # `bool`, so that the option needs no value; None is the default of the command
        default=None, metadata={"help": "draw each token at random; the default of `generate`, without beams"}
    )
    temperature: float | None = field(
        default=None,
        metadata={"help": "of sampling: low stays close to the most likely tokens, 0 takes these; 0.8 in `generate`"},
    )
    top_k: int | None = field(
        default=None, metadata={"help": "sample from this number of the most likely tokens; 50 in `generate`"}
    )
    top_p: float | None = field(
        default=None, metadata={"help": "sample from the most likely tokens that together have this probability"}
    )
    seed: int | None = field(default=None, metadata={"help": "the same seed samples the same text"})

    def check(self) -> None:
        """Raises `UserError` for a value out of range, and for options that contradict each other."""
        for name, (lowest, highest) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                allowed = f"at least {lowest}" if math.isinf(highest) else f"{lowest} to {highest}"
                raise UserError(f"--{name} is {value}; give {allowed}.")
        if self.temperature is not None and not (self.temperature == 0 or 0.01 <= self.temperature <= 100):
            raise UserError(f"--temperature is {self.temperature}; give at least 0.01, at most 100, or 0.")

    def explicit(self) -> list[str]:
        """The names of the options that are set."""
        return [name for name, value in asdict(self).items() if value is not None]

    def completed(self, defaults: dict[str, Any]) -> "DecodingArguments":
        """These options, and `defaults` for those that are None. A temperature of 0 switches sampling off.

        Raises:
            UserError: a value is out of range, or an option has no effect next to the others.
        """
        self.check()
        given = {name: getattr(self, name) for name in self.explicit()}
        samples_by_default = defaults.get("do_sample", False) and given.get("num_beams", 1) == 1
        is_greedy = given.get("temperature") == 0
        samples = given.get("do_sample", samples_by_default) and not is_greedy
        if not samples:
            defaults = {name: value for name, value in defaults.items() if name not in _OF_SAMPLING}
            _refuse_sampling_options(given)
        elif "num_beams" not in given:  # sampling replaces the beam search that may be the default
            defaults = {**defaults, "num_beams": 1}
        completed = DecodingArguments(**{**defaults, **given, "do_sample": samples})
        if self.length_penalty is not None and (completed.num_beams or 1) == 1:
            raise UserError("--length_penalty compares beams; add --num_beams 2 or more, or leave it out.")
        return completed


def _refuse_sampling_options(given: dict[str, Any]) -> None:
    """Raises `UserError` for options that have no effect, because nothing is sampled."""
    if given.get("temperature") == 0:
        of_sampling = [name for name in ("do_sample", "top_k", "top_p", "seed") if given.get(name, False) is not False]
        if of_sampling:
            raise UserError(
                f"--{of_sampling[0]} is for sampling, which --temperature 0 switches off; leave out one of them."
            )
    elif unused := next((name for name in _OF_SAMPLING if name in given), None):
        raise UserError(f"--{unused} is for sampling; add --do_sample, or leave it out.")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser that is not made from dataclasses."""
    group = parser.add_argument_group("how the text is written")
    for option in fields(DecodingArguments):
        # HfArgumentParser changes the type `int | None` of the field to int.
        value_type = (*get_args(option.type), option.type)[0]
        if value_type is bool:
            group.add_argument(f"--{option.name}", action="store_true", default=None, **option.metadata)
            add_opposite(group)
        else:
            group.add_argument(f"--{option.name}", type=value_type, **option.metadata)


def add_opposite(parser: argparse._ActionsContainer) -> None:
    """Add `--no_do_sample`."""
    parser.add_argument(
        "--no_do_sample", dest="do_sample", action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


def from_namespace(args: argparse.Namespace) -> DecodingArguments:
    """The options of a parsed command line. Raises `UserError` for a value out of range."""
    options = DecodingArguments(**{option.name: getattr(args, option.name) for option in fields(DecodingArguments)})
    options.check()
    return options
