"""What an application is: its examples, their rows, what the model says to them, and how good that is."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TextIO

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, default_data_collator
from transformers.utils import ModelOutput

from .caching import code_hash
from .configuration_mini import MiniConfig
from .data import LEARNT_FROM, DataArguments, Examples, load_splits
from .errors import UserError
from .metrics import TextLoss
from .loss_mini import IGNORED_LABEL
from .packing import EncodedData


REPORTED_EXAMPLES = 500


class Task(ABC):
    """One application. A subclass in `modeling_mini/tasks` says what differs from one to the next.

    Attributes:
        name: that of its file; as the Hub names the task, where it does.
        pipeline_tag: how the Hub names it, if not so.
        card_input: what a model card gives to the tokenizer, as Python, with `{prompt!r}` for a text.
        says_one_thing_to_each: whether `predict` returns something to show for each example.
        model_class: the head that is trained.
        columns: what an example holds; `text_columns` of them must be text that is not blank.
        optional_columns: what it may hold besides.
        input_columns: what the model is given of it.
        group_column: examples that share it are never divided between training and validation.
        embedded: the embedded data set that it learns from by default; without one, `--dataset` must be given.
        requires: packages that its metric and its baselines import, beyond those of the `train` extra.
        needs_causal: whether the model must not see what comes next, because that is what it predicts.
        counts_bytes: whether its rows hold the whole text, so that bits per byte can be measured.
        metric: the key of `score` that systems are compared by.
        logit_names, label_names: outputs of the model, and parts of a batch, that `row_loss` compares.
    """

    name: ClassVar[str]
    pipeline_tag: ClassVar[str | None] = None
    card_input: ClassVar[str] = "{prompt!r}"
    says_one_thing_to_each: ClassVar[bool] = True
    model_class: ClassVar[type[PreTrainedModel]]
    columns: ClassVar[tuple[str, ...]]
    text_columns: ClassVar[tuple[str, ...]]
    optional_columns: ClassVar[tuple[str, ...]] = ()
    input_columns: ClassVar[tuple[str, ...]]
    group_column: ClassVar[str | None] = None
    embedded: ClassVar[str | None] = None
    requires: ClassVar[tuple[str, ...]] = ()
    needs_causal: ClassVar[bool] = False
    counts_bytes: ClassVar[bool] = False
    metric: ClassVar[str]
    logit_names: ClassVar[tuple[str, ...]] = ("logits",)
    label_names: ClassVar[tuple[str, ...]] = ("labels",)

    def __init__(self, args: DataArguments):
        self.args = args

    @property
    def code(self) -> tuple[str, ...]:
        """Cache key of the files that say how its examples are read."""
        own = [parent for parent in type(self).__mro__ if parent.__module__.startswith(__package__)]
        return tuple(code_hash(inspect.getfile(parent)) for parent in own)

    # Examples

    def load(
        self, divide: bool = True, roles: tuple[str, ...] = LEARNT_FROM, needs_train: bool = True
    ) -> dict[str, Examples]:
        """Checked examples by split: `data.load_splits`. Raises `UserError`."""
        if missing := [name for name in self.requires if find_spec(name) is None]:
            raise UserError(
                f"{self.name} is measured with {', '.join(missing)}, which is not installed: "
                'pip install "modeling_mini[tasks]".'
            )
        if self.args.streaming:
            raise UserError(f"--streaming: {self.name} reads its examples whole; leave it out.")
        return load_splits(self.args, self, divide, roles, needs_train)

    def read_file(self, path: Path) -> Dataset | None:
        """Examples of a file in a format of the task's own, or None where `datasets` reads it."""
        return None

    def prepare(self, examples: Examples) -> Examples:
        """Examples of a split as `problem` wants them, whatever the data set has; the training split comes first."""
        return examples

    def problem(self, example: dict) -> str | None:
        """What is wrong with an example, and how to mend it, `{column}` standing for the name of a column."""
        for column in self.text_columns:
            value = example[column]
            if value is not None and not isinstance(value, str):
                return (
                    f"{{{column}}} holds {type(value).__name__} where text is wanted; correct it, or choose another "
                    f"column with --columns {column}=NAME."
                )
            if not (value and value.strip()):
                return f"there is no {column} in {{{column}}}; fill it in, or remove the row."
        return None

    def keeps(self, example: dict) -> bool:
        """Whether an example without a problem is used."""
        return True

    def texts(self, examples: Examples) -> Iterable[str]:
        """What a new tokenizer is trained on."""
        for example in examples:
            yield from (example[column] for column in self.text_columns)

    # Training

    def configure(self, config: MiniConfig, train: Examples | None = None) -> None:
        """Write into the config what the task decides, and the training examples once they are loaded: labels.

        Raises:
            UserError: a bidirectional model for a task that predicts the next token.
        """
        if self.needs_causal and not config.is_causal:
            raise UserError(
                f"The model has is_causal=False, and {self.name} predicts the next word, which such a model sees; "
                "choose a causal one."
            )

    def adopt(self, config: MiniConfig) -> None:  # noqa: B027
        """Read from the config of a trained model what its training examples decided."""

    def check(self, tokenizer: PreTrainedTokenizerBase, prompt: str, context: int) -> None:
        """Refuse what would fail only after the examples are encoded, or the model trained. Raises `UserError`."""
        if tokenizer.pad_token_id is None:
            raise UserError(f"The tokenizer has no pad token, and {self.name} pads its rows; choose another.")

    @abstractmethod
    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        """Rows for the Trainer; `name` is that of the split, for progress bars."""

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], Mapping[str, torch.Tensor]]:
        """Rows -> batch."""
        return default_data_collator

    @staticmethod
    @abstractmethod
    def row_loss(logits: Any, labels: Any) -> torch.Tensor:
        """`[B, 2]`: summed nats and number of targets of each row, of what the model returns and its labels."""

    # Use

    def inputs(self, texts: list[str], stream: TextIO) -> list[dict]:
        """Examples of a command line: each text is one, or each line of the stream if there are none.

        Raises:
            UserError: there is no text.
        """
        texts = texts or [line.rstrip("\n") for line in stream]
        if not any(text.strip() for text in texts):
            raise UserError("There is no text; give it as an argument, or on standard input.")
        return [{self.input_columns[0]: text} for text in texts]

    # Evaluation

    def evaluate(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> tuple[dict, list]:
        """All metrics on examples, with the loss, and the predictions."""
        nats, targets = zip(*self.losses(model, tokenizer, examples, batch_size), strict=True)
        loss = TextLoss(keep_in_memory=True).compute(nats=nats, targets=targets)
        predictions = self.predict(model, tokenizer, examples, batch_size)
        return loss | self.score(predictions, examples), predictions

    def losses(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> list[tuple[float, int]]:
        """Summed nats and number of targets of each row of the examples."""
        rows = self.encode(examples, tokenizer, "evaluation").rows
        losses = [None] * len(rows)
        for places, batch, outputs in forward_batches(model, rows, self.collator(tokenizer), batch_size, "loss"):
            logits = _one_or_all([outputs[name] for name in self.logit_names])
            labels = _one_or_all([batch[name] for name in self.label_names])
            for place, (nats, targets) in zip(places, self.row_loss(logits, labels).tolist(), strict=True):
                losses[place] = nats, int(targets)
        return losses

    @abstractmethod
    def predict(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> list:
        """What the model says to each example."""

    @abstractmethod
    def score(self, predictions: list, examples: Dataset) -> dict:
        """Metrics of predictions, with 95% intervals as `<metric>_interval`."""

    @abstractmethod
    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list]]:
        """Simple systems by name, with their predictions; those that learn do so from `train`, where it is given."""

    def report(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, prompt: str
    ) -> tuple[dict, str]:
        """Metrics besides the loss, and what a person looks at: the first examples with what the model says.

        Of no more than `REPORTED_EXAMPLES`, drawn at random, because writing takes longer than reading.
        """
        examples = examples.shuffle(seed=0).take(min(REPORTED_EXAMPLES, len(examples)))
        predictions = self.predict(model, tokenizer, examples)
        return {**self.score(predictions, examples), "scored_examples": len(examples)}, show(examples, predictions)


def show(examples: Dataset, predictions: list, count: int = 5) -> str:
    """The first examples, unselected, each with its prediction, as lines for a person."""
    shown = []
    for example, prediction in zip(examples.take(min(count, len(examples))), predictions, strict=False):
        lines = [f"{column}: {_shorten(value)}" for column, value in example.items()]
        shown.append("\n".join([*lines, f"-> {_shorten(prediction)}"]))
    return "\n\n".join(shown)


def forward_batches(
    model: PreTrainedModel, rows: Dataset, collate: Callable, batch_size: int, name: str
) -> Iterator[tuple[list[int], Mapping, ModelOutput]]:
    """The model over rows of token ids, without gradients: (places of the rows, batch, outputs) for each batch."""
    lengths = map(len, rows.with_format("numpy")["input_ids"])
    model.eval()
    for places in batches_of_like_length(lengths, batch_size, name):
        batch = collate([rows[place] for place in places])
        batch = {key: value.to(model.device) for key, value in batch.items()}
        with torch.no_grad():
            yield places, batch, model(**batch)


def batches_of_like_length(lengths: Iterable[int], batch_size: int, name: str) -> Iterator[list[int]]:
    """Places of the rows of each batch, short rows first, so that little is padded; with a progress bar."""
    lengths = list(lengths)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in tqdm(range(0, len(order), batch_size), desc=name, unit=" batches", disable=None):
        yield order[start : start + batch_size]


def _one_or_all(values: list) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def _shorten(value: Any, length: int = 300) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= length else f"{text[: length - 4]} ..."


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logits `[B, T, V]` and the token that each should predict `[B, T]` -> `[B, 2]`: summed nats, targets, by row.

    Only these two numbers a row are gathered from the devices, never the logits.
    """
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    ).view(targets.shape)
    return torch.stack([nll.sum(-1), (targets != IGNORED_LABEL).sum(-1)], dim=-1)


def next_token_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`token_nll` of a causal model, whose labels equal its inputs."""
    return token_nll(logits[:, :-1], labels[:, 1:])
