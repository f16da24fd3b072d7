"""Judges the pickles of a checkpoint without running what is in them.

A pickle can name any function, and loading it calls that function. `torch.save` writes a pickle in a zip archive, and
the metadata of a sharded checkpoint are a pickle too. Each may name only what tensors and plain values consist of.
"""

import io
import pickle
from pathlib import Path
from typing import BinaryIO

import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.serialization import get_unsafe_globals_in_checkpoint

from .errors import UserError


METADATA_NAME = ".metadata"  # as torch.distributed.checkpoint names it

# What random states of the Trainer name besides tensors, as in transformers.trainer_pt_utils.safe_globals, and what
# DeepSpeed's checkpoints name. All of these only hold values.
_HARMLESS = {
    *(f"{core}.multiarray.{name}" for core in ("numpy.core", "numpy._core") for name in ("_reconstruct", "scalar")),
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.dtypes.UInt32DType",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
}

# The metadata of a sharded checkpoint consist of these; torch's dtypes are in addition to them.
_METADATA_CLASSES = {
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"),
    ("torch.serialization", "_get_layout"),  # looks a layout up by its name
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    *(("pathlib", name) for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(("pathlib._local", name) for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
}


def require_harmless(path: Path) -> None:
    """Refuse a file of `torch.save` that names anything but tensors and plain values. Reads no tensors.

    Raises:
        UserError: the file names other classes or functions, or is not a zip archive that torch wrote.
    """
    with path.open("rb") as file:
        _require_harmless(file, str(path))


def _require_harmless(file: BinaryIO, name: str) -> None:
    try:
        unsafe = set(get_unsafe_globals_in_checkpoint(file)) - _HARMLESS
    except Exception as error:  # an older format, another kind of archive, or a damaged one
        raise UserError(
            f"{name} is not a file of torch.save that can be judged, so it was not opened; use another checkpoint."
        ) from error
    if unsafe:
        raise _holds_code(name, min(unsafe))


def _holds_code(name: str, reference: str) -> UserError:
    return UserError(
        f"{name} holds code ({reference}), which loading would run; it was not opened. Delete it if you do not know "
        "where it comes from, and continue from another checkpoint."
    )


class _MetadataUnpickler(pickle.Unpickler):
    """Builds only the classes that torch's metadata consist of. Raises `UserError` for any other name."""

    def __init__(self, file: BinaryIO, name: str):
        super().__init__(file)
        self.name = name

    def find_class(self, module: str, name: str):
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _METADATA_CLASSES:
            return super().find_class(module, name)
        raise _holds_code(self.name, f"{module}.{name}")


def sharded_metadata(folder: Path) -> Metadata:
    """The metadata of a folder that `torch.distributed.checkpoint` wrote.

    Raises:
        UserError: the metadata name a class that does not belong there, or a file outside the folder.
        Exception: the metadata are missing or damaged; which class depends on the damage.
    """
    path = folder / METADATA_NAME
    with path.open("rb") as file:
        metadata = _MetadataUnpickler(file, str(path)).load()
    if not isinstance(metadata, Metadata):
        raise pickle.UnpicklingError("no metadata")
    for entry in metadata.storage_data.values():
        if entry.relative_path != Path(entry.relative_path).name:
            raise UserError(f"{path} names {entry.relative_path!r}, a file outside its folder; it was not opened.")
    return metadata


def require_harmless_shards(folder: Path, metadata: Metadata) -> None:
    """Refuse shards whose values are pickles of anything but plain values; torch itself checks the tensors.

    Raises:
        UserError: names the file and what it holds.
    """
    for index, entry in metadata.storage_data.items():
        if isinstance(metadata.state_dict_metadata.get(index.fqn), TensorStorageMetadata):
            continue
        with (folder / entry.relative_path).open("rb") as file:
            file.seek(entry.offset)
            content = file.read(entry.length)
        _require_harmless(io.BytesIO(content), str(folder / entry.relative_path))
