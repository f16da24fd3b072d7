"""A folder that is damaged, unsafe or does not fit is refused by every command, with the same sentence."""

import json
import os
import shutil

import pytest
import torch
from hub_shared import damage_config
from safetensors.torch import load_file, save_file

from modeling_mini import MiniForCausalLM, MiniForSequenceClassification, MiniModel, cli
from modeling_mini.errors import UserError
from modeling_mini.inference.loading import load_model, recorded_arguments
from modeling_mini.model_folders import local_folder, open_model, open_tokenizer, read_config, require_model_folder
from modeling_mini.training import run


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
NORM = "model.norm.weight"


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shard_to(folder, name):
    """Move the weights into a file that an index names."""
    target = folder / name
    target.parent.mkdir(exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(target)
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def link(folder, name, target):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


def move_out(folder, name):
    """Move a file out of the folder, and link to it."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / name).rename(outside / name)
    link(folder, name, outside / name)


def write(folder, name, text):
    (folder / name).write_text(text)


DAMAGES = {
    "model.safetensors in .* is truncated or damaged": lambda f: os.truncate(f / "model.safetensors", 10_000),
    "model.safetensors in .* is truncated or damaged;": lambda f: (f / "model.safetensors").write_bytes(b""),
    "model.safetensors in .* is a Git LFS pointer": lambda f: write(f, "model.safetensors", LFS),
    "config.json in .* is a Git LFS pointer": lambda f: write(f, "config.json", LFS),
    "tokenizer.json in .* is a Git LFS pointer": lambda f: write(f, "tokenizer.json", LFS),
    "config.json in .* is not JSON": lambda f: write(f, "config.json", "{"),
    "config.json in .* is not JSON ": lambda f: write(f, "config.json", "[" * 100_000),
    "config.json in .* holds a list, not a JSON object": lambda f: write(f, "config.json", "[]"),
    "config.json in .* is not JSON .*utf-8": lambda f: (f / "config.json").write_bytes(b"\xff\xfe{"),
    "contains no config.json": lambda f: (f / "config.json").unlink(),
    "contains a config.json without model_type": lambda f: write(f, "config.json", "{}"),
    "config.json in .*hidden_size": lambda f: damage_config(f, hidden_size="128"),
    "config.json in .*hidden_act": lambda f: damage_config(f, hidden_act=["gelu"]),
    "hold .* of shape .* but config.json requires": lambda f: damage_config(f, vocab_size=1000),
    "hold .* of shape .* but config.json requires .*": lambda f: damage_config(f, intermediate_size=96),
    "lack .*layers.2.*, which config.json requires": lambda f: damage_config(f, num_hidden_layers=6),
    "lack .*layers.2.*, which config.json requires ": lambda f: damage_config(f, num_hidden_layers=10**8),
    "contain .*layers.1.*, which config.json does not": lambda f: damage_config(f, num_hidden_layers=1),
    "describes a model that cannot be built": lambda f: damage_config(f, hidden_size=10**14, intermediate_size=10**14),
    f"lack {NORM}, which config.json requires .1 such": lambda f: rewrite(f, lambda weights: weights.pop(NORM)),
    "contain extra, which config.json does not": lambda f: rewrite(f, lambda w: w.update(extra=torch.ones(1))),
    f"are not finite: {NORM} holds nan or inf": lambda f: rewrite(f, lambda weights: weights[NORM].fill_(torch.nan)),
    "are not finite: .* holds nan or inf": lambda f: rewrite(f, lambda weights: weights[NORM].fill_(-torch.inf)),
    "contains no weights in safetensors files": lambda f: (f / "model.safetensors").rename(f / "weights.npz"),
    "names '../other/model.safetensors', which is not": lambda f: shard_to(f, "../other/model.safetensors"),
    "names 'sub/model.safetensors', which is not a file next": lambda f: shard_to(f, "sub/model.safetensors"),
    "names 'weights.npz', which is not": lambda f: shard_to(f, "weights.npz"),
    "index.json in .* is not a valid weight index": lambda f: write(
        f, "model.safetensors.index.json", '{"weight_map": [1]}'
    ),
    "model.safetensors in .* is a link that leads out": lambda f: move_out(f, "model.safetensors"),
    "config.json in .* is a link that leads out": lambda f: move_out(f, "config.json"),
    "tokenizer.json in .* is a link that leads out": lambda f: move_out(f, "tokenizer.json"),
    "generation_config.json in .* is a link": lambda f: move_out(f, "generation_config.json"),
    "README.md in .* is a link that leads out": lambda f: link(f, "README.md", "/etc/hostname"),
    "notes.txt in .* is not a file, but a pipe": lambda f: os.mkfifo(f / "notes.txt"),
    "tokenizer.json in .* is not JSON": lambda f: os.truncate(f / "tokenizer.json", 500),
    "contains no tokenizer_config.json": lambda f: (f / "tokenizer_config.json").unlink(),
    "contains no tokenizer.json": lambda f: (f / "tokenizer.json").unlink(),
    "The tokenizer in .* does not open": lambda f: write(f, "tokenizer.json", '{"model": {"type": "Unknown"}}'),
    "tokenizer_config.json in .* names another file with 'tokenizer_file'": lambda f: write(
        f, "tokenizer_config.json", '{"tokenizer_class": "PreTrainedTokenizerFast", "tokenizer_file": "/etc/x"}'
    ),
    "generation_config.json in .*: max_new_tokens is 'many': .*; correct the entry": lambda f: write(
        f, "generation_config.json", '{"do_sample": true, "max_new_tokens": "many"}'
    ),
    "generation_config.json in .* holds a list": lambda f: write(f, "generation_config.json", "[]"),
    "config.json in .*: attn_implementation is 'other/repo', which is code of another": lambda f: damage_config(
        f, attn_implementation="other/repo"
    ),
    "config.json in .*: _attn_implementation is {'': 'other/repo'}, which is code": lambda f: damage_config(
        f, _attn_implementation={"": "other/repo"}
    ),
    "config.json in .*: dtype is 'float33': .*; correct the entry": lambda f: damage_config(f, dtype="float33"),
    "config.json in .*: auto_map is '.*': .*; correct the entry": lambda f: damage_config(f, auto_map="a/b--c.D"),
    "names the architectures .'Evil'., of which": lambda f: damage_config(f, architectures=["Evil"]),
    "names the architectures .., of which the first": lambda f: damage_config(f, architectures=[]),
    "quantization_config does not name a quant_method .* 'x'": lambda f: damage_config(
        f, quantization_config={"quant_method": "x"}
    ),
    "quantization_config does not name a quant_method .* None": lambda f: damage_config(f, quantization_config=None),
    "are not finite: .* holds nan or inf ": lambda f: (
        rewrite(f, lambda weights: weights[NORM].fill_(torch.nan)),
        damage_config(f, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
    ),
    f"hold {NORM} as I8, which is not a type of floating": lambda f: rewrite(
        f, lambda weights: weights.update({NORM: weights[NORM].to(torch.int8)})
    ),
    "model.safetensors in .* is a folder, not a file": lambda f: (
        (f / "model.safetensors").unlink(),
        (f / "model.safetensors").mkdir(),
    ),
    "x.jinja in .* is a link that leads out": lambda f: (
        (f / "additional_chat_templates").mkdir(),
        link(f, "additional_chat_templates/x.jinja", "/etc/hostname"),
    ),
    "tokenizer_config.json in .*model_max_length is 'x'": lambda f: write(
        f,
        "tokenizer_config.json",
        json.dumps({**json.loads((f / "tokenizer_config.json").read_text()), "model_max_length": "x"}),
    ),
    "contains an adapter": lambda f: write(f, "adapter_config.json", "{}"),
}


def refusals(folder, tmp_path, capsys, caplog):
    """What each command says about a folder."""
    commands = [["generate", str(folder), "the"], ["push", str(folder), "alice/mini", "--dry_run"]]
    for command in commands:
        assert cli.main(command) == 1, command
        yield capsys.readouterr().err
    new = ["--init_from", str(folder), "--output_dir", str(tmp_path / "new"), "--dataset", __file__]
    with pytest.raises(UserError) as refusal:
        run.train(new)
    yield str(refusal.value)


@pytest.mark.parametrize("sentence", DAMAGES)
def test_every_command_refuses_a_damaged_folder_with_the_same_sentence(
    checkpoint, tmp_path, capsys, caplog, monkeypatch, sentence
):
    import re

    folder = checkpoint()
    DAMAGES[sentence](folder)
    monkeypatch.setattr("modeling_mini.tasks.base.Task.load", lambda *args, **kwargs: pytest.fail("data were read"))
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("a question was asked"))
    capsys.readouterr()
    for text in refusals(folder, tmp_path, capsys, caplog):
        if "generate needs a" not in text:  # said of an unknown architecture, before the folder is judged
            assert re.search(sentence, text), text
        assert len(text.strip().splitlines()) == 1
        assert len(text) < 700


def test_a_whole_folder_is_opened_in_one_file_and_in_several(checkpoint, tiny_model):
    folder = checkpoint()
    whole, _ = load_model(str(folder), MiniForCausalLM)
    whole.save_pretrained(folder.parent / "sharded", max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, folder.parent / "sharded")
    assert len(list((folder.parent / "sharded").glob("*.safetensors"))) > 1
    sharded, _ = load_model(str(folder.parent / "sharded"), MiniForCausalLM)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, sharded.state_dict()[name])
    next((folder.parent / "sharded").glob("model-00002*")).unlink()
    with pytest.raises(UserError, match="names 'model-00002.*', which is not a file next to it"):
        load_model(str(folder.parent / "sharded"), MiniForCausalLM)


def test_links_within_a_folder_and_within_the_cache_of_the_hub_are_followed(checkpoint, tmp_path):
    folder = checkpoint()
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0f", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        path.rename(blobs / f"blob-of-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob-of-{path.name}")
    (tmp_path / "link to the snapshot").symlink_to(snapshot)
    for source in (snapshot, tmp_path / "link to the snapshot"):
        require_model_folder(source, "x")
    (snapshot / "loss.png").symlink_to("../../refs")
    with pytest.raises(UserError, match="loss.png in x is a link that leads out"):
        require_model_folder(snapshot, "x")


def test_a_new_head_is_allowed_and_new_layers_are_not(checkpoint, tmp_path):
    folder = checkpoint()
    classifier = open_model(folder, MiniForSequenceClassification, "x", read_config(folder, "x"))
    assert isinstance(classifier, MiniForSequenceClassification)
    with pytest.raises(UserError, match="do not fit the model: model.layers.2"):
        open_model(folder, MiniForSequenceClassification, "x", read_config(folder, "x", num_hidden_layers=3))
    with pytest.raises(UserError, match="do not fit the model: model.layers.1"):
        open_model(folder, MiniForCausalLM, "x", read_config(folder, "x", num_hidden_layers=1))
    trunk = checkpoint(MiniModel, "trunk")
    assert isinstance(open_model(trunk, MiniForCausalLM, "x", read_config(trunk, "x")), MiniForCausalLM)


def test_a_foreign_reference_to_code_is_neither_followed_nor_kept(checkpoint, tmp_path, caplog):
    folder = checkpoint()
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    foreign = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "other/repo--evil.Model"}
    damage_config(folder, auto_map=foreign, custom_pipelines={"evil": {"impl": "evil.Pipeline"}})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["other/repo--evil.Slow", "evil.Fast"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model, tokenizer = load_model(str(folder), MiniForCausalLM)
    assert "names code of others, which is neither run nor kept: AutoConfig 'evil.Config'" in caplog.text
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert type(model) is MiniForCausalLM
    for path in (tmp_path / "saved").glob("*.json"):
        assert "evil" not in path.read_text()
    assert not (tmp_path / "executed").exists()


def test_a_tokenizer_is_saved_as_it_was(checkpoint, tmp_path):
    folder = checkpoint()
    open_tokenizer(folder, "x").save_pretrained(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_text() == (folder / name).read_text()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(checkpoint):
    with pytest.raises(UserError, match="has 2.. tokens, but the model has a vocabulary of 10; copy the tokenizer"):
        open_tokenizer(checkpoint(), "x", 10)


def test_a_checkpoint_is_known_through_a_link_and_as_the_current_folder(checkpoint, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    folder = checkpoint().rename(run / "checkpoint-2")
    (run / "_run.json").write_text('{"data": {"task": "translation", "max_target_tokens": 9}}')
    (tmp_path / "best").symlink_to(folder)
    monkeypatch.chdir(folder)
    (run / "checkpoint-3").symlink_to(tmp_path)
    for name in (folder, tmp_path / "best", ".", run / "checkpoint-3"):
        assert recorded_arguments(str(name)) == {"task": "translation", "max_target_tokens": 9}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("_run.json", "{", "_run.json in .* is not JSON"),
        ("_run.json", "[]", "_run.json in .* holds a list"),
        ("_run.json", '{"data": []}', "'data' in .*_run.json holds a list"),
        ("_run.json", '{"data": {"block_size": "long"}}', "are damaged: block_size is 'long'"),
        ("metrics.json", "null", "metrics.json in .* holds a NoneType"),
        ("metrics.json", '{"encoding": 1}', "'encoding' in .*metrics.json holds a int"),
        ("metrics.json", '{"encoding": {"task": 5}}', "are damaged: task is 5"),
    ],
)
def test_damaged_records_of_a_run_are_named(checkpoint, name, content, sentence):
    folder = checkpoint()
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        recorded_arguments(str(folder))


def test_a_checkpoint_on_the_hub_is_judged_like_a_folder(hub, checkpoint, no_verification):
    from huggingface_hub import HfApi

    from modeling_mini.hub import push

    folder = checkpoint()
    push.push(folder, "alice/mini")
    model, _ = load_model("alice/mini", MiniForCausalLM)
    assert type(model) is MiniForCausalLM
    rewrite(folder, lambda weights: weights[NORM].fill_(torch.nan))
    HfApi().upload_file(
        path_or_fileobj=folder / "model.safetensors", path_in_repo="model.safetensors", repo_id="alice/mini"
    )
    with pytest.raises(UserError, match="The weights in alice/mini are not finite"):
        load_model("alice/mini", MiniForCausalLM)
    with pytest.raises(UserError, match="alice/none: there is no such folder, and on the Hub: there is no repository"):
        load_model("alice/none", MiniForCausalLM)


def test_a_file_is_not_a_folder(checkpoint):
    with pytest.raises(UserError, match="config.json is a file; give the folder"):
        local_folder(checkpoint() / "config.json")
