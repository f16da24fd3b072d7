"""How a run watches itself: which metric chooses the best checkpoint, which update is reported, and what it says."""

import logging
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from transformers import TrainerState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..errors import UserError
from ..tasks.base import Task
from .arguments import MiniTrainingArguments, ModelArguments


logger = logging.getLogger(__name__)

NEVER = 2**31 - 1  # updates
# A score is clearly better by so many points (it is a percentage), and by so many examples of those that are scored.
CLEAR_POINTS, CLEAR_EXAMPLES = 2, 3


def choose_best_metric(task: type[Task], args: MiniTrainingArguments) -> None:
    """Set what the Trainer needs to know to keep the best checkpoint: whether, by which metric, in which direction.

    Raises:
        UserError: the run cannot keep a best checkpoint or stop early, or the metric is not one of the task.
    """
    evaluates = args.eval_strategy != IntervalStrategy.NO
    saves = args.save_strategy != SaveStrategy.NO
    check_watching(args, evaluates, saves)
    if args.load_best_model_at_end is None:
        args.load_best_model_at_end = evaluates and saves
    is_needed = (
        args.load_best_model_at_end
        or args.early_stopping_patience is not None
        or args.save_strategy == SaveStrategy.BEST
        or args.metric_for_best_model is not None
    )
    if not is_needed:
        return
    name = (args.metric_for_best_model or "loss").removeprefix("eval_")
    name = "token_loss" if name == "loss" else name
    directions = task.metric_directions(with_scores=args.eval_sample != 0)
    if name not in directions:
        hint = " with --eval_sample 0" if args.eval_sample == 0 else ""
        meant = "".join(f" Did you mean {near}?" for near in get_close_matches(name, directions, n=1))
        raise UserError(
            f"--metric_for_best_model {args.metric_for_best_model} is not measured by {task.name}{hint}; choose one "
            f"of {', '.join(directions)}.{meant}"
        )
    if args.greater_is_better not in (None, directions[name]):
        better = "greater" if directions[name] else "smaller"
        raise UserError(
            f"--greater_is_better {args.greater_is_better}: of {name}, {better} is better; leave the option out."
        )
    args.metric_for_best_model, args.greater_is_better = f"eval_{name}", directions[name]
    if args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):  # schedules that follow the metric
        mode = {"mode": "max" if args.greater_is_better else "min"}
        args.lr_scheduler_kwargs = mode | (args.lr_scheduler_kwargs or {})
    if args.save_strategy == SaveStrategy.BEST:
        # The Trainer would write no other checkpoint: not where early stopping or a signal ends the run. `KeepBest`
        # writes the best ones, and the end of the run the last one.
        args.save_strategy, args.save_steps = SaveStrategy.STEPS, NEVER
        if args.should_log:
            logger.info("--save_strategy best: checkpoints are written at each best evaluation, and at the end.")
    if args.save_total_limit == 1 and saves:
        args.save_total_limit = 2
        if args.should_log:
            logger.info("Two checkpoints are kept: the best one, and the last one, from which the run can continue.")


def check_watching(args: MiniTrainingArguments, evaluates: bool, saves: bool) -> None:
    """Refuse options of evaluation that contradict each other. Raises `UserError`."""
    to_evaluate = "set --eval_strategy steps and --eval_steps N"
    if args.load_best_model_at_end and not (evaluates and saves):
        remedy = to_evaluate if not evaluates else "set --save_strategy steps"
        missing = "evaluates" if not evaluates else "writes a checkpoint"
        raise UserError(f"--load_best_model_at_end: the run never {missing}; {remedy}.")
    for name, is_set in (
        ("early_stopping_patience", args.early_stopping_patience is not None),
        ("save_strategy best", args.save_strategy == SaveStrategy.BEST),
        ("metric_for_best_model", args.metric_for_best_model is not None),
    ):
        if is_set and not evaluates:
            raise UserError(f"--{name}: the run never evaluates; {to_evaluate}.")
    if args.early_stopping_threshold and args.early_stopping_patience is None:
        raise UserError("--early_stopping_threshold needs --early_stopping_patience N; give both.")


