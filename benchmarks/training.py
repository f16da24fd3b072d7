"""Tokens per second and peak memory of training, compared with GPT-2 and Llama of transformers in the same shape.

    python benchmarks/training.py                        # 6 layers x 384; half an hour on 2 cores
    python benchmarks/training.py --vocabularies 8192 --lengths 256 --nanogpt CHECKOUT

The models train with AdamW through the stock Trainer and alternate in one process; nanoGPT runs in a bare loop like
that of its train.py. A ratio compares measurements of the same round.

Peak memory is measured in a separate process after three updates, with imports included; training.json also has the
memory of the imports alone. On a GPU it is the peak of torch's allocator.

"Share of peak" is the rate of operations that the model needs, divided by the rate of a product of two 4,096 x 4,096
matrices (smaller ones where a product takes more than a second), timed in the same rounds. The model needs 6
operations per parameter and 6 L D T for attention (half of Chowdhery et al. 2022, appendix B, because a causal mask
leaves half). Writes training.json and .png; with --compiled training-compiled.json and .png, without peak memory.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext, redirect_stdout
from itertools import product
from pathlib import Path

import torch
from peers import DEVICE, MODELS, ByTrainer, checkout, nanogpt, parser_with_shape, shape_of, synchronize
from results import plot_bars, ratios, save, spread
from tqdm import tqdm

from modeling_mini.tables import markdown_table


TOKENS = 2048  # per update
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
MATRICES = (512, 1024, 2048, 4096)  # rows
IMPORTS = "imports"  # instead of the name of a model: measures a process that builds no model


class NanoGPT:
    """nanoGPT in a bare training loop."""

    def __init__(self, checkout: Path, shape: dict, tokens: int, bf16: bool, torch_compile: bool):
        self.size = (tokens // shape["length"], shape["length"] + 1)
        self.vocabulary, self.bf16 = shape["vocabulary"], bf16
        with redirect_stdout(sys.stderr):  # it prints while it is built, which must not mix with the table
            self.model = nanogpt(checkout, **shape).to(DEVICE)
            self.optimizer = self.model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), DEVICE)
        self.step = torch.compile(self.model) if torch_compile else self.model

    def train(self, updates: int) -> float:
        seconds = []
        for _ in range(updates + 1):
            ids = torch.randint(self.vocabulary, self.size, device=DEVICE)
            start = time.perf_counter()
            with torch.autocast(DEVICE, torch.bfloat16) if self.bf16 else nullcontext():
                _, loss = self.step(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            synchronize()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])


def matrix_peak(dtype: torch.dtype) -> float:
    """Floating-point operations per second of products of two square matrices: the best of three series.

    The matrices grow to 4,096 rows, or until a product takes more than a second. A processor without instructions for
    bfloat16 would need minutes for 4,096 rows.
    """
    count = 1 if DEVICE == "cpu" else 50
    for rows in MATRICES:
        matrix = torch.randn(rows, rows, device=DEVICE, dtype=dtype)
        seconds = []
        for _ in range(4):
            synchronize()
            start = time.perf_counter()
            for _ in range(count):
                matrix @ matrix
            synchronize()
            seconds.append((time.perf_counter() - start) / count)
        if min(seconds) > 1:
            break
    return 2 * rows**3 / min(seconds[1:])


def main() -> None:
    parser = parser_with_shape(__doc__)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[256, 8192, 50257])
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--compiled", action="store_true", help="with torch.compile")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens per update")
    parser.add_argument("--updates", type=int, default=3, help="updates per round; one more is not counted")
    parser.add_argument("--nanogpt", type=checkout, metavar="CHECKOUT")
    parser.add_argument("--peak_memory_of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_memory_of:
        print_peak_memory(args)
        return
    cases = list(product(args.vocabularies, args.lengths, args.precisions))
    results = [measure(args, *case) for case in tqdm(cases, unit="case")]
    name = "training-compiled" if args.compiled else "training"
    save(args.output, name, results, plot(results))
    sys.stdout.write(table(results) + "\n")


def measure(args: argparse.Namespace, vocabulary: int, length: int, precision: str) -> dict:
    """Tokens per second of each model and the share of peak of ours in each round, and peak memory in bytes."""
    shape = shape_of(args, vocabulary, length)
    options = {"tokens": args.tokens, "bf16": precision == "bf16", "torch_compile": args.compiled}
    torch.compiler.reset()
    contenders = {name: ByTrainer(name, shape, **options) for name in MODELS}
    if args.nanogpt is not None:
        contenders["nanoGPT"] = NanoGPT(args.nanogpt, shape, **options)
    parameters = contenders["modeling_mini"].model.num_parameters()
    operations = 6 * parameters + 6 * args.layers * args.width * length  # per token
    speeds, shares = {name: [] for name in contenders}, []
    for _ in range(args.rounds):
        for name, contender in contenders.items():
            speeds[name].append(args.tokens / contender.train(args.updates))
        shares.append(operations * speeds["modeling_mini"][-1] / matrix_peak(DTYPES[precision]))
    names = () if args.compiled else (IMPORTS, *MODELS)
    memory = {name: peak_memory(args, name, vocabulary, length, precision) for name in names}
    case = {"vocabulary": vocabulary, "length": length, "precision": precision}
    return {**case, "tokens_per_second": speeds, "share_of_peak": shares, "peak_memory": memory}


def peak_memory(args: argparse.Namespace, name: str, vocabulary: int, length: int, precision: str) -> int:
    """Peak memory in bytes of a separate process."""
    command = [sys.executable, __file__, "--peak_memory_of", name, "--vocabularies", str(vocabulary)]
    command += ["--lengths", str(length), "--precisions", precision, "--tokens", str(args.tokens)]
    command += ["--layers", str(args.layers), "--width", str(args.width), "--heads", str(args.heads)]
    # The allocator returns freed memory at once, so memory in use is measured, not memory that the allocator keeps.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(result.stdout.split()[-1])


def print_peak_memory(args: argparse.Namespace) -> None:
    shape = shape_of(args, args.vocabularies[0], args.lengths[0])
    if args.peak_memory_of != IMPORTS:
        ByTrainer(args.peak_memory_of, shape, args.tokens, bf16=args.precisions[0] == "bf16").train(2)
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else most_resident_bytes()
    sys.stdout.write(f"{peak}\n")


def most_resident_bytes() -> int:
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def table(results: list[dict]) -> str:
    """Medians with ranges; the ratios are ours / each peer, within a round."""
    peers = [name for name in results[0]["tokens_per_second"] if name != "modeling_mini"]
    rows = [["vocabulary", "tokens per row", "precision", "tokens per second", *peers, "share of peak"]]
    has_memory = bool(results[0]["peak_memory"])
    if has_memory:
        rows[0] += ["peak GB", *(f"{name}, GB" for name in MODELS[1:])]
    for result in results:
        speeds, memory = result["tokens_per_second"], result["peak_memory"]
        ours = speeds["modeling_mini"]
        row = [f"{result['vocabulary']:,}", f"{result['length']:,}", result["precision"], spread(ours, ",.0f")]
        row += [ratios(ours, speeds[name]) for name in peers]
        row.append(f"{statistics.median(result['share_of_peak']):.0%}")
        if has_memory:
            peak = memory["modeling_mini"]
            row += [f"{peak / 1e9:.2f}", *(f"{peak / memory[name]:.2f}" for name in MODELS[1:])]
        rows.append(row)
    return markdown_table(rows)


def plot(results: list[dict]):
    groups = {f"{r['vocabulary']:,} x {r['length']:,}\n{r['precision']}": r["tokens_per_second"] for r in results}
    return plot_bars("tokens per second of training", groups)


if __name__ == "__main__":
    main()
