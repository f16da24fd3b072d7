"""A trained checkpoint for a task: what it was trained to do, how its inputs are read, and what it says to them."""

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TextIO

from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .data import DataArguments
from .errors import UserError
from .task import Task
from .tasks import task_class, task_names


def recorded_arguments(checkpoint: str) -> dict:
    """The `DataArguments` of the run that trained a checkpoint, where its folder holds them; else its row length."""
    folder = Path(checkpoint)
    paths = [folder / "_run.json"]
    if folder.name.startswith("checkpoint-"):
        paths.append(folder.parent / "_run.json")
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        return {"block_size": _config(checkpoint).max_position_embeddings}
    recorded = json.loads(path.read_text(encoding="utf-8")).get("data", {})
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
    wanted = task.model_class.__name__
    found = _config(checkpoint).architectures or []
    if wanted not in found:
        raise UserError(
            f"{checkpoint} holds a {' and '.join(found) or 'model without a head'}, and {task.name} needs a {wanted}; "
            f"fine-tune it with --init_from {checkpoint}, or choose another."
        )
    model, tokenizer = load_model(checkpoint, task.model_class)
    task.configure(model.config)
    return model, tokenizer


def load_model(checkpoint: str, model_class: type) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model, of a class or an Auto class, and tokenizer. Raises `UserError` for what is no finished checkpoint."""
    _config(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
        return model_class.from_pretrained(checkpoint, trust_remote_code=False).eval(), tokenizer
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: {str(error).splitlines()[0]}") from error


def predict(
    checkpoint: str, task_name: str, texts: list[str], stream: TextIO, is_jsonl: bool = False, batch_size: int = 32
) -> Iterator[str]:
    """What a checkpoint says to texts, or to those of a stream if there are none: a line for each.

    With `is_jsonl`, the stream holds JSON objects of the task's inputs, and each line is that object with the
    `prediction`.

    Raises:
        UserError: no such checkpoint, one for another task, or input that is not as it should be.
    """
    task = task_class(task_name)(DataArguments(**{**recorded_arguments(checkpoint), "task": task_name}))
    examples = Dataset.from_list(_json_lines(stream, task) if is_jsonl else task.inputs(texts, stream))
    model, tokenizer = load_checkpoint(checkpoint, task)
    for example, prediction in zip(examples, task.predict(model, tokenizer, examples, batch_size), strict=True):
        yield json.dumps({**example, "prediction": prediction}, ensure_ascii=False) if is_jsonl else prediction


def _json_lines(stream: TextIO, task: Task) -> list[dict]:
    examples = []
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
            missing = [name for name in task.input_columns if not isinstance(example[name], str)]
        except ValueError as error:
            raise UserError(f"Standard input, line {number} is not JSON ({error}).") from error
        except (KeyError, TypeError):
            missing = task.input_columns
        if missing:
            raise UserError(f"Standard input, line {number} lacks text in {' and '.join(missing)}.")
        examples.append(
            {name: example[name] for name in (*task.input_columns, *task.optional_columns) if name in example}
        )
    if not examples:
        raise UserError("Standard input is empty; give a JSON object in each line.")
    return examples


def _config(checkpoint: str):
    if any(Path(checkpoint).glob("checkpoint-*")) and not (Path(checkpoint) / "config.json").exists():
        raise UserError(
            f"{checkpoint} is a run that did not end; continue it with --resume, or take one of the checkpoint "
            "folders in it."
        )
    try:
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except (OSError, ValueError) as error:
        found = "" if Path(checkpoint).exists() else " there is no such folder, and on the Hub:"
        raise UserError(f"{checkpoint}:{found} {str(error).splitlines()[0]}") from error
