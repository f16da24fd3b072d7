"""Text generation: predict the next token of a text."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.examples import Examples
from ..data.packing import EncodedData, UnpackRows, check_training_rows, pack, text_bytes
from ..data.splits import USED_IN_TRAINING, load_splits
from ..decoding import SAMPLE_PROMPT
from ..metrics import TextLoss
from ..modeling_mini import MiniForCausalLM
from .base import REPORTED_EXAMPLES, Task
from .batches import loss_by_position, next_token_nll
from .generation import continue_text, encode_prompt, warn_about_lost_text
from .ngram import NgramModel


logger = logging.getLogger(__name__)


class TextGeneration(Task):
    """Rows of packed documents, each token predicted once; measured in bits per byte, whatever the tokenizer.

    A prediction is the pair (nats, targets) of a row; the n-gram baseline gives one pair per document.
    """

    name = "text-generation"
    usage = "generate {folder} {prompt}"
    model_class = MiniForCausalLM
    columns = text_columns = input_columns = ("text",)
    default_dataset = "python-docs"
    needs_causal = True
    counts_bytes = True
    has_prediction_per_example = False
    metric = "bits_per_byte"
    trains_baselines = True

    row_loss = staticmethod(next_token_nll)

    def load(
        self, divide: bool = True, roles: tuple[str, ...] = USED_IN_TRAINING, needs_train: bool = True
    ) -> dict[str, Examples]:
        return load_splits(self.args, self, divide, roles, needs_train)

    def find_problem(self, example: dict) -> str | None:
        return super().find_problem(example) if self.is_used(example) else None

    def is_used(self, example: dict) -> bool:
        text = example["text"]
        return text is not None and not (isinstance(text, str) and not text.strip())

    def check(self, tokenizer: PreTrainedTokenizerBase, prompt: str, context: int) -> None:
        encode_prompt(tokenizer, prompt, context, warns=prompt != SAMPLE_PROMPT)
        if self.needs_causal:
            warn_about_lost_text(tokenizer, ", and bits per byte are too low")
        if tokenizer.bos_token_id is None:
            logger.warning(
                "The tokenizer has no bos token, so the first token of a document is not predicted: bits per byte "
                "leave it out and are slightly too low."
            )

    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        data = pack(examples, tokenizer, self.args, name)
        if name == "training":
            check_training_rows(data, self.args)
        return data

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], Mapping[str, torch.Tensor]]:
        return UnpackRows()

    def evaluate(self, model, tokenizer, examples, batch_size=32) -> tuple[dict, list]:
        predictions = self.predict(model, tokenizer, examples, batch_size)
        scores = self.score(predictions, examples)
        return scores | self.loss_by_position(model, tokenizer, examples, batch_size), predictions

    def loss_by_position(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> dict[str, list[dict]]:
        """`loss_by_position` of at most `REPORTED_EXAMPLES` rows, chosen at random."""
        rows = self.encode(examples, tokenizer, "validation").rows
        rows = rows.shuffle(seed=0).take(min(REPORTED_EXAMPLES, len(rows)))
        collate, context = self.collator(tokenizer), self.args.block_size
        return {"loss_by_position": loss_by_position(model, rows, collate, self.align, context, batch_size)}

    @staticmethod
    def align(logits: torch.Tensor, batch: Mapping) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits `[B, T - 1, V]`, the token that each predicts, and the position that each was computed at."""
        return logits[:, :-1], batch["labels"][:, 1:], batch["position_ids"][:, :-1]

    def predict(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, batch_size: int = 32
    ) -> list[tuple[float, int]]:
        return self.losses(model, tokenizer, examples, batch_size)

    def score(self, predictions: list[tuple[float, int]], examples: Dataset) -> dict:
        nats, targets = zip(*predictions, strict=True)
        num_bytes = text_bytes(examples, ["text"])
        scores = TextLoss(keep_in_memory=True).compute(nats=nats, targets=targets, num_bytes=num_bytes)
        if len(nats) < 2:  # a single row, or document of the baseline, has no interval
            return scores
        bits = scores["bits_per_byte"]
        margin = scores["token_loss_margin"] * sum(targets) / (num_bytes * math.log(2))
        return {**scores, "bits_per_byte_interval": [bits - margin, bits + margin]}

    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list]]:
        if train is not None:
            ngrams = NgramModel(order=5).fit(train["text"])
            nats = [bits * math.log(2) for bits in ngrams.bits(examples["text"])]
            symbols = [len(text.encode()) + 1 for text in examples["text"]]  # bytes, and the end
            yield "5-gram over bytes", list(zip(nats, symbols, strict=True))

    def report(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Dataset,
        prompt: str,
        batch_size: int = 32,
    ) -> tuple[dict, str]:
        sample = continue_text(model, tokenizer, prompt, warns=False)  # `check` has warned before the training
        return self.loss_by_position(model, tokenizer, examples, batch_size), sample
