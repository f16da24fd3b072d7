"""What a run left in its output folder: which checkpoints are complete, and whether there is room for the next."""

import json
import logging
import os
import shutil
import zipfile
from pathlib import Path

from accelerate.utils.constants import FSDP_MODEL_NAME, OPTIMIZER_NAME
from safetensors import safe_open
from torch.distributed.checkpoint import FileSystemReader
from transformers.trainer_callback import ExportableState, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .arguments import MiniTrainingArguments
from .divided import DDP, FSDP_FULL, FSDP_SHARDED, ZERO_2, ZERO_3, divided_by
from .errors import UserError


logger = logging.getLogger(__name__)

TRAINER_STATE_NAME = "trainer_state.json"  # as transformers.trainer has it, whose import takes long
ROWS = "rows_per_update"  # in what a run notes of its arguments


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoint folders of a run, the latest first, complete or not."""
    folders = [
        path
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.is_dir() and path.name.rpartition("-")[2].isdigit()
    ]
    return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def latest_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The latest checkpoint that was written to its end, or None. A warning names those cut short."""
    for folder in checkpoints(output_dir):
        defect = checkpoint_defect(folder)
        if defect is None:
            return folder
        logger.warning("%s is not complete (%s) and is passed over.", folder, defect)
    return None


def set_aside(output_dir: str | Path) -> None:
    """Keep checkpoints that are not complete out of the way of a run that begins anew, which would write over them."""
    for folder in checkpoints(output_dir):
        kept = folder.with_name(f"incomplete-{folder.name}")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
        logger.warning("%s is kept as %s.", folder, kept.name)


def written_by(folder: str | Path) -> str:
    """What divided the run that wrote a checkpoint."""
    folder = Path(folder)
    if (folder / "latest").exists() or any(folder.glob("global_step*")):
        return ZERO_3 if any(folder.glob("global_step*/*zero_pp_*model_states.pt")) else ZERO_2
    for ending, kind in (("_0", FSDP_SHARDED), (".bin", FSDP_FULL)):
        if any((folder / f"{name}{ending}").exists() for name in (FSDP_MODEL_NAME, OPTIMIZER_NAME)):
            return kind
    return DDP


