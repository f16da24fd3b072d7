"""Bytes, memory and speed of preparing data, compared with `tokenizers` alone and with the way of run_clm.py.

    python benchmarks/data.py --megabytes 20 200        # half an hour on 2 cores; 2000 needs 50 GB of disk

The text is lines of about 1,500 characters: sentences of the built-in corpus, or of `--text`, in random order. Each
measurement runs in a separate process with an empty cache, without parallel threads, and the three ways alternate:

    modeling_mini     reads, checks, divides, tokenizes and packs the lines, as `train.py --text_unit line` does
    tokenizers alone  encodes 1,000 lines at a time with the same tokenizer, and stores nothing
    run_clm           loads, tokenizes and groups the lines with `datasets`, as transformers' example run_clm.py does

Speed is per second of CPU time, because a run uses one core. Memory is the peak of anonymous memory (RssAnon in
/proc), which pages of memory-mapped files are no part of, above that after the imports. Writes data.json and data.png.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from peers import text_file
from results import plot_bars, save, spread
from tqdm import tqdm

from modeling_mini.data.builtin.python_docs import python_documents
from modeling_mini.tables import markdown_table
from modeling_mini.tokenization import train_tokenizer


LINES_AT_ONCE = 1000
CHARACTERS_PER_LINE = 1500
MB = 1_000_000


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[20, 200], help="sizes of the text")
    parser.add_argument("--text", type=text_file, help="a file whose sentences are used instead")
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--block_size", type=int, default=256)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each way")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = compare(args, Path(temporary))
    speeds = {size: {way: run["speed"] for way, run in ways.items()} for size, ways in results.items()}
    save(args.output, "data", results, plot_bars("MB per second of CPU time", speeds))
    sys.stdout.write(table(results) + "\n")


def compare(args: argparse.Namespace, folder: Path) -> dict[str, dict]:
    """`{"20 MB": {"modeling_mini": {"speed": [...], ...}}}`."""
    sentences = sentences_of(args.text)
    train_tokenizer(sentences, vocab_size=args.vocab_size).save_pretrained(folder / "tokenizer")
    results = {}
    for megabytes in tqdm(args.megabytes, unit="size"):
        path = folder / "text.txt"
        write_text(path, sentences, megabytes)
        runs = {way: [] for way in args.ways}
        for _ in range(args.repeats):
            for way in args.ways:
                runs[way].append(measured(way, path, folder / "tokenizer", args.block_size))
        results[f"{megabytes:g} MB"] = {
            way: {name: [run[name] for run in runs[way]] for name in runs[way][0]} for way in args.ways
        }
    return results


def sentences_of(path: Path | None) -> list[str]:
    """Sentences of a file, or of the built-in corpus."""
    texts = [path.read_text(encoding="utf-8")] if path else [document["text"] for document in python_documents()]
    return [" ".join(part.split()) for text in texts for part in re.split(r"(?<=[.!?])\s", text) if part.strip()]


def write_text(path: Path, sentences: list[str], megabytes: float) -> None:
    """Lines of sentences that are drawn at random."""
    draw = random.Random(0)
    per_line = max(1, round(CHARACTERS_PER_LINE * len(sentences) / sum(map(len, sentences))))
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * MB:
            file.writelines(" ".join(draw.choices(sentences, k=per_line)) + "\n" for _ in range(100))


def measured(way: str, path: Path, tokenizer: Path, block_size: int) -> dict[str, float]:
    """One measurement in a separate process, and the size of the cache after its end."""
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        command = [sys.executable, __file__, "--measure", way, str(path), str(tokenizer), str(block_size)]
        # One thread, with which `tokenizers` behaves as without threads.
        settings = {"HF_HOME": cache, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        settings["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
        finished = subprocess.run(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True)
        run = json.loads(finished.stdout.splitlines()[-1])
        left = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file())
    return {**run, "speed": path.stat().st_size / MB / run["seconds"], "bytes": left / run["tokens"]}


def measure(way: str, path: str, tokenizer: str, block_size: str) -> None:
    """Print CPU seconds, tokens and peak anonymous memory in MB of one way."""
    from transformers import AutoTokenizer

    prepare = WAYS[way](path, AutoTokenizer.from_pretrained(tokenizer), int(block_size))
    memory = PeakMemory()
    start = time.process_time()
    tokens = prepare()
    result = {"seconds": time.process_time() - start, "tokens": tokens, "memory": memory.above_start()}
    sys.stdout.write(json.dumps(result) + "\n")


class PeakMemory:
    """Anonymous memory of this process, read 20 times a second by a thread."""

    def __init__(self):
        self.start = self.peak = self._now()
        threading.Thread(target=self._watch, daemon=True).start()

    @staticmethod
    def _now() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._now())
            time.sleep(0.05)

    def above_start(self) -> float:
        return (max(self.peak, self._now()) - self.start) / MB


def by_modeling_mini(path: str, tokenizer, block_size: int) -> Callable[[], int]:
    """Preparation by this package; the number of tokens."""
    from modeling_mini.tasks import task_class
    from modeling_mini.tasks.base import TaskArguments

    task = task_class("text-generation")(TaskArguments(dataset=path, text_unit="line", block_size=block_size))

    def prepare() -> int:
        examples = task.load()
        return sum(task.encode(examples[split], tokenizer, split).num_tokens for split in examples)

    return prepare


def by_tokenizers(path: str, tokenizer, block_size: int) -> Callable[[], int]:
    """Only tokenization; the number of tokens."""
    from itertools import islice

    def prepare() -> int:
        tokens = 0
        with open(path, encoding="utf-8") as file:
            while lines := list(islice(file, LINES_AT_ONCE)):
                encodings = tokenizer.backend_tokenizer.encode_batch(lines, add_special_tokens=False)
                tokens += sum(len(encoding.ids) for encoding in encodings)
        return tokens

    return prepare


def by_run_clm(path: str, tokenizer, block_size: int) -> Callable[[], int]:
    """Two maps of `datasets`: tokens of each line, then blocks with a copy as labels; the number of tokens."""
    from itertools import chain

    from datasets import load_dataset

    def group(batch: dict) -> dict:
        columns = {name: list(chain.from_iterable(batch[name])) for name in batch}
        end = len(columns["input_ids"]) // block_size * block_size
        blocks = {
            name: [values[i : i + block_size] for i in range(0, end, block_size)] for name, values in columns.items()
        }
        return {**blocks, "labels": [list(block) for block in blocks["input_ids"]]}

    def prepare() -> int:
        lines = load_dataset("text", data_files=path, split="train")
        tokenized = lines.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns=["text"])
        return len(tokenized.map(group, batched=True)) * block_size

    return prepare


WAYS = {"modeling_mini": by_modeling_mini, "tokenizers alone": by_tokenizers, "run_clm": by_run_clm}


def table(results: dict[str, dict]) -> str:
    header = ["text", "way", "cache, bytes per token", "peak memory, MB", "MB/s per core", "tokens"]
    rows = [
        [
            size,
            way,
            spread(runs["bytes"], ".2f"),
            spread(runs["memory"], ",.0f"),
            spread(runs["speed"], ".2f"),
            f"{runs['tokens'][0]:,}",
        ]
        for size, ways in results.items()
        for way, runs in ways.items()
    ]
    return markdown_table([header, *rows])


if __name__ == "__main__":
    main()
