"""Draw the figures of the pages in docs/, as SVG.

    python benchmarks/figures.py                          # those that need no trained model
    python benchmarks/figures.py --run runs/quickstart    # and those of a trained language model
    python benchmarks/figures.py --bench runs/bench       # and the one of benchmarks/shakespeare.py with nanoGPT

Figures of measurements are drawn from the tables on the pages, so a number stands in one place only.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from picture import BLUE, GREY, RED, open_frame, plot_losses
from shakespeare import plot as plot_curves

from modeling_mini import MiniConfig, MiniForCausalLM
from modeling_mini.modeling_mini import sinusoidal_positions
from modeling_mini.planning import CHINCHILLA, Run, strategies
from modeling_mini.presets import count_parameters, preset_names, preset_path


DOCS = Path(__file__).parents[1] / "docs"
PROMPT = "Return the number of items in the list."
SENTENCE = "The tokenizer learns its vocabulary from the text."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, help="folder of a trained language model")
    parser.add_argument("--bench", type=Path, help="folder with the results of benchmarks/shakespeare.py")
    parser.add_argument("--output", type=Path, default=DOCS / "images")
    args = parser.parse_args()
    # Text stays text, and a fixed salt gives the same file each time.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "modeling_mini", "font.size": 9}
    args.output.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        save(draw(), args.output / f"{name}.svg")
    if args.run is not None:
        for name, draw in FIGURES_OF_A_RUN.items():
            save(draw(args.run), args.output / f"{name}.svg")
    if args.bench is not None:
        results = json.loads((args.bench / "shakespeare-characters.json").read_text(encoding="utf-8"))["results"]
        save(plot_curves(results["curves"], results["target"]), args.output / "time-to-loss.svg")


def save(figure: Figure, path: Path) -> None:
    figure.set_facecolor("white")  # readable on light and dark pages
    figure.savefig(path, metadata={"Date": None})


def panel(width: float, height: float) -> Axes:
    """Axes of a figure of its own, without the lines at the top and on the right."""
    axes = Figure(figsize=(width, height), layout="constrained").subplots()
    open_frame(axes)
    return axes


def table_of(page: str, title: str) -> list[list[str]]:
    """The rows of the table on a page whose first cell of the header is `title`, without the header."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith(f"| {title} |")), None)
    if start is None:
        raise SystemExit(f"docs/{page} has no table whose first column is {title!r}.")
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([re.sub(r"[*`]", "", cell).strip() for cell in line.strip("|").split("|")])
    return rows


def number(cell: str) -> float:
    return float(re.search(r"\d+(?:\.\d+)?", cell.replace(",", ""))[0])


# Figures of measurements


def steps() -> Figure:
    """Bits per byte of each system on the way to the Transformer."""
    rows = table_of("theory/index.md", "system")
    names, values = [row[0] for row in rows], [number(row[1]) for row in rows]
    axes = panel(7, 0.6 + 0.32 * len(rows))
    bars = axes.barh(names, values, color=[*[GREY] * (len(rows) - 1), BLUE])
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("bits per byte of held-out text (lower is better)")
    return axes.figure


def ngrams() -> Figure:
    """Bits per byte by the order of the n-gram model."""
    rows = table_of("theory/counts.md", "n")
    axes = panel(5.5, 3)
    axes.plot([number(row[0]) for row in rows], [number(row[1]) for row in rows], "o-", color=BLUE)
    axes.set_xlabel("n: bytes in an n-gram")
    axes.set_ylabel("bits per byte")
    return axes.figure


