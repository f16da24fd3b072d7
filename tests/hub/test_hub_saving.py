"""`push_to_hub`, `save_pretrained` and the Trainer write repositories as complete as those of `modeling-mini push`.

The model may be loaded as remote code, saved again, adapted, cast, quantized, or sharded by FSDP2.
"""

import json

import pytest
import torch
from classes import MODEL_CLASSES
from datasets import Dataset
from hub_shared import CODE, files_of
from huggingface_hub import snapshot_download
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator

from modeling_mini import MiniForCausalLM
from modeling_mini.configuration_mini import AUTO_CLASSES, MiniConfig
from modeling_mini.hub import push as sharing
from modeling_mini.hub.verify import outputs_of, verify
from modeling_mini.tokenization import train_tokenizer
from modeling_mini.training.arguments import MiniTrainingArguments


AUTO_MAP_KEYS = {"AutoConfig", *AUTO_CLASSES.values()}


def require_complete(files):
    """The files `{path: bytes}` or `{path: Blob}` are all that a machine without the package needs."""
    content = {path: getattr(blob, "data", blob) for path, blob in files.items()}
    auto_map = json.loads(content["config.json"])["auto_map"]
    assert auto_map == MiniConfig().auto_map
    assert auto_map.keys() == AUTO_MAP_KEYS
    for path in sharing.CODE_FILES:
        assert content[path.name] == path.read_bytes(), path.name
    assert {path for path in content if path.endswith(".py")} == CODE
    assert any(path.endswith(".safetensors") for path in content)


def read(folder):
    """The files of a folder: `{name: bytes}`."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def opens_alike(hub, tmp_path):
    """`opens_alike("alice/mini", folder)`: the repository in a fresh process has the outputs of the folder here."""

    def check(repo_id, folder, revision="main"):
        expected = outputs_of(folder, AutoConfig.from_pretrained(folder))
        snapshot_download(repo_id, revision=revision, cache_dir=tmp_path / "cache")
        verify(repo_id, expected, revision, tmp_path / "cache")

    return check


@pytest.mark.parametrize("model_class", MODEL_CLASSES, ids=lambda cls: cls.__name__)
def test_push_to_hub_of_every_class_is_complete(hub, tiny_model, tmp_path, model_class):
    model = tiny_model(model_class)
    model.push_to_hub("alice/mini", max_shard_size="20KB")
    require_complete(files_of(hub))
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id="alice/other")
    require_complete(files_of(hub, "alice/other"))
    require_complete(read(tmp_path))


def test_a_config_pushed_alone_includes_the_code_of_the_models(hub, tiny_config, fresh_python):
    tiny_config().push_to_hub("alice/mini")
    assert {*CODE, "config.json"} < set(files_of(hub))
    script = """
from transformers import AutoConfig, AutoModel

config = AutoConfig.from_pretrained("alice/mini", trust_remote_code=True)
model = AutoModel.from_config(config, trust_remote_code=True)
assert type(config) is type(model).config_class, (type(config), type(model).config_class)
"""
    finished = fresh_python(script, hub=hub)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
@pytest.mark.versions
def test_remote_code_saved_and_pushed_again_is_complete(hub, tiny_model, tmp_path, fresh_python, opens_alike):
    tiny_model(MiniForCausalLM).push_to_hub("alice/mini")
    script = """
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

model = AutoModelForCausalLM.from_pretrained("alice/mini", trust_remote_code=True)
model.push_to_hub("alice/again")
model.save_pretrained("saved")
AutoModelForCausalLM.from_pretrained("saved", trust_remote_code=True).push_to_hub("alice/third")
classifier = AutoModelForSequenceClassification.from_pretrained("alice/mini", trust_remote_code=True)
classifier.push_to_hub("alice/classifier")
model.save_pretrained("pushed", push_to_hub=True, repo_id="alice/fourth")
"""
    finished = fresh_python(script, hub=hub)
    assert finished.returncode == 0, finished.stderr
    for name in ("again", "third", "classifier", "fourth"):
        require_complete(files_of(hub, f"alice/{name}"))
    hub.repositories.pop(("models", "alice/mini"))  # the code must not come from there
    opens_alike("alice/third", tmp_path / "fresh-cache" / "saved")


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("kind", ["bfloat16", "merged"])
def test_a_changed_model_is_complete(hub, tiny_model, random_ids, tmp_path, kind, opens_alike):
    model = tiny_model(MiniForCausalLM)
    if kind == "bfloat16":
        model = model.to(torch.bfloat16)
    else:
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", r=4, init_lora_weights=False))
        ids = random_ids(2, 9)
        adapted = model(ids).logits
        model = model.merge_and_unload()
        torch.testing.assert_close(model(ids).logits, adapted, rtol=0, atol=1e-4)
    model.push_to_hub("alice/mini")
    require_complete(files_of(hub))
    model.save_pretrained(tmp_path / "saved")
    opens_alike("alice/mini", tmp_path / "saved")


@pytest.mark.slow
@pytest.mark.versions
def test_an_adapter_opens_on_its_base_without_the_package(hub, tiny_model, random_ids, tmp_path, fresh_python):
    tiny_model(MiniForCausalLM).push_to_hub("alice/base")
    base = AutoModelForCausalLM.from_pretrained("alice/base")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)).eval()
    model.push_to_hub("alice/adapter")
    ids = random_ids(2, 9)
    torch.save({"ids": ids, "logits": model(ids).logits.detach()}, tmp_path / "expected.pt")
    script = """
