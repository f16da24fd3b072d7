"""A plugin that begins as a renamed copy of this one works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def new_plugin(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import new_plugin

    return new_plugin


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from .configuration_mini import MiniConfig", "from .configuration_tiny import TinyConfig"),
        ("modeling_mini/modeling_mini.py", "modeling_tiny/modeling_tiny.py"),
        ('modeling-mini generate "x"', 'modeling-tiny generate "x"'),
        ('glob("*_mini.py")', 'glob("*_tiny.py")'),
        ("The Mini models; a Mini model.", "The Tiny models; a Tiny model."),
        ('MODELS = {"mini": "Mini"}  # --models mini', 'MODELS = {"tiny": "Tiny"}  # --models tiny'),
        ("Minimum, QUOTE_MINIMAL, check_minimums, mini-batch", "Minimum, QUOTE_MINIMAL, check_minimums, mini-batch"),
    ],
)
def test_names(new_plugin, text, expected):
    assert new_plugin.renamed(text, "tiny") == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--name", "My Model", "--output", "new"], "--name is 'My Model'; give one word in small letters"),
        (["--name", "class", "--output", "new"], "--name is 'class'"),
        (["--name", "auto", "--output", "new"], "--name is 'auto'"),
        (["--name", "tiny", "--output", "."], "--output . exists; choose a new folder."),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence, tmp_path):
    command = [sys.executable, ROOT / "examples" / "new_plugin.py", *arguments]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert sentence in finished.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone")
def test_a_renamed_copy_passes_tests_of_the_model(new_plugin, tmp_path):
    folder = tmp_path / "modeling_tiny"
    new_plugin.copy("tiny", folder)
    assert not [path for path in folder.rglob("*") if "mini" in path.name]
    assert (folder / "tests" / "conformance" / "test_tiny.py").is_file()
    assert '"tiny": "Tiny"' in (folder / "tests" / "conformance" / "run.py").read_text()
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    tests = [f"tests/model/{name}" for name in ("test_parity.py", "test_loading.py", "test_registration.py")]
    tests += ["tests/project/test_site.py::test_every_figure_exists_and_is_described"]
    tests += ["tests/project/test_readme.py::test_links_to_files_lead_somewhere"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert " passed" in finished.stdout
