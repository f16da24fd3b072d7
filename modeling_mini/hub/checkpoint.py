"""The checkpoint that is shared: whether its folder is complete and safe to open, and opening it."""

import json
import logging
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .. import modeling_mini
from ..checkpoints import checkpoints, is_whole_safetensors
from ..configuration_mini import AUTO_CLASSES, MiniConfig
from ..errors import UserError, one_line
from .repository import matches, refuse_files


logger = logging.getLogger(__name__)

WEIGHT_FILES = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]


def load_for_push(checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The model in a folder, opened with the class that saved it, and its tokenizer if it has one.

    Raises:
        UserError: the folder contains no model of ours, no safetensors, a pickle, or weights that are truncated or do
            not fit the config.
    """
    if not checkpoint.is_dir():
        raise UserError(f"There is no folder {checkpoint}; give a trained model, such as runs/quickstart.")
    config = require_model_folder(checkpoint, source=str(checkpoint))
    architecture = config.architectures[0] if isinstance(config.architectures, list) else config.architectures
    if architecture not in AUTO_CLASSES:
        raise UserError(
            f"{checkpoint / 'config.json'} names the architecture {architecture!r}, which is not one of "
            f"{', '.join(AUTO_CLASSES)}; save the model again with save_pretrained."
        )
    has_tokenizer = any(checkpoint.glob("tokenizer*.json"))
    try:
        model, report = getattr(modeling_mini, architecture).from_pretrained(
            checkpoint, use_safetensors=True, output_loading_info=True
        )
        # trust_remote_code=False: transformers never asks whether to run code in the folder.
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False) if has_tokenizer else None
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise UserError(f"{checkpoint} does not open: {one_line(error)}") from error
    for kind, verb, relation in (
        ("missing_keys", "lack", "requires"),
        ("unexpected_keys", "contain", "does not describe"),
    ):
        if names := sorted(report[kind]):
            raise UserError(
                f"The weights in {checkpoint} {verb} {names[0]}, which config.json {relation} ({len(names)} such "
                "names in total); save the model again."
            )
    if tokenizer is None:
        logger.warning("%s contains no tokenizer, so the repository will have none.", checkpoint)
    return model.eval(), tokenizer


def require_model_folder(folder: Path, source: str) -> MiniConfig:
    """The config of a folder that contains a model of ours in complete safetensors files. Raises `UserError`."""
    files = [path.name for path in folder.iterdir()]
    refuse_files(files, source)
    if "config.json" not in files:
        runs = checkpoints(folder)
        hint = f"the run is unfinished; give a checkpoint such as {runs[0]}" if runs else "give a trained model"
        raise UserError(f"{source} contains no config.json; {hint}.")
    weights = [name for name in files if matches(name, WEIGHT_FILES) and name.endswith(".safetensors")]
    if not weights:
        raise UserError(f"{source} contains no weights (model*.safetensors); save the model with save_pretrained.")
    if damaged := [name for name in weights if not is_whole_safetensors(folder / name)]:
        raise UserError(f"{damaged[0]} in {source} is truncated; copy it again, or use another checkpoint.")
    if "model.safetensors.index.json" in files:
        _check_index(folder / "model.safetensors.index.json", files, source)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a damaged file raises whatever its reader raises
        cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
        raise UserError(f"config.json in {source}: {one_line(cause or error)}") from error
    if not isinstance(config, MiniConfig):
        raise UserError(
            f"{source} contains a {config.model_type} model; this command shares only modeling_mini models."
        )
    return config


def _check_index(index: Path, files: list[str], source: str) -> None:
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index.name} in {source} is not a valid weight index; save the model again.") from error
    if missing := sorted(parts - set(files)):
        raise UserError(f"{index.name} in {source} names {missing[0]!r}, which is not a file next to it.")