def num_processes(folder: str | Path) -> int:
    """How many processes wrote a checkpoint, as `WorldSize` notes; if it does not, how many random states there are.

    Raises:
        OSError, ValueError: `trainer_state.json` is missing, or is not JSON.
    """
    state = json.loads((Path(folder) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    noted = state.get("stateful_callbacks", {}).get(WorldSize.__name__)
    return noted["args"]["world_size"] if noted else max(1, len(list(Path(folder).glob("rng_state_*.pth"))))


def check_checkpoint(checkpoint: str | Path, args: MiniTrainingArguments) -> None:
    """Refuse what this run could not continue. Raises `UserError`."""
    try:
        processes = num_processes(checkpoint)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--resume_from_checkpoint {checkpoint} is no checkpoint: {TRAINER_STATE_NAME} is missing or damaged."
        ) from error
    found, wanted = written_by(checkpoint), divided_by(args)
    if found != wanted:
        raise UserError(
            f"{checkpoint} was written by {found}, and this run is started with {wanted}; continue it as it was "
            "started (configuration/accelerate has a file for each)."
        )
    if found in (ZERO_2, ZERO_3) and processes != args.world_size:
        raise UserError(
            f"{checkpoint} was written by {processes} processes of DeepSpeed, which cannot divide it anew for "
            f"{args.world_size}; start as many."
        )


class WorldSize(TrainerCallback, ExportableState):
    """Notes in every checkpoint how many processes write it, so that what one of them left out is missed."""

    def __init__(self, world_size: int = 1):
        self.world_size = world_size

    def state(self) -> dict:
        return {"args": {"world_size": self.world_size}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        self.world_size = args.world_size
        state.stateful_callbacks[WorldSize.__name__] = self.state()  # not there after a checkpoint without it


def checkpoint_defect(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None.

    Each process writes its parts, and the first writes `trainer_state.json` last. The containers tell when they were
    cut short: safetensors by the size in its header, torch files by the directory at the end of their zip archive,
    sharded weights and optimizers (FSDP2) by what their metadata, which come last, say of the other files.
    """
    try:
        processes = num_processes(folder)
    except (OSError, ValueError):
        return f"{TRAINER_STATE_NAME} is missing or cut short"
    for path in folder.glob("*.safetensors"):
        if not is_whole_safetensors(path):
            return f"{path.name} is cut short"
    random_states = [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]
    kind = written_by(folder)
    for name in [*random_states, *_archives(folder, kind, processes)]:
        if not any(folder.glob(name)) or not all(map(zipfile.is_zipfile, folder.glob(name))):
            return f"{name} is missing or cut short"
    if kind in (ZERO_2, ZERO_3):
        return _pointer_defect(folder)
    if kind == FSDP_SHARDED:
        return sharded_defect(folder / f"{FSDP_MODEL_NAME}_0") or sharded_defect(folder / f"{OPTIMIZER_NAME}_0")
    if kind == DDP and not any(folder.glob("*.safetensors")):
        return "there are no weights"
    return None


def _archives(folder: Path, kind: str, processes: int) -> list[str]:
    """Patterns of the files of weights, optimizer and scheduler that torch writes, the shards of FSDP2 aside."""
    if kind in (ZERO_2, ZERO_3):  # a scheduler may be DeepSpeed's own, which is with the weights
        parts = [f"*zero_pp_rank_{rank}_mp_rank_00_" for rank in range(processes)]
        models = parts if kind == ZERO_3 else ["mp_rank_00_"]
        files = [f"{part}model_states.pt" for part in models] + [f"{part}optim_states.pt" for part in parts]
        return [f"{_step_of(folder)}/{name}" for name in files]
    if kind == FSDP_FULL:
        return ["scheduler.pt", f"{FSDP_MODEL_NAME}.bin", f"{OPTIMIZER_NAME}.bin"]
    return ["scheduler.pt", *(["optimizer.pt"] if kind == DDP else [])]


def _step_of(folder: Path) -> str:
    """DeepSpeed's own folder in a checkpoint."""
    return f"global_step{folder.name.rpartition('-')[2]}"


def _pointer_defect(folder: Path) -> str | None:
    """What is wrong with the file by which DeepSpeed finds its own folder, or None."""
    try:
        found = (folder / "latest").read_text(encoding="utf-8")
    except OSError:
        found = ""
    return None if found.strip() == _step_of(folder) else "latest is missing or cut short"


def sharded_defect(part: Path) -> str | None:
    """What is wrong with what `torch.distributed.checkpoint` wrote into a folder, or None."""
    try:
        pieces = FileSystemReader(part).read_metadata().storage_data.values()
    except Exception:  # no metadata, or no whole ones
        return f"{part.name} is missing or has no whole .metadata"
    for piece in pieces:
        path = part / piece.relative_path
        if not path.exists() or path.stat().st_size < piece.offset + piece.length:
            return f"{part.name}/{path.name} is missing or cut short"
    return None


def is_whole_safetensors(path: Path) -> bool:
    """Whether a file parses, and is as long as its header says."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except Exception:  # of whatever kind the reader raises for what it found
        return False


def check_output_dir(output_dir: str | Path, resume: bool) -> None:
    """Refuse a place that cannot be written, or that holds a run which nobody asked to continue.

    Raises:
        UserError: the folder or the earlier run, and what to do.
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


def check_free_space(output_dir: str | Path, num_parameters: int) -> None:
    """Refuse a disk without room for three checkpoints and the final model. Raises `UserError`.

    A checkpoint holds float32 weights and up to two states of the optimizer for each: 12 bytes a parameter. Two are
    kept, and the oldest is deleted once the next is written.
    """
    needed = (3 * 12 + 4) * num_parameters
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise UserError(
            f"The disk of --output_dir {output_dir} has {free / 1e9:.2f} GB free, and checkpoints of this model need "
            f"{needed / 1e9:.2f} GB; free some space or choose another --output_dir."
        )


def check_same_run(output_dir: str | Path, arguments: dict[str, dict], resume: bool, write: bool) -> None:
    """Keep what a run was started with in _run.json, and refuse to continue it with something else.

    The name begins with an underscore because the Trainer does not push such files: this one holds local paths.

    Args:
        arguments: what must not change, by group and name.
        write: whether this process writes the file, when a run starts.

    Raises:
        UserError: the argument that changed, or a _run.json that does not parse.
    """
    path = Path(output_dir) / "_run.json"
    if not (resume and path.exists()):
        if write:
            part = path.with_suffix(".part")
            part.write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
            os.replace(part, path)
        return
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it to continue without its check.") from error
    for group, values in arguments.items():
        earlier = recorded.get(group, {})
        for name in values:
            if name not in earlier or earlier[name] == values[name]:
                continue
            if name == ROWS:
                raise UserError(
                    f"{path} says that an update of this run reads {earlier[name]} rows, and now it would read "
                    f"{values[name]}; choose --per_device_train_batch_size and --gradient_accumulation_steps for the "
                    "number of processes so that their product is the same."
                )
            raise UserError(
                f"{path} says that this run was started with --{name} {earlier[name]}, and now it is {values[name]}; "
                "resume with the same arguments, or choose another --output_dir."
            )
