"""Question answering: find the part of a context that answers a question, if there is one (SQuAD 1.1 and 2.0)."""

import copy
import heapq
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TextIO

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, List, Value
from transformers import BatchEncoding, DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from .. import metrics
from ..data.columns import NUMBERS, TEXTS, WrongValue
from ..data.examples import Examples, SkippableProblem
from ..data.fingerprint import code_hash
from ..data.packing import (
    EncodedData,
    column_sum,
    encode_batches,
    encoded_examples,
    forget_truncation,
    smallest_type,
    text_bytes,
    token_type,
)
from ..errors import UserError
from ..metrics.scripts import sentences, words
from ..modeling_mini import MiniForQuestionAnswering
from .base import Task, log_truncated, most_stride
from .batches import forward_batches


logger = logging.getLogger(__name__)

_THIS_CODE = code_hash(__file__)

NO_ANSWER = "there is no answer in {answers.text}; leave --no_unanswerable out, or remove the row."
WITHOUT_ANSWER_START = (
    "If the data do not say at which character an answer begins, train generative-question-answering, which needs "
    "only its text (--columns answers.text=NAME)."
)
BEST_ENDS = 20  # best starts, and best ends, that are combined into spans


class QuestionAnswering(Task):
    """Extractive: start and end of the answer in the context; measured in exact match and F1.

    A context longer than a row is read in windows that overlap by `stride` tokens. If a window does not contain the
    whole answer, start and end are the first token of the row, which means no answer.
    """

    name = "question-answering"
    usage = 'answer {folder} "QUESTION" < DOCUMENT.txt'
    model_class = MiniForQuestionAnswering
    columns = ("question", "context", "answers.text", "answers.answer_start")
    text_columns = input_columns = ("question", "context")
    column_types = {"answers.text": TEXTS, "answers.answer_start": NUMBERS}
    advice_on_missing = dict.fromkeys(column_types, WITHOUT_ANSWER_START)
    group_column = "context"
    card_input = '"What is it?", {prompt!r}'
    default_dataset = "docstring-questions"
    used_options = ("max_target_tokens", "stride", "unanswerable")
    predicts_tokens = False
    metric = "exact_match"
    score_names = ("exact_match", "f1")
    trains_baselines = True
    pretrained_result = "exact match 61.3"
    logit_names = ("start_logits", "end_logits")
    label_names = ("start_positions", "end_positions")

    def expand_row(self, row: dict) -> Iterable[dict] | None:
        return squad_questions(row)

    def prepare(self, examples: Examples) -> Examples:
        return with_clean_answers(examples, self.args.source_name)

    def find_problem(self, example: dict) -> str | None:
        texts, starts = example["answers.text"], example["answers.answer_start"]
        for name, values in (("answers.text", texts), ("answers.answer_start", starts)):
            if not isinstance(values, list):
                return f"{{{name}}} is not a list; write answers in JSON, as in SQuAD, and [] for no answer."
        if not (texts or self.args.unanswerable):
            return NO_ANSWER
        if len(texts) != len(starts):
            return f"there are {len(texts)} answers but {len(starts)} starts; give each answer its answer_start."
        for text, start in zip(texts, starts, strict=True):
            if not (isinstance(text, str) and isinstance(start, int)):
                return f"the answer {text!r} at {start!r} is not a text and a number; correct it, or remove the row."
            if example["context"] and (start < 0 or example["context"][start : start + len(text)] != text):
                return SkippableProblem(
                    f"the answer {text!r} is not at character {start} of its context; correct answer_start, which "
                    "counts characters from 0."
                )
        return super().find_problem(example)

    def inputs(self, texts: list[str], stream: TextIO) -> list[dict]:
        return question_and_context(texts, stream)

    def check(self, tokenizer: PreTrainedTokenizerBase, prompt: str, context: int) -> None:
        super().check(tokenizer, prompt, context)
        check_offsets(tokenizer, self.name)

    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        encode = EncodeWindows(tokenizer, self.args.block_size, self.args.stride)
        columns = {"input_ids": List(token_type(tokenizer))}
        columns |= dict.fromkeys(self.label_names, smallest_type(self.args.block_size))
        features = Features({**columns, "question_is_truncated": Value("bool"), "answer_is_lost": Value("bool")})
        rows = encode_batches(examples, (encode,), features, self.args, f"Encoding {name} examples")
        self._warn_of_limits(rows, len(examples), name, encode.longest_question)
        rows = rows.select_columns(list(columns))
        num_bytes = text_bytes(examples, list(self.text_columns))
        return encoded_examples(rows, len(examples), num_bytes, "questions", "windows of on average")

    def _warn_of_limits(self, rows: Dataset, num_questions: int, name: str, longest_question: int) -> None:
        """Say how many questions are truncated, and how many answers a model with these options cannot give."""
        truncated, remedy = column_sum(rows, "question_is_truncated"), "half of --block_size"
        log_truncated(truncated, num_questions, name, "question", longest_question, remedy)
        if lost := column_sum(rows, "answer_is_lost"):
            logger.warning(
                "%s of %s %s questions have an answer that no window of %d tokens (--block_size) contains; the model "
                "%s that they have none.",
                *(f"{lost:,}", f"{num_questions:,}", name, self.args.block_size),
                "learns" if name == "training" else "is expected to say",
            )
        spans = rows.select_columns(list(self.label_names)).with_format("arrow").iter(100_000)
        lengths = (pc.subtract(span["end_positions"], span["start_positions"]) for span in spans)
        longest = self.args.max_target_tokens
        if long := sum(pc.sum(pc.greater_equal(length, longest)).as_py() or 0 for length in lengths):
            logger.warning(
                "%s of %s %s windows contain an answer of more than %d tokens (--max_target_tokens), which is the "
                "longest that the model gives.",
                *(f"{long:,}", f"{len(rows):,}", name, longest),
            )

    def num_truncated(self, tokenizer: PreTrainedTokenizerBase, examples: Dataset) -> int:
        encode = EncodeWindows(tokenizer, self.args.block_size, self.args.stride)
        return sum(encode.truncated(examples["question"][:])[1])

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], Mapping[str, torch.Tensor]]:
        padding_right = copy.deepcopy(tokenizer)  # start and end positions count from the left
        padding_right.padding_side = "right"
        return DataCollatorWithPadding(padding_right)

    @staticmethod
    def row_loss(logits: tuple, labels: tuple) -> torch.Tensor:
        nll = sum(
            torch.nn.functional.cross_entropy(token_logits.float(), positions, reduction="none")
            for token_logits, positions in zip(logits, labels, strict=True)
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
        """The `n` best answers of each example: `{"answer", "start", "end", "score"}`, best first.

        `start` and `end` count characters of the context. `score` is the sum of the start and end logits minus the
        same sum for no answer (Devlin et al. 2019, section 4.3). No answer is itself a candidate: "" from 0 to 0 with
        score 0. With `unanswerable=False` it is a candidate only if there is no other.
        """
        encode = EncodeWindows(tokenizer, self.args.block_size, self.args.stride, keep_places=True)
        inputs = examples.select_columns(["question", "context"])
        windows = Dataset.from_dict(encode(inputs[:], range(len(inputs))))
        contexts = inputs["context"][:]
        spans = [[] for _ in contexts]
        no_answer_scores = [float("inf")] * len(contexts)
        rows = windows.select_columns(["input_ids"])
        for indices, _, outputs in forward_batches(model, rows, self.collator(tokenizer), batch_size, self.name):
            logits = outputs.start_logits.float().cpu().numpy(), outputs.end_logits.float().cpu().numpy()
            for index, start_logits, end_logits in zip(indices, *logits, strict=True):
                window = windows[index]
                example = window["example"]
                # There is no answer only if every window says so: the smallest score decides.
                score = float(start_logits[0] + end_logits[0])
                no_answer_scores[example] = min(no_answer_scores[example], score)
                spans[example] += best_spans(
                    start_logits,
                    end_logits,
                    window["character_spans"],
                    self.args.max_target_tokens,
                    n,
                    contexts[example],
                )
        return [
            self._ranked(context, candidates, no_answer_score, n)
            for context, candidates, no_answer_score in zip(contexts, spans, no_answer_scores, strict=True)
        ]

    def _ranked(
        self, context: str, candidates: list[tuple[float, int, int]], no_answer_score: float, n: int
    ) -> list[dict]:
        scores = {}
        for score, start, end in sorted(candidates):  # of spans that differ only in spaces, the best score is kept
            scores[trimmed(context, start, end)] = score - no_answer_score
        if self.args.unanswerable or not scores:
            scores[0, 0] = 0.0
        best = heapq.nlargest(n, scores.items(), key=lambda item: item[1])
        return [
            {"answer": context[start:end], "start": start, "end": end, "score": score} for (start, end), score in best
        ]

    def score(self, predictions: list[str], examples: Dataset) -> dict:
        metric = metrics.SpanAnswers(keep_in_memory=True)
        return metric.compute(predictions=predictions, references=examples["answers.text"][:])

    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list[str]]]:
        return trivial_answers(examples, train)


