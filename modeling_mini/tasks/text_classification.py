"""Text classification: a label for a text, or for a pair of texts, such as whether one follows from the other."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from datasets import ClassLabel, Dataset
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from .. import metrics
from ..caching import code_hash
from ..configuration_mini import MiniConfig
from ..data import Examples, map_options
from ..errors import UserError
from ..modeling_mini import MiniForSequenceClassification
from ..packing import EncodedData, encoded_examples
from ..task import Task, forward_batches


_THIS_CODE = code_hash(__file__)


class TextClassification(Task):
    """One of several labels for `text`, or for `text` and `text_pair`; measured in accuracy, macro-F1 and MCC.

    A label is a name, or a number. Which there are is what the training split holds, and stands in the config.
    """

    name = "text-classification"
    model_class = MiniForSequenceClassification
    columns = ("text", "label")
    text_columns = input_columns = ("text",)
    optional_columns = ("text_pair",)
    embedded = "docstring-fields"
    requires = ("sklearn",)
    metric = "macro_f1"

    def load(self, divide: bool = True) -> dict[str, Examples]:
        return {split: _name_labels(examples) for split, examples in super().load(divide).items()}

    def problem(self, example: dict) -> str | None:
        if example["label"] in (None, "", -1):  # -1 hides the labels of a test split on the Hub
            return "there is no label in {label}; fill it in, or remove the row."
        if not isinstance(example["label"], (str, int)):
            return f"{{label}} holds {type(example['label']).__name__}, and a label is a name or a whole number."
        if "text_pair" in example and not isinstance(example["text_pair"], str):
            return "there is no text in {text_pair}; fill it in, or remove the row."
        return super().problem(example)

    def texts(self, examples: Examples) -> Iterator[str]:
        for example in examples:
            yield example["text"]
            if "text_pair" in example:
                yield example["text_pair"]

    def configure(self, config: MiniConfig, train: Examples | None = None) -> None:
        super().configure(config, train)
        if train is not None:
            names = set(train["label"])
            if len(names) < 2:
                raise UserError(f"{self.args.dataset}: every training example has the same label; give two or more.")
            if names != set(config.label2id):  # or a model that knows them keeps its numbers
                config.id2label = dict(enumerate(sorted(names, key=_label_order)))
                config.label2id = {name: number for number, name in config.id2label.items()}
            config.problem_type = "single_label_classification"
        self.label2id = config.label2id

    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        if unknown := set(examples["label"]) - set(self.label2id):
            row = examples["label"].index(min(unknown)) + 1
            raise UserError(
                f"{self.args.dataset}: row {row} of the {name} examples has the label {min(unknown)!r}, and the model "
                f"knows {', '.join(self.label2id)}; correct it, or remove the row."
            )
        rows = examples.map(
            EncodeTexts(tokenizer, self.args.block_size, self.label2id),
            batched=True,
            remove_columns=examples.column_names,
            **map_options(self.args, f"Tokenizing {name} examples"),
        )
        return encoded_examples(rows, sum(len(text.encode()) for text in self.texts(examples)))

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], Mapping[str, torch.Tensor]]:
        return DataCollatorWithPadding(tokenizer)

    @staticmethod
    def row_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nll = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return torch.stack([nll, torch.ones_like(nll)], dim=-1)

    def predict(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> list[str]:
        return [label for label, _ in self.probabilities(model, tokenizer, examples, batch_size)]

    def probabilities(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> list[tuple[str, float]]:
        """The likeliest label of each text, and its probability."""
        texts = [column for column in ("text", "text_pair") if column in examples.column_names]
        encode = EncodeTexts(tokenizer, self.args.block_size)
        rows = examples.select_columns(texts).map(encode, batched=True, remove_columns=texts)
        found = [None] * len(rows)
        for places, _, outputs in forward_batches(model, rows, self.collator(tokenizer), batch_size, self.name):
            best = outputs.logits.float().softmax(-1).max(-1)
            for place, number, probability in zip(places, best.indices.tolist(), best.values.tolist(), strict=True):
                found[place] = model.config.id2label[number], probability
        return found

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
        yield "the commonest label", [commonest] * len(examples)
        bag_of_words = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2), LogisticRegression(C=10, max_iter=1000)
        )
        bag_of_words.fit(list(self._joined(train)), train["label"][:])
        yield "bag of words + logistic regression", bag_of_words.predict(list(self._joined(examples))).tolist()

    def _joined(self, examples: Dataset) -> Iterator[str]:
        return (
            " ".join(example[column] for column in ("text", "text_pair") if column in example) for example in examples
        )


@dataclass
class EncodeTexts:
    """Batched map: `text`, perhaps `text_pair`, perhaps `label` -> `input_ids` of at most `length`, and `labels`."""

    tokenizer: PreTrainedTokenizerBase
    length: int
    label2id: dict[str, int] | None = None
    code: str = _THIS_CODE

    def __call__(self, batch: dict) -> dict:
        encoded = self.tokenizer(
            batch["text"],
            batch.get("text_pair"),
            truncation=True,
            max_length=self.length,
            split_special_tokens=True,
            return_attention_mask=False,
        )
        labels = {} if self.label2id is None else {"labels": [self.label2id[name] for name in batch["label"]]}
        return {"input_ids": encoded["input_ids"], **labels}


def _name_labels(examples: Dataset) -> Dataset:
    """Labels as names, whatever they were in the data set."""
    feature = examples.features["label"]
    name = feature.int2str if isinstance(feature, ClassLabel) else str
    names = [name(label) for label in examples["label"]]
    return examples.remove_columns("label").add_column("label", names)


def _label_order(name: str) -> tuple:
    return (0, int(name), "") if name.isdigit() else (1, 0, name)
