"""A model over rows of token ids, batch by batch, the loss of each row, and the random numbers of a batch."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..data.packing import row_lengths
from ..loss_mini import IGNORED_LABEL


@dataclass(kw_only=True)
class RandomCollator:
    """Base of a collator whose random numbers depend only on the seed, the pass over the data and the rows.

    So a resumed run draws what an uninterrupted one does. With the global generator it would not: the Trainer fetches
    a batch before it saves the random state of the update before. The callback `SeedOfBatches` begins each pass; its
    numbers are in shared memory, because the workers of a data loader hold copies of the collator.
    """

    shared: torch.Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64).share_memory_(), repr=False)

    def begin_pass(self, seed: int, epoch: int) -> None:
        self.shared.copy_(torch.tensor([seed, epoch]))

    @contextmanager
    def seeded(self, rows: list[Mapping]) -> Iterator[None]:
        """Inside, torch draws the numbers of this batch on the CPU; outside, nothing has been drawn."""
        seed, epoch = self.shared.tolist()
        content = hashlib.sha256(f"{seed} {epoch} ".encode())
        for row in rows:
            content.update(np.asarray(row["input_ids"], dtype=np.int64).tobytes())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int.from_bytes(content.digest()[:7], "big"))
            yield


def forward_batches(
    model: PreTrainedModel, rows: Dataset, collate: Callable, batch_size: int, name: str
) -> Iterator[tuple[list[int], Mapping, ModelOutput]]:
    """Run the model without gradients: (indices of the rows, batch, outputs) for each batch."""
    model.eval()
    for indices in batches_of_like_length(row_lengths(rows), batch_size, name):
        batch = collate([rows[index] for index in indices])
        batch = {key: value.to(model.device) for key, value in batch.items()}
        with torch.no_grad():
            yield indices, batch, model(**batch)


def batches_of_like_length(lengths: Iterable[int], batch_size: int, name: str) -> Iterator[list[int]]:
    """Indices of the rows of each batch, shortest rows first to limit padding; with a progress bar."""
    order = np.argsort(np.array(list(lengths)), kind="stable").tolist()
    for start in tqdm(range(0, len(order), batch_size), desc=name, unit=" batches", disable=None):
        yield order[start : start + batch_size]


def loss_by_position(
    model: PreTrainedModel,
    rows: Dataset,
    collate: Callable,
    align: Callable[[torch.Tensor, Mapping], tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    context: int,
    batch_size: int = 32,
) -> list[dict]:
    """The loss in each quarter of the context: `{"positions": [first, last], "loss", "targets"}`, loss in nats.

    A model that was trained on shorter rows than its context has a much higher loss in the last quarter. `align`
    takes the logits and the batch, and returns logits `[B, T, V]`, targets `[B, T]` and positions `[B, T]`.
    """
    quarter = -(-context // 4)
    nats, targets = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    for _, batch, outputs in forward_batches(model, rows, collate, batch_size, "loss by position"):
        logits, labels, positions = align(outputs.logits, batch)
        is_target = labels != IGNORED_LABEL
        nll = torch.nn.functional.cross_entropy(logits[is_target].float(), labels[is_target], reduction="none")
        quarters = (positions[is_target] // quarter).cpu()
        nats.index_add_(0, quarters, nll.double().cpu())
        targets.index_add_(0, quarters, torch.ones_like(quarters))
    return [
        {
            "positions": [number * quarter, min((number + 1) * quarter, context) - 1],
            "loss": (nats[number] / targets[number]).item() if targets[number] else None,
            "targets": int(targets[number]),
        }
        for number in range(4)
    ]


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logits `[B, T, V]` and target tokens `[B, T]` -> `[B, 2]`: summed nats and number of targets of each row.

    Only these two numbers per row are gathered from the devices, never the logits.
    """
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    ).view(targets.shape)
    return torch.stack([nll.sum(-1), (targets != IGNORED_LABEL).sum(-1)], dim=-1)


def next_token_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`token_nll` for a causal model, whose labels equal its inputs."""
    return token_nll(logits[:, :-1], labels[:, 1:])


def describe_positions(quarters: list[dict]) -> str:
    """`loss_by_position` on one line: `0-31: 3.512, 32-63: 3.404, ...`."""
    cells = [
        "{}-{}: {}".format(*quarter["positions"], "no token" if quarter["loss"] is None else f"{quarter['loss']:.3f}")
        for quarter in quarters
    ]
    return ", ".join(cells)
