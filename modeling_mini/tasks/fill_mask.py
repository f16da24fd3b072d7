"""Fill-mask: predict masked tokens from both sides; the pretraining of an encoder (BERT)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from datasets import Dataset, Features, List
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..configuration_mini import MiniConfig
from ..data.examples import Examples
from ..data.fingerprint import code_hash
from ..data.packing import EncodedData, UnpackRows, column_sum, encode_batches, smallest_type, token_type
from ..errors import UserError
from ..loss_mini import IGNORED_LABEL
from ..metrics import TextLoss
from ..modeling_mini import MiniForMaskedLM
from .batches import RandomCollator, token_nll
from .text_generation import TextGeneration


_THIS_CODE = code_hash(__file__)
MASK_SEED = 1  # of the validation masks; transformers 5.17 takes a seed of 0 for no seed


class FillMask(TextGeneration):
    """Rows of packed documents; the model predicts a randomly chosen share of the tokens.

    Of the chosen tokens, 80% become the mask token, 10% become a random token and 10% stay as they are (Devlin et al.
    2019, section 3.1). Training chooses new tokens in every pass. Validation chooses them once, so that its loss is
    comparable between updates and models.
    """

    name = "fill-mask"
    usage = None
    used_options = ("mask_probability",)
    model_class = MiniForMaskedLM
    default_dataset = "docstrings"
    needs_causal = counts_bytes = False
    metric = "token_loss"
    trains_baselines = False

    row_loss = staticmethod(token_nll)

    def configure(self, config: MiniConfig, train: Examples | None = None) -> None:
        config.is_causal = False  # saved, so that fine-tuning attends to both sides as well

    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        if tokenizer.mask_token_id is None:
            raise UserError("The tokenizer has no mask token; choose another.")
        data = super().encode(examples, tokenizer, name)
        if name != "training":
            data.rows = self._masked(data.rows, tokenizer, name)
            if column_sum(data.rows, "num_masked") == 0:
                raise UserError(f"{self.args.dataset}: no token of the {name} text is masked; give more text.")
        return data

    def _masked(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, name: str) -> Dataset:
        """Rows with `masked`, the indices of masked tokens, and `replacements`, the tokens that the model reads."""
        index = smallest_type(self.args.block_size)
        masks = {"masked": List(index), "replacements": List(token_type(tokenizer)), "num_masked": index}
        features = Features({**rows.features, **masks})
        mask = MaskRows(tokenizer, self.args.mask_probability)
        one_process = replace(self.args, preprocessing_workers=None)  # because each mask depends on those before it
        return encode_batches(rows, (mask,), features, one_process, f"Masking {name} rows")

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], Mapping[str, torch.Tensor]]:
        return UnpackMasked(DataCollatorForLanguageModeling(tokenizer, mlm_probability=self.args.mask_probability))

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
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Dataset,
        prompt: str,
        batch_size: int = 32,
    ) -> tuple[dict, str]:
        """The first row with a masked token, with the guess and the truth at each of them."""
        rows = self.encode(examples, tokenizer, "validation").rows
        batch = self.collator(tokenizer)([next(row for row in rows if row["num_masked"])])
        with torch.no_grad():
            best = model.eval()(**{key: value.to(model.device) for key, value in batch.items()}).logits[0].argmax(-1)
        tokens, labels = (batch[key][0].tolist() for key in ("input_ids", "labels"))
        filled = [
            f"[{tokenizer.decode([guess])}|{tokenizer.decode([label])}]" if label >= 0 else tokenizer.decode([token])
            for token, label, guess in zip(tokens, labels, best.tolist(), strict=True)
        ]
        scores = self.loss_by_position(model, tokenizer, examples, batch_size)
        return scores, "[guess|truth] where a token was masked:\n" + "".join(filled)


@dataclass
class UnpackMasked(RandomCollator):
    """Collator: packed rows -> a batch with masked tokens, and labels that are -100 at the others.

    Rows without `masked` tokens get new ones in each pass over the data.
    """

    mask: DataCollatorForLanguageModeling

    def __call__(self, rows: list[dict]) -> Mapping[str, torch.Tensor]:
        batch = UnpackRows()(rows)
        if "masked" not in rows[0]:
            ids, positions = batch["input_ids"].tolist(), batch["position_ids"].tolist()
            with self.seeded(rows):
                return self.mask([{"input_ids": i, "position_ids": p} for i, p in zip(ids, positions, strict=True)])
        labels = torch.full_like(batch["labels"], IGNORED_LABEL)
        for row, row_ids, row_labels in zip(rows, batch["input_ids"], labels, strict=True):
            masked = torch.tensor(row["masked"], dtype=torch.long)
            row_labels[masked] = row_ids[masked]
            row_ids[masked] = torch.tensor(row["replacements"], dtype=torch.long)
        return {**batch, "labels": labels}


@dataclass
class MaskRows:
    """Batched map: rows -> rows with `masked`, `replacements` and `num_masked`, the same in each run."""

    tokenizer: PreTrainedTokenizerBase
    probability: float
    code: str = _THIS_CODE

    @cached_property
    def mask(self) -> DataCollatorForLanguageModeling:
        return DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=self.probability, seed=MASK_SEED)

    def __call__(self, batch: dict) -> dict:
        masked = self.mask([{"input_ids": ids} for ids in batch["input_ids"]])
        indices = [np.flatnonzero(labels != IGNORED_LABEL) for labels in masked["labels"].numpy()]
        replacements = [ids[chosen] for ids, chosen in zip(masked["input_ids"].numpy(), indices, strict=True)]
        return {**batch, "masked": indices, "replacements": replacements, "num_masked": list(map(len, indices))}
