"""The pages of the site are correct: code, commands, figures and their alternative texts."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from pages import PAGES, ROOT, blocks, commands, run_commands


THEORY = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "theory").glob("*.md"))
TRANSLATED = ["docs/index.md", *THEORY]
TRANSLATIONS = {name for name in PAGES if name.startswith("docs/zh/")}  # the same commands, programs and figures
STEPS = [name for name in THEORY if not name.endswith("index.md")]
WITH_PROGRAMS = [
    "configuration/README.md",
    "docs/applications.md",
    "docs/fine-tune.md",
    "docs/tokenizer.md",
    *TRANSLATED,
]
# Pages whose Python blocks other tests run, or nothing does.
PYTHON_ELSEWHERE = {
    "README.md": "tests/project/test_readme.py",
    "docs/compatibility.md": "`make ecosystem`",
    "docs/export.md": "`make exports`, `make litert` and `make llamacpp`",
    "docs/new-application.md": "tests/tasks/test_new_application.py",
    "docs/serving.md": "`make serving` asks through OpenAI's client, `make ecosystem` trains the model of the chat",
}
WITH_COMMANDS = [
    name
    for name in ("configuration/README.md", "CONTRIBUTING.md", *PAGES)
    if name not in TRANSLATIONS and commands(name)
]
FROM_THE_MODEL = re.compile(r"# (modeling_mini/\w+\.py): (\w+)\n")


def python_blocks():
    """The programs of the pages; blocks that show a part of the model are not programs."""
    return [
        pytest.param(code, id=f"{name}-{number}")
        for name in WITH_PROGRAMS
        for number, code in enumerate(blocks(name, "python"))
        if not FROM_THE_MODEL.match(code)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("code", python_blocks())
def test_python_of_the_pages_runs(applications, code):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_every_page_with_python_is_listed():
    pages = {"README.md", "configuration/README.md", "CONTRIBUTING.md", *PAGES}
    with_python = {name for name in pages - TRANSLATIONS if blocks(name, "python")}
    assert with_python <= {*WITH_PROGRAMS, *PYTHON_ELSEWHERE}
    assert PYTHON_ELSEWHERE.keys() <= with_python


@pytest.mark.parametrize("name", THEORY)
def test_parts_of_the_model_are_as_in_the_model(name):
    parts = [code for code in blocks(name, "python") if FROM_THE_MODEL.match(code)]
    assert parts or not name.endswith(("attention.md", "positions.md", "layer.md"))
    for code in parts:
        header = FROM_THE_MODEL.match(code)
        path, scope = header.groups()
        source = (ROOT / path).read_text(encoding="utf-8")
        body = re.search(rf"^(?:def|class) {scope}\b.*?(?=^(?:def|class|@)|\Z)", source, re.DOTALL | re.MULTILINE)
        assert code[header.end() :] in body[0]


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_of_the_pages_exist(applications, name, monkeypatch):
    run_commands(name, monkeypatch)


@pytest.mark.parametrize("name", ["README.md", *PAGES])
def test_every_figure_exists_and_is_described(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for description, path in re.findall(r"!\[(.*?)\]\((.*?)\)", text, re.DOTALL):
        assert ((ROOT / name).parent / path).is_file(), path
        assert len(description) > (10 if name in TRANSLATIONS else 30), path


@pytest.mark.parametrize("name", STEPS)
def test_every_step_has_a_figure_a_number_a_command_and_two_exercises(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "![" in text
    assert "**Measured" in text or "**What they are worth" in text
    assert "```bash" in text
    exercises = text.partition("**Exercises**")[2]
    assert re.findall(r"^(\d)\. ", exercises, re.MULTILINE) == ["1", "2"]


@pytest.mark.parametrize("name", TRANSLATED)
def test_the_chinese_page_has_the_same_code_figures_headings_and_numbers(name):
    english, chinese = (
        (ROOT / path).read_text(encoding="utf-8") for path in (name, name.replace("docs/", "docs/zh/", 1))
    )
    patterns = {
        "code": r"^ *```\w+\n.*?^ *```$",
        "figures": r"\]\((?:\.\./)*(images/[\w-]+\.svg)\)",
        "headings": r"^#+(?= )",
        "numbers of the tables": r"(?<=\| )\**[\d.,]+\**(?= \|)",
        "exercises": r"^\d\. ",
    }
    for what, pattern in patterns.items():
        expected, actual = (re.findall(pattern, text, re.DOTALL | re.MULTILINE) for text in (english, chinese))
        assert actual == expected, what
    figures = re.findall(r"!\[(.*?)\]\((.*?)\)", chinese)
    folder = (ROOT / name.replace("docs/", "docs/zh/", 1)).parent
    assert all((folder / path).is_file() and len(description) > 10 for description, path in figures)


def test_every_step_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    overview = (ROOT / "docs" / "theory" / "index.md").read_text(encoding="utf-8")
    for name in STEPS:
        assert name.removeprefix("docs/") in navigation
        assert f"]({name.removeprefix('docs/theory/')})" in overview


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the extra docs")
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "theory" / "attention" / "index.html").read_text(encoding="utf-8")
    assert "<math" in page
    assert "```" not in page


def test_the_figure_of_the_applications_shows_the_rows_of_their_table(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import figures

    axes = figures.applications().axes[0]
    titles = [label.get_text().replace("\n", ", ") for label in axes.get_yticklabels()]
    assert len(titles) == len(axes.patches) > 5
    drawn = (ROOT / "docs" / "images" / "applications.svg").read_text(encoding="utf-8")
    assert all(part in drawn for title in titles for part in title.split(", ")), "run benchmarks/figures.py"
    with pytest.raises(SystemExit, match=r"docs/applications.md has no table whose first column is 'recipes'"):
        figures.table_of("applications.md", "recipes")
