"""Checks whether a run can continue in its output folder, and chooses the checkpoint."""

import json
import logging
import math
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

from transformers import TrainerState

from ..checkpoints import (
    FSDP_FULL,
    RUN_NAME,
    TRAINER_STATE_NAME,
    ZERO_2,
    ZERO_3,
    checkpoint_defect,
    checkpoints,
    latest_complete_checkpoint,
    num_processes,
    saved_without_optimizer,
    trainer_state,
    written_by,
)
from ..data.columns import name_some
from ..errors import UserError
from ..json_files import parse, read_object
from ..model_folders import TOKENIZER_FILES, WEIGHT_FILES, matches, require_model_folder
from ..streams import check_writable
from ..tasks.base import TaskArguments
from ..writing import write_json
from .arguments import MiniTrainingArguments, ModelArguments
from .callbacks import stopped_early
from .distributed import distribution_of
from .states import require_states


logger = logging.getLogger(__name__)

REPORT_NAME = "metrics.json"
ROWS = "rows_per_update"  # a key of _run.json

# Arguments of the Trainer that change the weights of a run. The others may differ when it is resumed: its length, what
# it logs, evaluates, saves and pushes, and how a batch is divided over devices.
FIXED_ARGUMENTS = (
    *("seed", "data_seed", "train_sampling_strategy", "ignore_data_skip"),
    *("optimizer", "optim", "optim_args", "optim_target_modules", "muon_learning_rate", "muon_momentum"),
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("label_smoothing_factor", "neftune_noise_alpha", "average_tokens_across_devices"),
    *("bf16", "fp16"),
)

# What a run writes into its folder, besides its checkpoints.
WRITTEN_FILES = [
    *WEIGHT_FILES,
    *TOKENIZER_FILES,
    "*_mini.py",
    "config.json",
    "generation_config.json",
    "training_args.bin",
    "trainer_state.json",
    "readme.md",
    "loss.png",
    REPORT_NAME,
    RUN_NAME,
]


def check_output_dir(output_dir: str | Path, resume: bool, checkpoint: str | None = None) -> None:
    """Refuse a folder that this run cannot write, or must not.

    A new run needs a folder without an earlier run and without files that it would overwrite. A resumed run needs a
    folder with a run, unless it continues a `checkpoint` of another folder.

    Raises:
        UserError: names the folder or what is in it, and what to do.
    """
    folder = Path(output_dir)
    has_run = bool(checkpoints(folder)) or is_record(folder / RUN_NAME)
    if resume and not has_run and checkpoint is None:
        raise UserError(
            f"--resume: there is no run in {folder}; give the --output_dir of the run to continue, or leave out "
            "--resume to start a new one."
        )
    check_writable(folder, "--output_dir")
    if not resume and has_run and (checkpoints(folder) or (folder / "config.json").exists()):
        raise UserError(
            f"--output_dir {folder} holds an earlier run; continue it with --resume, or choose another --output_dir."
        )
    if not has_run:
        refuse_files_of_others(folder)


def refuse_files_of_others(folder: Path) -> None:
    """Refuse a folder with files that a run would overwrite, although no run has written there. Raises `UserError`."""
    names = [path.name for path in folder.iterdir()]
    if taken := sorted(name for name in names if matches(name, WRITTEN_FILES)):
        raise UserError(
            f"--output_dir {folder} holds {taken[0]}, which no run of this program wrote and this one would "
            "overwrite; choose another --output_dir, such as a new folder in it."
        )


def is_record(path: Path) -> bool:
    """Whether a file is the _run.json of a run: a JSON object with a group of arguments."""
    try:
        content = parse(path.read_text(encoding="utf-8"), allow_nan=True)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and holds_arguments(content)


def holds_arguments(record: dict) -> bool:
    """Whether the content of a _run.json has a group of arguments."""
    return any(isinstance(record.get(group), dict) for group in ("model", "data", "training"))


def fixed_arguments(
    model_args: ModelArguments, data_args: TaskArguments, args: MiniTrainingArguments
) -> dict[str, dict]:
    """The arguments that a resumed run must share with the run that it continues.

    The batch is compared as rows per update, because the position in the data is counted in updates.
    """
    names = list(FIXED_ARGUMENTS)
    if args.train_sampling_strategy == "group_by_length":  # its order depends on the batch size of a process
        names += ["per_device_train_batch_size", "gradient_accumulation_steps"]
    training = {name: getattr(args, name) for name in names if hasattr(args, name)}
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
    path = Path(output_dir) / RUN_NAME
    if not (resume and path.exists()):
        if write:
            write_json(path, arguments)
        return
    compare_with_record(path, arguments)


