"""`modeling-mini eval`: a checkpoint and the baselines of its task on the same examples, in one table."""

import json
import logging
import sys
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset, IterableDataset
from matplotlib.figure import Figure

from ..data.examples import Examples
from ..data.splits import draw
from ..decoding import DecodingArguments, add_opposite
from ..errors import UserError
from ..options import choice_hint, is_same
from ..options import options as given_options
from ..parsing import parse_dataclasses
from ..streams import check_writable
from ..tables import decimals, markdown_table
from ..tasks import choose_dataset, task_class
from ..tasks.base import ENCODING_ARGUMENTS, Task, TaskArguments, show, warn_of_idle
from ..tasks.batches import describe_positions
from ..writing import complete_files, write_json
from .loading import checkpoint_task, load_checkpoint, recorded_arguments
from .predict import decoding_options
from .verdict import compared_metrics, verdict


logger = logging.getLogger(__name__)

SPLITS = ("test", "validation", "train")  # in order of preference
# The arguments that decide which rows a run sets aside for validation; of a stream, and of other data.
DIVIDING_ARGUMENTS = ("task", "where", "split_column", "text_unit", "streaming")
DIVIDING_STREAMS, DIVIDING_OTHERS = ("max_validation_documents",), ("validation_fraction", "split_seed")
RESULT_FILES = ("results.json", "results.png", "predictions.jsonl")
TRAINING_ROWS_ADVICE = "give training rows with --train_file, and the rows to score with --test_file"
STREAMED_EXAMPLES = 500  # default number of evaluated examples of a stream
STREAMED_TRAINING_EXAMPLES = 20_000  # of a stream, that the baselines are trained on


@dataclass
class EvalArguments:
    """What is evaluated, and where the results are written."""

    split: str | None = field(
        default=None,
        metadata={
            "help": "train, validation or test. Default: test if there is one, otherwise the held-out part; of a file "
            "given with --dataset, all of it."
        },
    )
    max_examples: int | None = field(
        default=None, metadata={"help": "Evaluate on at most N examples, drawn at random."}
    )
    baselines: bool = field(default=True, metadata={"help": "Score the baselines of the task as well."})
    batch_size: int = field(default=32, metadata={"help": "Examples, or rows, in a batch."})
    output: str | None = field(
        default=None, metadata={"help": "Folder for results.json, predictions.jsonl and results.png."}
    )


