"""Exact match and F1 of short answers, as SQuAD scores them, with intervals."""

import re
import string
from collections import Counter

import datasets
import evaluate
import numpy as np

from .bootstrap import with_intervals


_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SpanAnswers(evaluate.Metric):
    """How well answers agree with the best of their references (SQuAD 1.1 and 2.0: Rajpurkar et al. 2016, 2018).

    `compute(predictions=[...], references=[[...], ...])` takes one answer a question, "" for no answer, and a list of
    right answers, empty where the text has none. Case, ASCII punctuation, the articles a, an, the, and spaces do not
    count. It returns, in percent:

    - `exact_match`: answers equal to a reference; `f1`: the mean F1 of the words shared with a reference. Where the
      text has no answer, both are 100 for no answer and 0 for any;
    - if some questions have no answer, `has_answer_exact_match` and `has_answer_f1` over the questions that have one,
      and `no_answer_accuracy` over the others;
    - with each its 95% bootstrap interval `[low, high]` as `<name>_interval`.
    """

    def _info(self):
        answer = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: an answer each. references: a list of right answers each.",
            features=datasets.Features({"predictions": answer, "references": datasets.Sequence(answer)}),
        )

    def _compute(self, predictions, references):
        scores = np.array([_scores(*pair) for pair in zip(predictions, references, strict=True)])
        answerable = np.array([len(answers) > 0 for answers in references])
        found = _mean(scores, ["exact_match", "f1"])
        if not answerable.all():
            found |= _mean(scores[~answerable, :1], ["no_answer_accuracy"])
            if answerable.any():
                found |= _mean(scores[answerable], ["has_answer_exact_match", "has_answer_f1"])
        return found


def _mean(scores: np.ndarray, names: list[str]) -> dict[str, float | list[float]]:
    return with_intervals(lambda drawn: dict(zip(names, scores[drawn].mean(axis=0), strict=True)), len(scores))


def _scores(prediction: str, references: list[str]) -> tuple[float, float]:
    """Exact match and F1 in percent with the reference that suits each best."""
    found = _words(prediction)
    # A reference that is nothing but articles and punctuation would reward silence.
    wanted = [words for words in map(_words, references) if words] or [[]]
    return 100.0 * (found in wanted), max(100 * _f1(found, words) for words in wanted)


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))


def _words(text: str) -> list[str]:
    """Punctuation goes first, so that "a.m." is a word and no article; then articles, also inside other marks."""
    return re.sub(r"\b(?:a|an|the)\b", " ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()