def check_offsets(tokenizer: PreTrainedTokenizerBase, task_name: str) -> None:
    """Raises `UserError` for a tokenizer that does not say which characters a token stands for."""
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer ({type(tokenizer).__name__}) does not say where its tokens are in the text, which "
            f"{task_name} needs; choose one with a tokenizer.json."
        )


def question_and_context(texts: list[str], stream: TextIO) -> list[dict]:
    """One example: the question, and its context from the second text or the stream. Raises `UserError`."""
    if len(texts) not in (1, 2):
        raise UserError("Give one question in quotes, then the text to search, or pass that text on standard input.")
    question, context = [*texts, stream.read()] if len(texts) == 1 else texts
    if not (question.strip() and context.strip()):
        raise UserError("The question or its context is empty.")
    return [{"question": question, "context": context}]


def squad_questions(row: dict, needs_start: bool = True) -> Iterator[dict] | None:
    """The questions of an object in the nested JSON of SQuAD: a file, an article or a paragraph. None for any other.

    `needs_start=False` also takes answers without an `answer_start`.

    Raises:
        WrongValue: a question is not in SQuAD format.
    """
    if isinstance(articles := row.get("data"), list) and all(_has_list(article, "paragraphs") for article in articles):
        return (question for article in articles for question in squad_questions(article, needs_start))
    if _has_list(row, "paragraphs"):
        return (question for paragraph in row["paragraphs"] for question in _questions_of(paragraph, needs_start))
    return _questions_of(row, needs_start) if _has_list(row, "qas") and "context" in row else None


