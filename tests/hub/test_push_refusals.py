"""What `push` and `upgrade-repo` refuse before anything is written."""

import json
import re
import shutil

import pytest
from hub_shared import damage_config, files_of
from huggingface_hub import HfApi

from modeling_mini import cli
from modeling_mini.errors import UserError
from modeling_mini.hub import push as sharing


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "alice/../x", "/etc/passwd", "alice/x/../y", "alice/..", "./x", "alice\\x"),
        *("alice/x\n", "alice/x\x00", "alice/\x1b[31m", "алиса/x"),
        *("alice", "a/b/c", "alice/x.git", "alice/" + 97 * "x", "", " "),
    ],
)
def test_an_invalid_repository_name_is_refused(hub, checkpoint, name):
    with pytest.raises(UserError, match="is not a valid repository name; give USER/REPO"):
        sharing.push(checkpoint(), name)
    with pytest.raises(UserError, match="is not a valid repository name"):
        sharing.upgrade_repo(name)
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["../main", "a/../../b", "-f", "/etc", "dev\n", "a b", "a\x00", "", "a//b"])
def test_an_invalid_branch_name_is_refused(hub, checkpoint, revision):
    with pytest.raises(UserError, match="is not a valid branch name"):
        sharing.push(checkpoint(), "alice/mini", revision=revision)
    assert hub.requests == []


def test_a_login_without_write_access_is_refused(hub, checkpoint, no_verification, monkeypatch):
    folder = checkpoint()
    with pytest.raises(
        UserError, match="The token belongs to alice, who cannot write to bob/mini; push to alice/mini"
    ):
        sharing.push(folder, "bob/mini")
    monkeypatch.setenv("HF_TOKEN", "hf_nobody_knows")
    with pytest.raises(UserError, match="the token is not valid; set HF_TOKEN to another"):
        sharing.push(folder, "alice/mini")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="not logged in to the Hub; run `hf auth login`, or set HF_TOKEN"):
        sharing.push(folder, "alice/mini")
    assert hub.repositories == {}


def test_a_private_push_to_a_public_repository_is_refused(hub, checkpoint, no_verification):
    HfApi().create_repo("alice/mini")
    with pytest.raises(UserError, match="alice/mini exists and is public, but a private repository was requested"):
        sharing.push(checkpoint(), "alice/mini", private=True)
    assert set(files_of(hub)) == {".gitattributes"}


@pytest.mark.parametrize("size", ["abc", "5", "0GB", "-1GB", "5 GB"])
def test_an_invalid_shard_size_is_refused(hub, checkpoint, size):
    with pytest.raises(UserError, match=f"--max_shard_size is '{size}'; give a size such as 500MB or 5GB"):
        sharing.push(checkpoint(), "alice/mini", max_shard_size=size)
    assert hub.requests == []


def test_offline_mode_is_reported(hub, checkpoint, monkeypatch, no_verification):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        sharing.push(checkpoint(), "alice/mini")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "weights.PKL", "x.ckpt", "model.pt"]
)
def test_a_pickle_is_refused_in_the_folder_and_in_the_repository(hub, checkpoint, no_verification, name):
    folder = checkpoint()
    HfApi().create_repo("alice/mini")
    HfApi().upload_file(path_or_fileobj=b"\x80\x04.", path_in_repo=name, repo_id="alice/mini")
    with pytest.raises(UserError, match=f"alice/mini contains '{name}', a pickle"):
        sharing.push(folder, "alice/mini")
    assert "config.json" not in files_of(hub)
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=f"contains '{name}', a pickle.*safetensors files only"):
        sharing.push(folder, "alice/other")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def hostile_index(folder):
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def invalid_index(folder):
    (folder / "model.safetensors.index.json").write_text("{")


BAD_CHECKPOINTS = {
    "model.safetensors.index.json in .* is not a valid weight index": invalid_index,
    "contains no config.json; give the folder of a trained model": lambda folder: (folder / "config.json").unlink(),
    "contains no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "model.safetensors in .* is truncated": lambda folder: truncate(folder / "model.safetensors"),
    "'../../secret.safetensors', which is not a file next to it": hostile_index,
    "contains an adapter .*merge_and_unload": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "contains a gpt2 model; this command is for modeling_mini": lambda folder: damage_config(
        folder, model_type="gpt2"
    ),
    r"names the architectures \['Other'\]": lambda folder: damage_config(folder, architectures=["Other"]),
    "`format_version` is 99": lambda folder: damage_config(folder, format_version=99),
    "The weights in .* lack .*, which config.json requires": lambda folder: damage_config(folder, num_hidden_layers=3),
    "The weights in .* contain .*, which config.json does not describe": lambda folder: damage_config(
        folder, num_hidden_layers=1
    ),
    r"config.json in .*hidden_size.*\); correct the entry\.\n": lambda folder: damage_config(
        folder, hidden_size="wide"
    ),
    r"config.json in .*`hidden_size` is 31; give an even [^.]*\.\n": lambda folder: damage_config(
        folder, hidden_size=31
    ),
    "tokenizer_config.json in .* holds a list, not a JSON object": lambda folder: (
        folder / "tokenizer_config.json"
    ).write_text("[]"),
    "loss.png in .* is a link that leads out of the folder; copy": lambda folder: (folder / "loss.png").symlink_to(
        "/etc/hostname"
    ),
}


@pytest.mark.parametrize("sentence", BAD_CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused(hub, checkpoint, sentence, capsys):
    folder = checkpoint()
    capsys.readouterr()  # discard the output of saving
    BAD_CHECKPOINTS[sentence](folder)
    assert cli.main(["push", str(folder), "alice/mini"]) == 1
    error = capsys.readouterr().err
    assert re.search(sentence, error), error
    assert error.startswith("Error: ")
    assert len(error.splitlines()) == 1
    assert hub.requests == []


def test_an_unfinished_run_is_refused_with_the_name_of_a_checkpoint(checkpoint, tmp_path):
    shutil.move(checkpoint(), tmp_path / "run" / "checkpoint-5")
    (tmp_path / "run" / "_run.json").touch()
    with pytest.raises(UserError, match="did not finish: continue it with --resume, or .*checkpoint-5"):
        sharing.push(tmp_path / "run", "alice/mini")
    with pytest.raises(UserError, match="There is no folder"):
        sharing.push(tmp_path / "nowhere", "alice/mini")
