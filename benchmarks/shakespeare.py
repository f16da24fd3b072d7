"""Time and tokens to a validation loss on the characters of Shakespeare: ours beside nanoGPT's published recipe.

    python benchmarks/shakespeare.py TEXT                       # `train.py characters`
    python benchmarks/shakespeare.py TEXT --nanogpt CHECKOUT    # and nanoGPT's own train.py, by turns

Both have 4 layers x 128, learn from the first nine tenths of the text and are judged on the rest; nanoGPT's arguments
are those that its README gives for a CPU, but for more batches in its estimate of the loss. Seconds are those of the
updates with their data, without validation and checkpoints. Writes shakespeare.json and shakespeare.png.
"""

import argparse
import json
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from peers import spread

from modeling_mini.model_card import markdown_table


ROOT = Path(__file__).resolve().parents[1]
TARGET = 1.88  # what nanoGPT's README reports of its recipe
NANOGPT = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=200 --log_interval=1 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
NANOGPT_TOKENS = 12 * 64  # of an update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--nanogpt", type=Path, metavar="CHECKOUT", help="nothing of it is changed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("arguments", nargs="*", help="of train.py, after --")
    args = parser.parse_args()
    curves = {"modeling_mini": [], "nanoGPT": []}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            curves["modeling_mini"].append(ours(args.text, seed, args.arguments, Path(folder)))
        if args.nanogpt is not None:
            with tempfile.TemporaryDirectory() as folder:
                curves["nanoGPT"].append(nanogpt(args.text, seed, args.nanogpt, Path(folder)))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "shakespeare.json").write_text(json.dumps({"target": TARGET, "curves": curves}, indent=2) + "\n")
    plot(curves, args.output / "shakespeare.png")
    sys.stdout.write(table(curves) + "\n")


def ours(text: Path, seed: int, arguments: list[str], folder: Path) -> list[dict]:
    """Points of the validation loss: seconds, tokens, loss."""
    words = ["characters", "--dataset", str(text.resolve()), "--seed", str(seed), "--output_dir", str(folder / "run")]
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words, "--disable_tqdm", "true", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    tokens = metrics["tokens_per_update"]
    return [
        point(
            tokens * entry["update"], tokens * entry["update"] / metrics["tokens_per_second"], entry["validation_loss"]
        )
        for entry in metrics["history"]
        if "validation_loss" in entry
    ]


def nanogpt(text: Path, seed: int, checkout: Path, folder: Path) -> list[dict]:
    """The same of nanoGPT, in a copy with the text in its format and another seed."""
    copy = folder / "nanoGPT"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git"))
    characters = text.read_text()
    numbers = {character: number for number, character in enumerate(sorted(set(characters)))}
    ids = np.array([numbers[character] for character in characters], dtype=np.uint16)
    cut = int(len(ids) * 0.9)
    data = copy / "data" / "shakespeare_char"
    ids[:cut].tofile(data / "train.bin")
    ids[cut:].tofile(data / "val.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(numbers)}))
    script = (copy / "train.py").read_text()
    (copy / "train.py").write_text(script.replace("torch.manual_seed(1337 ", f"torch.manual_seed({1336 + seed} "))
    result = subprocess.run(
        [sys.executable, "train.py", *NANOGPT.split()], cwd=copy, check=True, capture_output=True, text=True
    )
    losses = {int(step): float(loss) for step, loss in re.findall(r"step (\d+): .* val loss ([\d.]+)", result.stdout)}
    times = {int(step): float(ms) / 1000 for step, ms in re.findall(r"iter (\d+): .* time ([\d.]+)ms", result.stdout)}
    typical = statistics.median(times.values())
    for step in losses:  # its time has validation in it
        times[step] = typical
    return [
        point(NANOGPT_TOKENS * step, sum(times[i] for i in range(step)), loss) for step, loss in losses.items() if step
    ]


def point(tokens: float, seconds: float, loss: float) -> dict:
    return {"tokens": tokens, "seconds": seconds, "loss": loss}


def table(curves: dict[str, list[list[dict]]]) -> str:
    """Median and range over seeds, and what ours takes of what nanoGPT takes."""
    title = f"to {TARGET}"
    rows = [["", "seeds", "loss at the end", "seconds in all", f"tokens {title}", f"seconds {title}"]]
    medians = {}
    for name, runs in curves.items():
        if not runs:
            rows.append([name, "not run", *[""] * 4])
            continue
        reached = [next((p for p in run if p["loss"] <= TARGET), None) for run in runs]
        ends = [spread([run[-1]["loss"] for run in runs], ".3f"), spread([run[-1]["seconds"] for run in runs], ".1f")]
        if None in reached:
            rows.append([name, str(len(runs)), *ends, "not reached by all", ""])
            continue
        medians[name] = {key: statistics.median(p[key] for p in reached) for key in ("tokens", "seconds")}
        found = [spread([p["tokens"] for p in reached], ",.0f"), spread([p["seconds"] for p in reached], ".1f")]
        rows.append([name, str(len(runs)), *ends, *found])
    if len(medians) == len(curves):
        ratios = [medians["modeling_mini"][key] / medians["nanoGPT"][key] for key in ("tokens", "seconds")]
        rows.append(["ours / nanoGPT", "", "", "", *(f"{ratio:.2f}" for ratio in ratios)])
    return markdown_table(rows)


def plot(curves: dict[str, list[list[dict]]], path: Path) -> None:
    axes = Figure(figsize=(7, 4), layout="constrained").subplots()
    for color, (name, runs) in zip(("C0", "C1"), curves.items(), strict=True):
        for number, run in enumerate(runs):
            label = name if number == 0 else None
            axes.plot([p["seconds"] for p in run], [p["loss"] for p in run], color=color, label=label)
    axes.axhline(TARGET, color="gray", linestyle=":")
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("validation loss, nats per character")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
