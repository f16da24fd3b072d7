"""The benchmarks run on tiny models and texts, and measure what they report; `make heavy` runs most of them."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from modeling_mini import MiniForCausalLM
from modeling_mini.tokenization import train_tokenizer


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--layers", "1", "--width", "16", "--heads", "2", "--rounds", "1"]


def bench(name, *arguments):
    """Run a benchmark; its output."""
    command = [sys.executable, BENCHMARKS / f"{name}.py", *arguments]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def saved(folder, name):
    """The results in NAME.json; there must be a plot next to it."""
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / f"{name}.json").read_text())["results"]


# The part of nanoGPT's model.py that benchmarks/training.py uses. It prints while it is built, like the original.
PEER = """
from types import SimpleNamespace as GPTConfig
import torch

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        print("number of parameters")

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        print("using fused AdamW")
        return torch.optim.AdamW(self.parameters(), learning_rate, betas, weight_decay=weight_decay)

    def forward(self, ids, targets):
        logits = self.table(ids)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


@pytest.mark.slow
@pytest.mark.heavy
def test_training(tmp_path):
    (tmp_path / "train.py").touch()
    (tmp_path / "model.py").write_text(PEER)
    sizes = ["--vocabularies", "64", "--lengths", "16", "--tokens", "64", "--precisions", "bf16"]
    arguments = [*sizes, "--nanogpt", tmp_path, "--output", tmp_path]
    printed = bench("training", *TINY, *arguments).splitlines()
    assert all(line.startswith("|") for line in printed)
    rows = [line.split("|") for line in printed if line.startswith("| 64 |")]
    assert [row[3].strip() for row in rows] == ["bf16"]
    for case in saved(tmp_path, "training"):
        assert set(case["tokens_per_second"]) == {"modeling_mini", "gpt2", "llama", "nanoGPT"}
        memory = case["peak_memory"]
        assert 0 < memory["imports"] < memory["modeling_mini"]
        assert set(memory) == {"imports", "modeling_mini", "gpt2", "llama"}
        assert 0 < case["share_of_peak"][0] < 1


@pytest.mark.slow
@pytest.mark.heavy
def test_generation(tmp_path):
    arguments = ["--vocabulary", "64", "--prompt", "4", "--new", "4", "--batches", "2", "--output", tmp_path]
    bench("generation", *TINY, *arguments)
    speeds = saved(tmp_path, "generation")["2"]
    assert all(speeds[name]["static, compiled"][0] > 0 for name in ("modeling_mini", "gpt2", "llama"))


@pytest.mark.slow
@pytest.mark.heavy
def test_generation_in_other_runtimes(tmp_path):
    installed = find_spec("onnxruntime") and find_spec("onnxscript")
    sizes = ["--vocabulary", "300", "--prompt", "4", "--new", "4", "--batches", "1", "--caches", "dynamic"]
    printed = bench("generation", *TINY, *sizes, "--onnx", "--output", tmp_path)
    speeds = saved(tmp_path, "generation")["1"]
    assert ("| 1 | ONNX Runtime, float32 | " in printed) == bool(installed)
    assert set(speeds) == {"modeling_mini", "gpt2", "llama"} | ({"ONNX Runtime"} if installed else set())


