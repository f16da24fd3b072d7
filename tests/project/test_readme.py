"""The README is correct: its Python code runs, and its commands and links exist."""

import os
import re
import subprocess
import sys

import pytest
from pages import PAGES, ROOT, blocks, run_commands

from modeling_mini.hub import push as sharing


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
def test_commands_of_the_readme_exist(applications, hub, without_verification, name, monkeypatch):
    assert {"train", "test", "generate", "presets", "push"} <= run_commands(name, monkeypatch)
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
        *PAGES,
    ],
)
def test_links_to_files_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or ((ROOT / name).parent / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", *PAGES])
def test_no_shell_runs_a_word_between_backticks(name):
    for line in "".join(blocks(name, "bash")).splitlines():
        assert not re.search(r'"[^"]*`[^"]*"', re.sub(r"'[^']*'", "''", line)), line


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/robustness.md"])
def test_promises_name_tests_that_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = re.findall(r"`(?:tests/)?(\w+/test_\w+\.py)`", text)
    assert paths
    assert not [path for path in paths if not (ROOT / "tests" / path).exists()]
