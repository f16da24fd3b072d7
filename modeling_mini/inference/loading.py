"""Loading a trained checkpoint for its task: what it was trained for, its model and its tokenizer."""

import json
from dataclasses import fields
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from ..errors import UserError
from ..tasks import TASKS, task_class
from ..tasks.base import Task, TaskArguments


def recorded_arguments(checkpoint: str, **hub: str | None) -> dict:
    """The `TaskArguments` of the run that trained a checkpoint, as far as they are recorded; at least the row length.

    The folder of a run records all of them. A repository on the Hub records those that define how an input is encoded;
    `hub` may be `revision` and `token`.
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
    names = {field.name for field in fields(TaskArguments)}
    return {name: value for name, value in recorded.items() if name in names}


def checkpoint_task(checkpoint: str) -> str:
    """The task of a checkpoint's head; for a causal language model, text generation."""
    architecture = (_config(checkpoint).architectures or ["none"])[0]
    heads = {task_class(name).model_class.__name__: name for name in (*reversed(TASKS), "text-generation")}
    if architecture not in heads:
        raise UserError(
            f"{checkpoint} holds a {architecture}, which is not the model of any of {', '.join(heads.values())}."
        )
    return heads[architecture]


def load_checkpoint(checkpoint: str, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer for a task.

    Raises:
        UserError: there is no such checkpoint, its run did not finish, or its head is for another task.
    """
    check_head(checkpoint, task.model_class, task.name)
    model, tokenizer = load_model(checkpoint, task.model_class)
    task.configure(model.config)
    task.read_config(model.config)
    return model, tokenizer


def check_head(checkpoint: str, model_class: type, purpose: str) -> None:
    """Refuse a checkpoint with the head of another task, instead of adding an untrained head. Raises `UserError`."""
    architectures = _config(checkpoint).architectures or []
    if model_class.__name__ not in architectures:
        raise UserError(
            f"{checkpoint} holds a {' and '.join(architectures) or 'model without a head'}, and {purpose} needs a "
            f"{model_class.__name__}; fine-tune it with --init_from {checkpoint}, or choose another checkpoint."
        )


def load_model(checkpoint: str, model_class: type) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model, by a class or an Auto class, and tokenizer. Raises `UserError` if this is not a finished checkpoint."""
    _config(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
        return model_class.from_pretrained(checkpoint, trust_remote_code=False).eval(), tokenizer
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: {str(error).splitlines()[0]}") from error


def _config(checkpoint: str, **hub: str | None) -> PretrainedConfig:
    if any(Path(checkpoint).glob("checkpoint-*")) and not (Path(checkpoint) / "config.json").exists():
        raise UserError(
            f"{checkpoint} is a run that did not finish; continue it with --resume, or use one of the checkpoint "
            "folders in it."
        )
    try:
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, **hub)
    except (OSError, ValueError) as error:
        found = "" if Path(checkpoint).exists() else " there is no such folder, and on the Hub:"
        raise UserError(f"{checkpoint}:{found} {str(error).splitlines()[0]}") from error
