"""Text classification: a label for a text, or for a pair of texts (does one follow from the other?)."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from .. import metrics
from ..configuration_mini import MiniConfig
from ..data.columns import LABEL, kind_of, name_some, quoted, spelling
from ..data.examples import Examples, column_texts
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
from ..errors import UserError, shortened
from ..metrics.scripts import words
from ..modeling_mini import MiniForSequenceClassification
from .base import Task, TaskArguments, log_truncated
from .batches import forward_batches


logger = logging.getLogger(__name__)

_THIS_CODE = code_hash(__file__)
SINGLE_LABEL = "single_label_classification"


class TextClassification(Task):
    """One of several labels for `text`, or for `text` and `text_pair`; measured in accuracy, macro-F1 and MCC.

    A label is a name or a number. The training split defines the labels, and the config stores them.
    """

    name = "text-classification"
    usage = 'classify {folder} "TEXT"'
    model_class = MiniForSequenceClassification
    columns = ("text", "label")
    text_columns = input_columns = ("text",)
    optional_columns = ("text_pair",)
    column_types = {"label": LABEL}
    default_dataset = "docstring-fields"
    requires = ("sklearn",)
    predicts_tokens = False
    metric = "macro_f1"
    score_names = ("accuracy", "macro_f1", "mcc")
    trains_baselines = True

    def __init__(self, args: TaskArguments):
        super().__init__(args)
        self.labels = None  # names in the order of their numbers, once `prepare` or `read_config` sets them

    def prepare(self, examples: Dataset) -> Dataset:
        """Convert the labels of any data set to names; None for -1, which means a hidden label on the Hub."""
        feature = examples.features["label"]
        numbers = [int(n) if isinstance(n, float) and n.is_integer() else n for n in examples["label"]]
        if isinstance(feature, ClassLabel):
            names = [None if number in (None, -1) else feature.int2str(number) for number in numbers]
        elif not all(number is None or isinstance(number, (str, int)) for number in numbers):
            return examples  # `find_problem` refuses them
        else:
            names = [None if number is None or not str(number).strip() else str(number) for number in numbers]
        if self.labels is None:
            is_class = isinstance(feature, ClassLabel)
            self.labels = list(feature.names if is_class else sorted({*names} - {None}, key=_label_order))
            _warn_about_spellings(self.args.source_name, names)
        return examples.remove_columns("label").add_column("label", names)

    def find_problem(self, example: dict) -> str | None:
        label = example["label"]
        if label is None:
            return "there is no label in {label}; fill it in, or remove the row."
        if not isinstance(label, str):
            return f"{{label}} holds {kind_of(label)}, but must hold a name or a whole number."
        if self.labels and label not in self.labels:
            if (alike := next((name for name in self.labels if spelling(name) == spelling(label)), None)) is not None:
                label, alike = quoted([label, alike])
                return f"{{label}} is {label}, but the label is written {alike}; write them alike, or remove the row."
            labels = name_some(
                self.labels if all(name == name.strip() for name in self.labels) else quoted(self.labels)
            )
            return f"{{label}} is {label!r}, but the labels are {labels}; correct it, or remove the row."
        if "text_pair" in example and not (isinstance(example["text_pair"], str) and example["text_pair"].strip()):
            return "there is no text in {text_pair}; fill it in, or remove the row."
        return super().find_problem(example)

    def texts(self, examples: Examples) -> Iterator[str]:
        return column_texts(examples, ("text", "text_pair"))

    def configure(self, config: MiniConfig, train: Examples | None = None) -> None:
        super().configure(config, train)
        if train is None:
            return
        config.text_pair = "text_pair" in train.column_names
        if len(set(train["label"])) < 2:
            raise UserError(f"{self.args.dataset}: every training example has the same label; give two or more.")
        if set(self.labels) == set(config.label2id):  # a model with these labels keeps its numbers
            self.labels = names_of_labels(config)
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {name: number for number, name in config.id2label.items()}
        config.problem_type = SINGLE_LABEL
        logger.info("%d classes in the training examples: %s", len(self.labels), _counted(train["label"], self.labels))

    def read_config(self, config: MiniConfig) -> None:
        if config.num_labels == 1 or config.problem_type not in (None, SINGLE_LABEL):
            predicted = "several labels" if config.problem_type == "multi_label_classification" else "numbers"
            raise UserError(
                f"The model predicts {predicted}, not one label for a text; use it with transformers: "
                "pipeline('text-classification')."
            )
        self.labels = names_of_labels(config)
        if config.text_pair is not None:
            self.present_columns = {"text_pair"} if config.text_pair else set()

    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        encode = EncodeTexts(tokenizer, self.args.block_size, self.labels)
        columns = {"input_ids": List(token_type(tokenizer)), "labels": smallest_type(len(self.labels))}
        features = Features({**columns, "is_truncated": Value("bool")})
        rows = encode_batches(examples, (encode,), features, self.args, f"Encoding {name} examples")
        texts = [column for column in ("text", "text_pair") if column in examples.column_names]
        part = "texts together" if len(texts) > 1 else "text"
        remedy = "--block_size sets the length; the rest is not read"
        truncated = column_sum(rows, "is_truncated")
        log_truncated(truncated, len(examples), name, part, self.args.block_size, remedy)
        return encoded_examples(rows.select_columns(list(columns)), len(examples), text_bytes(examples, texts))

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], Mapping[str, torch.Tensor]]:
        return DataCollatorWithPadding(tokenizer)

    @staticmethod
    def row_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nll = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return torch.stack([nll, torch.ones_like(nll)], dim=-1)

    def how_to_use(self) -> tuple[str | None, str]:
        if self.present_columns:
            return "classify {folder} --jsonl < PAIRS.jsonl", '{prompt!r}, "A second text."'
        return super().how_to_use()

    def num_truncated(self, tokenizer: PreTrainedTokenizerBase, examples: Dataset) -> int:
        return sum(EncodeTexts(tokenizer, self.args.block_size)(examples[:])["is_truncated"])

    def predict(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> list[str]:
        return [label for label, _ in self.probabilities(model, tokenizer, examples, batch_size)]

    def probabilities(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> list[tuple[str, float]]:
        """The most likely label of each text, and its probability."""
        texts = [column for column in ("text", "text_pair") if column in examples.column_names]
        encoded = EncodeTexts(tokenizer, self.args.block_size)(examples.select_columns(texts)[:])
        rows = Dataset.from_dict({"input_ids": encoded["input_ids"]})
        predictions = [None] * len(rows)
        for indices, _, outputs in forward_batches(model, rows, self.collator(tokenizer), batch_size, self.name):
            best = outputs.logits.float().softmax(-1).max(-1)
            for index, number, probability in zip(indices, best.indices.tolist(), best.values.tolist(), strict=True):
                predictions[index] = model.config.id2label[number], probability
        return predictions

    def score(self, predictions: list[str], examples: Dataset) -> dict:
        numbers = {name: number for number, name in enumerate(sorted({*predictions, *examples["label"]}))}
        return metrics.Classification(keep_in_memory=True).compute(
            predictions=[numbers[name] for name in predictions],
            references=[numbers[name] for name in examples["label"]],
        )

    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list[str]]]:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        if train is None:
            return
        commonest = Counter(train["label"]).most_common(1)[0][0]
        yield "most frequent label", [commonest] * len(examples)
        if set(train["label"]) == {commonest}:
            return
        if "text_pair" in train.column_names:
            overlap = LogisticRegression().fit(shared_words(train), train["label"][:])
            yield "share of common words + logistic regression", overlap.predict(shared_words(examples)).tolist()
        texts = list(self._joined(train))
        min_documents = 2 if len(texts) >= 1000 else 1
        bag_of_words = make_pipeline(
            TfidfVectorizer(
                tokenizer=words, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True, min_df=min_documents
            ),
            LogisticRegression(C=10, max_iter=1000),
        )
        try:
            bag_of_words.fit(texts, train["label"][:])
        except ValueError as error:  # no text has a word, or no two texts share one
            logger.warning("There is no baseline of a bag of words: %s", error)
            return
        yield "bag of words + logistic regression", bag_of_words.predict(list(self._joined(examples))).tolist()

    def _joined(self, examples: Dataset) -> Iterator[str]:
        return (
            " ".join(example[column] for column in ("text", "text_pair") if column in example) for example in examples
        )


def names_of_labels(config: MiniConfig) -> list[str]:
    """The names of a model's labels, in the order of their numbers."""
    return [config.id2label[number] for number in range(config.num_labels)]


