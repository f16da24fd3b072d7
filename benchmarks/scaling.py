"""The gain from a second process: tokens per second of train.py with one and two processes (DDP over gloo) on a CPU.

    python benchmarks/scaling.py                   # nano and small, 5 rounds; a quarter of an hour on 2 cores
    python benchmarks/scaling.py nano --rounds 3

Each process has one thread. Two processes share the rows of one process ("rows shared"), or each reads as many rows as
one process ("rows each"). One process with two threads shows what the same cores do without a second process. The
settings alternate, so that other load on the machine affects all of them. A ratio compares measurements of one round.
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


ROWS = {"nano": (16, 128), "small": (8, 256)}  # rows, tokens per row
# setting: processes, threads of each, share of the rows that each reads
SETTINGS = {
    "one process": (1, 1, 1.0),
    "one process, two threads": (1, 2, 1.0),
    "two processes, rows shared": (2, 1, 0.5),
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
    rows = [["model", "setting", "tokens per second", "ratio to one process"]]
    progress = tqdm(total=len(args.models) * args.rounds * len(SETTINGS), unit="run")
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            speeds = {setting: [] for setting in SETTINGS}
            for _ in range(args.rounds):
                for setting, rounds in speeds.items():
                    rounds.append(tokens_per_second(model, setting, args.updates, Path(folder)))
                    progress.update()
            for setting, rounds in speeds.items():
                ratios = [speed / one for speed, one in zip(rounds, speeds["one process"], strict=True)]
                rows.append([model, setting, spread(rounds, ",.0f"), spread(ratios, ".2f")])
    progress.close()
    sys.stdout.write(markdown_table(rows) + "\n")


def tokens_per_second(model: str, setting: str, updates: int, folder: Path) -> float:
    """The speed that train.py reports, which covers the updates only."""
    processes, threads, share = SETTINGS[setting]
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
    result = subprocess.run(command(options, processes), env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{setting}:\n{result.stderr[-2000:]}")
    return json.loads((output / "metrics.json").read_text())["tokens_per_second"]


if __name__ == "__main__":
    main()
