"""Confidence intervals that the metrics share; `evaluate.load` copies this file next to theirs."""

from collections.abc import Callable

import numpy as np


def with_intervals(score: Callable[[np.ndarray], dict[str, float]], size: int) -> dict[str, float | list[float]]:
    """Scores of all examples, and how far they would move with other examples of the same kind.

    The interval is the percentile bootstrap's (Efron 1979; for BLEU Koehn 2004, "Statistical Significance Tests for
    Machine Translation Evaluation"): 1000 times as many examples are drawn with replacement as there are, and the
    middle 95% of their scores kept. The draws repeat from call to call. One example has no spread.

    Args:
        score: what to report, by name, of the examples with these indices; indices repeat. It is called 1001 times.
        size: the number of examples.

    Returns:
        Each score under its name, and `[low, high]` under `<name>_interval`.

    Raises:
        ValueError: there are no examples.
    """
    if not size:
        raise ValueError("There is nothing to score: `predictions` and `references` are empty.")
    rng = np.random.default_rng(0)
    found = {name: float(value) for name, value in score(np.arange(size)).items()}
    resampled = [list(score(rng.integers(size, size=size)).values()) for _ in range(1000)]
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0).tolist()
    return found | {f"{name}_interval": [*ends] for name, *ends in zip(found, low, high, strict=True)}
