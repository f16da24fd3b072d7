"""The checkpoint that is shared: opening it, with its tokenizer."""

import logging
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import modeling_mini
from ..errors import UserError
from ..model_folders import has_tokenizer, open_model, open_tokenizer, require_model_folder


logger = logging.getLogger(__name__)


def load_for_push(checkpoint: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The model in a folder, opened with the class that saved it, and its tokenizer if it has one.

    Raises:
        UserError: the folder contains no model of ours that is complete and safe to open (see
            `require_model_folder`), or its tokenizer is damaged.
    """
    if not checkpoint.is_dir():
        raise UserError(f"There is no folder {checkpoint}; give a trained model, such as runs/quickstart.")
    source = str(checkpoint)
    config = require_model_folder(checkpoint, source)
    model = open_model(checkpoint, getattr(modeling_mini, config.architectures[0]), source)
    if not has_tokenizer(checkpoint):
        logger.warning("%s contains no tokenizer, so the repository will have none.", checkpoint)
        return model, None
    return model, open_tokenizer(checkpoint, source, config.vocab_size)
