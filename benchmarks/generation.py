"""Tokens per second of `generate`, against GPT-2 and Llama of transformers in the same shape.

    python benchmarks/generation.py                      # 6 layers x 384

Greedy, all in one process, by turns; the ratios are those of a turn. `generate` compiles its steps with a static cache
alone; the first turn, which compiles, is not counted. Writes generation.json and generation.png.
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


WAYS = ("dynamic", "static", "static, compiled")


def main() -> None:
    parser = parser_with_shape(__doc__)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--new", type=int, default=64, help="tokens")
    args = parser.parse_args()
    results = {batch: measure(args, batch) for batch in tqdm(args.batches, unit="batch")}
    groups = {
        f"{batch}, {way}": {name: by_way[way] for name, by_way in speeds.items()}
        for (batch, speeds), way in product(results.items(), WAYS)
    }
    save(args.output, "generation", results, plot_bars("tokens per second of generate", groups))
    sys.stdout.write(table(results) + "\n")


def measure(args: argparse.Namespace, batch: int) -> dict[str, dict[str, list[float]]]:
    """Tokens per second: `{"model": {"way": [of a turn, ...]}}`."""
    torch.compiler.reset()  # or a second batch size would be compiled for any
    shape = shape_of(args, args.vocabulary, args.prompt + args.new)
    speeds = {name: {way: [] for way in WAYS} for name in MODELS}
    models = {
        case: build(case[0], **shape).eval().to(DEVICE, getattr(torch, args.precision))
        for case in product(MODELS, WAYS)
    }
    prompt = torch.randint(3, args.vocabulary, (batch, args.prompt), device=DEVICE)
    for turn in tqdm(range(args.rounds + 1), unit="turn", leave=False):
        for (name, way), model in models.items():
            began = time.perf_counter()
            model.generate(prompt, generation_config=generation_config(way, args.new))  # ends on the CPU
            if turn:
                speeds[name][way].append(batch * args.new / (time.perf_counter() - began))
    return speeds


def generation_config(way: str, new_tokens: int) -> GenerationConfig:
    config = GenerationConfig(max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
    if way != "dynamic":
        config.cache_implementation = "static"
        config.compile_config = CompileConfig()
        # Without this mark transformers compiles on accelerators alone.
        config.compile_config._compile_all_devices = True
        config.disable_compile = way == "static"
    return config


def table(results: dict[int, dict[str, dict[str, list[float]]]]) -> str:
    """Ours, beside each peer in the same way, and beside GPT-2 in the way that `generate` takes by itself."""
    rows = [["batch", "cache", "tokens per second", *MODELS[1:], "gpt2, dynamic"]]
    for (batch, speeds), way in product(results.items(), WAYS):
        ours = speeds["modeling_mini"][way]
        beside = [speeds[name][way] for name in MODELS[1:]] + [speeds["gpt2"]["dynamic"]]
        rows.append([str(batch), way, spread(ours, ",.0f"), *(ratios(ours, theirs) for theirs in beside)])
    return markdown_table(rows)


if __name__ == "__main__":
    main()