import sys
import torch
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("alice/adapter", trust_remote_code=True).eval()
expected = torch.load(sys.argv[1])
assert torch.equal(model(expected["ids"]).logits, expected["logits"])
"""
    finished = fresh_python(script, tmp_path / "expected.pt", hub=hub)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
@pytest.mark.versions
def test_a_quantized_model_is_complete(hub, tiny_model, tmp_path, opens_alike):
    pytest.importorskip("torchao", reason="torchao is installed by `make conformance`")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    tiny_model(MiniForCausalLM).save_pretrained(tmp_path / "float32")
    settings = {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig(version=2)), "dtype": torch.bfloat16}
    model = MiniForCausalLM.from_pretrained(tmp_path / "float32", **settings)
    assert "Int8" in type(model.model.layers[0].mlp.up_proj.weight).__name__
    model.push_to_hub("alice/mini")
    require_complete(files_of(hub))
    model.save_pretrained(tmp_path / "saved")
    opens_alike("alice/mini", tmp_path / "saved")
    sharing.push(tmp_path / "saved", "alice/pushed")
    require_complete(files_of(hub, "alice/pushed"))


FSDP2 = """
import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

source, trust, folder = sys.argv[1:]
if trust == "remote":
    sys.modules["modeling_mini"] = None
else:
    import modeling_mini
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(
    source, distributed_config=DistributedConfig(fsdp_size=2), trust_remote_code=trust == "remote"
)
assert isinstance(model, FSDPModule)
model.save_pretrained(folder)
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # a thread of gloo sometimes aborts the exit of the interpreter, after all work is done
"""


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("kind", ["installed", "remote"])
def test_a_sharded_model_saves_its_code(tiny_model, tmp_path, two_processes, kind):
    tiny_model(MiniForCausalLM, vocab_size=96, intermediate_size=64).save_pretrained(tmp_path / "source")
    (tmp_path / "rank.py").write_text(FSDP2)
    finished = two_processes(tmp_path / "rank.py", tmp_path / "source", kind, tmp_path / "saved")
    assert finished.returncode == 0, finished.stderr[-3000:]
    require_complete(read(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == ["MiniForCausalLM"]
    verify(tmp_path / "saved", outputs_of(tmp_path / "source", AutoConfig.from_pretrained(tmp_path / "source")))


@pytest.fixture
def trainer(hub, tiny_model, random_ids, tmp_path):
    """`trainer(hub_strategy="every_save")`: a stock Trainer that runs six updates and pushes the model."""

    def build(argument_class=TrainingArguments, lora=False, **arguments):
        tokenizer = train_tokenizer(["the quick brown fox"], vocab_size=300)
        model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
        if lora:
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
        ids = random_ids(8, 12).tolist()
        return Trainer(
            model=model,
            args=argument_class(
                output_dir=str(tmp_path / "run"),
                max_steps=6,
                save_steps=2,
                save_strategy="steps",
                per_device_train_batch_size=2,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                push_to_hub=True,
                hub_model_id="alice/mini",
                hub_always_push=True,
                **arguments,
            ),
            train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
            processing_class=tokenizer,
            data_collator=default_data_collator,
        )

    return build


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_every_commit_of_a_training_run_is_complete(trainer, hub, tmp_path, strategy, opens_alike):
    run = trainer(hub_strategy=strategy)
    run.train()
    run.push_to_hub()
    history = hub.repository("alice/mini").history()
    trained = [commit for commit in history if "config.json" in commit.files]
    assert len(trained) >= (1 if strategy == "end" else 3)
    for commit in trained:
        require_complete({path: blob for path, blob in commit.files.items() if "/" not in path})
    assert set(trained[0].files) > {"README.md", "tokenizer.json", "chat_template.jinja", "generation_config.json"}
    opens_alike("alice/mini", tmp_path / "run")
    if strategy == "every_save":
        first = trained[-1]
        snapshot_download("alice/mini", revision=first.oid, local_dir=tmp_path / "first")
        opens_alike("alice/mini", tmp_path / "first", first.oid)
    folders = {path.split("/")[0] for path in trained[0].files if "/" in path}
    expected = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-2", "checkpoint-4", "checkpoint-6"}}
    assert folders == expected.get(strategy, set())
    for folder in folders:
        prefix = f"{folder}/"
        files = {path.removeprefix(prefix): blob for path, blob in trained[0].files.items() if path.startswith(prefix)}
        require_complete(files)


@pytest.mark.slow
@pytest.mark.versions
def test_an_adapter_trained_by_the_trainer_is_pushed_without_a_model_config(trainer, hub):
    run = trainer(hub_strategy="every_save", lora=True)
    run.train()
    run.push_to_hub()
    for commit in hub.repository("alice/mini").history()[:-1]:
        assert "adapter_config.json" in commit.files
        assert "config.json" not in commit.files


@pytest.mark.slow
@pytest.mark.versions
def test_a_token_given_to_a_run_is_written_to_no_file(trainer, hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    run = trainer(MiniTrainingArguments, hub_strategy="all_checkpoints", hub_token="hf_alice")
    run.train()
    run.push_to_hub()
    assert run.args.hub_token == "hf_alice"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hf_alice" not in path.read_bytes(), path
    for commit in hub.repository("alice/mini").history():
        assert not [path for path, blob in commit.files.items() if b"hf_alice" in blob.data]


def test_a_trainer_checkpoint_also_has_its_code_in_the_folder_above(tiny_model, tmp_path):
    model = tiny_model(MiniForCausalLM)
    model.save_pretrained(tmp_path / "run" / "checkpoint-5")
    model.save_pretrained(tmp_path / "other" / "model")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*CODE, "checkpoint-5"}
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"model"}
    assert AutoConfig.from_pretrained(tmp_path / "run" / "checkpoint-5").format_version == 1