def _has_list(value: object, key: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(key), list)


def _questions_of(paragraph: dict, needs_start: bool) -> Iterator[dict]:
    if not (_has_list(paragraph, "qas") and "context" in paragraph):
        raise WrongValue("a paragraph is not in SQuAD format: it must have a context and a list qas; correct it.")
    for question in paragraph["qas"]:
        name = question.get("id", "without an id") if isinstance(question, dict) else repr(question)
        try:
            answers = question.get("answers", [])
            if answers is None and question.get("is_impossible"):
                answers = []
            if not isinstance(answers, list):
                raise TypeError(f"answers holds {'null' if answers is None else type(answers).__name__}, not a list")
            has_starts = needs_start or all("answer_start" in answer for answer in answers)
            yield {
                "id": question.get("id"),
                "question": question["question"],
                "context": paragraph["context"],
                "answers": {
                    "text": [answer["text"] for answer in answers],
                    "answer_start": [answer["answer_start"] for answer in answers] if has_starts else None,
                },
            }
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else error
            advice = f" {WITHOUT_ANSWER_START}" if error.args == ("answer_start",) else ""
            raise WrongValue(f"question {name} is not in SQuAD format: {reason}; correct it.{advice}") from error


def with_clean_answers(examples: Examples, dataset: str) -> Examples:
    """The examples without blank answers, and with each answer, without spaces around it, where the context has it.

    Published copies of SQuAD have answers that are off by a character or two. The log counts blank and moved answers.
    """
    columns = [name for name in ("context", "answers.text", "answers.answer_start") if name in examples.column_names]
    clean, num_blank, num_moved, is_changed = CleanAnswers(), 0, 0, False
    for example in examples.select_columns(columns):
        kept = clean(example)
        if kept.items() <= example.items():
            continue
        is_changed = True
        pairs = zip(example["answers.text"], example.get("answers.answer_start") or [], strict=False)
        before = [without_spaces(text, start)[1] for text, start in pairs if text.strip()]
        num_moved += sum(new != old for new, old in zip(kept.get("answers.answer_start", []), before, strict=True))
        num_blank += len(example["answers.text"]) - len(kept["answers.text"])
    if num_moved:
        message = "%s: answers moved by a character or two, to where their context has them: %s"
        logger.info(message, dataset, f"{num_moved:,}")
    if num_blank:
        logger.info("%s: blank answers left out: %s", dataset, f"{num_blank:,}")
    return examples.map(clean) if is_changed else examples  # nearly always unchanged; a copy stores all contexts again


