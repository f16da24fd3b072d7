"""The applications, one file each. A new one is a new file here, and one line in `TASKS`."""

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import UserError


if TYPE_CHECKING:
    from .base import Task, TaskArguments

# Name (the Hub's, where the Hub has one), and the `Task` subclass in this folder.
TASKS = {
    "fill-mask": "fill_mask:FillMask",
    "generative-question-answering": "generative_question_answering:GenerativeQuestionAnswering",
    "question-answering": "question_answering:QuestionAnswering",
    "summarization": "summarization:Summarization",
    "text-classification": "text_classification:TextClassification",
    "text-generation": "text_generation:TextGeneration",
    "translation": "translation:Translation",
}


def task_class(name: str) -> type["Task"]:
    """The `Task` subclass of a task, by its name in `TASKS`. Raises `UserError` for another name."""
    if name not in TASKS:
        raise UserError(f"There is no task {name!r} in this version of modeling_mini; it has {', '.join(TASKS)}.")
    module, _, class_name = TASKS[name].partition(":")
    return getattr(import_module(f".{module}", __name__), class_name)


def choose_dataset(args: "TaskArguments") -> None:
    """Take the task's built-in data where no data are named.

    The first of `--train_file`, `--validation_file` and `--test_file` becomes the name of the data set.

    Raises:
        UserError: the task has no built-in data, or the data are not named as `DataArguments.check_source` requires.
    """
    args.check_source()
    if args.dataset is None:
        args.dataset = next(iter(args.split_files.values()), task_class(args.task).default_dataset)
    if args.dataset is None:
        raise UserError(f"{args.task} has no built-in data; name a data set with --dataset.")
