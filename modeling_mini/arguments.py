"""Arguments of a training run: a recipe (YAML, only what differs from the defaults), then the command line over it."""

import json
import os
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from .data import DataArguments, choose_dataset
from .errors import UserError
from .presets import configuration_path


DEFAULT_RECIPE = "quickstart"


@dataclass
class ModelArguments:
    """What is trained."""

    model: str = field(
        default="small",
        metadata={"help": "A preset of configuration/models by name, or the path of a config.json or of its folder."},
    )
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "A trained model (folder or Hub name) to fine-tune: its weights, shape and tokenizer are the "
            "start, and --model counts no more."
        },
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "Fields that replace those of the model, as JSON: '{\"hidden_size\": 192}'."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention backend: sdpa, eager, flex_attention, flash_attention_2, ..."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "A trained tokenizer (folder or Hub name); trained on the corpus if not given."},
    )
    tokenizer_kind: Literal["bpe", "char"] = field(
        default="bpe", metadata={"help": "Tokenizer to train: byte-level BPE, or one token a character."}
    )

    def overrides(self) -> dict:
        """`config_overrides` as a dictionary. Raises `UserError` if it is not a JSON object."""
        try:
            overrides = json.loads(self.config_overrides or "{}")
        except json.JSONDecodeError as error:
            raise UserError(
                f"--config_overrides is not JSON ({error}): {self.config_overrides}; write it like "
                "'{\"hidden_size\": 192}'."
            ) from error
        if not isinstance(overrides, dict):
            raise UserError(f"--config_overrides must be a JSON object of fields and values: {self.config_overrides}")
        return overrides


@dataclass
class MiniTrainingArguments(TrainingArguments):
    """The Trainer's own arguments, and what the Trainer lacks."""

    use_muon: bool = field(
        default=False,
        metadata={"help": "Muon for the matrices in the layers; --learning_rate is AdamW's for the rest."},
    )
    muon_learning_rate: float = field(default=0.02, metadata={"help": "Peak learning rate of Muon."})
    muon_momentum: float = field(default=0.95, metadata={"help": "Momentum of Muon."})
    resume: bool = field(
        default=False,
        metadata={"help": "Continue from the last complete checkpoint in --output_dir, if there is one."},
    )
    prompt: str = field(default="The ", metadata={"help": "Beginning of the sample that is written at the end."})
    # A loss that is not a number must be seen, and a log must not hide it.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Leave nan and inf out of the logged loss."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})

    def __post_init__(self):
        if not torch.accelerator.is_available():  # or several processes of a CPU would not find each other
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                self.ddp_backend = self.ddp_backend or "gloo"
            # DeepSpeed finds the CPU by itself, and accelerate leaves it out where it is told to use the CPU.
            self.use_cpu = self.use_cpu or os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true"
        super().__post_init__()
        self.hub_token = (self.hub_token or "").strip() or None
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()

    @property
    def is_resumed(self) -> bool:
        return self.resume or self.resume_from_checkpoint is not None

    def __getstate__(self):
        # The Trainer saves its arguments beside each checkpoint, and pushes them: a token must not travel along.
        return {**self.__dict__, "hub_token": None}


ARGUMENT_CLASSES = (ModelArguments, DataArguments, MiniTrainingArguments)


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, MiniTrainingArguments]:
    """`[RECIPE] [--argument value ...]` as dataclasses; the recipe `quickstart` if none is named.

    A recipe is a YAML file of arguments, by path or by its name in `configuration/recipes`; the command line wins, and
    of `config_overrides` field by field. Runs go to `runs/RECIPE` unless `output_dir` says otherwise.

    Raises:
        UserError: the recipe does not exist or does not parse, or an argument does not exist, has a value of the wrong
            type, or contradicts another.
        SystemExit: after `--help`.
    """
    has_recipe = bool(argv) and not argv[0].startswith("-")
    path = _recipe_path(argv[0] if has_recipe else DEFAULT_RECIPE)
    recipe = {"output_dir": f"runs/{path.stem}", **_read_recipe(path)}
    overrides = recipe.pop("config_overrides", None) or {}
    arguments = parse_dataclasses(ARGUMENT_CLASSES, [*_to_argv(recipe), *argv[has_recipe:]], "train.py [RECIPE]")
    model_arguments, data_arguments, _ = arguments
    if model_arguments.init_from:
        overrides = {name: value for name, value in overrides.items() if not name.endswith("_size")}  # the model's own
    if overrides := overrides | model_arguments.overrides():
        model_arguments.config_overrides = json.dumps(overrides)
    choose_dataset(data_arguments)
    return arguments


def parse_dataclasses(classes: tuple[type, ...], argv: list[str], command: str) -> tuple:
    """`--argument value ...` as an instance of each class. Raises `UserError`, or `SystemExit` after `--help`."""
    parser = _Parser(classes, allow_abbrev=False, usage=f"{command} [--argument value ...]")
    try:
        *arguments, unknown = parser.parse_args_into_dataclasses(
            argv, look_for_args_file=False, return_remaining_strings=True
        )
    except ValueError as error:  # values that the Trainer refuses together
        raise UserError(str(error).splitlines()[0]) from error
    except ImportError as error:  # DeepSpeed, or a way to log, that is not installed
        raise UserError(f"{str(error).splitlines()[0]} Install it, or choose another way.") from error
    if unknown:
        name = unknown[0].split("=")[0]  # the value may be a secret
        raise UserError(f"There is no argument {name}{_nearest_argument(name, classes)}")
    return tuple(arguments)


class _Parser(HfArgumentParser):
    def error(self, message):
        raise UserError(message)


def recipe_names() -> list[str]:
    """Names of the recipes in `configuration/recipes`."""
    return sorted(path.stem for path in configuration_path("recipes").glob("*.yaml"))


def _recipe_path(name_or_path: str) -> Path:
    if name_or_path in recipe_names():
        return configuration_path("recipes", f"{name_or_path}.yaml")
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    raise UserError(f"{name_or_path} is neither a recipe file nor one of the recipes {', '.join(recipe_names())}.")


def _read_recipe(path: Path) -> dict:
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise UserError(f"{path} must hold lines of `argument: value`, and holds a {type(recipe).__name__}.")
    if not isinstance(recipe.get("config_overrides") or {}, dict):
        raise UserError(f"{path}: config_overrides must hold fields and values: {{hidden_size: 192}}.")
    for name in recipe:
        if name not in _argument_names(ARGUMENT_CLASSES):
            raise UserError(f"{path}: there is no argument {name}{_nearest_argument(str(name), ARGUMENT_CLASSES)}")
    return recipe


def _argument_names(classes: tuple[type, ...]) -> list[str]:
    return [f.name for argument_class in classes for f in fields(argument_class) if f.init]


def _nearest_argument(name: str, classes: tuple[type, ...]) -> str:
    nearest = get_close_matches(name.lstrip("-"), _argument_names(classes), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]}?" if nearest else "; --help lists them all."


def _to_argv(recipe: dict) -> list[str]:
    """A recipe as a command line, so that values are checked and converted in one place, by argparse."""
    argv = []
    for name, value in recipe.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        argv += [f"--{name}", *map(str, values)]
    return argv
