"""Models of one shape to measure beside ours, and the words in which the benchmarks report."""

import statistics
import sys
from pathlib import Path

from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from modeling_mini import MiniConfig


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


def spread(values: list[float], form: str) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
