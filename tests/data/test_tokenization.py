"""Tokenizers: decoding restores the text, and AutoTokenizer loads them without custom code."""

import base64
import json
import random
import time

import jinja2
import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from modeling_mini import MiniConfig
from modeling_mini.data.builtin.python_docs import python_documents
from modeling_mini.errors import UserError
from modeling_mini.tokenization import LONGEST_WORD, SPECIAL_TOKENS, train_tokenizer


ENGLISH = "def add(x, y):\n\treturn x  # the sum\n"
CHINESE = "你好，世界。模型预测下一个词。"
UNSEEN = "naïve Ω 龍 🙂 \u200b\x00"


@pytest.fixture(scope="module", params=["bpe", "char"])
def tokenizer(request):
    return train_tokenizer([ENGLISH, CHINESE] * 20, request.param, vocab_size=400)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_decoding_restores_the_text(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_byte_level_bpe_encodes_any_text_without_unknown_tokens():
    tokenizer = train_tokenizer([ENGLISH], "bpe", vocab_size=300)
    ids = tokenizer(UNSEEN, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == UNSEEN


def test_unseen_characters_are_unknown_to_a_character_tokenizer():
    tokenizer = train_tokenizer([ENGLISH], "char", vocab_size=300)
    assert tokenizer("d龍f", add_special_tokens=False).input_ids[1] == tokenizer.unk_token_id


@pytest.fixture(scope="module")
def uncased():
    return train_tokenizer([ENGLISH, CHINESE, "The sum of x. Return the sum."] * 20, "uncased", vocab_size=400)


def test_an_uncased_word_has_the_same_tokens_everywhere(uncased):
    word = uncased.tokenize("sum")
    for text in ("Sum", "SUM", "(sum)", "x.sum", "the_sum", " sum"):
        tokens = uncased.tokenize(text)
        assert any(tokens[start:][: len(word)] == word for start in range(len(tokens))), text
    assert uncased.tokenize("e\u0301") == uncased.tokenize("\u00e9"), "composed and decomposed letters"


def test_uncased_tokens_have_no_unknown_and_keep_their_places_in_the_text(uncased, tmp_path):
    text = f"The Sum_of (X):\n {UNSEEN}"
    encoded = uncased(text, add_special_tokens=False, return_offsets_mapping=True)
    assert uncased.unk_token_id not in encoded.input_ids
    assert uncased.decode(encoded.input_ids).startswith(" the sum _ of ( x ) : na")
    words = {text[start:end] for start, end in encoded.offset_mapping}
    assert {"The", "Sum", "_", "(", "X", ")"} <= words
    uncased.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == uncased(text).input_ids


def test_special_tokens_have_the_first_ids_and_agree_with_the_config(tokenizer):
    ids = [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS.values()]
    assert ids == [0, 1, 2, 3, 4]
    config = MiniConfig()
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        config.pad_token_id,
        config.bos_token_id,
        config.eos_token_id,
    )


def test_a_text_starts_with_bos_and_eos_separates_a_pair(tokenizer):
    single = tokenizer(ENGLISH, add_special_tokens=False).input_ids
    other = tokenizer(CHINESE, add_special_tokens=False).input_ids
    assert tokenizer(ENGLISH).input_ids == [1, *single]
    assert tokenizer(ENGLISH, CHINESE).input_ids == [1, *single, 2, *other]


def test_the_tokenizer_returns_only_inputs_that_the_models_accept(tokenizer):
    assert set(tokenizer(ENGLISH)) == {"input_ids", "attention_mask"}


def test_batches_are_padded_on_the_left(tokenizer):
    batch = tokenizer([ENGLISH, ENGLISH[:5]], padding=True)
    assert batch.input_ids[1][0] == tokenizer.pad_token_id
    assert batch.attention_mask[1][0] == 0
    assert batch.attention_mask[1][-1] == 1


def test_auto_tokenizer_loads_a_saved_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(ENGLISH).input_ids == tokenizer(ENGLISH).input_ids
    assert loaded.all_special_tokens == tokenizer.all_special_tokens
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.model_max_length == tokenizer.model_max_length


def test_the_chat_template_marks_the_text_of_the_assistant(tokenizer):
    messages = [
        {"role": "system", "content": "return"},
        {"role": "user", "content": "the sum"},
        {"role": "assistant", "content": "x"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<bos>System: return\n\nUser: the sum\n\nAssistant: x<eos>\n"
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt)
    encoded = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    marked = [token for token, mark in zip(encoded["input_ids"], encoded["assistant_masks"]) if mark]
    assert tokenizer.decode(marked) == " x<eos>"


def test_the_chat_template_reads_the_text_parts_of_a_message(tokenizer):
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "sum"}]
    as_text = [{"role": "user", "content": "the sum"}, {"role": "assistant", "content": "the sum"}]
    as_parts = [{"role": message["role"], "content": parts} for message in as_text]
    assert tokenizer.apply_chat_template(as_parts) == tokenizer.apply_chat_template(as_text)
    encoded = tokenizer.apply_chat_template(as_parts, return_assistant_tokens_mask=True, return_dict=True)
    marked = [token for token, mark in zip(encoded["input_ids"], encoded["assistant_masks"]) if mark]
    assert tokenizer.decode(marked) == " the sum<eos>"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([{"type": "image", "url": "a.png"}], "This model reads text only"),
        ([{"type": "text"}], "This model reads text only"),
        ([{"type": "text", "text": None}], "This model reads text only"),
        (["Hi"], "This model reads text only"),
        ({"type": "text", "text": "Hi"}, "neither a text nor a list of text parts"),
        (5, "neither a text nor a list of text parts"),
    ],
)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_the_chat_template_refuses_content_that_is_not_text(tokenizer, role, content, sentence):
    with pytest.raises(jinja2.TemplateError, match=sentence):
        tokenizer.apply_chat_template([{"role": role, "content": content}], tokenize=False)


