"""Summarization: say in a sentence what a document says."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from datasets import Dataset

from .. import metrics
from .text_to_text import TextToTextTask, script_language


class Summarization(TextToTextTask):
    """Document and summary; measured in ROUGE."""

    name = "summarization"
    columns = text_columns = ("document", "summary")
    input_columns = ("document",)
    default_dataset = "docstring-summaries"
    requires = ("rouge_score",)
    metric = "rougel"

    def inputs(self, texts: list[str], stream: TextIO) -> list[dict]:
        """As ever, but a stream is one document."""
        return super().inputs(texts or [stream.read()], stream)

    def score(self, predictions: list[str], examples: Dataset) -> dict:
        references = examples["summary"][:]
        # Where there are no spaces between words, characters are compared.
        tokenizer = "words" if script_language(references) == "en" else "characters"
        return metrics.Rouge(keep_in_memory=True).compute(
            predictions=predictions, references=references, tokenizer=tokenizer
        )

    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list[str]]]:
        yield "first sentence of the document", [first_sentence(document) for document in examples["document"]]
        if train is not None:
            words = Counter(word for summary in train["summary"] for word in set(summary.lower().split()))
            constant = max(train["summary"], key=lambda summary: _worth(summary, words))
            yield "the same summary each time", [constant] * len(examples)


def first_sentence(document: str) -> str:
    """Up to the first full stop before a space, or the first blank line, in one line."""
    paragraph = document.strip().partition("\n\n")[0]
    return re.split(r"(?<=[.!?])\s", " ".join(paragraph.split()), maxsplit=1)[0]


def _worth(summary: str, words: Counter) -> float:
    """How much of other summaries a summary repeats, for its length."""
    own = set(summary.lower().split())
    return sum(words[word] for word in own) / (len(own) + 8)
