"""The rules of pyproject.toml on imports, which `make lint` checks: they hold, and breaking one is noticed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


@pytest.fixture
def lint_imports(tmp_path):
    """`lint_imports(file, line)`: check a copy of the package in which a file has one more line."""

    def run(file=None, line=""):
        shutil.copytree(ROOT / "modeling_mini", tmp_path / "modeling_mini")
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        if file is not None:
            path = tmp_path / "modeling_mini" / file
            path.write_text(f"{path.read_text() if path.exists() else ''}\n{line}\n")
        command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            [*command, "--no-cache"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_the_rules_hold(lint_imports):
    result = lint_imports()
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/splits.py", "from ..tasks import task_class"),
        ("tasks/base.py", "from ..training import run"),
        ("hub/model_card.py", "from ..inference import loading"),
        ("serving/serve.py", "from ..training import run"),
        ("inference/loading.py", "from ..serving import serve"),
        ("loss_mini.py", "from .masking_mini import CACHE_NAME"),
        ("modeling_mini.py", "from .errors import UserError"),
        ("checkpoints.py", "from .training.arguments import MiniTrainingArguments"),
        ("tables.py", "def late():\n    from .data import files"),
        ("training/optim.py", "from .run import train"),  # a circle within a wing
        ("new_module.py", ""),  # a module without a layer
    ],
)
def test_a_broken_rule_is_noticed(lint_imports, file, line):
    result = lint_imports(file, line)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BROKEN" in result.stdout or "new_module" in result.stdout + result.stderr
