"""Peer models in the same shape as ours, and their training."""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from modeling_mini import MiniConfig


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODELS = ("modeling_mini", "gpt2", "llama")


def parser_with_shape(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks of peer models share."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each model")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    return parser


def text_file(path: str) -> Path:
    """Argument type: an existing file."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{path}: no such file.")
    return Path(path)


def checkout(path: str) -> Path:
    """Argument type: a checkout of nanoGPT."""
    if not Path(path, "train.py").is_file():
        raise argparse.ArgumentTypeError(f"{path} is not a checkout of nanoGPT: it has no train.py.")
    return Path(path)


def shape_of(args: argparse.Namespace, vocabulary: int, length: int) -> dict[str, int]:
    """The shape arguments of `build` and `nanogpt`."""
    shape = {name: getattr(args, name) for name in ("layers", "width", "heads")}
    return shape | {"vocabulary": vocabulary, "length": length}


def build(name: str, layers: int, width: int, heads: int, vocabulary: int, length: int) -> nn.Module:
    """`modeling_mini`, `gpt2` or `llama` with new weights and without dropout.

    The feed-forward layer of Llama has three matrices; it gets two thirds of the usual width, for the same number of
    parameters.
    """
    sizes = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2}
    if name == "gpt2":
        dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, n_positions=length, **sizes, **dropouts)
        return AutoModelForCausalLM.from_config(config)
    shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    shape |= {"max_position_embeddings": length}
    if name == "llama":
        config = LlamaConfig(**shape, **sizes, intermediate_size=8 * width // 3, tie_word_embeddings=True)
    else:
        config = MiniConfig(**shape, **sizes, intermediate_size=4 * width, pad_token_id=0)
    return AutoModelForCausalLM.from_config(config)


def nanogpt(checkout: Path, layers: int, width: int, heads: int, vocabulary: int, length: int) -> nn.Module:
    """nanoGPT's model, imported from a checkout."""
    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig

    shape = {"n_layer": layers, "n_embd": width, "n_head": heads, "vocab_size": vocabulary, "block_size": length}
    return GPT(GPTConfig(**shape, dropout=0.0, bias=True))


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Stopwatch(TrainerCallback):
    """Seconds of each update, data loading included, except the first."""

    def __init__(self):
        self.seconds, self._last_end = [], None

    def on_step_end(self, args, state, control, **kwargs):
        synchronize()
        now = time.perf_counter()
        if self._last_end is not None:
            self.seconds.append(now - self._last_end)
        self._last_end = now


class ByTrainer:
    """A model that is trained some updates at a time by the stock Trainer, on `rows` rows of random tokens."""

    def __init__(self, name: str, shape: dict, tokens: int, rows: int = 1000, **arguments):
        self.model = build(name, **shape)
        self.folder = tempfile.TemporaryDirectory()
        self.arguments = {
            "output_dir": self.folder.name,
            "per_device_train_batch_size": tokens // shape["length"],
            "use_cpu": DEVICE == "cpu",
            "learning_rate": 1e-3,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **arguments,
        }
        ids = torch.randint(3, shape["vocabulary"], (rows, shape["length"])).numpy()
        self.rows = Dataset.from_dict({"input_ids": ids, "labels": ids}).with_format("torch")

    def train(self, updates: int) -> float:
        """Seconds per update: the median over `updates`, after one more update that is not counted."""
        stopwatch = Stopwatch()
        args = TrainingArguments(**self.arguments, max_steps=updates + 1)
        trainer = Trainer(model=self.model, args=args, train_dataset=self.rows, callbacks=[stopwatch])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return statistics.median(stopwatch.seconds)
