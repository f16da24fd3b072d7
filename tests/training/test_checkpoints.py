"""A run resumes only from complete checkpoints, never overwrites another run, and refuses a full disk."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.distributed.checkpoint
from accelerate.utils import DistributedType
from safetensors.torch import save_file

from modeling_mini.checkpoints import (
    FSDP_FULL,
    ZERO_2,
    ZERO_3,
    WorldSize,
    checkpoint_defect,
    latest_complete_checkpoint,
    written_by,
)
from modeling_mini.errors import UserError
from modeling_mini.training.arguments import parse_arguments
from modeling_mini.training.resuming import (
    ROWS,
    check_checkpoint,
    check_free_space,
    check_output_dir,
    check_run_of_checkpoint,
    check_same_run,
    fixed_arguments,
    resume_point,
)


def write_checkpoint(folder):
    folder.mkdir(parents=True)
    save_file({"weight": torch.arange(1000.0), "bias": torch.ones(7)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(100)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    return folder


def test_a_complete_checkpoint_has_no_defect(tmp_path):
    assert checkpoint_defect(write_checkpoint(tmp_path / "checkpoint-1")) is None


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "last byte"])
def test_any_damage_to_any_file_is_found_and_named(tmp_path, name, damage):
    folder = write_checkpoint(tmp_path / "checkpoint-1")
    content = (folder / name).read_bytes()
    if damage == "missing":
        (folder / name).unlink()
    else:
        size = {"empty": 0, "half": len(content) // 2, "last byte": len(content) - 1}[damage]
        (folder / name).write_bytes(content[:size])
    assert name in checkpoint_defect(folder) or checkpoint_defect(folder) == "there are no weights"


def test_the_latest_complete_checkpoint_is_chosen_and_incomplete_ones_are_reported(tmp_path, caplog):
    for step in (9, 10, 100):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-100" / "optimizer.pt").write_bytes(b"PK")
    assert latest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert "checkpoint-100 is not complete (optimizer.pt" in caplog.text


def test_a_run_that_starts_from_the_beginning_keeps_incomplete_checkpoints(tmp_path, caplog):
    for _ in range(2):
        folder = write_checkpoint(tmp_path / "checkpoint-9")
        (folder / "optimizer.pt").unlink()
        _, _, args = parse_arguments(["--output_dir", str(tmp_path), "--resume"])
        assert resume_point(args) is None
        assert sorted(path.name for path in tmp_path.iterdir()) == ["incomplete-checkpoint-9"]
    assert (tmp_path / "incomplete-checkpoint-9" / "model.safetensors").exists()
    assert "is kept as incomplete-checkpoint-9" in caplog.text


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    assert latest_complete_checkpoint(tmp_path / "absent") is None


def test_folder_of_an_earlier_run_is_refused_unless_resumed(tmp_path):
    check_output_dir(tmp_path / "new", resume=False)
    write_checkpoint(tmp_path / "old" / "checkpoint-5")
    with pytest.raises(UserError, match="holds an earlier run; continue it with --resume"):
        check_output_dir(tmp_path / "old", resume=False)
    check_output_dir(tmp_path / "old", resume=True)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        check_output_dir(tmp_path / "file" / "run", resume=False)


def test_a_full_disk_is_refused_with_its_free_and_the_needed_space(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2_000_000_000))
    check_free_space(tmp_path, num_parameters=50_000_000)
    with pytest.raises(UserError, match="has 2.00 GB free, and checkpoints of this model need 4.00 GB"):
        check_free_space(tmp_path, num_parameters=100_000_000)


DEEPSPEED = {
    "ZeRO-2": ["mp_rank_00_model", "zero_pp_rank_0_mp_rank_00_optim", "zero_pp_rank_1_mp_rank_00_optim"],
    "ZeRO-2 in bf16": ["mp_rank_00_model", *(f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim" for rank in (0, 1))],
    "ZeRO-3": [f"zero_pp_rank_{rank}_mp_rank_00_{kind}" for rank in (0, 1) for kind in ("model", "optim")],
}


def record_processes(folder, count):
    state = {"stateful_callbacks": {"WorldSize": WorldSize(count).state()}}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (folder / "rng_state.pth").unlink()
    for rank in range(count):
        torch.save({"state": torch.ones(100)}, folder / f"rng_state_{rank}.pth")


@pytest.mark.parametrize("names", DEEPSPEED.values(), ids=DEEPSPEED)
def test_any_damage_to_a_deepspeed_checkpoint_is_found(tmp_path, names):
    folder = write_checkpoint(tmp_path / "checkpoint-3")
    record_processes(folder, 2)
    (folder / "optimizer.pt").unlink()
    (folder / "latest").write_text("global_step3")
    (folder / "global_step3").mkdir()
    paths = [folder / "global_step3" / f"{name}_states.pt" for name in names]
    for path in paths:
        torch.save(torch.ones(100), path)
    assert checkpoint_defect(folder) is None
    assert written_by(folder) == (ZERO_3 if "zero_pp_rank_0_mp_rank_00_model" in names else ZERO_2)
    for pointer in ("global_step2", "global_st", ""):
        (folder / "latest").write_text(pointer)
        assert checkpoint_defect(folder) == "latest is missing or truncated"
    (folder / "latest").unlink()
    assert checkpoint_defect(folder) == "latest is missing or truncated"
    (folder / "latest").write_text("global_step3\n")
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        assert "global_step3" in checkpoint_defect(folder)
        path.unlink()
        assert "global_step3" in checkpoint_defect(folder)
        path.write_bytes(content)


def test_any_damage_to_a_whole_fsdp_checkpoint_is_found(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint-3")
    (folder / "optimizer.pt").unlink()
    names = ("pytorch_model_fsdp.bin", "optimizer.bin")
    for name in names:
        torch.save(torch.ones(100), folder / name)
    assert checkpoint_defect(folder) is None
    assert written_by(folder) == FSDP_FULL
    for name in names:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        assert name in checkpoint_defect(folder)
        (folder / name).write_bytes(content[:-1])
        assert name in checkpoint_defect(folder)
        (folder / name).write_bytes(content)


def test_a_missing_random_state_of_one_process_is_found(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint-3")
    record_processes(folder, 3)
    assert checkpoint_defect(folder) is None
    (folder / "rng_state_2.pth").unlink()
    assert checkpoint_defect(folder) == "rng_state_2.pth is missing or truncated"


def test_a_checkpoint_that_this_run_cannot_continue_is_refused_with_a_sentence(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "checkpoint-3")
    _, _, args = parse_arguments(["--output_dir", str(tmp_path), "--use_cpu", "true"])
    check_checkpoint(folder, args)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_checkpoint(folder, args)  # one process: accelerate shards nothing
    monkeypatch.setattr(args.distributed_state, "distributed_type", DistributedType.MULTI_GPU)
    with pytest.raises(UserError, match="was written by DDP, or one process, but this run uses FSDP"):
        check_checkpoint(folder, args)
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    with pytest.raises(UserError, match="this run uses FSDP with whole checkpoints"):
        check_checkpoint(folder, args)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    (folder / "latest").write_text("global_step3")
    with pytest.raises(UserError, match="was written by DeepSpeed ZeRO-1 or 2, but this run uses DDP, or one process"):
        check_checkpoint(folder, args)
    record_processes(folder, 2)
    args.deepspeed_plugin = SimpleNamespace(zero_stage=3)
    with pytest.raises(UserError, match="was written by DeepSpeed ZeRO-1 or 2, but this run uses DeepSpeed ZeRO-3"):
        check_checkpoint(folder, args)
    args.deepspeed_plugin = SimpleNamespace(zero_stage=2)
    with pytest.raises(UserError, match="2 processes with DeepSpeed, which cannot reshard it for 1; start 2 pro"):
        check_checkpoint(folder, args)
    (folder / "trainer_state.json").write_text("{")
    with pytest.raises(UserError, match="is not a checkpoint: trainer_state.json is missing or damaged"):
        check_checkpoint(folder, args)


def test_a_checkpoint_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    for update in (5, 10):
        (tmp_path / f"checkpoint-{update}").mkdir()
    args = SimpleNamespace(resume_from_checkpoint=str(tmp_path / "checkpoint-7"), output_dir=str(tmp_path))
    with pytest.raises(
        UserError, match=r"the folder does not exist; give one of checkpoint-5, checkpoint-10 in .*, or"
    ):
        check_run_of_checkpoint(args, {})
    args.resume_from_checkpoint = "true"
    with pytest.raises(
        UserError, match="checkpoint true: the folder does not exist; .*, or --resume for the last one"
    ):
        check_run_of_checkpoint(args, {})


def test_a_resumed_run_must_read_the_same_number_of_rows_per_update(tmp_path):
    check_same_run(tmp_path, {"training": {ROWS: 8}}, resume=False, write=True)
    check_same_run(tmp_path, {"training": {ROWS: 8, "absent from the record": 1}}, resume=True, write=True)
    with pytest.raises(
        UserError,
        match="records 8 rows per update for this run, but it would read 4; choose --per_dev",
    ):
        check_same_run(tmp_path, {"training": {ROWS: 4}}, resume=True, write=True)


@pytest.mark.parametrize("sampling", ["random", "group_by_length"])
def test_group_by_length_also_fixes_the_batch_size_of_a_process(tmp_path, sampling):
    model, data, args = parse_arguments(["--output_dir", str(tmp_path), "--train_sampling_strategy", sampling])
    fixed = fixed_arguments(model, data, args)["training"]
    assert ("per_device_train_batch_size" in fixed) == (sampling == "group_by_length")
    assert fixed[ROWS] == 16


@pytest.mark.parametrize("is_muon", [True, False])
def test_a_run_that_recorded_use_muon_resumes_only_with_the_same_optimizer(tmp_path, is_muon):
    same, other = ("muon", "adamw") if is_muon else ("adamw", "muon")

    def fixed(optimizer):
        return fixed_arguments(*parse_arguments(["--output_dir", str(tmp_path), "--optimizer", optimizer]))

    recorded = fixed(same)
    del recorded["training"]["optimizer"]
    recorded["training"]["use_muon"] = str(is_muon)
    (tmp_path / "_run.json").write_text(json.dumps(recorded))
    check_same_run(tmp_path, fixed(same), resume=True, write=True)
    with pytest.raises(UserError, match=f"was started with --use_muon {is_muon}, not {not is_muon}"):
        check_same_run(tmp_path, fixed(other), resume=True, write=True)


@pytest.fixture
def sharded_checkpoint(tmp_path):
    """As accelerate writes a checkpoint under FSDP2: weights and optimizer in folders that torch writes."""
    folder = write_checkpoint(tmp_path / "checkpoint-3")
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / name).unlink()
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        state = {f"weight_{i}": torch.randn(300) for i in range(3)}
        torch.distributed.checkpoint.save(state, checkpoint_id=folder / name, no_dist=True)
    return folder


def test_a_complete_sharded_checkpoint_is_chosen(sharded_checkpoint):
    assert checkpoint_defect(sharded_checkpoint) is None
    assert latest_complete_checkpoint(sharded_checkpoint.parent) == sharded_checkpoint


@pytest.mark.parametrize("part", ["pytorch_model_fsdp_0", "optimizer_0"])
@pytest.mark.parametrize("damage", ["folder", "metadata missing", "metadata", "file missing", "file"])
def test_any_damage_to_a_sharded_checkpoint_is_found_and_named(sharded_checkpoint, part, damage):
    folder = sharded_checkpoint / part
    damaged_file = folder / ".metadata" if "metadata" in damage else next(folder.glob("*.distcp"))
    if damage == "folder":
        shutil.rmtree(folder)
    elif "missing" in damage:
        damaged_file.unlink()
    else:
        damaged_file.write_bytes(damaged_file.read_bytes()[:-1])
    assert part in checkpoint_defect(sharded_checkpoint)


def test_a_run_resumes_only_with_the_arguments_it_was_started_with(tmp_path):
    started = {"data": {"block_size": 32, "dataset": "a"}, "training": {"seed": 1}}
    check_same_run(tmp_path, started, resume=False, write=True)
    check_same_run(tmp_path, started, resume=True, write=True)
    changed = {"data": {"block_size": 64, "dataset": "a"}, "training": {"seed": 1}}
    with pytest.raises(UserError, match="started with --block_size 32, not 64"):
        check_same_run(tmp_path, changed, resume=True, write=True)
    check_same_run(tmp_path, changed, resume=False, write=True)  # a new run in the same folder
    check_same_run(tmp_path, changed, resume=True, write=True)


def test_a_damaged_run_json_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "_run.json").write_text('{"data": ')
    with pytest.raises(UserError, match="_run.json in .* is not JSON"):
        check_same_run(tmp_path, {}, resume=True, write=True)
