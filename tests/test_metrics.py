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


def test_batches_add_up(metric):
    metric.add_batch(nats=[1.0, 2.0], targets=[2, 3])
    metric.add_batch(nats=[4.0], targets=[5])
    assert metric.compute(num_bytes=7)["token_loss"] == pytest.approx(0.7)
