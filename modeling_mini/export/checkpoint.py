"""The model and the tokenizer that are exported."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import modeling_mini
from ..errors import UserError
from ..model_folders import open_model, open_tokenizer, require_model_folder


def open_checkpoint(checkpoint: Path, source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a checkpoint with its own head, in float32 and evaluation mode, and its tokenizer.

    Args:
        checkpoint: the folder of a trained model.
        source: how the user named it.

    Raises:
        UserError: the checkpoint is refused (see `require_model_folder`), or is quantized.
    """
    config = require_model_folder(checkpoint, source)
    if hasattr(config, "quantization_config"):
        raise UserError(f"{source} is quantized, which no export can read; name the original model.")
    tokenizer = open_tokenizer(checkpoint, source, config.vocab_size)
    model = open_model(checkpoint, getattr(modeling_mini, config.architectures[0]), source)
    return model.float(), tokenizer
