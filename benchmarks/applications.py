"""Train every application with several seeds, score it on held-out data, and print one table.

    python benchmarks/applications.py                        # the whole table of docs/applications.md: hours
    python benchmarks/applications.py translation fields     # some rows of it
    python benchmarks/applications.py --seeds 1              # one seed each

A finished run is not repeated, so the work can be split over several calls. Each call prints the table of all runs in
`--folder`. The pretrained models that the rows start from are trained first.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from modeling_mini.tables import markdown_table
from modeling_mini.tasks import task_class


PRETRAINED = {"causal": "pretraining", "masked": "fill-mask"}

# Arguments of train.py; {causal} and {masked} are the folders of the pretrained models.
RUNS = {
    "generation": "quickstart",
    "translation": "translation",
    "summarization": "summarization --init_from {causal}",
    "summarization, from scratch": "summarization",
    "summarization, without the document": "summarization --init_from {causal} --max_source_tokens 0",
    "fields": "text-classification --init_from {causal}",
    "fields, from the masked model": "text-classification --init_from {masked}",
    "fields, from scratch": "text-classification",
    "pairs": "text-classification --dataset docstring-pairs --block_size 256 --init_from {causal}",
    "answering": "question-answering --init_from {causal}",
    "answering, from the masked model": "question-answering --init_from {masked}",
    "answering, from scratch": "question-answering",
    "generative answering": "generative-question-answering --init_from {causal}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"all by default: {'; '.join(RUNS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("runs/applications"))
    args = parser.parse_args()
    if unknown := set(args.runs) - set(RUNS):
        parser.error(f"there is no run {min(unknown)!r}; choose from {'; '.join(RUNS)}")

    pretrained = {name: args.folder / name for name in PRETRAINED}
    for name in args.runs or RUNS:
        arguments = RUNS[name].split()
        for kind, folder in pretrained.items():
            if f"{{{kind}}}" in arguments:
                train(folder, [PRETRAINED[kind], "--seed", "1"])
        arguments = [argument.format(**pretrained) for argument in arguments]
        for seed in args.seeds:
            folder = folder_of(name, args.folder) / str(seed)
            train(folder, [*arguments, "--seed", str(seed)])
            # The baselines do not depend on the seed.
            evaluate(folder, [] if seed == args.seeds[0] else ["--no_baselines"])
    print(table(args.folder))  # noqa: T201


def folder_of(name: str, folder: Path) -> Path:
    return folder / name.replace(", ", "-").replace(" ", "-")


def train(folder: Path, arguments: list[str]) -> None:
    if not (folder / "metrics.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # the time of an interrupted and resumed run would be wrong
        subprocess.run([sys.executable, "train.py", *arguments, "--output_dir", str(folder)], check=True)


def evaluate(folder: Path, arguments: list[str]) -> None:
    if not (folder / "test" / "results.json").exists():
        program = [sys.executable, "-c", "from modeling_mini.cli import main; raise SystemExit(main())", "eval"]
        subprocess.run([*program, str(folder), "--output", str(folder / "test"), *arguments], check=True)


def table(folder: Path) -> str:
    """The metric of each run as mean and range over the seeds, with the scores of the baselines, in Markdown."""
    titles = ["run", "split", "metric", "mean", "lowest to highest (seeds)", "nats per target", "minutes"]
    rows = [[*titles, "baselines"]]
    for name in RUNS:
        finished = [path.parents[1] for path in sorted(folder_of(name, folder).glob("*/test/results.json"))]
        if finished:
            rows.append([name, *row(finished)])
    return markdown_table(rows)


def row(folders: list[Path]) -> list[str]:
    results = [json.loads((folder / "test" / "results.json").read_text(encoding="utf-8")) for folder in folders]
    minutes = [json.loads((folder / "metrics.json").read_text())["train_seconds"] / 60 for folder in folders]
    metric = task_class(results[0]["task"]).metric
    models = [list(result["systems"].values())[-1] for result in results]  # the baselines come first
    scores = [model[metric] for model in models]
    baselines = {
        system: values[metric]
        for result in results
        for system, values in list(result["systems"].items())[:-1]
        if metric in values
    }
    digits = 2 if max(scores) >= 10 else 3
    baseline_scores = ", ".join(f"{system} {value:.{digits}f}" for system, value in baselines.items())
    spread = f"{min(scores):.{digits}f} to {max(scores):.{digits}f} ({len(scores)})"
    mean = f"{statistics.mean(scores):.{digits}f}"
    losses = [model["token_loss"] for model in models]
    loss = f"{statistics.mean(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})"
    minutes = f"{statistics.median(minutes):.1f}"
    return [results[0]["split"], metric.replace("_", " "), mean, spread, loss, minutes, baseline_scores]


if __name__ == "__main__":
    main()
