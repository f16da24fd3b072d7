"""The checkpoint folders of a run: how the run was distributed, and whether they are complete and safe to load."""

import logging
import zipfile
from pathlib import Path
from types import UnionType

from accelerate.utils.constants import FSDP_MODEL_NAME, OPTIMIZER_NAME
from safetensors import safe_open
from transformers.trainer_callback import ExportableState, TrainerCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .errors import UserError, one_line
from .json_files import parse
from .pickles import require_harmless, require_harmless_shards, sharded_metadata


logger = logging.getLogger(__name__)

RUN_NAME = "_run.json"  # the underscore keeps the Trainer from pushing the file, which holds local paths
TRAINER_STATE_NAME = "trainer_state.json"  # as in transformers.trainer, whose import is slow

OUR_CALLBACKS = ("EarlyStopping", "RunningLoss", "WorldSize")  # whose state is restored, and consists of numbers

# How a run is distributed.
ZERO_2, ZERO_3 = "DeepSpeed ZeRO-1 or 2", "DeepSpeed ZeRO-3"
FSDP_SHARDED, FSDP_FULL = "FSDP with sharded checkpoints", "FSDP with whole checkpoints"
DDP = "DDP, or one process"


def checkpoints(output_dir: str | Path) -> list[Path]:
    """All checkpoint folders of a run, the latest first; some may be incomplete."""
    folders = [
        path
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.is_dir() and path.name.rpartition("-")[2].isdigit()
    ]
    return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def latest_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The latest complete checkpoint, or None. A warning names each checkpoint that is skipped.

    Raises:
        UserError: a checkpoint holds code.
    """
    for folder in checkpoints(output_dir):
        defect = checkpoint_defect(folder)
        if defect is None:
            return folder
        logger.warning("%s is not complete (%s) and is skipped.", folder, defect)
    return None


def written_by(folder: str | Path) -> str:
    """How the run that wrote a checkpoint was distributed."""
    folder = Path(folder)
    if (folder / "latest").exists() or any(folder.glob("global_step*")):
        return ZERO_3 if any(folder.glob("global_step*/*zero_pp_*model_states.pt")) else ZERO_2
    for suffix, kind in (("_0", FSDP_SHARDED), (".bin", FSDP_FULL)):
        if any((folder / f"{name}{suffix}").exists() for name in (FSDP_MODEL_NAME, OPTIMIZER_NAME)):
            return kind
    return DDP


def num_processes(folder: str | Path) -> int:
    """The number of processes that wrote a checkpoint: as `WorldSize` recorded it, or else one per random state.

    Raises:
        OSError, ValueError: `trainer_state.json` is missing, or is not the state of a Trainer.
    """
    recorded = (trainer_state(folder).stateful_callbacks or {}).get(WorldSize.__name__)
    if recorded is None:
        return max(1, len(list(Path(folder).glob("rng_state_*.pth"))))
    try:
        return int(recorded["args"]["world_size"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{TRAINER_STATE_NAME} does not say how many processes wrote it") from error


def trainer_state(folder: str | Path) -> TrainerState:
    """The state that the Trainer wrote into a checkpoint.

    Raises:
        OSError, ValueError: `trainer_state.json` is missing, or is not the state of a Trainer.
    """
    fields = parse((Path(folder) / TRAINER_STATE_NAME).read_text(encoding="utf-8"), allow_nan=True)
    try:
        state = TrainerState(**fields)
    except (TypeError, AttributeError) as error:  # not an object, or with unknown fields
        raise ValueError(f"{TRAINER_STATE_NAME} is not the state of a Trainer: {one_line(error)}") from error
    is_whole = all(_is_number(getattr(state, name), int) for name in ("global_step", "max_steps"))
    numbers = (state.num_train_epochs, state.num_input_tokens_seen, state.total_flos, state.epoch or 0)
    if not is_whole or not all(map(_is_number, numbers)) or not isinstance(state.log_history, list):
        raise ValueError(f"{TRAINER_STATE_NAME} has fields of the wrong type")
    if not all(map(_is_log_entry, state.log_history)):
        raise ValueError(f"{TRAINER_STATE_NAME} has an entry of log_history without its step, or without numbers")
    callbacks = state.stateful_callbacks or {}
    if not isinstance(callbacks, dict) or not all(_is_callback_state(callbacks.get(name)) for name in OUR_CALLBACKS):
        raise ValueError(f"{TRAINER_STATE_NAME} has a callback of the wrong type")
    return state


def _is_number(value: object, kinds: type | UnionType = int | float) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_log_entry(entry: object) -> bool:
    """Whether an entry has its update, and numbers where a run compares, sums or plots them."""
    return (
        isinstance(entry, dict)
        and _is_number(entry.get("step"), int)
        and all(_is_number(value) for name, value in entry.items() if name == "loss" or name.startswith("eval_"))
    )


def _is_callback_state(recorded: object) -> bool:
    """Whether a callback of this package can be restored; None if the checkpoint does not record it."""
    if recorded is None:
        return True
    parts = [recorded.get("args"), recorded.get("attributes")] if isinstance(recorded, dict) else [None]
    return all(isinstance(part, dict) and all(map(_is_number, part.values())) for part in parts)


class WorldSize(TrainerCallback, ExportableState):
    """Records in every checkpoint how many processes write it, so that a missing file is noticed."""

    def __init__(self, world_size: int = 1):
        self.world_size = world_size

    def state(self) -> dict:
        return {"args": {"world_size": self.world_size}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        self.world_size = args.world_size
        state.stateful_callbacks[WorldSize.__name__] = self.state()  # a resumed checkpoint may lack it


def checkpoint_defect(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None. No file of it is unpickled, and every pickle in it is judged.

    Each process writes its parts, and the first process writes `trainer_state.json` last. Truncation is detected by
    the size in the header of a safetensors file, by the directory at the end of the zip archive of a torch file, and
    by the metadata of sharded weights and optimizers (FSDP2), which are written last and list the other files.
    """
    try:
        processes = num_processes(folder)
    except (OSError, ValueError):
        return f"{TRAINER_STATE_NAME} is missing or damaged"
    for path in folder.glob("*.safetensors"):
        if not is_whole_safetensors(path):
            return f"{path.name} is truncated"
    random_states = [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]
    kind = written_by(folder)
    for name in [*random_states, *_archives(folder, kind, processes)]:
        if not any(folder.glob(name)) or not all(map(zipfile.is_zipfile, folder.glob(name))):
            return f"{name} is missing or truncated"
    for path in _pickles(folder):
        require_harmless(path)
    if kind in (ZERO_2, ZERO_3):
        return _pointer_defect(folder)
    if kind == FSDP_SHARDED:
        return sharded_defect(folder / f"{FSDP_MODEL_NAME}_0") or sharded_defect(folder / f"{OPTIMIZER_NAME}_0")
    if kind == DDP and not any(folder.glob("*.safetensors")):
        return "there are no weights"
    return None


