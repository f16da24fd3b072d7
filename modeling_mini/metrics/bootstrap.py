"""Confidence intervals for all metrics. `evaluate.load` copies this file next to the file of the metric."""

from collections.abc import Callable

import numpy as np


def with_intervals(score: Callable[[np.ndarray], dict[str, float]], size: int) -> dict[str, float | list[float]]:
    """Scores of all examples, with 95% confidence intervals.

    The interval is a percentile bootstrap interval (Efron 1979; for BLEU Koehn 2004, "Statistical Significance Tests
    for Machine Translation Evaluation"): `size` examples are sampled with replacement, 1000 times, and the interval
    holds the middle 95% of the 1000 scores. The samples are the same in every call. A single example has no interval:
    all its samples are equal.

    Args:
        score: function from indices of examples to their scores by name. Indices can repeat. It is called 1001
            times.
        size: number of examples.

    Returns:
        Each score under its name, and, of two or more examples, `[low, high]` under `<name>_interval`.

    Raises:
        ValueError: there are no examples.
    """
    if not size:
        raise ValueError("There is nothing to score: `predictions` and `references` are empty.")
    rng = np.random.default_rng(0)
    scores = {name: float(value) for name, value in score(np.arange(size)).items()}
    if size < 2:
        return scores
    resampled = [list(score(rng.integers(size, size=size)).values()) for _ in range(1000)]
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0).tolist()
    return scores | {f"{name}_interval": [*bounds] for name, *bounds in zip(scores, low, high, strict=True)}