def evaluate(argv: list[str]) -> None:
    """`[CHECKPOINT] [--argument value ...]`: print a table of the checkpoint and the baselines, or of the baselines.

    Task and data default to those that the checkpoint was trained with.

    Raises:
        UserError: anything that the user can fix.
    """
    has_checkpoint = bool(argv) and not argv[0].startswith("-")
    checkpoint, options = (argv[0], argv[1:]) if has_checkpoint else (None, argv)
    task_args, args, decoding = parse_dataclasses(
        (TaskArguments, EvalArguments, DecodingArguments),
        options,
        "modeling-mini eval [CHECKPOINT]",
        add_opposite,
        about="CHECKPOINT is the folder of a trained model, or its name on the Hub. Without it, only the baselines of "
        "--task are scored. Task and data are by default those that the checkpoint was trained with.",
    )
    explicit = {name.removeprefix("no_") for name in given_options(options)}
    task_args.check_source()
    if task_args.split_files:
        explicit.add("dataset")
        task_args.dataset = next(iter(task_args.split_files.values()))
    divide = "dataset" not in explicit or task_args.train_file is not None
    changed_division = []
    if checkpoint is not None:
        task_args, divide, changed_division = _as_in_training(checkpoint, task_args, explicit, divide)
    task_args.check_stride(explicit)
    choose_dataset(task_args)
    warn_of_idle(task_args.idle(explicit))
    task = task_class(task_args.task)(task_args)

    check_eval_arguments(args)
    written = decoding_options(task, decoding, checkpoint)
    if args.output is not None:
        check_output(args.output)

    model = None
    if checkpoint is not None:
        model, tokenizer = load_checkpoint(checkpoint, task)
    split, examples, train = _choose(task, args, divide, changed_division)
    systems, predictions, comparison = {}, None, []
    if args.baselines:
        systems = {name: task.score(answers, examples) for name, answers in task.baselines(examples, train)}
    if model is not None:
        folder = " ".join(Path(checkpoint).absolute().name.split())  # a name may hold a newline
        name = f"{folder} ({model.num_parameters():,} parameters)"
        scores, predictions = task.evaluate(model, tokenizer, examples, args.batch_size, **written)
        comparison = verdict(scores, systems, compared_metrics(task))
        systems = {**systems, name: scores}
    is_training = args.split == "train"  # on which trained baselines are not scored
    lacks_training_rows = args.baselines and task.trains_baselines and train is None and not is_training
    if not systems:
        where = "on the split train" if is_training else "here"
        hint = f"{TRAINING_ROWS_ADVICE}, or " if lacks_training_rows else ""
        raise UserError(f"{task.name} has no baselines {where}; {hint}name a checkpoint.")
    if lacks_training_rows:
        comparison.append(f"Baselines that need training were not scored; {TRAINING_ROWS_ADVICE}.")
    dataset = task_args.split_files.get(split, task_args.dataset)
    name = heading(task_args, split, divide)
    parts = [f"{task.name}: {name}, {len(examples):,} examples", *comparison, table(systems)]
    sys.stdout.write("\n\n".join(parts) + "\n")
    if args.output is not None:
        about = {"checkpoint": checkpoint, "dataset": dataset, "split": split, "examples": len(examples)}
        about["decoding"] = _recorded_decoding(task, decoding) if checkpoint else None
        _write(Path(args.output), {"task": task.name, **about}, systems, examples, predictions, task)


def _recorded_decoding(task: Task, decoding: DecodingArguments) -> dict | None:
    """How texts are written, for `results.json`: the explicit options, and the task's defaults for the others."""
    if not task.writes_text:
        return None
    completed = decoding.completed(task.default_decoding)
    return {name: getattr(completed, name) for name in completed.explicit()}


