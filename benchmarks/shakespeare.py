"""Time and tokens to a validation loss on characters of Shakespeare, compared with nanoGPT's published recipes.

    python benchmarks/shakespeare.py TEXT                           # `train.py characters`
    python benchmarks/shakespeare.py TEXT --nanogpt CHECKOUT        # alternating with nanoGPT's own train.py
    python benchmarks/shakespeare.py TEXT --recipe characters-long

TEXT is the tinyshakespeare.txt that data/shakespeare_char/prepare.py of nanoGPT downloads. `characters` is compared
with nanoGPT's recipe for a CPU, and `characters-long` with its recipe for a GPU, which runs only on a GPU. Both models
are trained on the first nine tenths of the text and validated on the rest. nanoGPT's arguments are those of its
README, except that on a CPU the loss is estimated from more batches. Seconds cover updates and data loading, but not
validation and checkpoints. Writes shakespeare-RECIPE.json and .png.
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
from picture import BLUE, RED, open_frame
from results import save, spread
from tqdm import tqdm

from modeling_mini.tables import markdown_table


ROOT = Path(__file__).resolve().parents[1]


class Peer(NamedTuple):
    """A recipe of nanoGPT."""

    target: float  # the validation loss that its README reports, in nats per character
    arguments: str  # after config/train_shakespeare_char.py
    tokens: int  # per update
    device: str


PEERS = {  # by the name of our recipe
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
    parser.add_argument(
        "--nanogpt", type=checkout, metavar="CHECKOUT", help="a copy of it is run; the checkout is not changed"
    )
    parser.add_argument("--recipe", choices=PEERS, default="characters", help="recipe of train.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    args, arguments = parser.parse_known_args()
    peer = PEERS[args.recipe]
    if args.nanogpt is not None and peer.device == "cuda" and DEVICE == "cpu":
        parser.error(f"nanoGPT's recipe for {args.recipe} needs a GPU, and there is none; leave out --nanogpt.")
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
    """Points of our validation curve: tokens, seconds, loss."""
    command = [ROOT / "train.py", args.recipe, "--dataset", args.text.resolve(), "--seed", seed]
    command += ["--output_dir", folder / "run", "--disable_tqdm", "true", *arguments]
    run(command, folder)
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
    """Points of nanoGPT's validation curve, from a copy with this text in its format and with this seed."""
    copy = folder / "nanoGPT"
    shutil.copytree(args.nanogpt, copy, ignore=shutil.ignore_patterns(".git"))
    characters = args.text.read_text()
    numbers = {character: number for number, character in enumerate(sorted(set(characters)))}
    ids = np.array([numbers[character] for character in characters], dtype=np.uint16)
    split = int(len(ids) * 0.9)
    data = copy / "data" / "shakespeare_char"
    ids[:split].tofile(data / "train.bin")
    ids[split:].tofile(data / "val.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(numbers)}))
    script = (copy / "train.py").read_text()
    (copy / "train.py").write_text(script.replace("torch.manual_seed(1337 ", f"torch.manual_seed({1336 + seed} "))
    peer = PEERS[args.recipe]
    command = ["train.py", "config/train_shakespeare_char.py", "--log_interval=1", *peer.arguments.split()]
    log = run(command, copy)
    losses = {int(step): float(loss) for step, loss in re.findall(r"step (\d+): .* val loss ([\d.]+)", log)}
    times = {int(step): float(ms) / 1000 for step, ms in re.findall(r"iter (\d+): .* time ([\d.]+)ms", log)}
    typical = statistics.median(times.values())
    for step in losses:  # the time of this step includes validation
        times[step] = typical
    return [
        point(peer.tokens * step, sum(times[i] for i in range(step)), loss) for step, loss in losses.items() if step
    ]


def run(script: list, folder: Path) -> str:
    """The output of a Python script. If the script fails, print the end of its stderr and exit."""
    command = list(map(str, [sys.executable, *script]))
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{finished.stderr[-2000:]}\nError: failed, for the reason above: {shlex.join(command)}")
    return finished.stdout


def point(tokens: float, seconds: float, loss: float) -> dict:
    return {"tokens": tokens, "seconds": seconds, "loss": loss}


def table(curves: dict[str, list[list[dict]]], target: float) -> str:
    """Median and range over the seeds, and the ratio ours / nanoGPT of the tokens and seconds to the target.

    A run that does not reach the target counts with its total tokens and seconds.
    """
    title = f"to {target}"
    rows = [["", "seeds", "loss at the end", "total tokens", "total seconds", f"tokens {title}", f"seconds {title}"]]
    medians = {}
    for name, runs in curves.items():
        if not runs:
            rows.append([name, "not run", *[""] * 5])
            continue
        ends = [run[-1] for run in runs]
        reached = [next((p for p in run if p["loss"] <= target), None) for run in runs]
        row = [name, str(len(runs)), *(spread([p[key] for p in ends], form) for key, form in FORMS.items())]
        at_target = [p for p in reached if p is not None]
        if len(at_target) == len(runs):
            row += [spread([p[key] for p in at_target], FORMS[key]) for key in ("tokens", "seconds")]
        else:
            row += [f"reached by {len(at_target)} seeds", ""]
        rows.append(row)
        counted = [p or end for p, end in zip(reached, ends, strict=True)]
        medians[name] = [statistics.median(p[key] for p in counted) for key in ("tokens", "seconds")]
    if len(medians) == len(curves):
        ratios = [f"{ours / theirs:.2f}" for ours, theirs in zip(*medians.values(), strict=True)]
        rows.append(["ours / nanoGPT", "", "", "", "", *ratios])
    return markdown_table(rows)


def plot(curves: dict[str, list[list[dict]]], target: float) -> Figure:
    """Validation loss by the seconds of training, a line for each seed."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for color, (name, runs) in zip((BLUE, RED), curves.items(), strict=True):
        for number, run in enumerate(runs):
            label = name if number == 0 else None
            axes.plot(
                [p["seconds"] for p in run], [p["loss"] for p in run], "o-", color=color, markersize=3, label=label
            )
    axes.axhline(target, color="gray", linestyle=":", label=f"{target}, in nanoGPT's README")
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("validation loss, nats per character")
    open_frame(axes)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
