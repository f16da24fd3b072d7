"""Values of the arguments of a run, judged in one place before any data are read: ranges, files, and a stand-in.

What only torch or the Trainer can judge, such as the arguments of a schedule, is built for a tiny model first.
"""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint
from transformers import SchedulerType, Trainer, get_scheduler
from transformers.integrations.integration_utils import (
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
)
from transformers.utils import is_liger_kernel_available

from ..errors import UserError, first_line, one_line, shortened
from ..json_files import parse
from ..options import check_choice
from ..tasks import task_class
from .optim import optimizer_of


if TYPE_CHECKING:
    from ..tasks.base import TaskArguments
    from .arguments import MiniTrainingArguments


logger = logging.getLogger(__name__)


class Range(NamedTuple):
    """Allowed values: from `low` to `high`; `above` and `below` exclude the bound itself."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a finite number lies in the range."""
        is_above = value > self.low if self.above else value >= self.low
        is_below = value < self.high if self.below else value <= self.high
        return math.isfinite(value) and is_above and is_below

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        high = f"below {self.high:g}" if self.below else f"at most {self.high:.12g}"
        return f"a finite number {low}" if self.high == math.inf else f"a number {low} and {high}"


_COUNT = Range(1, 2**31 - 1)
_AMOUNT = Range(0, 2**31 - 1)
_NOT_NEGATIVE = Range(0)
_POSITIVE = Range(0, above=True)
_SHARE = Range(0, 1, below=True)
_SEED = Range(0, 2**32 - 1)  # of NumPy

RANGES = {
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "num_train_epochs": _NOT_NEGATIVE,
    "max_steps": Range(-1, 2**31 - 1),
    "learning_rate": _NOT_NEGATIVE,
    "muon_learning_rate": _NOT_NEGATIVE,
    "muon_momentum": _SHARE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": _POSITIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "label_smoothing_factor": _SHARE,
    "neftune_noise_alpha": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "logging_steps": _POSITIVE,
    "eval_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "eval_delay": _NOT_NEGATIVE,
    "save_total_limit": _COUNT,
    "eval_sample": _AMOUNT,
    "early_stopping_patience": _COUNT,
    "early_stopping_threshold": _NOT_NEGATIVE,
    "dataloader_num_workers": Range(0, 1024),
    "dataloader_prefetch_factor": _COUNT,
    "torch_empty_cache_steps": _COUNT,
    "ddp_timeout": _COUNT,
    "ddp_bucket_cap_mb": _COUNT,
    "seed": _SEED,
    "data_seed": _SEED,
}
# Of `TaskArguments`, in addition to `TaskArguments.check`.
DATA_RANGES = {
    "split_seed": _SEED,
    "shuffle_buffer": _COUNT,
    "preprocessing_workers": Range(1, 1024),
    "max_train_documents": _COUNT,
    "max_validation_documents": _COUNT,
    "max_source_tokens": _AMOUNT,
    "max_target_tokens": _COUNT,
    "stride": _AMOUNT,
}
_JSON_FILES = ("accelerator_config", "fsdp_config", "deepspeed")
BYTES_PER_TOKEN = 1024  # of a row, at the very least: ids, labels, positions, and the activations of a small model


