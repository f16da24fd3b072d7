"""Two processes on one CPU shard the model by its plans, and compute what one process computes.

For tensor parallelism and FSDP2, the logits, the loss and the gradients are compared with those of one process. For
pipeline stages only the logits are, because transformers 5.24 does not return the loss of the last stage.
"""

import pytest
import torch

from modeling_mini import MiniForCausalLM, MiniForSequenceClassification
from modeling_mini.training.optim import MuonAdamWFactory


SCRIPT = """
import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

import modeling_mini

torch.set_num_threads(1)
checkpoint, kind, expected = sys.argv[1:]
expected = torch.load(expected)
model_class = getattr(modeling_mini, expected["class"])
model = model_class.from_pretrained(checkpoint, distributed_config=DistributedConfig(**{kind: 2}))


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def check(tensor, expected, name):
    torch.testing.assert_close(whole(tensor).detach(), expected, rtol=1e-4, atol=1e-5, msg=lambda m: name + m)


inputs, labels = expected["inputs"], expected["labels"]
if kind == "pp_size":
    logits = model.eval()(**inputs).logits
    assert dist.get_rank() == 0 or logits is not None, "the last stage has the logits"
    if logits is not None:
        check(logits, expected["logits"], "logits")
    layers = sum(hasattr(layer, "self_attn") for layer in model.model.layers)
    assert layers == 1, f"each stage should hold one layer of two, not {layers}"
else:
    sharded = [name for name, p in model.named_parameters() if isinstance(p, DTensor)]
    assert any("q_proj" in name for name in sharded), "nothing was sharded"
    if kind == "fsdp_size" or (hasattr(model, "lm_head") and model.config.tie_word_embeddings):
        # transformers 5.17 does not shard an untied table under tensor parallelism
        assert any("embed_tokens" in name for name in sharded), "the embedding was not sharded"
    check(model.eval()(**inputs).logits, expected["logits"], "logits")
    has_lm_head = hasattr(model, "lm_head")
    outputs = model.train()(**inputs, labels=labels, **({"skip_logits": True} if has_lm_head else {}))
    if has_lm_head:  # tensor parallelism needs logits, FSDP2 does not
        assert (outputs.logits is None) == (kind == "fsdp_size"), "sharding changes whether logits are computed"
    check(outputs.loss, expected["loss"], "loss")
    outputs.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected["gradients"].keys(), gradients.keys() ^ expected["gradients"].keys()
    for name, gradient in gradients.items():
        check(gradient, expected["gradients"][name], name)
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # a thread of gloo sometimes aborts while the interpreter shuts down
"""

MODELS = {
    "tied": (MiniForCausalLM, {}),
    "untied post-norm": (MiniForCausalLM, {"tie_word_embeddings": False, "norm_first": False}),
    "classifier": (MiniForSequenceClassification, {"num_labels": 4}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    # Pipeline stages of transformers 5.24 return logits only for language models.
    [
        (kind, name)
        for kind in ("tp_size", "fsdp_size", "pp_size")
        for name in MODELS
        if (kind, name) != ("pp_size", "classifier")
    ],
)
def test_two_processes_equal_one(tiny_model, random_ids, pad, gradients, tmp_path, two_processes, kind, name):
    model_class, overrides = MODELS[name]
    model = tiny_model(model_class, vocab_size=96, intermediate_size=64, **overrides)
    model.save_pretrained(tmp_path / "checkpoint")
    ids, mask = pad([random_ids(length, vocab_size=96) for length in (12, 7)], "left")
    labels = ids.masked_fill(mask == 0, -100) if model_class is MiniForCausalLM else torch.tensor([3, 1])
    inputs = {"input_ids": ids, "attention_mask": mask}
    expected = {"class": model_class.__name__, "inputs": inputs, "labels": labels}
    expected["logits"] = model(**inputs).logits.detach()
    loss = model.train()(**inputs, labels=labels).loss
    loss.backward()
    expected |= {"loss": loss.detach(), "gradients": gradients(model)}
    torch.save(expected, tmp_path / "expected.pt")
    (tmp_path / "rank.py").write_text(SCRIPT)
    result = two_processes(tmp_path / "rank.py", tmp_path / "checkpoint", kind, tmp_path / "expected.pt")
    assert result.returncode == 0, result.stderr[-3000:]


TRAINING = """
import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

import modeling_mini
from modeling_mini.training.optim import MuonAdamWFactory, whole

torch.set_num_threads(1)
checkpoint, kind, expected = sys.argv[1:]
expected = torch.load(expected)
model_class = getattr(modeling_mini, expected["class"])
model = model_class.from_pretrained(checkpoint, distributed_config=DistributedConfig(**{kind: 2})).train()
assert any("q_proj" in name for name, p in model.named_parameters() if isinstance(p, DTensor)), "nothing was sharded"
optimizer = MuonAdamWFactory()(model) if expected["muon"] else torch.optim.AdamW(model.parameters(), lr=3e-3)
for batch in expected["batches"]:
    if kind == "fsdp_size":  # each process reads its half of the rows
        batch = {name: value.chunk(2)[dist.get_rank()] for name, value in batch.items()}
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
for name, parameter in model.named_parameters():
    if name.endswith("k_proj.bias"):
        continue  # its gradient is only rounding (it adds the same to all scores of a query), which Adam scales up
    weights = whole(parameter).detach()
    torch.testing.assert_close(weights, expected["weights"][name], rtol=1e-3, atol=2e-4, msg=lambda m: name + m)
dist.barrier()
dist.destroy_process_group()
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("muon", [True, False], ids=["muon", "adamw"])
@pytest.mark.parametrize("kind", ["tp_size", "fsdp_size"])
@pytest.mark.parametrize("model_class", [MiniForCausalLM, MiniForSequenceClassification])
def test_ten_updates_of_two_processes_equal_those_of_one(
    tiny_model, random_ids, tmp_path, two_processes, model_class, kind, muon
):
    model = tiny_model(model_class, vocab_size=96, intermediate_size=64, num_labels=4).train()
    model.save_pretrained(tmp_path / "checkpoint")
    batches = [{"input_ids": random_ids(4, 12, vocab_size=96)} for _ in range(10)]
    for batch in batches:
        batch["labels"] = batch["input_ids"] if model_class is MiniForCausalLM else torch.randint(4, (4,))
    optimizer = MuonAdamWFactory()(model) if muon else torch.optim.AdamW(model.parameters(), lr=3e-3)
    for batch in batches:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    expected = {"class": model_class.__name__, "muon": muon, "batches": batches, "weights": weights}
    torch.save(expected, tmp_path / "expected.pt")
    (tmp_path / "rank.py").write_text(TRAINING)
    result = two_processes(tmp_path / "rank.py", tmp_path / "checkpoint", kind, tmp_path / "expected.pt")
    assert result.returncode == 0, result.stderr[-3000:]
