"""Trains tokenizers on a corpus in seconds; `AutoTokenizer` loads them without custom code."""

from collections.abc import Iterable
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .errors import UserError


# In the order of their ids, from 0. The first three ids are the defaults of MiniConfig.
SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
SMALLEST_BPE_VOCABULARY = len(SPECIAL_TOKENS) + 256

# The time of BPE grows with the square of a word, and a line of DNA or base64 is one word. Ordinary words, and the
# rules of a text table, are shorter than this number of bytes. It holds 128 Chinese characters exactly.
LONGEST_WORD = 384

# Roles are plain words: a base model knows words, but has never seen a special token for a role. Content is a text, or
# a list of parts as in OpenAI's API, of which the model reads the texts.
CHAT_TEMPLATE = """{% macro text(content) %}
{% if content is string %}
{{ content }}
{%- elif content is iterable and content is not mapping %}
{% for part in content %}
{% if part is mapping and part.type == "text" and part.text is string %}
{{ part.text }}
{%- else %}
{{ raise_exception("This model reads text only, but a part of a message is not {'type': 'text', 'text': ...}.") }}
{% endif %}
{% endfor %}
{% else %}
{{ raise_exception("The content of a message is neither a text nor a list of text parts.") }}
{% endif %}
{% endmacro %}
{{ bos_token }}{% for message in messages %}
{% if message.role == "assistant" %}
Assistant:{% generation %} {{ text(message.content) }}{{ eos_token }}{% endgeneration %}

{% else %}
{{ message.role | capitalize }}: {{ text(message.content) }}

{% endif %}
{% endfor %}
{% if add_generation_prompt %}
Assistant:{% endif %}
"""


def train_tokenizer(
    texts: Iterable[str],
    kind: Literal["bpe", "uncased", "char"] = "bpe",
    vocab_size: int = 8192,
    model_max_length: int = 1024,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on texts.

    Args:
        texts: the corpus, one document per item; it is read once.
        kind: `"bpe"` for byte-level byte-pair encoding (Radford et al. 2019), which encodes any text without an
            unknown token; `"uncased"` for the same on lower-case words and single punctuation marks, similar to BERT's
            uncased models (Devlin et al. 2019), so that a word has the same tokens everywhere, while capitals, line
            breaks and repeated spaces are lost; `"char"` for one token per character, with `<unk>` for unseen
            characters.
        vocab_size: upper bound of the vocabulary, special tokens included; a small corpus yields fewer tokens.
        model_max_length: maximum length in tokens of an input of the model.

    Returns:
        A tokenizer with distinct pad, bos, eos, unk and mask tokens. A text is encoded as bos, text; a pair of texts
        as bos, first, eos, second.

    Raises:
        TypeError: `texts` is a single string, such as a path.
        ValueError: `kind` is another one.
        UserError: a byte-level vocabulary is smaller than 256 bytes and the special tokens.
    """
    if isinstance(texts, str):
        raise TypeError("`texts` is one string; give an iterable of documents, such as [text] or an open file.")
    if kind not in ("bpe", "uncased", "char"):
        raise ValueError(f"`kind` is {kind!r}; choose bpe, uncased or char.")
    if kind == "char":
        tokenizer = _train_characters(texts, vocab_size)
    else:
        tokenizer = _train_byte_level_bpe(texts, vocab_size, uncased=kind == "uncased")
    bos, eos = (tokenizer.token_to_id(SPECIAL_TOKENS[name]) for name in ("bos_token", "eos_token"))
    tokenizer.post_processor = processors.Sequence(
        [
            *([processors.ByteLevel(trim_offsets=False)] if kind != "char" else []),
            processors.TemplateProcessing(
                single="<bos> $A", pair="<bos> $A <eos> $B", special_tokens=[("<bos>", bos), ("<eos>", eos)]
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        # Padding on the left, because generation appends on the right; the model counts positions from the first token
        # that is not padding.
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        **SPECIAL_TOKENS,
    )


def _train_byte_level_bpe(texts: Iterable[str], vocab_size: int, uncased: bool) -> Tokenizer:
    if vocab_size < SMALLEST_BPE_VOCABULARY:
        raise UserError(
            f"A byte-level vocabulary needs at least {SMALLEST_BPE_VOCABULARY} tokens (256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens), but `vocab_size` is {vocab_size}; raise it, or choose "
            "`--tokenizer_kind char`."
        )
    tokenizer = Tokenizer(models.BPE())
    # Matches only words that are longer; the rest of such a word is shorter, and a word of its own.
    long_words = pre_tokenizers.Split(Regex(f".{{{LONGEST_WORD}}}(?=.)"), behavior="isolated")
    if uncased:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        # Each word gets a space in front, whether the text has one or not.
        words = [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    else:
        words = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, long_words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_characters(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS.values()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
