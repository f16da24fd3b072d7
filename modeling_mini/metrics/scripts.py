"""Words and scripts of a text, by Unicode properties. `evaluate.load` copies this file next to that of a metric."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

import regex


# The scripts that put no spaces between words: the ideographs and syllables of East Asia, and the scripts whose line
# breaks need a dictionary (classes ID, CJ and SA of Unicode Standard Annex 14). Tibetan marks syllables, not words.
WITHOUT_SPACES = (
    "Han Hiragana Katakana Bopomofo Yi Tangut Nushu Thai Lao Khmer Myanmar Tibetan Tai_Le New_Tai_Lue Tai_Tham "
    "Tai_Viet Ahom Javanese Balinese"
).split()
_JOINERS = "\u200c\u200d"  # zero-width, within words of Persian and of the scripts of India
_UNSPACED = "[" + "".join(rf"\p{{{script}}}" for script in WITHOUT_SPACES) + "]"
_WORD = regex.compile(rf"{_UNSPACED}\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}_{_JOINERS}]--{_UNSPACED}]+", regex.VERSION1)
_ASCII_WORD = re.compile(r"[0-9A-Za-z_]+")
_SENTENCE_END = re.compile(r"(?<=[.!?؟۔।])\s|(?<=[。！？])\s?")
_ONE_UNSPACED = regex.compile(rf"({_UNSPACED}[\p{{M}}{_JOINERS}]*)")

# The two-letter code of the language that a script stands for, where a metric treats its script differently.
_LANGUAGES = {
    "Thai": "th",
    "Lao": "lo",
    "Khmer": "km",
    "Myanmar": "my",
    "Tibetan": "bo",
    "Javanese": "jv",
    "Balinese": "ban",
    "Yi": "ii",
    "Hangul": "ko",
}
_COUNTED = {name: regex.compile(rf"\p{{{name}}}") for name in ("Han", "Hiragana", "Katakana", *_LANGUAGES)}


def words(text: str) -> list[str]:
    """The words of a text: letters, marks, digits and underscores between other characters.

    A character of a script without spaces is a word, together with its marks.
    """
    if text.isascii():  # five times as fast
        return _ASCII_WORD.findall(text)
    return _WORD.findall(unicodedata.normalize("NFC", text))


def sentences(text: str) -> list[str]:
    """The sentences of a text, each as one line. A space follows each, in Chinese and Japanese not always."""
    return [sentence for sentence in _SENTENCE_END.split(" ".join(text.split())) if sentence]


def split_unspaced(words: Iterable[str]) -> list[str]:
    """The words, with each character of a script without spaces as a word of its own."""
    return [part for word in words for part in _ONE_UNSPACED.split(word) if part]


def script_language(texts: Iterable[str]) -> str:
    """The two-letter code that stands for the script of most letters: zh, ja, ko, th, lo, km, my, bo, ...; else en.

    Texts with some kana are Japanese, though most of their letters are Chinese.
    """
    letters = "".join(character for text in texts for character in text if character.isalpha())
    counts = Counter({name: len(pattern.findall(letters)) for name, pattern in _COUNTED.items()})
    kana = counts.pop("Hiragana") + counts.pop("Katakana")
    if kana > 0.1 * len(letters):
        return "ja"
    script, count = counts.most_common(1)[0]
    if count <= 0.3 * len(letters):
        return "en"
    return "zh" if script == "Han" else _LANGUAGES[script]
