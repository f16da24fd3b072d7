"""Files are complete or absent: a disk that fills while they are written leaves those of before."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset

from modeling_mini.inference import evaluate
from modeling_mini.tasks import task_class
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.training.building import save_tokenizer
from modeling_mini.training.distributed import save_whole_model
from modeling_mini.writing import complete_files, remove_unfinished, write_json


def half(path):
    """Write the first half of a file, as on a disk that fills up."""
    with open(path, "w") as file:
        file.write('{"half')
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_replace_those_of_before_together(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("kept")
    with complete_files(tmp_path) as folder:
        (folder / "a").write_text("new")
        (folder / "c").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["new", "kept", "new"]


def test_a_folder_replaces_the_folder_of_its_name(tmp_path):
    for name in ("old", "new"):
        with complete_files(tmp_path) as folder:
            (folder / "additional_chat_templates").mkdir()
            (folder / "additional_chat_templates" / f"{name}.jinja").write_text(name)
    assert names(tmp_path / "additional_chat_templates") == ["new.jinja"]


def test_a_resumed_run_deletes_what_a_killed_process_left(tmp_path):
    for name in ("_unfinished", "_unfinished-k1ll3d"):
        (tmp_path / name).mkdir()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["_unfinished"]


def test_files_of_a_process_that_was_killed_are_not_taken_over(tmp_path):
    for name in ("_unfinished", "_unfinished-k1ll3d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("half")
    with complete_files(tmp_path) as folder:
        (folder / "a").write_text("new")
    assert names(tmp_path) == ["_unfinished", "_unfinished-k1ll3d", "a"]
    assert names(tmp_path / "_unfinished") == ["model.safetensors"]


def test_a_json_file_stays_as_it_was_if_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1})
    monkeypatch.setattr(Path, "write_text", lambda self, text, **options: half(self))
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"loss": 2})
    assert json.loads(path.read_text()) == {"loss": 1}
    assert names(tmp_path) == ["metrics.json"]


def test_half_a_tokenizer_is_never_found(tmp_path):
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: half(Path(folder) / "tokenizer.json"))
    with pytest.raises(OSError, match="No space left"):
        save_tokenizer(tokenizer, tmp_path)
    assert not names(tmp_path)


def test_the_final_model_leaves_what_a_resumed_run_reads(tmp_path):
    (tmp_path / "tokenizer.json").write_text("whole")
    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=str(tmp_path), should_save=True),
        is_fsdp_enabled=False,
        is_deepspeed_enabled=False,
        save_model=lambda folder, **_: half(Path(folder) / "tokenizer.json"),
    )
    with pytest.raises(OSError, match="No space left"):
        save_whole_model(trainer)
    assert (tmp_path / "tokenizer.json").read_text() == "whole"
    assert names(tmp_path) == ["tokenizer.json"]


def results(folder, predictions):
    task = task_class("text-classification")(TaskArguments(task="text-classification"))
    examples = Dataset.from_dict({"text": ["a"], "label": ["x"]})
    about = {"checkpoint": "model" if predictions else None}
    evaluate._write(folder, about, {"model": {"accuracy": 1.0}}, examples, predictions, task)


def test_an_evaluation_leaves_no_predictions_of_another_model(tmp_path):
    results(tmp_path, ["x"])
    assert names(tmp_path) == ["predictions.jsonl", "results.json", "results.png"]
    results(tmp_path, None)
    assert names(tmp_path) == ["results.json", "results.png"]


def test_an_evaluation_that_cannot_be_written_keeps_the_results_of_before(tmp_path, monkeypatch):
    results(tmp_path, ["x"])
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    monkeypatch.setattr(evaluate, "plot", lambda systems, metric, path: half(path))
    with pytest.raises(OSError, match="No space left"):
        results(tmp_path, None)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
