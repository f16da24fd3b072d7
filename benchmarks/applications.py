"""Train every application with several seeds, score it on held-out data, and print one table.

    python benchmarks/applications.py                        # the whole table of docs/applications.md: hours
    python benchmarks/applications.py translation fields     # some rows of it
    python benchmarks/applications.py --seeds 1              # one seed each
    python benchmarks/applications.py --list                 # the names of the rows, and their arguments

A finished run is not repeated, so the work can be split over several calls, one after the other. Each call prints the
table of all runs in `--folder`. The pretrained models that the rows start from are trained first.

`benchmarks/data_sets.py` writes the data sets that are not built in into `--data`, one folder each. A row whose folder
is missing is left out. No recipe was tuned on them, except `text-classification-scratch`, which was tuned on the
validation splits of the supersenses and of `fields-2`. The options of a row (a number of passes, longer targets) were
chosen on its validation split.
"""

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from modeling_mini.errors import UserError
from modeling_mini.inference.verdict import compared_metrics, is_better, ranked_baselines
from modeling_mini.tables import decimals, markdown_table
from modeling_mini.tasks import task_class
from modeling_mini.training.locking import locked


# Pretrained models that rows start from: name -> arguments of train.py; {data} is the folder of `--data`.
PRETRAINED = {
    "causal": "pretraining",
    "masked": "fill-mask",
    "films": (
        'pretraining --dataset {data}/film-texts --config_overrides {"vocab_size":16384} '
        "--max_steps 7000 --eval_steps 1000 --save_steps 1000"
    ),
}

# Number of labels -> updates from the causal model, and from scratch, chosen on the validation split (experiments.md).
FEW_LABELS = {200: (150, 250), 1000: (300, 600)}
FEW_LABELS_OPTIONS = "--metric_for_best_model accuracy --eval_steps 50 --save_steps 50"
FIELDS_FROM_SCRATCH = "text-classification-scratch --num_train_epochs 5 --metric_for_best_model accuracy"
BAG_OF_WORDS = '--config_overrides {"classifier_pooling":"first_last_mean"}'

