"""Tokens per second and peak memory of training, against GPT-2 and Llama of transformers in the same shape.

    python benchmarks/training.py                        # 6 layers x 384; half an hour on 2 cores
    python benchmarks/training.py --vocabularies 8192 --lengths 256 --nanogpt CHECKOUT

All through the stock Trainer with AdamW, one batch of 2,048 tokens an update, in one process, by turns; nanoGPT in a
loop of its own, as its train.py has it. The ratios are those of a turn. Peak memory is that of a process of its own
after three updates, imports included.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import torch
from datasets import Dataset
from peers import build, nanogpt, spread
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from modeling_mini.model_card import markdown_table


TOKENS = 2048  # of an update
PEERS = ("modeling_mini", "gpt2", "llama")


class Stopwatch(TrainerCallback):
    """Seconds of each update with its data, the first aside."""

    def __init__(self):
        self.seconds, self._mark = [], None

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        if self._mark is not None:
            self.seconds.append(now - self._mark)
        self._mark = now


class ByTrainer:
    """A model that trains some updates at a time through the stock Trainer."""

    def __init__(self, name: str, shape: dict, precision: str, compiled: bool):
        self.model = build(name, **shape)
        self.arguments = {
            "output_dir": tempfile.mkdtemp(),
            "per_device_train_batch_size": TOKENS // shape["length"],
            "bf16": precision == "bf16",
            "torch_compile": compiled,
            "use_cpu": not torch.accelerator.is_available(),
            "learning_rate": 1e-3,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        ids = torch.randint(3, shape["vocabulary"], (64, shape["length"])).tolist()
        self.rows = Dataset.from_dict({"input_ids": ids, "labels": ids}).with_format("torch")

    def train(self, updates: int) -> float:
        """Seconds of an update: the median of so many, after one more that is not counted."""
        stopwatch = Stopwatch()
        args = TrainingArguments(**self.arguments, max_steps=updates + 1)
        trainer = Trainer(model=self.model, args=args, train_dataset=self.rows, callbacks=[stopwatch])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return statistics.median(stopwatch.seconds)


class NanoGPT:
    """nanoGPT in its own loop."""

    def __init__(self, checkout: Path, shape: dict, precision: str, compiled: bool):
        self.model = nanogpt(checkout, **shape)
        self.shape, self.precision = shape, precision
        self.optimizer = self.model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
        self.step = torch.compile(self.model) if compiled else self.model

    def train(self, updates: int) -> float:
        seconds = []
        cast = torch.autocast("cpu", torch.bfloat16) if self.precision == "bf16" else nullcontext()
        for _ in range(updates + 1):
            ids = torch.randint(self.shape["vocabulary"], (TOKENS // self.shape["length"], self.shape["length"] + 1))
            began = time.perf_counter()
            with cast:
                _, loss = self.step(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[256, 8192, 50257])
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bf16"), default=["float32", "bf16"])
    parser.add_argument("--compiled", action="store_true", help="and once more with torch.compile")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=3, help="of a turn; one more is not counted")
    parser.add_argument("--nanogpt", type=Path, metavar="CHECKOUT")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--peak-memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_memory_of:
        print_peak_memory(args)
        return
    cases = list(product(args.vocabularies, args.lengths, args.precisions, [False, True][: 1 + args.compiled]))
    results = [measure(args, *case) for case in tqdm(cases, unit="case")]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "training.json").write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(table(results) + "\n")


def shape_of(args: argparse.Namespace, vocabulary: int, length: int) -> dict:
    return {
        "layers": args.layers,
        "width": args.width,
        "heads": args.heads,
        "vocabulary": vocabulary,
        "length": length,
    }


def measure(args: argparse.Namespace, vocabulary: int, length: int, precision: str, compiled: bool) -> dict:
    """Tokens per second of each model, turn by turn, and its peak memory in bytes."""
    shape = shape_of(args, vocabulary, length)
    contenders = {name: ByTrainer(name, shape, precision, compiled) for name in PEERS}
    if args.nanogpt is not None:
        contenders["nanoGPT"] = NanoGPT(args.nanogpt, shape, precision, compiled)
    speeds = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, contender in contenders.items():
            speeds[name].append(TOKENS / contender.train(args.updates))
    memory = {} if compiled else {name: peak_memory(args, name, vocabulary, length, precision) for name in PEERS}
    case = {"vocabulary": vocabulary, "length": length, "precision": precision, "compiled": compiled}
    return {**case, "tokens_per_second": speeds, "peak_memory": memory}


def peak_memory(args: argparse.Namespace, name: str, vocabulary: int, length: int, precision: str) -> int:
    """Bytes that a process of its own held at most."""
    command = [sys.executable, __file__, "--peak-memory-of", name, "--vocabularies", str(vocabulary)]
    command += ["--lengths", str(length), "--precisions", precision]
    command += ["--layers", str(args.layers), "--width", str(args.width), "--heads", str(args.heads)]
    # What is freed goes back at once: what is held is measured, and not what the allocator keeps.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(result.stdout.split()[-1])


def print_peak_memory(args: argparse.Namespace) -> None:
    shape = shape_of(args, args.vocabularies[0], args.lengths[0])
    ByTrainer(args.peak_memory_of, shape, args.precisions[0], compiled=False).train(2)
    status = Path("/proc/self/status").read_text()
    kilobytes = int(status.partition("VmHWM:")[2].split()[0])
    sys.stdout.write(f"{1024 * kilobytes}\n")


def table(results: list[dict]) -> str:
    """Medians with ranges; ratios of a turn: ours to each peer."""
    peers = [name for name in results[0]["tokens_per_second"] if name != "modeling_mini"]
    rows = [["vocabulary", "tokens a row", "precision", "tokens per second", *peers, "peak GB", *PEERS[1:]]]
    for result in results:
        speeds = result["tokens_per_second"]
        ours = speeds["modeling_mini"]
        ratios = [
            spread([mine / other for mine, other in zip(ours, speeds[name], strict=True)], ".2f") for name in peers
        ]
        memory = result["peak_memory"]
        held = [
            f"{memory['modeling_mini'] / 1e9:.2f}",
            *(f"{memory['modeling_mini'] / memory[n]:.2f}" for n in PEERS[1:]),
        ]
        precision = result["precision"] + (", compiled" if result["compiled"] else "")
        rows.append(
            [
                f"{result['vocabulary']:,}",
                f"{result['length']:,}",
                precision,
                spread(ours, ",.0f"),
                *ratios,
                *held,
            ]
        )
    return markdown_table(rows)


if __name__ == "__main__":
    main()
