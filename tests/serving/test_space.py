"""What `modeling-mini demo` refuses before it needs gradio, the files of a Space, and text that grows."""

import re
import socket
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest
import torch
import yaml

from modeling_mini import MiniForSequenceClassification, MiniModel, __version__
from modeling_mini.cli import main
from modeling_mini.serving import space as module
from modeling_mini.serving.streaming import growing_text
from modeling_mini.tokenization import train_tokenizer


ROOT = Path(__file__).parents[2]
WITHOUT_GRADIO = """
import sys
sys.modules["gradio"] = None
from modeling_mini.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--repo_id", "user/name"], "--repo_id user/name is the model of a Space; add --space FOLDER"),
        (["--space", "new"], "A Space loads its model from the Hub; add --repo_id USER/NAME"),
        (["--space", "new", "--repo_id", "u/n", "--port", "80"], "--port is for a page, but --space writes files"),
        (["--space", "new", "--repo_id", "u/n", "--host", "0.0.0.0"], "--host is for a page"),
        (["--space", " ", "--repo_id", "u/n"], "--space is empty"),
        (["--space", "full", "--repo_id", "u/n"], "--space full exists and is not an empty folder"),
        (["--space", "full/file", "--repo_id", "u/n"], "is not an empty folder"),
        (["--host", "nosuch.invalid"], "--host nosuch.invalid --port 7860: no server can listen there"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 --port 7860: no server can listen there"),
    ],
    ids=["repo", "no-repo", "port", "host", "empty", "full", "file", "no-host", "foreign-host"],
)
def test_options_that_cannot_be_are_refused_before_the_model_is_read(tmp_path, monkeypatch, capsys, options, sentence):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/file").touch()
    Path("checkpoint").mkdir()  # of no model
    assert main(["demo", "checkpoint", *options]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--port", "0"), ("--port", "70000"), ("--port", "x"), ("--repo_id", "name")]
)
def test_values_of_a_wrong_form_are_refused(capsys, option, value):
    with pytest.raises(SystemExit):
        main(["demo", "checkpoint", option, value])
    assert f"argument {option}:" in capsys.readouterr().err


def test_a_port_in_use_is_refused_in_a_sentence(checkpoint, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["demo", str(checkpoint()), "--port", port]) == 1
    message = f"--port {port} is in use on 127.0.0.1; choose another port"
    assert message in capsys.readouterr().err


def test_a_missing_gradio_is_a_sentence(checkpoint, free_port):
    command = [sys.executable, "-c", WITHOUT_GRADIO, "demo", str(checkpoint()), "--port", str(free_port)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == (
        'Error: The package gradio is not installed; install it with: pip install "modeling_mini[demo]"\n'
    )


@pytest.fixture
def space(checkpoint, tmp_path, capsys):
    """The folder of a Space for a classifier, written by the command."""
    path = tmp_path / "space"
    folder = str(checkpoint(MiniForSequenceClassification))
    assert main(["demo", folder, "--space", str(path), "--repo_id", "alice/123"]) == 0
    assert f"hf upload USER/SPACE {path} . --repo-type space" in capsys.readouterr().out
    return path


def test_a_space_has_a_header_that_the_hub_reads(space):
    _, header, body = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["title"] == "123"
    assert (card["sdk"], card["app_file"], card["models"]) == ("gradio", "app.py", ["alice/123"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", card["sdk_version"])
    assert card["short_description"] == "Try a small Transformer: text classification"
    assert len(card["short_description"]) <= 60
    assert f"modeling_mini {__version__}" in body
    compile((space / "app.py").read_text(), "app.py", "exec")
    assert 'build("alice/123")' in (space / "app.py").read_text()


def test_a_space_holds_the_code_and_no_weights(space):
    files = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "modeling_mini").rglob("*.py")}
    assert {"app.py", "README.md", "requirements.txt"} | code <= files
    assert not [name for name in files if name.endswith((".safetensors", ".pyc", ".bin"))]


def test_a_space_holds_no_stray_files_of_the_package_folder(tmp_path, monkeypatch):
    package = tmp_path / "modeling_mini"
    stray = [".env", "notes.txt", ".hidden/code.py", "weights.bin", "__pycache__/a.pyc", "link.py"]
    for name in ["__init__.py", "hub/card.md", *stray[:-1]]:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("secret")
    (package / "link.py").symlink_to(package / ".env")
    monkeypatch.setattr(module, "_PACKAGE", package)
    module._copy_code(tmp_path / "copy")
    files = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*.*")}
    assert files == {"__init__.py", "hub/card.md"}


def test_a_space_is_written_whole_or_not_at_all(checkpoint, tmp_path, monkeypatch):
    folder = str(checkpoint(MiniForSequenceClassification))
    monkeypatch.setattr(module, "_requirements", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.write_space(folder, str(tmp_path / "space"), "alice/123")
    assert list((tmp_path / "space").iterdir()) == []  # empty, so that the command can be repeated


def test_the_requirements_of_a_space_are_what_the_extra_installs(space):
    lines = (space / "requirements.txt").read_text().split()
    names = {line.partition("==")[0] for line in lines}
    assert {"torch", "transformers", "datasets", "evaluate", "plotly"} <= names
    assert "gradio" not in names  # `sdk_version` in README.md installs it
    assert f"torch=={torch.__version__.partition('+')[0]}" in lines
    project = (ROOT / "pyproject.toml").read_text()
    assert not [name for name in names - {"huggingface_hub"} if f'    "{name}>=' not in project]


def test_a_model_without_a_task_has_no_space(checkpoint, tmp_path, capsys):
    assert main(["demo", str(checkpoint(MiniModel)), "--space", str(tmp_path / "s"), "--repo_id", "u/n"]) == 1
    assert "holds a MiniModel, but the tasks" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


class Failure(Exception):
    pass


def test_a_growing_text_passes_errors_on_and_stops_for_a_reader_who_leaves():
    tokenizer = train_tokenizer(["one two three"], vocab_size=300)
    ids = tokenizer("one two three " * 3, add_special_tokens=False).input_ids

    def write(streamer):
        for number in ids:
            streamer.put(torch.tensor([number]))
        streamer.end()

    def fail(streamer):
        streamer.put(torch.tensor(ids[:3]))
        raise Failure

    texts = list(growing_text(write, tokenizer))
    assert texts[-1] == "one two three " * 3
    assert len(texts) > 3
    with pytest.raises(Failure):
        list(growing_text(fail, tokenizer))

    stopped = Event()

    def write_on(streamer):
        streamer.put(torch.tensor(ids))
        try:
            while True:
                streamer.put(torch.tensor(ids[:1]))
        finally:
            stopped.set()

    left = growing_text(write_on, tokenizer)
    next(left)
    left.close()
    assert stopped.wait(10)
