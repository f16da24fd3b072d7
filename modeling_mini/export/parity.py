"""Whether an exported file computes what the PyTorch model computes: the same outputs, and the same greedy tokens."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..configuration_mini import MiniConfig
from ..errors import UserError
from ..masking_mini import CACHE_NAME
from ..writing import write_json
from .run import REPORT


TOLERANCE = 1e-4  # largest accepted difference, as a part of the largest output (at least 1); float32
GREEDY_TOKENS = 16
_PROMPT = 7  # tokens before them
_LONGEST = 512  # tokens of the longest text that is compared


class Session(Protocol):
    """Generation with an exported file, which remembers the tokens since `reset`."""

    def reset(self, rows: int) -> None:
        """Start `rows` new texts."""

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits `[B, T, V]` of further tokens `[B, T]`; the mask `[B, P + T]` covers the earlier tokens too."""


def example(
    config: MiniConfig, rows: int, length: int, padding: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask `[rows, length]`; with `padding` "left" or "right", a third of the last row is padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding is not None:
        span = slice(length // 3) if padding == "left" else slice(length - length // 3, None)
        mask[-1, span] = 0
        ids[-1, span] = config.pad_token_id or 0
    return ids, mask


@torch.no_grad()
def check_rows(
    model: PreTrainedModel,
    run: Callable[..., dict[str, torch.Tensor]],
    folder: Path,
    rows: int = 2,
    lengths: Iterable[int] | None = None,
) -> None:
    """Compare outputs for rows of several lengths, without and with padding, and record the differences.

    Args:
        model: the PyTorch model, in evaluation mode.
        run: the exported file: outputs by name of `input_ids` and `attention_mask`.
        folder: gets the report.
        rows: rows of a batch.
        lengths: in tokens; from 1 to the context by default.

    Raises:
        UserError: the outputs differ by more than `TOLERANCE`.
    """
    differences = {}
    context = model.config.max_position_embeddings
    for length in lengths or sorted({1, min(7, context), min(_LONGEST, context)}):
        for padding in (None, "left", "right") if length > 2 else (None,):
            ids, mask = example(model.config, rows, length, padding)
            expected = model(input_ids=ids, attention_mask=mask)
            outputs = run(input_ids=ids, attention_mask=mask)
            for name in tensor_names(expected):
                key = f"{name} of {_shape(ids, padding)}"
                differences[key] = accepted(key, _unpadded(outputs[name], mask), _unpadded(expected[name], mask))
    write_json(folder / REPORT, {"tolerance": TOLERANCE, "differences": differences})


@torch.no_grad()
def check_generation(model: PreTrainedModel, session: Session, folder: Path, rows: int = 2) -> None:
    """Compare logits and greedy tokens: a padded prompt, then one token at a time, and a text of the whole context.

    Args:
        model: the PyTorch model, in evaluation mode.
        session: the exported file.
        folder: gets the report.
        rows: rows of a batch.

    Raises:
        UserError: the logits differ by more than `TOLERANCE`, or a greedy token differs that is not a tie.
    """
    context = model.config.max_position_embeddings
    differences = {}
    for length in sorted({1, min(_LONGEST, context)}):
        padding = "left" if rows > 1 and length > 2 else None
        ids, mask = example(model.config, rows, length, padding)
        session.reset(rows)
        expected = model(input_ids=ids, attention_mask=mask).logits
        key = f"logits of {_shape(ids, padding)}"
        differences[key] = accepted(key, _unpadded(session(ids, mask), mask), _unpadded(expected, mask))
    steps = max(1, min(GREEDY_TOKENS, context - _PROMPT))
    key = f"logits of {steps} greedy tokens with the cache"
    by_step = list(_greedy_differences(key, model, session, rows, steps))
    differences[key] = max(by_step)
    report = {"tolerance": TOLERANCE, "differences": differences, "equal_greedy_tokens": len(by_step) * rows}
    write_json(folder / REPORT, report)


def _greedy_differences(key: str, model: PreTrainedModel, session: Session, rows: int, steps: int) -> Iterator[float]:
    """Choose the best token of PyTorch at each step, and compare its logits and the choice. Raises `UserError`.

    `generate` would follow the generation config of the checkpoint: end rows, punish repetitions, search with beams.
    """
    tokens, mask = example(model.config, rows, _PROMPT, "left" if rows > 1 else None)
    session.reset(rows)
    cache = None
    for step in range(steps):
        outputs = model(input_ids=tokens, attention_mask=mask, use_cache=True, **{CACHE_NAME: cache})
        cache, expected = outputs[CACHE_NAME], outputs.logits[:, -1]
        logits = session(tokens, mask)[:, -1]
        yield accepted(key, logits, expected)
        tokens = expected.argmax(-1, keepdim=True)
        _check_choice(logits, tokens, step)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)


def _check_choice(logits: torch.Tensor, tokens: torch.Tensor, step: int) -> None:
    """Raise `UserError` unless each chosen token `[B, 1]` is the best one of `logits` `[B, V]`, except for a tie."""
    best, choice = logits.max(-1, keepdim=True)
    gap = (best - logits.gather(-1, tokens)) / best.abs().clamp(min=1)
    if bool((gap > 2 * TOLERANCE).any()):
        raise UserError(
            f"The exported file writes other text: greedy token {step + 1} is {choice.flatten().tolist()}, and "
            f"{tokens.flatten().tolist()} with PyTorch; the export is deleted."
        )


def tensor_names(outputs: ModelOutput) -> list[str]:
    """The names of the outputs that are tensors: not a cache."""
    return [name for name, value in outputs.items() if torch.is_tensor(value)]


def _shape(ids: torch.Tensor, padding: str | None) -> str:
    rows, length = ids.shape
    return f"{rows} x {length} tokens" + (f", padded on the {padding}" if padding else "")


def _unpadded(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Outputs at tokens that are not padding; those of whole rows are returned unchanged."""
    return tensor[mask.bool()] if tensor.shape[:2] == mask.shape else tensor


def accepted(key: str, output: torch.Tensor, expected: torch.Tensor, limit: float = TOLERANCE) -> float:
    """The `difference` of the outputs named `key`. Raises `UserError` unless it is at most `limit`."""
    found = difference(output, expected)
    if not found <= limit:  # also for nan
        raise UserError(
            f"The exported file does not compute what the PyTorch model computes: {key} differ by {found:.1e} of the "
            f"largest value, and at most {limit:.0e} is accepted; the export is deleted."
        )
    return found


def difference(output: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a part of the largest expected value (at least 1).

    It is infinite for outputs of another shape or with nan, and nan if an expected value is not finite.
    """
    if output.shape != expected.shape or not torch.isfinite(output).all():
        return float("inf")
    return ((output - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
