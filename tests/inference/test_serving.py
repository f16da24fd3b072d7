"""vLLM's server, with the Transformers backend, generates what `generate` does. `make vllm` installs vLLM."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch

from modeling_mini import MiniForCausalLM
from modeling_mini.tokenization import train_tokenizer


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="`make vllm` installs vLLM"),
]

PROMPTS = ["the model", "a word and then"]
NEW_TOKENS = 20


@pytest.fixture(params=[{}, {"norm_first": False, "tie_word_embeddings": False}], ids=["pre-norm", "post-norm"])
def checkpoint(request, tiny_model, tmp_path):
    tokenizer = train_tokenizer(["the model reads a word and then the next word"], "bpe", 300, model_max_length=64)
    # vLLM's attention on a CPU needs a head size of at least 32.
    shape = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "vocab_size": len(tokenizer)}
    model = tiny_model(MiniForCausalLM, **shape, **request.param)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return model.eval(), tokenizer, tmp_path / "model"


@pytest.fixture
def server(checkpoint, free_port, tmp_path):
    """The address of a running server; if it does not start, the test shows its log."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint[2])]
    command += ["--model-impl", "transformers", "--dtype", "float32", "--max-model-len", "64", "--enforce-eager"]
    command += ["--host", "127.0.0.1", "--port", str(free_port)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{free_port}"
    deadline = time.monotonic() + 300
    try:
        while not is_up(address):
            log = (tmp_path / "log").read_text()
            assert process.poll() is None, log[-3000:]
            assert time.monotonic() < deadline, log[-3000:]
            time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait()


def is_up(address):
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


def complete(address, **request):
    body = json.dumps({"temperature": 0, "max_tokens": NEW_TOKENS, "ignore_eos": True} | request).encode()
    headers = {"Content-Type": "application/json"}
    answer = urllib.request.urlopen(urllib.request.Request(f"{address}/v1/completions", body, headers), timeout=120)
    return answer.read().decode()


def test_the_server_generates_what_generate_does(checkpoint, server):
    model, tokenizer, path = checkpoint
    answer = json.loads(
        complete(server, model=str(path), prompt=PROMPTS, logprobs=1, return_tokens_as_token_ids=True)
    )  # both prompts in one request
    for prompt, choice in zip(PROMPTS, answer["choices"], strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        length = inputs.input_ids.shape[1]
        ids = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None
        )
        logprobs = model(ids).logits[:, length - 1 : -1].log_softmax(-1).gather(-1, ids[:, length:, None]).flatten()
        served = choice["logprobs"]
        assert [int(token.partition(":")[2]) for token in served["tokens"]] == ids[0, length:].tolist()
        torch.testing.assert_close(torch.tensor(served["token_logprobs"]), logprobs, rtol=0, atol=1e-4)

    streamed = complete(server, model=str(path), prompt=PROMPTS[0], stream=True)
    parts = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(part["choices"][0]["text"] for part in parts) == answer["choices"][0]["text"]