def check_ranges(arguments: Any, ranges: dict[str, Range]) -> None:
    """Raise `UserError` for a number out of its range, in a dataclass of arguments."""
    for field in fields(arguments):
        value = getattr(arguments, field.name)
        allowed = ranges.get(field.name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        if allowed is not None and not allowed.holds(value):
            leave_out = ", or leave it out" if field.default is None else ""
            raise UserError(f"--{field.name} is {value}; give {allowed}{leave_out}.")
        if not (math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63):
            kind = "a finite number" if isinstance(value, float) else "a smaller number"
            raise UserError(f"--{field.name} is {shortened(str(value), 80)}; give {kind}.")


def check_before_trainer(args: "MiniTrainingArguments") -> None:
    """Refuse values on which `TrainingArguments` or a run would fail later. Raises `UserError`."""
    if not str(args.output_dir or "").strip():
        raise UserError("--output_dir is empty; name a folder for the results.")
    check_ranges(args, RANGES)
    if args.max_steps == 0 or (args.max_steps < 0 and not args.num_train_epochs > 0):
        raise UserError(
            f"--max_steps is {args.max_steps} and --num_train_epochs is {args.num_train_epochs}: there is no update; "
            "give at least one of them a value above 0."
        )
    for name, works in (
        ("prediction_loss_only", not args.prediction_loss_only),
        ("batch_eval_metrics", not args.batch_eval_metrics),
        ("eval_do_concat_batches", args.eval_do_concat_batches),
        ("label_names", not args.label_names),
    ):
        if not works:
            raise UserError(f"--{name} would take away what the report measures at each evaluation; leave it out.")
    for name in args._VALID_DICT_FIELDS:
        if isinstance(getattr(args, name), str):
            _check_json(name, getattr(args, name))


def _check_json(name: str, value: str) -> None:
    """Raise `UserError` for an option that holds neither a JSON object nor, where it may, the path of one."""
    if not value.lstrip().startswith("{"):
        if name not in _JSON_FILES:
            raise UserError(f"--{name} is {value!r}; give a JSON object, such as '{{\"name\": 1}}'.")
        if not Path(value).is_file():
            raise UserError(f"--{name} {value}: there is no such file; name a JSON file, or give a JSON object.")
    try:
        text = value if value.lstrip().startswith("{") else Path(value).read_text(encoding="utf-8-sig")
        content = parse(text)
    except (ValueError, OSError) as error:
        raise UserError(f"--{name} is not JSON ({one_line(error)}): {shortened(value, 200)}") from error
    if not isinstance(content, dict):
        raise UserError(f"--{name} holds a {type(content).__name__}; give a JSON object of names and values.")


@contextmanager
def sentences(option: str) -> Iterator[None]:
    """Turn what transformers or torch raise about a value into a `UserError` that names the option."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{option}: {first_line(error)} Install it, or choose another option.") from error
    except (ArithmeticError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{option}: {first_line(error)}") from error


def check_together(data_args: "TaskArguments", args: "MiniTrainingArguments") -> None:
    """Refuse what the parsed arguments cannot do together, or on this machine. Raises `UserError`."""
    data_args.check_shares("validation_fraction")
    check_ranges(data_args, DATA_RANGES)
    check_row(data_args.block_size)
    check_reports(args.report_to)
    check_unusable(data_args, args)
    check_kernels(args)
    if args.learning_rate == 0 and args.should_log:
        change = "only the matrices of Muon change" if args.optimizer == "muon" else "no weight changes"
        logger.warning("--learning_rate is 0, so %s; give a rate above 0 to train.", change)
    optimizer_of(args).check(args)
    optimizer = build_optimizer(args)
    build_schedule(args, optimizer)


def check_row(block_size: int) -> None:
    """Raise `UserError` for rows that cannot fit into the memory of this machine, whatever the model."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return
    if (needed := block_size * BYTES_PER_TOKEN) > memory:
        raise UserError(
            f"--block_size is {block_size}: one row needs at least {needed / 1e9:,.0f} GB, and this machine has "
            f"{memory / 1e9:,.0f} GB; choose shorter rows."
        )


def check_reports(names: list[str]) -> None:
    """Raise `UserError` for a logger that the Trainer does not know, or whose package is not installed."""
    for name in names:
        with sentences("--report_to"):
            get_reporting_integration_callbacks([name])
        if name not in (*get_available_reporting_integrations(), "flyte"):  # flyte is not listed
            raise UserError(
                f"--report_to {name}: the package for it is not installed; install it (pip install {name}), or leave "
                "the option out."
            )


def check_unusable(data_args: "TaskArguments", args: "MiniTrainingArguments") -> None:
    """Raise `UserError` for an argument that no run can use, or that lacks another one or a device."""
    refused = {
        "streaming": (
            data_args.streaming and args.max_steps <= 0,
            "reads a stream, which has no epochs; set the length of the training with --max_steps",
        ),
        "save_on_each_node": (
            args.save_on_each_node,
            "would write a part of each checkpoint on each machine; use a shared --output_dir",
        ),
        "remove_unused_columns": (
            args.remove_unused_columns,
            "would remove the columns from which positions and labels are made; leave it out",
        ),
        "dataloader_drop_last": (
            args.dataloader_drop_last,
            "would drop validation rows from the metrics; leave it out",
        ),
        "restore_callback_states_from_checkpoint": (
            args.restore_callback_states_from_checkpoint,
            "would replace this run's arguments with the recorded ones; leave it out: early stopping continues with "
            "its counter anyway",
        ),
        "fsdp": (
            bool(args.fsdp) and args.world_size == 1,
            "shards a model over several processes; start them with accelerate launch",
        ),
        "fp16": (args.fp16 and args.use_cpu, "has no effect on a CPU; use --bf16, or leave it out"),
        "save_strategy": (
            args.save_strategy == "best" and args.metric_for_best_model is None,
            "best needs --metric_for_best_model",
        ),
        "dataloader_persistent_workers": (
            args.dataloader_persistent_workers and args.dataloader_num_workers == 0,
            "needs --dataloader_num_workers of at least 1",
        ),
        "label_smoothing_factor": (
            args.label_smoothing_factor > 0 and "labels" not in task_class(data_args.task).label_names,
            f"has no effect on {data_args.task}, whose loss the Trainer does not smooth; leave it out",
        ),
        "length_column_name": (args.length_column_name != "length", "names a column that the rows do not have"),
        "debug": (
            "underflow_overflow" in args.debug,
            "underflow_overflow cannot read the boolean masks of this model",
        ),
    }
    for name, (is_refused, reason) in refused.items():
        if is_refused:
            raise UserError(f"--{name} {reason}.")


def check_kernels(args: "MiniTrainingArguments") -> None:
    """Raise `UserError` for a kernel, a compiler or a checkpointing option that torch does not have."""
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise UserError("--use_liger_kernel: the package is not installed; install it: pip install liger-kernel")
    if args.torch_compile:
        check_choice("--torch_compile_backend", args.torch_compile_backend, torch.compiler.list_backends(None))
        if args.torch_compile_mode is not None:
            with sentences("--torch_compile_mode"):
                torch._inductor.list_mode_options(args.torch_compile_mode)
    if args.gradient_checkpointing_kwargs:
        with sentences("--gradient_checkpointing_kwargs"):
            settings = {"use_reentrant": False} | args.gradient_checkpointing_kwargs
            checkpoint(torch.nn.Identity(), torch.zeros(1, requires_grad=True), **settings)


def build_optimizer(args: "MiniTrainingArguments") -> torch.optim.Optimizer:
    """The optimizer of the run for a tiny stand-in. Raises `UserError` for what it refuses."""
    parameters = [torch.nn.Parameter(torch.zeros(1, 1))]
    stand_in = torch.optim.SGD(parameters, lr=max(args.learning_rate, 1e-8))
    if optimizer_of(args).for_trainer(args) is not None:  # its values are in `RANGES`
        if args.optim != type(args).optim or args.optim_args:
            raise UserError(
                f"--optim and --optim_args have no effect with --optimizer {args.optimizer}; leave them out, or "
                "choose --optimizer adamw."
            )
        return stand_in
    if args.optim_args and not all("=" in item for item in args.optim_args.replace(" ", "").split(",")):
        raise UserError(f"--optim_args is {args.optim_args!r}; write it like name=value,name=value.")
    with sentences(f"--optim {args.optim.value}"):
        if _needs_model(args):
            with suppress(AttributeError, ValueError):  # there is no model, but a missing package is noticed before
                Trainer.get_optimizer_cls_and_kwargs(args)
            return stand_in
        optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        if args.optim_args and settings == Trainer.get_optimizer_cls_and_kwargs(_without_optim_args(args))[1]:
            raise UserError(f"--optim_args has no effect with --optim {args.optim.value}; leave it out.")
        return optimizer_class(parameters, **settings)


def _without_optim_args(args: "MiniTrainingArguments") -> "MiniTrainingArguments":
    others = copy(args)
    others.optim_args = None
    return others


def _needs_model(args: "MiniTrainingArguments") -> bool:
    """Whether the optimizer looks for modules of the model by name, which the stand-in does not have."""
    return any(word in args.optim.value for word in ("galore", "apollo", "lomo"))


def build_schedule(args: "MiniTrainingArguments", optimizer: torch.optim.Optimizer) -> None:
    """Build the learning rate schedule, and follow it to its end. Raises `UserError` for what it refuses."""
    steps = min(args.max_steps, 10_000) if args.max_steps > 0 else 1000
    with sentences(f"--lr_scheduler_type {args.lr_scheduler_type.value}, --lr_scheduler_kwargs"):
        schedule = get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=min(args.get_warmup_steps(steps), steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )
        if args.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):
            return
        for factor in getattr(schedule, "lr_lambdas", []):
            for step in (0, 1, steps // 2, steps - 1):
                if not math.isfinite(float(factor(step))):
                    raise ValueError(f"the learning rate is not a finite number at update {step}")
