"""How the benchmarks report: in words, as a table, as JSON, and as a plot."""

import json
import statistics
from pathlib import Path

import torch
import transformers
from matplotlib.figure import Figure

from modeling_mini.training.report import hardware


def spread(values: list[float], form: str) -> str:
    """Median, lowest and highest; one number where they read the same."""
    median, lowest, highest = (f"{f(values):{form}}" for f in (statistics.median, min, max))
    return median if lowest == highest else f"{median} ({lowest} to {highest})"


def ratios(ours: list[float], theirs: list[float], form: str = ".2f") -> str:
    """Spread of the ratios, ours to theirs, turn by turn."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)], form)


def environment() -> dict[str, str]:
    """What the figures were measured with and on."""
    return {"hardware": hardware(1), "torch": torch.__version__, "transformers": transformers.__version__}


def save(folder: Path, name: str, results: list | dict, figure: Figure) -> None:
    """Write NAME.json and NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"environment": environment(), "results": results}, indent=2)
    (folder / f"{name}.json").write_text(text + "\n")
    figure.savefig(folder / f"{name}.png", dpi=150)


def plot_bars(title: str, groups: dict[str, dict[str, list[float]]]) -> Figure:
    """Medians as bars with their range: `{"group": {"model": [measurement, ...]}}`."""
    figure = Figure(figsize=(2 + 1.5 * len(groups), 4), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    for number, name in enumerate(names):
        places = [place for place, bars in enumerate(groups.values()) if name in bars]
        found = [bars[name] for bars in groups.values() if name in bars]
        medians = [statistics.median(values) for values in found]
        below = [median - min(values) for median, values in zip(medians, found, strict=True)]
        above = [max(values) - median for median, values in zip(medians, found, strict=True)]
        width = 0.8 / len(names)
        axes.bar([p + width * number for p in places], medians, width, yerr=[below, above], label=name)
    axes.set_xticks([place + 0.4 - 0.4 / len(names) for place in range(len(groups))], groups)
    axes.set_ylabel(title)
    axes.legend()
    return figure
