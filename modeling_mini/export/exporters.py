"""ONNX, OpenVINO and ExecuTorch files, written by transformers' own exporters."""

from argparse import Namespace
from pathlib import Path

import torch
import transformers
from torch.export import Dim
from transformers import DynamicCache, PreTrainedModel

from ..errors import UserError, first_line, shortened
from ..masking_mini import CACHE_NAME
from .checkpoint import open_checkpoint
from .parity import check_generation, check_rows, example
from .quiet import quiet


# Format -> the exporter and its config in transformers, and the file that it writes.
_EXPORTERS = {
    "onnx": ("OnnxExporter", "OnnxConfig", "model.onnx"),
    "openvino": ("OpenVINOExporter", "OpenVINOConfig", "openvino_model.xml"),
    "executorch": ("ExecutorchExporter", "ExecutorchConfig", "model.pte"),
}


def export(checkpoint: Path, output: Path, args: Namespace) -> Path:
    """Export a checkpoint with any head as one graph, and compare the files with the PyTorch model.

    A causal language model gets its cache as inputs and outputs (as states in OpenVINO), so that the same graph reads
    a prompt and then one token at a time. Batch size and lengths are dynamic; ExecuTorch has one row, of at most the
    tokens of the context.

    Args:
        checkpoint: the folder of a trained model.
        output: an existing folder, which gets the graph, the configs and the tokenizer.
        args: `to`, the format, and `checkpoint`, how the user named the folder.

    Returns:
        The file of the graph.

    Raises:
        UserError: transformers is too old, the checkpoint is refused, or the outputs differ.
    """
    exporter_name, config_name, file = _EXPORTERS[args.to]
    exporters = _library(args.to)
    model, tokenizer = open_checkpoint(checkpoint, args.checkpoint)
    generates = hasattr(model, "generate") and model.config.is_causal
    inputs, shapes = _inputs(model, generates, args.to)
    config = getattr(exporters, config_name)(dynamic_shapes=shapes)
    with quiet():
        try:
            exported = getattr(exporters, exporter_name)().export(model, inputs, config)
        except Exception as error:  # an exporter raises whatever a pass of it raises
            reason = shortened(first_line(error), 300)
            raise UserError(f"{args.checkpoint} cannot be exported to {args.to}: {reason}") from error
        exported.generation_config = model.generation_config if generates else None
        exported.save_pretrained(output)
        tokenizer.save_pretrained(output)
        # A CPU with bfloat16 would otherwise compute in it, although the file asks for float32.
        options = {"config": {"INFERENCE_PRECISION_HINT": "f32"}} if args.to == "openvino" else {}
        loaded = exporters.ExportedModel.from_pretrained(output, device="cpu", **options)
    rows = 1 if args.to == "executorch" else 2
    if generates:
        session = _States(loaded) if args.to == "openvino" else _Cache(loaded, model)
        check_generation(model, session, output, rows)
    else:
        check_rows(model, lambda **inputs: loaded(**inputs), output, rows)
    return output / file


def _library(name: str):
    """transformers' module of exporters. Raises `UserError` if this version has none."""
    try:
        from transformers import exporters

        exporters.ExportedModel  # noqa: B018, the module resolves names when they are used
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"transformers {transformers.__version__} has no exporters; install 5.24 or later to export to {name}."
        ) from error
    return exporters


def _inputs(model: PreTrainedModel, generates: bool, name: str) -> tuple[dict, dict]:
    """Example inputs of a graph, and which of their dimensions vary.

    No example has a dimension of 0 or 1, which torch would make a constant.
    """
    context = model.config.max_position_embeddings
    bounds = {"max": context} if name == "executorch" else {}  # its memory is planned for the largest size
    length = Dim.AUTO(**bounds) if bounds else Dim.AUTO
    rows, batch = (1, {}) if name == "executorch" else (2, {0: Dim.AUTO})
    ids, mask = example(model.config, rows, min(8, context), "left")
    shapes = {"input_ids": {**batch, 1: length}, "attention_mask": {**batch, 1: length}}
    if not generates:
        return {"input_ids": ids, "attention_mask": mask, "use_cache": False}, shapes
    past = ids.shape[1] // 2
    with torch.no_grad():
        cache = model(ids[:, :past], attention_mask=mask[:, :past], use_cache=True)[CACHE_NAME]
    shapes[CACHE_NAME] = [{**batch, 2: length} for _ in range(2 * model.config.num_hidden_layers)]
    return {"input_ids": ids[:, past:], "attention_mask": mask, CACHE_NAME: cache, "use_cache": True}, shapes


class _Cache:
    """A graph whose cache is passed in and out: ONNX and ExecuTorch."""

    def __init__(self, exported, model: PreTrainedModel):
        self.exported = exported
        self.config = model.config

    def reset(self, rows: int) -> None:
        """Start new texts: a cache of no tokens."""
        self.cache = DynamicCache(config=self.config)
        heads = self.config.num_attention_heads
        empty = torch.zeros(rows, heads, 0, self.config.hidden_size // heads)
        for layer in range(self.config.num_hidden_layers):
            self.cache.update(empty, empty, layer)

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, CACHE_NAME: self.cache}
        outputs = self.exported(**inputs)
        self.cache = outputs[CACHE_NAME]
        return outputs.logits


class _States:
    """A graph that keeps the cache itself: OpenVINO."""

    def __init__(self, exported):
        [runner] = exported.runners.values()
        self.request = runner.request

    def reset(self, rows: int) -> None:
        """Start new texts: no states."""
        self.request.reset_state()
        self.rows = torch.arange(rows, dtype=torch.int32).numpy()

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy(), "beam_idx": self.rows}
        return torch.from_numpy(self.request.infer(inputs)["logits"].copy())
