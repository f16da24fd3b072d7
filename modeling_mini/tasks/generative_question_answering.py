"""Generative question answering: write the answer to a question about a text, or nothing if the text has none."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import TextIO

import torch
from datasets import Dataset, List
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import metrics
from ..data.columns import ANSWERS, NUMBERS_IF_ANY, one_answer
from ..data.examples import Examples
from ..data.packing import EncodedData
from .base import most_stride
from .batches import batches_of_like_length
from .question_answering import (
    NO_ANSWER,
    check_offsets,
    question_and_context,
    squad_questions,
    trivial_answers,
    with_clean_answers,
)
from .text_to_text import Prompt, TextToTextTask, padded_left, token_ids, with_ends


logger = logging.getLogger(__name__)


class GenerativeQuestionAnswering(TextToTextTask):
    """Data, metric and baselines of extractive question answering, with a decoder that writes the answer.

    The source is the context, a line break and the question, as in GPT-3 (Brown et al. 2020, appendix G). In this
    order, the model can answer by repeating what follows a name of the question in the context. The answer need not be
    a part of the context.

    A context that is too long is split into windows that overlap by `stride` tokens. The model is trained to write
    the answer after the windows that contain the most of it, and nothing after the others. `answers.answer_start`
    says where the answer is; without it, every occurrence counts. If the context does not have the answer in these
    words, the model is trained to write it after every window. Of the windows for which the model writes a text, the
    one with the lowest probability of no answer gives the prediction.
    """

    name = "generative-question-answering"
    used_options = (*TextToTextTask.used_options, "stride", "unanswerable")
    usage = 'answer {folder} "QUESTION" < DOCUMENT.txt'
    pipeline_tag = "text-generation"  # the Hub's question-answering finds spans
    card_input = '{prompt!r} + "\\nWhat is it?" + tokenizer.eos_token'
    columns = ("question", "context", "answers.text")
    optional_columns = ("answers.answer_start",)  # says which window contains the answer
    varying_columns = ("answers.answer_start",)
    text_columns = input_columns = ("question", "context")
    column_types = {"answers.text": ANSWERS, "answers.answer_start": NUMBERS_IF_ANY}
    group_column = "context"
    default_dataset = "docstring-questions"
    metric = "exact_match"
    score_names = ("exact_match", "f1")
    trains_baselines = True
    pretrained_result = "exact match 72.6"

    def expand_row(self, row: dict) -> Iterable[dict] | None:
        return squad_questions(row, needs_start=False)

    def prepare(self, examples: Dataset) -> Dataset:
        if getattr(examples.features["answers.text"], "dtype", None) in ("string", "large_string"):  # one per question
            answers = [one_answer(text) for text in examples["answers.text"]]
            examples = examples.remove_columns("answers.text").add_column("answers.text", answers)
            examples = examples.cast_column("answers.text", ANSWERS.feature)
        examples = with_clean_answers(with_usable_starts(examples), self.args.source_name)
        if "answers.answer_start" in examples.column_names and (wrong := sum(map(is_misplaced, examples))):
            message = "%s: %s answers are not at their answer_start; every occurrence counts as an answer."
            logger.warning(message, self.args.source_name, f"{wrong:,}")
        return examples

    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        data = super().encode(examples, tokenizer, name)
        windows = sum(map(len, data.rows["prompt_lengths"]))
        if windows > len(examples):
            logger.info("%s %s questions are read in %s windows", f"{len(examples):,}", name, f"{windows:,}")
        return data

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

    def check(self, tokenizer: PreTrainedTokenizerBase, prompt: str, context: int) -> None:
        super().check(tokenizer, prompt, context)
        check_offsets(tokenizer, self.name)

    @property
    def truncated_part(self) -> tuple[str, int]:
        return "question", self.source_length // 2  # so that every window contains some context

    def prompts(self, tokenizer: PreTrainedTokenizerBase, examples: Examples | dict) -> list[Prompt]:
        encoded = token_ids(tokenizer, self.sources(examples), return_offsets_mapping=True)
        columns = encoded.input_ids, encoded.offset_mapping, examples["context"]
        prompts = []
        for example, (ids, offsets, context) in enumerate(zip(*columns, strict=True)):
            is_truncated, windows = self._windows(ids, offsets, len(context))
            prompts += [
                Prompt(with_ends(tokenizer, window), example, is_truncated and number == 0, characters)
                for number, (window, characters) in enumerate(windows)
            ]
        return prompts

    def _windows(
        self, ids: list[int], offsets: list[tuple[int, int]], context_end: int
    ) -> tuple[bool, list[tuple[list[int], tuple[int, int]]]]:
        """Whether the question of an example is truncated; token ids and characters of the context of each window.

        `offsets` are the characters of each token `ids` of the source, whose first `context_end` are the context.
        """
        num_context = next((i for i, (_, end) in enumerate(offsets) if end > context_end), len(ids))
        context, question, is_truncated = ids[:num_context], ids[num_context:], False
        if len(ids) > self.source_length:
            _, longest = self.truncated_part
            is_truncated = len(question) > longest
            question = question[:longest]
        room = self.source_length - len(question)
        shared = min(self.args.stride, most_stride(self.args.block_size), room // 2)
        windows = []
        for start in range(0, max(len(context) - shared, 1), room - shared) if room else [0]:
            end = min(start + room, len(context))
            # A character of several tokens is in the window only with all of them.
            first = offsets[start - 1][1] if start else 0
            last = offsets[end][0] if end < len(context) else context_end
            windows.append(([*context[start:end], *question], (first, last)))
        return is_truncated, windows

    def training_pairs(self, tokenizer: PreTrainedTokenizerBase, examples: dict) -> list[tuple[Prompt, str]]:
        pairs, targets = [], self.targets(examples)
        given = examples.get("answers.answer_start", [None] * len(targets))
        for example, windows in groupby(self.prompts(tokenizer, examples), key=attrgetter("example")):
            windows, answer = list(windows), targets[example]
            starts = answer_starts(examples["context"][example], answer, given[example])
            overlaps = [
                max((min(last, start + len(answer)) - max(first, start) for start in starts), default=0)
                for first, last in (window.characters for window in windows)
            ]
            most = max(overlaps)
            pairs += [
                (window, answer if overlap == most else "") for window, overlap in zip(windows, overlaps, strict=True)
            ]
        return pairs

    def best_texts(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: list[Prompt],
        texts: list[str],
        batch_size: int,
    ) -> list[str]:
        num_windows = Counter(prompt.example for prompt in prompts)
        if len(num_windows) == len(prompts):  # each context is one window
            return texts
        # All windows, also those without a text, so that the processes of a sharded model call it equally often.
        competing = [i for i, prompt in enumerate(prompts) if num_windows[prompt.example] > 1]
        values = self._no_answer(model, tokenizer, [prompts[i] for i in competing], batch_size)
        no_answer = dict(zip(competing, values, strict=True))
        answers = [""] * len(num_windows)
        for i in sorted(range(len(prompts)), key=lambda i: no_answer.get(i, 0.0), reverse=True):  # the best one last
            answers[prompts[i].example] = texts[i] or answers[prompts[i].example]
        return answers

    def _no_answer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], batch_size: int
    ) -> list[float]:
        """The log-probability that the model writes nothing after each prompt."""
        values = [0.0] * len(prompts)
        for batch in batches_of_like_length([len(prompt.input_ids) for prompt in prompts], batch_size, "windows"):
            inputs = padded_left(tokenizer, [prompts[i] for i in batch]).to(model.device)
            with torch.no_grad():
                logits = model(**inputs, logits_to_keep=1).logits[:, -1]
            nothing = logits.float().log_softmax(-1)[:, tokenizer.eos_token_id]
            for i, value in zip(batch, nothing.tolist(), strict=True):
                values[i] = value
        return values

    def inputs(self, texts: list[str], stream: TextIO) -> list[dict]:
        return question_and_context(texts, stream)

    def score(self, predictions: list[str], examples: Dataset) -> dict:
        metric = metrics.SpanAnswers(keep_in_memory=True)
        return metric.compute(predictions=predictions, references=examples["answers.text"][:])

    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list[str]]]:
        return trivial_answers(examples, train)


def with_usable_starts(examples: Dataset) -> Dataset:
    """The examples, with `answers.answer_start` only where it holds a whole number for each answer."""
    if "answers.answer_start" not in examples.column_names:
        return examples
    feature = examples.features["answers.answer_start"]
    if not (isinstance(feature, List) and feature.feature.dtype.startswith("int")):
        return examples.remove_columns("answers.answer_start")
    starts, texts, usable = examples["answers.answer_start"][:], examples["answers.text"][:], []
    for indices, answers in zip(starts, texts, strict=True):
        is_usable = None not in (indices, answers) and len(indices) == len(answers) and None not in indices
        usable.append(indices if is_usable else None)
    if usable == starts:
        return examples
    examples = examples.remove_columns("answers.answer_start").add_column("answers.answer_start", usable)
    return examples.cast_column("answers.answer_start", feature)


def is_misplaced(example: dict) -> bool:
    """Whether the first answer is not where `answers.answer_start` says."""
    texts, starts, context = (example[name] for name in ("answers.text", "answers.answer_start", "context"))
    return bool(texts and starts) and isinstance(context, str) and not is_at(context, texts[0], starts[0])


def is_at(context: str, answer: str, start: int) -> bool:
    """Whether the answer begins at the character `start` of the context."""
    return start >= 0 and context.startswith(answer, start)


def answer_starts(context: str, answer: str, given: list[int] | None) -> list[int]:
    """The characters at which an answer begins: at its given start, or wherever the context has it.

    Without a start, "no" is not in "note", unless the context has it nowhere else.
    """
    if not answer:
        return []
    if given and is_at(context, answer, given[0]):
        return given[:1]
    pattern, letter = re.escape(answer), "[0-9A-Za-z]"
    words = list(re.finditer(f"(?<!{letter}){pattern}(?!{letter})", context))
    return [match.start() for match in words or re.finditer(pattern, context)]
