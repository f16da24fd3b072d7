"""BLEU and chrF by sacrebleu, with confidence intervals."""

import re

import datasets
import evaluate
import numpy as np
import sacrebleu

from .bootstrap import with_intervals


class TranslationQuality(evaluate.Metric):
    """Corpus-level similarity of translations to one reference per translation.

    `compute(predictions=[...], references=[...], language="zh")` takes detokenized text and the two-letter code of the
    target language ("zh-TW" and "zh_Hans" count as "zh"). It returns:

    - `bleu`: 0 to 100 (Papineni et al. 2002). Its tokens are characters for Chinese and for other languages without
      spaces between words (Thai, Lao, Khmer, Burmese, Tibetan, ...); MeCab's words for Japanese and Korean if MeCab is
      installed (`pip install "sacrebleu[ja,ko]"`), otherwise characters for Japanese; and words by the rules of
      mteval-v13a for all others. BLEU of characters is higher than BLEU of words: compare such systems by chrF;
    - `chrf`: 0 to 100, the F2 score of character 1- to 6-grams (Popovic 2015), which needs no word boundaries;
    - `bleu_interval`, `chrf_interval`: `[low, high]`, 95% by bootstrap over segments;
    - `signature`: sacrebleu's signatures; scores with different signatures are not comparable (Post 2018).
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: translations. references: one reference per translation.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, language="zh"):
        bleu, chrf = sacrebleu.BLEU(tokenize=_tokenizer(language)), sacrebleu.CHRF()
        # Private functions of sacrebleu, because its public scores lack the sums of chrF, and its bootstrap returns
        # only half the width of the interval.
        metrics = {
            name: (metric, np.array(metric._extract_corpus_statistics(predictions, [references])))
            for name, metric in {"bleu": bleu, "chrf": chrf}.items()
        }

        def score(indices):
            return {
                name: metric._compute_score_from_stats(segments[indices].sum(axis=0)).score
                for name, (metric, segments) in metrics.items()
            }

        signature = f"BLEU|{bleu.get_signature()}, chrF{chrf.beta}|{chrf.get_signature()}"
        return with_intervals(score, len(predictions)) | {"signature": signature}


_BY_CHARACTERS = {"th", "lo", "km", "my", "bo", "dz", "ii", "jv", "ban"}  # sacrebleu has no words for them
_BY_MECAB = {"ja": "char", "ko": "13a"}  # the tokenizer without MeCab: Korean puts spaces between words


def _tokenizer(language: str) -> str:
    """The name of sacrebleu's tokenizer for a language."""
    code = re.split("[-_]", language.lower())[0]
    if code in _BY_CHARACTERS:
        return "char"
    if code not in _BY_MECAB:
        return "zh" if code == "zh" else "13a"
    try:
        sacrebleu.BLEU(tokenize=f"{code}-mecab")
    except RuntimeError:  # MeCab is not installed
        return _BY_MECAB[code]
    return f"{code}-mecab"
