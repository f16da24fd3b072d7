"""Text generation: the warning about bits per byte that are too low, and intervals."""

import pytest
from datasets import Dataset
from made_data import build

from modeling_mini.decoding import SAMPLE_PROMPT
from modeling_mini.tokenization import train_tokenizer


def test_a_tokenizer_without_bos_gets_a_warning(caplog):
    without = train_tokenizer(["one two"], vocab_size=300)
    build("text-generation").check(without, "one", 16)
    assert not caplog.messages
    without.bos_token = None
    build("text-generation").check(without, "one", 16)
    assert "the first token of a document is not predicted" in caplog.messages[0]


def test_bits_of_a_single_document_have_no_interval():
    task = build("text-generation")
    train = Dataset.from_dict({"text": ["one two", "two one"]})
    for texts in (["one two one"], ["one two", "one"]):
        examples = Dataset.from_dict({"text": texts})
        [(_, predictions)] = task.baselines(examples, train)
        scores = task.score(predictions, examples)
        assert scores["bits_per_byte"] > 0
        assert ("bits_per_byte_interval" in scores) == (len(texts) > 1)


def test_a_loss_of_zero_has_an_interval():
    examples = Dataset.from_dict({"text": ["aa", "aa"]})
    scores = build("text-generation").score([(0.0, 3), (0.0, 2)], examples)
    assert scores["bits_per_byte_interval"] == [0.0, 0.0]


@pytest.mark.parametrize("name", ["text-generation", "translation"])
def test_a_tokenizer_that_loses_text_is_pointed_out_where_text_is_written(name, caplog):
    texts = ["The Cat sat on the mat."]
    task = build(name, dataset="unused")
    for kind in ("bpe", "char"):  # of the second, letters of the probe are unknown
        task.check(train_tokenizer(texts, kind, vocab_size=300), SAMPLE_PROMPT, 64)
        assert "cannot write what is lost" not in caplog.text
    tokenizer = train_tokenizer(texts, "uncased", vocab_size=300)
    build("fill-mask", dataset="unused").check(tokenizer, SAMPLE_PROMPT, 64)
    assert "cannot write what is lost" not in caplog.text
    task.check(tokenizer, SAMPLE_PROMPT, 64)
    assert r"The tokenizer turns 'The Cat\n  sat.' into 'the cat sat .': the model cannot write what is" in caplog.text
