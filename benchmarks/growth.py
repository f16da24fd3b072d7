"""How the time of an update grows with length, width, depth and data, compared with GPT-2 of transformers.

    python benchmarks/growth.py            # 4 layers x 256, 8,192 tokens per update; a quarter of an hour on 2 cores

One of the four sizes grows and the others stay fixed. The tokens per update are always the same; `rows` is the size of
the data set. Both models train through the stock Trainer with AdamW and alternate in each round. The exponent is the
power of the size with which the time grows between the last two sizes. Writes growth.json and growth.png.
"""

import math
import statistics
import sys

from matplotlib.figure import Figure
from peers import ByTrainer, parser_with_shape, shape_of
from results import ratios, save, spread
from tqdm import tqdm

from modeling_mini.tables import markdown_table


VOCABULARY = 1024
MODELS = ("modeling_mini", "gpt2")
SIZES = {
    "length": (256, 512, 1024, 2048, 4096, 8192),
    "width": (128, 256, 512, 1024),
    "layers": (2, 4, 8, 16),
    "rows": (1_000, 10_000, 100_000),
}


def main() -> None:
    parser = parser_with_shape(__doc__)
    parser.set_defaults(layers=4, width=256, heads=4)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens per update")
    parser.add_argument("--axes", nargs="+", choices=SIZES, default=list(SIZES), help="sizes that grow")
    parser.add_argument("--updates", type=int, default=2, help="updates per round; one more is not counted")
    args = parser.parse_args()
    if "length" in args.axes and args.tokens < max(SIZES["length"]):
        parser.error(f"--tokens is {args.tokens}; a row of {max(SIZES['length'])} has to fit.")
    points = [(axis, size) for axis in args.axes for size in SIZES[axis]]
    results = {axis: {} for axis in args.axes}
    for axis, size in tqdm(points, unit="size"):
        case = shape_of(args, VOCABULARY, min(256, args.tokens)) | {"rows": 1000, axis: size}
        rows = case.pop("rows")
        contenders = {name: ByTrainer(name, case, args.tokens, rows) for name in MODELS}
        seconds = {name: [] for name in MODELS}
        for _ in range(args.rounds):
            for name, contender in contenders.items():
                seconds[name].append(contender.train(args.updates))
        results[axis][size] = seconds
    save(args.output, "growth", results, plot(results))
    sys.stdout.write(table(results) + "\n")


def exponent(by_size: dict[int, dict[str, list[float]]], name: str) -> float:
    """The power of the size with which the time grows between the last two sizes."""
    (small, before), (large, after) = list(by_size.items())[-2:]
    growth = statistics.median(after[name]) / statistics.median(before[name])
    return math.log(growth) / math.log(large / small)


def table(results: dict[str, dict[int, dict[str, list[float]]]]) -> str:
    """Seconds per update of ours, their ratio to GPT-2's, and the exponents."""
    rows = [["grows", "size", "seconds per update", "gpt2", "exponent", "exponent of gpt2"]]
    for axis, by_size in results.items():
        for size, seconds in by_size.items():
            row = [axis, f"{size:,}", spread(seconds["modeling_mini"], ".2f"), ratios(*seconds.values()), "", ""]
            if size == max(by_size):
                row[-2:] = (f"{exponent(by_size, name):.2f}" for name in MODELS)
            rows.append(row)
    return markdown_table(rows)


def plot(results: dict[str, dict[int, dict[str, list[float]]]]) -> Figure:
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axes, (axis, by_size) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        for name in MODELS:
            axes.plot(list(by_size), [statistics.median(s[name]) for s in by_size.values()], "o-", label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xlabel(axis)
        axes.set_ylabel("seconds per update")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


if __name__ == "__main__":
    main()
