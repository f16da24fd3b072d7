"""Tokens per second of `generate`, compared with GPT-2 and Llama of transformers in the same shape.

    python benchmarks/generation.py                      # 6 layers x 384
    python benchmarks/generation.py --llamacpp --onnx --caches dynamic --batches 1   # and exported, in other runtimes

Decoding is greedy. The models alternate in one process, and a ratio compares measurements of the same round.
`generate` compiles its steps only with a static cache. The first round, which compiles, is not counted. Writes
generation.json and generation.png.
"""

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice, product
from pathlib import Path

import numpy as np
import torch
from peers import DEVICE, MODELS, build, parser_with_shape, shape_of
from results import plot_bars, ratios, save, spread
from tqdm import tqdm
from transformers import CompileConfig, GenerationConfig, PreTrainedModel

from modeling_mini.commands import EXTRAS
from modeling_mini.tables import markdown_table
from modeling_mini.tokenization import train_tokenizer


CACHES = ("dynamic", "static", "static, compiled")
LLAMA_CPP = "llama.cpp"
ONNX_RUNTIME = "ONNX Runtime"
OUTTYPES = ("f16", "q8_0", "q4_0")


def main() -> None:
    parser = parser_with_shape(__doc__)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=64, help="new tokens")
    parser.add_argument("--caches", choices=CACHES, nargs="+", default=CACHES, help="of generate, besides dynamic")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of all models")
    parser.add_argument("--llamacpp", action="store_true", help="also llama.cpp, with one row")
    parser.add_argument("--onnx", action="store_true", help="also ONNX Runtime, with one row")
    args = parser.parse_args()
    # The table compares with the dynamic cache.
    args.caches = [cache for cache in CACHES if cache == "dynamic" or cache in args.caches]
    torch.set_num_threads(args.threads)
    args.llamacpp = args.llamacpp and is_installed(LLAMA_CPP, {"gguf", "llama_cpp"}, "make llamacpp")
    args.onnx = args.onnx and is_installed(ONNX_RUNTIME, EXTRAS["onnx"], 'pip install "modeling_mini[onnx]"')
    results = {batch: measure(args, batch) for batch in tqdm(args.batches, unit="batch")}
    groups = {
        f"{batch}, {cache}": {name: by_cache[cache] for name, by_cache in speeds.items() if cache in by_cache}
        for batch, speeds in results.items()
        for cache in dict.fromkeys(cache for by_cache in speeds.values() for cache in by_cache)
    }
    save(args.output, "generation", results, plot_bars("tokens per second of generate", groups))
    sys.stdout.write(table(results) + "\n")


def measure(args: argparse.Namespace, batch: int) -> dict[str, dict[str, list[float]]]:
    """Tokens per second in each round: `{"model": {"cache": [...]}}`."""
    torch.compiler.reset()  # otherwise the second batch size would be compiled with dynamic shapes
    shape = shape_of(args, args.vocabulary, args.prompt + args.new)
    models = {
        case: build(case[0], **shape).eval().to(DEVICE, getattr(torch, args.precision))
        for case in product(MODELS, args.caches)
    }
    prompt = torch.randint(3, args.vocabulary, (batch, args.prompt), device=DEVICE)
    runs = {
        case: partial(model.generate, prompt, generation_config=generation_config(case[1], args.new))
        for case, model in models.items()
    }
    if batch == 1:
        runs |= exported(build("modeling_mini", **shape).eval(), prompt[0].tolist(), args)
    speeds = {name: {cache: [] for other, cache in runs if other == name} for name, _ in runs}
    for round_number in tqdm(range(args.rounds + 1), unit="round", leave=False):
        for (name, cache), generate in runs.items():
            start = time.perf_counter()
            generate()  # waits for the device
            if round_number:
                speeds[name][cache].append(batch * args.new / (time.perf_counter() - start))
    return speeds


def is_installed(runtime: str, packages: set[str], command: str) -> bool:
    """Whether a runtime can be measured; standard error says if not."""
    missing = [name for name in sorted(packages) if not importlib.util.find_spec(name)]
    if missing:
        sys.stderr.write(f"{runtime} is not measured, because {missing[0]} is not installed: {command}\n")
    return not missing


