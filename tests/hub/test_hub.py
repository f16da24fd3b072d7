"""Pushing to a Hub and loading from it: the real huggingface_hub client against `hub_server.py`."""

import ast
import contextlib
import itertools
import json
import logging
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from classes import MODEL_CLASSES
from hub_server import Blob, card_errors
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from transformers import AutoModelForCausalLM

import modeling_mini
from modeling_mini import MiniConfig, MiniForCausalLM, MiniForMaskedLM, MiniForSequenceClassification, cli
from modeling_mini.configuration_mini import AUTO_CLASSES
from modeling_mini.errors import UserError
from modeling_mini.hub import push as sharing
from modeling_mini.hub.model_card import REPOSITORY, write_model_card
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tokenization import train_tokenizer
from modeling_mini.training.arguments import MiniTrainingArguments, ModelArguments
from modeling_mini.training.report import card_facts


AUTO_NAMES = list(AUTO_CLASSES.values())
CODE = {"configuration_mini.py", "loss_mini.py", "masking_mini.py", "modeling_mini.py"}
TEXT = "the quick brown fox jumps over the lazy dog"
transfers = pytest.mark.parametrize("hub", ["lfs", "regular", "xet"], indirect=True)


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """`checkpoint(model_class)`: folder of a model that fits its tokenizer."""

    def build(model_class=MiniForCausalLM, name="checkpoint", **overrides):
        tokenizer = train_tokenizer([TEXT], vocab_size=300)
        model = tiny_model(model_class, vocab_size=len(tokenizer), max_position_embeddings=64, **overrides)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return build


@pytest.fixture
def no_verification(monkeypatch):
    """Without the two fresh processes that a push starts, and without waiting between attempts."""
    monkeypatch.setattr(sharing, "verify", lambda *args: None)
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def files_of(hub, repo_id="alice/mini", revision="main"):
    return hub.repository(repo_id).find(revision).files


# The whole flow

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
@transfers
def test_push_and_load_from_start_to_finish(hub, checkpoint, tmp_path, caplog, fresh_python):
    folder = checkpoint()
    model = MiniForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        torch.save(model(tokenizer("the lazy fox", return_tensors="pt").input_ids).logits, tmp_path / "expected.pt")

    assert cli.main(["push", str(folder), "alice/mini", "--private", "--max-shard-size", "20KB"]) == 0
    assert "Created alice/mini, which is private" in caplog.text
    for place in ("Before the upload", "Downloaded into an empty cache"):
        [line] = [message for message in caplog.messages if message.startswith(place)]
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
def test_a_pinned_revision_stays_and_strangers_see_nothing(hub, checkpoint, tmp_path, fresh_python, no_verification):
    sharing.push(checkpoint(), "alice/mini", private=True, max_shard_size="20KB")
    first = hub.repository("alice/mini").refs["main"]
    other = checkpoint(name="other", tie_word_embeddings=False)
    sharing.push(other, "alice/mini", private=True)
    assert {path for path in files_of(hub) if "safetensors" in path} == {"model.safetensors"}, "shards are left"
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


@pytest.mark.slow
def test_the_card_says_how_to_load_and_it_does(hub, checkpoint, fresh_python, no_verification):
    for model_class in MODEL_CLASSES:
        sharing.push(checkpoint(model_class), f"alice/{model_class.__name__}", license="mit", language=["en", "zh"])
    script = "from huggingface_hub import hf_hub_download\nimport re\n" + "".join(
        f"""
text = open(hf_hub_download("alice/{model_class.__name__}", "README.md")).read()
exec(re.search(r"```python\\n(.*?)```", text, re.DOTALL)[1])
print(type(model).__name__)
"""
        for model_class in MODEL_CLASSES
    )
    finished = fresh_python(script, hub=hub)
    assert finished.returncode == 0, finished.stderr
    for model_class in MODEL_CLASSES:
        assert f"\n{model_class.__name__}\n" in finished.stdout
        card = files_of(hub, f"alice/{model_class.__name__}")["README.md"].data.decode()
        assert "license: mit" in card
        assert "- zh" in card
        assert REPOSITORY not in card


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        (MiniForSequenceClassification, {"num_labels": 3}),
        (MiniForCausalLM, {"norm_first": False}),
    ],
)
@pytest.mark.slow
def test_every_class_opens_equal_from_other_heads_too(hub, checkpoint, model_class, options, caplog):
    with caplog.at_level(logging.INFO, "modeling_mini"):
        sharing.push(checkpoint(model_class, **options), "alice/mini")
    assert sum("equal bit for bit" in message for message in caplog.messages) == 2
    assert json.loads(files_of(hub)["config.json"].data)["architectures"] == [model_class.__name__]


