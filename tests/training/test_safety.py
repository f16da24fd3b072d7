"""No file of a checkpoint runs code: not when a run is judged, resumed, evaluated, used, shared or fine-tuned."""

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
import torch.distributed.checkpoint
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from modeling_mini import cli
from modeling_mini.checkpoints import checkpoint_defect, latest_complete_checkpoint
from modeling_mini.errors import UserError
from modeling_mini.pickles import require_harmless, sharded_metadata
from modeling_mini.training import run
from modeling_mini.training.arguments import parse_arguments
from modeling_mini.training.resuming import resume_point


class Payload:
    """Unpickling it creates the marker file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "executed"


@pytest.fixture
def run_folder(checkpoint, save_states):
    """An unfinished run whose only checkpoint has a model of ours and complete states."""
    folder = checkpoint(name="run/checkpoint-2")
    save_states(folder)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 2, "max_steps": 4}))
    return folder


def resume(run_folder, *more):
    return resume_point(parse_arguments(["--output_dir", str(run_folder.parent), "--resume", *more])[2])


def as_pickle(path, payload):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(payload))


def as_archive(path, payload):
    """As torch.save writes it, with a payload."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state": payload}, path)


def as_pickle_before_an_archive(path, payload):
    """`zipfile` reads this file from its end, and an older `torch.load` from its beginning."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps({}))
    path.write_bytes(pickle.dumps(payload) + content.getvalue())


STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt")
WEIGHTS = ("pytorch_model_fsdp.bin", "optimizer.bin")  # of FSDP


def test_a_harmless_checkpoint_is_continued(run_folder):
    assert resume(run_folder) == str(run_folder)


@pytest.mark.parametrize("name", [*STATES, *WEIGHTS])
@pytest.mark.parametrize("write", [as_archive, as_pickle, as_pickle_before_an_archive])
def test_a_payload_in_a_state_does_not_run(run_folder, marker, name, write):
    write(run_folder / name, Payload(marker))
    if name in WEIGHTS:  # a checkpoint of FSDP is complete with both
        for other in WEIGHTS:
            write(run_folder / other, Payload(marker))
    with pytest.raises(UserError) as refusal:
        resume(run_folder, "--resume_from_checkpoint", str(run_folder))
    assert name in str(refusal.value) or "was written by FSDP" in str(refusal.value)
    if write is as_archive:
        with pytest.raises(UserError, match=r"(bin|pth?) holds code .*mkdir.*; it was not opened"):
            latest_complete_checkpoint(run_folder.parent)
    assert not marker.exists()


@pytest.mark.parametrize("part", ["pytorch_model_fsdp_0", "optimizer_0", "pytorch_model_fsdp_1"])
def test_a_payload_in_the_metadata_of_a_sharded_checkpoint_does_not_run(run_folder, marker, part):
    for name in ("model.safetensors", "optimizer.pt"):
        (run_folder / name).unlink()
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        torch.distributed.checkpoint.save({"w": torch.ones(3)}, checkpoint_id=run_folder / name, no_dist=True)
    as_pickle(run_folder / part / ".metadata", Payload(marker))
    if part.endswith("_1"):  # nothing reads it
        assert checkpoint_defect(run_folder) is None
    else:
        with pytest.raises(UserError, match=rf"{part}/.metadata holds code \(\w+.mkdir\)"):
            resume(run_folder)
    assert not marker.exists()


def test_a_payload_among_the_plain_values_of_a_shard_does_not_run(run_folder, marker):
    """torch loads the values that are not tensors without any check."""
    for name in ("model.safetensors", "optimizer.pt"):
        (run_folder / name).unlink()
    torch.distributed.checkpoint.save({"w": torch.ones(3)}, checkpoint_id=run_folder / "optimizer_0", no_dist=True)
    state = {"w": torch.ones(3), "lr": Payload(marker)}
    torch.distributed.checkpoint.save(state, checkpoint_id=run_folder / "pytorch_model_fsdp_0", no_dist=True)
    with pytest.raises(UserError, match=r"distcp holds code \(\w+.mkdir\)"):
        checkpoint_defect(run_folder)
    assert not marker.exists()


def test_metadata_cannot_name_a_file_outside_the_folder(run_folder):
    part = run_folder / "part"
    torch.distributed.checkpoint.save({"w": torch.ones(3)}, checkpoint_id=part, no_dist=True)
    metadata = FileSystemReader(part).read_metadata()
    for entry in metadata.storage_data.values():
        entry.relative_path = "../optimizer.pt"
    (part / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match="names '../optimizer.pt', a file outside its folder"):
        sharded_metadata(part)


def test_metadata_of_the_optimizer_of_a_real_model_are_read(tmp_path):
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "half": torch.ones(2).bfloat16()}
    torch.distributed.checkpoint.save(state, checkpoint_id=tmp_path / "part", no_dist=True)
    ours, theirs = sharded_metadata(tmp_path / "part"), FileSystemReader(tmp_path / "part").read_metadata()
    assert isinstance(ours, Metadata)
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data == theirs.storage_data


def test_a_payload_in_a_deepspeed_checkpoint_does_not_run(run_folder, marker):
    (run_folder / "latest").write_text("global_step2")
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        as_archive(run_folder / "global_step2" / name, torch.ones(2))
    assert checkpoint_defect(run_folder) is None
    as_archive(run_folder / "global_step2" / name, Payload(marker))
    with pytest.raises(UserError, match=f"{name} holds code"):
        checkpoint_defect(run_folder)
    assert not marker.exists()


def test_numpy_random_states_are_harmless(tmp_path):
    import numpy as np

    torch.save({"numpy": np.random.get_state(), "python": 1}, tmp_path / "rng_state.pth")
    require_harmless(tmp_path / "rng_state.pth")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pkl", "pytorch_model-00001-of-00002.bin"])
@pytest.mark.parametrize("keeps_safetensors", [True, False])
def test_no_command_opens_a_pickle_of_weights(checkpoint, marker, tmp_path, capsys, caplog, name, keeps_safetensors):
    folder = checkpoint()
    as_archive(folder / name, Payload(marker))
    (folder / "training_args.bin").write_bytes(pickle.dumps(Payload(marker)))
    if not keeps_safetensors:
        (folder / "model.safetensors").unlink()
    for command in (["generate", str(folder), "the"], ["eval", str(folder), "--dataset", __file__]):
        assert cli.main(command) == 1
        assert "a pickle, which can run code" in capsys.readouterr().err
    assert cli.main(["push", str(folder), "alice/mini", "--dry_run"]) == 1
    assert "a pickle, which can run code" in capsys.readouterr().err
    assert run.main(["--init_from", str(folder), "--output_dir", str(tmp_path / "new"), "--dataset", __file__]) == 1
    assert not marker.exists()
    assert not (tmp_path / "new").exists()


def test_the_arguments_of_the_trainer_are_never_opened(run_folder, marker):
    (run_folder / "training_args.bin").write_bytes(pickle.dumps(Payload(marker)))
    assert resume(run_folder) == str(run_folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    "overrides",
    [
        {"trust_remote_code": True},
        {"auto_map": {"AutoConfig": "evil.Config"}},
        {"from_dict": 1},
        {"model_type": "gpt2"},
        {"dtype": "nonsense"},
        {"_name_or_path": "x"},
        {"__class__": "x"},
        {"code_revision": "x"},
    ],
)
def test_overrides_are_fields_of_the_model_and_nothing_else(checkpoint, tmp_path, overrides):
    folder = checkpoint()
    code = f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\nclass Config: pass\n"
    (folder / "evil.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"init_from": str(folder), "config_overrides": overrides}))  # JSON is YAML
    for argv in ([str(recipe)], ["--init_from", str(folder), "--config_overrides", json.dumps(overrides)]):
        with pytest.raises(UserError, match=f"--config_overrides: there is no field '{next(iter(overrides))}'"):
            parse_arguments(argv)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ('{"d_model": 32, "hidden_size": 64}', "another name of 'hidden_size' are both given"),
        ('{"num_layers": 2, "num_hidden_layers": 2}', "another name of 'num_hidden_layers' are both given"),
        ('{"hidden_size": 32, "hidden_size": 64}', "gives 'hidden_size' twice"),
        ('{"eos_token_id": -5}', "eos_token_id is not free, because the tokenizer sets it"),
        ('{"pad_token_id": 3}', "pad_token_id is not free"),
        ('{"format_version": 2}', "format_version is not free"),
    ],
)
def test_overrides_that_contradict_each_other_or_have_no_effect_are_refused(overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_arguments(["--config_overrides", overrides])


def test_an_alias_on_the_command_line_replaces_the_field_of_the_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("config_overrides: {hidden_size: 32, num_layers: 1}")
    model_args, _, _ = parse_arguments([str(recipe), "--config_overrides", '{"d_model": 64}'])
    assert model_args.overrides() == {"hidden_size": 64, "num_hidden_layers": 1}


@pytest.mark.parametrize(
    "overrides",
    [
        {"num_hidden_layers": 100_000_000},
        {"hidden_size": 10_000_000_000},
        {"hidden_size": 10_000_000},
        {"vocab_size": 100_000_000_000},
        {"intermediate_size": 10**15},
        {"num_hidden_layers": 10**7, "hidden_size": 4, "intermediate_size": 1, "num_attention_heads": 2},
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_it_is_built(tmp_path, overrides):
    with pytest.raises(UserError, match=r"need [\d,.]+ GB, but [\d,.]+ GB of memory are free"):
        run.train(["--config_overrides", json.dumps(overrides), "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