@dataclass
class Reported:
    """The update whose weights a run saves and reports.

    Attributes:
        update, last: the reported update, and the last one.
        checkpoint: the folder of the reported weights; None if they are those of the last update.
        choice: why this update, as words for people: "the last", or "the best by validation loss".
    """

    update: int
    last: int
    checkpoint: Path | None
    choice: str


def reported_checkpoint(state: TrainerState, args: MiniTrainingArguments) -> Reported:
    """The best update if the run keeps it, otherwise the last."""
    if not (args.load_best_model_at_end and state.best_model_checkpoint):
        return Reported(state.global_step, state.global_step, None, "the last")
    choice = f"the best by {words(args.metric_for_best_model)}"
    return Reported(state.best_global_step, state.global_step, Path(state.best_model_checkpoint), choice)


def log_best(
    state: TrainerState, args: MiniTrainingArguments, reported: Reported, task: Task, num_scored: int
) -> None:
    """Say which update was the best, by how much the last one was worse, and where the task's metric was better.

    `num_scored` is the number of examples that each evaluation has scored.
    """
    log_choice(state, args, reported)
    metric = task.metric
    scores = {entry["step"]: entry[f"eval_{metric}"] for entry in state.log_history if f"eval_{metric}" in entry}
    if metric not in task.score_names or reported.update not in scores:  # a loss, or no sample was scored
        return
    best = max(scores, key=scores.__getitem__)
    if scores[best] - scores[reported.update] > max(CLEAR_POINTS, 100 * CLEAR_EXAMPLES / num_scored):
        logger.warning(
            "%s was %.1f at update %d, against %.1f at update %d, which is saved. To choose by it, give "
            "--metric_for_best_model %s.",
            words(f"eval_{metric}").capitalize(),
            *(scores[best], best, scores[reported.update], reported.update, metric),
        )


def log_choice(state: TrainerState, args: MiniTrainingArguments, reported: Reported) -> None:
    """Say which update was the best, and by how much the last one was worse."""
    metric = args.metric_for_best_model or "eval_token_loss"
    values = {}
    for entry in state.log_history:
        if metric in entry:
            values.setdefault(entry["step"], entry[metric])
    if not values:
        return
    best = (max if args.greater_is_better else min)(values, key=values.__getitem__)
    last = max(values)
    comparison = f"{words(metric)} {values[last]:.4g} at update {last} against {values[best]:.4g} at update {best}"
    if reported.checkpoint is not None:
        best = reported.update
        logger.info("Saved and reported: update %d of %d, with %s %.4g.", best, last, words(metric), values[best])
        if values[last] != values[best]:
            logger.warning("The last update was worse: %s.", comparison)
    elif values[last] != values[best]:
        remedy = "" if args.save_strategy != SaveStrategy.NO else " and --save_strategy steps"
        logger.warning(
            "The last update is saved and reported, but an earlier one was better: %s. Keep the best one with "
            "--load_best_model_at_end true%s.",
            comparison,
            remedy,
        )


def words(metric: str) -> str:
    """A metric of the Trainer's log as words: "validation loss"."""
    name = metric.removeprefix("eval_")
    return "validation loss" if name == "token_loss" else f"validation {name.replace('_', ' ')}"


def advise_pretraining(task: type[Task], model_args: ModelArguments, args: MiniTrainingArguments) -> None:
    """Say what a pretrained start buys, if the task's recipe is made for one and the run starts from new weights."""
    if task.pretrained_result and not model_args.init_from and not args.is_resumed and args.should_log:
        logger.warning(
            "%s starts from new weights, but its recipe is made for a pretrained model (%s on the built-in data). "
            "Train one with `python train.py pretraining`, and start again with --init_from runs/pretraining.",
            task.name,
            task.pretrained_result,
        )
