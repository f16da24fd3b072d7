"""A LiteRT (TensorFlow Lite) file, written by litert-torch, for phones, browsers and TensorFlow."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from transformers import PreTrainedModel

from .. import modeling_mini
from ..errors import UserError, first_line, shortened
from .checkpoint import open_checkpoint
from .parity import check_rows, example, tensor_names
from .quiet import quiet


def export(checkpoint: Path, output: Path, args: Namespace) -> Path:
    """Export a checkpoint with any head as a graph of one row of fixed length, and compare it with the PyTorch model.

    Shorter texts are padded, with an `attention_mask` of 0 at padding. A causal language model has no cache, so each
    new token reads the whole row again.

    Args:
        checkpoint: the folder of a trained model.
        output: an existing folder, which gets `model.tflite`, the configs and the tokenizer.
        args: `max_length`, the tokens of the row (None for the context of the model), and `checkpoint`, how the user
            named the folder.

    Returns:
        The file of the graph.

    Raises:
        UserError: the checkpoint or the length is refused, or the outputs differ.
    """
    model, tokenizer = open_checkpoint(checkpoint, args.checkpoint)
    context = model.config.max_position_embeddings
    length = args.max_length or context
    if length > context:
        raise UserError(f"--max_length {length} is longer than the context of the model; give at most {context}.")
    model.config.save_pretrained(output)
    if hasattr(model, "generate"):
        model.generation_config.save_pretrained(output)
    tokenizer.save_pretrained(output)
    model.config.use_cache = False
    # In LiteRT, the softmax of a padding token that may attend to nothing is nan, which spreads to all tokens. The
    # mask of eager attention is finite.
    model.set_attn_implementation("eager")
    ids, mask = example(model.config, 1, length, "left")
    graph = _Outputs(model, {"input_ids": ids, "attention_mask": mask})
    file = output / "model.tflite"
    with quiet(), _table_of_positions(length, model.config.hidden_size):
        import litert_torch

        try:
            litert_torch.convert(graph.eval(), sample_kwargs=graph.inputs).export(str(file))
        except Exception as error:  # a converter raises whatever a pass of it raises
            reason = shortened(first_line(error), 300)
            raise UserError(f"{args.checkpoint} cannot be exported to litert: {reason}") from error
    check_rows(model, _runner(file), output, rows=1, lengths=[length])
    return file


@contextmanager
def _table_of_positions(length: int, hidden_size: int) -> Iterator[None]:
    """Trace the position encoding as a look-up in a table `[length, D]`.

    The model computes angles in float64, which LiteRT does not have. The table holds the same float32 values.
    """
    table = modeling_mini.sinusoidal_positions(torch.arange(length), hidden_size)
    with patch.object(modeling_mini, "sinusoidal_positions", lambda position_ids, hidden_size: table[position_ids]):
        yield


class _Outputs(torch.nn.Module):
    """A model whose outputs are only tensors, by name."""

    def __init__(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]):
        super().__init__()
        self.model, self.inputs = model, inputs
        with torch.no_grad():
            self.names = tensor_names(model(**inputs))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.model(input_ids, attention_mask)
        return {name: outputs[name] for name in self.names}


def _runner(file: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """A function that runs a file in the LiteRT runtime: outputs by name."""
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(model_path=str(file)).get_signature_runner()

    def run(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = signature(**{name: value.int().numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in outputs.items()}

    return run
