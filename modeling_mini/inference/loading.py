"""Load a trained checkpoint: its task, the arguments of its run, its model and its tokenizer."""

import json
from dataclasses import fields
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from ..errors import UserError
from ..tasks import TASKS, task_class
from ..tasks.base import Task, TaskArguments


def recorded_arguments(checkpoint: str, **hub: str | None) -> dict:
    """The recorded `TaskArguments` of the run that trained a checkpoint; at least `block_size`.

    The folder of a run records all of them. A repository on the Hub records the `ENCODING_ARGUMENTS`; `hub` may hold
    `revision` and `token`.
    """
    folder = Path(checkpoint)
    paths = [folder / "_run.json"]
    if folder.name.startswith("checkpoint-"):
        paths.append(folder.parent / "_run.json")
    run_file = next(filter(Path.is_file, paths), None)
    if run_file is not None:
        recorded = json.loads(run_file.read_text(encoding="utf-8")).get("data", {})
    else:
        recorded = {"block_size": _config(checkpoint, **hub).max_position_embeddings}
        metrics_file = cached_file(checkpoint, "metrics.json", _raise_exceptions_for_missing_entries=False, **hub)
        if metrics_file is not None:
            recorded |= json.loads(Path(metrics_file).read_text(encoding="utf-8")).get("encoding", {})
    names = {field.name for field in fields(TaskArguments)}
    return {name: value for name, value in recorded.items() if name in names}


def checkpoint_task(checkpoint: str) -> str:
    """The task that matches a checkpoint's head; text generation for a causal language model. Raises `UserError`."""
    architecture = (_config(checkpoint).architectures or ["none"])[0]
    heads = {task_class(name).model_class.__name__: name for name in (*reversed(TASKS), "text-generation")}
    if architecture not in heads:
        raise UserError(
            f"{checkpoint} holds a {architecture}, but the tasks {', '.join(heads.values())} have other models."
        )
    return heads[architecture]


def load_checkpoint(checkpoint: str, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer for a task.

    Raises:
        UserError: the checkpoint does not exist, its run did not finish, or its head is for another task.
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
            f"{checkpoint} holds a {' and '.join(architectures) or 'model without a head'}, but {purpose} needs a "
            f"{model_class.__name__}; fine-tune it with --init_from {checkpoint}, or choose another checkpoint."
        )


def load_model(checkpoint: str, model_class: type) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (of a class or an Auto class) and tokenizer. Raises `UserError` if this is not a finished checkpoint."""
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
        hint = "" if Path(checkpoint).exists() else " there is no such folder, and on the Hub:"
        raise UserError(f"{checkpoint}:{hint} {str(error).splitlines()[0]}") from error
