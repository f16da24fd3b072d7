"""The models that go through each test of this folder: ours, and small random models of transformers."""

import pytest
import transformers

import modeling_mini


# The others run in `make ecosystem` only, for the table in docs/compatibility.md. What fails for them is a result.
_REFERENCE = [pytest.mark.heavy, pytest.mark.xfail(reason="a reference")]
OURS_AND_GPT2 = ["modeling_mini", pytest.param("gpt2", marks=_REFERENCE)]
OURS_GPT2_AND_LLAMA = [*OURS_AND_GPT2, pytest.param("llama", marks=_REFERENCE)]

_SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_CONFIGS = {
    "modeling_mini": modeling_mini.MiniConfig,
    "gpt2": transformers.GPT2Config,
    "llama": transformers.LlamaConfig,
}


def config_of(family, vocab_size=97, context=128, **overrides):
    """A config of the same shape in each family; GPT-2 knows these names as aliases, except one."""
    sizes = _SIZES | _TOKENS | {"vocab_size": vocab_size, "max_position_embeddings": context} | overrides
    if family == "gpt2":
        sizes["n_inner"] = sizes.pop("intermediate_size")
    return _CONFIGS[family](**sizes)