def exported(model: PreTrainedModel, prompt: list[int], args: argparse.Namespace) -> dict[tuple[str, str], Callable]:
    """Functions that decode greedily in the other runtimes, `{(runtime, type of the weights): function}`."""
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        train_tokenizer(["a text"], vocab_size=300).save_pretrained(folder)
        if args.onnx:
            runs[ONNX_RUNTIME, "float32"] = onnx_runtime(Path(folder), prompt, args.new, args.threads)
        for outtype in OUTTYPES if args.llamacpp else ():
            runs[LLAMA_CPP, outtype] = llama_cpp(Path(folder), outtype, prompt, args.new, args.threads)
    return runs


def onnx_runtime(folder: Path, prompt: list[int], new_tokens: int, threads: int) -> Callable[[], list[int]]:
    """A function that decodes a checkpoint with ONNX Runtime."""
    import onnxruntime

    from modeling_mini.export.exporters import export

    output = folder / "onnx"
    output.mkdir()
    file = export(folder, output, argparse.Namespace(checkpoint=str(folder), to="onnx"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    caches = [tensor for tensor in session.get_inputs() if ".cache." in tensor.name]
    mask = np.ones((1, len(prompt) + new_tokens), np.int64)

    def generate() -> list[int]:
        inputs = {cache.name: np.zeros((1, cache.shape[1], 0, cache.shape[3]), np.float32) for cache in caches}
        read, written = prompt, []
        while len(written) < new_tokens:
            inputs["input_ids"] = np.array([read])
            inputs["attention_mask"] = mask[:, : len(prompt) + len(written)]
            logits, *values = session.run(None, inputs)
            inputs = {cache.name: value for cache, value in zip(caches, values, strict=True)}
            read = [int(logits[0, -1].argmax())]
            written += read
        return written

    return generate


def llama_cpp(folder: Path, outtype: str, prompt: list[int], new_tokens: int, threads: int) -> Callable[[], list[int]]:
    """A function that decodes a checkpoint with llama.cpp, without the cache of the previous call."""
    from llama_cpp import Llama

    from modeling_mini.export.gguf import export

    file = export(folder, folder, argparse.Namespace(checkpoint=str(folder), outtype=outtype))
    options = {"n_threads": threads, "n_threads_batch": threads, "flash_attn": True, "use_mmap": False}
    llama = Llama(str(file), n_ctx=len(prompt) + new_tokens, verbose=False, **options)

    def generate() -> list[int]:
        llama.reset()
        return list(islice(llama.generate(prompt, temp=0.0), new_tokens))

    return generate


def generation_config(cache: str, new_tokens: int) -> GenerationConfig:
    config = GenerationConfig(max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
    if cache != "dynamic":
        config.cache_implementation = "static"
        config.compile_config = CompileConfig()
        # Without this flag, transformers compiles only on accelerators.
        config.compile_config._compile_all_devices = True
        config.disable_compile = cache == "static"
    return config


def table(results: dict[int, dict[str, dict[str, list[float]]]]) -> str:
    """Our speed, and its ratio to each peer with the same cache, and to GPT-2 with the default cache of `generate`.

    A row of another runtime names the type of the weights instead of the cache.
    """
    rows = [["batch", "cache", "tokens per second", *MODELS[1:], "gpt2, dynamic"]]
    for batch, speeds in results.items():
        for cache, ours in speeds["modeling_mini"].items():
            peers = [speeds[name][cache] for name in MODELS[1:]] + [speeds["gpt2"]["dynamic"]]
            rows.append([str(batch), cache, spread(ours, ",.0f"), *(ratios(ours, theirs) for theirs in peers)])
        for runtime in (name for name in (ONNX_RUNTIME, LLAMA_CPP) if name in speeds):
            for kind, ours in speeds[runtime].items():
                default = ratios(ours, speeds["gpt2"]["dynamic"])
                rows.append([str(batch), f"{runtime}, {kind}", spread(ours, ",.0f"), "", "", default])
    return markdown_table(rows)


if __name__ == "__main__":
    main()
