"""What a second process gains: tokens per second of train.py as one process and as two (DDP over gloo), on one CPU.

    python benchmarks/scaling.py                   # nano and small, 5 rounds; a quarter of an hour on 2 cores
    python benchmarks/scaling.py nano --rounds 3

Each process has one thread. Two processes read as many rows as one (rows divided), or twice as many (rows each); one
process with two threads stands beside them, as what the same cores do without processes. The ways take turns, so that
what else the machine does hits all of them; the ratios are those of a round.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from launch import command
from results import spread
from tqdm import tqdm

from modeling_mini.tables import markdown_table


ROWS = {"nano": (16, 128), "small": (8, 256)}  # of how many tokens
# way: processes, threads of each, share of the rows that each reads
WAYS = {
    "one process": (1, 1, 1.0),
    "one process, two threads": (1, 2, 1.0),
    "two processes, rows divided": (2, 1, 0.5),
    "two processes, rows each": (2, 1, 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(ROWS), metavar="MODEL", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20)
    args = parser.parse_args()
    if min(args.rounds, args.updates) < 1:
        parser.error("--rounds and --updates must be 1 or more.")
    if unknown := set(args.models) - set(ROWS):
        parser.error(f"no model {unknown.pop()}; there are {', '.join(ROWS)}.")
    rows = [["model", "way", "tokens per second", "against one process"]]
    progress = tqdm(total=len(args.models) * args.rounds * len(WAYS), unit="run")
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            speeds = {way: [] for way in WAYS}
            for _ in range(args.rounds):
                for way, found in speeds.items():
                    found.append(tokens_per_second(model, way, args.updates, Path(folder)))
                    progress.update()
            for way, found in speeds.items():
                ratios = [speed / one for speed, one in zip(found, speeds["one process"], strict=True)]
                rows.append([model, way, spread(found, ",.0f"), spread(ratios, ".2f")])
    progress.close()
    sys.stdout.write(markdown_table(rows) + "\n")


def tokens_per_second(model: str, way: str, updates: int, folder: Path) -> float:
    """As train.py reports it, for updates alone."""
    processes, threads, share = WAYS[way]
    rows, length = ROWS[model]
    output = Path(tempfile.mkdtemp(dir=folder)) / "run"
    options = {
        "model": model,
        "output_dir": output,
        "block_size": length,
        "per_device_train_batch_size": int(share * rows),
        "max_steps": updates,
        "max_validation_documents": 2,
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": "true",
    }
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    words = command(options, processes)
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{way}:\n{result.stderr[-2000:]}")
    return json.loads((output / "metrics.json").read_text())["tokens_per_second"]


if __name__ == "__main__":
    main()
