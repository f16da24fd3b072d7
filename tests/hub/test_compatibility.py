"""A repository pushed with an earlier version opens with this version, and `upgrade-repo` updates it."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from hub_shared import AUTO_NAMES, CODE, files_of
from huggingface_hub import HfApi
from safetensors.torch import load_file

import modeling_mini
from modeling_mini import MiniForCausalLM, cli
from modeling_mini.configuration_mini import AUTO_CLASSES, FORMAT_VERSION, MiniConfig
from modeling_mini.errors import UserError
from modeling_mini.hub import fresh_process
from modeling_mini.hub import push as sharing


GOLDEN = Path(__file__).parents[1] / "golden"
PACKAGE = Path(modeling_mini.__file__).parent
AUTO_CLASS_OF = {name: getattr(transformers, auto_class) for name, auto_class in AUTO_CLASSES.items()}
golden_folders = pytest.mark.parametrize(
    "folder", sorted(GOLDEN.glob("v*/Mini*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)


def test_there_is_a_golden_repository_of_each_format_and_class():
    folders = {(path.parent.name, path.name) for path in GOLDEN.glob("v*/Mini*")}
    assert folders == {(f"v{n}", name) for n in range(1, FORMAT_VERSION + 1) for name in AUTO_CLASS_OF}


@golden_folders
def test_a_golden_repository_opens_with_its_recorded_outputs(folder, tmp_path):
    auto_class = AUTO_CLASS_OF[folder.name]
    model, report = auto_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert type(model).__name__ == folder.name
    expected = load_file(folder / "expected.safetensors")
    outputs = fresh_process.open_all(folder, AUTO_NAMES)
    for name, tensor in expected.items():
        torch.testing.assert_close(outputs[name], tensor, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    saved, stored = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert saved.keys() == stored.keys()
    assert all(torch.equal(saved[name], stored[name]) for name in saved)
    assert json.loads((tmp_path / "config.json").read_text())["format_version"] == FORMAT_VERSION


@pytest.fixture
def open_fresh(fresh_python, tmp_path):
    """`open_fresh(folder or repo_id, revision, hub=hub)`: outputs of each Auto class, without the package."""

    def run(source, revision="", hub=None):
        script = Path(fresh_process.__file__).read_text()
        finished = fresh_python(script, source, revision, "1", tmp_path / "result", *AUTO_NAMES, hub=hub)
        assert finished.returncode == 0, finished.stderr
        return load_file(tmp_path / "result.safetensors")

    return run


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("v*/MiniForCausalLM")), ids=lambda path: path.parent.name)
def test_a_golden_repository_opens_with_the_code_it_was_saved_with(folder, open_fresh):
    outputs = open_fresh(folder)
    for name, tensor in load_file(folder / "expected.safetensors").items():
        torch.testing.assert_close(outputs[name], tensor, rtol=1e-5, atol=1e-5)


def test_a_later_format_is_refused_before_its_fields_are_checked(tmp_path):
    later = {**MiniConfig().to_dict(), "format_version": FORMAT_VERSION + 1, "hidden_size": "not a number"}
    (tmp_path / "config.json").write_text(json.dumps(later))
    with pytest.raises(ValueError, match=rf"`format_version` is {FORMAT_VERSION + 1}.*pip install -U modeling_mini"):
        MiniConfig.from_pretrained(tmp_path)
    for invalid in (0, "1", None):
        (tmp_path / "config.json").write_text(json.dumps({**MiniConfig().to_dict(), "format_version": invalid}))
        with pytest.raises(ValueError, match="`format_version` is"):
            MiniConfig.from_pretrained(tmp_path)


def test_a_checkpoint_without_a_format_has_format_1(tmp_path):
    MiniConfig().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["format_version"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert MiniConfig.from_pretrained(tmp_path).format_version == 1


@pytest.fixture
def old_repository(hub, tiny_model, tmp_path):
    """alice/mini as an old version pushed it: other code, a partial auto_map, no format. Its code writes a file."""
    tiny_model(MiniForCausalLM).push_to_hub("alice/mini", max_shard_size="20KB")
    files = files_of(hub)
    config = json.loads(files["config.json"].data)
    del config["format_version"]
    config["auto_map"] = {
        "AutoModelForCausalLM": config["auto_map"]["AutoModelForCausalLM"],
        "AutoTokenizer": ["a.B", None],
    }
    trap = f"\nopen({str(tmp_path / 'executed')!r}, 'w').close()\n"
    for name, text in {
        "config.json": json.dumps(config),
        "configuration_mini.py": files["configuration_mini.py"].data.decode() + trap,
        "modeling_mini.py": "# Old.\n" + files["modeling_mini.py"].data.decode(),
        "a.py": trap,
    }.items():
        HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id="alice/mini")
    return hub.repository("alice/mini")


@pytest.mark.slow
@pytest.mark.versions
def test_upgrade_updates_the_code_and_the_config(hub, old_repository, tmp_path, caplog):
    before = old_repository.find("main")
    assert cli.main(["upgrade-repo", "alice/mini", "--dry_run"]) == 0
    assert old_repository.find("main") is before
    assert "modeling_mini.py: 0 lines added, 1 removed" in caplog.text
    assert "configuration_mini.py: 0 lines added, 2 removed" in caplog.text

    assert cli.main(["upgrade-repo", "alice/mini"]) == 0
    after = old_repository.find("main")
    assert after.parent is before, "not one commit"
    for name in CODE:
        assert after.files[name].data == (PACKAGE / name).read_bytes()
    config = json.loads(after.files["config.json"].data)
    assert config["auto_map"] == {**MiniConfig().auto_map, "AutoTokenizer": ["a.B", None]}
    assert config["format_version"] == FORMAT_VERSION
    assert sum("equal bit for bit" in message for message in caplog.messages) == 2
    untouched = set(before.files) - {*CODE, "config.json"}
    assert {name: after.files[name] for name in untouched} == {name: before.files[name] for name in untouched}
    assert not (tmp_path / "executed").exists(), "the old code was run"

    commits = len(old_repository.commits)
    assert cli.main(["upgrade-repo", "alice/mini"]) == 0
    assert "alice/mini is up to date" in caplog.text
    assert len(old_repository.commits) == commits


@pytest.mark.slow
@pytest.mark.versions
def test_upgrade_adds_new_code_files_to_a_golden_repository(hub, open_fresh):
    folder = GOLDEN / "v1" / "MiniForCausalLM"
    HfApi().create_repo("alice/mini")
    HfApi().upload_folder(folder_path=folder, repo_id="alice/mini", ignore_patterns=["expected.safetensors"])
    before = hub.repository("alice/mini").find("main")
    assert {path for path in before.files if path.endswith(".py")} == {"configuration_mini.py", "modeling_mini.py"}
    assert before.files["modeling_mini.py"].data == (folder / "modeling_mini.py").read_bytes()

    sharing.upgrade_repo("alice/mini")
    after = hub.repository("alice/mini").find("main")
    assert after.parent is before, "not one commit"
    assert set(after.files) == set(before.files) | {"loss_mini.py", "masking_mini.py"}
    assert {path for path in after.files if path.endswith(".py")} == CODE
    for name in CODE:
        assert after.files[name].data == (PACKAGE / name).read_bytes(), name
    for name in ("configuration_mini.py", "modeling_mini.py"):
        assert after.files[name].data != before.files[name].data, f"{name} was not replaced"
    for name in set(before.files) - CODE - {"config.json"}:
        assert after.files[name] == before.files[name], f"{name} has changed"

    old, new = (open_fresh("alice/mini", commit.oid, hub=hub) for commit in (before, after))
    for name, tensor in load_file(folder / "expected.safetensors").items():
        torch.testing.assert_close(new[name], old[name], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(new[name], tensor, rtol=1e-5, atol=1e-5)


def test_upgrade_by_pull_request_leaves_main_unchanged(hub, old_repository, no_verification):
    before = old_repository.find("main")
    sharing.upgrade_repo("alice/mini", create_pr=True)
    assert old_repository.find("main") is before
    assert (
        old_repository.find("refs/pr/1").files["modeling_mini.py"].data == (PACKAGE / "modeling_mini.py").read_bytes()
    )


def test_upgrade_does_not_overwrite_a_push_in_between(hub, old_repository, monkeypatch):
    def push_in_between(*args):
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="alice/mini")

    monkeypatch.setattr(sharing, "verify", push_in_between)
    with pytest.raises(
        UserError, match="someone else has changed the repository in the meantime; run the command again"
    ):
        sharing.upgrade_repo("alice/mini")
    assert old_repository.find("main").files["config.json"].data == b"{}"


def test_upgrade_drops_removed_heads_and_downloads_only_the_model(hub, old_repository, no_verification):
    config = json.loads(old_repository.find("main").files["config.json"].data)
    config["auto_map"] |= {"AutoModelForMultipleChoice": "modeling_mini.MiniForChoice", "set_seed": "modeling_mini.X"}
    HfApi().upload_file(path_or_fileobj=json.dumps(config).encode(), path_in_repo="config.json", repo_id="alice/mini")
    for path in ("checkpoint-2/model.safetensors", "onnx/tokenizer.json"):
        HfApi().upload_file(path_or_fileobj=b"large", path_in_repo=path, repo_id="alice/mini")
    hub.requests.clear()
    sharing.upgrade_repo("alice/mini")
    config = json.loads(old_repository.find("main").files["config.json"].data)
    assert config["auto_map"] == {**MiniConfig().auto_map, "AutoTokenizer": ["a.B", None]}
    assert not [request for request in hub.requests if "checkpoint-2/" in request or "onnx/" in request]


@pytest.mark.parametrize("kind", ["error", "drop"])
def test_upgrade_retries_after_a_temporary_fault(hub, old_repository, no_verification, kind):
    hub.fail("GET", "/api/models/alice/mini", kind)
    hub.fail("HEAD", "/resolve/", kind)
    sharing.upgrade_repo("alice/mini")
    assert not any(fault.times for fault in hub.faults)
    assert old_repository.find("main").files["modeling_mini.py"].data == (PACKAGE / "modeling_mini.py").read_bytes()


def test_upgrade_refuses_what_it_cannot_upgrade(hub, tiny_model):
    with pytest.raises(UserError, match="There is no repository alice/nothing, or this login cannot see it"):
        sharing.upgrade_repo("alice/nothing")
    tiny_model(MiniForCausalLM).push_to_hub("alice/mini")
    with pytest.raises(UserError, match="alice/mini has no revision dev"):
        sharing.upgrade_repo("alice/mini", revision="dev")
    HfApi().upload_file(path_or_fileobj=b'{"model_type": "gpt2"}', path_in_repo="config.json", repo_id="alice/mini")
    with pytest.raises(UserError, match="alice/mini contains a gpt2 model"):
        sharing.upgrade_repo("alice/mini")
    tiny_model(MiniForCausalLM).push_to_hub("alice/mini")
    config = json.loads(files_of(hub)["config.json"].data)
    later = json.dumps({**config, "format_version": FORMAT_VERSION + 1}).encode()
    HfApi().upload_file(path_or_fileobj=later, path_in_repo="config.json", repo_id="alice/mini")
    with pytest.raises(UserError, match="pip install -U modeling_mini"):
        sharing.upgrade_repo("alice/mini")
