"""Load a trained checkpoint: its task, the arguments of its run, its model and its tokenizer."""

from dataclasses import asdict
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from ..checkpoints import RUN_NAME
from ..configuration_mini import MiniConfig
from ..errors import UserError
from ..json_files import read_object
from ..model_folders import config_folder, local_folder, open_model, open_tokenizer, read_config, require_model_folder
from ..modeling_mini import MiniForCausalLM
from ..tasks import TASKS, task_class
from ..tasks.base import Task, TaskArguments


def recorded_arguments(checkpoint: str, **hub: str | None) -> dict:
    """The recorded `TaskArguments` of the run that trained a checkpoint; at least `block_size`.

    The folder of a run records all of them. A repository on the Hub records the `ENCODING_ARGUMENTS`; `hub` may hold
    `revision` and `token`.
    """
    paths = []
    for folder in (Path(checkpoint).absolute(), Path(checkpoint).resolve()):  # the name may be a link, or `.`
        paths.append(folder / RUN_NAME)
        if folder.name.startswith("checkpoint-"):
            paths.append(folder.parent / RUN_NAME)
    run_file = next(filter(Path.is_file, paths), None)
    if run_file is not None:
        recorded = _object_in(read_object(run_file), "data", run_file)
    else:
        recorded = {"block_size": _config(checkpoint, **hub).max_position_embeddings}
        metrics_file = cached_file(checkpoint, "metrics.json", _raise_exceptions_for_missing_entries=False, **hub)
        if metrics_file is not None:
            metrics_file = Path(metrics_file)
            recorded |= _object_in(read_object(metrics_file, checkpoint), "encoding", metrics_file)
    defaults = asdict(TaskArguments())
    for name in recorded.keys() & defaults.keys():
        default, value = defaults[name], recorded[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_valid = is_number if type(default) in (int, float) else isinstance(value, type(default))
        if default is not None and value is not None and not is_valid:
            raise UserError(
                f"The arguments recorded for {checkpoint} are damaged: {name} is {value!r}; delete the entry from "
                "_run.json or metrics.json."
            )
    return {name: value for name, value in recorded.items() if name in defaults}


def _object_in(content: dict, name: str, path: Path) -> dict:
    """An object in a JSON object, empty if it is missing. Raises `UserError` for any other value."""
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise UserError(f"{name!r} in {path} holds a {type(value).__name__}, not a JSON object; delete the file.")
    return value


def checkpoint_task(checkpoint: str) -> str:
    """The task that matches a checkpoint's head; text generation for a causal language model. Raises `UserError`."""
    architecture = _architectures(_config(checkpoint))[0]
    heads = {task_class(name).model_class.__name__: name for name in (*reversed(TASKS), "text-generation")}
    if architecture not in heads:
        raise UserError(
            f"{checkpoint} holds a {architecture}, but the tasks {', '.join(heads.values())} have other models."
        )
    return heads[architecture]


def task_name(checkpoint: str) -> str:
    """The task that a checkpoint was trained for: recorded by its run, or else by its head. Raises `UserError`."""
    return recorded_arguments(checkpoint).get("task") or checkpoint_task(checkpoint)


def recorded_task(recorded: dict, name: str) -> Task:
    """The task with the `recorded_arguments` of a run."""
    return task_class(name)(TaskArguments(**{**recorded, "task": name}))


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
    config = _config(checkpoint)
    architectures = _architectures(config)
    if model_class.__name__ not in architectures:
        is_possible = config.is_causal or model_class is not MiniForCausalLM
        remedy = f"fine-tune it with --init_from {checkpoint}, or choose" if is_possible else "choose"
        raise UserError(
            f"{checkpoint} holds a {' and '.join(architectures)}, but {purpose} needs a {model_class.__name__}; "
            f"{remedy} another checkpoint."
        )


def _architectures(config: MiniConfig) -> list[str]:
    names = config.architectures if isinstance(config.architectures, list) else [config.architectures]
    return [str(name) for name in names if name] or ["model without a head"]


def load_model(checkpoint: str, model_class: type) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (of a class or an Auto class) and tokenizer of a folder, or of a repository on the Hub.

    Raises:
        UserError: this is not a finished checkpoint that is complete and safe to open (see `require_model_folder`).
    """
    folder = local_folder(checkpoint)
    config = require_model_folder(folder, checkpoint)
    tokenizer = open_tokenizer(folder, checkpoint, config.vocab_size)
    model = open_model(folder, model_class, checkpoint)
    return model, tokenizer


def _config(checkpoint: str, **hub: str | None) -> MiniConfig:
    return read_config(config_folder(checkpoint, **hub), checkpoint)
