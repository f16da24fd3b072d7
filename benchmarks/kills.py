"""Kill a training run at random moments, again and again, and compare its end with that of one left alone.

    python benchmarks/kills.py                          # 20 kills of one run
    python benchmarks/kills.py --kills 5 --processes 2  # of two processes (DDP on a CPU)

Each start but the first is `train.py --resume`. A process lives for a random time, at most half as long again as the
first checkpoint takes, so that loading, updates, validation and checkpoints are all hit. It succeeds if the weights at
the end are those of the other run, bit for bit.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from launch import command


WORDS = "the model reads a word and then it says what the next word in the text will be".split()
UPDATES_FOR_A_KILL = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    if min(args.kills, args.processes) < 1:
        parser.error("--kills and --processes must be 1 or more.")
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = write_corpus(folder / "corpus.jsonl")
        alone, killed = folder / "alone", folder / "killed"
        began = time.monotonic()
        updates = UPDATES_FOR_A_KILL * args.kills
        process = start(corpus, alone, args.processes, updates)
        while process.poll() is None and not list(alone.glob("checkpoint-*")):
            time.sleep(0.1)
        horizon = 1.5 * (time.monotonic() - began)
        if process.wait() != 0:
            sys.stderr.write(f"The run that was left alone failed:\n{end_of_log(alone)}\n")
            return 1

        kills = 0
        write("kill", "after", "checkpoints that are there")
        while True:
            process = start(corpus, killed, args.processes, updates)
            after = moments.uniform(0, horizon) if kills < args.kills else None
            try:
                code = process.wait(after)
                break
            except subprocess.TimeoutExpired:
                kill(process)
                kills += 1
                found = sorted(int(path.name.partition("-")[2]) for path in killed.glob("checkpoint-*"))
                write(kills, f"{after:.1f} s", ", ".join(map(str, found)) or "none")
        if code != 0:
            sys.stderr.write(f"The killed run failed with {code}:\n{end_of_log(killed)}\n")
            return 1
        same = (alone / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
        end = "equal, bit for bit" if same else "DIFFERENT"
        sys.stdout.write(f"{kills} kills of {args.processes} process(es), {updates} updates: the weights are {end}.\n")
        if kills < args.kills:
            sys.stderr.write(f"The run ended before {args.kills} kills; choose another --seed.\n")
        return 0 if same and kills == args.kills else 1


def write_corpus(path: Path) -> Path:
    """Two hundred documents of random words."""
    draw = random.Random(0)
    rows = [{"text": " ".join(draw.choices(WORDS, k=60))} for _ in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def kill(process: subprocess.Popen) -> None:
    """SIGKILL for a process and all that it has started: torchrun gives its workers groups of their own."""
    family = [*psutil.Process(process.pid).children(recursive=True), process]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family[:-1])
    process.wait()


def end_of_log(output: Path) -> str:
    return Path(f"{output}.log").read_text()[-2000:]


def write(*words: object) -> None:
    """A line of a table, at once."""
    sys.stdout.write("  ".join(f"{word!s:<8}" for word in words) + "\n")
    sys.stdout.flush()


def start(corpus: Path, output: Path, processes: int, updates: int) -> subprocess.Popen:
    """`train.py`, or its continuation if there is something to continue."""
    shape = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "hidden_dropout": 0.1}
    options = {
        "dataset": corpus,
        "output_dir": output,
        "config_overrides": json.dumps(shape),
        "block_size": 64,
        "max_steps": updates,
        "save_steps": 20,
        "eval_steps": 50,
        "disable_tqdm": "true",
    }
    resumed = ["--resume"] if (output / "_run.json").exists() else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(corpus.parent / "cache")}
    with Path(f"{output}.log").open("w") as log:
        words = [*command(options, processes), *resumed]
        return subprocess.Popen(words, env=environment, stdout=log, stderr=log)


if __name__ == "__main__":
    raise SystemExit(main())
