"""Arguments of a training run: a recipe (a YAML file with what differs from the defaults), then the command line."""

import argparse
import json
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..decoding import SAMPLE_PROMPT
from ..errors import UserError, shortened
from ..json_files import parse
from ..options import options as given_options
from ..parsing import arguments_holding, parse_dataclasses
from ..tasks import choose_dataset
from ..tasks.base import TaskArguments, warn_of_idle
from .optim import OPTIMIZERS
from .overrides import canonical_overrides
from .recipes import DEFAULT_RECIPE, read_recipe, recipe_names, split_recipe, to_argv, without_winners
from .values import check_before_trainer, sentences


logger = logging.getLogger(__name__)


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
    tokenizer_kind: Literal["bpe", "uncased", "char"] = field(
        default="bpe",
        metadata={
            "help": "Tokenizer to train. bpe: byte-level BPE. uncased: BPE on lower-case words, for labels, spans and "
            "fill-mask. char: one token per character."
        },
    )

    def overrides(self) -> dict:
        """`config_overrides` as a dictionary. Raises `UserError` if it is not a JSON object."""
        try:
            overrides = parse(self.config_overrides or "{}", object_pairs_hook=_without_repetition)
        except ValueError as error:
            raise UserError(
                f"--config_overrides is not JSON ({error}): {shortened(self.config_overrides, 200)}; write it like "
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
    prompt: str = field(default=SAMPLE_PROMPT, metadata={"help": "Prompt of the sample that is generated at the end."})
    # The log must show a loss that is nan or inf.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Exclude nan and inf from the logged loss."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must be false: the collator makes positions and labels from other columns."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Number of checkpoints to keep."})
    # `bool`, so that the option needs no value; None until `choose_best_metric` knows whether the run evaluates.
    load_best_model_at_end: bool = field(
        default=None,
        metadata={
            "help": "Save and report the checkpoint that was the best by --metric_for_best_model, not the last. "
            "By default true for a run that evaluates and writes checkpoints."
        },
    )
    metric_for_best_model: str | None = field(
        default=None,
        metadata={
            "help": "Metric that chooses the best checkpoint: token_loss (the default), perplexity, bits_per_byte, or "
            "a score of the task, such as accuracy, macro_f1, bleu, rougel or exact_match."
        },
    )
    eval_sample: int | None = field(
        default=None,
        metadata={
            "help": "Number of validation examples, drawn at random, on which each evaluation computes the task's own "
            "scores: by default 1000 for labels and spans, and 100 for tasks that write text. 0 computes none."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "End the training after this many evaluations in a row without a better one."},
    )
    early_stopping_threshold: float = field(
        default=0.0,
        metadata={"help": "Improvement of --metric_for_best_model below which an evaluation counts as no better."},
    )

    def __post_init__(self):
        check_before_trainer(self)
        if not torch.accelerator.is_available():  # processes on CPUs communicate through gloo
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                self.ddp_backend = self.ddp_backend or "gloo"
            # DeepSpeed detects the CPU itself, and accelerate does not start DeepSpeed if `use_cpu` is set.
            self.use_cpu = self.use_cpu or os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true"
        # The Trainer demands that evaluations and checkpoints coincide, which `KeepBest` ensures, and guesses from the
        # name of a metric whether greater is better. `choose_best_metric` sets both, once the task is known.
        given = self.load_best_model_at_end, self.greater_is_better
        self.load_best_model_at_end = False
        with sentences("The training arguments"):
            super().__post_init__()
        self.load_best_model_at_end, self.greater_is_better = given
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


ABOUT = f"RECIPE is a YAML file of arguments, or one of {', '.join(recipe_names())}; by default {DEFAULT_RECIPE}."
ARGUMENT_CLASSES = (ModelArguments, TaskArguments, MiniTrainingArguments)


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, TaskArguments, MiniTrainingArguments]:
    """Parse `[RECIPE] [--argument value ...]` into dataclasses; the default recipe is `quickstart`.

    A recipe is a YAML file of arguments, given as a path or as its name in `configuration/recipes`. The command line
    overrides the recipe, also where another argument of the recipe would win (`without_winners`); `config_overrides`
    is merged field by field. The default `output_dir` is `runs/RECIPE`.

    Raises:
        UserError: the recipe does not exist or does not parse, or an argument does not exist, has a value of the wrong
            type, or contradicts another.
        SystemExit: after `--help`.
    """
    path, options = split_recipe(argv)
    recipe = {"output_dir": f"runs/{path.stem}", **read_recipe(path)}
    overrides = canonical_overrides(recipe.pop("config_overrides", None) or {})
    given = given_options(options)
    recipe = without_winners(recipe, given)
    lists, dicts = arguments_holding(list, ARGUMENT_CLASSES), arguments_holding(dict, ARGUMENT_CLASSES)
    argv = [*to_argv(recipe, path, lists, dicts), *options]
    arguments = parse_dataclasses(ARGUMENT_CLASSES, argv, "train.py [RECIPE]", _add_use_muon, ABOUT)
    model_arguments, data_arguments, training_arguments = arguments
    if not training_arguments.is_resumed:  # older runs shortened it
        data_arguments.check_stride({*recipe, *given})
    _warn_of_idle_options(given, model_arguments, training_arguments)
    _warn_of_new_weights(path.stem, model_arguments, training_arguments)
    if model_arguments.init_from:
        # The recipe's shape and attention mask are for a new model; the model to fine-tune has its own.
        of_new_models = {"num_hidden_layers", "num_attention_heads", "is_causal"}
        overrides = {
            name: value
            for name, value in overrides.items()
            if name not in of_new_models and not name.endswith("_size")
        }
    if overrides := overrides | canonical_overrides(model_arguments.overrides()):
        model_arguments.config_overrides = json.dumps(overrides)
    choose_dataset(data_arguments)
    if (idle := data_arguments.idle(given)) and training_arguments.should_log:
        warn_of_idle(idle)
    return arguments


def _warn_of_idle_options(given: Collection[str], model_args: ModelArguments, args: MiniTrainingArguments) -> None:
    """Warn of options of the command line that have no effect next to another one."""
    idle = [
        ("num_train_epochs", args.max_steps > 0, f"--max_steps {args.max_steps} sets the length of the training"),
        ("model", model_args.init_from, "--init_from sets the shape"),
        ("tokenizer_kind", model_args.tokenizer or model_args.init_from, "no tokenizer is trained"),
    ]
    for name in ("eval", "save", "logging"):
        strategy = getattr(args, f"{name}_strategy")
        strategy = getattr(strategy, "value", strategy)
        idle.append((f"{name}_steps", strategy != "steps", f"--{name}_strategy is {strategy}"))
    for name, is_idle, reason in idle:
        if name in given and is_idle and args.should_log:
            logger.warning("--%s has no effect: %s. Leave one of the two out.", name, reason)


def _warn_of_new_weights(recipe: str, model_args: ModelArguments, args: MiniTrainingArguments) -> None:
    """Warn if a recipe that fine-tunes a model has none to start from, and another recipe is made for new weights."""
    better = f"{recipe}-scratch"
    if better in recipe_names() and not model_args.init_from and not args.is_resumed and args.should_log:
        logger.warning("%s fine-tunes a model: add --init_from. For new weights, use the recipe %s.", recipe, better)


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