def _pickles(folder: Path) -> list[Path]:
    """The files that a resumed run may unpickle. `training_args.bin` is not among them: nothing opens it."""
    patterns = ("*.pt", "*.pth", "*.bin", "*.pkl", "global_step*/*.pt")
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return [path for path in files if path.name != "training_args.bin"]


def saved_without_optimizer(folder: Path) -> bool:
    """Whether a checkpoint was written with `--save_only_model`: complete weights, and nothing to resume from."""
    try:
        trainer_state(folder)
    except (OSError, ValueError):
        return False
    weights = list(folder.glob("*.safetensors"))
    parts = [path for pattern in ("optimizer*", "scheduler.pt", "rng_state*") for path in folder.glob(pattern)]
    return bool(weights) and all(map(is_whole_safetensors, weights)) and not parts and written_by(folder) == DDP


def _archives(folder: Path, kind: str, processes: int) -> list[str]:
    """Patterns of the weight, optimizer and scheduler files that torch writes, except the shards of FSDP2."""
    if kind in (ZERO_2, ZERO_3):  # DeepSpeed stores the scheduler with the weights
        parts = [f"*zero_pp_rank_{rank}_mp_rank_00_" for rank in range(processes)]
        models = parts if kind == ZERO_3 else ["mp_rank_00_"]
        files = [f"{part}model_states.pt" for part in models] + [f"{part}optim_states.pt" for part in parts]
        return [f"{_step_of(folder)}/{name}" for name in files]
    if kind == FSDP_FULL:
        return ["scheduler.pt", f"{FSDP_MODEL_NAME}.bin", f"{OPTIMIZER_NAME}.bin"]
    return ["scheduler.pt", *(["optimizer.pt"] if kind == DDP else [])]


def _step_of(folder: Path) -> str:
    """The name of DeepSpeed's folder in a checkpoint."""
    return f"global_step{folder.name.rpartition('-')[2]}"


def _pointer_defect(folder: Path) -> str | None:
    """What is wrong with the file that names DeepSpeed's folder, or None."""
    try:
        name = (folder / "latest").read_text(encoding="utf-8")
    except OSError:
        name = ""
    return None if name.strip() == _step_of(folder) else "latest is missing or truncated"


def sharded_defect(part: Path) -> str | None:
    """What is wrong with a folder that `torch.distributed.checkpoint` wrote, or None. Raises `UserError` for code."""
    try:
        metadata = sharded_metadata(part)
    except UserError:
        raise
    except Exception:  # missing or damaged metadata
        return f"{part.name} is missing or has no complete .metadata"
    for entry in metadata.storage_data.values():
        path = part / entry.relative_path
        if not path.exists() or path.stat().st_size < entry.offset + entry.length:
            return f"{part.name}/{path.name} is missing or truncated"
    require_harmless_shards(part, metadata)
    return None


def is_whole_safetensors(path: Path) -> bool:
    """Whether a file parses and has the length that its header gives."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except Exception:  # a damaged file can raise any exception of its reader
        return False
