"""Question answering: the part of a context that answers a question, or that there is none (SQuAD 1.1 and 2.0)."""

import copy
import heapq
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from datasets import Dataset
from transformers import BatchEncoding, DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from .. import metrics
from ..data.examples import Examples, map_options
from ..data.fingerprint import code_hash
from ..data.packing import EncodedData, encoded_examples
from ..errors import UserError
from ..modeling_mini import MiniForQuestionAnswering
from .base import Task
from .batches import forward_batches


_THIS_CODE = code_hash(__file__)

NO_ANSWER = "there is no answer in {answers.text}; leave --no_unanswerable out, or remove the row."
BEST_ENDS = 20  # starts, and ends, that are combined into spans


class QuestionAnswering(Task):
    """Extractive: start and end of the answer in the context; measured in exact match and F1.

    A context longer than a row is read in windows that overlap by `stride` tokens. Where the answer is not in a
    window, its start and end are the first token of the row, which stands for no answer.
    """

    name = "question-answering"
    model_class = MiniForQuestionAnswering
    columns = ("question", "context", "answers.text", "answers.answer_start")
    text_columns = input_columns = ("question", "context")
    group_column = "context"
    card_input = '"What is it?", {prompt!r}'
    default_dataset = "docstring-questions"
    metric = "exact_match"
    logit_names = ("start_logits", "end_logits")
    label_names = ("start_positions", "end_positions")

    def read_file(self, path: Path) -> Dataset | None:
        return read_squad(path)

    def find_problem(self, example: dict) -> str | None:
        texts, starts = example["answers.text"], example["answers.answer_start"]
        for name, values in (("answers.text", texts), ("answers.answer_start", starts)):
            if not isinstance(values, list):
                return f"{{{name}}} is no list; write the answers in JSON, as in SQuAD, and [] where there is none."
        if not (texts or self.args.unanswerable):
            return NO_ANSWER
        if len(texts) != len(starts):
            return f"there are {len(texts)} answers and {len(starts)} starts; give each answer its answer_start."
        for text, start in zip(texts, starts, strict=True):
            if not (isinstance(text, str) and isinstance(start, int)):
                return f"the answer {text!r} at {start!r} is no text with its place; correct it, or remove the row."
            if example["context"] and example["context"][start : start + len(text)] != text:
                return (
                    f"the answer {text!r} does not stand at character {start} of its context; correct answer_start, "
                    "which counts characters from 0."
                )
        return super().find_problem(example)

    def inputs(self, texts: list[str], stream: TextIO) -> list[dict]:
        return question_and_context(texts, stream)

    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        encode = EncodeWindows(tokenizer, self.args.block_size, self.args.stride)
        rows = examples.map(
            encode,
            batched=True,
            remove_columns=examples.column_names,
            **map_options(self.args, f"Tokenizing {name} examples"),
        ).select_columns(["input_ids", *self.label_names])
        return encoded_examples(rows, sum(len(text.encode()) for text in self.texts(examples)))

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], Mapping[str, torch.Tensor]]:
        to_the_right = copy.deepcopy(tokenizer)  # starts and ends count from the left
        to_the_right.padding_side = "right"
        return DataCollatorWithPadding(to_the_right)

    @staticmethod
    def row_loss(logits: tuple, labels: tuple) -> torch.Tensor:
        nll = sum(
            torch.nn.functional.cross_entropy(ends.float(), places, reduction="none")
            for ends, places in zip(logits, labels, strict=True)
        )
        return torch.stack([nll, torch.full_like(nll, 2)], dim=-1)

    def predict(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> list[str]:
        return [best[0]["answer"] for best in self.n_best(model, tokenizer, examples, batch_size)]

    def n_best(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Dataset,
        batch_size: int = 32,
        n: int = 3,
    ) -> list[list[dict]]:
        """The `n` best answers of each example: `{"answer", "start", "end", "score"}`, the best first.

        `start` and `end` count characters of the context, and `score` is the sum of the two logits, less that of no
        answer, which is itself a candidate: "" from 0 to 0 with score 0 (Devlin et al. 2019, section 4.3); not so
        with `unanswerable` off, unless there is no other.
        """
        encode = EncodeWindows(tokenizer, self.args.block_size, self.args.stride, keep_places=True)
        asked = examples.select_columns(["question", "context"])
        windows = Dataset.from_dict(encode(asked[:], range(len(asked))))
        spans = [[] for _ in range(len(examples))]
        nothing = [float("inf")] * len(examples)
        rows = windows.select_columns(["input_ids"])
        for places, _, outputs in forward_batches(model, rows, self.collator(tokenizer), batch_size, self.name):
            ends = outputs.start_logits.float().cpu().numpy(), outputs.end_logits.float().cpu().numpy()
            for place, start_logits, end_logits in zip(places, *ends, strict=True):
                window = windows[place]
                example = window["example"]
                # What no window holds must be missing in the one that is surest of it.
                nothing[example] = min(nothing[example], float(start_logits[0] + end_logits[0]))
                spans[example] += best_spans(
                    start_logits, end_logits, window["character_spans"], self.args.max_target_tokens, n
                )
        return [
            self._ranked(example["context"], candidates, null, n)
            for example, candidates, null in zip(asked, spans, nothing, strict=True)
        ]

    def _ranked(self, context: str, candidates: list[tuple[float, int, int]], nothing: float, n: int) -> list[dict]:
        found = {}
        for score, start, end in sorted(candidates):  # the best of those that are equal without their spaces
            found[trimmed(context, start, end)] = score - nothing
        if self.args.unanswerable or not found:
            found[0, 0] = 0.0
        best = heapq.nlargest(n, found.items(), key=lambda item: item[1])
        return [
            {"answer": context[start:end], "start": start, "end": end, "score": score} for (start, end), score in best
        ]

    def score(self, predictions: list[str], examples: Dataset) -> dict:
        metric = metrics.SpanAnswers(keep_in_memory=True)
        return metric.compute(predictions=predictions, references=examples["answers.text"][:])

    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list[str]]]:
        return trivial_answers(examples, train)


