"""Only whole checkpoints are resumed from, and a run never writes over another or into a full disk."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from modeling_mini.checkpoints import check_free_space, check_output_dir, checkpoint_defect, latest_complete_checkpoint
from modeling_mini.errors import UserError


def write_checkpoint(folder):
    folder.mkdir(parents=True)
    save_file({"weight": torch.arange(1000.0), "bias": torch.ones(7)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({"state": torch.ones(100)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    return folder


def test_whole_checkpoint_has_no_defect(tmp_path):
    assert checkpoint_defect(write_checkpoint(tmp_path / "checkpoint-1")) is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "last byte"])
def test_any_damage_to_any_file_is_seen_and_named(tmp_path, name, damage):
    folder = write_checkpoint(tmp_path / "checkpoint-1")
    content = (folder / name).read_bytes()
    if damage == "missing":
        (folder / name).unlink()
    else:
        keep = {"empty": 0, "half": len(content) // 2, "last byte": len(content) - 1}[damage]
        (folder / name).write_bytes(content[:keep])
    assert name in checkpoint_defect(folder) or checkpoint_defect(folder) == "there are no weights"


def test_latest_whole_checkpoint_is_chosen_by_number_and_the_broken_one_is_reported(tmp_path, caplog):
    for step in (9, 10, 100):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-100" / "optimizer.pt").write_bytes(b"PK")
    assert latest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert "checkpoint-100 is not complete (optimizer.pt" in caplog.text


def test_nothing_to_resume_is_none(tmp_path):
    assert latest_complete_checkpoint(tmp_path / "absent") is None


def test_folder_of_an_earlier_run_is_refused_unless_resumed(tmp_path):
    check_output_dir(tmp_path / "new", resume=False)
    write_checkpoint(tmp_path / "old" / "checkpoint-5")
    with pytest.raises(UserError, match="holds an earlier run; continue it with --resume"):
        check_output_dir(tmp_path / "old", resume=False)
    check_output_dir(tmp_path / "old", resume=True)


def test_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        check_output_dir(tmp_path / "file" / "run", resume=False)


def test_full_disk_is_refused_with_what_is_there_and_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2_000_000_000))
    check_free_space(tmp_path, num_parameters=70_000_000)
    with pytest.raises(UserError, match="has 2.00 GB free, and checkpoints of this model need 2.80 GB"):
        check_free_space(tmp_path, num_parameters=100_000_000)
