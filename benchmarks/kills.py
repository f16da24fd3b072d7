"""Kill a training run at random moments, resume it each time, and compare its result with that of an unkilled run.

    python benchmarks/kills.py                          # 20 kills of one run
    python benchmarks/kills.py --kills 5 --processes 2  # of two processes (DDP on a CPU)

Each start except the first is `train.py --resume`. A process is killed after a random time, at most one and a half
times the time to the first checkpoint, so kills hit loading, updates, validation and checkpoints. The script succeeds
if the final weights of both runs are equal, bit for bit, and their losses in metrics.json are equal. With several
processes, the training losses may differ by rounding.
"""

import argparse
import contextlib
import json
import math
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
UPDATES_PER_KILL = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    args = parser.parse_args()
    if min(args.kills, args.processes) < 1:
        parser.error("--kills and --processes must be 1 or more.")
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = write_corpus(folder / "corpus.jsonl")
        unkilled, killed = folder / "unkilled", folder / "killed"
        start_time = time.monotonic()
        updates = UPDATES_PER_KILL * args.kills
        process = start(corpus, unkilled, args.processes, updates)
        while process.poll() is None and not list(unkilled.glob("checkpoint-*")):
            time.sleep(0.1)
        longest_life = 1.5 * (time.monotonic() - start_time)
        if process.wait() != 0:
            sys.stderr.write(f"The unkilled run failed:\n{end_of_log(unkilled)}\n")
            return 1

        kills = 0
        write("kill", "after", "checkpoints")
        while True:
            process = start(corpus, killed, args.processes, updates)
            after = moments.uniform(0, longest_life) if kills < args.kills else None
            try:
                code = process.wait(after)
                break
            except subprocess.TimeoutExpired:
                kill(process)
                kills += 1
                checkpoints = sorted(int(path.name.partition("-")[2]) for path in killed.glob("checkpoint-*"))
                write(kills, f"{after:.1f} s", ", ".join(map(str, checkpoints)) or "none")
        if code != 0:
            sys.stderr.write(f"The killed run failed with {code}:\n{end_of_log(killed)}\n")
            return 1
        same = (unkilled / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
        same_losses = have_same_losses(unkilled, killed, 1e-6 if args.processes > 1 else 0)
        weights = "equal, bit for bit" if same else "DIFFERENT"
        losses = "equal" if same_losses else "DIFFERENT"
        sys.stdout.write(
            f"{kills} kills of {args.processes} process(es), {updates} updates: the weights are {weights}, and the "
            f"logged losses are {losses}.\n"
        )
        if kills < args.kills:
            sys.stderr.write(f"The run ended before {args.kills} kills; choose another --seed.\n")
        return 0 if same and same_losses and kills == args.kills else 1


def write_corpus(path: Path) -> Path:
    """Two hundred documents of random words."""
    generator = random.Random(0)
    rows = [{"text": " ".join(generator.choices(WORDS, k=60))} for _ in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def have_same_losses(folder: Path, other: Path, tolerance: float) -> bool:
    """Whether two runs logged the same losses at the same updates, with a relative tolerance."""
    histories = [json.loads((path / "metrics.json").read_text())["history"] for path in (folder, other)]
    if len(histories[0]) != len(histories[1]):
        return False
    return all(
        point.keys() == twin.keys() and all(math.isclose(point[name], twin[name], rel_tol=tolerance) for name in point)
        for point, twin in zip(*histories, strict=True)
    )


def kill(process: subprocess.Popen) -> None:
    """SIGKILL a process and all its descendants: torchrun puts its workers into separate process groups."""
    family = [*psutil.Process(process.pid).children(recursive=True), process]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family[:-1])
    process.wait()


def end_of_log(output: Path) -> str:
    return Path(f"{output}.log").read_text()[-2000:]


def write(*cells: object) -> None:
    """Write one line of the table and flush it."""
    sys.stdout.write("  ".join(f"{cell!s:<8}" for cell in cells) + "\n")
    sys.stdout.flush()


def start(corpus: Path, output: Path, processes: int, updates: int) -> subprocess.Popen:
    """Start `train.py`; with `--resume` if the run has been started before."""
    shape = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "hidden_dropout": 0.1}
    options = {
        "dataset": corpus,
        "output_dir": output,
        "config_overrides": json.dumps(shape),
        "block_size": 64,
        "max_steps": updates,
        "save_steps": 20,
        "eval_steps": 50,
        "logging_steps": 30,  # some checkpoints are between two logs
        "disable_tqdm": "true",
    }
    resumed = ["--resume"] if (output / "_run.json").exists() else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(corpus.parent / "cache")}
    with Path(f"{output}.log").open("w") as log:
        arguments = [*command(options, processes), *resumed]
        return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)


if __name__ == "__main__":
    raise SystemExit(main())
