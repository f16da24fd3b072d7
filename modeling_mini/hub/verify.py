"""Verify that a saved model opens without this package, with the same outputs."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..configuration_mini import AUTO_CLASSES, MiniConfig
from ..errors import UserError, one_line
from . import fresh_process
from .fresh_process import open_all


def outputs_of(folder: Path, config: MiniConfig) -> dict[str, torch.Tensor]:
    """The outputs of the model in a folder, opened with the installed code as each of our classes.

    Raises:
        UserError: the model does not open.
    """
    names = list(AUTO_CLASSES.values())
    if hasattr(config, "quantization_config"):
        # transformers finds quantized weights by their full names, which fit only one class.
        names = [AUTO_CLASSES[config.architectures[0]]]
    try:
        return open_all(folder, names)
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise UserError(f"{folder} does not open: {one_line(error)}") from error


def verify(
    source: str | Path, expected: dict[str, torch.Tensor], revision: str | None = None, cache: Path | None = None
) -> None:
    """Open a model in a fresh process that has neither this package nor a network, and compare it bit for bit.

    The process runs the code next to the weights, so it gets no token either.

    Args:
        source: a folder, or a repository whose `revision` is in `cache`.
        expected: the result of `outputs_of`.
        cache: the Hub cache of the process; empty by default.

    Raises:
        UserError: the model does not open, or a class is missing or computes different bits.
    """
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "result")
        # The process gets no settings and no secrets of this one, as on a machine that has never seen the model.
        excluded = ("HF_", "HUGGING", "TRANSFORMERS_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(excluded)}
        environment |= {"HF_HOME": scratch, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        environment |= {} if cache is None else {"HF_HUB_CACHE": str(cache)}
        names = [name for name in expected if name != fresh_process.TOKENIZER]
        arguments = [str(source), revision or "", str(torch.get_num_threads()), str(result), *names]
        code = Path(fresh_process.__file__).read_text(encoding="utf-8")
        subprocess.run(
            [sys.executable, "-c", code, *arguments],  # a file would put its folder first on sys.path
            env=environment,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the other one without a traceback
            check=False,
        )
        description = f"{source} at {revision}" if revision else str(source)
        reason = result.with_suffix(".txt")
        if not result.with_suffix(".safetensors").exists():
            text = reason.read_text(encoding="utf-8") if reason.exists() else "the process ended early"
            raise UserError(f"{description} does not open without modeling_mini: {text.splitlines()[0]}")
        outputs = load_file(result.with_suffix(".safetensors"))
    differing = [name for name in expected | outputs if not _same_bits(expected.get(name), outputs.get(name))]
    if differing:
        raise UserError(f"{description} opens, but {', '.join(differing)} differ from the checkpoint; do not use it.")


def _same_bits(expected: torch.Tensor | None, output: torch.Tensor | None) -> bool:
    if expected is None or output is None:
        return False
    return (expected.dtype, expected.shape) == (output.dtype, output.shape) and torch.equal(
        expected.view(torch.uint8),
        output.view(torch.uint8),  # as bytes, so that NaN equals NaN
    )
