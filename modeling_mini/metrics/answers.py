"""Exact match and F1 of short answers as in SQuAD, with confidence intervals."""

import re
import string
import unicodedata
from collections import Counter

import datasets
import evaluate
import numpy as np
import regex

from .bootstrap import with_intervals
from .scripts import split_unspaced


# `string.punctuation` holds some characters that Unicode counts as symbols, such as $ and +.
_PUNCTUATION = regex.compile(rf"[\p{{P}}{re.escape(string.punctuation)}]")


class SpanAnswers(evaluate.Metric):
    """Agreement of answers with their best reference (SQuAD 1.1 and 2.0: Rajpurkar et al. 2016, 2018).

    `compute(predictions=[...], references=[[...], ...])` takes one predicted answer per question ("" for no answer)
    and a list of right answers per question (empty if the text has no answer). Case, punctuation, the articles a, an
    and the, and white space are ignored. Punctuation of every script is ignored, as in MLQA (Lewis et al. 2020); the
    SQuAD script ignores ASCII punctuation only. In scripts without spaces between words, such as Chinese and Thai,
    each character counts as a word, as for Chinese in CMRC 2018 (Cui et al. 2019) and MLQA. It returns, in percent:

    - `exact_match`: share of answers that equal a reference; `f1`: mean F1 of the words shared with a reference. If
      the text has no answer, both are 100 for the prediction "" and 0 for any other;
    - `has_answer_exact_match` and `has_answer_f1` over the questions that have an answer, and `no_answer_accuracy`
      over the others, if some questions have no answer;
    - `<name>_interval`: the 95% bootstrap interval `[low, high]` of each score.
    """

    def _info(self):
        answer = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: one answer each. references: a list of right answers each.",
            features=datasets.Features({"predictions": answer, "references": datasets.Sequence(answer)}),
        )

    def _compute(self, predictions, references):
        scores = np.array([_scores(*pair) for pair in zip(predictions, references, strict=True)])
        answerable = np.array([len(answers) > 0 for answers in references])
        results = _mean(scores, ["exact_match", "f1"])
        if not answerable.all():
            results |= _mean(scores[~answerable, :1], ["no_answer_accuracy"])
            if answerable.any():
                results |= _mean(scores[answerable], ["has_answer_exact_match", "has_answer_f1"])
        return results


def _mean(scores: np.ndarray, names: list[str]) -> dict[str, float | list[float]]:
    return with_intervals(lambda indices: dict(zip(names, scores[indices].mean(axis=0), strict=True)), len(scores))


def _scores(prediction: str, references: list[str]) -> tuple[float, float]:
    """Exact match and F1 in percent, each with the reference for which it is highest."""
    predicted = _words(prediction)
    # A reference of only articles and punctuation is dropped: an empty prediction would match it.
    references = [words for words in map(_words, references) if words] or [[]]
    return 100.0 * (predicted in references), max(100 * _f1(predicted, reference) for reference in references)


def _f1(predicted: list[str], reference: list[str]) -> float:
    if not predicted or not reference:
        return float(predicted == reference)
    shared = (Counter(predicted) & Counter(reference)).total()
    return 2 * shared / (len(predicted) + len(reference))


def _words(text: str) -> list[str]:
    """Words without punctuation and articles. Punctuation is removed first: "a.m." is a word, not an article."""
    text = unicodedata.normalize("NFC", text).lower()
    text = _PUNCTUATION.sub("", text)
    return split_unspaced(re.sub(r"\b(?:a|an|the)\b", " ", text).split())