@dataclass
class CleanAnswers:
    """Map: an example -> its answers without blank ones and without spaces, each where `nearest_start` finds it."""

    code: str = _THIS_CODE

    def __call__(self, example: dict) -> dict:
        texts, starts = example["answers.text"], example.get("answers.answer_start")
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            return {}
        if starts is None:
            return {"answers.text": [text.strip() for text in texts if text.strip()]}
        if not (isinstance(starts, list) and len(starts) == len(texts) and isinstance(example["context"], str)):
            return {}
        kept = [without_spaces(text, start) for text, start in zip(texts, starts, strict=True) if text.strip()]
        return {
            "answers.text": [text for text, _ in kept],
            "answers.answer_start": [nearest_start(example["context"], text, start) for text, start in kept],
        }


def without_spaces(text: str, start: int) -> tuple[str, int]:
    """An answer without the white space around it, and the index of its first character."""
    num_leading = len(text) - len(text.lstrip())
    return text.strip(), start + num_leading if isinstance(start, int) and start >= 0 else start


def nearest_start(context: str, text: str, start: int) -> int:
    """Where the context has the answer, at most two characters from `start`; or `start`, if it is not there."""
    indices = [start + offset for offset in (0, -1, 1, -2, 2)] if isinstance(start, int) and start >= 0 else []
    return next((index for index in indices if index >= 0 and context.startswith(text, index)), start)


def trivial_answers(examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list[str]]]:
    """Answers by rules that compare the words of question and context, or read no question at all."""
    inputs = list(examples.select_columns(["question", "context"]))
    yield "no answer", [""] * len(inputs)
    yield "rest of the line after the rarest word of the question", [rest_of_line(**example) for example in inputs]
    yield "sentence with the most words of the question", [closest_sentence(**example) for example in inputs]
    if train is not None:
        counts = Counter(text for texts in train["answers.text"] for text in texts)
        common = [answer for answer, _ in counts.most_common(1000)]
        yield (
            "most frequent answer that is in the context",
            [next((answer for answer in common if answer in example["context"]), "") for example in inputs],
        )


def trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """Start and end without the surrounding spaces: a token includes the space before its word."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def rest_of_line(question: str, context: str) -> str:
    """The rest of the line after the question's word that is rarest in the context (its first occurrence there)."""
    first_by_count = {}  # number of occurrences of a word in the context -> end of the first
    for word in re.findall(r"\w+", question):
        occurrences = [match.end() for match in re.finditer(rf"\b{re.escape(word)}\b", context)]
        if occurrences:
            first_by_count.setdefault(len(occurrences), occurrences[0])
    if not first_by_count:
        return ""
    line = context[first_by_count[min(first_by_count)] :].partition("\n")[0]
    return line.strip(" :`'\".,()")


def closest_sentence(question: str, context: str) -> str:
    """The first of the sentences that share the most words with the question; "" if none shares any."""
    question_words = {*words(question.lower())}
    shared = {sentence: len(question_words & {*words(sentence.lower())}) for sentence in sentences(context)}
    return max(shared, key=shared.get) if any(shared.values()) else ""


def best_spans(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    character_spans: list[list[int]],
    longest: int,
    n: int,
    context: str,
) -> list[tuple[float, int, int]]:
    """The `n` best spans of a window, of at most `longest` tokens: (sum of logits, first character, last + 1).

    `character_spans` `[T, 2]`: first and last + 1 character of each token in the context; `[-1, -1]` outside it. A
    span of white space is not an answer.
    """
    spans = np.asarray(character_spans)
    inside = spans[:, 0] >= 0
    length = len(spans)
    starts = np.argsort(np.where(inside, start_logits[:length], -np.inf))[::-1][:BEST_ENDS]
    ends = np.argsort(np.where(inside, end_logits[:length], -np.inf))[::-1][:BEST_ENDS]
    width = ends[None, :] - starts[:, None]
    possible = (width >= 0) & (width < longest) & inside[starts][:, None] & inside[ends][None, :]
    words_before = np.cumsum([0, *(not character.isspace() for character in context)])
    possible &= words_before[spans[ends, 1]][None, :] > words_before[spans[starts, 0]][:, None]
    scores = np.where(possible, start_logits[starts][:, None] + end_logits[ends][None, :], -np.inf)
    best = np.argsort(scores, axis=None)[::-1][:n]
    rows, columns = np.unravel_index(best, scores.shape)
    return [
        (float(scores[row, column]), int(spans[starts[row], 0]), int(spans[ends[column], 1]))
        for row, column in zip(rows, columns, strict=True)
        if np.isfinite(scores[row, column])
    ]


