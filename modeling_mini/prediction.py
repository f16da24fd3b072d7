"""A trained checkpoint for a task: what it was trained to do, how its inputs are read, and what it says to them."""

import json
from collections.abc import Iterator
from dataclasses import fields
from itertools import compress
from pathlib import Path
from typing import TextIO

from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from .data import DataArguments
from .errors import UserError
from .task import Task
from .tasks import task_class, task_names


def recorded_arguments(checkpoint: str, **hub: str | None) -> dict:
    """The `DataArguments` of the run that trained a checkpoint, as far as they are recorded; else its row length.

    The folder of a run holds all of them, and what was pushed to the Hub those that say how an input is read; `hub`
    may be `revision` and `token`.
    """
    folder = Path(checkpoint)
    paths = [folder / "_run.json"]
    if folder.name.startswith("checkpoint-"):
        paths.append(folder.parent / "_run.json")
    path = next(filter(Path.is_file, paths), None)
    if path is not None:
        recorded = json.loads(path.read_text(encoding="utf-8")).get("data", {})
    else:
        recorded = {"block_size": _config(checkpoint, **hub).max_position_embeddings}
        pushed = cached_file(checkpoint, "metrics.json", _raise_exceptions_for_missing_entries=False, **hub)
        if pushed is not None:
            recorded |= json.loads(Path(pushed).read_text(encoding="utf-8")).get("encoding", {})
    known = {field.name for field in fields(DataArguments)}
    return {name: value for name, value in recorded.items() if name in known}


def checkpoint_task(checkpoint: str) -> str:
    """The task that the head of a checkpoint is for; of a causal language model, text generation."""
    architecture = (_config(checkpoint).architectures or ["none"])[0]
    heads = {task_class(name).model_class.__name__: name for name in ("text-generation", *task_names())[::-1]}
    if architecture not in heads:
        raise UserError(f"{checkpoint} holds a {architecture}, which is for none of {', '.join(heads.values())}.")
    return heads[architecture]


def load_checkpoint(checkpoint: str, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer for a task.

    Raises:
        UserError: there is no such checkpoint, its run did not end, or its head is that of another task.
    """
    check_head(checkpoint, task.model_class, task.name)
    model, tokenizer = load_model(checkpoint, task.model_class)
    task.configure(model.config)
    task.adopt(model.config)
    return model, tokenizer


def check_head(checkpoint: str, model_class: type, purpose: str) -> None:
    """Refuse a checkpoint with the head of another task, which would be given a new one. Raises `UserError`."""
    found = _config(checkpoint).architectures or []
    if model_class.__name__ not in found:
        raise UserError(
            f"{checkpoint} holds a {' and '.join(found) or 'model without a head'}, and {purpose} needs a "
            f"{model_class.__name__}; fine-tune it with --init_from {checkpoint}, or choose another."
        )


def load_model(checkpoint: str, model_class: type) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model, of a class or an Auto class, and tokenizer. Raises `UserError` for what is no finished checkpoint."""
    _config(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
        return model_class.from_pretrained(checkpoint, trust_remote_code=False).eval(), tokenizer
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: {str(error).splitlines()[0]}") from error


def predict(
    checkpoint: str,
    task_names: list[str],
    texts: list[str],
    stream: TextIO,
    is_jsonl: bool = False,
    batch_size: int = 32,
) -> Iterator[str]:
    """What a checkpoint says to texts, or to those of a stream if there are none: a line for each, blank for a blank.

    With `is_jsonl`, the stream holds JSON objects of the task's inputs, and each line is that object with the
    `prediction`. Of several tasks, it is the one that the checkpoint was trained for.

    Raises:
        UserError: no such checkpoint, one for another task, or input that is not as it should be.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}; give at least 1.")
    recorded = recorded_arguments(checkpoint)
    name = recorded.get("task", task_names[0])
    if name not in task_names:
        raise UserError(f"{checkpoint} was trained for {name}, not for {' or '.join(task_names)}; choose another.")
    task = task_class(name)(DataArguments(**{**recorded, "task": name}))
    examples = _json_lines(stream, task) if is_jsonl else task.inputs(texts, stream)
    known = [name for name in (*task.input_columns, *task.optional_columns) if name in examples[0]]
    is_asked = [bool(example[task.input_columns[0]].strip()) for example in examples]
    asked = [{name: example[name] for name in known} for example in compress(examples, is_asked)]
    try:
        "".join(text for example in asked for text in example.values()).encode()
    except UnicodeEncodeError as error:
        raise UserError("The text is not UTF-8; convert it.") from error
    model, tokenizer = load_checkpoint(checkpoint, task)
    predictions = iter(task.predict(model, tokenizer, Dataset.from_list(asked), batch_size) if asked else [])
    for example, has_prediction in zip(examples, is_asked, strict=True):
        prediction = next(predictions) if has_prediction else ""
        if is_jsonl:
            yield json.dumps({**example, "prediction": prediction}, ensure_ascii=False)
        else:
            yield " ".join(prediction.splitlines())


def _json_lines(stream: TextIO, task: Task) -> list[dict]:
    examples, optional = [], None
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
            present = [name for name in task.optional_columns if name in example]
            missing = [name for name in (*task.input_columns, *present) if not isinstance(example[name], str)]
        except ValueError as error:
            raise UserError(f"Standard input, line {number} is not JSON ({error}).") from error
        except (KeyError, TypeError):
            missing = task.input_columns
        if missing:
            raise UserError(f"Standard input, line {number} lacks text in {' and '.join(missing)}.")
        if optional not in (None, present):
            columns = " and ".join(task.optional_columns)
            raise UserError(f"Standard input, line {number}: give {columns} in every line, or in none.")
        optional = present
        examples.append(example)
    if not examples:
        raise UserError("Standard input is empty; give a JSON object in each line.")
    return examples


def _config(checkpoint: str, **hub: str | None) -> PretrainedConfig:
    if any(Path(checkpoint).glob("checkpoint-*")) and not (Path(checkpoint) / "config.json").exists():
        raise UserError(
            f"{checkpoint} is a run that did not end; continue it with --resume, or take one of the checkpoint "
            "folders in it."
        )
    try:
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, **hub)
    except (OSError, ValueError) as error:
        found = "" if Path(checkpoint).exists() else " there is no such folder, and on the Hub:"
        raise UserError(f"{checkpoint}:{found} {str(error).splitlines()[0]}") from error
