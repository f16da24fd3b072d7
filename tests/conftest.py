"""What every test shares: tiny models whose parameters are all far from their defaults, and random token ids."""

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from modeling_mini import MiniConfig


collect_ignore = ["conformance"]  # `make conformance` runs that folder, and lays out what it needs

VOCAB_SIZE = 97
FIRST_ORDINARY_TOKEN = 5  # ids below are kept for padding and its like


@pytest.fixture(autouse=True)
def _reproducible():
    """The same random numbers for each test, in any order; one thread, so that sums round alike everywhere."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_config():
    def build(**overrides):
        sizes = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        return MiniConfig(**(sizes | overrides))

    return build


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """`tiny_model(MiniForCausalLM, norm_first=False)`: in eval mode, with no parameter near 0 or 1 by default.

    Weights of the layers are drawn here, ten times as large as usual: small ones make attention nearly uniform and
    hide errors in it.
    """

    def build(model_class, weight_std=0.2, **overrides):
        torch.manual_seed(0)
        model = model_class(tiny_config(**overrides))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
                elif "embed_tokens" not in name:
                    parameter.normal_(std=weight_std)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def random_ids():
    """`random_ids(2, 10)`: `[2, 10]` ids without special tokens, others at each call."""

    def draw(*shape, vocab_size=VOCAB_SIZE):
        return torch.randint(FIRST_ORDINARY_TOKEN, vocab_size, shape)

    return draw


@pytest.fixture(scope="session")
def pad():
    """`pad([row, row], "left")`: ids and attention mask `[B, T]` of rows of different lengths."""

    def build(rows, side, pad_token_id=0):
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), pad_token_id)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(length - len(row), None) if side == "left" else slice(len(row))
            ids[i, place], mask[i, place] = row, 1
        return ids, mask

    return build


@pytest.fixture(scope="session")
def gradients():
    """`gradients(model)`: a copy of each gradient by parameter name, which are then cleared."""

    def collect(model):
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found

    return collect
