"""Models of one shape to measure beside ours."""

import argparse
import sys
from pathlib import Path

from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from modeling_mini import MiniConfig


MODELS = ("modeling_mini", "gpt2", "llama")


def parser_with_shape(description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark of models of one shape takes."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each model")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    return parser


def shape_of(args: argparse.Namespace, vocabulary: int, length: int) -> dict[str, int]:
    """What `build` and `nanogpt` take."""
    shape = {name: getattr(args, name) for name in ("layers", "width", "heads")}
    return shape | {"vocabulary": vocabulary, "length": length}


def build(name: str, layers: int, width: int, heads: int, vocabulary: int, length: int) -> nn.Module:
    """`modeling_mini`, `gpt2` or `llama` with new weights and without dropout.

    The feed-forward layer of Llama has three matrices; it gets two thirds of the usual width, so as many parameters.
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
    """nanoGPT's model, from a checkout of it."""
    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig

    shape = {"n_layer": layers, "n_embd": width, "n_head": heads, "vocab_size": vocabulary, "block_size": length}
    return GPT(GPTConfig(**shape, dropout=0.0, bias=True))
