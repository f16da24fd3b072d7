"""Text generation: the warning about bits per byte that are too low."""

from made_data import build

from modeling_mini.tokenization import train_tokenizer


def test_a_tokenizer_without_bos_gets_a_warning(caplog):
    without = train_tokenizer(["one two"], vocab_size=300)
    build("text-generation").check(without, "one", 16)
    assert not caplog.messages
    without.bos_token = None
    build("text-generation").check(without, "one", 16)
    assert "the first token of a document is not predicted" in caplog.messages[0]
