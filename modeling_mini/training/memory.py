"""Whether a model fits into the memory of this machine, from its shape alone."""

import psutil
import torch

from ..configuration_mini import MiniConfig
from ..errors import UserError
from ..presets import count_parameters
from .arguments import MiniTrainingArguments, ModelArguments


BYTES_PER_LAYER = 100_000  # of Python objects, whatever the sizes


def require_memory(config: MiniConfig, model_args: ModelArguments, args: MiniTrainingArguments) -> None:
    """Refuse a model whose weights, gradients and optimizer do not fit into the memory that is free.

    The memory of an accelerator is compared only if each device holds the whole model.

    Raises:
        UserError: says how much is needed, and how much there is.
    """
    parameters = count_parameters(config)
    weights = 4 * parameters + BYTES_PER_LAYER * config.num_hidden_layers
    training = weights + 4 * parameters + _optimizer_bytes(args) * parameters
    memory = psutil.virtual_memory()
    free = memory.available + psutil.swap_memory().free
    on_cpu = not torch.accelerator.is_available() or args.use_cpu
    needed, place = training if on_cpu else weights, "of memory are free"
    is_sharded = args.deepspeed_plugin is not None or args.fsdp_plugin_args is not None
    if not on_cpu and not is_sharded and torch.cuda.is_available() and needed <= free:
        needed, free, place = training, torch.cuda.mem_get_info()[1], "are all that the device has"
    if needed > free:
        raise UserError(
            f"The model of {_source(model_args)} has {parameters:,} parameters, whose weights, gradients and "
            f"optimizer need {needed / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB {place}; choose a "
            "smaller --model, or smaller sizes in --config_overrides."
        )


def _optimizer_bytes(args: MiniTrainingArguments) -> int:
    """The least bytes per parameter that the optimizer of a run keeps."""
    if args.optimizer != "adamw":
        return 4
    return 8 if str(args.optim.value).startswith("adamw_torch") and "bit" not in args.optim.value else 0


def _source(args: ModelArguments) -> str:
    source = f"--init_from {args.init_from}" if args.init_from else f"--model {args.model}"
    return f"{source} with --config_overrides {args.config_overrides}" if args.config_overrides else source
