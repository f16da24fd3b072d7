"""The wheel contains what it should, and works without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import modeling_mini


ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
from pathlib import Path

from transformers import AutoConfig

import modeling_mini
from modeling_mini.training.arguments import parse_arguments
from modeling_mini.training.recipes import recipe_names
from modeling_mini.presets import preset_names, preset_path

site = Path(sys.argv[1])
assert site in Path(modeling_mini.__file__).parents, modeling_mini.__file__
for name in preset_names():
    path = preset_path(name)
    assert site in path.parents, path
    assert AutoConfig.from_pretrained(path).model_type == "modeling_mini"
assert "quickstart" in recipe_names()
assert parse_arguments([])[2].output_dir == "runs/quickstart"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    [path] = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_the_package_with_its_configuration_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"modeling_mini"}
    in_wheel = {name.removeprefix("modeling_mini/") for name in names if "/configuration/" in name}
    in_checkout = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configuration").rglob("*") if path.is_file()}
    assert in_wheel == in_checkout
    templates = {f"modeling_mini/hub/card_{name}.md" for name in ("plain", "trained", "use")}
    assert templates <= set(names)
    assert "modeling_mini/py.typed" in names


@pytest.mark.slow
def test_installed_wheel_finds_its_presets_and_recipes_from_any_folder(wheel, tmp_path):
    site, folder = tmp_path / "site", tmp_path / "elsewhere"
    folder.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", SCRIPT, str(site)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_citation_has_the_version_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {modeling_mini.__version__}\n" in citation


def test_the_issue_template_asks_for_the_output_of_env():
    template = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")
    assert "`modeling-mini env`" in template
