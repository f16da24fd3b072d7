"""Generative question answering: write the answer to a question about a text, or nothing if the text has none."""

from collections.abc import Iterable, Iterator
from typing import TextIO

from datasets import Dataset

from .. import metrics
from ..data.columns import ANSWERS, one_answer
from ..data.examples import Examples
from .question_answering import (
    NO_ANSWER,
    question_and_context,
    squad_questions,
    trivial_answers,
    with_clean_answers,
)
from .text_to_text import TextToTextTask


class GenerativeQuestionAnswering(TextToTextTask):
    """Data, metric and baselines of extractive question answering, with a decoder that writes the answer.

    The source is the context, a line break and the question, as in GPT-3 (Brown et al. 2020, appendix G). In this
    order, the model can answer by repeating what follows a name of the question in the context. If the source is too
    long, the start of the context is truncated. The answer need not be a part of the context.
    """

    name = "generative-question-answering"
    used_options = (*TextToTextTask.used_options, "unanswerable")
    usage = 'answer {folder} "QUESTION" < DOCUMENT.txt'
    pipeline_tag = "text-generation"  # the Hub's question-answering finds spans
    card_input = '{prompt!r} + "\\nWhat is it?" + tokenizer.eos_token'
    columns = ("question", "context", "answers.text")
    text_columns = input_columns = ("question", "context")
    column_types = {"answers.text": ANSWERS}
    group_column = "context"
    truncation_side = "left"
    default_dataset = "docstring-questions"
    metric = "exact_match"
    score_names = ("exact_match", "f1")
    pretrained_result = "exact match 70.7"

    def expand_row(self, row: dict) -> Iterable[dict] | None:
        return squad_questions(row, ("text",))

    def prepare(self, examples: Dataset) -> Dataset:
        if getattr(examples.features["answers.text"], "dtype", None) in ("string", "large_string"):  # one per question
            answers = [one_answer(text) for text in examples["answers.text"]]
            examples = examples.remove_columns("answers.text").add_column("answers.text", answers)
            examples = examples.cast_column("answers.text", ANSWERS.feature)
        return with_clean_answers(examples, self.args.source_name)

    def find_problem(self, example: dict) -> str | None:
        texts = example["answers.text"]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return "{answers.text} is neither a text nor a list of texts; correct it, or remove the row."
        if not (texts or self.args.unanswerable):
            return NO_ANSWER
        return super().find_problem(example)

    def sources(self, examples: Examples | dict) -> list[str]:
        pairs = zip(examples["question"], examples["context"], strict=True)
        return [f"{context}\n{question}" for question, context in pairs]

    def targets(self, examples: Examples | dict) -> list[str]:
        return [texts[0] if texts else "" for texts in examples["answers.text"]]

    def inputs(self, texts: list[str], stream: TextIO) -> list[dict]:
        return question_and_context(texts, stream)

    def score(self, predictions: list[str], examples: Dataset) -> dict:
        metric = metrics.SpanAnswers(keep_in_memory=True)
        return metric.compute(predictions=predictions, references=examples["answers.text"][:])

    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list[str]]]:
        return trivial_answers(examples, train)
