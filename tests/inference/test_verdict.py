"""What `eval` says before its table: whether the model is worth more than the baselines."""

import pytest

from modeling_mini.inference.verdict import best_baseline, is_better, ranked_baselines, verdict


BASELINES = {"first sentence": {"rougel": 28.8, "rouge2": 9.1}, "constant": {"rougel": 15.0}, "empty": {}}
DIRECTIONS = {"rougel": True, "rouge2": True}


@pytest.mark.parametrize(
    ("model", "sentences"),
    [
        (
            {"rougel": 30.0, "rouge2": 9.2},
            [
                "The model is better than every baseline: rougel 30.00 against 28.80 (first sentence); rouge2 9.200 "
                "against 9.100 (first sentence)."
            ],
        ),
        (
            {"rougel": 16.7, "rouge2": 9.2},
            [
                "A baseline is as good as the model, or better: rougel 16.70 against 28.80 (first sentence).",
                "The model is better than every baseline: rouge2 9.200 against 9.100 (first sentence).",
            ],
        ),
        (
            {"rougel": 28.8},
            ["A baseline is as good as the model, or better: rougel 28.80 against 28.80 (first sentence)."],
        ),
        ({"token_loss": 3.0}, []),
    ],
)
def test_verdict(model, sentences):
    assert verdict(model, BASELINES, DIRECTIONS) == sentences


def test_nothing_to_compare_with():
    assert verdict({"rougel": 30.0}, {}, DIRECTIONS) == []
    assert best_baseline({"empty": {}}, "rougel", True) is None


def test_of_bits_per_byte_less_is_better():
    baselines = {"3-gram": {"bits_per_byte": 2.5}, "5-gram": {"bits_per_byte": 2.3}}
    assert best_baseline(baselines, "bits_per_byte", False) == "5-gram"
    assert list(ranked_baselines(baselines, "bits_per_byte", False).items()) == [("5-gram", 2.3), ("3-gram", 2.5)]
    assert is_better(1.9, 2.3, False)
    assert not is_better(2.3, 2.3, False)
    (sentence,) = verdict({"bits_per_byte": 1.9}, baselines, {"bits_per_byte": False})
    assert sentence == "The model is better than every baseline: bits per byte 1.900 against 2.300 (5-gram)."
