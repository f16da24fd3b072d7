"""Runs on several processes: how a run is distributed, and how a sharded model is loaded and saved."""

import os
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate.utils import DistributedType
from transformers import Trainer

from ..checkpoints import DDP, FSDP_FULL, FSDP_SHARDED, ZERO_2, ZERO_3
from ..writing import complete_files
from .arguments import MiniTrainingArguments


def distribution_of(args: MiniTrainingArguments) -> str:
    """How a run with these arguments is distributed."""
    if args.deepspeed_plugin is not None:
        return ZERO_3 if args.deepspeed_plugin.zero_stage == 3 else ZERO_2
    is_fsdp = args.fsdp_plugin_args is not None or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if not is_fsdp or args.distributed_state.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        return DDP  # accelerate falls back to DDP there
    kind = (args.fsdp_plugin_args or {}).get("state_dict_type") or os.environ.get("FSDP_STATE_DICT_TYPE", "")
    return FSDP_FULL if "FULL" in str(kind) else FSDP_SHARDED


def shard(trainer: Trainer, checkpoint: str) -> None:
    """Shard a finished model with FSDP and load its weights, for evaluation: the Trainer does so only to train."""
    optimizer = torch.optim.SGD(trainer.model.parameters())  # accelerate shards a model only with an optimizer
    trainer.model, _ = trainer.accelerator.prepare(trainer.model, optimizer)
    trainer.model_wrapped = trainer.model
    trainer._load_from_checkpoint(checkpoint, trainer.model)


def save_whole_model(trainer: Trainer) -> None:
    """Write model and tokenizer into the output folder; `push_result` pushes them later.

    A resumed run reads the tokenizer and the config there, so that neither may be left half written.
    """
    output_dir = trainer.args.output_dir
    with complete_files(output_dir) if trainer.args.should_save else nullcontext(output_dir) as folder:
        _save_whole_model(trainer, folder)


def _save_whole_model(trainer: Trainer, folder: str | Path) -> None:
    """Write model and tokenizer into a folder.

    The Trainer does not write the whole model if FSDP saves sharded checkpoints, and writes tied weights twice under
    DeepSpeed. For these, all processes gather the model here, and the first process writes it.
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        trainer.save_model(str(folder), _internal_call=True)
        return
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.args.should_save:
        for name in trainer.model.all_tied_weights_keys:
            weights.pop(name, None)
        trainer.model.save_pretrained(folder, state_dict=weights)
        trainer.processing_class.save_pretrained(folder)
