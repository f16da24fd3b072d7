"""BLEU and chrF by sacrebleu, with intervals."""

import re

import datasets
import evaluate
import numpy as np
import sacrebleu

from .bootstrap import with_intervals


class TranslationQuality(evaluate.Metric):
    """How close translations are to references, one each, over the corpus.

    `compute(predictions=[...], references=[...], language="zh")` takes detokenized text and the language translated
    into, as its two-letter code ("zh-TW" and "zh_Hans" count as "zh"), and returns:

    - `bleu`: 0 to 100 (Papineni et al. 2002). Its words are characters in Chinese, MeCab's in Japanese (characters
      where it is not installed: `pip install "sacrebleu[ja]"`), and otherwise by the rules of mteval-v13a;
    - `chrf`: 0 to 100, the F2 score of character 1- to 6-grams (Popovic 2015), which needs no words;
    - `bleu_interval`, `chrf_interval`: `[low, high]`, 95% by bootstrap over segments;
    - `signature`: sacrebleu's, of both. Scores of unlike signatures do not compare (Post 2018).
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: translations. references: one reference each.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, language="zh"):
        bleu, chrf = sacrebleu.BLEU(tokenize=_tokenizer(language)), sacrebleu.CHRF()
        # sacrebleu's public scores keep no sums of chrF, and its own bootstrap only half the width of the interval.
        metrics = {
            name: (metric, np.array(metric._extract_corpus_statistics(predictions, [references])))
            for name, metric in {"bleu": bleu, "chrf": chrf}.items()
        }

        def score(drawn):
            return {
                name: metric._compute_score_from_stats(segments[drawn].sum(axis=0)).score
                for name, (metric, segments) in metrics.items()
            }

        signature = f"BLEU|{bleu.get_signature()}, chrF{chrf.beta}|{chrf.get_signature()}"
        return with_intervals(score, len(predictions)) | {"signature": signature}


def _tokenizer(language: str) -> str:
    """The name that sacrebleu has for the words of a language."""
    code = re.split("[-_]", language.lower())[0]
    if code != "ja":
        return "zh" if code == "zh" else "13a"
    try:
        sacrebleu.BLEU(tokenize="ja-mecab")
    except RuntimeError:  # without MeCab
        return "char"
    return "ja-mecab"