@pytest.mark.slow
def test_onnx_runtime_decodes_the_tokens_of_generate(tmp_path, tiny_model, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from generation import onnx_runtime

    model = tiny_model(MiniForCausalLM, vocab_size=300).eval()
    model.save_pretrained(tmp_path)
    train_tokenizer(["a text"], vocab_size=300).save_pretrained(tmp_path)
    prompt = [5, 9, 7, 6]
    generate = onnx_runtime(tmp_path, prompt, new_tokens=8, threads=1)
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert generate() == expected[0, 4:].tolist()
    assert generate() == expected[0, 4:].tolist(), "the second call starts without a cache"


def test_runtime_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from generation import is_installed

    assert is_installed("Python", {"json"}, "")
    assert not is_installed("A runtime", {"json", "no_such_package"}, "make it")
    sentence = "A runtime is not measured, because no_such_package is not installed: make it\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.slow
def test_ngrams(corpus):
    table = bench("ngrams", "--dataset", corpus, "--orders", "1", "3")
    rows = [row.split(" | ") for row in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| 1", "| 3"]
    assert float(rows[0][1]) > float(rows[1][1]), "a longer context predicts better"


@pytest.mark.slow
@pytest.mark.heavy
def test_startup(tmp_path):
    bench("startup", *TINY, "--output", tmp_path)
    results = saved(tmp_path, "startup")
    _, added = results["import"][0]
    assert added < 0.05
    assert set(results["models"]) == {"modeling_mini", "gpt2", "llama", "without the package"}


@pytest.mark.slow
@pytest.mark.heavy
def test_growth(tmp_path):
    arguments = ["--tokens", "64", "--updates", "1", "--axes", "rows", "--output", tmp_path]
    bench("growth", *TINY, *arguments)
    assert list(saved(tmp_path, "growth")) == ["rows"]


@pytest.mark.slow
@pytest.mark.heavy
def test_ablation(tmp_path, corpus):
    arguments = ["--updates", "2", "--length", "16", "--seeds", "1", "--variants", "as shipped", "rotary positions"]
    bench("ablation", corpus, *arguments, "learned positions", "no positions", "--output", tmp_path)
    losses = [by_seed["1"] for by_seed in saved(tmp_path, "ablation").values()]
    assert len(set(losses)) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "target", "tokens"),
    [("characters", 1.88, 12 * 64), pytest.param("characters-long", 1.4697, 8 * 256, marks=pytest.mark.heavy)],
)
def test_time_to_a_loss(tmp_path, corpus, recipe, target, tokens):
    arguments = ["--recipe", recipe, "--seeds", "1", "--output", tmp_path, "--max_steps", "4", "--eval_steps", "2"]
    printed = bench("shakespeare", corpus, *arguments)
    assert f"tokens to {target} |" in printed
    assert "| nanoGPT | not run |" in printed
    first, last = saved(tmp_path, f"shakespeare-{recipe}")["curves"]["modeling_mini"][0]
    assert (first["tokens"], last["tokens"]) == (2 * tokens, 4 * tokens)
    assert 0 < first["seconds"] < last["seconds"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_benchmarks_that_need_a_gpu_are_listed_as_not_run():
    assert bench("gpu").count("| a GPU |") == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_nanogpt_recipe_that_needs_a_gpu_is_refused_without_one(tmp_path):
    for name in ("train.py", "text.txt"):
        (tmp_path / name).touch()
    arguments = [tmp_path / "text.txt", "--recipe", "characters-long", "--nanogpt", tmp_path]
    command = [sys.executable, BENCHMARKS / "shakespeare.py", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 2
    assert "needs a GPU, and there is none; leave out --nanogpt." in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--text", "missing.txt"], "argument --text: missing.txt: no such file."),
        (["--nanogpt", "missing"], "argument --nanogpt: missing is not a checkout of nanoGPT: it has no train.py."),
    ],
)
def test_missing_files_are_refused_before_anything_runs(arguments, sentence):
    finished = subprocess.run([sys.executable, BENCHMARKS / "gpu.py", *arguments], capture_output=True, text=True)
    assert finished.returncode == 2
    assert sentence in finished.stderr


def test_rotary_positions_are_those_of_llama(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from ablation import rotated

    query, key = torch.randn(2, 1, 3, 10, 8)
    config = LlamaConfig(hidden_size=24, num_attention_heads=3)
    cos, sin = LlamaRotaryEmbedding(config)(query, torch.arange(10)[None])
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    torch.testing.assert_close((rotated(query, torch.arange(10)), rotated(key, torch.arange(10))), expected)


@pytest.mark.slow
@pytest.mark.heavy
def test_preparing_data(tmp_path):
    arguments = ["--megabytes", "0.2", "--repeats", "1", "--vocab_size", "512", "--output", tmp_path]
    printed = bench("data", *arguments)
    runs = saved(tmp_path, "data")["0.2 MB"]
    assert list(runs) == ["modeling_mini", "tokenizers alone", "run_clm"]
    tokens = [run["tokens"][0] for run in runs.values()]
    assert max(tokens) < 1.02 * min(tokens), "all ways read the whole text"
    assert runs["tokenizers alone"]["bytes"][0] == 0
    assert all(run["memory"][0] >= 0 and run["speed"][0] > 0 for run in runs.values())
    assert printed.count("| 0.2 MB |") == 3
