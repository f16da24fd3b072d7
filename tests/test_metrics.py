"""Metrics against what torch computes."""

import math

import evaluate
import pytest
import torch

from modeling_mini import metrics


@pytest.fixture(params=["imported", "loaded"])
def metric(request, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_CACHE", str(tmp_path))
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path))
    return metrics.TextLoss() if request.param == "imported" else evaluate.load(metrics.__file__)


def test_text_loss_weighs_tokens_and_not_rows(metric):
    torch.manual_seed(0)
    nll = torch.rand(2, 10, dtype=torch.float64)
    counts = [10, 4]
    rows = [row[:count].sum().item() for row, count in zip(nll, counts)]
    found = metric.compute(nats=rows, targets=counts, num_bytes=50)
    mean = torch.cat([row[:count] for row, count in zip(nll, counts)]).mean().item()
    assert found["token_loss"] == pytest.approx(mean, rel=1e-12)
    assert found["perplexity"] == pytest.approx(math.exp(mean), rel=1e-12)
    assert found["bits_per_byte"] == pytest.approx(mean * 14 / math.log(2) / 50, rel=1e-12)


def test_the_margin_covers_the_loss_of_the_whole_in_19_samples_of_20():
    """Rows of unequal length and loss, 60 of 20,000 at a time: the standard error of a ratio, not of a mean."""
    torch.manual_seed(0)
    targets = torch.randint(10, 200, (20_000,))
    nats = targets * (2 + torch.rand(20_000) + targets / 400)
    whole = (nats.sum() / targets.sum()).item()
    metric = metrics.TextLoss(keep_in_memory=True)
    covered = 0
    for _ in range(400):
        rows = torch.randint(20_000, (60,))
        found = metric.compute(nats=nats[rows].tolist(), targets=targets[rows].tolist(), num_bytes=1)
        covered += abs(found["token_loss"] - whole) <= found["token_loss_margin"]
    assert 0.92 < covered / 400 < 0.98


def test_a_single_row_has_no_margin(metric):
    assert metric.compute(nats=[3.0], targets=[2], num_bytes=5)["token_loss_margin"] == 0


def test_batches_add_up(metric):
    metric.add_batch(nats=[1.0, 2.0], targets=[2, 3])
    metric.add_batch(nats=[4.0], targets=[5])
    assert metric.compute(num_bytes=7)["token_loss"] == pytest.approx(0.7)
