"""Comparing an exported file with the PyTorch model: the model itself passes, and each kind of defect fails."""

import json

import pytest
import torch

from modeling_mini import MiniForCausalLM, MiniForSequenceClassification
from modeling_mini.errors import UserError
from modeling_mini.export.parity import _check_choice, accepted, check_generation, check_rows
from modeling_mini.masking_mini import CACHE_NAME


class Session:
    """Stands for an exported file; `defect(logits, tokens so far)` returns other logits."""

    def __init__(self, model, defect=lambda logits, position: logits, ignores_mask=False):
        self.model, self.defect, self.ignores_mask = model, defect, ignores_mask

    def reset(self, rows):
        self.cache, self.position = None, 0

    def __call__(self, input_ids, attention_mask):
        mask = torch.ones_like(attention_mask) if self.ignores_mask else attention_mask
        outputs = self.model(input_ids, attention_mask=mask, use_cache=True, **{CACHE_NAME: self.cache})
        self.cache = outputs[CACHE_NAME]
        self.position += input_ids.shape[1]
        return self.defect(outputs.logits.clone(), self.position)


@pytest.fixture
def model(tiny_model):
    return tiny_model(MiniForCausalLM, max_position_embeddings=32)


def test_equal_model_passes_and_the_differences_are_recorded(model, tmp_path):
    check_generation(model, Session(model), tmp_path)
    report = json.loads((tmp_path / "export_report.json").read_text())
    assert report["equal_greedy_tokens"] == 32
    assert list(report["differences"]) == [
        "logits of 2 x 1 tokens",
        "logits of 2 x 32 tokens, padded on the left",
        "logits of 16 greedy tokens with the cache",
    ]
    assert max(report["differences"].values()) < 1e-5


@pytest.mark.parametrize(
    ("defect", "sentence"),
    [
        (lambda logits, position: logits + 0.1, "logits of 2 x"),
        (lambda logits, position: logits * float("nan"), "differ by inf"),
        (lambda logits, position: logits[:, :, 1:], "differ by inf"),
        (lambda logits, position: logits + 0.1 * (position > 32 - 1), "2 x 32 tokens"),
        # Only with a cache: the seventh token is the last of the prompt.
        (lambda logits, position: logits + 0.1 * (7 < position < 32), "16 greedy tokens with the cache"),
        (lambda logits, position: logits.roll(1, -1) if 7 < position < 32 else logits, "16 greedy tokens"),
    ],
    ids=["everywhere", "not finite", "shape", "long", "later tokens", "other tokens"],
)
def test_defect_is_refused(model, tmp_path, defect, sentence):
    with pytest.raises(UserError, match=sentence):
        check_generation(model, Session(model, defect), tmp_path)
    assert not (tmp_path / "export_report.json").exists()


@pytest.mark.parametrize(
    "options",
    [{"repetition_penalty": 5.0}, {"num_beams": 4}, {"eos_token_id": list(range(20))}],
    ids=lambda options: next(iter(options)),
)
def test_generation_config_of_the_checkpoint_changes_nothing(model, tmp_path, options):
    model.generation_config.update(**options, pad_token_id=0)
    check_generation(model, Session(model), tmp_path)
    assert json.loads((tmp_path / "export_report.json").read_text())["equal_greedy_tokens"] == 32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    wrong = torch.tensor([1.0, value])
    for output, expected in ((wrong, torch.ones(2)), (torch.ones(2), wrong), (wrong, wrong)):
        with pytest.raises(UserError, match="logits differ by (nan|inf) of the largest value, and at most 1e-04"):
            accepted("logits", output, expected)


def test_other_greedy_token_is_refused_unless_it_is_a_tie():
    logits, tokens = torch.tensor([[1.0, 1.0 - 1e-4], [0.0, 4.0]]), torch.tensor([[1], [1]])
    _check_choice(logits, tokens, 0)
    with pytest.raises(UserError, match=r"other text: greedy token 3 is \[0, 1\], and \[1, 0\] with PyTorch"):
        _check_choice(logits, torch.tensor([[1], [0]]), 2)


def test_file_that_ignores_padding_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="does not compute"):
        check_generation(model, Session(model, ignores_mask=True), tmp_path)
    check_generation(model, Session(model, ignores_mask=True), tmp_path, rows=1)


def test_rows_of_a_classifier_are_compared(tiny_model, tmp_path):
    model = tiny_model(MiniForSequenceClassification, max_position_embeddings=32)
    check_rows(model, model, tmp_path)
    shapes = ["1 tokens"]
    for length in (7, 32):
        shapes += [f"{length} tokens{padding}" for padding in ("", ", padded on the left", ", padded on the right")]
    report = json.loads((tmp_path / "export_report.json").read_text())
    assert list(report["differences"]) == [f"logits of 2 x {shape}" for shape in shapes]
    with pytest.raises(UserError, match="does not compute"):
        check_rows(model, lambda input_ids, attention_mask: model(input_ids=input_ids), tmp_path)
