"""Arguments of a training run: a recipe (a YAML file with what differs from the defaults), then the command line."""

import argparse
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..errors import UserError
from ..parsing import argument_names, nearest_argument, parse_dataclasses
from ..presets import configuration_path
from ..tasks import choose_dataset
from ..tasks.base import TaskArguments
from .optim import OPTIMIZERS
from .overrides import canonical_overrides


DEFAULT_RECIPE = "quickstart"


@dataclass
class ModelArguments:
    """The model to train."""

    model: str = field(
        default="small",
        metadata={"help": "A preset of configuration/models by name, or the path of a config.json or of its folder."},
    )
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "A trained model (folder or Hub name) to fine-tune: training starts from its weights, shape and "
            "tokenizer, and --model is ignored."
        },
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "Config fields to replace, as JSON: '{\"hidden_size\": 192}'."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention backend: sdpa, eager, flex_attention, flash_attention_2, ..."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "A trained tokenizer (folder or Hub name); by default a new one is trained on the corpus."},
    )
    tokenizer_kind: Literal["bpe", "char"] = field(
        default="bpe", metadata={"help": "Tokenizer to train: byte-level BPE, or one token per character."}
    )

    def overrides(self) -> dict:
        """`config_overrides` as a dictionary. Raises `UserError` if it is not a JSON object."""
        try:
            overrides = json.loads(self.config_overrides or "{}", object_pairs_hook=_without_repetition)
        except json.JSONDecodeError as error:
            raise UserError(
                f"--config_overrides is not JSON ({error}): {self.config_overrides}; write it like "
                "'{\"hidden_size\": 192}'."
            ) from error
        if not isinstance(overrides, dict):
            raise UserError(
                f"--config_overrides must be a JSON object of fields and values, but is: {self.config_overrides}"
            )
        return overrides


def _without_repetition(pairs: list[tuple[str, object]]) -> dict:
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--config_overrides gives {repeated[0]!r} twice; give it once.")
    return dict(pairs)


@dataclass
class MiniTrainingArguments(TrainingArguments):
    """The Trainer's own arguments and the training arguments of this package."""

    optimizer: str = field(
        default="adamw",
        metadata={
            "help": "adamw is the Trainer's own optimizer, which --optim can change. muon trains the matrices in the "
            "layers with Muon and the rest with AdamW, whose learning rate is --learning_rate.",
            "choices": list(OPTIMIZERS),
        },
    )
    muon_learning_rate: float = field(default=0.02, metadata={"help": "Peak learning rate of Muon."})
    muon_momentum: float = field(default=0.95, metadata={"help": "Momentum of Muon."})
    resume: bool = field(
        default=False,
        metadata={"help": "Continue the run in --output_dir from its latest complete checkpoint."},
    )
    prompt: str = field(default="The ", metadata={"help": "Prompt of the sample that is generated at the end."})
    # The log must show a loss that is nan or inf.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Exclude nan and inf from the logged loss."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Number of checkpoints to keep."})

    def __post_init__(self):
        if not torch.accelerator.is_available():  # processes on CPUs communicate through gloo
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                self.ddp_backend = self.ddp_backend or "gloo"
            # DeepSpeed detects the CPU itself, and accelerate does not start DeepSpeed if `use_cpu` is set.
            self.use_cpu = self.use_cpu or os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true"
        super().__post_init__()
        self.hub_token = (self.hub_token or "").strip() or None
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()

    @property
    def is_resumed(self) -> bool:
        return self.resume or self.resume_from_checkpoint is not None

    @property
    def rows_per_update(self) -> int:
        """Rows in one optimizer step, over all devices and accumulated batches."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    def __getstate__(self):
        # The Trainer saves and pushes its arguments with each checkpoint: they must not contain the token.
        return {**self.__dict__, "hub_token": None}


ARGUMENT_CLASSES = (ModelArguments, TaskArguments, MiniTrainingArguments)


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, TaskArguments, MiniTrainingArguments]:
    """Parse `[RECIPE] [--argument value ...]` into dataclasses; the default recipe is `quickstart`.

    A recipe is a YAML file of arguments, given as a path or as its name in `configuration/recipes`. The command line
    overrides the recipe; `config_overrides` is merged field by field. The default `output_dir` is `runs/RECIPE`.

    Raises:
        UserError: the recipe does not exist or does not parse, or an argument does not exist, has a value of the wrong
            type, or contradicts another.
        SystemExit: after `--help`.
    """
    has_recipe = bool(argv) and not argv[0].startswith("-")
    path = _recipe_path(argv[0] if has_recipe else DEFAULT_RECIPE)
    recipe = {"output_dir": f"runs/{path.stem}", **_read_recipe(path)}
    overrides = canonical_overrides(recipe.pop("config_overrides", None) or {})
    argv = [*_to_argv(recipe), *argv[has_recipe:]]
    arguments = parse_dataclasses(ARGUMENT_CLASSES, argv, "train.py [RECIPE]", _add_use_muon)
    model_arguments, data_arguments, _ = arguments
    if model_arguments.init_from:
        # The recipe's sizes are for a new model; the model to fine-tune has its own.
        overrides = {name: value for name, value in overrides.items() if not name.endswith("_size")}
    if overrides := overrides | canonical_overrides(model_arguments.overrides()):
        model_arguments.config_overrides = json.dumps(overrides)
    choose_dataset(data_arguments)
    return arguments


def _add_use_muon(parser: HfArgumentParser) -> None:
    """Accept the older form of `--optimizer`. If both are given, the last one counts."""

    def to_optimizer(text: str) -> str:
        return "muon" if string_to_bool(text) else "adamw"

    parser.add_argument(
        "--use_muon",
        "--use-muon",
        dest="optimizer",
        nargs="?",
        const="true",
        default=argparse.SUPPRESS,
        type=to_optimizer,
        metavar="USE_MUON",
        help="Older form of --optimizer: true for muon, false for adamw.",
    )


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
        raise UserError(f"{path} must hold lines of `argument: value`, but holds a {type(recipe).__name__}.")
    if not isinstance(recipe.get("config_overrides") or {}, dict):
        raise UserError(f"{path}: config_overrides must hold fields and values: {{hidden_size: 192}}.")
    for name in recipe:
        if name not in (*argument_names(ARGUMENT_CLASSES), "use_muon"):
            raise UserError(f"{path}: there is no argument {name}{nearest_argument(str(name), ARGUMENT_CLASSES)}")
    return recipe


def _to_argv(recipe: dict) -> list[str]:
    """Write a recipe as a command line, so that argparse checks and converts all values."""
    argv = []
    for name, value in recipe.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        argv += [f"--{name}", *map(str, values)]
    return argv
