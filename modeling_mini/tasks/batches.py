"""A model over rows of token ids, batch by batch, and the loss of each row."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..data.packing import row_lengths
from ..loss_mini import IGNORED_LABEL


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
