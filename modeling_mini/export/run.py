"""The command `modeling-mini export`: a checkpoint in the file format of another runtime, checked against PyTorch."""

import os
import shutil
import sys
import time
from argparse import Namespace
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..commands import EXTRAS, require_packages
from ..errors import UserError
from ..json_files import read_object
from ..options import check_checkpoint, is_same
from ..writing import write_json
from .staging import staging_folder


# Each function takes (checkpoint, output, args), writes into the folder `output`, and returns the main file in it.
# It raises `UserError` for a checkpoint that the format cannot hold, and for a file that computes something else.
FORMATS = {
    "onnx": "exporters:export",
    "executorch": "exporters:export",
    "openvino": "exporters:export",
    "gguf": "gguf:export",
    "litert": "litert:export",
}
OPTIONS = {"max_length": "litert", "outtype": "gguf"}  # option -> the format that it is for; None if it is not given
REPORT = "export_report.json"  # what was exported, by which versions, and the measured differences


def export(args: Namespace) -> None:
    """Write a checkpoint in the format `args.to`; nothing is left under `args.output` unless all checks passed.

    Args:
        args: `checkpoint`, `to`, `output` (None for a folder named after the format in the checkpoint), and the
            options of the formats.

    Raises:
        UserError: an option is for another format, the checkpoint or the output folder is refused, a package is
            missing, or the exported file does not compute what the PyTorch model computes.
    """
    for option, name in OPTIONS.items():
        if args.to != name and getattr(args, option) is not None:
            raise UserError(f"--{option} is for --to {name}; leave it out.")
    check_checkpoint(args.checkpoint)
    output = _output_folder(args)
    require_packages(args.to)
    from ..model_folders import local_folder

    start = time.monotonic()
    checkpoint = local_folder(args.checkpoint)
    output.parent.mkdir(parents=True, exist_ok=True)
    with staging_folder(output) as staging:
        file = _function(args.to)(checkpoint, staging, args)
        written = [name for name in _files(staging) if name != REPORT]
        kept = _kept(output, args, written)
        report = _write_report(staging, args, [*kept, *written])
        _publish(staging, output, kept)
    size = sum((output / name).stat().st_size for name in written) / 1e6
    seconds = time.monotonic() - start
    sys.stdout.write(f"{output / file.name} is ready ({size:.1f} MB with the files next to it, {seconds:.0f} s).\n")
    if differences := report.get("differences"):
        tokens = report.get("equal_greedy_tokens")
        same_text = "" if tokens is None else f", and {tokens} greedy tokens are equal"
        sys.stdout.write(
            f"Compared with PyTorch, outputs differ by at most {max(differences.values()):.0e} of the largest "
            f"value{same_text}.\n"
        )


def _function(name: str):
    module, function = FORMATS[name].split(":")
    return getattr(import_module(f".{module}", __package__), function)


def _output_folder(args: Namespace) -> Path:
    """The folder to write to: new, empty, or written by an earlier export. Raises `UserError`."""
    if args.output is None:
        if not Path(args.checkpoint).is_dir():
            raise UserError(
                f"{args.checkpoint} is not a folder on this machine; correct it, or name a folder for the files of a "
                "repository on the Hub with --output."
            )
        output = Path(args.checkpoint) / args.to
    elif not args.output.strip():
        raise UserError("--output is empty; name a folder, or leave it out.")
    else:
        output = Path(args.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a folder.")
    if output.is_dir() and any(output.iterdir()) and _report(output) is None:
        raise UserError(f"--output {output} holds files that this command did not write; choose another folder.")
    return output


def _report(folder: Path) -> dict | None:
    """The report of an export in a folder; None if there is none, or it is damaged."""
    try:
        report = read_object(folder / REPORT)
    except UserError:
        return None
    is_ours = isinstance(report.get("files"), list) and str(report.get("format")) in FORMATS
    return report if is_ours else None


def _files(folder: Path) -> list[str]:
    """The files in a folder and its folders, by relative path; no link to a folder is followed."""
    found = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _kept(output: Path, args: Namespace, written: list[str]) -> list[str]:
    """The files of earlier exports of this checkpoint that stay: GGUF files of another type."""
    earlier = _report(output) or {}
    is_of_checkpoint = args.output is None or is_same(args.checkpoint, str(earlier.get("source")))
    if not (args.to == earlier.get("format") == "gguf" and is_of_checkpoint):
        return []
    return sorted({*map(str, earlier["files"])} & {*_files(output)} - {*written})


def _write_report(folder: Path, args: Namespace, files: list[str]) -> dict:
    """Complete the report, into which a format may have written its parity check; returns it."""
    path = folder / REPORT
    parity = read_object(path) if path.exists() else {}
    report = {"format": args.to, "source": args.checkpoint, "versions": _versions(args.to), **parity, "files": files}
    write_json(path, report)
    return report


def _versions(name: str) -> dict[str, str]:
    versions = {}
    for package in ("modeling_mini", "torch", "transformers", *sorted(EXTRAS[name])):
        with suppress(PackageNotFoundError):  # a copy of the code that is not installed
            versions[package] = version(package)
    return versions


def _publish(staging: Path, output: Path, kept: list[str]) -> None:
    """Move an export to its folder, in place of the files of earlier ones that are not `kept`. Raises `UserError`."""
    output.mkdir(exist_ok=True)
    new = sorted(_files(staging), key=lambda name: name == REPORT)  # last: it marks the others as ours
    earlier = {*map(str, (_report(output) or {"files": []})["files"]), REPORT} & {*_files(output)}
    for name in new:
        if taken := _taken(output, Path(name), earlier):
            raise UserError(f"{taken} exists, and this command did not write it; choose another --output.")
    for name in earlier - {*kept}:
        path = output / name
        path.unlink()
        while path.parent != output and not any(path.parent.iterdir()):
            path = path.parent
            path.rmdir()
    for name in new:
        (output / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.move(staging / name, output / name)


def _taken(output: Path, name: Path, earlier: set[str]) -> Path | None:
    """What is in the way of a new file: what no `earlier` export wrote, or a link in place of a folder."""
    for folder in [output / parent for parent in name.parents][:-1]:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            return folder
    return output / name if os.path.lexists(output / name) and name.as_posix() not in earlier else None
