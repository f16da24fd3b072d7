"""transformers' common model tests: taken from a source distribution and laid out as the package `tests`.

The distribution on PyPI carries `tests/test_*.py` and leaves out the modules in folders below and two helpers beside
them. A missing module is replaced by one of ours from `stand_ins/`; a full checkout needs none of them.
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
    """The common tests cannot be had, or belong to another version."""


def lay_out(root: Path, source: str | None = None) -> list[str]:
    """Lay out the common tests below `root`, which goes on `sys.path`, and return the names of the modules of ours.

    Args:
        source: what pip downloads (a requirement, a URL, an archive), or the folder of a checkout. By default the
            source distribution of the installed version on the package index. Downloads are kept.

    Raises:
        UpstreamError: nothing could be downloaded, or the tests are not those of the installed version.
    """
    installed = metadata.version("transformers")
    source = source or f"transformers=={installed}"
    if Path(source).is_dir():
        _check_version(Path(source), source, installed)
        _copy_tests(Path(source), root)
    else:
        shutil.copytree(_downloaded(source, installed), root, dirs_exist_ok=True)
    # The pipeline tests import transformers by the path that it has in a checkout; an empty file leads them to the
    # installed one.
    (root / "src" / "transformers").mkdir(parents=True)
    (root / "src" / "transformers" / "__init__.py").touch()
    return _add_stand_ins(root / "tests")


def _downloaded(source: str, installed: str) -> Path:
    """The tests of a source that pip downloads, from the cache or into it."""
    kept = CACHE / f"{installed}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    if not kept.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            checkout = _download(source, Path(scratch, "download"))
            _check_version(checkout, source, installed)
            _copy_tests(checkout, Path(scratch, "tests"))
            Path(scratch, "tests").rename(kept)  # a folder that is there is whole
    return kept


def _download(source: str, folder: Path) -> Path:
    """Let pip download and check a source archive, and unpack it."""
    options = f"--no-deps --no-binary transformers --disable-pip-version-check --dest {folder}".split()
    command = [sys.executable, "-m", "pip", "download", *options, source]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UpstreamError(
            f"The common tests of transformers could not be downloaded as {source!r}: pip says {last[0]!r}. Connect "
            "to a package index, or name a checkout of the same version with --source FOLDER."
        )
    [archive] = folder.iterdir()
    shutil.unpack_archive(archive, folder / "unpacked", filter="data")
    [checkout] = (folder / "unpacked").iterdir()
    return checkout


def _check_version(checkout: Path, source: str, installed: str) -> None:
    package = checkout / "src" / "transformers" / "__init__.py"
    found = re.search(r'^__version__ = "(.+)"', package.read_text(), re.MULTILINE) if package.is_file() else None
    if found is None or not (checkout / "tests" / "test_modeling_common.py").is_file():
        raise UpstreamError(
            f"{source!r} is no source of transformers with its tests: src/transformers/__init__.py or "
            "tests/test_modeling_common.py is missing. Name a source distribution or a checkout."
        )
    if found[1] != installed:
        raise UpstreamError(
            f"{source!r} is transformers {found[1]} and the installed one is {installed}: tests and library belong "
            f"together. Name the source of {installed}, or install {found[1]}."
        )


def _copy_tests(checkout: Path, target: Path) -> None:
    (target / "tests").mkdir(parents=True)
    for path in (checkout / "tests").glob("*.py"):
        shutil.copy(path, target / "tests")
    # Tests import from the last, which a distribution does not have.
    for folder in (*(f"tests/{name}" for name in FOLDERS), "utils"):
        if (checkout / folder).is_dir():
            shutil.copytree(checkout / folder, target / folder)


def _add_stand_ins(package: Path) -> list[str]:
    """Fill the gaps of the package, and return the names of the modules that it was filled with."""
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
    """One module for each pipeline, as in a checkout: 5.17 imports all, though a language model has six of them."""
    ours = (package / "pipelines" / "__init__.py").read_text()
    imports = re.compile(r"pipelines\.(test_pipelines_\w+)(?: import |\.)(\w+)")
    for module, name in imports.findall((package / "test_pipeline_mixin.py").read_text()):
        target = package / "pipelines" / f"{module}.py"
        if not target.exists():
            target.write_text(f"from . import {name}\n" if f"class {name}(" in ours else f"class {name}:\n    pass\n")