def shared_words(examples: Dataset) -> np.ndarray:
    """`[N, 2]`: the share of the text's words that are in its pair, and of the pair's words that are in the text."""
    shares = []
    for example in examples:
        text, pair = (set(words(example[column].lower())) for column in ("text", "text_pair"))
        shares.append([len(text & pair) / max(len(text), 1), len(text & pair) / max(len(pair), 1)])
    return np.array(shares)


@dataclass
class EncodeTexts:
    """Batched map: `text`, optional `text_pair` and `label` -> `input_ids`, `is_truncated`, and `labels` if set.

    A row has at most `length` tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    length: int
    labels: list[str] | None = None
    code: str = _THIS_CODE

    def __call__(self, batch: dict) -> dict:
        columns = [batch[name] for name in ("text", "text_pair") if name in batch]
        input_ids = self._tokenize(columns, self.length + 1)
        is_truncated = [len(ids) > self.length for ids in input_ids]
        too_long = np.flatnonzero(is_truncated)
        truncated = self._tokenize([[texts[i] for i in too_long] for texts in columns], self.length)
        for i, ids in zip(too_long, truncated, strict=True):
            input_ids[i] = ids
        forget_truncation(self.tokenizer)
        labels = {} if self.labels is None else {"labels": [self.labels.index(name) for name in batch["label"]]}
        return {"input_ids": input_ids, "is_truncated": is_truncated, **labels}

    def _tokenize(self, columns: list[list[str]], length: int) -> list[list[int]]:
        if not columns[0]:
            return []
        options = {"truncation": True, "max_length": length, "split_special_tokens": True}
        return self.tokenizer(*columns, **options, return_attention_mask=False)["input_ids"]


def _counted(examples: Iterable[str], labels: list[str], most: int = 20) -> str:
    """The labels with their counts, the commonest first; of many, both ends: a misspelling is rare."""
    counts = Counter(examples)
    ordered = sorted(labels, key=lambda name: -counts[name])
    names = quoted(shortened(name, 40) for name in ordered)
    shown = [f"{name} ({counts[label]:,})" for name, label in zip(names, ordered, strict=True)]
    if len(shown) > most:
        shown[most // 2 : -(most // 2)] = [f"... {len(shown) - most:,} more ..."]
    return ", ".join(shown)


def _warn_about_spellings(dataset: str, names: list[str | None]) -> None:
    """Warn of classes whose names are probably the same label, written in several ways."""
    counts = Counter(name for name in names if name is not None)
    groups = {}
    for name in sorted(counts):
        groups.setdefault(spelling(name), []).append(name)
    groups = [group for group in groups.values() if len(group) > 1]
    for group in groups[:5]:
        shown = [f"{label} ({counts[name]:,})" for label, name in zip(quoted(group), group, strict=True)]
        logger.warning(
            "%s: the labels %s differ only in spaces, capital letters, Unicode form or .0, but are different classes; "
            "write them alike, or leave rows out with --where.",
            dataset,
            " and ".join(shown),
        )
    if len(groups) > 5:
        logger.warning("%s: %d more labels are written in several ways.", dataset, len(groups) - 5)


def _label_order(name: str) -> tuple:
    """Whole numbers first, in their order, and then names; `01` after `1`."""
    is_number = name.isascii() and name.isdecimal()
    digits = name.lstrip("0") if is_number else ""
    return (not is_number, len(digits), digits, name)
