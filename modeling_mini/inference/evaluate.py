"""`modeling-mini eval`: a checkpoint and the baselines of its task on the same examples, in one table."""

import json
import sys
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset, IterableDataset
from matplotlib.figure import Figure

from ..data.examples import Examples
from ..errors import UserError
from ..parsing import parse_dataclasses
from ..tables import markdown_table
from ..tasks import choose_dataset, task_class
from ..tasks.base import ENCODING_ARGUMENTS, Task, TaskArguments, show
from .loading import checkpoint_task, load_checkpoint, recorded_arguments


SPLITS = ("test", "validation", "train")  # in order of preference
RESULT_FILES = ("results.json", "results.png", "predictions.jsonl")
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
    max_examples: int | None = field(default=None, metadata={"help": "Evaluate only the first N examples."})
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
    task_args, args = parse_dataclasses((TaskArguments, EvalArguments), options, "modeling-mini eval [CHECKPOINT]")
    explicit = {word.lstrip("-").partition("=")[0].replace("-", "_") for word in options if word.startswith("--")}
    explicit |= {name.removeprefix("no_") for name in explicit}
    divide = "dataset" not in explicit
    if checkpoint is not None:
        recorded = recorded_arguments(checkpoint)
        check_same_task(checkpoint, recorded, task_args.task if "task" in explicit else None)
        if is_same_data(task_args.dataset, recorded.get("dataset")):  # never test on the rows it was trained on
            divide, task_args.dataset = True, recorded["dataset"]
        task_args = _completed(task_args, recorded, explicit, checkpoint)
    choose_dataset(task_args)
    task = task_class(task_args.task)(task_args)

    check_eval_arguments(args)
    if args.output is not None:
        make_folder(args.output)

    model = None
    if checkpoint is not None:
        model, tokenizer = load_checkpoint(checkpoint, task)
    split, examples, train = _choose(task, args, divide)
    systems, predictions = {}, None
    if args.baselines:
        systems = {name: task.score(answers, examples) for name, answers in task.baselines(examples, train)}
    if model is not None:
        name = f"{Path(checkpoint).name} ({model.num_parameters():,} parameters)"
        systems[name], predictions = task.evaluate(model, tokenizer, examples, args.batch_size)
    if not systems:
        hint = f"they need a training split besides {split!r}; " if args.baselines and train is None else ""
        raise UserError(f"{task.name} has no baselines here; {hint}name a checkpoint.")
    dataset = task_args.dataset
    sys.stdout.write(f"{task.name}: {dataset}, {split}, {len(examples):,} examples\n\n{table(systems)}\n")
    if args.output is not None:
        about = {"checkpoint": checkpoint, "dataset": dataset, "split": split, "examples": len(examples)}
        _write(Path(args.output), {"task": task.name, **about}, systems, examples, predictions, task)


def check_eval_arguments(args: EvalArguments) -> None:
    """Raises `UserError` for a value out of range or an unknown split."""
    for name in ("max_examples", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; give at least 1.")
    if args.split not in (None, *SPLITS):
        raise UserError(f"--split {args.split}: choose one of {', '.join(SPLITS)}.")


def check_same_task(checkpoint: str, recorded: dict, task: str | None) -> None:
    """Raises `UserError` for a checkpoint of another task with the same head; a language model is accepted."""
    trained_task = recorded.get("task", "text-generation")
    if task in (None, trained_task) or trained_task == "text-generation":
        return
    if task_class(task).model_class is task_class(trained_task).model_class:
        raise UserError(f"{checkpoint} was trained for {trained_task}, not for {task}; choose another checkpoint.")


def is_same_data(dataset: str | None, recorded: str | None) -> bool:
    """Whether two names mean the same data set or the same file."""
    if dataset is None or recorded is None:
        return False
    return dataset == recorded or (Path(dataset).exists() and Path(dataset).resolve() == Path(recorded).resolve())


def make_folder(path: str) -> None:
    """Create the output folder, or accept one whose results are of this command. Raises `UserError`."""
    folder = Path(path)
    taken = [name for name in RESULT_FILES if (folder / name).exists()]
    if taken and not _is_ours(folder / "results.json"):
        raise UserError(
            f"--output {path} holds {taken[0]}, which this command did not write and would overwrite; choose another "
            "folder."
        )
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {path}: {error.strerror}; choose another folder.") from error


def _is_ours(results: Path) -> bool:
    """Whether an earlier evaluation wrote a results.json."""
    try:
        return {"task", "systems", "versions"} <= json.loads(results.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _choose(task: Task, args: EvalArguments, divide: bool) -> tuple[str, Dataset, Dataset | None]:
    """Name and examples of the split to evaluate on, and the training examples of the baselines."""
    roles = SPLITS if args.split is None else tuple(dict.fromkeys(("train", args.split)))
    splits = task.load(divide, roles, needs_train=False)
    split = args.split or next(name for name in SPLITS if name in splits)
    if split not in splits:
        raise UserError(f"--split {split}: {task.args.dataset} has {', '.join(splits)}; choose one of them.")
    train = splits["train"] if split != "train" and "train" in splits else None
    examples = _stored(splits[split], args.max_examples, STREAMED_EXAMPLES)
    return split, examples, train and _stored(train, None, STREAMED_TRAINING_EXAMPLES)


def _stored(examples: Examples, limit: int | None, limit_of_stream: int) -> Dataset:
    if isinstance(examples, IterableDataset):
        return Dataset.from_list(list(examples.take(limit or limit_of_stream)))
    return examples if limit is None else examples.take(min(limit, len(examples)))


def _completed(task_args: TaskArguments, recorded: dict, explicit: set[str], checkpoint: str) -> TaskArguments:
    """The explicit arguments, completed by the recorded arguments of the run that trained the checkpoint."""
    recorded = {"task": recorded.get("task") or checkpoint_task(checkpoint), **recorded}
    changed = [name for name in ("task", "dataset") if getattr(task_args, name) != recorded.get(name)]
    if explicit.intersection(changed):  # the recorded columns and splits do not apply
        recorded = {name: value for name, value in recorded.items() if name in ENCODING_ARGUMENTS}
    return TaskArguments(**{**asdict(task_args), **{k: v for k, v in recorded.items() if k not in explicit}})


def table(systems: dict[str, dict]) -> str:
    """Scores of several systems as a Markdown table with 95% intervals."""
    metrics = list(dict.fromkeys(name for scores in systems.values() for name in scores if _is_shown(name, scores)))
    rows = [["system", *(name.replace("_", " ") for name in metrics)]]
    for system, scores in systems.items():
        rows.append([system, *(_cell(name, scores) for name in metrics)])
    return markdown_table(rows)


def _is_shown(name: str, scores: dict) -> bool:
    # Token losses are comparable only between models of one tokenizer; bits per byte between all models.
    return f"{name}_interval" in scores or (name == "token_loss" and "bits_per_byte" not in scores)


def _cell(name: str, scores: dict) -> str:
    if name not in scores:
        return ""
    digits = 2 if scores[name] >= 10 else 3
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
    (folder / "results.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    plot(systems, task.metric, folder / "results.png")
    files = ["results.json", "results.png"]
    if predictions is not None and task.has_prediction_per_example:
        files.append("predictions.jsonl")
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as lines:
            for example, prediction in zip(examples, predictions, strict=True):
                lines.write(json.dumps({**example, "prediction": prediction}, ensure_ascii=False) + "\n")
        sys.stdout.write(f"\nThe first five examples:\n\n{show(examples, predictions)}\n")
    sys.stdout.write(f"\n{folder} contains {', '.join(files)}\n")


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
