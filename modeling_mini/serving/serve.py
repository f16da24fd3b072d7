"""The command `serve`: what is refused before anything is loaded, and the start of the server (`server.py`)."""

import errno
import importlib.util
import logging
import os
import socket
import sys
from pathlib import Path

from ..errors import UserError, one_line
from ..options import check_checkpoint


logger = logging.getLogger(__name__)

_PACKAGES = ("fastapi", "openai", "pydantic", "uvicorn")  # of the extra `serving`


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
    if missing := next((name for name in _PACKAGES if importlib.util.find_spec(name) is None), None):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    from .server import Server

    folder = local_folder(checkpoint)
    config = require_model_folder(folder, checkpoint)
    tokenizer = open_tokenizer(folder, checkpoint, config.vocab_size)
    model = open_model(folder, MiniForCausalLM, checkpoint, dtype=dtype, device_map=device)
    if not tokenizer.chat_template:
        logger.warning("The tokenizer in %s has no chat template; only /v1/completions will answer.", checkpoint)
    names = model_names(checkpoint)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    sys.stdout.write(f"Serving the model {names[0]} at {address}/v1; Ctrl-C stops the server.\n")
    sys.stdout.flush()
    Server(model, tokenizer, names, host=host, port=port, **options)


def check_address(host: str, port: int) -> None:
    """Raises `UserError` if no server can listen there."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is too long
        number = getattr(error, "errno", None) or 0
        if number == errno.EADDRINUSE:
            raise UserError(f"--port {port} is in use on {host}; choose another port, or stop its server.") from error
        reason = (
            os.strerror(number) if number > 0 else one_line(error)
        )  # names that are not found have numbers below 0
        raise UserError(f"--host {host} --port {port}: no server can listen there ({reason}).") from error


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
        raise UserError(f"--device {device} cannot be used: {one_line(error)}; give auto, cpu or cuda:0.") from error


def model_names(checkpoint: str) -> list[str]:
    """The names under which clients may ask for a checkpoint; the first, its short name, is in the answers."""
    path = Path(checkpoint)
    if not path.is_dir():
        return [checkpoint.rpartition("/")[2], checkpoint]
    return list(dict.fromkeys((path.resolve().name, checkpoint, str(path), str(path.resolve()))))
