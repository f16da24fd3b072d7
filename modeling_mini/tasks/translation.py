"""Translation: write a text in another language."""

import functools
import logging
from collections import Counter
from collections.abc import Iterator

import numpy as np
from datasets import Dataset

from .. import metrics
from ..data.builtin.catalogues import placeholders
from ..metrics.bootstrap import with_intervals
from ..metrics.scripts import script_language
from .text_to_text import TextToTextTask


logger = logging.getLogger(__name__)

LEAST_PLACEHOLDERS = 20


class Translation(TextToTextTask):
    """Source and target text; measured in BLEU and chrF. The script of the targets selects BLEU's tokenizer."""

    name = "translation"
    usage = 'translate {folder} "TEXT"'
    columns = text_columns = ("source", "target")
    input_columns = ("source",)
    default_dataset = "message-catalogues"
    requires = ("sacrebleu",)
    metric = "bleu"
    score_names = ("bleu", "chrf")
    default_decoding = {"num_beams": 4}

    def score(self, predictions: list[str], examples: Dataset) -> dict:
        references = examples["target"][:]
        quality = metrics.TranslationQuality(keep_in_memory=True)
        scores = quality.compute(predictions=predictions, references=references, language=script_language(references))
        if "tok:char" in scores["signature"]:
            _recommend_chrf()
            scores = {name: scores[name] for name in sorted(scores, key=lambda name: not name.startswith("chrf"))}
        return scores | placeholder_recall(predictions, references)

    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list[str]]]:
        yield "copy the source", examples["source"][:]


@functools.cache  # one warning for all systems of a table
def _recommend_chrf() -> None:
    logger.warning("BLEU counts characters here, because sacrebleu has no words of this script; prefer chrF.")


def placeholder_recall(predictions: list[str], references: list[str]) -> dict:
    """Percentage of the references' placeholders, such as `%s` and `{name}`, that the predictions contain as well.

    Empty for fewer than `LEAST_PLACEHOLDERS`: 3 of them would give a score of 0 or 100 and an interval from 0 to 100.
    """
    counts = []
    for prediction, reference in zip(predictions, references, strict=True):
        expected = Counter(placeholders(reference))
        counts.append([(expected & Counter(placeholders(prediction))).total(), expected.total()])
    counts = np.array(counts)
    if counts[:, 1].sum() < LEAST_PLACEHOLDERS:
        return {}

    def recall(sample: np.ndarray) -> dict[str, float]:
        matched, total = counts[sample].sum(axis=0)
        return {"placeholder_recall": 100 * matched / max(total, 1)}

    return with_intervals(recall, len(references))
