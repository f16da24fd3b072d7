"""Base class of an application: its examples, their rows, the model's predictions, and their score."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar, TextIO

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, default_data_collator

from ..configuration_mini import MiniConfig
from ..data.arguments import DataArguments
from ..data.examples import ExampleFormat, Examples
from ..data.packing import EncodedData
from ..data.splits import USED_IN_TRAINING, load_splits
from ..errors import UserError
from ..metrics import TextLoss
from . import TASKS, task_class
from .batches import forward_batches


logger = logging.getLogger(__name__)

REPORTED_EXAMPLES = 500

# Arguments that only some tasks use: `Task.used_options`.
TASK_OPTIONS = ("max_source_tokens", "max_target_tokens", "stride", "unanswerable", "mask_probability")
# The arguments that define how a file becomes documents, and an input becomes token ids: a checkpoint is used with
# those it was trained with.
ENCODING_ARGUMENTS = ("task", "text_unit", "block_size", *TASK_OPTIONS)


@dataclass
class TaskArguments(DataArguments):
    """Which application is trained, where its examples come from, and how they become rows."""

    task: str = field(
        default="text-generation",
        metadata={"help": "The application.", "choices": sorted(TASKS)},
    )
    max_source_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Longest source of a translation or summary, in tokens; the rest is truncated. Of generative "
            "answering, the longest window with its question. By default all tokens that fit into the row."
        },
    )
    max_target_tokens: int = field(
        default=64, metadata={"help": "Longest translation, summary or answer, in tokens; the rest is truncated."}
    )
    stride: int = field(
        default=64,
        metadata={
            "help": "Tokens that two neighbouring windows of a long context share, at most a quarter of --block_size "
            "(question answering)."
        },
    )
    unanswerable: bool = field(
        default=True,
        metadata={
            "help": "Whether a context may lack the answer, as in SQuAD 2.0; --no_unanswerable for SQuAD 1.1 "
            "(question answering)."
        },
    )
    mask_probability: float = field(
        default=0.15, metadata={"help": "Share of the tokens that fill-mask learns to predict."}
    )

    def check(self) -> None:
        super().check()
        self.check_shares("mask_probability")
        self.check_minimums(max_source_tokens=0, max_target_tokens=1, stride=0)
        if self.stride >= self.block_size and self.stride != type(self).stride:  # the default is shortened
            raise UserError(
                f"--stride is {self.stride}, but a row has {self.block_size} tokens (--block_size); choose less."
            )

    def check_stride(self, given: Collection[str]) -> None:
        """Raises `UserError` for a given stride that the task would shorten, as it does the default.

        `given` are the names of the arguments that are not defaults.
        """
        most = most_stride(self.block_size)
        if "stride" in given and "stride" in task_class(self.task).used_options and self.stride > most:
            raise UserError(
                f"--stride is {self.stride}, but windows share at most a quarter of the {self.block_size} tokens of a "
                f"row (--block_size); give at most {most}, or leave --stride out."
            )

    def _idle(self) -> dict[str, str]:
        used = task_class(self.task).used_options
        return super()._idle() | {name: f"{self.task} does not use it" for name in TASK_OPTIONS if name not in used}


def warn_of_idle(arguments: dict[str, str]) -> None:
    """Warn of arguments without effect: `TaskArguments.idle`."""
    for name, reason in arguments.items():
        logger.warning("--%s has no effect: %s. Leave it out.", name, reason)


def most_stride(block_size: int) -> int:
    """Tokens that windows of this length share at most, so that a context does not become too many of them."""
    return block_size // 4


class Task(ExampleFormat, ABC):
    """One application. A subclass in `modeling_mini/tasks` defines what differs between applications.

    Attributes:
        name: the task's name in `TASKS`; as the Hub names the task, where it does.
        pipeline_tag: the Hub's name, if it is another.
        usage: arguments of `modeling-mini` that use a model, with `{folder}` and `{prompt}`; None if no command does.
        card_input: what a model card passes to the tokenizer, as Python, with `{prompt!r}` for a text.
        has_prediction_per_example: whether `predict` returns something to show for each example.
        writes_text: whether `predict` writes texts token by token, and takes `decoding`.
        model_class: the model that is trained.
        input_columns: the columns that the model reads when it is used.
        default_dataset: the built-in data set for training; without one, `--dataset` must be given.
        used_options: the arguments among `TASK_OPTIONS` that it uses.
        requires: packages that its metric and its baselines import, in addition to the `train` extra.
        needs_causal: whether the model must not attend to later tokens, because it predicts them.
        predicts_tokens: whether the targets of the loss are tokens, so that perplexity is meaningful.
        counts_bytes: whether its rows hold the whole text, so that bits per byte can be measured.
        metric: the key of `score` by which systems are compared.
        score_names: metrics that `score` computes for any examples, greater is better; a validation during training
            computes them on a sample of `eval_sample` examples. The default sample keeps an evaluation short.
        trains_baselines: whether some baselines are trained on the training split; `eval` says if they are missing.
        pretrained_result: what its recipe reaches if it starts from a pretrained model; None if it needs none.
        logit_names, label_names: outputs of the model, and parts of a batch, that `row_loss` compares.
    """

    name: ClassVar[str]
    pipeline_tag: ClassVar[str | None] = None
    usage: ClassVar[str | None] = None
    card_input: ClassVar[str] = "{prompt!r}"
    has_prediction_per_example: ClassVar[bool] = True
    writes_text: ClassVar[bool] = False
    model_class: ClassVar[type[PreTrainedModel]]
    input_columns: ClassVar[tuple[str, ...]]
    default_dataset: ClassVar[str | None] = None
    used_options: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    needs_causal: ClassVar[bool] = False
    predicts_tokens: ClassVar[bool] = True
    counts_bytes: ClassVar[bool] = False
    metric: ClassVar[str]
    score_names: ClassVar[tuple[str, ...]] = ()
    eval_sample: ClassVar[int] = 1000
    trains_baselines: ClassVar[bool] = False
    pretrained_result: ClassVar[str | None] = None
    logit_names: ClassVar[tuple[str, ...]] = ("logits",)
    label_names: ClassVar[tuple[str, ...]] = ("labels",)

    args: TaskArguments

    def load(
        self, divide: bool = True, roles: tuple[str, ...] = USED_IN_TRAINING, needs_train: bool = True
    ) -> dict[str, Examples]:
        """Checked examples by split: `data.splits.load_splits`. Raises `UserError`."""
        if missing := [name for name in self.requires if find_spec(name) is None]:
            raise UserError(
                f"{self.name} is measured with {', '.join(missing)}, which is not installed: "
                'pip install "modeling_mini[tasks]".'
            )
        if self.args.streaming:
            raise UserError(f"--streaming: {self.name} needs all examples at once; leave it out.")
        return load_splits(self.args, self, divide, roles, needs_train)

    # Training

    def configure(self, config: MiniConfig, train: Examples | None = None) -> None:
        """Write into the config what the task requires, and what the training examples define: labels.

        Raises:
            UserError: a bidirectional model for a task that predicts the next token.
        """
        if self.needs_causal and not config.is_causal:
            raise UserError(
                f"The model has is_causal=False, so it would see the words that {self.name} predicts; choose a causal "
                "model."
            )

    def read_config(self, config: MiniConfig) -> None:
        """Read from a trained model's config what its training examples defined."""

    def check(self, tokenizer: PreTrainedTokenizerBase, prompt: str, context: int) -> None:
        """Refuse early what would fail after the examples are encoded, or after training. Raises `UserError`."""
        if tokenizer.pad_token_id is None:
            raise UserError(f"The tokenizer has no pad token, which {self.name} needs; choose another tokenizer.")

    @abstractmethod
    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        """Rows for the Trainer; `name` is the split's name in progress bars."""

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], Mapping[str, torch.Tensor]]:
        """Rows -> batch."""
        return default_data_collator

    @staticmethod
    @abstractmethod
    def row_loss(logits: Any, labels: Any) -> torch.Tensor:
        """`[B, 2]`: summed nats and number of targets of each row, from the model's outputs and the labels."""

    # Use

    def inputs(self, texts: list[str], stream: TextIO) -> list[dict]:
        """Examples from a command line: one per text, or one per line of the stream if there are no texts.

        Raises:
            UserError: there is no text.
        """
        texts = texts or [line.rstrip("\n") for line in stream]
        if not any(text.strip() for text in texts):
            raise UserError("There is no text; give it as an argument, or on standard input.")
        return [{self.input_columns[0]: text} for text in texts]

    def num_truncated(self, tokenizer: PreTrainedTokenizerBase, examples: Dataset) -> int:
        """How many inputs are longer than the model reads, so that `predict` leaves out a part of them."""
        return 0

    def how_to_use(self) -> tuple[str | None, str]:
        """`usage` and `card_input` for a model that was trained on the task's examples."""
        return self.usage, self.card_input

    @abstractmethod
    def predict(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> list:
        """The model's prediction for each example."""

    # Evaluation

    def evaluate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Dataset,
        batch_size: int = 32,
        **options: Any,
    ) -> tuple[dict, list]:
        """All metrics on the examples, including the loss, and the predictions; `options` are those of `predict`."""
        nats, targets = zip(*self.losses(model, tokenizer, examples, batch_size), strict=True)
        metric = TextLoss(keep_in_memory=True)
        loss = metric.compute(nats=nats, targets=targets, predicts_tokens=self.predicts_tokens)
        predictions = self.predict(model, tokenizer, examples, batch_size, **options)
        return loss | self.score(predictions, examples), predictions

    def losses(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> list[tuple[float, int]]:
        """Summed nats and number of targets of each row of the examples."""
        rows = self.encode(examples, tokenizer, "evaluation").rows
        losses = [None] * len(rows)
        for indices, batch, outputs in forward_batches(model, rows, self.collator(tokenizer), batch_size, "loss"):
            logits = _one_or_all([outputs[name] for name in self.logit_names])
            labels = _one_or_all([batch[name] for name in self.label_names])
            for index, (nats, targets) in zip(indices, self.row_loss(logits, labels).tolist(), strict=True):
                losses[index] = nats, int(targets)
        return losses

    @abstractmethod
    def score(self, predictions: list, examples: Dataset) -> dict:
        """Metrics of predictions, with 95% intervals as `<metric>_interval`."""

    @classmethod
    def metric_directions(cls, with_scores: bool = True) -> dict[str, bool]:
        """The metrics of a validation during training, by name, and whether greater is better.

        `with_scores=False` leaves out those that are computed on a sample of examples.
        """
        is_measured = {"token_loss": True, "perplexity": cls.predicts_tokens, "bits_per_byte": cls.counts_bytes}
        losses = [name for name, measured in is_measured.items() if measured]
        return dict.fromkeys(losses, False) | dict.fromkeys(cls.score_names if with_scores else (), True)

    def sample_scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sample: Dataset, batch_size: int = 32
    ) -> dict[str, float]:
        """The metrics `score_names` of the model's predictions for a sample of the validation examples."""
        return self.selected_scores(self.predict(model, tokenizer, sample, batch_size), sample)

    def selected_scores(self, predictions: list, examples: Dataset) -> dict[str, float]:
        """The metrics `score_names` of predictions, as far as the examples give them."""
        scores = self.score(predictions, examples)
        return {name: float(scores[name]) for name in self.score_names if name in scores}

    @abstractmethod
    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list]]:
        """Baselines by name, with their predictions. Those of `trains_baselines` need `train`."""

    def report(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Dataset,
        prompt: str,
        batch_size: int = 32,
    ) -> tuple[dict, str]:
        """Metrics in addition to the loss, and a text for people: the first examples with their predictions.

        At most `REPORTED_EXAMPLES` examples are used, chosen at random, because generation is slow.
        """
        examples = random_sample(examples, REPORTED_EXAMPLES)
        predictions = self.predict(model, tokenizer, examples, batch_size)
        return {**self.score(predictions, examples), "scored_examples": len(examples)}, show(examples, predictions)


def log_truncated(truncated: int, total: int, name: str, part: str, length: int, remedy: str) -> None:
    """Say which share of the examples of the split `name` is truncated, if any."""
    if truncated:
        message = "%.1f%% of the %s examples have their %s truncated to %d tokens (%s)"
        logger.warning(message, 100 * truncated / total, name, part, length, remedy)


def random_sample(examples: Dataset, size: int) -> Dataset:
    """At most `size` examples, the same ones in each call; a smaller sample is a part of a larger one."""
    return examples.shuffle(seed=0).take(min(size, len(examples)))


def show(examples: Dataset, predictions: list, count: int = 5) -> str:
    """The first examples, unselected, each with its prediction, as lines for people."""
    shown = []
    for example, prediction in zip(examples.take(min(count, len(examples))), predictions, strict=False):
        lines = [f"{column}: {_shorten(value)}" for column, value in example.items()]
        shown.append("\n".join([*lines, f"-> {_shorten(prediction)}"]))
    return "\n\n".join(shown)


def _one_or_all(values: list) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def _shorten(value: Any, length: int = 300) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= length else f"{text[: length - 4]} ..."