# Name of a row -> arguments of train.py; {causal}, {masked} and {films} are the folders of the pretrained models.
RUNS = {
    "generation": "quickstart",
    "generation, Shakespeare": "quickstart --dataset {data}/shakespeare.txt",
    "translation": "translation",
    "translation, packages": (
        "translation --dataset {data}/packages --max_steps 3000 --block_size 256 --max_target_tokens 96 "
        "--per_device_train_batch_size 8"
    ),
    "summarization": "summarization --init_from {causal}",
    "summarization, from scratch": "summarization",
    "summarization, without the document": "summarization --init_from {causal} --max_source_tokens 0",
    "summarization, operations": "summarization --init_from {causal} --dataset {data}/operations",
    "fields": "text-classification --init_from {causal}",
    "fields, from the masked model": "text-classification --init_from {masked}",
    "fields, from scratch": FIELDS_FROM_SCRATCH,
    **{f"fields, fold {n}, from scratch": f"{FIELDS_FROM_SCRATCH} --dataset {{data}}/fields-{n}" for n in range(1, 5)},
    **{
        f"fields, {labels} labels": (
            f"text-classification --init_from {{causal}} --max_train_documents {labels} --max_steps {updates} "
            + FEW_LABELS_OPTIONS
        )
        for labels, (updates, _) in FEW_LABELS.items()
    },
    **{
        f"fields, {labels} labels, from scratch": (
            f"text-classification-scratch --max_train_documents {labels} --max_steps {updates} "
            f"--per_device_train_batch_size 32 --eval_strategy steps {FEW_LABELS_OPTIONS}"
        )
        for labels, (_, updates) in FEW_LABELS.items()
    },
    "supersenses": "text-classification --init_from {causal} --dataset {data}/supersenses",
    "supersenses, from scratch": "text-classification-scratch --dataset {data}/supersenses",
    "emotions, from scratch": "text-classification-scratch --dataset {data}/emotions",
    "sentiment": f"text-classification --init_from {{films}} --dataset {{data}}/sentiment {BAG_OF_WORDS}",
    "sentiment, from scratch": "text-classification-scratch --dataset {data}/sentiment --num_train_epochs 1",
    "reviews": "text-classification --init_from {films} --dataset {data}/reviews --num_train_epochs 2",
    "kinds, from scratch": "text-classification-scratch --dataset {data}/kinds",
    "answering": "question-answering --init_from {causal}",
    "answering, from the masked model": "question-answering --init_from {masked}",
    "answering, from scratch": "question-answering",
    "answering, hypernyms": "question-answering --init_from {causal} --dataset {data}/hypernyms",
    "generative answering": "generative-question-answering --init_from {causal}",
    "generative answering, hypernyms": (
        "generative-question-answering --init_from {causal} --dataset {data}/hypernyms"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"all by default: {'; '.join(RUNS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("runs/applications"))
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="data sets of benchmarks/data_sets.py")
    parser.add_argument("--list", action="store_true", help="print the rows and their arguments, and train nothing")
    args = parser.parse_args()
    if unknown := set(args.runs) - set(RUNS):
        parser.error(f"there is no run {min(unknown)!r}; choose from {'; '.join(RUNS)}")
    if args.list:
        print("\n".join(f"{name}: {arguments}" for name, arguments in RUNS.items()))  # noqa: T201
        return

    folders = {name: args.folder / name for name in PRETRAINED} | {"data": args.data}
    for name in args.runs or RUNS:
        starts = [start for start in PRETRAINED if f"{{{start}}}" in RUNS[name]]
        commands = {folders[start]: filled(PRETRAINED[start], folders) for start in starts}
        arguments = filled(RUNS[name], folders)
        untrained = [command for folder, command in commands.items() if not is_finished(folder)]
        data_sets = [dict(itertools.pairwise(command)).get("--dataset") for command in (*untrained, arguments)]
        if missing := [path for path in data_sets if path is not None and not Path(path).exists()]:
            print(f"{name} is left out: there is no {missing[0]}", file=sys.stderr)  # noqa: T201
            continue
        for folder, command in commands.items():
            train(folder, [*command, "--seed", "1"])
        for seed in args.seeds:
            folder = folder_of(name, args.folder) / str(seed)
            train(folder, [*arguments, "--seed", str(seed)])
            # The baselines do not depend on the seed.
            evaluate(folder, [] if seed == args.seeds[0] else ["--no_baselines"])
    print(table(args.folder))  # noqa: T201


def filled(command: str, folders: dict[str, Path]) -> list[str]:
    """The arguments with `{causal}`, `{data}` and so on replaced by folders; other braces are JSON."""
    arguments = command.split()
    for name, folder in folders.items():
        arguments = [argument.replace(f"{{{name}}}", str(folder)) for argument in arguments]
    return arguments


def folder_of(name: str, folder: Path) -> Path:
    return folder / name.replace(", ", "-").replace(" ", "-")


def is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").exists()


def train(folder: Path, arguments: list[str]) -> None:
    if not is_finished(folder):
        try:
            with locked(folder, is_first_process=True):
                shutil.rmtree(folder, ignore_errors=True)  # the time of an interrupted and resumed run would be wrong
        except UserError as error:  # a run is active there
            raise SystemExit(f"Error: {error}") from error
        subprocess.run([sys.executable, "train.py", *arguments, "--output_dir", str(folder)], check=True)


def evaluate(folder: Path, arguments: list[str]) -> None:
    if not (folder / "test" / "results.json").exists():
        program = [sys.executable, "-c", "from modeling_mini.cli import main; raise SystemExit(main())", "eval"]
        subprocess.run([*program, str(folder), "--output", str(folder / "test"), *arguments], check=True)


def table(folder: Path) -> str:
    """Each run with its metrics and every baseline, best first. Above the table: what is below a baseline."""
    rows, missed = [], []
    for name in RUNS:
        finished = [path.parents[1] for path in sorted(folder_of(name, folder).glob("*/test/results.json"))]
        for cells, unbeaten in compared(finished) if finished else ():
            rows.append([name, *cells])
            if unbeaten:
                missed.append(f"- {name}, {cells[1]}: {cells[2]}, but {unbeaten}")
    titles = ["run", "data", "metric", "mean (lowest to highest, seeds)", "minutes", "baselines", "verdict"]
    notes = ["Not above every baseline with every seed:", *missed, ""] if missed else []
    return "\n".join([*notes, markdown_table([titles, *rows])])


def compared(folders: list[Path]) -> list[tuple[list[str], str]]:
    """The cells of each metric of a run, and the best baseline if a seed is not above it, else an empty text."""
    results = [json.loads((folder / "test" / "results.json").read_text(encoding="utf-8")) for folder in folders]
    minutes = [json.loads((folder / "metrics.json").read_text())["train_seconds"] / 60 for folder in folders]
    systems = [list(result["systems"].items()) for result in results]
    models = [scores for *_, (_, scores) in systems]  # the baselines come first
    baselines = dict(pair for *pairs, _ in systems for pair in pairs)
    rows = []
    for metric, greater in compared_metrics(task_class(results[0]["task"])).items():
        scores = [model[metric] for model in models]
        rivals = ranked_baselines(baselines, metric, greater)
        best = next(iter(rivals.values()), None)
        wins = best is None or all(is_better(score, best, greater) for score in scores)
        mean_wins = wins or is_better(statistics.mean(scores), best, greater)
        digits = decimals(max(scores))
        low, high = f"{min(scores):.{digits}f}", f"{max(scores):.{digits}f}"
        baseline_cells = [f"{name} {score:.{digits}f}" for name, score in rivals.items()]
        cells = [
            f"{Path(results[0]['dataset']).name}, {results[0]['split']}",
            metric.replace("_", " "),
            f"{statistics.mean(scores):.{digits}f} ({low} to {high}, {len(scores)})",
            f"{statistics.median(minutes):.1f}",
            "; ".join(baseline_cells),
            "" if not rivals else "above" if wins else "above on average" if mean_wins else "below",
        ]
        rows.append((cells, "" if wins else baseline_cells[0]))
    return rows


if __name__ == "__main__":
    main()
