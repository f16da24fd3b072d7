"""Summarization: write the main point of a document in one sentence."""

from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from datasets import Dataset

from .. import metrics
from ..metrics.scripts import sentences, split_unspaced
from .text_to_text import TextToTextTask


class Summarization(TextToTextTask):
    """Document and summary; measured in ROUGE."""

    name = "summarization"
    usage = "summarize {folder} < DOCUMENT.txt"
    columns = text_columns = ("document", "summary")
    input_columns = ("document",)
    default_dataset = "docstring-summaries"
    requires = ("rouge_score",)
    metric = "rougel"
    score_names = ("rouge1", "rouge2", "rougel")
    trains_baselines = True
    pretrained_result = "ROUGE-L 18.5"
    default_decoding = {"repetition_penalty": 1.3}

    def inputs(self, texts: list[str], stream: TextIO) -> list[dict]:
        """Like `Task.inputs`, but the whole stream is one document."""
        return super().inputs(texts or [stream.read()], stream)

    def score(self, predictions: list[str], examples: Dataset) -> dict:
        references = examples["summary"][:]
        return metrics.Rouge(keep_in_memory=True).compute(predictions=predictions, references=references)

    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list[str]]]:
        yield "first sentence of the document", [first_sentence(document) for document in examples["document"]]
        if train is not None:
            words = Counter(word for summary in train["summary"] for word in _unique_words(summary))
            constant = max(train["summary"], key=lambda summary: _worth(summary, words))
            yield "one constant summary", [constant] * len(examples)


def first_sentence(document: str) -> str:
    """The text up to the first sentence end, or up to the first blank line, as one line."""
    return next(iter(sentences(document.replace("\r\n", "\n").strip().partition("\n\n")[0])), "")


def _worth(summary: str, words: Counter) -> float:
    """How many words a summary shares with the other summaries, relative to its length."""
    unique = _unique_words(summary)
    return sum(words[word] for word in unique) / (len(unique) + 8)


def _unique_words(summary: str) -> set[str]:
    return set(split_unspaced(summary.lower().split()))