# Options


def test_dry_run_lists_the_files_and_asks_no_server(hub, checkpoint, caplog):
    assert cli.main(["push", str(checkpoint()), "alice/mini", "--dry-run"]) == 0
    for name in [*CODE, "README.md", "config.json", "model.safetensors", "tokenizer.json"]:
        assert re.search(rf"\d bytes  {name}\n", caplog.text), name
    assert hub.requests == []


def test_a_branch_and_a_pull_request_leave_main_alone(hub, checkpoint, no_verification, caplog):
    folder = checkpoint()
    sharing.push(folder, "alice/mini")
    main = hub.repository("alice/mini").refs["main"]
    other = checkpoint(name="other", lm_head_bias=True)
    assert cli.main(["push", str(other), "alice/mini", "--revision", "dev"]) == 0
    assert cli.main(["push", str(other), "alice/mini", "--create-pr"]) == 0
    assert f"{hub.url}/alice/mini/discussions/1" in caplog.text
    assert hub.repository("alice/mini").refs["main"] == main
    for revision in ("dev", "refs/pr/1"):
        files = files_of(hub, revision=revision)
        assert json.loads(files["config.json"].data)["lm_head_bias"] is True
        assert set(files) > CODE


def test_a_second_push_of_the_same_changes_nothing(hub, checkpoint, no_verification):
    folder = checkpoint()
    sharing.push(folder, "alice/mini")
    commits = len(hub.repository("alice/mini").commits)
    sharing.push(folder, "alice/mini")
    assert len(hub.repository("alice/mini").commits) == commits


def test_what_the_model_before_left_behind_goes_and_what_others_added_stays(hub, checkpoint, no_verification):
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


# Refusals


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "alice/../x", "/etc/passwd", "alice/x/../y", "alice/..", "./x", "alice\\x"),
        *("alice/x\n", "alice/x\x00", "alice/\x1b[31m", "алиса/x"),
        *("alice", "a/b/c", "alice/x.git", "alice/" + 97 * "x", "", " "),
    ],
)
def test_hostile_names_of_repositories_are_refused(hub, checkpoint, name):
    with pytest.raises(UserError, match="is no name of a repository; give USER/REPO"):
        sharing.push(checkpoint(), name)
    with pytest.raises(UserError, match="is no name of a repository"):
        sharing.upgrade_repo(name)
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["../main", "a/../../b", "-f", "/etc", "dev\n", "a b", "a\x00", "", "a//b"])
def test_hostile_names_of_branches_are_refused(hub, checkpoint, revision):
    with pytest.raises(UserError, match="is no name of a branch"):
        sharing.push(checkpoint(), "alice/mini", revision=revision)
    assert hub.requests == []


def test_who_may_not_write_is_told_before_anything_is_written(hub, checkpoint, no_verification, monkeypatch):
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


def test_anyone_may_propose_a_change_to_what_they_can_read(hub, checkpoint, no_verification):
    folder, other = checkpoint(), checkpoint(name="other", lm_head_bias=True)
    sharing.push(folder, "alice/mini")
    sharing.push(folder, "alice/secret", private=True)
    sharing.push(other, "alice/mini", create_pr=True, token="hf_bob")
    assert json.loads(files_of(hub, revision="refs/pr/1")["config.json"].data)["lm_head_bias"] is True
    for repo_id in ("alice/secret", "alice/nothing"):
        with pytest.raises(UserError, match=f"There is no repository {repo_id}, or this login may not see it"):
            sharing.push(other, repo_id, create_pr=True, token="hf_bob")


