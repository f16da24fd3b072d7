"""The examples of docs/compatibility.md run, and do what they are for. `make ecosystem` installs the tools.

Each test runs the example under its heading, with our model or GPT-2 in `runs/quickstart`, and checks the result.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_mini.cli import main

from .families import OURS_AND_GPT2


ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
IDS = torch.arange(5, 25)[None]

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("family", OURS_AND_GPT2)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRL_EXPERIMENTAL_SILENCE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def needs():
    """Skips a test whose tool is not installed."""
    return lambda module: pytest.importorskip(module, reason=f"`make ecosystem` installs {module}")


def quickstart():
    return AutoModelForCausalLM.from_pretrained("runs/quickstart").eval()


@torch.no_grad()
def logits_of(model):
    return model.eval()(IDS, use_cache=False).logits.float()


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def changed(model):
    """Whether training has changed any weight of the quickstart."""
    before, after = quickstart().state_dict(), model.state_dict()
    return any(not torch.equal(before[name], after[name].cpu()) for name in before if name in after)


@pytest.mark.row("PEFT", "LoRA: example, merged", package="peft")
def test_peft_lora_example(needs, run_snippet, family):
    needs("peft")
    model = run_snippet("PEFT")["model"]
    expected = logits_of(model)
    torch.testing.assert_close(logits_of(model.merge_and_unload()), expected, rtol=0, atol=1e-5)


@pytest.mark.row("TRL", "SFT with packing", package="trl")
def test_trl_sft_packing(needs, run_snippet, family):
    needs("trl")
    trainer = run_snippet("TRL: SFT with packing")["trainer"]
    assert trainer.state.global_step == 3
    assert changed(trainer.model)
    reopened = AutoModelForCausalLM.from_pretrained("runs/sft")
    torch.testing.assert_close(logits_of(reopened), logits_of(trainer.model))
    batch = next(iter(trainer.get_train_dataloader()))
    restarts = (batch["position_ids"] == 0).sum()
    assert restarts > len(batch["input_ids"])  # packed rows say where each document starts


@pytest.mark.row("TRL", "SFT of messages with LoRA, loss on the assistant alone", package="trl")
def test_trl_sft_messages(needs, run_snippet, family):
    needs("trl")
    trainer = run_snippet("TRL: SFT of messages with LoRA")["trainer"]
    assert trainer.state.global_step == 3
    labels = next(iter(trainer.get_train_dataloader()))["labels"][0]
    targets = AutoTokenizer.from_pretrained("runs/quickstart").decode(labels[labels != -100])
    assert targets.strip() == "text<eos>"
    from peft import AutoPeftModelForCausalLM

    reopened = AutoPeftModelForCausalLM.from_pretrained("runs/chat-lora")
    torch.testing.assert_close(logits_of(reopened), logits_of(trainer.model))


def test_the_model_for_the_chat_of_the_serving_page(needs, run_snippet, family):
    needs("trl")
    trainer = run_snippet("A chat in the terminal", page=ROOT / "docs" / "serving.md")["trainer"]
    assert losses_of(trainer)[-1] < 0.5 * losses_of(trainer)[0]
    assert changed(AutoModelForCausalLM.from_pretrained("runs/chat"))


@pytest.mark.row("TRL", "DPO, model loaded again as its own reference", package="trl")
def test_trl_dpo(needs, run_snippet, family):
    needs("trl")
    trainer = run_snippet("TRL: DPO")["trainer"]
    assert trainer.state.global_step == 3
    assert changed(trainer.model)
    loss = trainer.state.log_history[-1]["train_loss"]
    assert 0 < loss < 1.1 * math.log(2)  # log 2 as long as the model is its reference


@pytest.mark.row("TRL", "GRPO", package="trl")
def test_trl_grpo(needs, run_snippet, family):
    needs("trl")
    trainer = run_snippet("TRL: GRPO")["trainer"]
    assert trainer.state.global_step == 2
    assert changed(trainer.model)


@pytest.mark.row("TRL", "reward model", package="trl")
def test_trl_reward(needs, run_snippet, family):
    needs("trl")
    trainer = run_snippet("TRL: reward model")["trainer"]
    assert trainer.state.global_step == 3
    assert trainer.model.config.num_labels == 1


@pytest.fixture
def lm_eval_task(runs, tokenizer_of_runs):
    """The task file with a text that fills whole rows; there lm-eval and `modeling-mini eval` must agree."""
    shutil.copytree(EXAMPLES, runs / "examples")
    path = runs / "examples" / "lm_eval" / "held_out.jsonl"
    text = json.loads(path.read_text())["text"]
    ids = tokenizer_of_runs(text, add_special_tokens=False)["input_ids"]
    text = tokenizer_of_runs.decode(ids[: 3 * 127 - 1])  # the end token is a target too
    path.write_text(json.dumps({"text": text}))
    return path


@pytest.fixture
def tokenizer_of_runs(runs):
    return AutoTokenizer.from_pretrained("runs/quickstart")


def bits_per_byte_of_lm_eval():
    [path] = Path("results").glob("**/results*.json")
    scores = json.loads(path.read_text())["results"]["mini_bits_per_byte"]
    return scores["bits_per_byte,none"]


@pytest.mark.row("lm-eval", "bits per byte of a local text", package="lm_eval")
def test_lm_eval(needs, run_snippet, lm_eval_task, family, record_property):
    needs("lm_eval")
    run_snippet("lm-eval")
    bits = bits_per_byte_of_lm_eval()
    record_property("note", f"{bits:.4f} bits per byte")
    if family == "modeling_mini":
        command = f"eval runs/quickstart --task text-generation --test_file {lm_eval_task} --no_baselines --output own"
        assert main([*command.split(), "--block_size", "128"]) == 0
        [own] = json.loads(Path("own/results.json").read_text())["systems"].values()
        assert bits == pytest.approx(own["bits_per_byte"], rel=1e-5)
        record_property("note", f"{own['bits_per_byte']:.4f} by modeling-mini eval")
    else:
        assert 0 < bits < 20


@pytest.mark.row("bitsandbytes", "LLM.int8: loaded, saved, reopened")
def test_bitsandbytes_int8(needs, run_snippet, family, record_property):
    bitsandbytes = needs("bitsandbytes")
    snippet = run_snippet("bitsandbytes: 8 bits")
    _check_quantized(snippet["model"], bitsandbytes.nn.Linear8bitLt, record_property)
    torch.testing.assert_close(logits_of(snippet["reopened"]), logits_of(snippet["model"]))


@pytest.mark.row("bitsandbytes", "NF4 with LoRA: a step of training")
def test_bitsandbytes_nf4(needs, run_snippet, family, record_property):
    bitsandbytes = needs("bitsandbytes")
    model = run_snippet("bitsandbytes: 4 bits with LoRA")["model"]
    model.train()(IDS, labels=IDS).loss.backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    _check_quantized(model, bitsandbytes.nn.Linear4bit, record_property)


def _check_quantized(model, linear_class, record_property):
    count = sum(isinstance(module, linear_class) for module in model.modules())
    assert count >= 8  # at least four matrices per layer
    record_property("note", f"{count} layers quantized")
    difference = (logits_of(model) - logits_of(quickstart())).abs().max() / logits_of(quickstart()).std()
    assert difference < 0.5


@pytest.mark.row("torchao", "int8 weights: loaded, saved, reopened")
def test_torchao_int8(needs, run_snippet, family, record_property):
    needs("torchao")
    snippet = run_snippet("torchao")
    quantized = [m for m in snippet["model"].modules() if type(getattr(m, "weight", None)).__name__ == "Int8Tensor"]
    record_property("note", f"{len(quantized)} layers quantized")
    assert len(quantized) >= 8, f"{len(quantized)} layers are quantized"
    torch.testing.assert_close(logits_of(snippet["reopened"]), logits_of(snippet["model"]), rtol=0, atol=0)


@pytest.mark.row("sentence-transformers", "mean of the hidden states; saved, reopened")
def test_sentence_transformers(needs, run_snippet, family):
    needs("sentence_transformers")
    snippet = run_snippet("sentence-transformers")
    vectors = torch.tensor(snippet["vectors"])
    tokenizer = AutoTokenizer.from_pretrained("runs/quickstart")
    for text, vector in zip(["The next word.", "A text."], vectors, strict=True):
        with torch.no_grad():
            states = quickstart().base_model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        difference = (vector - states[0].mean(0)).abs().max()
        assert difference < 1e-5, f"in a padded batch, the vector of a text differs by {difference:.2f}"
    again = torch.tensor(snippet["reopened"].encode(["The next word.", "A text."]))
    torch.testing.assert_close(again, vectors, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tool", ["tensorboard", "trackio"])
@pytest.mark.row("{tool}", "losses of a Trainer's run")
def test_loggers(needs, run_snippet, family, tool):
    needs("tensorboard")
    trackio = needs("trackio")
    trainer = run_snippet("TensorBoard and trackio")["trainer"]
    if tool == "trackio":
        from trackio.sqlite_storage import SQLiteStorage

        newest = list(trackio.Api().runs("mini"))[-1]
        entries = SQLiteStorage.get_logs("mini", newest.name, run_id=newest.id)
        logged = [entry["train/loss"] for entry in entries if "train/loss" in entry]
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        [path] = Path(trainer.args.output_dir).glob("**/events*")
        logged = [event.value for event in EventAccumulator(str(path)).Reload().Scalars("train/loss")]
    assert logged == pytest.approx(losses_of(trainer), rel=1e-5)


@pytest.mark.row("optuna", "search for a learning rate")
def test_optuna(needs, run_snippet, family):
    needs("optuna")
    best = run_snippet("optuna")["best"]
    assert 1e-5 <= best.hyperparameters["learning_rate"] <= 1e-2
    assert math.isfinite(best.objective)


@pytest.mark.row("accelerate", "layers on the disk")
def test_accelerate_disk_offload(needs, run_snippet, family, record_property):
    model = run_snippet("accelerate: weights on disk")["model"]
    on_disk = [name for name, place in model.hf_device_map.items() if place == "disk"]
    assert on_disk
    record_property("note", f"{len(on_disk)} of {len(model.hf_device_map)} parts on the disk")
    torch.testing.assert_close(logits_of(model), logits_of(quickstart()), rtol=0, atol=1e-6)
    model.generate(IDS, max_new_tokens=4, do_sample=False)


@pytest.mark.row("ONNX Runtime", "exporter of transformers, other batch and length", package="onnxruntime")
def test_onnx_runtime(needs, run_snippet, family):
    needs("onnxruntime")
    snippet = run_snippet("ONNX Runtime")
    with torch.no_grad():
        expected = quickstart()(**snippet["inputs"]).logits
    torch.testing.assert_close(torch.as_tensor(snippet["logits"]), expected, rtol=0, atol=1e-4)
