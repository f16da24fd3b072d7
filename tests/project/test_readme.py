"""The README is correct: its Python code runs, and its commands and links exist."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from modeling_mini import MiniForCausalLM
from modeling_mini.cli import _parse, main
from modeling_mini.hub import push as sharing
from modeling_mini.tasks import task_class
from modeling_mini.tokenization import train_tokenizer
from modeling_mini.training.arguments import parse_arguments


ROOT = Path(__file__).resolve().parents[2]


def blocks(name, language):
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(name):
    """The command lines of the shell blocks, without comments."""
    lines = "".join(blocks(name, "bash")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture
def quickstart(tiny_model, tmp_path, monkeypatch):
    """A working directory with an untrained tiny model in the output folder of the quickstart."""
    tokenizer = train_tokenizer(["Return the next word of the text."], vocab_size=300)
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def applications(quickstart, tiny_model, tmp_path):
    """Adds untrained models in the output folders of the recipes of the tasks, and a document."""
    tokenizer = AutoTokenizer.from_pretrained("runs/quickstart")
    for name in ("translation", "summarization", "text-classification", "question-answering"):
        model_class = task_class(name).model_class
        model = tiny_model(model_class, vocab_size=len(tokenizer), is_causal=model_class is MiniForCausalLM)
        for part in (model, tokenizer):
            part.save_pretrained(tmp_path / "runs" / name)
        data = {"task": name, "block_size": 64, "max_target_tokens": 4}
        (tmp_path / "runs" / name / "_run.json").write_text(json.dumps({"data": data}))
    (tmp_path / "document.txt").write_text("Return the text. It has words.")


@pytest.fixture
def without_verification(monkeypatch):
    monkeypatch.setattr(sharing, "verify", lambda *args: None)


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("README.md", "python"))
def test_python_of_the_readme_runs(quickstart, hub, without_verification, code):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if "USER/REPO" in code:
        sharing.push("runs/quickstart", "alice/mini")
        code = code.replace("USER/REPO", "alice/mini")
        environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": "fresh"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_commands_of_the_readme_exist(applications, hub, without_verification, name, capsys, monkeypatch):
    seen = set()
    for command in commands(name):
        if "<" in command:
            monkeypatch.setattr("sys.stdin", io.StringIO(Path(command.pop()).read_text()))
            command.remove("<")
        for option in {"--dataset", "--train_file", "--validation_file"} & {*command}:  # files of the reader
            Path(command[command.index(option) + 1]).touch()
        if command[:2] == ["python", "train.py"] and command[2:] != ["--help"]:
            parse_arguments(command[2:])
            seen.add("train")
        elif command[0] == "modeling-mini" and command[1] in ("chat", "demo", "export", "serve"):
            _parse(command[1:])  # it would wait for a user, or needs an extra
        elif command[0] == "modeling-mini":
            assert main([word.replace("USER/REPO", "alice/mini") for word in command[1:]]) == 0
            seen.add(command[1])
        elif command[0] == "make":
            assert f"\n{command[1]}:" in (ROOT / "Makefile").read_text()
            seen.add(command[1])
    assert {"train", "test", "generate", "presets", "push"} <= seen
    assert hub.repository("alice/mini").private


def test_continuous_integration_runs_the_two_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    assert "make train" in script
    assert "make test" in script


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "README.zh-CN.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "configuration/README.md",
        "docs/applications.md",
        "docs/compatibility.md",
        "docs/data.md",
        "docs/demo.md",
        "docs/experiments.md",
        "docs/export.md",
        "docs/hub.md",
        "docs/performance.md",
        "docs/robustness.md",
        "docs/scaling.md",
        "docs/serving.md",
    ],
)
def test_links_to_files_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or ((ROOT / name).parent / target).exists(), target


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/robustness.md"])
def test_promises_name_tests_that_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = re.findall(r"`(?:tests/)?(\w+/test_\w+\.py)`", text)
    assert paths
    assert not [path for path in paths if not (ROOT / "tests" / path).exists()]
