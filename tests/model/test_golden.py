"""Losses of twenty updates with a fixed seed: any numeric change of model, loss or optimizer makes this test fail.

After an intended change, print the new values with `python tests/model/test_golden.py` and give the reason in the
commit message.
"""

import pytest
import torch

from modeling_mini import MiniConfig, MiniForCausalLM
from modeling_mini.training.optim import MuonAdamWFactory


# nats per token after 1, 5, 10, 15 and 20 updates
GOLDEN = {
    True: [5.78539, 5.18917, 4.46126, 3.75658, 3.11372],
    False: [5.78554, 5.11903, 4.34488, 3.68023, 3.10787],
}


def train(norm_first: bool) -> list[float]:
    """Losses of twenty updates on sequences in which each token determines the next."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = MiniForCausalLM(MiniConfig(**sizes, num_attention_heads=4, norm_first=norm_first)).train()
    optimizer = MuonAdamWFactory()(model)
    ids = (torch.arange(24) * 7 + torch.arange(16)[:, None] * 5) % 59 + 5
    losses = []
    for _ in range(20):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return [losses[i] for i in (0, 4, 9, 14, 19)]


@pytest.mark.parametrize("norm_first", [True, False])
def test_losses_of_twenty_updates_are_the_golden_ones(norm_first):
    assert train(norm_first) == pytest.approx(GOLDEN[norm_first], rel=1e-3)


if __name__ == "__main__":
    print({norm_first: [round(loss, 5) for loss in train(norm_first)] for norm_first in (True, False)})  # noqa: T201
