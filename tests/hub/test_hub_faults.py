"""`push` with a failing server, lost connections, and commits by someone else in between."""

import contextlib

import pytest
import torch
from hub_server import Blob
from hub_shared import CODE, ENDPOINTS, files_of
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM

from modeling_mini import MiniForCausalLM, cli
from modeling_mini.errors import UserError
from modeling_mini.hub import push as sharing


def is_whole(files, folder):
    """Whether a repository contains all files of one model, as in the checkpoint, or is still empty."""
    if "config.json" not in files:
        return set(files) == {".gitattributes"}
    weights = {path: (folder / path).read_bytes() for path in ("model.safetensors", "tokenizer.json")}
    return set(files) > CODE and all(files[path].data == data for path, data in weights.items())


@pytest.mark.parametrize("kind", ["error", "error after", "drop", "drop after"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_fault_is_retried_and_leaves_the_old_or_the_new_model(hub, checkpoint, no_verification, endpoint, kind):
    old, new = checkpoint(), checkpoint(name="new", tie_word_embeddings=False)
    if endpoint != "create":
        sharing.push(old, "alice/mini")
    hub.fail(*ENDPOINTS[endpoint], kind)
    sharing.push(new, "alice/mini")
    assert hub.faults[0].times == 0, "the fault did not happen"
    assert is_whole(files_of(hub), new)

    # A lasting fault ends with an error and leaves one of the two models. A second push succeeds.
    hub.fail(*ENDPOINTS[endpoint], kind, times=99)
    with contextlib.suppress(UserError):
        sharing.push(old, "alice/mini")
    assert is_whole(files_of(hub), new) or is_whole(files_of(hub), old)
    hub.faults.clear()
    sharing.push(old, "alice/mini")
    assert is_whole(files_of(hub), old)
    titles = [commit.title for commit in hub.repository("alice/mini").history()]
    # A retry after a lost answer makes no second commit.
    assert len(titles) == (3 if endpoint == "create" else 4), titles


def test_a_push_builds_on_a_commit_by_someone_else_in_between(hub, checkpoint, no_verification):
    folder = checkpoint()
    hub.fail("POST", "/commit/", "stale")
    sharing.push(folder, "alice/mini")
    assert is_whole(files_of(hub), folder)
    hub.fail("POST", "/commit/", "stale", times=99)
    with pytest.raises(UserError, match="someone else has changed the repository in the meantime"):
        sharing.push(checkpoint(name="new", lm_head_bias=True), "alice/mini")
    assert is_whole(files_of(hub), folder)


def test_a_pickle_committed_in_between_is_refused(hub, checkpoint, no_verification, monkeypatch):
    """The pickle arrives after the push has listed the repository, and before its commit."""
    folder, commit = checkpoint(), HfApi.create_commit
    sharing.push(folder, "alice/mini")

    def commit_after_someone_else(api, *args, **kwargs):
        monkeypatch.setattr(HfApi, "create_commit", commit)
        repository = hub.repository("alice/mini")
        files = {**files_of(hub), "pytorch_model.bin": Blob(b"\x80\x04.")}
        repository.commit("main", "theirs", files, repository.find("main"))
        return commit(api, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", commit_after_someone_else)
    with pytest.raises(UserError, match="alice/mini contains 'pytorch_model.bin', a pickle"):
        sharing.push(checkpoint(name="new", lm_head_bias=True), "alice/mini")
    assert hub.repository("alice/mini").find("main").title == "theirs"


@pytest.mark.parametrize("kind", ["error", "drop"])
def test_a_server_that_stays_down_ends_with_a_sentence(hub, checkpoint, no_verification, kind):
    folder = checkpoint()
    sharing.push(folder, "alice/mini")
    hub.fail("POST", "/commit/", kind, times=99)
    with pytest.raises(UserError, match=f"The request to {hub.url} did not succeed"):
        sharing.push(checkpoint(name="new", lm_head_bias=True), "alice/mini")
    assert is_whole(files_of(hub), folder)


def test_a_pull_request_is_not_opened_twice(hub, checkpoint, no_verification):
    sharing.push(checkpoint(), "alice/mini")
    hub.fail("POST", "/commit/", "error after")
    with pytest.raises(UserError, match="The request to http"):
        sharing.push(checkpoint(name="new", lm_head_bias=True), "alice/mini", create_pr=True)
    assert hub.repository("alice/mini").pull_requests == 1


def test_a_push_waits_for_a_slow_answer(hub, checkpoint, no_verification):
    hub.fail("POST", "/commit/", "slow", seconds=3)
    sharing.push(checkpoint(), "alice/mini")
    assert set(files_of(hub)) > CODE


def test_a_truncated_download_is_repeated(hub, checkpoint, no_verification):
    folder = checkpoint()
    sharing.push(folder, "alice/mini")
    hub.fail("GET", "model.safetensors", "truncate")
    model = AutoModelForCausalLM.from_pretrained("alice/mini")
    expected = MiniForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert hub.faults[0].times == 0


@pytest.mark.parametrize("kind", ["error", "drop"])
def test_a_fault_in_the_verifying_download_is_retried(hub, checkpoint, no_verification, kind):
    folder = checkpoint()
    hub.fail("HEAD", "/config.json", kind)
    sharing.push(folder, "alice/mini")
    assert hub.faults[0].times == 0
    hub.fail("HEAD", "/config.json", kind, times=99)
    with pytest.raises(
        UserError, match="Commit .* was uploaded, but could not be downloaded to verify it: The request"
    ):
        sharing.push(checkpoint(name="new", lm_head_bias=True), "alice/mini")


def test_ctrl_c_ends_with_a_sentence(hub, checkpoint, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    folder = checkpoint()
    monkeypatch.setattr(sharing, "verify", interrupted)
    assert cli.main(["push", str(folder), "alice/mini"]) == 130
    assert capsys.readouterr().err.endswith("arrives completely or not at all; repeat the command to finish it.\n")
