"""What was pushed with an earlier version opens with this one, and can be brought up to date."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import HfApi
from safetensors.torch import load_file

from modeling_mini import MiniForCausalLM, cli
from modeling_mini.configuration_mini import AUTO_CLASSES, FORMAT_VERSION, MiniConfig
from modeling_mini.errors import UserError
from modeling_mini.hub import fresh_process
from modeling_mini.hub import push as sharing


GOLDEN = Path(__file__).parents[1] / "golden"
AUTO_CLASS_OF = {name: getattr(transformers, auto_class) for name, auto_class in AUTO_CLASSES.items()}
CODE = [path.name for path in sharing.CODE_FILES]
golden_folders = pytest.mark.parametrize(
    "folder", sorted(GOLDEN.glob("v*/Mini*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)


def test_there_is_a_golden_repository_of_each_format_and_class():
    found = {(path.parent.name, path.name) for path in GOLDEN.glob("v*/Mini*")}
    assert found == {(f"v{n}", name) for n in range(1, FORMAT_VERSION + 1) for name in AUTO_CLASS_OF}


@golden_folders
def test_golden_repository_opens_and_computes_what_it_did(folder, tmp_path):
    auto_class = AUTO_CLASS_OF[folder.name]
    model, report = auto_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert type(model).__name__ == folder.name
    expected = load_file(folder / "expected.safetensors")
    found = fresh_process.open_all(folder, AUTO_CLASSES.values())
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    saved, stored = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert saved.keys() == stored.keys()
    assert all(torch.equal(saved[name], stored[name]) for name in saved)
    assert json.loads((tmp_path / "config.json").read_text())["format_version"] == FORMAT_VERSION


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("v*/MiniForCausalLM")), ids=lambda path: path.parent.name)
def test_golden_repository_opens_with_the_code_of_its_time(folder, tmp_path, fresh_python):
    script = Path(fresh_process.__file__).read_text()
    finished = fresh_python(script, folder, "", "1", tmp_path / "result", *AUTO_CLASSES.values())
    assert finished.returncode == 0, finished.stderr
    found, expected = load_file(tmp_path / "result.safetensors"), load_file(folder / "expected.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


def test_a_later_format_is_refused_before_its_fields_are_judged(tmp_path):
    later = {**MiniConfig().to_dict(), "format_version": FORMAT_VERSION + 1, "hidden_size": "as wide as it takes"}
    (tmp_path / "config.json").write_text(json.dumps(later))
    with pytest.raises(ValueError, match=rf"`format_version` is {FORMAT_VERSION + 1}.*pip install -U modeling_mini"):
        MiniConfig.from_pretrained(tmp_path)
    for wrong in (0, "1", None):
        (tmp_path / "config.json").write_text(json.dumps({**MiniConfig().to_dict(), "format_version": wrong}))
        with pytest.raises(ValueError, match="`format_version` is"):
            MiniConfig.from_pretrained(tmp_path)


def test_a_checkpoint_without_a_format_is_of_the_first(tmp_path):
    MiniConfig().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["format_version"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert MiniConfig.from_pretrained(tmp_path).format_version == 1


# upgrade-repo


@pytest.fixture
def old_repository(hub, tiny_model, tmp_path):
    """alice/mini as an early version left it: other code, half an auto_map, no format. All its code is a trap."""
    tiny_model(MiniForCausalLM).push_to_hub("alice/mini", max_shard_size="20KB")
    files = hub.repository("alice/mini").find("main").files
    config = json.loads(files["config.json"].data)
    del config["format_version"]
    config["auto_map"] = {
        "AutoModelForCausalLM": config["auto_map"]["AutoModelForCausalLM"],
        "AutoTokenizer": ["a.B", None],
    }
    trap = f"\nopen({str(tmp_path / 'executed')!r}, 'w').close()\n"
    for name, text in {
        "config.json": json.dumps(config),
        CODE[0]: files[CODE[0]].data.decode() + trap,
        CODE[1]: "# Old.\n" + files[CODE[1]].data.decode(),
        "a.py": trap,
    }.items():
        HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id="alice/mini")
    return hub.repository("alice/mini")


@pytest.mark.slow
def test_upgrade_brings_the_code_and_the_config_up_to_date(hub, old_repository, tmp_path, caplog):
    before = old_repository.find("main")
    assert cli.main(["upgrade-repo", "alice/mini", "--dry-run"]) == 0
    assert old_repository.find("main") is before
    assert f"{CODE[1]}: 0 lines added, 1 removed" in caplog.text
    assert f"{CODE[0]}: 0 lines added, 2 removed" in caplog.text

    assert cli.main(["upgrade-repo", "alice/mini"]) == 0
    after = old_repository.find("main")
    assert after.parent is before, "not one commit"
    for path in sharing.CODE_FILES:
        assert after.files[path.name].data == path.read_bytes()
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


def test_upgrade_by_pull_request(hub, old_repository, monkeypatch):
    monkeypatch.setattr(sharing, "verify", lambda *args: None)
    before = old_repository.find("main")
    sharing.upgrade_repo("alice/mini", create_pr=True)
    assert old_repository.find("main") is before
    assert old_repository.find("refs/pr/1").files[CODE[1]].data == sharing.CODE_FILES[1].read_bytes()


def test_upgrade_does_not_build_upon_a_push_in_between(hub, old_repository, monkeypatch):
    def push_meanwhile(*args):
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="alice/mini")

    monkeypatch.setattr(sharing, "verify", push_meanwhile)
    with pytest.raises(UserError, match="someone else has changed the repository meanwhile; run the command again"):
        sharing.upgrade_repo("alice/mini")
    assert old_repository.find("main").files["config.json"].data == b"{}"


def test_upgrade_drops_heads_that_are_no_more_and_downloads_the_model_only(hub, old_repository, monkeypatch):
    monkeypatch.setattr(sharing, "verify", lambda *args: None)
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
def test_upgrade_survives_a_passing_fault(hub, old_repository, monkeypatch, kind):
    monkeypatch.setattr(sharing, "verify", lambda *args: None)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.fail("GET", "/api/models/alice/mini", kind)
    hub.fail("HEAD", "/resolve/", kind)
    sharing.upgrade_repo("alice/mini")
    assert not any(fault.times for fault in hub.faults)
    assert old_repository.find("main").files[CODE[1]].data == sharing.CODE_FILES[1].read_bytes()


def test_upgrade_says_what_it_cannot(hub, tiny_model, monkeypatch):
    with pytest.raises(UserError, match="There is no repository alice/nothing, or this login may not see it"):
        sharing.upgrade_repo("alice/nothing")
    tiny_model(MiniForCausalLM).push_to_hub("alice/mini")
    with pytest.raises(UserError, match="alice/mini has no revision dev"):
        sharing.upgrade_repo("alice/mini", revision="dev")
    HfApi().upload_file(path_or_fileobj=b'{"model_type": "gpt2"}', path_in_repo="config.json", repo_id="alice/mini")
    with pytest.raises(UserError, match="alice/mini holds a gpt2 model"):
        sharing.upgrade_repo("alice/mini")
    tiny_model(MiniForCausalLM).push_to_hub("alice/mini")
    config = json.loads(hub.repository("alice/mini").find("main").files["config.json"].data)
    later = json.dumps({**config, "format_version": FORMAT_VERSION + 1}).encode()
    HfApi().upload_file(path_or_fileobj=later, path_in_repo="config.json", repo_id="alice/mini")
    with pytest.raises(UserError, match="pip install -U modeling_mini"):
        sharing.upgrade_repo("alice/mini")