def test_ctrl_c_ends_in_a_sentence(hub, checkpoint, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    folder = checkpoint()
    monkeypatch.setattr(sharing, "verify", interrupted)
    assert cli.main(["push", str(folder), "alice/mini"]) == 130
    assert capsys.readouterr().err.endswith("arrives completely or not at all; repeat the command to finish it.\n")


def test_a_public_repository_does_not_take_what_was_meant_to_be_private(hub, checkpoint, no_verification):
    HfApi().create_repo("alice/mini")
    with pytest.raises(UserError, match="alice/mini exists and is public, and it was asked to be private"):
        sharing.push(checkpoint(), "alice/mini", private=True)
    assert set(files_of(hub)) == {".gitattributes"}


@pytest.mark.parametrize("size", ["abc", "5", "0GB", "-1GB", "5 GB"])
def test_a_size_that_is_none_is_refused(hub, checkpoint, size):
    with pytest.raises(UserError, match=f"--max_shard_size is '{size}'; give a size such as 500MB or 5GB"):
        sharing.push(checkpoint(), "alice/mini", max_shard_size=size)
    assert hub.requests == []


def test_offline_mode_is_named(hub, checkpoint, monkeypatch, no_verification):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        sharing.push(checkpoint(), "alice/mini")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "weights.PKL", "x.ckpt", "model.pt"]
)
def test_a_pickle_in_the_way_is_refused_here_and_there(hub, checkpoint, no_verification, name):
    folder = checkpoint()
    HfApi().create_repo("alice/mini")
    HfApi().upload_file(path_or_fileobj=b"\x80\x04.", path_in_repo=name, repo_id="alice/mini")
    with pytest.raises(UserError, match=f"alice/mini holds '{name}', a pickle"):
        sharing.push(folder, "alice/mini")
    assert "config.json" not in files_of(hub)
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=f"holds '{name}', a pickle.*safetensors files only"):
        sharing.push(folder, "alice/other")


def damage_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def hostile_index(folder):
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_index(folder):
    (folder / "model.safetensors.index.json").write_text("{")


BAD_CHECKPOINTS = {
    "model.safetensors.index.json in .* is no index of weights": no_index,
    "holds no config.json; give a trained model": lambda folder: (folder / "config.json").unlink(),
    "holds no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "model.safetensors in .* is cut short": lambda folder: cut(folder / "model.safetensors"),
    "'../../secret.safetensors', which is not a file beside it": hostile_index,
    "holds an adapter .*merge_and_unload": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "holds a gpt2 model; this command shares modeling_mini": lambda folder: damage_config(folder, model_type="gpt2"),
    "names the architecture 'Other', which is none of": lambda folder: damage_config(folder, architectures=["Other"]),
    "`format_version` is 99": lambda folder: damage_config(folder, format_version=99),
    "The weights in .* lack ": lambda folder: damage_config(folder, num_hidden_layers=3),
    "The weights in .* have, beyond what config.json says, ": lambda folder: damage_config(
        folder, num_hidden_layers=1
    ),
    "config.json in .*hidden_size": lambda folder: damage_config(folder, hidden_size="wide"),
    "config.json in .*`hidden_size` is 31; give an even": lambda folder: damage_config(folder, hidden_size=31),
    "checkpoint does not open": lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
    "loss.png is a link; copy the folder": lambda folder: (folder / "loss.png").symlink_to("/etc/hostname"),
}


@pytest.mark.parametrize("sentence", BAD_CHECKPOINTS)
def test_what_is_no_whole_checkpoint_is_refused(hub, checkpoint, sentence, capsys):
    folder = checkpoint()
    capsys.readouterr()  # of saving
    BAD_CHECKPOINTS[sentence](folder)
    assert cli.main(["push", str(folder), "alice/mini"]) == 1
    error = capsys.readouterr().err
    assert re.search(sentence, error), error
    assert error.startswith("Error: ")
    assert len(error.splitlines()) == 1
    assert hub.requests == []


def test_a_run_that_did_not_end_names_its_checkpoint(checkpoint, tmp_path):
    shutil.move(checkpoint(), tmp_path / "run" / "checkpoint-5")
    with pytest.raises(UserError, match="the run did not end; give a checkpoint such as .*checkpoint-5"):
        sharing.push(tmp_path / "run", "alice/mini")
    with pytest.raises(UserError, match="There is no folder"):
        sharing.push(tmp_path / "nowhere", "alice/mini")


# The card


def test_a_card_of_ones_own_is_kept_and_completed(hub, checkpoint, no_verification, caplog):
    folder = checkpoint()
    (folder / "README.md").write_text(
        "---\nlicense: cc-by-4.0\ntags: [fable]\n---\n\n# Mine\n\n![a](plot.png) [n](notes.md) [b](../secret.png)\n"
    )
    for name in ("plot.png", "notes.md", "../secret.png"):
        (folder / name).write_bytes(b"png")
    sharing.push(folder, "alice/mini", language=["en"])
    assert "README.md links to notes.md, which is not uploaded" in caplog.text
    assert not {"notes.md", "secret.png"} & set(files_of(hub))
    card = files_of(hub)["README.md"].data.decode()
    assert "license: cc-by-4.0" in card
    assert all(f"- {tag}\n" in card for tag in ("fable", "modeling_mini", "custom_code"))
    assert "# Mine" in card
    assert 'from_pretrained("alice/mini", trust_remote_code=True)' in card
    assert "pipeline_tag: text-generation" in card
    assert files_of(hub)["plot.png"].data == b"png"


