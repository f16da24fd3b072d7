"""The n-gram baseline is a proper distribution, equals a calculation by hand, and learns."""

import math
import random
from fractions import Fraction

import pytest

from modeling_mini.tasks.ngram import BOUNDARY, SYMBOLS, NgramModel


def bits_of(model: NgramModel, text) -> float:
    return model.bits([text])[0]


TEXT = "the cat sat on the mat, and the rat sat on the cat; " * 20


@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_sum_to_one(order):
    draw = random.Random(0)
    model = NgramModel(order).fit([TEXT, "", "naïve café", bytes(range(256))])
    seen = [TEXT[i : i + draw.randrange(9)] for i in draw.sample(range(len(TEXT)), 20)]
    unseen = ["".join(draw.choices(SYMBOLS[:256], k=draw.randrange(9))) for _ in range(20)]
    starts = [BOUNDARY, BOUNDARY + "t", BOUNDARY + "the"]
    assert not {context[-4:] for context in seen}.isdisjoint(model.totals) or order < 5
    for context in ["", *seen, *unseen, *starts]:
        assert sum(model.probability(symbol, context) for symbol in SYMBOLS) == pytest.approx(1, abs=1e-9)


def test_bigrams_equal_a_calculation_by_hand():
    """Documents "ab" and "a"; with | for a boundary, |ab| and |a|.

    Unigrams a 2, b 1, | 2: 5 in total, of 3 kinds. Bigrams |a 2, ab 1, a| 1, b| 1.
    """
    model = NgramModel(order=2).fit(["ab", "a"])
    uniform = Fraction(1, 257)
    a, b, end = ((count + 3 * uniform) / (5 + 3) for count in (2, 1, 2))
    unseen = 3 * uniform / 8
    expected = {
        (BOUNDARY, "a"): (2 + 1 * a) / (2 + 1),
        ("a", "b"): (1 + 2 * b) / (2 + 2),
        ("a", BOUNDARY): (1 + 2 * end) / (2 + 2),
        ("b", BOUNDARY): (1 + 1 * end) / (1 + 1),
        ("a", "z"): 2 * unseen / (2 + 2),
        ("z", "a"): a,  # an unseen context
        ("", "a"): a,
        ("ba", "b"): (1 + 2 * b) / (2 + 2),  # only the last symbol of the context counts
    }
    for (context, symbol), probability in expected.items():
        assert model.probability(symbol, context) == pytest.approx(float(probability), rel=1e-12), (context, symbol)

    path = expected[BOUNDARY, "a"] * expected["a", "b"] * expected["b", BOUNDARY]
    assert bits_of(model, "ab") == pytest.approx(-math.log2(path), rel=1e-12)


def test_an_untrained_model_has_a_uniform_cost():
    assert bits_of(NgramModel(), "abc") == pytest.approx(4 * math.log2(257))


def test_longer_contexts_lower_the_cost_of_a_repetitive_text():
    short, long = (bits_of(NgramModel(order).fit([TEXT]), TEXT[:200]) for order in (1, 5))
    assert long < 0.5 * short


def test_an_unseen_byte_has_a_finite_cost():
    model = NgramModel().fit([TEXT])
    cost = bits_of(model, b"\xff") - bits_of(model, b"")
    assert 8 < cost < 64


def test_the_end_of_a_document_costs_bits_and_is_not_a_byte():
    model = NgramModel().fit([TEXT])
    letters = [("t", BOUNDARY), ("h", BOUNDARY + "t"), ("e", BOUNDARY + "th")]
    spelling = -sum(math.log2(model.probability(*letter)) for letter in letters)
    end = -math.log2(model.probability(BOUNDARY, BOUNDARY + "the"))
    assert end > 1
    assert bits_of(model, "the") == pytest.approx(spelling + end)
    assert bits_of(model, "") == pytest.approx(-math.log2(model.probability(BOUNDARY, BOUNDARY)))


def test_documents_are_scored_and_counted_separately():
    model = NgramModel().fit([TEXT])
    assert model.bits(["the cat", "sat on"]) == [bits_of(model, "the cat"), bits_of(model, "sat on")]
    assert "ab" not in NgramModel(order=2).fit(["a", "b"]).counts


def test_text_equals_its_utf8_bytes():
    model = NgramModel().fit(["naïve café"])
    assert model.counts == NgramModel().fit(["naïve café".encode()]).counts
    assert bits_of(model, "café") == bits_of(model, "café".encode())


def test_fitting_in_two_parts_equals_fitting_at_once():
    whole, parts = NgramModel().fit(["the cat", "the rat"]), NgramModel().fit(["the cat"]).fit(["the rat"])
    assert (parts.counts, parts.totals, parts.kinds) == (whole.counts, whole.totals, whole.kinds)


def test_an_order_below_one_is_refused():
    with pytest.raises(ValueError, match="`order` is 0; give a whole number"):
        NgramModel(order=0)
