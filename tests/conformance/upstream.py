"""transformers' common model tests, copied from a source distribution into the package `tests`.

The distribution on PyPI contains `tests/test_*.py`, but not the modules in subfolders and two helpers next to them.
Each missing module is replaced by one of ours from `stand_ins/`; a full checkout needs none of them.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path


HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "conformance"
# The folders that the common tests import from; a full checkout also has hundreds of model folders.
FOLDERS = ("exporters", "generation", "pipelines", "utils")


class UpstreamError(Exception):
    """The common tests are not available, or belong to another version."""


def lay_out(root: Path, source: str | None = None) -> list[str]:
    """Copy the common tests below `root`, which is put on `sys.path`; return the names of the modules that are ours.

    Args:
        source: what pip downloads (a requirement, a URL, an archive), or the folder of a checkout. By default the
            source distribution of the installed version on the package index. Downloads are cached.

    Raises:
        UpstreamError: the download failed, or the tests belong to another version than the installed one.
    """
    installed = metadata.version("transformers")
    source = source or f"transformers=={installed}"
    if Path(source).is_dir():
        _check_version(Path(source), source, installed)
        _copy_tests(Path(source), root)
    else:
        shutil.copytree(_downloaded(source, installed), root, dirs_exist_ok=True)
    # The pipeline tests import transformers by its path in a checkout. With an empty file there, they use the
    # installed package.
    (root / "src" / "transformers").mkdir(parents=True)
    (root / "src" / "transformers" / "__init__.py").touch()
    return _add_stand_ins(root / "tests")


def _downloaded(source: str, installed: str) -> Path:
    """The folder with the tests of a source, downloaded by pip and cached."""
    cached = CACHE / f"{installed}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    if not cached.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            checkout = _download(source, Path(scratch, "download"))
            _check_version(checkout, source, installed)
            _copy_tests(checkout, Path(scratch, "tests"))
            Path(scratch, "tests").rename(cached)  # renamed last: a folder that exists is complete
    return cached


def _download(source: str, folder: Path) -> Path:
    """Download and check a source archive with pip, and unpack it."""
    options = f"--no-deps --no-binary transformers --disable-pip-version-check --dest {folder}".split()
    command = [sys.executable, "-m", "pip", "download", *options, source]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last_line = result.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UpstreamError(
            f"The common tests of transformers could not be downloaded as {source!r}: pip says {last_line[0]!r}. "
            "Connect to a package index, or give a checkout of the same version with --source FOLDER."
        )
    [archive] = folder.iterdir()
    shutil.unpack_archive(archive, folder / "unpacked", filter="data")
    [checkout] = (folder / "unpacked").iterdir()
    return checkout


def _check_version(checkout: Path, source: str, installed: str) -> None:
    package = checkout / "src" / "transformers" / "__init__.py"
    version = re.search(r'^__version__ = "(.+)"', package.read_text(), re.MULTILINE) if package.is_file() else None
    if version is None or not (checkout / "tests" / "test_modeling_common.py").is_file():
        raise UpstreamError(
            f"{source!r} is not a source of transformers with its tests: src/transformers/__init__.py or "
            "tests/test_modeling_common.py is missing. Give a source distribution or a checkout."
        )
    if version[1] != installed:
        raise UpstreamError(
            f"{source!r} is transformers {version[1]} and the installed one is {installed}: tests and library must "
            f"have the same version. Give the source of {installed}, or install {version[1]}."
        )


def _copy_tests(checkout: Path, target: Path) -> None:
    (target / "tests").mkdir(parents=True)
    for path in (checkout / "tests").glob("*.py"):
        shutil.copy(path, target / "tests")
    # Tests import from `utils` at the top too, which a distribution does not contain.
    for folder in (*(f"tests/{name}" for name in FOLDERS), "utils"):
        if (checkout / folder).is_dir():
            shutil.copytree(checkout / folder, target / folder)


def _add_stand_ins(package: Path) -> list[str]:
    """Add our replacements for missing modules to the package; return their names."""
    added = []
    for path in sorted((HERE / "stand_ins").rglob("*.py")):
        target = package / path.relative_to(HERE / "stand_ins")
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
            added.append(".".join(("tests", *target.relative_to(package).with_suffix("").parts)))
    _add_pipeline_modules(package)
    for folder in (package, *(package / name for name in FOLDERS)):
        (folder / "__init__.py").touch()
    return added


def _add_pipeline_modules(package: Path) -> None:
    """One module for each pipeline, as in a checkout: 5.17 imports all, although a language model needs only six."""
    ours = (package / "pipelines" / "__init__.py").read_text()
    imports = re.compile(r"pipelines\.(test_pipelines_\w+)(?: import |\.)(\w+)")
    for module, name in imports.findall((package / "test_pipeline_mixin.py").read_text()):
        target = package / "pipelines" / f"{module}.py"
        if not target.exists():
            target.write_text(f"from . import {name}\n" if f"class {name}(" in ours else f"class {name}:\n    pass\n")
