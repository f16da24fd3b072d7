"""`modeling-mini push`: the uploaded repository, its options, and loading from it."""

import json
import logging
import re

import pytest
import torch
import transformers
from hub_shared import AUTO_NAMES, CODE, files_of, transfers
from huggingface_hub import HfApi

from modeling_mini import MiniForCausalLM, MiniForMaskedLM, MiniForSequenceClassification, cli
from modeling_mini.errors import UserError
from modeling_mini.hub import push as sharing


LOAD = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

repo_id, revision, expected = sys.argv[1:]
trusted = {"trust_remote_code": True, "revision": revision}
model = AutoModelForCausalLM.from_pretrained(repo_id, **trusted)
tokenizer = AutoTokenizer.from_pretrained(repo_id, **trusted)
ids = tokenizer("the lazy fox", return_tensors="pt").input_ids
logits = model(ids).logits
assert type(model).__module__.startswith("transformers_modules."), type(model)
assert torch.equal(logits, torch.load(expected)), "other logits"
assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False).startswith("<bos>")
print("EQUAL")
"""


@pytest.mark.slow
@pytest.mark.versions
@transfers
def test_a_pushed_model_loads_online_and_offline(hub, checkpoint, tmp_path, caplog, fresh_python):
    folder = checkpoint()
    model = MiniForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        torch.save(model(tokenizer("the lazy fox", return_tensors="pt").input_ids).logits, tmp_path / "expected.pt")

    assert cli.main(["push", str(folder), "alice/mini", "--private", "--max_shard_size", "20KB"]) == 0
    assert "Created alice/mini, which is private" in caplog.text
    for step in ("Before the upload", "Downloaded into an empty cache"):
        [line] = [message for message in caplog.messages if message.startswith(step)]
        assert all(name in line for name in [*AUTO_NAMES, "AutoTokenizer"])
        assert "equal bit for bit" in line
    first = hub.repository("alice/mini").refs["main"]
    assert first in caplog.text

    files = files_of(hub)
    assert {"README.md", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} < set(files)
    assert set(files) > CODE
    assert sum(path.endswith(".safetensors") for path in files) > 1, "not sharded"
    assert json.loads(files["config.json"].data)["auto_map"].keys() == {"AutoConfig", *AUTO_NAMES}
    weights = [blob for path, blob in files.items() if path.endswith(".safetensors")]
    assert all(blob.is_lfs for blob in weights) is (hub.transfer != "regular")
    assert all(blob.xet_hash is not None for blob in weights) is (hub.transfer == "xet")

    load = (LOAD, "alice/mini", first, tmp_path / "expected.pt")
    loaded = fresh_python(*load, hub=hub)
    assert "EQUAL" in loaded.stdout, loaded.stderr
    offline = fresh_python(*load)
    assert "EQUAL" in offline.stdout, offline.stderr


@pytest.mark.slow
def test_a_pinned_revision_stays_and_others_cannot_load_a_private_model(
    hub, checkpoint, tmp_path, fresh_python, no_verification
):
    sharing.push(checkpoint(), "alice/mini", private=True, max_shard_size="20KB")
    first = hub.repository("alice/mini").refs["main"]
    other = checkpoint(name="other", tie_word_embeddings=False)
    sharing.push(other, "alice/mini", private=True)
    assert {path for path in files_of(hub) if "safetensors" in path} == {"model.safetensors"}, "old shards are left"
    script = """
import sys
from transformers import AutoModelForCausalLM

for revision in (sys.argv[1], "main"):
    model = AutoModelForCausalLM.from_pretrained("alice/mini", revision=revision, trust_remote_code=True)
    print("tied", model.config.tie_word_embeddings)
for token in ("hf_bob", False):
    try:
        AutoModelForCausalLM.from_pretrained("alice/mini", trust_remote_code=True, token=token, cache_dir="elsewhere")
        print("loaded")
    except OSError as error:
        print("refused", "alice/mini is not a local folder and is not a valid model identifier" in str(error))
