"""Tokens per second of `generate`, compared with GPT-2 and Llama of transformers in the same shape.

    python benchmarks/generation.py                      # 6 layers x 384

Decoding is greedy. The models alternate in one process, and a ratio compares measurements of the same round.
`generate` compiles its steps only with a static cache. The first round, which compiles, is not counted. Writes
generation.json and generation.png.
"""

import argparse
import sys
import time
from itertools import product

import torch
from peers import DEVICE, MODELS, build, parser_with_shape, shape_of
from results import plot_bars, ratios, save, spread
from tqdm import tqdm
from transformers import CompileConfig, GenerationConfig

from modeling_mini.tables import markdown_table


CACHES = ("dynamic", "static", "static, compiled")


def main() -> None:
    parser = parser_with_shape(__doc__)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=64, help="new tokens")
    args = parser.parse_args()
    results = {batch: measure(args, batch) for batch in tqdm(args.batches, unit="batch")}
    groups = {
        f"{batch}, {cache}": {name: by_cache[cache] for name, by_cache in speeds.items()}
        for (batch, speeds), cache in product(results.items(), CACHES)
    }
    save(args.output, "generation", results, plot_bars("tokens per second of generate", groups))
    sys.stdout.write(table(results) + "\n")


def measure(args: argparse.Namespace, batch: int) -> dict[str, dict[str, list[float]]]:
    """Tokens per second in each round: `{"model": {"cache": [...]}}`."""
    torch.compiler.reset()  # otherwise the second batch size would be compiled with dynamic shapes
    shape = shape_of(args, args.vocabulary, args.prompt + args.new)
    speeds = {name: {cache: [] for cache in CACHES} for name in MODELS}
    models = {
        case: build(case[0], **shape).eval().to(DEVICE, getattr(torch, args.precision))
        for case in product(MODELS, CACHES)
    }
    prompt = torch.randint(3, args.vocabulary, (batch, args.prompt), device=DEVICE)
    for round_number in tqdm(range(args.rounds + 1), unit="round", leave=False):
        for (name, cache), model in models.items():
            start = time.perf_counter()
            model.generate(prompt, generation_config=generation_config(cache, args.new))  # waits for the device
            if round_number:
                speeds[name][cache].append(batch * args.new / (time.perf_counter() - start))
    return speeds


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
    """Our speed, and its ratio to each peer with the same cache, and to GPT-2 with the default cache of `generate`."""
    rows = [["batch", "cache", "tokens per second", *MODELS[1:], "gpt2, dynamic"]]
    for (batch, speeds), cache in product(results.items(), CACHES):
        ours = speeds["modeling_mini"][cache]
        peers = [speeds[name][cache] for name in MODELS[1:]] + [speeds["gpt2"]["dynamic"]]
        rows.append([str(batch), cache, spread(ours, ",.0f"), *(ratios(ours, theirs) for theirs in peers)])
    return markdown_table(rows)


if __name__ == "__main__":
    main()
