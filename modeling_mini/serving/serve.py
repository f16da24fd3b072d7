"""The command `serve`: what is refused before anything is loaded, and the start of the server (`server.py`)."""

import logging
import sys
from pathlib import Path

from ..commands import require_packages
from ..errors import UserError, one_line
from ..options import check_checkpoint
from .addresses import check_address, url_host


logger = logging.getLogger(__name__)


def serve(checkpoint: str, host: str, port: int, device: str, dtype: str, **options) -> None:
    """Serve a causal model until a signal ends the process.

    Args:
        checkpoint: folder of a trained model, or its name on the Hub.
        device: as for `device_map` of transformers: `auto`, `cpu`, `cuda:0`.
        dtype: of the weights: `auto` (as saved), `float32`, `bfloat16` or `float16`.
        options: further options of `transformers serve`, under its names.

    Raises:
        UserError: the checkpoint cannot generate text, does not open, or the address is not free.
        ModuleNotFoundError: a package of the extra `serving` is missing.
    """
    check_checkpoint(checkpoint)
    check_address(host, port)

    from ..model_folders import local_folder, open_model, open_tokenizer, require_model_folder
    from ..modeling_mini import MiniForCausalLM

    check_causal(checkpoint, "serve")
    check_device(device)
    require_packages("serving")

    from .server import Server

    folder = local_folder(checkpoint)
    config = require_model_folder(folder, checkpoint)
    tokenizer = open_tokenizer(folder, checkpoint, config.vocab_size)
    model = open_model(folder, MiniForCausalLM, checkpoint, dtype=dtype, device_map=device)
    if not tokenizer.chat_template:
        logger.warning("The tokenizer in %s has no chat template; only /v1/completions will answer.", checkpoint)
    names = model_names(checkpoint)
    sys.stdout.write(f"Serving the model {names[0]} at http://{url_host(host)}:{port}/v1; Ctrl-C stops the server.\n")
    sys.stdout.flush()
    Server(model, tokenizer, names, host=host, port=port, **options)


def check_causal(checkpoint: str, command: str) -> None:
    """Raises `UserError` for a checkpoint that does not continue text."""
    from ..inference.loading import check_head
    from ..model_folders import config_folder, read_config
    from ..modeling_mini import MiniForCausalLM

    check_head(checkpoint, MiniForCausalLM, command)
    if not read_config(config_folder(checkpoint), checkpoint).is_causal:
        raise UserError(
            f"{checkpoint} has is_causal=False and does not continue text; {command} needs a causal MiniForCausalLM."
        )


def check_device(device: str) -> None:
    """Raises `UserError` for a device that this machine does not have; `auto` is any."""
    import torch

    try:
        torch.empty(0, device="cpu" if device == "auto" else device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise UserError(f"--device {device} cannot be used: {one_line(error)}; give auto or cpu.") from error


def model_names(checkpoint: str) -> list[str]:
    """The names under which clients may ask for a checkpoint; the first, its short name, is in the answers."""
    path = Path(checkpoint)
    if not path.is_dir():
        return [checkpoint.rpartition("/")[2], checkpoint]
    return list(dict.fromkeys((path.resolve().name, checkpoint, str(path), str(path.resolve()))))