@pytest.fixture
def run_card(tmp_path):
    """`run_card(margin, **training_arguments)`: the card that a run leaves, of made-up results and local files."""

    def write(margin, **training):
        for name in ("shape.json", "text.txt"):
            (tmp_path / name).write_text("{}")
        results = {"validation_loss": 2.0, "validation_loss_margin": margin, "perplexity": 7.389, "bits_per_byte": 1.5}
        results |= dict.fromkeys(("parameters", "context", "vocabulary", "updates", "tokens_per_update"), 1000)
        results |= {"train_tokens": None, "train_seconds": 12.3, "hardware": "an abacus", "seed": 1, "sample": "the"}
        facts = card_facts(
            "MiniForCausalLM",
            results,
            {},
            ModelArguments(model=str(tmp_path / "shape.json")),
            TaskArguments(dataset=str(tmp_path / "text.txt")),
            MiniTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **training),
        )
        write_model_card(tmp_path, facts)
        return (tmp_path / "README.md").read_text()

    return write


def test_a_run_tells_its_results_with_intervals_and_nothing_of_the_machine(run_card, tmp_path):
    card = run_card(0.1, warmup_steps=0.25, resume=True)
    assert str(tmp_path) not in card
    assert "trained from scratch (shape: `shape.json`) with\nmodeling_mini on `text.txt`" in card
    assert "| 2.0000 (1.9000 to 2.1000) | 7.3890 (6.6859 to 8.1662) | 1.5000 (1.4250 to 1.5750) |" in card
    [entry] = ModelCard(card).data.to_dict()["model-index"]
    metrics = {metric["type"]: metric for metric in entry["results"][0]["metrics"]}
    assert metrics["bits_per_byte"]["args"]["confidence_interval_95"] == [1.425, 1.575]
    assert "warm-up over 25% of the updates" in card
    assert "12 s since the last resumption on an abacus" in card
    assert card_errors(card) == []


def test_a_single_row_gives_no_interval(run_card):
    card = run_card(0.0)
    assert "| 2.0000 | 7.3890 | 1.5000 |" in card
    assert "confidence_interval" not in card


def test_a_card_that_was_written_on_the_hub_is_kept(hub, checkpoint, no_verification):
    folder = checkpoint()
    sharing.push(folder, "alice/mini")
    card = b"---\nlicense: cc-by-4.0\n---\n\n# Written there\n"
    HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="alice/mini")
    sharing.push(folder, "alice/mini", language=["en"])
    found = files_of(hub)["README.md"].data.decode()
    assert "license: cc-by-4.0" in found
    assert "# Written there" in found
    assert "language:\n- en" in found


def test_metadata_that_the_hub_refuses_are_a_sentence(hub, checkpoint, no_verification):
    with pytest.raises(UserError, match='The Hub refuses the metadata of the card .*"license" must be one of'):
        sharing.push(checkpoint(), "alice/mini", license="my own")
    with pytest.raises(UserError, match="--language english is not an ISO 639 code"):
        sharing.push(checkpoint(), "alice/mini", language=["en", "english"], dry_run=True)
    assert hub.repositories == {}


def test_a_card_that_is_no_yaml_is_named(checkpoint):
    folder = checkpoint()
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(UserError, match=r"The metadata in .*README.md are not valid"):
        sharing.push(folder, "alice/mini", dry_run=True)


# Faults