def check_eval_arguments(args: EvalArguments) -> None:
    """Raises `UserError` for a value out of range or an unknown split."""
    for name in ("max_examples", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; give at least 1.")
    if args.split not in (None, *SPLITS):
        raise UserError(f"--split {args.split}: there is no such split; {choice_hint(args.split, SPLITS)}")


def check_same_task(checkpoint: str, recorded: dict, task: str | None) -> None:
    """Raises `UserError` for a checkpoint of another task with the same head; a language model is accepted."""
    trained_task = recorded.get("task", "text-generation")
    if task in (None, trained_task) or trained_task == "text-generation":
        return
    if task_class(task).model_class is task_class(trained_task).model_class:
        raise UserError(f"{checkpoint} was trained for {trained_task}, not for {task}; choose another checkpoint.")


def _as_in_training(
    checkpoint: str, task_args: TaskArguments, explicit: set[str], divide: bool
) -> tuple[TaskArguments, bool, list[str]]:
    """The arguments, completed by those of the run; whether rows are set aside; and `division_changes`."""
    recorded = recorded_arguments(checkpoint)
    check_same_task(checkpoint, recorded, task_args.task if "task" in explicit else None)
    warn_about_training_data(task_args, recorded)
    # Never test on the rows it was trained on.
    if not task_args.split_files and is_same(task_args.dataset, recorded.get("dataset")):
        divide, task_args.dataset = True, recorded["dataset"]
    completed = _completed(task_args, recorded, explicit, checkpoint)
    is_same_data = is_same(completed.dataset, recorded.get("dataset"))
    return completed, divide, division_changes(completed, recorded) if is_same_data else []


def division_changes(args: TaskArguments, recorded: dict) -> list[str]:
    """The arguments that set other rows of the same data aside than the run that trained the checkpoint."""
    names = DIVIDING_ARGUMENTS + (DIVIDING_STREAMS if args.streaming else DIVIDING_OTHERS)
    idle, defaults = args.idle(names), TaskArguments()
    changed = [name for name in names if getattr(args, name) != recorded.get(name, getattr(defaults, name))]
    return [name for name in changed if name not in idle]


def heading(args: TaskArguments, split: str, divide: bool) -> str:
    """The evaluated data: the file alone, if it is evaluated as a whole; otherwise the data set and the split."""
    dataset = args.split_files.get(split, args.dataset)
    is_whole = not divide and args.split_column is None and Path(dataset).is_file()
    return dataset if is_whole else f"{dataset}, {split}"


def warn_about_training_data(args: TaskArguments, recorded: dict) -> None:
    """Warn if a file to evaluate on is the one that the checkpoint was trained on."""
    for split in ("validation", "test"):
        path = args.split_files.get(split)
        if is_same(path, recorded.get("train_file") or recorded.get("dataset")):
            logger.warning("The checkpoint was trained on %s: these scores say nothing about other data.", path)


def check_output(path: str) -> None:
    """Create the output folder, or accept one whose results are of this command. Raises `UserError`."""
    if not path.strip():
        raise UserError("--output is empty; name a folder for the results, or leave it out.")
    folder = Path(path)
    taken = [name for name in RESULT_FILES if (folder / name).exists()]
    if taken and not _is_ours(folder / "results.json"):
        raise UserError(
            f"--output {path} holds {taken[0]}, which this command did not write and would overwrite; choose another "
            "folder."
        )
    check_writable(folder, "--output")


def _is_ours(results: Path) -> bool:
    """Whether an earlier evaluation wrote a results.json."""
    try:
        return {"task", "systems", "versions"} <= json.loads(results.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _choose(
    task: Task, args: EvalArguments, divide: bool, changed_division: list[str]
) -> tuple[str, Dataset, Dataset | None]:
    """Name and examples of the split to evaluate on, and the training examples of the baselines.

    Raises:
        UserError: the split does not exist, or its rows would be chosen in another way than in the training, so that
            the checkpoint could have been trained on them.
    """
    # Without the validation split, one would be made from training rows.
    roles = SPLITS if args.split is None else tuple(dict.fromkeys(("train", "validation", args.split)))
    splits = task.load(divide and not changed_division, roles, needs_train=False)
    split = args.split or next((name for name in SPLITS[:2] if name in splits), "validation" if divide else "train")
    is_set_aside = split == "validation" and (split not in splits or task.args.streaming)
    is_part = "split_column" in changed_division and split != "train" and split not in task.args.split_files
    if changed_division and (is_set_aside or is_part):
        raise UserError(
            f"--{changed_division[0]} is not as in the training, so rows that the model was trained on could be "
            "scored; leave it out, or give other rows with --test_file."
        )
    if split not in splits:
        raise UserError(f"--split {split}: {task.args.dataset} has {', '.join(splits)}; choose one of them.")
    train = splits["train"] if split != "train" and "train" in splits else None
    seed = task.args.split_seed
    examples = _stored(splits[split], args.max_examples, STREAMED_EXAMPLES, seed)
    return split, examples, train and _stored(train, None, STREAMED_TRAINING_EXAMPLES, seed)


def _stored(examples: Examples, limit: int | None, limit_of_stream: int, seed: int) -> Dataset:
    if isinstance(examples, IterableDataset):
        return Dataset.from_list(list(examples.take(limit or limit_of_stream)))
    return examples if limit is None else draw(examples, limit, seed)


def _completed(task_args: TaskArguments, recorded: dict, explicit: set[str], checkpoint: str) -> TaskArguments:
    """The explicit arguments, completed by the recorded arguments of the run that trained the checkpoint."""
    recorded = {"task": recorded.get("task") or checkpoint_task(checkpoint), **recorded}
    is_other = {
        "task": task_args.task != recorded["task"],
        "dataset": not is_same(task_args.dataset, recorded.get("dataset")),
    }
    if any(is_other[name] for name in explicit.intersection(is_other)):  # the recorded columns and splits do not apply
        recorded = {name: value for name, value in recorded.items() if name in ENCODING_ARGUMENTS}
    if task_args.split_files:  # each of which is one split
        recorded.pop("split_column", None)
    return TaskArguments(**{**asdict(task_args), **{k: v for k, v in recorded.items() if k not in explicit}})


def table(systems: dict[str, dict]) -> str:
    """Scores of several systems as a Markdown table with 95% intervals, and the loss by position where it is known."""
    metrics = list(dict.fromkeys(name for scores in systems.values() for name in scores if _is_shown(name, scores)))
    rows = [["system", *(name.replace("_", " ") for name in metrics)]]
    for system, scores in systems.items():
        rows.append([system, *(_cell(name, scores) for name in metrics)])
    positions = [
        f"\n\nLoss of {system} by position in the context: {describe_positions(scores['loss_by_position'])}"
        for system, scores in systems.items()
        if "loss_by_position" in scores
    ]
    return "".join([markdown_table(rows), *positions])


def _is_shown(name: str, scores: dict) -> bool:
    # Token losses are comparable only between models of one tokenizer; bits per byte between all models.
    hidden = {"token_loss_margin", "perplexity", *(["token_loss"] if "bits_per_byte" in scores else [])}
    return isinstance(scores[name], float) and name not in hidden


def _cell(name: str, scores: dict) -> str:
    if name not in scores:
        return ""
    digits = decimals(scores[name])
    interval = scores.get(f"{name}_interval")
    bounds = " ({0:.{2}f} to {1:.{2}f})".format(*interval, digits) if interval else ""
    return f"{scores[name]:.{digits}f}{bounds}"


def _write(
    folder: Path,
    about: dict,
    systems: dict[str, dict],
    examples: Dataset,
    predictions: list | None,
    task: Task,
) -> None:
    versions = {name: version(name) for name in ("torch", "transformers")}
    results = {**about, "date": str(date.today()), "versions": versions, "systems": systems}
    files = ["results.json", "results.png"]
    with complete_files(folder) as new:
        write_json(new / "results.json", results)
        plot(systems, task.metric, new / "results.png")
        if predictions is not None and task.has_prediction_per_example:
            files.append("predictions.jsonl")
            _write_predictions(new / "predictions.jsonl", examples, predictions)
    for name in set(RESULT_FILES).difference(files):
        (folder / name).unlink(missing_ok=True)  # of an earlier evaluation
    if "predictions.jsonl" in files:
        sys.stdout.write(f"\nThe first five examples:\n\n{show(examples, predictions)}\n")
    sys.stdout.write(f"\n{folder} contains {', '.join(files)}\n")


def _write_predictions(path: Path, examples: Dataset, predictions: list) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for example, prediction in zip(examples, predictions, strict=True):
            lines.write(json.dumps({**example, "prediction": prediction}, ensure_ascii=False) + "\n")


def plot(systems: dict[str, dict], metric: str, path: Path) -> None:
    """Write the metric of each system as a bar with its 95% interval, as PNG."""
    measured = {name: scores for name, scores in systems.items() if metric in scores}
    axes = Figure(figsize=(7, 0.6 + 0.5 * len(measured)), layout="constrained").subplots()
    values = [scores[metric] for scores in measured.values()]
    intervals = [scores.get(f"{metric}_interval", [scores[metric]] * 2) for scores in measured.values()]
    errors = [[max(value - low, 0) for value, (low, _) in zip(values, intervals, strict=True)]]
    errors.append([max(high - value, 0) for value, (_, high) in zip(values, intervals, strict=True)])
    labels = [name.replace("$", r"\$") for name in measured]  # matplotlib would read a formula between two dollars
    axes.barh(labels, values, xerr=errors, capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel(metric.replace("_", " "))
    axes.figure.savefig(path, dpi=150)
