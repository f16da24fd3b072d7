"""The command `modeling-mini export`: what it refuses before any work, and what it leaves in the output folder."""

import fcntl
import json
import os

import pytest

from modeling_mini import MiniForCausalLM
from modeling_mini.cli import main
from modeling_mini.export import run
from modeling_mini.export.staging import staging_folder
from modeling_mini.masking_mini import CACHE_NAME


@pytest.fixture
def stand_in(monkeypatch):
    """`stand_in(files)`: replace the formats by one that writes these texts; no package is needed."""

    def use(files, error=None):
        def export(checkpoint, output, args):
            for name, text in files.items():
                (output / name).parent.mkdir(exist_ok=True)
                (output / name).write_text(text)
            if error is not None:
                raise error
            return output / next(iter(files))

        monkeypatch.setattr(run, "_function", lambda name: export)
        monkeypatch.setattr(run, "require_packages", lambda extra: None)

    return use


@pytest.fixture
def refusal(capsys):
    """`refusal(words)`: the sentence with which the command refuses them."""

    def of(*words):
        capsys.readouterr()
        assert main(["export", *map(str, words)]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1
        return output.err

    return of


def test_files_are_written_to_a_folder_named_as_the_format(checkpoint, stand_in, capsys):
    folder = checkpoint()
    stand_in({"model.onnx": "graph"})
    assert main(["export", str(folder), "--to", "onnx"]) == 0
    assert f"{folder / 'onnx' / 'model.onnx'} is ready" in capsys.readouterr().out
    assert {path.name for path in (folder / "onnx").iterdir()} == {"model.onnx", "export_report.json"}
    report = json.loads((folder / "onnx" / "export_report.json").read_text())
    assert (report["format"], report["source"], report["files"]) == ("onnx", str(folder), ["model.onnx"])
    assert report["versions"].keys() >= {"torch", "transformers"}


def test_second_export_replaces_the_files_of_the_first_and_no_others(checkpoint, stand_in, refusal, tmp_path):
    folder, output = checkpoint(), tmp_path / "out"
    words = [str(folder), "--to", "onnx", "--output", str(output)]
    stand_in({"model.onnx": "first", "model.onnx.data": "weights"})
    assert main(["export", *words]) == 0
    (output / "notes.txt").write_text("of the user")
    stand_in({"model.onnx": "second"})
    assert main(["export", *words]) == 0
    assert {path.name for path in output.iterdir()} == {"model.onnx", "export_report.json", "notes.txt"}
    assert (output / "model.onnx").read_text() == "second"

    stand_in({"notes.txt": "of the export"})
    assert "notes.txt exists, and this command did not write it" in refusal(*words)
    assert (output / "notes.txt").read_text() == "of the user"
    assert (output / "model.onnx").read_text() == "second"


def test_gguf_file_of_another_type_stays(checkpoint, stand_in, tmp_path, capsys):
    words = [str(checkpoint()), "--output", str(tmp_path / "out"), "--to"]
    for name in ("model-F16.gguf", "model-Q8_0.gguf", "model-F16.gguf"):
        stand_in({name: "weights"})
        assert main(["export", *words, "gguf"]) == 0
    assert "model-F16.gguf is ready (0.0 MB" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").glob("*.gguf")} == {"model-F16.gguf", "model-Q8_0.gguf"}
    words[0] = str(checkpoint(name="other"))
    stand_in({"model-F16.gguf": "weights"})
    assert main(["export", *words, "gguf"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model-F16.gguf", "export_report.json"}
    stand_in({"model.onnx": "graph"})
    assert main(["export", *words, "onnx"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "export_report.json"}


@pytest.mark.parametrize("output", [[], ["--output", "out"]])
def test_gguf_file_stays_whatever_the_checkpoint_is_called(checkpoint, stand_in, tmp_path, monkeypatch, output):
    folder = checkpoint()
    monkeypatch.chdir(folder.parent)
    for name, spelling in (("model-F16", folder.name), ("model-Q8_0", f"{folder.name}/"), ("model-F32", str(folder))):
        stand_in({f"{name}.gguf": "weights"})
        assert main(["export", spelling, *output, "--to", "gguf"]) == 0
    place = folder.parent / "out" if output else folder / "gguf"
    assert len(list(place.glob("*.gguf"))) == 3


def test_files_in_folders_are_replaced_and_those_of_the_user_stay(checkpoint, stand_in, refusal, tmp_path):
    folder, output = checkpoint(), tmp_path / "out"
    words = [str(folder), "--to", "onnx", "--output", str(output)]
    for text in ("first", "second"):
        stand_in({"model.onnx": text, "templates/tool.jinja": text})
        assert main(["export", *words]) == 0
        assert [path.name for path in (output / "templates").iterdir()] == ["tool.jinja"]
        assert (output / "templates" / "tool.jinja").read_text() == text
    assert json.loads((output / "export_report.json").read_text())["files"] == ["model.onnx", "templates/tool.jinja"]
    (output / "templates" / "mine.jinja").write_text("of the user")
    stand_in({"model.onnx": "third"})
    assert main(["export", *words]) == 0
    assert [path.name for path in (output / "templates").iterdir()] == ["mine.jinja"]
    stand_in({"templates/mine.jinja": "fourth"})
    assert "mine.jinja exists, and this command did not write it" in refusal(*words)
    (output / "templates" / "mine.jinja").unlink()
    (output / "templates").rmdir()
    (output / "templates").symlink_to(tmp_path)
    assert "templates exists, and this command did not write it" in refusal(*words)
    assert (output / "model.onnx").read_text() == "third"
    (output / "templates").unlink()
    assert main(["export", *words]) == 0
    stand_in({"model.onnx": "fifth"})
    assert main(["export", *words]) == 0
    assert not (output / "templates").exists()


def test_next_export_removes_what_a_killed_one_left(checkpoint, stand_in, tmp_path):
    folder = checkpoint()
    prefix = ".onnx-unfinished-export-"
    names = [f"{prefix}killed", f"{prefix}running", ".onnx-notes", ".openvino-unfinished-export-killed"]
    for name in names:
        (folder / name).mkdir()
        (folder / name / "model.onnx").write_text("graph")
    (folder / f"{prefix}new").mkdir()  # as another export makes it, before it is locked
    (folder / f"{prefix}link").symlink_to(tmp_path)
    running = os.open(folder / f"{prefix}running", os.O_RDONLY)
    fcntl.flock(running, fcntl.LOCK_EX)
    stand_in({"model.onnx": "graph"})
    assert main(["export", str(folder), "--to", "onnx"]) == 0
    os.close(running)
    assert {path.name for path in folder.glob(".*")} == {*names[1:], f"{prefix}new", f"{prefix}link"}


def test_running_export_is_not_removed_by_another(tmp_path):
    output = tmp_path / "out"
    with staging_folder(output) as first:
        (first / "model.onnx").write_text("graph")
        with staging_folder(output) as second:
            assert first != second
        assert (first / "model.onnx").exists()
    assert not first.exists()


@pytest.mark.parametrize(
    ("name", "words", "owner"),
    [
        ("onnx", ("--max_length", "8"), "litert"),
        ("gguf", ("--max_length", "8"), "litert"),
        ("litert", ("--outtype", "f16"), "gguf"),
    ],
)
def test_option_of_another_format_is_refused(refusal, monkeypatch, name, words, owner):
    monkeypatch.setattr(run, "require_packages", lambda extra: pytest.fail("too late"))
    message = refusal("USER/REPO", "--to", name, *words)
    assert message == f"Error: {words[0]} is for --to {owner}; leave it out.\n"


def test_folder_with_files_of_somebody_else_is_refused(checkpoint, stand_in, refusal, tmp_path):
    stand_in({"model.onnx": "graph"})
    folder = checkpoint()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("text")
    for report in (None, "{", "[]", '{"format": "onnx"}'):
        if report is not None:
            (tmp_path / "out" / "export_report.json").write_text(report)
        message = refusal(folder, "--to", "onnx", "--output", tmp_path / "out")
        assert "holds files that this command did not write" in message
    assert "is a file" in refusal(folder, "--to", "onnx", "--output", tmp_path / "out" / "thesis.tex")
    assert "--output is empty" in refusal(folder, "--to", "onnx", "--output", " ")
    assert "holds files that this command did not write" in refusal(folder, "--to", "onnx", "--output", folder)


def test_report_of_another_place_deletes_nothing_there(checkpoint, stand_in, tmp_path):
    folder, output = checkpoint(), tmp_path / "out"
    output.mkdir()
    (tmp_path / "kept.txt").write_text("text")
    report = {"format": "onnx", "files": ["../kept.txt", str(tmp_path / "kept.txt"), "..", "."]}
    (output / "export_report.json").write_text(json.dumps(report))
    stand_in({"model.onnx": "graph"})
    assert main(["export", str(folder), "--to", "onnx", "--output", str(output)]) == 0
    assert (tmp_path / "kept.txt").exists()


def test_failed_export_leaves_nothing(checkpoint, stand_in, refusal, tmp_path):
    from modeling_mini.errors import UserError

    folder, output = checkpoint(), tmp_path / "out"
    stand_in({"model.onnx": "graph"}, UserError("The outputs differ."))
    assert "The outputs differ." in refusal(folder, "--to", "onnx", "--output", output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_missing_package_is_named_with_its_extra(checkpoint, monkeypatch, refusal):
    monkeypatch.setitem(run.EXTRAS, "onnx", {"no_such_package"})
    message = refusal(checkpoint(), "--to", "onnx")
    assert 'no_such_package is not installed; install it with: pip install "modeling_mini[onnx]"' in message


def test_each_format_has_an_extra(monkeypatch):
    assert run.FORMATS.keys() <= run.EXTRAS.keys()


def test_checkpoint_on_the_hub_needs_an_output_folder(refusal):
    assert "is not a folder on this machine" in refusal("USER/REPO", "--to", "onnx")


@pytest.mark.skipif(CACHE_NAME != "cache", reason="transformers before 5.24 is refused first")
def test_checkpoint_without_tokenizer_or_quantized_is_refused(checkpoint, refusal, monkeypatch):
    monkeypatch.setattr(run, "require_packages", lambda extra: None)
    folder = checkpoint(MiniForCausalLM)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "torchao"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "is quantized, which no export can read" in refusal(folder, "--to", "onnx")
    (folder / "tokenizer.json").unlink()
    config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    assert "contains no tokenizer.json" in refusal(folder, "--to", "onnx")
