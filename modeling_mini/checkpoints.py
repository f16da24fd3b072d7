"""What a run left in its output folder: which checkpoints are complete, and whether there is room for the next."""

import json
import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import Literal

from safetensors import safe_open
from torch import nn
from torch.distributed.checkpoint import FileSystemReader, load
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .errors import UserError


logger = logging.getLogger(__name__)

FSDP_WEIGHTS, FSDP_OPTIMIZER = "pytorch_model_fsdp", "optimizer"  # of accelerate: NAME_0 is sharded, NAME.bin whole


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


def written_by(folder: str | Path) -> Literal["DeepSpeed", "FSDP", "DDP"]:
    """What divided the run that wrote a checkpoint; DDP stands for one process, too."""
    folder = Path(folder)
    if (folder / "latest").exists() or any(folder.glob("global_step*")):
        return "DeepSpeed"
    fsdp = (f"{name}{kind}" for name in (FSDP_WEIGHTS, FSDP_OPTIMIZER) for kind in ("_0", ".bin"))
    return "FSDP" if any((folder / name).exists() for name in fsdp) else "DDP"


def num_processes(folder: str | Path) -> int:
    """How many processes wrote a checkpoint, as `WorldSize` notes; if it does not, how many random states there are.

    Raises:
        OSError, ValueError: `trainer_state.json` is missing, or is not JSON.
    """
    state = json.loads((Path(folder) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    noted = state.get("stateful_callbacks", {}).get(WorldSize.__name__)
    return noted["args"]["world_size"] if noted else max(1, len(list(Path(folder).glob("rng_state_*.pth"))))


class WorldSize(TrainerCallback, ExportableState):
    """Notes in every checkpoint how many processes write it, so that what one of them left out is missed."""

    def __init__(self, world_size: int):
        self.world_size = world_size

    def state(self) -> dict:
        return {"args": {"world_size": self.world_size}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
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
    for name in ["scheduler.pt", *random_states, *_archives(folder, processes)]:
        if not any(folder.glob(name)) or not all(map(zipfile.is_zipfile, folder.glob(name))):
            return f"{name} is missing or cut short"
    if written_by(folder) == "DDP" and not any(folder.glob("*.safetensors")):
        return "there are no weights"
    if any((folder / f"{name}_0").exists() for name in (FSDP_WEIGHTS, FSDP_OPTIMIZER)):
        return sharded_defect(folder / f"{FSDP_WEIGHTS}_0") or sharded_defect(folder / f"{FSDP_OPTIMIZER}_0")
    return None


def _archives(folder: Path, processes: int) -> list[str]:
    """Patterns of the files of weights and optimizer that torch writes into a checkpoint, without shards of FSDP2."""
    if written_by(folder) == "DeepSpeed":
        step = f"global_step{folder.name.rpartition('-')[2]}"
        parts = [f"*zero_pp_rank_{rank}_mp_rank_00_" for rank in range(processes)]
        is_zero3 = any(folder.glob(f"{step}/*zero_pp_*model_states.pt"))
        models = parts if is_zero3 else ["mp_rank_00_"]
        files = [f"{part}model_states.pt" for part in models] + [f"{part}optim_states.pt" for part in parts]
        return [f"{step}/{name}" for name in files]
    if written_by(folder) == "DDP":
        return ["optimizer.pt"]
    is_whole = any((folder / f"{name}.bin").exists() for name in (FSDP_WEIGHTS, FSDP_OPTIMIZER))
    return [f"{FSDP_WEIGHTS}.bin", f"{FSDP_OPTIMIZER}.bin"] if is_whole else []


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


def load_shards(model: nn.Module, folder: str | Path) -> None:
    """Put the weights of a sharded checkpoint into a model that this process holds whole."""
    load({"model": model.state_dict()}, checkpoint_id=Path(folder) / f"{FSDP_WEIGHTS}_0", no_dist=True)


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
        for name, value in values.items():
            earlier = recorded.get(group, {}).get(name)
            if earlier != value:
                raise UserError(
                    f"{path} says that this run was started with --{name} {earlier}, and now it is {value}; resume "
                    "with the same arguments, or choose another --output_dir."
                )
