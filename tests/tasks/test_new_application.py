"""The task that docs/new-application.md writes can be trained and evaluated."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from pages import ROOT, blocks


SENTENCES = [
    ("Anna saw Rome .", "PERSON O PLACE O"),
    ("Rome is old .", "PLACE O O O"),
    ("He met Anna .", "O O PERSON O"),
]
OPTIONS = (
    "--model nano --block_size 32 --per_device_train_batch_size 8 --max_steps 20 --learning_rate 1e-2 --use_cpu true"
)


@pytest.fixture
def run(tmp_path):
    """Runs a program in a copy of the project to which the file and the line of the page are added."""
    for name in ("modeling_mini", "configuration"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tmp_path)
    file, line = blocks("docs/new-application.md", "python")
    (tmp_path / "modeling_mini" / "tasks" / "token_classification.py").write_text(file)
    table = tmp_path / "modeling_mini" / "tasks" / "__init__.py"
    table.write_text(table.read_text().replace("TASKS = {\n", f"TASKS = {{\n    {line}"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def start(*command):
        command = [sys.executable, *command]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return start


@pytest.mark.slow
def test_the_task_of_the_page_is_trained_evaluated_and_refuses_wrong_rows(run, tmp_path):
    data = tmp_path / "tags.jsonl"
    rows = [{"words": words, "tags": tags} for words, tags in SENTENCES * 20]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["train.py", "--task", "token-classification", "--dataset", "tags.jsonl", *OPTIONS.split()]
    trained = run(*command, "--output_dir", "run")
    assert trained.returncode == 0, trained.stderr
    judged = run("-m", "modeling_mini.cli", "eval", "run", "--output", "results")
    assert judged.returncode == 0, judged.stderr
    systems = json.loads((tmp_path / "results" / "results.json").read_text())["systems"]
    *_, model = systems.values()
    assert model["accuracy"] > 90
    assert systems["most frequent tag of the word"]["accuracy"] == 100

    data.write_text('{"words": "Anna saw Rome", "tags": "PERSON"}\n')
    refused = run(*command, "--output_dir", "other")
    assert refused.returncode == 1
    assert "tags.jsonl, line 1: 'tags' must hold one tag for each word of 'words'" in refused.stderr
