"""The stand-in for the Hub, `hub_server.py`, used by the real huggingface_hub client."""

import sys
from pathlib import Path

import pytest
from hub_shared import transfers
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

import modeling_mini


@transfers
def test_private_repositories_are_hidden_from_others(hub):
    alice, bob, nobody, unknown = (HfApi(token=token) for token in ("hf_alice", "hf_bob", False, "hf_unknown"))
    alice.create_repo("alice/secret", private=True)
    alice.upload_file(path_or_fileobj=b"x" * 100, path_in_repo="a.safetensors", repo_id="alice/secret")
    assert alice.list_repo_files("alice/secret") == [".gitattributes", "a.safetensors"]
    for api in (bob, nobody):
        with pytest.raises(RepositoryNotFoundError):
            api.list_repo_files("alice/secret")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        unknown.whoami()
    with pytest.raises(HfHubHTTPError, match="403"):
        bob.create_repo("alice/mine")
    alice.update_repo_settings("alice/secret", private=False)
    assert bob.list_repo_files("alice/secret") == [".gitattributes", "a.safetensors"]
    with pytest.raises(HfHubHTTPError, match="403"):
        bob.upload_file(path_or_fileobj=b"y", path_in_repo="b", repo_id="alice/secret")
    alice.delete_repo("alice/secret")
    assert hub.repositories == {}


def test_branches_tags_and_history_are_kept(hub, tmp_path):
    api = HfApi()
    api.create_repo("alice/mini")
    first = api.upload_file(path_or_fileobj=b"1", path_in_repo="folder/a", repo_id="alice/mini", commit_message="one")
    api.create_tag("alice/mini", tag="v1")
    api.create_branch("alice/mini", branch="dev")
    api.upload_file(path_or_fileobj=b"2", path_in_repo="folder/a", repo_id="alice/mini", commit_message="two")
    assert [commit.title for commit in api.list_repo_commits("alice/mini")] == ["two", "one", "initial commit"]
    contents = {
        revision: Path(api.hf_hub_download("alice/mini", "folder/a", revision=revision)).read_bytes()
        for revision in ("main", "v1", "dev", first.oid)
    }
    assert contents == {"main": b"2", "v1": b"1", "dev": b"1", first.oid: b"1"}
    refs = api.list_repo_refs("alice/mini")
    assert ([ref.name for ref in refs.branches], [ref.name for ref in refs.tags]) == (["main", "dev"], ["v1"])
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"3", path_in_repo="b", repo_id="alice/mini", parent_commit=first.oid)
    api.delete_folder("folder", "alice/mini")
    assert api.list_repo_files("alice/mini") == [".gitattributes"]
    assert sys.modules["modeling_mini"] is modeling_mini
