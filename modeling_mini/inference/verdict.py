"""Compares a model with the baselines of its task, metric by metric."""

from ..tables import decimals
from ..tasks.base import Task


def verdict(model: dict, baselines: dict[str, dict], directions: dict[str, bool]) -> list[str]:
    """Sentences that compare a model with the best baseline of each metric; none if there is nothing to compare.

    `directions` are the metrics to compare, and whether greater is better. A model that is only equal is not better.
    """
    better, worse = [], []
    for metric, greater in directions.items():
        if metric not in model or (name := best_baseline(baselines, metric, greater)) is None:
            continue
        score, rival = model[metric], baselines[name][metric]
        (better if is_better(score, rival, greater) else worse).append((metric, score, rival, name))
    sentences = []
    if worse:
        sentences.append(f"A baseline is as good as the model, or better: {_compared(worse)}.")
    if better:
        sentences.append(f"The model is better than every baseline: {_compared(better)}.")
    return sentences


def compared_metrics(task: Task | type[Task]) -> dict[str, bool]:
    """The metrics by which a model is compared with the baselines, and whether greater is better."""
    directions = task.metric_directions()
    return {name: directions[name] for name in dict.fromkeys((task.metric, *task.score_names))}


def best_baseline(baselines: dict[str, dict], metric: str, greater_is_better: bool) -> str | None:
    """The name of the best baseline in a metric; None if no baseline has it."""
    return next(iter(ranked_baselines(baselines, metric, greater_is_better)), None)


def ranked_baselines(baselines: dict[str, dict], metric: str, greater_is_better: bool) -> dict[str, float]:
    """The scores of the baselines in a metric by name, the best first."""
    scores = [(name, values[metric]) for name, values in baselines.items() if metric in values]
    return dict(sorted(scores, key=lambda score: score[1], reverse=greater_is_better))


def is_better(score: float, rival: float, greater_is_better: bool) -> bool:
    return score > rival if greater_is_better else score < rival


def _compared(rows: list[tuple[str, float, float, str]]) -> str:
    return "; ".join(
        f"{metric.replace('_', ' ')} {_rounded(score)} against {_rounded(rival)} ({name})"
        for metric, score, rival, name in rows
    )


def _rounded(score: float) -> str:
    return f"{score:.{decimals(score)}f}"