def applications() -> Figure:
    """Mean scores over the seeds, with the baselines as marks; not bits per byte, where lower is better."""
    rows = [row for row in table_of("applications.md", "recipe") if not row[2].startswith("bits")]
    axes = panel(7, 0.8 + 0.42 * len(rows))
    for index, (_, _, _, mean, seeds, *_, cell) in enumerate(rows):
        low, high = map(float, seeds.split(" to ")) if " to " in seeds else (number(mean), number(mean))
        errors = [[number(mean) - low], [high - number(mean)]]
        axes.barh(index, number(mean), height=0.6, color=BLUE, xerr=errors, capsize=3)
        baselines = [float(score) for score in re.findall(r"\d+\.\d+", cell)]
        axes.plot(baselines, [index] * len(baselines), "|", color=RED, markersize=16, markeredgewidth=2)
    axes.plot([], [], "|", color=RED, markersize=10, markeredgewidth=2, label="baselines")
    axes.set_yticks(range(len(rows)), [f"{recipe.split()[0]}, {data}\n{metric}" for recipe, data, metric, *_ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("score (higher is better); in black, lowest to highest seed")
    axes.legend(frameon=False, loc="upper right")
    return axes.figure


# Figures that are computed


def positions() -> Figure:
    """The sinusoids of 64 positions, and how similar two positions are by their distance."""
    table = sinusoidal_positions(torch.arange(128), 128)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    heat, curve = figure.subplots(1, 2, width_ratios=[1.4, 1])
    image = heat.imshow(table[:64].numpy(), cmap="RdBu", aspect="auto", vmin=-1, vmax=1)
    heat.set_xlabel("dimension")
    heat.set_ylabel("position")
    figure.colorbar(image, ax=heat)
    curve.plot((table @ table[64] / 64).numpy(), color=BLUE)
    curve.set_xlabel("position")
    curve.set_ylabel("similarity to position 64")
    open_frame(curve)
    return figure


def masks() -> Figure:
    """Which tokens each token attends to: the attention weights of small models, where they are not zero."""
    document = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    panels = {
        "causal (GPT)": {"is_causal": True},
        "bidirectional (BERT)": {"is_causal": False},
        "two packed documents": {"is_causal": True, "position_ids": document},
    }
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    for axes, (title, options) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        config = MiniConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        config.is_causal = options.pop("is_causal")
        model = MiniForCausalLM._from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            weights = model.model(torch.arange(8)[None], output_attentions=True, **options).attentions[0][0, 0]
        axes.imshow(weights > 0, cmap="Blues", vmin=0, vmax=1.4)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("attends to")
        axes.set_ylabel("token")
    return figure


def sizes() -> Figure:
    """The presets by number of parameters."""
    counts = {name: shape(name)[1] for name in preset_names()}
    names = sorted(counts, key=counts.get)
    colors = [BLUE if name == "nano" else GREY for name in names]
    return bars_by_preset(names, [counts[name] for name in names], colors, "parameters")


def bars_by_preset(names: list[str], values: list[float], colors: str | list[str], label: str) -> Figure:
    axes = panel(7, 0.8 + 0.26 * len(names))
    axes.barh(names, values, color=colors)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel(label)
    return axes.figure


def shape(name: str) -> tuple[MiniConfig, int]:
    config = MiniConfig.from_pretrained(preset_path(name))
    return config, count_parameters(config)


def memory() -> Figure:
    """Memory of a device by strategy, as `modeling-mini plan gpt3-13b --gpus 64 --memory 80GB` computes it."""
    run = Run(*shape("gpt3-13b"), gpus=64, memory=0.9 * 80e9, length=2048)
    parts = {"weights": BLUE, "gradients": "#72a0cc", "optimizer": "#a9c6e3", "buffers": GREY}
    axes = panel(7.5, 3.1)
    for row, strategy in enumerate(strategies(run)):
        left = 0.0
        for part, color in parts.items():
            value = getattr(strategy, part) / 1e9
            axes.barh(row, value, left=left, color=color, label=part if row == 0 else None)
            left += value
        axes.barh(row, strategy.peak(run, 1) / 1e9 - left, left=left, color=RED, label="one row" if row == 0 else None)
    names = [f"{strategy.file}{', recomputed' if strategy.arguments else ''}" for strategy in strategies(run)]
    axes.set_yticks(range(len(names)), names)
    axes.axvline(80, color="black", linestyle=":", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("GB per device; the dotted line is its memory")
    axes.legend(frameon=False, loc="lower right")
    return axes.figure


def cost() -> Figure:
    """Days of one H100 for 20 tokens per parameter, at 40% of its speed in bf16."""
    names = sorted(preset_names(), key=lambda name: shape(name)[1])
    days = []
    for name in names:
        config, parameters = shape(name)
        run = Run(config, parameters, gpus=1, memory=80e9, length=min(2048, config.max_position_embeddings))
        days.append(CHINCHILLA * parameters * run.flops_per_token() / (0.4 * 989e12) / 86_400)
    return bars_by_preset(names, days, GREY, "days of one H100")


# Figures of a trained model


def opened(run: Path) -> tuple:
    from modeling_mini.inference.loading import load_model

    model, tokenizer = load_model(str(run), MiniForCausalLM)
    model.set_attn_implementation("eager")
    return model.eval(), tokenizer


def pieces(tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.decode([token]).replace(" ", "\N{OPEN BOX}") for token in ids]


def tokens(run: Path) -> Figure:
    """A sentence, cut into tokens, with their ids."""
    _, tokenizer = opened(run)
    ids = tokenizer(SENTENCE, add_special_tokens=False).input_ids
    axes = panel(8, 1.1)
    left = 0.0
    for index, (token, text) in enumerate(zip(ids, pieces(tokenizer, ids), strict=True)):
        width = max(len(text), len(str(token))) + 0.8
        axes.barh(0, width, left=left, color=("#dbe6f1", "#f3dcdb")[index % 2], height=0.9)
        axes.text(left + width / 2, 0.12, text, ha="center", va="center", family="monospace")
        axes.text(left + width / 2, -0.28, str(token), ha="center", va="center", fontsize=7, color="#555555")
        left += width
    axes.set_xlim(0, left)
    axes.set_axis_off()
    return axes.figure


def attention(run: Path) -> Figure:
    """The attention weights of the four heads of the second layer."""
    model, tokenizer = opened(run)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        weights = model(ids, output_attentions=True).attentions[1][0]
    names = pieces(tokenizer, ids[0].tolist())
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    for head, axes in enumerate(figure.subplots(1, len(weights), sharey=True)):
        axes.imshow(weights[head], cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
        axes.set_title(f"head {head}", fontsize=9)
    return figure


def next_word(run: Path) -> Figure:
    """The ten likeliest next tokens."""
    model, tokenizer = opened(run)
    beginning = "Return the"
    with torch.no_grad():
        logits = model(tokenizer(beginning, return_tensors="pt").input_ids).logits[0, -1]
    best = logits.softmax(-1).topk(10)
    axes = panel(5.5, 2.9)
    axes.barh(pieces(tokenizer, best.indices.tolist()), best.values.tolist(), color=BLUE)
    axes.invert_yaxis()
    axes.set_xlabel(f'probability of the token after "{beginning}"')
    return axes.figure


def learning(run: Path) -> Figure:
    """Training and validation loss, and the learning rate, by update."""
    history = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["history"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    losses, rates = figure.subplots(2, sharex=True, height_ratios=[2.5, 1])
    plot_losses(losses, history)
    points = [(point["update"], point["learning_rate"]) for point in history if "learning_rate" in point]
    rates.plot(*zip(*points), color=GREY)
    rates.set_ylabel("learning rate")
    rates.set_xlabel(losses.get_xlabel())
    losses.set_xlabel("")
    for axes in (losses, rates):
        open_frame(axes)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "steps": steps,
    "ngrams": ngrams,
    "applications": applications,
    "positions": positions,
    "masks": masks,
    "sizes": sizes,
    "memory": memory,
    "cost": cost,
}
FIGURES_OF_A_RUN: dict[str, Callable[[Path], Figure]] = {
    "tokens": tokens,
    "attention": attention,
    "next-word": next_word,
    "learning": learning,
}


if __name__ == "__main__":
    main()
