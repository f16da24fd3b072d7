"""The README's picture: the loss curve of a finished run next to a text that its model generated.

python train.py
python benchmarks/picture.py runs/quickstart docs/images/quickstart.svg
"""

import argparse
import json
import textwrap
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure


CURVES = {"train_loss": ("training", "#8aa9c9", "-"), "validation_loss": ("validation", "#c0504d", "o-")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("output", type=Path, help="an .svg or .png file")
    args = parser.parse_args()
    report = args.run / "metrics.json"
    if not report.is_file():
        parser.error(f"{report}: no such file; give the folder of a finished run.")
    results = json.loads(report.read_text(encoding="utf-8"))
    # Text stays text, and a fixed salt gives the same file each time.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "modeling_mini"}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw(results).savefig(args.output, metadata={"Date": None} if args.output.suffix == ".svg" else None)


def draw(results: dict) -> Figure:
    """The picture of a run, from its metrics.json."""
    figure = Figure(figsize=(9.5, 3.4), layout="constrained", facecolor="white")
    loss, sample = figure.subplots(1, 2, width_ratios=[1, 1.25])
    for name, (label, color, style) in CURVES.items():
        points = [(point["update"], point[name]) for point in results["history"] if name in point]
        loss.plot(*zip(*points, strict=True), style, color=color, label=label, markersize=4)
    loss.set_xlabel("update")
    loss.set_ylabel("loss (nats per token)")
    loss.set_title(f"{results['bits_per_byte']:.2f} bits per byte on held-out text", fontsize=10)
    loss.grid(alpha=0.3)
    loss.legend(frameon=False)
    sample.set_axis_off()
    sample.set_title(f"a text by the model ({results['parameters'] / 1e6:.2f}M parameters)", fontsize=10)
    lines = [part for line in results["sample"].splitlines() for part in textwrap.wrap(line, 60) or [""]]
    sample.text(0, 0.97, "\n".join(lines[:15]), va="top", family="monospace", fontsize=8)
    return figure


if __name__ == "__main__":
    main()
