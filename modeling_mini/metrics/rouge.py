"""ROUGE by rouge-score, with confidence intervals."""

import functools
import types
import unicodedata

import datasets
import evaluate
import numpy as np
from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer

from .bootstrap import with_intervals
from .scripts import words


class Rouge(evaluate.Metric):
    """Overlap of summaries with their references (Lin 2004): the mean F-measure over examples, in percent.

    `compute(predictions=[...], references=[...], tokenizer="words")` returns:

    - `rouge1`, `rouge2`: overlap of single tokens, and of pairs of tokens;
    - `rougel`: longest common subsequence over the whole text;
    - `rouge1_interval`, `rouge2_interval`, `rougel_interval`: 95% bootstrap intervals `[low, high]`.

    With `tokenizer="words"`, tokens are words of any script, and single characters in scripts without spaces between
    words, such as Chinese and Thai (as for Chinese in LCSTS, Hu et al. 2015). Words of a to z and digits are stemmed
    (Porter 1980), so that the scores of a text in ASCII equal those of rouge-score with its stemmer. In other text
    they differ: rouge-score takes any letter outside a to z as a space. With `"characters"`, each letter, mark and
    digit is a token.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: summaries. references: one reference per summary.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, tokenizer="words"):
        if tokenizer not in _TOKENIZERS:
            raise ValueError(f"`tokenizer` is {tokenizer!r}; choose one of {', '.join(_TOKENIZERS)}.")
        names = ["rouge1", "rouge2", "rougeL"]
        scorer = rouge_scorer.RougeScorer(names, tokenizer=types.SimpleNamespace(tokenize=_TOKENIZERS[tokenizer]))
        scores = [scorer.score(*pair) for pair in zip(references, predictions, strict=True)]
        percent = np.array([[100 * score[name].fmeasure for name in names] for score in scores])

        def mean(indices):
            return dict(zip(["rouge1", "rouge2", "rougel"], percent[indices].mean(axis=0), strict=True))

        return with_intervals(mean, len(scores))


# Stems are cached: stemming takes half of the time of ROUGE, and texts repeat their words.
_stem = functools.lru_cache(maxsize=100_000)(PorterStemmer().stem)


def _words(text: str) -> list[str]:
    # As in rouge-score: an underscore separates words, and words of up to three letters are their own stems.
    found = words(text.lower().replace("_", " "))
    return [_stem(word) if len(word) > 3 and word.isascii() else word for word in found]


def _characters(text: str) -> list[str]:
    text = unicodedata.normalize("NFC", text.lower())
    return [character for character in text if unicodedata.category(character)[0] in "LMN"]


_TOKENIZERS = {"words": _words, "characters": _characters}