def compare_with_record(path: Path, arguments: dict[str, dict]) -> None:
    """Refuse arguments that differ from the recorded ones of a run. Raises `UserError` with all that do."""
    recorded = read_object(path)
    if not holds_arguments(recorded):
        raise UserError(
            f"{path} does not record the arguments of a run; rename or delete the file to resume without it."
        )
    differences = []
    for group, values in arguments.items():
        recorded_values = recorded.get(group, {})
        if not isinstance(recorded_values, dict):
            raise UserError(f"{path} is damaged: {group!r} is not an object; delete the file to resume without it.")
        differences += [
            (name, recorded_values[name], getattr(values[name], "value", values[name]))
            for name in values
            if name in recorded_values and not _is_same(recorded_values[name], values[name])
        ]
    names = [name for name, _, _ in differences]
    differences = [pair for pair in differences if pair[0] != "use_muon" or "optimizer" not in names]
    if names == [ROWS]:
        raise UserError(
            f"{path} records {differences[0][1]} rows per update for this run, but it would read {differences[0][2]}; "
            "choose --per_device_train_batch_size and --gradient_accumulation_steps so that their product with the "
            "number of processes stays the same."
        )
    if differences:
        started = "; ".join(_difference(*difference) for difference in differences)
        given = [f"--{name} {_word(value)}" for name, value, _ in differences if value is not None and name != ROWS]
        left_out = [f"without --{name}" for name, value, _ in differences if value is None]
        options = ", ".join([" ".join(["--resume", *given]), *left_out])
        raise UserError(
            f"{path} records that this run was started {started}. To go on, resume with the same arguments "
            f"({options}), or choose another --output_dir."
        )


def _difference(name: str, recorded: object, value: object) -> str:
    """How the recorded value of an argument differs, as the end of "was started"."""
    if name == ROWS:
        return f"with {recorded} rows per update (batch size x accumulation x processes), not {value}"
    if recorded is None:
        return f"without --{name}, not with {_word(value)}"
    return f"with --{name} {_word(recorded)}, not {'without it' if value is None else _word(value)}"


