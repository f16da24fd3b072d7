"""The command `modeling-mini export`: a checkpoint in the file format of another runtime, checked against PyTorch."""

import json
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..commands import EXTRAS, require_packages
from ..errors import UserError
from ..options import check_checkpoint


# Each function takes (checkpoint, output, args), writes into the folder `output`, and returns the main file in it.
# It raises `UserError` for a checkpoint that the format cannot hold, and for a file that computes something else.
FORMATS = {
    "onnx": "exporters:export",
    "executorch": "exporters:export",
    "openvino": "exporters:export",
    "gguf": "gguf:export",
    "litert": "litert:export",
}
REPORT = "export_report.json"  # what was exported, by which versions, and the measured differences


def export(args: Namespace) -> None:
    """Write a checkpoint in the format `args.to`; nothing is left under `args.output` unless all checks passed.

    Args:
        args: `checkpoint`, `to`, `output` (None for a folder named after the format in the checkpoint), and the
            options of the formats.

    Raises:
        UserError: the checkpoint or the output folder is refused, a package is missing, or the exported file does not
            compute what the PyTorch model computes.
    """
    check_checkpoint(args.checkpoint)
    output = _output_folder(args)
    require_packages(args.to)
    from ..model_folders import local_folder

    start = time.monotonic()
    checkpoint = local_folder(args.checkpoint)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as staging:
        file = _function(args.to)(checkpoint, Path(staging), args)
        report = _write_report(Path(staging), args)
        _publish(Path(staging), output)
    size = sum((output / name).stat().st_size for name in report["files"]) / 1e6
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
            raise UserError(f"{args.checkpoint} is a repository on the Hub; name a folder with --output.")
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
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_ours = isinstance(report, dict) and isinstance(report.get("files"), list) and report.get("format") in FORMATS
    return report if is_ours else None


def _write_report(folder: Path, args: Namespace) -> dict:
    """Complete the report, into which a format may have written its parity check; returns it."""
    path = folder / REPORT
    parity = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    files = sorted({file.name for file in folder.iterdir()} - {REPORT})
    report = {"format": args.to, "source": args.checkpoint, "versions": _versions(args.to), **parity, "files": files}
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def _versions(name: str) -> dict[str, str]:
    versions = {}
    for package in ("modeling_mini", "torch", "transformers", *sorted(EXTRAS[name])):
        with suppress(PackageNotFoundError):  # a copy of the code that is not installed
            versions[package] = version(package)
    return versions


def _publish(staging: Path, output: Path) -> None:
    """Move the files of an export to their folder, in place of those of an earlier one. Raises `UserError`."""
    output.mkdir(exist_ok=True)
    earlier = {Path(str(name)).name for name in (_report(output) or {"files": []})["files"]} | {REPORT}
    new = sorted(staging.iterdir(), key=lambda path: path.name == REPORT)  # last: it marks the others as ours
    if taken := [path.name for path in new if (output / path.name).exists() and path.name not in earlier]:
        raise UserError(f"{output / taken[0]} exists, and this command did not write it; choose another --output.")
    for path in (output / name for name in earlier):
        if path.is_file():
            path.unlink()
    for path in new:
        shutil.move(path, output / path.name)
