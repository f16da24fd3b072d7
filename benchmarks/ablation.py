"""What each choice of architecture and optimizer is worth: the same training with one choice changed.

    python benchmarks/ablation.py TEXT           # characters of a text; three seeds; a quarter of an hour on 2 cores

Each variant is `train.py characters` for `--updates` updates, once per seed. Learned, rotary and no positions are not
options of the model; this script patches them in. Writes ablation.json and ablation.png.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
from functools import partial
from itertools import product
from pathlib import Path

import torch
from matplotlib.figure import Figure
from peers import text_file
from results import save, spread
from torch import nn
from tqdm import tqdm
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_mini import modeling_mini
from modeling_mini.tables import markdown_table
from modeling_mini.training.run import train


SHIPPED = "as shipped"
# Arguments of train.py, and the positions that replace the sinusoids.
VARIANTS = {
    SHIPPED: ([], None),
    "learned positions": ([], "learned"),
    "rotary positions": ([], "rotary"),
    "no positions": ([], "none"),
    "post-norm": (["--config_overrides", '{"norm_first": false}'], None),
    "untied head": (["--config_overrides", '{"tie_word_embeddings": false}'], None),
    "AdamW 0.003": (["--optimizer", "adamw", "--learning_rate", "3e-3"], None),
    "AdamW 0.006": (["--optimizer", "adamw", "--learning_rate", "6e-3"], None),
    "AdamW 0.003, learned positions": (["--optimizer", "adamw", "--learning_rate", "3e-3"], "learned"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=text_file)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--updates", type=int, default=460)
    parser.add_argument("--length", type=int, default=64, help="tokens per row")
    parser.add_argument("--processes", type=int, default=2, help="number of trainings at a time, one thread each")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # as each training does
    cases = list(product(args.variants, args.seeds))
    run = partial(loss_of, str(args.text), args.updates, args.length)
    with multiprocessing.get_context("spawn").Pool(args.processes, maxtasksperchild=1) as pool:
        losses = list(tqdm(pool.imap(run, cases), total=len(cases), unit="training"))
    results = {variant: {} for variant in args.variants}
    for (variant, seed), loss in zip(cases, losses, strict=True):
        results[variant][seed] = loss
    save(args.output, "ablation", results, plot(results))
    sys.stdout.write(table(results) + "\n")


def loss_of(text: str, updates: int, length: int, case: tuple[str, int]) -> float:
    """Validation loss at the end, in nats per character. Patches the package, so it needs a separate process."""
    torch.set_num_threads(1)
    variant, seed = case
    variant_arguments, positions = VARIANTS[variant]
    if positions is not None:
        POSITIONS[positions]()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        arguments = ["characters", "--dataset", text, "--seed", str(seed), "--output_dir", str(output)]
        arguments += [*variant_arguments, "--max_steps", str(updates), "--block_size", str(length)]
        with (Path(folder) / "log").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            train([*arguments, "--eval_strategy", "no", "--disable_tqdm", "true"])
        return json.loads((output / "metrics.json").read_text())["validation_loss"]


def without_positions() -> None:
    modeling_mini.sinusoidal_positions = lambda ids, width: torch.zeros(*ids.shape, width, device=ids.device)


def learn_positions() -> None:
    """A table instead of sinusoids (GPT-2), initialised and scaled like the table of tokens."""
    build = modeling_mini.MiniModel.__init__

    def build_with_table(self, config):
        build(self, config)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        modeling_mini.sinusoidal_positions = lambda ids, width: self.embed_positions(ids) * math.sqrt(width)

    modeling_mini.MiniModel.__init__ = build_with_table


def rotate_positions() -> None:
    """Rotate queries and keys by their position (RoPE, Su et al. 2021), and add nothing to the tokens."""
    without_positions()
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def rotate_and_attend(module, query, key, *args, **kwargs):
        # Rows have no padding, so the queries have the positions of the last keys.
        positions = torch.arange(key.shape[-2], device=key.device)
        key = rotated(key, positions)
        return attend(module, rotated(query, positions[-query.shape[-2] :]), key, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS["sdpa"] = rotate_and_attend


def rotated(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """`[B, H, T, K]` with each pair (i, i + K/2) rotated by the angle position / 10000^(2i/K)."""
    half = states.shape[-1] // 2
    angles = positions[:, None] * 10000 ** (-torch.arange(half, device=positions.device) / half)  # [T, K/2]
    first, second = states.split(half, dim=-1)
    sin, cos = angles.sin(), angles.cos()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(states.dtype)


POSITIONS = {"learned": learn_positions, "rotary": rotate_positions, "none": without_positions}


def table(results: dict[str, dict[int, float]]) -> str:
    """Median and range, and the difference from the shipped recipe with the same seed."""
    rows = [["variant", "nats per character", f'difference from "{SHIPPED}"']]
    for variant, losses in results.items():
        row = [variant, spread(list(losses.values()), ".3f"), ""]
        if SHIPPED in results and variant != SHIPPED:
            row[-1] = spread([loss - results[SHIPPED][seed] for seed, loss in losses.items()], "+.3f")
        rows.append(row)
    return markdown_table(rows)


def plot(results: dict[str, dict[int, float]]) -> Figure:
    figure = Figure(figsize=(7, 1 + 0.3 * len(results)), layout="constrained")
    axes = figure.subplots()
    for height, losses in enumerate(results.values()):
        axes.plot(statistics.median(losses.values()), height, "|", color="C0", markersize=14)
        axes.plot(list(losses.values()), [height] * len(losses), "o", color="C0", alpha=0.5)
    axes.set_yticks(range(len(results)), results)
    axes.invert_yaxis()
    axes.set_xlabel("validation loss, nats per character")
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
