"""Predictions of a trained checkpoint for texts from the command line or a stream."""

import json
import logging
from collections.abc import Iterator
from itertools import compress
from typing import TextIO

from datasets import Dataset

from ..decoding import DecodingArguments
from ..errors import UserError
from ..json_files import parse
from ..streams import has_lone_surrogate
from ..tasks.base import Task
from .loading import load_checkpoint, recorded_arguments, recorded_task


logger = logging.getLogger(__name__)


def predict(
    checkpoint: str,
    task_names: list[str],
    texts: list[str],
    stream: TextIO,
    is_jsonl: bool = False,
    batch_size: int = 32,
    decoding: DecodingArguments | None = None,
    as_ascii: bool = False,
) -> Iterator[str]:
    """Predict for texts, or for the lines of a stream if there are none: one line per text, blank for a blank text.

    With `is_jsonl`, each line of the stream is a JSON object with the task's inputs; the output is the same object
    with its `prediction`. With `as_ascii`, JSON holds other characters by their code, for an output that is not UTF-8.
    `task_names` are the tasks that the command accepts; the checkpoint's task must be one of them. `decoding` is for
    tasks that write a text.

    Raises:
        UserError: the checkpoint does not exist, it was trained for another task, or the input is wrong.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}; give at least 1.")
    if is_jsonl and texts:
        raise UserError("--jsonl reads objects from standard input, but a text is given too; leave one of them out.")
    recorded = recorded_arguments(checkpoint)
    name = recorded.get("task", task_names[0])
    if name not in task_names:
        raise UserError(
            f"{checkpoint} was trained for {name}, not for {' or '.join(task_names)}; choose another checkpoint."
        )
    task = recorded_task(recorded, name)
    options = decoding_options(task, decoding, checkpoint)
    examples = _json_lines(stream, task) if is_jsonl else task.inputs(texts, stream)
    columns = [name for name in (*task.input_columns, *task.agreed_columns) if name in examples[0]]
    has_text = [bool(example[task.input_columns[0]].strip()) for example in examples]
    inputs = [{name: example[name] for name in columns} for example in compress(examples, has_text)]
    if any(has_lone_surrogate(text) for example in inputs for text in example.values()):
        raise UserError("The text is not UTF-8; convert it.")
    model, tokenizer = load_checkpoint(checkpoint, task)
    require_columns_of_training(columns, task, checkpoint)
    rows = Dataset.from_list(inputs)
    if inputs and (truncated := task.num_truncated(tokenizer, rows)):
        part = "questions" if "question" in columns else "texts"
        logger.warning("%d of %d %s are longer than the model reads, and are truncated.", truncated, len(inputs), part)
    predictions = iter(task.predict(model, tokenizer, rows, batch_size, **options) if inputs else [])
    for example, has_prediction in zip(examples, has_text, strict=True):
        prediction = next(predictions) if has_prediction else ""
        if is_jsonl:
            yield json.dumps({**example, "prediction": prediction}, ensure_ascii=as_ascii)
        else:
            yield " ".join(prediction.splitlines())


def require_columns_of_training(columns: list[str], task: Task, checkpoint: str) -> None:
    """Refuse inputs with other optional columns than the training examples of the model. Raises `UserError`."""
    if task.present_columns is None:
        return
    for name in task.agreed_columns:
        if name in task.present_columns and name not in columns:
            raise UserError(
                f"{checkpoint} was trained on examples with a {name}, and the input has none; give one for each text, "
                f'as JSON with --jsonl: {{"{task.input_columns[0]}": ..., "{name}": ...}}.'
            )
        if name in columns and name not in task.present_columns:
            raise UserError(f"{checkpoint} was trained on examples without a {name}; leave it out of the input.")


def decoding_options(
    task: Task, decoding: DecodingArguments | None, checkpoint: str | None
) -> dict[str, DecodingArguments]:
    """The keyword arguments for `task.predict`. Raises `UserError` for options that have no effect on it."""
    names = [] if decoding is None else decoding.explicit()
    if not names:
        return {}
    if checkpoint is None:
        raise UserError(f"--{names[0]} is for a model that writes; name its checkpoint first.")
    if not task.writes_text:
        raise UserError(f"--{names[0]} is for tasks that write a text; {task.name} does not. Leave it out.")
    decoding.completed(task.default_decoding)
    return {"decoding": decoding}


def _json_lines(stream: TextIO, task: Task) -> list[dict]:
    examples, optional_columns = [], None
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            example = parse(line, object_pairs_hook=_unique)
            is_text = not has_lone_surrogate(json.dumps(example, ensure_ascii=False))
            present = [name for name in task.agreed_columns if name in example]
            missing = [name for name in (*task.input_columns, *present) if not isinstance(example.get(name), str)]
            missing = missing or [name for name in present if not example[name].strip()]
        except ValueError as error:
            raise UserError(f"Standard input, line {number} is not JSON ({error}).") from error
        except (AttributeError, TypeError):  # not an object
            missing = task.input_columns
        if not is_text:
            raise UserError(f"Standard input, line {number} holds half a character (a lone \\ud83d); correct it.")
        if missing:
            raise UserError(f"Standard input, line {number} has no text in {' and '.join(missing)}.")
        if optional_columns not in (None, present):
            columns = " and ".join(task.agreed_columns)
            raise UserError(f"Standard input, line {number}: give {columns} in every line, or in none.")
        optional_columns = present
        examples.append(example)
    if not examples:
        raise UserError("Standard input is empty; give a JSON object in each line.")
    return examples


def _unique(pairs: list[tuple[str, object]]) -> dict:
    """An object of JSON. Raises `ValueError` for a key that it has twice, of which one value would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {max(names, key=names.count)!r} is given twice")
    return values
