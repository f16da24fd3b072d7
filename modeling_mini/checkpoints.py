"""What a run left in its output folder: which checkpoints are complete, and whether there is room for the next."""

import json
import logging
import os
import shutil
import zipfile
from pathlib import Path

from safetensors import safe_open
from torch.distributed.checkpoint import FileSystemReader
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .errors import UserError


logger = logging.getLogger(__name__)

SHARDED_PARTS = ("pytorch_model_fsdp_0", "optimizer_0")  # as accelerate names them


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoint folders of a run, the latest first, complete or not."""
    folders = [
        path
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.is_dir() and path.name.rpartition("-")[2].isdigit()
    ]
    return sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def latest_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The latest checkpoint that was written to its end, or None. A warning names those cut short.

    Raises:
        UserError: a checkpoint of DeepSpeed, or a gathered one of FSDP, which this cannot judge.
    """
    for folder in checkpoints(output_dir):
        if any(folder.glob("global_step*")) or (folder / "optimizer.bin").exists():
            raise UserError(
                f"{folder} comes from DeepSpeed, or from FSDP with a full state dict, and --resume cannot tell "
                "whether it is complete; name the one to continue from with --resume_from_checkpoint."
            )
        defect = checkpoint_defect(folder)
        if defect is None:
            return folder
        logger.warning("%s is not complete (%s) and is passed over.", folder, defect)
    return None


def checkpoint_defect(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None.

    The Trainer writes weights, optimizer, scheduler and random states first and `trainer_state.json` last. Their
    containers tell when they were cut short: safetensors by the size in its header, torch files by the directory at
    the end of their zip archive, sharded weights and optimizers (FSDP2) by what their metadata, which come last, say
    of the other files.
    """
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "trainer_state.json is missing or cut short"
    sharded = [folder / name for name in SHARDED_PARTS]
    is_sharded = any(part.exists() for part in sharded)
    weights = sorted(folder.glob("*.safetensors"))
    if not (weights or is_sharded):
        return "there are no weights"
    for path in weights:
        if not is_whole_safetensors(path):
            return f"{path.name} is cut short"
    random_states = [path.name for path in folder.glob("rng_state*.pth")] or ["rng_state.pth"]
    for name in ([] if is_sharded else ["optimizer.pt"]) + ["scheduler.pt", *random_states]:
        if not zipfile.is_zipfile(folder / name):
            return f"{name} is missing or cut short"
    return next(filter(None, map(sharded_defect, sharded if is_sharded else [])), None)


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
        for name, value in values.items():
            earlier = recorded.get(group, {}).get(name)
            if earlier != value:
                raise UserError(
                    f"{path} says that this run was started with --{name} {earlier}, and now it is {value}; resume "
                    "with the same arguments, or choose another --output_dir."
                )
