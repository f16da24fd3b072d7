"""Time and tokens to a validation loss on the characters of Shakespeare: ours beside nanoGPT's published recipes.

    python benchmarks/shakespeare.py TEXT                           # `train.py characters`
    python benchmarks/shakespeare.py TEXT --nanogpt CHECKOUT        # and nanoGPT's own train.py, by turns
    python benchmarks/shakespeare.py TEXT --recipe characters-long

TEXT is the tinyshakespeare.txt that data/shakespeare_char/prepare.py of nanoGPT downloads. Beside `characters` stands
nanoGPT's recipe for a CPU, and beside `characters-long` that for a GPU, without which it does not run. Both learn from
the first nine tenths of the text and are judged on the rest. nanoGPT's arguments are those that its README gives, with
more batches in its estimate of the loss on a CPU. Seconds are those of the updates with their data, without validation
and checkpoints. Writes shakespeare-RECIPE.json and .png.
"""

import argparse
import json
import pickle
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from peers import DEVICE, checkout, text_file
from results import save, spread
from tqdm import tqdm

from modeling_mini.tables import markdown_table


ROOT = Path(__file__).resolve().parents[1]


class Peer(NamedTuple):
    """A recipe of nanoGPT."""

    target: float  # that its README reports, nats per character of validation
    arguments: str  # after config/train_shakespeare_char.py
    tokens: int  # of an update
    device: str


PEERS = {  # of recipes of ours
    "characters": Peer(
        1.88,
        "--device=cpu --compile=False --eval_iters=200 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 "
        "--n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0",
        12 * 64,
        "cpu",
    ),
    "characters-long": Peer(1.4697, "", 64 * 256, "cuda"),
}
FORMS = {"loss": ".4f", "tokens": ",.0f", "seconds": ".1f"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog="Other arguments go to train.py.", allow_abbrev=False
    )
    parser.add_argument("text", type=text_file)
    parser.add_argument("--nanogpt", type=checkout, metavar="CHECKOUT", help="nothing of it is changed")
    parser.add_argument("--recipe", choices=PEERS, default="characters", help="of train.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    args, arguments = parser.parse_known_args()
    peer = PEERS[args.recipe]
    if args.nanogpt is not None and peer.device == "cuda" and DEVICE == "cpu":
        parser.error(f"nanoGPT's recipe beside {args.recipe} wants a GPU, and there is none; leave out --nanogpt.")
    curves = {"modeling_mini": [], "nanoGPT": []}
    for seed in tqdm(args.seeds, unit="seed"):
        with tempfile.TemporaryDirectory() as folder:
            curves["modeling_mini"].append(ours(args, arguments, seed, Path(folder)))
        if args.nanogpt is not None:
            with tempfile.TemporaryDirectory() as folder:
                curves["nanoGPT"].append(nanogpt(args, seed, Path(folder)))
    results = {"target": peer.target, "curves": curves}
    save(args.output, f"shakespeare-{args.recipe}", results, plot(curves, peer.target))
    sys.stdout.write(table(curves, peer.target) + "\n")


def ours(args: argparse.Namespace, arguments: list[str], seed: int, folder: Path) -> list[dict]:
    """Points of the validation loss: seconds, tokens, loss."""
    words = [args.recipe, "--dataset", args.text.resolve(), "--seed", seed]
    words += ["--output_dir", folder / "run", "--disable_tqdm", "true", *arguments]
    run([ROOT / "train.py", *words], folder)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    tokens = metrics["tokens_per_update"]
    return [
        point(
            tokens * entry["update"], tokens * entry["update"] / metrics["tokens_per_second"], entry["validation_loss"]
        )
        for entry in metrics["history"]
        if "validation_loss" in entry
    ]


def nanogpt(args: argparse.Namespace, seed: int, folder: Path) -> list[dict]:
    """The same of nanoGPT, in a copy with the text in its format and another seed."""
    copy = folder / "nanoGPT"
    shutil.copytree(args.nanogpt, copy, ignore=shutil.ignore_patterns(".git"))
    characters = args.text.read_text()
    numbers = {character: number for number, character in enumerate(sorted(set(characters)))}
    ids = np.array([numbers[character] for character in characters], dtype=np.uint16)
    cut = int(len(ids) * 0.9)
    data = copy / "data" / "shakespeare_char"
    ids[:cut].tofile(data / "train.bin")
    ids[cut:].tofile(data / "val.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(numbers)}))
    script = (copy / "train.py").read_text()
    (copy / "train.py").write_text(script.replace("torch.manual_seed(1337 ", f"torch.manual_seed({1336 + seed} "))
    peer = PEERS[args.recipe]
    words = ["config/train_shakespeare_char.py", "--log_interval=1", *peer.arguments.split()]
    printed = run(["train.py", *words], copy)
    losses = {int(step): float(loss) for step, loss in re.findall(r"step (\d+): .* val loss ([\d.]+)", printed)}
    times = {int(step): float(ms) / 1000 for step, ms in re.findall(r"iter (\d+): .* time ([\d.]+)ms", printed)}
    typical = statistics.median(times.values())
    for step in losses:  # its time has validation in it
        times[step] = typical
    return [
        point(peer.tokens * step, sum(times[i] for i in range(step)), loss) for step, loss in losses.items() if step
    ]


def run(words: list, folder: Path) -> str:
    """What a Python script prints; its last words, and the end of this one, if it fails."""
    command = list(map(str, [sys.executable, *words]))
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{finished.stderr[-2000:]}\nError: failed, for the reason above: {shlex.join(command)}")
    return finished.stdout


def point(tokens: float, seconds: float, loss: float) -> dict:
    return {"tokens": tokens, "seconds": seconds, "loss": loss}


def table(curves: dict[str, list[list[dict]]], target: float) -> str:
    """Median and range over seeds, and what ours takes of what nanoGPT takes: of all of it, where it ends above."""
    title = f"to {target}"
    rows = [["", "seeds", "loss at the end", "tokens in all", "seconds in all", f"tokens {title}", f"seconds {title}"]]
    taken = {}
    for name, runs in curves.items():
        if not runs:
            rows.append([name, "not run", *[""] * 5])
            continue
        ends = [run[-1] for run in runs]
        reached = [next((p for p in run if p["loss"] <= target), None) for run in runs]
        row = [name, str(len(runs)), *(spread([p[key] for p in ends], form) for key, form in FORMS.items())]
        found = [p for p in reached if p is not None]
        if len(found) == len(runs):
            row += [spread([p[key] for p in found], FORMS[key]) for key in ("tokens", "seconds")]
        else:
            row += [f"reached by {len(found)}", ""]
        rows.append(row)
        counted = [p or end for p, end in zip(reached, ends, strict=True)]
        taken[name] = [statistics.median(p[key] for p in counted) for key in ("tokens", "seconds")]
    if len(taken) == len(curves):
        shares = [f"{ours / theirs:.2f}" for ours, theirs in zip(*taken.values(), strict=True)]
        rows.append(["ours / nanoGPT", "", "", "", "", *shares])
    return markdown_table(rows)


def plot(curves: dict[str, list[list[dict]]], target: float) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for color, (name, runs) in zip(("C0", "C1"), curves.items(), strict=True):
        for number, run in enumerate(runs):
            label = name if number == 0 else None
            axes.plot([p["seconds"] for p in run], [p["loss"] for p in run], color=color, label=label)
    axes.axhline(target, color="gray", linestyle=":")
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("validation loss, nats per character")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