def _word(value: object) -> str:
    """A value as on a command line."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(_word, value))
    return shlex.quote(json.dumps(value) if isinstance(value, dict) else str(value))


def check_run_of_checkpoint(args: MiniTrainingArguments, arguments: dict[str, dict]) -> None:
    """Refuse a checkpoint that does not exist, or that is of another run with other arguments. Raises `UserError`."""
    checkpoint = args.resume_from_checkpoint
    if checkpoint is not None and not Path(checkpoint).is_dir():
        raise UserError(_no_checkpoint(checkpoint))
    if record := record_of_other_folder(args):
        compare_with_record(record, arguments)


def _no_checkpoint(path: str | Path) -> str:
    """The sentence about a checkpoint that does not exist."""
    others = [folder.name for folder in reversed(checkpoints(Path(path).parent))]
    hint = f"one of {name_some(others)} in {Path(path).parent}" if others else "the folder of a checkpoint"
    return f"--resume_from_checkpoint {path}: the folder does not exist; give {hint}, or --resume for the last one."


def record_of_other_folder(args: MiniTrainingArguments) -> Path | None:
    """The _run.json of the run whose checkpoint is continued in another folder, or None."""
    if args.resume_from_checkpoint is None:
        return None
    path = Path(args.resume_from_checkpoint).absolute().parent / RUN_NAME
    return path if path.parent != Path(args.output_dir).absolute() and path.exists() else None


def _is_same(recorded: object, value: object) -> bool:
    """Whether a value is the recorded one; older runs recorded some values as text."""
    return recorded in (value, str(value)) or (isinstance(value, Path) and recorded == str(value))


def check_same_rows(args: MiniTrainingArguments, fingerprint: str | None, name: str = "training") -> None:
    """Record the fingerprint of the rows of a new run, and refuse to continue a run with other rows.

    Other validation rows would make a loss that cannot be compared with those before, of which one is the best.

    Args:
        fingerprint: a hash of all token ids; None for a stream, whose rows are not compared.
        name: which rows, training or validation.

    Raises:
        UserError: the rows have changed.
    """
    path = Path(args.output_dir) / RUN_NAME
    if fingerprint is None or not path.exists():
        return
    key = f"{name}_rows"
    for record in filter(None, [record_of_other_folder(args), path if args.is_resumed else None]):
        if read_object(record).get(key) not in (None, fingerprint):
            raise UserError(
                f"{record} records other {name} rows: the text of the data, or how it is read, has changed since the "
                "run was started; restore it, or start a new run in another --output_dir."
            )
    content = read_object(path)
    if key not in content and args.should_save:
        write_json(path, {**content, key: fingerprint})


def resume_point(args: MiniTrainingArguments) -> str | None:
    """The checkpoint to continue from, or None for a new run.

    Raises:
        UserError: this run cannot continue the checkpoint, or the run is finished.
    """
    if not args.is_resumed:
        return None
    report = read_report(args.output_dir)
    checkpoint = args.resume_from_checkpoint or latest_complete_checkpoint(args.output_dir)
    if checkpoint is None:
        refuse_to_lose_work(args, report)
        logger.warning("No complete checkpoint in %s: starting from the beginning", args.output_dir)
        if args.should_save:
            set_aside(args.output_dir)
        return None
    check_checkpoint(checkpoint, args)
    require_resumable(Path(checkpoint))
    require_states(Path(checkpoint), args)
    refuse_finished(checkpoint, args, report)
    logger.info("Continuing from %s", checkpoint)
    return str(checkpoint)


def read_report(output_dir: str | Path) -> dict | None:
    """The metrics.json of a finished run, or None. Raises `UserError` if it is damaged."""
    path = Path(output_dir) / REPORT_NAME
    return read_object(path) if path.exists() else None


def refuse_to_lose_work(args: MiniTrainingArguments, report: dict | None) -> None:
    """Refuse to start from the beginning in the folder of a run that has a result, or only lacks its optimizer.

    Raises:
        UserError: says what is there, and how to use it.
    """
    folder = args.output_dir
    if unfit := next(filter(saved_without_optimizer, checkpoints(folder)), None):
        raise UserError(_without_optimizer(unfit))
    if report is not None:
        raise UserError(
            f"The run in {folder} is finished, and none of its checkpoints is left to continue from; choose another "
            f"--output_dir for a new run, or start from its weights with --init_from {folder}."
        )
    if weights := next((path for pattern in WEIGHT_FILES for path in Path(folder).glob(pattern)), None):
        raise UserError(
            f"{weights} is a trained model, and there is no checkpoint to continue from; choose another --output_dir, "
            "or delete the file to start from the beginning."
        )


def _without_optimizer(checkpoint: Path) -> str:
    return (
        f"{checkpoint} was saved without its optimizer (--save_only_model), so it cannot be continued exactly; start "
        f"a new run from its weights with --init_from {checkpoint} and another --output_dir."
    )


def refuse_finished(checkpoint: str | Path, args: MiniTrainingArguments, report: dict | None) -> None:
    """Refuse to train updates again that a finished run has made, whichever of its checkpoints are left.

    Raises:
        UserError: the report covers all updates of this run, or early stopping ended it with the same patience.
    """
    updates, patience = ((report or {}).get(name) for name in ("updates", "stopped_with_patience"))
    if not isinstance(updates, int):
        return
    last_update = last_update_of(trainer_state(checkpoint), args)
    is_early = isinstance(patience, int) and (args.early_stopping_patience or math.inf) <= patience
    if updates >= last_update or is_early:
        raise UserError(_finished(args, updates, last_update, is_early and updates < last_update))


def last_update_of(state: TrainerState, args: MiniTrainingArguments) -> float:
    """The last update of a run that continues a checkpoint.

    It is infinite if the run has more epochs than it had: their updates are counted when the data have been read.
    """
    if args.max_steps > 0:
        return args.max_steps
    return state.max_steps if args.num_train_epochs <= state.num_train_epochs else math.inf


def _finished(args: MiniTrainingArguments, update: int, last_update: float, is_early: bool = False) -> str:
    option = "--max_steps" if args.max_steps > 0 else "--num_train_epochs"
    option = "--early_stopping_patience" if is_early else option
    return (
        f"The run in {args.output_dir} is finished ({update} of {last_update} updates); choose another --output_dir "
        f"for a new run, or a larger {option} to continue."
    )


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


def require_resumable(checkpoint: Path) -> None:
    """Judge every file of a checkpoint that the Trainer will open, before any long work. Raises `UserError`."""
    if saved_without_optimizer(checkpoint):
        raise UserError(_without_optimizer(checkpoint))
    if defect := checkpoint_defect(checkpoint):
        raise UserError(f"{checkpoint} cannot be continued: {defect}; use another checkpoint.")
    # FSDP reads its own file of weights, a pickle that `checkpoint_defect` has judged.
    if written_by(checkpoint) != FSDP_FULL and any(checkpoint.glob("*.safetensors")):
        require_model_folder(checkpoint, str(checkpoint))


def is_finished(checkpoint: str, args: MiniTrainingArguments) -> bool:
    """Whether a checkpoint is the last one of its run, or early stopping ended the run there: the report is missing.

    Raises:
        UserError: the report exists, so nothing is left to do; or the run uses DeepSpeed, which cannot write the
            report because it cannot evaluate a model that it has not trained.
    """
    state = trainer_state(checkpoint)
    last_update = last_update_of(state, args)
    is_early = state.global_step < last_update and stopped_early(state, args)
    if state.global_step < last_update and not is_early:
        return False
    if (Path(args.output_dir) / REPORT_NAME).exists():
        raise UserError(_finished(args, state.global_step, last_update, is_early))
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