@dataclass
class EncodeWindows:
    """Batched map: question, context and, unless `keep_places`, answers -> windows of at most `length` tokens.

    Training rows have `start_positions` and `end_positions`: the tokens of the first answer, or the window's first
    token if the answer is not in the window. The first window of an example says whether its question is truncated
    (`question_is_truncated`), and whether none of its windows contains its answer (`answer_is_lost`).

    With `keep_places`, rows have instead the index of their `example`, and `character_spans`: where each token is in
    the context, `[-1, -1]` for tokens outside it.
    """

    tokenizer: PreTrainedTokenizerBase
    length: int
    stride: int
    keep_places: bool = False
    code: str = _THIS_CODE

    def __call__(self, batch: dict, indices: list[int] | None = None) -> dict:
        questions, is_truncated = self.truncated(batch["question"])
        windows = self._tokenize(questions, batch["context"])
        forget_truncation(self.tokenizer)
        examples = windows["overflow_to_sample_mapping"]
        spans = [
            [
                with_marks(*span, batch["context"][example]) if part == 1 else [-1, -1]
                for span, part in zip(offsets, windows.sequence_ids(i), strict=True)
            ]
            for i, (offsets, example) in enumerate(zip(windows["offset_mapping"], examples, strict=True))
        ]
        if self.keep_places:
            return {
                "input_ids": windows["input_ids"],
                "example": [indices[example] for example in examples],
                "character_spans": spans,
            }
        answers = [self._answer(batch, example) for example in examples]
        positions = [answer_tokens(span, *answer) for span, answer in zip(spans, answers, strict=True)]
        answered = {example for example, place in zip(examples, positions, strict=True) if place != (0, 0)}
        is_first = [example != before for before, example in pairwise([-1, *examples])]
        is_lost = [bool(texts) and example not in answered for example, texts in enumerate(batch["answers.text"])]
        return {
            "input_ids": windows["input_ids"],
            "start_positions": [first for first, _ in positions],
            "end_positions": [last for _, last in positions],
            "question_is_truncated": [
                f and is_truncated[example] for f, example in zip(is_first, examples, strict=True)
            ],
            "answer_is_lost": [f and is_lost[example] for f, example in zip(is_first, examples, strict=True)],
        }

    def _tokenize(self, questions: list[str], contexts: list[str]) -> BatchEncoding:
        return self.tokenizer(
            questions,
            contexts,
            truncation="only_second",
            max_length=self.length,
            stride=min(self.stride, most_stride(self.length), self._available - self.longest_question - 1),
            split_special_tokens=True,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )

    @property
    def _available(self) -> int:
        return self.length - self.tokenizer.num_special_tokens_to_add(pair=True)

    @property
    def longest_question(self) -> int:
        """Tokens that a question has at most: every window contains some context."""
        return self._available // 2

    def truncated(self, questions: list[str]) -> tuple[list[str], list[bool]]:
        """The questions, of at most `longest_question` tokens, and whether each was longer."""
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        options["return_offsets_mapping"] = True
        offsets, longest = self.tokenizer(questions, **options)["offset_mapping"], self.longest_question
        truncated = []
        for question, tokens in zip(questions, offsets, strict=True):
            while len(tokens) > longest:  # the last character may have several tokens, and the rest other ones
                question = question[: min(tokens[longest - 1][1], len(question) - 1)]
                tokens = self.tokenizer(question, **options)["offset_mapping"]
            truncated.append(question)
        return truncated, [len(tokens) > longest for tokens in offsets]

    @staticmethod
    def _answer(batch: dict, example: int) -> tuple[int, int]:
        """First and last + 1 character of the first answer; (-1, -1) if there is no answer."""
        if not batch["answers.text"][example]:
            return -1, -1
        start = batch["answers.answer_start"][example][0]
        return start, start + len(batch["answers.text"][example][0])


def with_marks(start: int, end: int, context: str) -> list[int]:
    """Start and end of a token with the combining marks after it, which a tokenizer that composes characters omits."""
    while end < len(context) and unicodedata.combining(context[end]):
        end += 1
    return [start, end]


def answer_tokens(character_spans: list[list[int]], start: int, end: int) -> tuple[int, int]:
    """First and last token of the characters from `start` to `end`; (0, 0) if the window lacks any of them."""
    inside = [i for i, (first, last) in enumerate(character_spans) if first < end and last > start and first >= 0]
    if not inside or character_spans[inside[0]][0] > start or character_spans[inside[-1]][1] < end:
        return 0, 0
    return inside[0], inside[-1]
