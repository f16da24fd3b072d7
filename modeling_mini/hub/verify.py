"""Whether a saved model opens without this package, and computes the same there."""

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
    """What the model in a folder computes as each of our classes, by the installed code.

    Raises:
        UserError: it does not open.
    """
    names = list(AUTO_CLASSES.values())
    if hasattr(config, "quantization_config"):
        # transformers finds quantized weights by their full names, which are those of one class.
        names = [AUTO_CLASSES[config.architectures[0]]]
    try:
        return open_all(folder, names)
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise UserError(f"{folder} does not open: {one_line(error)}") from error


def verify(
    source: str | Path, expected: dict[str, torch.Tensor], revision: str | None = None, cache: Path | None = None
) -> None:
    """Open a model in a fresh process that has neither this package nor a network, and compare it bit for bit.

    The process runs the code that lies beside the weights, so it is given no token either.

    Args:
        source: a folder; or a repository, of which `cache` holds `revision`.
        expected: of `outputs_of`.
        cache: what the process takes for its cache of the Hub; by default an empty one.

    Raises:
        UserError: it does not open, lacks a class, or a class computes other bits.
    """
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "result")
        # Neither settings nor secrets of this process: those of a machine that has never seen the model.
        own = ("HF_", "HUGGING", "TRANSFORMERS_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        environment |= {"HF_HOME": scratch, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        environment |= {} if cache is None else {"HF_HUB_CACHE": str(cache)}
        names = [name for name in expected if name != fresh_process.TOKENIZER]
        arguments = [str(source), revision or "", str(torch.get_num_threads()), str(result), *names]
        code = Path(fresh_process.__file__).read_text(encoding="utf-8")
        subprocess.run(
            [sys.executable, "-c", code, *arguments],  # not as a file: modules beside it would come before all others
            env=environment,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # on Ctrl-C it is ended by this process, without a traceback
            check=False,
        )
        where = f"{source} at {revision}" if revision else str(source)
        reason = result.with_suffix(".txt")
        if not result.with_suffix(".safetensors").exists():
            text = reason.read_text(encoding="utf-8") if reason.exists() else "its process ended early"
            raise UserError(f"{where} does not open without modeling_mini: {text.splitlines()[0]}")
        found = load_file(result.with_suffix(".safetensors"))
    differing = [name for name in expected | found if not _same_bits(expected.get(name), found.get(name))]
    if differing:
        raise UserError(f"{where} opens, but {', '.join(differing)} differ from the checkpoint; do not use it.")


def _same_bits(expected: torch.Tensor | None, found: torch.Tensor | None) -> bool:
    if expected is None or found is None:
        return False
    return (expected.dtype, expected.shape) == (found.dtype, found.shape) and torch.equal(
        expected.view(torch.uint8),
        found.view(torch.uint8),  # so that NaN equals NaN
    )