LONG = {
    "DNA": "".join(random.Random(0).choices("ACGT", k=200_000)),
    "base64": base64.b64encode(random.Random(0).randbytes(150_000)).decode(),
    "JSON": json.dumps([{"id": i, "name": "ab" * (i % 9)} for i in range(6000)], separators=(",", ":")),
    "Chinese": "".join(chr(0x4E00 + code % 2000) for code in random.Random(0).randbytes(70_000)),
    "spaces": "a" + " " * 200_000 + "b",
    "rule": "-" * 200_000,
    "emoji": "\U0001f642" * 50_000,
}


@pytest.mark.parametrize("kind", ["bpe", "uncased"])
@pytest.mark.parametrize("name", LONG)
def test_a_long_line_without_spaces_is_encoded_in_linear_time(name, kind, tmp_path):
    """Without a limit, 40,000 letters of DNA take a second, and 200,000 half a minute."""
    started = time.process_time()
    tokenizer = train_tokenizer([LONG[name]], kind, 400)
    ids = tokenizer(LONG[name], add_special_tokens=False, verbose=False).input_ids
    assert time.process_time() - started < 8
    assert kind == "uncased" or tokenizer.decode(ids) == LONG[name]
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(LONG[name], add_special_tokens=False, verbose=False).input_ids == ids


def test_the_limit_of_words_leaves_ordinary_text_unchanged():
    texts = [ENGLISH, CHINESE * 9, "=" * LONGEST_WORD, " " + "x" * (LONGEST_WORD - 1), "猫" * (LONGEST_WORD // 3)]
    tokenizer = train_tokenizer(texts * 20, "bpe", vocab_size=400)
    split, whole = tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in texts:
        assert split.pre_tokenize_str(text) == whole.pre_tokenize_str(text)
    assert len(split.pre_tokenize_str("=" * (LONGEST_WORD + 1))) == 2


def test_a_vocabulary_too_small_for_bytes_is_refused_with_the_minimum():
    with pytest.raises(UserError, match="at least 261 tokens.*but `vocab_size` is 100"):
        train_tokenizer([ENGLISH], "bpe", vocab_size=100)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="`kind` is 'words'; choose bpe, uncased or char"):
        train_tokenizer([ENGLISH], "words")


def test_a_path_in_place_of_documents_is_refused():
    with pytest.raises(TypeError, match="`texts` is one string; give an iterable of documents"):
        train_tokenizer("my_text.txt")


def test_no_word_of_the_quickstart_is_split():
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = (document["text"] for document in python_documents())
    longest = max(len(word) for text in texts for word, _ in words.pre_tokenize_str(text))
    assert 50 < longest <= LONGEST_WORD