ENDPOINTS = {
    "who": ("GET", "/whoami"),
    "create": ("POST", "/repos/create"),
    "head": ("GET", "/api/models/alice/mini"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/info/lfs/objects/batch"),
    "object": ("PUT", "/lfs-objects/"),
    "commit": ("POST", "/commit/"),
}


def is_whole(files, folder):
    """Whether a repository is one model: all of the files, each as in the export of the checkpoint."""
    if "config.json" not in files:
        return set(files) == {".gitattributes"}
    weights = {path: (folder / path).read_bytes() for path in ("model.safetensors", "tokenizer.json")}
    return set(files) > CODE and all(files[path].data == data for path, data in weights.items())


@pytest.mark.parametrize("kind", ["error", "error after", "drop", "drop after"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_fault_is_tried_again_and_leaves_the_old_model_or_the_new(hub, checkpoint, no_verification, endpoint, kind):
    old, new = checkpoint(), checkpoint(name="new", tie_word_embeddings=False)
    if endpoint != "create":
        sharing.push(old, "alice/mini")
    hub.fail(*ENDPOINTS[endpoint], kind)
    sharing.push(new, "alice/mini")
    assert hub.faults[0].times == 0, "the fault did not happen"
    assert is_whole(files_of(hub), new)

    # Where it lasts, a sentence; what is there is one model or the other; and a second run mends it.
    hub.fail(*ENDPOINTS[endpoint], kind, times=99)
    with contextlib.suppress(UserError):
        sharing.push(old, "alice/mini")
    assert is_whole(files_of(hub), new) or is_whole(files_of(hub), old)
    hub.faults.clear()
    sharing.push(old, "alice/mini")
    assert is_whole(files_of(hub), old)
    titles = [commit.title for commit in hub.repository("alice/mini").history()]
    assert len(titles) == (3 if endpoint == "create" else 4), titles  # a lost answer makes no second commit


def test_a_commit_of_someone_else_in_between_is_built_upon(hub, checkpoint, no_verification):
    folder = checkpoint()
    hub.fail("POST", "/commit/", "stale")
    sharing.push(folder, "alice/mini")
    assert is_whole(files_of(hub), folder)
    hub.fail("POST", "/commit/", "stale", times=99)
    with pytest.raises(UserError, match="someone else has changed the repository meanwhile"):
        sharing.push(checkpoint(name="new", lm_head_bias=True), "alice/mini")
    assert is_whole(files_of(hub), folder)


def test_what_someone_else_commits_in_between_is_seen(hub, checkpoint, no_verification, monkeypatch):
    """Between the look at the repository and the commit, a pickle arrives; it must be refused as ever."""
    folder, commit = checkpoint(), HfApi.create_commit
    sharing.push(folder, "alice/mini")

    def commit_after_someone_else(api, *args, **kwargs):
        monkeypatch.setattr(HfApi, "create_commit", commit)
        repository = hub.repository("alice/mini")
        files = {**files_of(hub), "pytorch_model.bin": Blob(b"\x80\x04.")}
        repository.commit("main", "theirs", files, repository.find("main"))
        return commit(api, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", commit_after_someone_else)
    with pytest.raises(UserError, match="alice/mini holds 'pytorch_model.bin', a pickle"):
        sharing.push(checkpoint(name="new", lm_head_bias=True), "alice/mini")
    assert hub.repository("alice/mini").find("main").title == "theirs"


@pytest.mark.parametrize("kind", ["error", "drop"])
def test_a_server_that_stays_down_is_a_sentence(hub, checkpoint, no_verification, kind):
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


def test_a_slow_answer_is_waited_for(hub, checkpoint, no_verification):
    hub.fail("POST", "/commit/", "slow", seconds=3)
    sharing.push(checkpoint(), "alice/mini")
    assert set(files_of(hub)) > CODE


def test_a_download_that_is_cut_is_not_taken_for_the_whole(hub, checkpoint, no_verification):
    folder = checkpoint()
    sharing.push(folder, "alice/mini")
    hub.fail("GET", "model.safetensors", "cut")
    model = AutoModelForCausalLM.from_pretrained("alice/mini")
    expected = MiniForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert hub.faults[0].times == 0


@pytest.mark.slow
def test_what_does_not_open_or_computes_something_else_is_said(hub, checkpoint):
    folder = checkpoint()
    expected = sharing.outputs_of(folder, MiniConfig.from_pretrained(folder))
    sharing.verify(folder, expected)
    model = MiniForCausalLM.from_pretrained(folder)
    model.model.layers[0].mlp.up_proj.bias.data[0] += 1e-3
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="checkpoint opens, but AutoModel, .*AutoModelForCausalLM.* differ"):
        sharing.verify(folder, expected)
    (folder / "configuration_mini.py").unlink()
    with pytest.raises(UserError, match="checkpoint does not open without modeling_mini: .*configuration_mini.py"):
        sharing.verify(folder, expected)


# Security


@pytest.mark.slow
def test_nothing_of_a_repository_runs_without_consent(hub, checkpoint, tmp_path, fresh_python, no_verification):
    sharing.push(checkpoint(), "alice/mini")
    trap = f"\nopen({str(tmp_path / 'executed')!r}, 'w').close()\n"
    for name in CODE:
        blob = files_of(hub)[name]
        HfApi().upload_file(path_or_fileobj=blob.data + trap.encode(), path_in_repo=name, repo_id="alice/mini")
    script = """
import transformers

transformers.AutoTokenizer.from_pretrained("alice/mini")  # has no code of its own
for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM"):
    try:
        getattr(transformers, name).from_pretrained("alice/mini")
        print("LOADED", name)
    except ValueError as error:
        print("REFUSED", name, error)
"""
    output = fresh_python(script, hub=hub).stdout
    assert "LOADED" not in output
    refusals = output.split("REFUSED")[1:]
    assert len(refusals) == 3
    assert all("trust_remote_code=True" in refusal for refusal in refusals)
    assert not (tmp_path / "executed").exists()
    # The package, where it is installed, is what runs; and so it is in a push of what was downloaded.
    script = "import modeling_mini\nfrom transformers import AutoModel\nAutoModel.from_pretrained('alice/mini')"
    assert fresh_python(script, hub=hub, installed=True).returncode == 0
    assert not (tmp_path / "executed").exists()
    consented = fresh_python(
        "import transformers as t\nt.AutoModel.from_pretrained('alice/mini', trust_remote_code=True)", hub=hub
    )
    assert consented.returncode == 0, consented.stderr
    assert (tmp_path / "executed").exists(), "the trap does not work"


def test_a_token_appears_nowhere(hub, checkpoint, tmp_path, capsys, caplog, monkeypatch, no_verification):
    """Not in what is printed or logged at any level, with or without a failure, nor in a file that is pushed."""
    folder = checkpoint()
    for name in ("huggingface_hub", "transformers", "httpx", "httpx2", "modeling_mini"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    for name in ("httpcore", "httpcore2"):  # logs every header of an answer, and here an answer has the token
        monkeypatch.setattr(logging.getLogger(name), "level", logging.INFO)
    monkeypatch.setattr(sharing, "_quiet", contextlib.nullcontext)
    with caplog.at_level(logging.DEBUG):
        assert cli.main(["push", str(folder), "alice/mini"]) == 0
        for fault in itertools.product(["error", "drop"], ENDPOINTS.values()):
            hub.fail(*fault[1], fault[0], times=9)
            cli.main(["push", str(checkpoint(name="new", lm_head_bias=True)), "alice/mini"])
            hub.faults.clear()
    printed = capsys.readouterr()
    assert "Error" in printed.err
    assert "hf_alice" not in printed.out + printed.err + caplog.text
    for commit in hub.repository("alice/mini").history():
        assert not [path for path, blob in commit.files.items() if b"hf_alice" in blob.data]


def test_exported_code_imports_torch_and_transformers_only():
    """And huggingface_hub, which transformers is built on, for `strict`; of Python, nothing that does harm."""
    allowed = {"torch", "transformers", "huggingface_hub"}
    allowed |= {
        "collections",
        "copy",
        "difflib",
        "functools",
        "inspect",
        "math",
        "numbers",
        "os",
        "pathlib",
        "re",
        "typing",
    }
    assert {path.name for path in sharing.CODE_FILES} == CODE
    for path in sharing.CODE_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, ast.unparse(node)
            elif isinstance(node, ast.ImportFrom):
                is_ours = node.level == 1 and f"{node.module}.py" in CODE
                assert is_ours or (node.level == 0 and node.module.split(".")[0] in allowed), ast.unparse(node)
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        assert not names & {"eval", "exec", "open", "compile", "__import__", "input", "globals", "setattr", "delattr"}
        of_os = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os"}
        assert of_os <= {"PathLike"}
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module in ("os", "pathlib.os")]
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not attributes & {"read_text", "read_bytes", "write_text", "write_bytes", "unlink", "rename", "rmdir"}


def test_verification_runs_no_code_of_others_and_knows_no_token(hub, checkpoint, tmp_path, caplog):
    """Code that a co-writer has put where transformers would run it, in the repository that is pushed to."""
    trap = f"import os\nopen({str(tmp_path / 'executed')!r}, 'w').write(str(dict(os.environ)))\n"
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.Tok", "evil.Tok"]}}
    HfApi().create_repo("alice/mini")
    for path, text in {
        "custom_generate/generate.py": trap + "def generate(*args, **kwargs): pass\n",
        "evil.py": trap,
        "tokenizer_config.json": json.dumps(tokenizer),
    }.items():
        HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo=path, repo_id="alice/mini")
    folder = checkpoint()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    sharing.push(folder, "alice/mini")
    assert not (tmp_path / "executed").exists()
    assert "holds other code too, which was not looked at: ['custom_generate/generate.py', 'evil.py']" in caplog.text


def test_the_verifying_process_has_neither_token_nor_network(checkpoint, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.setenv(name, "hf_alice")
    started = {}
    monkeypatch.setattr("subprocess.run", lambda *args, env, **kwargs: started.update(env))
    with pytest.raises(UserError, match="its process ended early"):
        sharing.verify(checkpoint(), {})
    assert "hf_alice" not in started.values()
    assert started["HF_HUB_OFFLINE"] == "1"


def test_a_hostile_folder_is_not_asked_about(checkpoint, tmp_path, monkeypatch):
    folder = checkpoint()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    (folder / "tokenizer.json").unlink()
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.Tok", "evil.Tok"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="does not open"):
        sharing.push(folder, "alice/mini", dry_run=True)
    assert cli.main(["generate", str(folder), "the"]) == 1
    damage_config(folder, model_type="other", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(UserError, match="config.json in"):
        sharing.push(folder, "alice/mini", dry_run=True)
    assert not (tmp_path / "executed").exists()


def test_a_repository_that_became_public_meanwhile_gets_nothing(hub, checkpoint, monkeypatch):
    HfApi().create_repo("alice/mini", private=True)

    def publish(*args):
        hub.repository("alice/mini").private = False

    folder = checkpoint()
    monkeypatch.setattr(sharing, "verify", publish)
    with pytest.raises(UserError, match="alice/mini exists and is public, and it was asked to be private"):
        sharing.push(folder, "alice/mini", private=True)
    assert set(files_of(hub)) == {".gitattributes"}


def test_a_token_with_the_end_of_its_line_is_taken(hub, checkpoint, no_verification, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    sharing.push(checkpoint(), "alice/mini", token="hf_alice\r\n")
    assert set(files_of(hub)) > CODE


@pytest.mark.parametrize("kind", ["error", "drop"])
def test_a_fault_of_the_verifying_download(hub, checkpoint, no_verification, kind):
    folder = checkpoint()
    hub.fail("HEAD", "/config.json", kind)
    sharing.push(folder, "alice/mini")
    assert hub.faults[0].times == 0
    hub.fail("HEAD", "/config.json", kind, times=99)
    with pytest.raises(UserError, match="Commit .* has arrived, but could not be fetched to be verified: The request"):
        sharing.push(checkpoint(name="new", lm_head_bias=True), "alice/mini")


# The stand-in itself


@transfers
def test_the_stand_in_keeps_private_repositories_from_others(hub):
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


def test_the_stand_in_keeps_branches_tags_and_history(hub, tmp_path):
    api = HfApi()
    api.create_repo("alice/mini")
    first = api.upload_file(path_or_fileobj=b"1", path_in_repo="folder/a", repo_id="alice/mini", commit_message="one")
    api.create_tag("alice/mini", tag="v1")
    api.create_branch("alice/mini", branch="dev")
    api.upload_file(path_or_fileobj=b"2", path_in_repo="folder/a", repo_id="alice/mini", commit_message="two")
    assert [commit.title for commit in api.list_repo_commits("alice/mini")] == ["two", "one", "initial commit"]
    read = {
        revision: Path(api.hf_hub_download("alice/mini", "folder/a", revision=revision)).read_bytes()
        for revision in ("main", "v1", "dev", first.oid)
    }
    assert read == {"main": b"2", "v1": b"1", "dev": b"1", first.oid: b"1"}
    refs = api.list_repo_refs("alice/mini")
    assert ([ref.name for ref in refs.branches], [ref.name for ref in refs.tags]) == (["main", "dev"], ["v1"])
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"3", path_in_repo="b", repo_id="alice/mini", parent_commit=first.oid)
    api.delete_folder("folder", "alice/mini")
    assert api.list_repo_files("alice/mini") == [".gitattributes"]
    assert sys.modules["modeling_mini"] is modeling_mini
