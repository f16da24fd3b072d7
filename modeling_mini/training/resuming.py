"""Checks whether a run can continue in its output folder, and chooses the checkpoint."""

import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from transformers import TrainerState

from ..checkpoints import (
    TRAINER_STATE_NAME,
    ZERO_2,
    ZERO_3,
    checkpoints,
    latest_complete_checkpoint,
    num_processes,
    written_by,
)
from ..errors import UserError
from ..tasks.base import TaskArguments
from .arguments import MiniTrainingArguments, ModelArguments
from .callbacks import stopped_early
from .distributed import distribution_of


logger = logging.getLogger(__name__)

ROWS = "rows_per_update"  # a key of _run.json


def check_output_dir(output_dir: str | Path, resume: bool) -> None:
    """Refuse a folder that cannot be written, or that holds an earlier run although this run does not resume.

    Raises:
        UserError: names the folder or the earlier run, and what to do.
    """
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        raise UserError(f"--output_dir {folder} cannot be written: {error.strerror}; choose another.") from error
    if not resume and (checkpoints(folder) or (folder / "config.json").exists()):
        raise UserError(
            f"--output_dir {folder} holds an earlier run; continue it with --resume, or choose another --output_dir."
        )


def fixed_arguments(
    model_args: ModelArguments, data_args: TaskArguments, args: MiniTrainingArguments
) -> dict[str, dict]:
    """The arguments that a resumed run must share with the run that it continues.

    The batch is compared as rows per update, because the position in the data is counted in updates.
    """
    names = ["seed", "optimizer", "optim", "train_sampling_strategy"]
    if args.train_sampling_strategy == "group_by_length":  # its order depends on the batch size of a process
        names += ["per_device_train_batch_size", "gradient_accumulation_steps"]
    training = {name: str(getattr(args, name)) for name in names}
    training["use_muon"] = str(args.optimizer == "muon")  # older runs recorded use_muon, not optimizer
    training[ROWS] = args.rows_per_update
    return {"model": asdict(model_args), "data": asdict(data_args), "training": training}


def check_same_run(output_dir: str | Path, arguments: dict[str, dict], resume: bool, write: bool) -> None:
    """Record the arguments of a new run in _run.json, and refuse to continue a run with other arguments.

    The name begins with an underscore so that the Trainer does not push the file, which holds local paths.

    Args:
        arguments: the arguments that must not change, by group and name.
        write: whether this process writes the file when a run starts.

    Raises:
        UserError: the argument that changed, or a _run.json that does not parse.
    """
    path = Path(output_dir) / "_run.json"
    if not (resume and path.exists()):
        if write:
            temporary = path.with_suffix(".part")
            temporary.write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, path)
        return
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it to continue without this check.") from error
    for group, values in arguments.items():
        recorded_values = recorded.get(group, {})
        for name in values:
            if name not in recorded_values or recorded_values[name] == values[name]:
                continue
            if name == ROWS:
                raise UserError(
                    f"{path} records {recorded_values[name]} rows per update for this run, but it would read "
                    f"{values[name]}; choose --per_device_train_batch_size and --gradient_accumulation_steps so that "
                    "their product with the number of processes stays the same."
                )
            raise UserError(
                f"{path} records that this run was started with --{name} {recorded_values[name]}, not "
                f"{values[name]}; resume with the same arguments, or choose another --output_dir."
            )


def resume_point(args: MiniTrainingArguments) -> str | None:
    """The checkpoint to continue from, or None for a new run. Raises `UserError` if this run cannot continue it."""
    if not args.is_resumed:
        return None
    checkpoint = args.resume_from_checkpoint or latest_complete_checkpoint(args.output_dir)
    if checkpoint is None:
        logger.warning("No complete checkpoint in %s: starting from the beginning", args.output_dir)
        if args.should_save:
            set_aside(args.output_dir)
        return None
    check_checkpoint(checkpoint, args)
    logger.info("Continuing from %s", checkpoint)
    return str(checkpoint)


def set_aside(output_dir: str | Path) -> None:
    """Rename incomplete checkpoints, so that a run that starts from the beginning does not overwrite them."""
    for folder in checkpoints(output_dir):
        renamed = folder.with_name(f"incomplete-{folder.name}")
        shutil.rmtree(renamed, ignore_errors=True)
        folder.rename(renamed)
        logger.warning("%s is kept as %s.", folder, renamed.name)


def check_checkpoint(checkpoint: str | Path, args: MiniTrainingArguments) -> None:
    """Refuse a checkpoint that this run cannot continue. Raises `UserError`."""
    try:
        processes = num_processes(checkpoint)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--resume_from_checkpoint {checkpoint} is not a checkpoint: {TRAINER_STATE_NAME} is missing or damaged."
        ) from error
    recorded, current = written_by(checkpoint), distribution_of(args)
    if recorded != current:
        raise UserError(
            f"{checkpoint} was written by {recorded}, but this run uses {current}; continue the run as it was started "
            "(configuration/accelerate has a file for each)."
        )
    if recorded in (ZERO_2, ZERO_3) and processes != args.world_size:
        raise UserError(
            f"{checkpoint} was written by {processes} processes with DeepSpeed, which cannot reshard it for "
            f"{args.world_size}; start {processes} processes."
        )


def is_finished(checkpoint: str, args: MiniTrainingArguments) -> bool:
    """Whether a checkpoint is the last one of its run, or early stopping ended the run there: the report is missing.

    Raises:
        UserError: the report exists, so nothing is left to do; or the run uses DeepSpeed, which cannot write the
            report because it cannot evaluate a model that it has not trained.
    """
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    last_update = args.max_steps if args.max_steps > 0 else state.max_steps
    is_early = state.global_step < last_update and stopped_early(state, args)
    if state.global_step < last_update and not is_early:
        return False
    if (Path(args.output_dir) / "metrics.json").exists():
        option = "--early_stopping_patience" if is_early else "--max_steps"
        raise UserError(
            f"The run in {args.output_dir} is finished ({state.global_step} of {last_update} updates); choose "
            f"another --output_dir for a new run, or a larger {option} to continue."
        )
    if args.deepspeed_plugin is not None:
        raise UserError(
            f"The run in {args.output_dir} is finished, but its report is missing, and DeepSpeed cannot write it; "
            f"evaluate the model with modeling-mini eval {checkpoint}, or continue with a larger --max_steps."
        )
    return True


def check_free_space(output_dir: str | Path, num_parameters: int) -> None:
    """Refuse a disk without room for three checkpoints and the final model. Raises `UserError`.

    A checkpoint holds float32 weights and up to two optimizer states per weight: 12 bytes per parameter. Two
    checkpoints are kept, and the older one is deleted only after the next is written.
    """
    needed = (3 * 12 + 4) * num_parameters
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise UserError(
            f"The disk of --output_dir {output_dir} has {free / 1e9:.2f} GB free, and checkpoints of this model need "
            f"{needed / 1e9:.2f} GB; free some space or choose another --output_dir."
        )