"""
    finished = fresh_python(script, first, hub=hub)
    assert finished.stdout.split("\n")[:4] == ["tied True", "tied False", "refused True", "refused True"], finished


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        (MiniForSequenceClassification, {"num_labels": 3}),
        (MiniForCausalLM, {"norm_first": False}),
    ],
)
@pytest.mark.slow
def test_every_auto_class_opens_whatever_head_was_pushed(hub, checkpoint, model_class, options, caplog):
    with caplog.at_level(logging.INFO, "modeling_mini"):
        sharing.push(checkpoint(model_class, **options), "alice/mini")
    assert sum("equal bit for bit" in message for message in caplog.messages) == 2
    assert json.loads(files_of(hub)["config.json"].data)["architectures"] == [model_class.__name__]


def test_a_dry_run_lists_the_files_and_does_not_contact_the_hub(hub, checkpoint, caplog):
    assert cli.main(["push", str(checkpoint()), "alice/mini", "--dry_run"]) == 0
    for name in [*CODE, "README.md", "config.json", "model.safetensors", "tokenizer.json"]:
        assert re.search(rf"\d bytes  {name}\n", caplog.text), name
    assert hub.requests == []


def test_a_branch_and_a_pull_request_leave_main_unchanged(hub, checkpoint, no_verification, caplog):
    folder = checkpoint()
    sharing.push(folder, "alice/mini")
    main = hub.repository("alice/mini").refs["main"]
    other = checkpoint(name="other", lm_head_bias=True)
    assert cli.main(["push", str(other), "alice/mini", "--revision", "dev"]) == 0
    assert cli.main(["push", str(other), "alice/mini", "--create_pr"]) == 0
    assert f"{hub.url}/alice/mini/discussions/1" in caplog.text
    assert hub.repository("alice/mini").refs["main"] == main
    for revision in ("dev", "refs/pr/1"):
        files = files_of(hub, revision=revision)
        assert json.loads(files["config.json"].data)["lm_head_bias"] is True
        assert set(files) > CODE


def test_anyone_can_open_a_pull_request_on_a_repository_they_can_read(hub, checkpoint, no_verification):
    folder, other = checkpoint(), checkpoint(name="other", lm_head_bias=True)
    sharing.push(folder, "alice/mini")
    sharing.push(folder, "alice/secret", private=True)
    sharing.push(other, "alice/mini", create_pr=True, token="hf_bob")
    assert json.loads(files_of(hub, revision="refs/pr/1")["config.json"].data)["lm_head_bias"] is True
    for repo_id in ("alice/secret", "alice/nothing"):
        with pytest.raises(UserError, match=f"There is no repository {repo_id}, or this login cannot see it"):
            sharing.push(other, repo_id, create_pr=True, token="hf_bob")


def test_a_second_push_of_the_same_model_makes_no_commit(hub, checkpoint, no_verification):
    folder = checkpoint()
    sharing.push(folder, "alice/mini")
    commits = len(hub.repository("alice/mini").commits)
    sharing.push(folder, "alice/mini")
    assert len(hub.repository("alice/mini").commits) == commits


def test_files_of_the_previous_model_are_deleted_and_other_files_stay(hub, checkpoint, no_verification):
    sharing.push(checkpoint(), "alice/mini")
    api = HfApi()
    for path in ("notes.txt", "onnx/model.safetensors", "consolidated.safetensors", "tokenizer_notes.json"):
        api.upload_file(path_or_fileobj=b"added", path_in_repo=path, repo_id="alice/mini")
    folder = checkpoint(MiniForMaskedLM, name="other")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "chat_template.jinja").unlink()
    sharing.push(folder, "alice/mini")
    files = files_of(hub)
    added = {"notes.txt", "onnx/model.safetensors", "consolidated.safetensors", "tokenizer_notes.json"}
    assert {*added, "model.safetensors", "config.json", *CODE} < set(files)
    assert not {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"} & set(
        files
    )


def test_a_token_with_a_line_break_is_accepted(hub, checkpoint, no_verification, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    sharing.push(checkpoint(), "alice/mini", token="hf_alice\r\n")
    assert set(files_of(hub)) > CODE