def question_and_context(texts: list[str], stream: TextIO) -> list[dict]:
    """A question, and its context as a second text or from the stream. Raises `UserError`."""
    if len(texts) not in (1, 2):
        raise UserError("Give one question in quotes, and the text with its answer after it or on standard input.")
    question, context = [*texts, stream.read()] if len(texts) == 1 else texts
    if not (question.strip() and context.strip()):
        raise UserError("The question or its context is empty.")
    return [{"question": question, "context": context}]


def read_squad(path: Path) -> Dataset | None:
    """The nested JSON of the official SQuAD files as a row a question; None for another file."""
    if not path.name.endswith(".json"):
        return None
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        questions = [
            (paragraph["context"], question)
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError):  # a table as JSON, or no JSON, of which `datasets` says more
        return None
    return Dataset.from_list([_squad_row(path, context, question) for context, question in questions])


def _squad_row(path: Path, context: str, question: dict) -> dict:
    try:
        answers = {key: [answer[key] for answer in question.get("answers", [])] for key in ("text", "answer_start")}
        return {"question": question["question"], "context": context, "answers": answers}
    except (KeyError, TypeError) as error:
        name = question.get("id", "without an id") if isinstance(question, dict) else question
        raise UserError(f"{path}: the question {name} is not as in SQuAD, for want of {error}; correct it.") from error


def trivial_answers(examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list[str]]]:
    """Answers by rules that read no question, or one word of it."""
    asked = list(examples.select_columns(["question", "context"]))
    yield "no answer", [""] * len(asked)
    yield "rest of the line after the rarest word of the question", [rest_of_line(**example) for example in asked]
    if train is not None:
        counts = Counter(text for texts in train["answers.text"] for text in texts)
        common = [answer for answer, _ in counts.most_common(1000)]
        yield (
            "commonest answer that is in the context",
            [next((answer for answer in common if answer in example["context"]), "") for example in asked],
        )


def trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """Start and end without the spaces at both: a token holds that before its word."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def rest_of_line(question: str, context: str) -> str:
    """What stands in the context after the word of the question that is rarest there, up to the end of the line."""
    places = {}
    for word in re.findall(r"\w+", question):
        found = [match.end() for match in re.finditer(rf"\b{re.escape(word)}\b", context)]
        if found:
            places.setdefault(len(found), found[0])
    if not places:
        return ""
    line = context[places[min(places)] :].partition("\n")[0]
    return line.strip(" :`'\".,()")


def best_spans(
    start_logits: np.ndarray, end_logits: np.ndarray, character_spans: list[list[int]], longest: int, n: int
) -> list[tuple[float, int, int]]:
    """The `n` best spans of a window, of at most `longest` tokens: (sum of logits, first character, last + 1).

    `character_spans` `[T, 2]` is where each token stands in the context, and `[-1, -1]` outside it.
    """
    places = np.asarray(character_spans)
    inside = places[:, 0] >= 0
    length = len(places)
    starts = np.argsort(np.where(inside, start_logits[:length], -np.inf))[::-1][:BEST_ENDS]
    ends = np.argsort(np.where(inside, end_logits[:length], -np.inf))[::-1][:BEST_ENDS]
    width = ends[None, :] - starts[:, None]
    possible = (width >= 0) & (width < longest) & inside[starts][:, None] & inside[ends][None, :]
    scores = np.where(possible, start_logits[starts][:, None] + end_logits[ends][None, :], -np.inf)
    best = np.argsort(scores, axis=None)[::-1][:n]
    rows, columns = np.unravel_index(best, scores.shape)
    return [
        (float(scores[row, column]), int(places[starts[row], 0]), int(places[ends[column], 1]))
        for row, column in zip(rows, columns, strict=True)
        if np.isfinite(scores[row, column])
    ]


@dataclass
class EncodeWindows:
    """Batched map: question, context, perhaps answers -> windows of at most `length` tokens.

    With answers, `start_positions` and `end_positions`: the tokens of the first answer, or the first token of all
    where it is not in the window. With `keep_places`, the number of the `example` and the `character_spans` of its
    tokens in the context, `[-1, -1]` for those of the question.
    """

    tokenizer: PreTrainedTokenizerBase
    length: int
    stride: int
    keep_places: bool = False
    code: str = _THIS_CODE

    def __call__(self, batch: dict, indices: list[int] | None = None) -> dict:
        windows = self._tokenize(batch)
        examples = windows["overflow_to_sample_mapping"]
        spans = [
            [
                list(span) if part == 1 else [-1, -1]
                for span, part in zip(offsets, windows.sequence_ids(i), strict=True)
            ]
            for i, offsets in enumerate(windows["offset_mapping"])
        ]
        if self.keep_places:
            return {
                "input_ids": windows["input_ids"],
                "example": [indices[example] for example in examples],
                "character_spans": spans,
            }
        answers = [self._answer(batch, example) for example in examples]
        places = [answer_tokens(span, *answer) for span, answer in zip(spans, answers, strict=True)]
        return {
            "input_ids": windows["input_ids"],
            "start_positions": [first for first, _ in places],
            "end_positions": [last for _, last in places],
        }

    def _tokenize(self, batch: dict) -> BatchEncoding:
        return self.tokenizer(
            self._questions(batch["question"]),
            batch["context"],
            truncation="only_second",
            max_length=self.length,
            stride=min(self.stride, self.length // 4),
            split_special_tokens=True,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )

    def _questions(self, questions: list[str]) -> list[str]:
        """The questions, cut to half of a row, so that every window holds some context."""
        longest = self.length // 2
        ends = self.tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [
            question if len(end) <= longest else question[: end[longest - 1][1]]
            for question, end in zip(questions, ends, strict=True)
        ]

    @staticmethod
    def _answer(batch: dict, example: int) -> tuple[int, int]:
        """First character of the first answer, and one after its last; (-1, -1) if there is none."""
        if not batch["answers.text"][example]:
            return -1, -1
        start = batch["answers.answer_start"][example][0]
        return start, start + len(batch["answers.text"][example][0])


def answer_tokens(character_spans: list[list[int]], start: int, end: int) -> tuple[int, int]:
    """First and last token of the characters from `start` to `end`; (0, 0) where they are not all in the window."""
    inside = [i for i, (first, last) in enumerate(character_spans) if first < end and last > start and first >= 0]
    if not inside or character_spans[inside[0]][0] > start or character_spans[inside[-1]][1] < end:
        return 0, 0
    return inside[0], inside[-1]
