"""Two processes on one CPU hold the model together as the plans say, and compute what one process computes."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from modeling_mini import MiniForCausalLM


SCRIPT = """
import sys

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

import modeling_mini

torch.set_num_threads(1)
checkpoint, kind, expected = sys.argv[1:]
expected = torch.load(expected)
model = AutoModelForCausalLM.from_pretrained(checkpoint, distributed_config=DistributedConfig(**{kind: 2}))


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def check(found, name):
    torch.testing.assert_close(whole(found).detach(), expected[name], rtol=1e-4, atol=1e-5, msg=lambda m: name + m)


ids = expected["ids"]
if kind == "pp_size":
    model.eval()
    logits = model(ids).logits
    if logits is not None:  # the last stage has them
        check(logits, "logits")
else:
    sharded = [name for name, p in model.named_parameters() if isinstance(p, DTensor)]
    assert any("q_proj" in name for name in sharded), "nothing was sharded"
    if kind == "fsdp_size" or model.config.tie_word_embeddings:  # 5.17 keeps an untied table whole under TP
        assert any("embed_tokens" in name for name in sharded), "the embedding was not sharded"
    check(model.eval()(ids).logits, "logits")
    outputs = model.train()(ids, labels=ids)
    assert (outputs.logits is None) == (kind == "fsdp_size"), "sharding must not bring all logits back"
    check(outputs.loss, "loss")
    outputs.loss.backward()
    for name, parameter in model.named_parameters():
        if name in expected["gradients"]:
            torch.testing.assert_close(
                whole(parameter.grad), expected["gradients"][name], rtol=1e-4, atol=1e-5, msg=lambda m: name + m
            )
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("tied", "norm_first"), [(True, True), (False, False)])
@pytest.mark.parametrize("kind", ["tp_size", "fsdp_size", "pp_size"])
def test_two_processes_equal_one(tiny_model, random_ids, gradients, tmp_path, kind, tied, norm_first):
    sizes = {"vocab_size": 96, "intermediate_size": 64}
    model = tiny_model(MiniForCausalLM, tie_word_embeddings=tied, norm_first=norm_first, **sizes)
    model.save_pretrained(tmp_path / "checkpoint")
    ids = random_ids(2, 12, vocab_size=96)
    expected = {"ids": ids, "logits": model(ids).logits.detach()}
    loss = model.train()(ids, labels=ids).loss
    loss.backward()
    expected |= {"loss": loss.detach(), "gradients": gradients(model)}
    torch.save(expected, tmp_path / "expected.pt")
    (tmp_path / "rank.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    arguments = [str(tmp_path / "rank.py"), str(tmp_path / "checkpoint"), kind, str(tmp_path / "expected.pt")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [*launch, *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
