"""A LiteRT (TensorFlow Lite) file, written by litert-torch, for phones, browsers and TensorFlow."""

from argparse import Namespace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..errors import UserError, first_line, shortened
from .checkpoint import open_checkpoint
from .parity import check_rows, example
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
    graph = _Outputs(model, example(model.config, 1, length))
    file = output / "model.tflite"
    with quiet():
        import litert_torch

        try:
            litert_torch.convert(graph.eval(), graph.inputs).export(str(file))
        except Exception as error:  # a converter raises whatever a pass of it raises
            reason = shortened(first_line(error), 300)
            raise UserError(f"{args.checkpoint} cannot be exported to litert: {reason}") from error
    check_rows(model, _runner(file, graph.names), output, rows=1, lengths=[length])
    return file


class _Outputs(torch.nn.Module):
    """A model whose outputs are a tuple of tensors, with their names."""

    def __init__(self, model: PreTrainedModel, inputs: tuple[torch.Tensor, torch.Tensor]):
        super().__init__()
        self.model, self.inputs = model, inputs
        with torch.no_grad():
            outputs = model(*inputs)
        self.names = [name for name, value in outputs.items() if torch.is_tensor(value)]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(input_ids, attention_mask)
        return tuple(outputs[name] for name in self.names)


def _runner(file: Path, names: list[str]):
    """A function that runs a file in the LiteRT runtime: outputs by name."""
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(model_path=str(file)).get_signature_runner()

    def run(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = signature(args_0=input_ids.numpy(), args_1=attention_mask.numpy())
        return {name: torch.from_numpy(outputs[f"output_{i}"]) for i, name in enumerate(names)}

    return run
