"""ROUGE by rouge-score, with confidence intervals."""

import functools
import types
import unicodedata

import datasets
import evaluate
import numpy as np
from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer, tokenize

from .bootstrap import with_intervals


class Rouge(evaluate.Metric):
    """Overlap of summaries with their references (Lin 2004): the mean F-measure over examples, in percent.

    `compute(predictions=[...], references=[...], tokenizer="words")` returns:

    - `rouge1`, `rouge2`: overlap of single tokens, and of pairs of tokens;
    - `rougel`: longest common subsequence over the whole text;
    - `rouge1_interval`, `rouge2_interval`, `rougel_interval`: 95% bootstrap intervals `[low, high]`.

    With `tokenizer="words"`, tokens are the stems of English words: letters other than a to z separate words, so that
    a text in Chinese or Russian scores 0. With `"characters"`, each letter, mark and digit of any script is a token;
    use it for Chinese.
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
_STEMMER = types.SimpleNamespace(stem=functools.lru_cache(maxsize=100_000)(PorterStemmer().stem))


def _words(text: str) -> list[str]:
    return tokenize.tokenize(text, _STEMMER)


def _characters(text: str) -> list[str]:
    return [character for character in text.lower() if unicodedata.category(character)[0] in "LMN"]


_TOKENIZERS = {"words": _words, "characters": _characters}
