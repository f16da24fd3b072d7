"""Fill-mask: predict masked tokens from both sides; the pretraining of an encoder (BERT)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from ..configuration_mini import MiniConfig
from ..data.examples import Examples
from ..data.fingerprint import code_hash
from ..data.packing import EncodedData
from ..errors import UserError
from ..loss_mini import IGNORED_LABEL
from ..metrics import TextLoss
from ..modeling_mini import MiniForMaskedLM
from .batches import token_nll
from .text_generation import TextGeneration


_THIS_CODE = code_hash(__file__)


class FillMask(TextGeneration):
    """Rows of packed documents; the model predicts a randomly chosen share of the tokens.

    Of the chosen tokens, 80% become the mask token, 10% become a random token and 10% stay as they are (Devlin et al.
    2019, section 3.1). Training chooses new tokens in every pass. Validation chooses them once, so that its loss is
    comparable between updates and models.
    """

    name = "fill-mask"
    model_class = MiniForMaskedLM
    default_dataset = "docstrings"
    needs_causal = counts_bytes = False
    metric = "token_loss"

    row_loss = staticmethod(token_nll)

    def configure(self, config: MiniConfig, train: Examples | None = None) -> None:
        config.is_causal = False  # saved, so that fine-tuning attends to both sides as well

    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        if tokenizer.mask_token_id is None:
            raise UserError("The tokenizer has no mask token; choose another.")
        data = super().encode(examples, tokenizer, name)
        data.rows = data.rows.remove_columns("labels")
        if name != "training":
            mask = MaskRows(self._masking(tokenizer, seed=0))
            data.rows = data.rows.map(mask, batched=True, desc=f"Masking {name} rows")
            if not (np.array(data.rows["labels"]) != IGNORED_LABEL).any():
                raise UserError(f"{self.args.dataset}: no token of the {name} text is masked; give more text.")
        return data

    def _masking(self, tokenizer: PreTrainedTokenizerBase, seed: int | None) -> DataCollatorForLanguageModeling:
        return DataCollatorForLanguageModeling(tokenizer, mlm_probability=self.args.mask_probability, seed=seed)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], Mapping[str, torch.Tensor]]:
        return MaskUnmasked(self._masking(tokenizer, seed=None))

    @staticmethod
    def align(logits: torch.Tensor, batch: Mapping) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits `[B, T, V]`, the masked tokens, and their positions."""
        return logits, batch["labels"], batch["position_ids"]

    def score(self, predictions: list[tuple[float, int]], examples: Dataset) -> dict:
        nats, targets = zip(*predictions, strict=True)
        return TextLoss(keep_in_memory=True).compute(nats=nats, targets=targets)

    def baselines(self, examples: Dataset, train: Dataset | None) -> Iterator[tuple[str, list]]:
        return iter(())

    def report(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, prompt: str
    ) -> tuple[dict, str]:
        """The first row of the examples, with the guess and the truth at each masked token."""
        row = self.encode(examples.take(1), tokenizer, "validation").rows[0]
        with torch.no_grad():
            batch = {key: value.to(model.device) for key, value in default_data_collator([row]).items()}
            best = model.eval()(**batch).logits[0].argmax(-1)
        filled = [
            f"[{tokenizer.decode([guess])}|{tokenizer.decode([label])}]" if label >= 0 else tokenizer.decode([token])
            for token, label, guess in zip(row["input_ids"], row["labels"], best.tolist(), strict=True)
        ]
        scores = self.loss_by_position(model, tokenizer, examples)
        return scores, "[guess|truth] where a token was masked:\n" + "".join(filled)


@dataclass
class MaskUnmasked:
    """A collator that masks tokens of rows that are not masked yet."""

    mask: DataCollatorForLanguageModeling

    def __call__(self, rows: list[dict]) -> Mapping[str, torch.Tensor]:
        return default_data_collator(rows) if "labels" in rows[0] else self.mask(rows)


@dataclass
class MaskRows:
    """Batched map: rows -> rows with masked tokens, and `labels` that are -100 at unmasked tokens."""

    mask: DataCollatorForLanguageModeling
    code: str = _THIS_CODE

    def __call__(self, batch: dict) -> dict:
        rows = [{"input_ids": ids} for ids in batch["input_ids"]]
        masked = self.mask(rows)
        return {"input_ids": masked["input_ids"].tolist(), "labels": masked["labels"].tolist()}
