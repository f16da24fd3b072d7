"""How the benchmarks report results: as text, JSON and plots."""

import json
import statistics
from pathlib import Path

import torch
import transformers
from matplotlib.figure import Figure

from modeling_mini.training.report import hardware


def spread(values: list[float], form: str) -> str:
    """Median, lowest and highest; a single number if lowest and highest are printed alike."""
    median, lowest, highest = (f"{f(values):{form}}" for f in (statistics.median, min, max))
    return median if lowest == highest else f"{median} ({lowest} to {highest})"


def ratios(ours: list[float], theirs: list[float], form: str = ".2f") -> str:
    """Spread of the ratios ours / theirs, taken round by round."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)], form)


def environment() -> dict[str, str]:
    """Hardware and versions of a measurement."""
    return {"hardware": hardware(1), "torch": torch.__version__, "transformers": transformers.__version__}


def save(folder: Path, name: str, results: list | dict, figure: Figure) -> None:
    """Write NAME.json and NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"environment": environment(), "results": results}, indent=2)
    (folder / f"{name}.json").write_text(text + "\n")
    figure.savefig(folder / f"{name}.png", dpi=150)


def plot_bars(title: str, groups: dict[str, dict[str, list[float]]]) -> Figure:
    """Bars for the medians, with the range: `{"group": {"model": [measurement, ...]}}`."""
    figure = Figure(figsize=(2 + 1.5 * len(groups), 4), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    for number, name in enumerate(names):
        indices = [index for index, bars in enumerate(groups.values()) if name in bars]
        measurements = [bars[name] for bars in groups.values() if name in bars]
        medians = [statistics.median(values) for values in measurements]
        below = [median - min(values) for median, values in zip(medians, measurements, strict=True)]
        above = [max(values) - median for median, values in zip(medians, measurements, strict=True)]
        width = 0.8 / len(names)
        axes.bar([index + width * number for index in indices], medians, width, yerr=[below, above], label=name)
    axes.set_xticks([index + 0.4 - 0.4 / len(names) for index in range(len(groups))], groups)
    axes.set_ylabel(title)
    axes.legend()
    return figure
