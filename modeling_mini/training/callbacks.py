"""Callbacks of a run: they stop it, measure speed and loss, keep the best checkpoint, and continue after a resume."""

import logging
import math
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    SchedulerType,
    Trainer,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices, nested_gather
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy

from ..checkpoints import checkpoint_defect, trainer_state
from ..commands import Interrupted
from ..errors import UserError
from ..metrics import TextLoss
from ..tasks.batches import RandomCollator
from .arguments import MiniTrainingArguments
from .watching import words


logger = logging.getLogger(__name__)


class RowLoss:
    """`compute_metrics` for the Trainer: `TextLoss` of the rows whose loss `Task.row_loss` computed.

    Args:
        num_bytes: the size of the text; None leaves out bits per byte.
        predicts_tokens: False leaves out the perplexity, which labels and spans do not have.
    """

    def __init__(self, num_bytes: int | None = None, predicts_tokens: bool = True):
        self.options = {"num_bytes": num_bytes, "predicts_tokens": predicts_tokens}
        self.metric = TextLoss(keep_in_memory=True)  # the Trainer has already gathered the rows of all processes

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        nats, targets = np.asarray(prediction.predictions, dtype=np.float64).T
        return self.metric.compute(nats=nats, targets=targets.astype(int), **self.options)


class ValidationMetrics:
    """`compute_metrics` during training: the loss of all rows, and the task's own metrics on a sample of examples.

    All processes predict the sample, because each may hold a shard of the model. They continue with the scores of the
    first process, because a difference in rounding must not make them choose different checkpoints.

    Args:
        loss: the loss of all rows.
        score: computes the metrics on the sample, by name.
    """

    def __init__(self, loss: RowLoss, score: Callable[[], dict[str, float]]):
        self.loss, self.score = loss, score

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        [scores] = broadcast_object_list([self.score()])
        return self.loss(prediction) | scores


class StopOnSignal(TrainerCallback):
    """On Ctrl-C or SIGTERM: finish the update, write a checkpoint, stop. A second signal stops immediately.

    In a run of several processes, the signal may reach each process during a different update. Such a run does not
    write a checkpoint on a signal, and resumes from its last regular one.
    """

    def __init__(self):
        self.signal_number = None
        self._previous = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if args.world_size == 1:
            self._previous = {
                number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
            }

    def _on_signal(self, number, frame):
        logger.warning("%s: finishing this update and writing a checkpoint", signal.Signals(number).name)
        self.signal_number = number
        self._restore()

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_step_end(self, args, state, control, **kwargs):
        if self.signal_number is not None:
            control.should_save = True
            control.should_training_stop = True

    on_evaluate = on_step_end  # the signal may arrive during an evaluation, after the last update

    def on_train_end(self, args, state, control, **kwargs):
        self._restore()

    def raise_if_stopped(self, step: int, command: list[str]) -> None:
        """Raise `Interrupted` with the command that continues the run."""
        if self.signal_number is None:
            return
        resume = [] if "--resume" in command else ["--resume"]
        command_line = shlex.join([*without_checkpoint(without_token(command)), *resume])
        raise Interrupted(
            f"Stopped after update {step}, with a checkpoint. Continue with: {command_line}", self.signal_number
        )


def without_checkpoint(command: list[str]) -> list[str]:
    """A command line without --resume_from_checkpoint, which would train the updates after it again."""
    kept, is_value = [], False
    for argument in command:
        option = re.fullmatch(r"(?s)--resume[_-]from[_-]checkpoint(=.*)?", argument)
        if not option and not is_value:
            kept.append(argument)
        is_value = option is not None and option[1] is None
    return kept


def without_token(command: list[str]) -> list[str]:
    """A command line with `TOKEN` instead of the value of --hub_token, so that it can be logged."""
    redacted = []
    for argument in command:
        if redacted and re.fullmatch("--hub[_-]token", redacted[-1]):
            argument = "TOKEN"
        redacted.append(re.sub(r"(?s)^(--hub[_-]token)=.*", r"\1=TOKEN", argument))
    return redacted


class StopOnNaN(TrainerCallback):
    """Ends a run whose loss or gradient norm is nan or inf."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "grad_norm", "eval_token_loss"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise UserError(
                    f"The {name} is {value} at update {state.global_step}; lower --learning_rate (and "
                    "--muon_learning_rate), or warm up longer with --warmup_steps, and start again."
                )


class Throughput(TrainerCallback):
    """Measures the time of updates, with the loading of their data.

    Evaluation, checkpoints and the first update of an epoch, which is slower, are not measured.
    """

    def __init__(self):
        self.seconds, self.updates, self._mark = 0.0, 0, None

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        if self._mark is not None:
            self.seconds += now - self._mark
            self.updates += 1
        self._mark = now

    def _pause(self, args, state, control, **kwargs):
        self._mark = None

    on_evaluate = on_save = on_epoch_begin = _pause

    def tokens_per_second(self, tokens_per_update: int) -> float | None:
        return tokens_per_update * self.updates / self.seconds if self.updates else None


def restore(callback: ExportableState, state: TrainerState) -> None:
    """Give a callback the attributes that the checkpoint recorded for it, and record it if the checkpoint did not.

    The Trainer would also restore the arguments of a callback, and so ignore the arguments of this run.
    """
    recorded = state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
    for attribute, value in recorded["attributes"].items():
        setattr(callback, attribute, value)


class OneValidationLoss(TrainerCallback):
    """Replaces the Trainer's `eval_loss` with `eval_token_loss`: the mean over all targets, without label smoothing.

    The Trainer averages over batches and smooths the labels as in training, so its number would be a second validation
    loss. It must be the first callback, so that all others see one number.
    """

    def on_log(self, args, state, control, logs=None, **kwargs):
        for entry in (logs or {}, state.log_history[-1]):
            if "eval_loss" in entry and "eval_token_loss" in entry:
                entry["eval_loss"] = entry["eval_token_loss"]


class NoteOfLength(TrainerCallback):
    """Says that a resumed run has another length, and so another schedule, than its checkpoint was trained for."""

    def __init__(self, checkpoint: str | None):
        self.checkpoint = checkpoint

    def on_train_begin(self, args, state, control, **kwargs):
        recorded = state.max_steps if self.checkpoint is None else trainer_state(self.checkpoint).max_steps
        if not args.should_log or state.max_steps == recorded:
            return
        subject, effect = "The training and its schedule end", ", so the learning rates to come are not those planned"
        if args.lr_scheduler_type in (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP):
            subject, effect = "The training ends", ""
        logger.warning("%s at update %d instead of %d%s.", subject, state.max_steps, recorded, effect)


class RunningLoss(TrainerCallback, ExportableState):
    """Stores the training loss since the last log in each checkpoint, so that a resumed run logs the same losses.

    The Trainer starts its sum at 0 when it resumes. This callback must come after those that request checkpoints.
    """

    def __init__(self, trainer: Trainer | None = None):
        self.trainer = trainer
        self.loss_sum, self.last_logged = 0.0, 0  # since the update after `last_logged`

    def state(self) -> dict:
        return {"args": {}, "attributes": {"loss_sum": self.loss_sum, "last_logged": self.last_logged}}

    def on_train_begin(self, args, state, control, **kwargs):
        self.last_logged = state.global_step  # of a checkpoint that did not record it
        restore(self, state)
        self.trainer._tr_loss += self.loss_sum
        self.trainer._globalstep_last_logged = self.last_logged

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.loss_sum, self.last_logged = 0.0, state.global_step

    def _read(self, args, state, control, **kwargs):
        """Read the sum in all processes: only the first one calls `state`, and each has the loss of its own rows."""
        if control.should_save:
            self.loss_sum = nested_gather(self.trainer._tr_loss, args.parallel_mode).mean().item()

    on_step_end = on_epoch_end = on_evaluate = _read


class OrderOfEpoch(TrainerCallback):
    """Draws the order of `group_by_length` for each epoch: batches of similar lengths, in random order.

    transformers sorts every 50 updates by length, the longest rows first. An evaluation after a multiple of 50 updates
    would measure a model that has just adapted to the shortest ones. transformers also draws from the global
    generator, whose state at the start of the epoch is in no checkpoint: a resumed epoch would not continue with the
    rows that are left. The other orders are seeded by epoch already.
    """

    sampler: LengthGroupedSampler | None = None

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        batch_sampler = getattr(train_dataloader, "batch_sampler", None)
        batch_sampler = getattr(batch_sampler, "batch_sampler", batch_sampler)  # the part of one process wraps it
        sampler = getattr(batch_sampler, "sampler", None)
        if isinstance(sampler, LengthGroupedSampler):
            self.sampler = sampler
        if self.sampler is not None:
            generator = torch.Generator().manual_seed(seed_of_data(args) + int(state.epoch or 0))
            rows_per_update = self.sampler.batch_size * args.world_size  # its batches contain the accumulated ones
            batch_sampler.sampler = order_by_length(self.sampler.lengths, rows_per_update, generator)


def order_by_length(lengths: list[int], size: int, generator: torch.Generator) -> list[int]:
    """All rows in batches of `size` and of similar lengths, in random order.

    The longest row is in the first batch, so that memory runs out at once or never. The rows of an incomplete batch
    are drawn from all lengths, and come last.
    """
    rows = torch.randperm(len(lengths), generator=generator).tolist()
    count = len(rows) // size
    if count == 0:
        return rows
    longest = max(rows, key=lengths.__getitem__)
    rows.insert(0, rows.pop(rows.index(longest)))  # not in the incomplete batch
    whole, rest = rows[: count * size], rows[count * size :]
    order = get_length_grouped_indices([lengths[row] for row in whole], size, generator=generator)
    batches = [0, *(1 + torch.randperm(count - 1, generator=generator)).tolist()]
    return [whole[index] for batch in batches for index in order[batch * size : (batch + 1) * size]] + rest


class SeedOfBatches(TrainerCallback):
    """Tells a collator that draws random numbers which seed and which pass over the data they depend on."""

    def __init__(self, collator: RandomCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.begin_pass(seed_of_data(args), int(state.epoch or 0))


def seed_of_data(args: MiniTrainingArguments) -> int:
    return args.seed if args.data_seed is None else args.data_seed


class EarlyStopping(EarlyStoppingCallback):
    """The callback of transformers, which says that it ends the run, and keeps its counter when that is resumed."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        restore(self, state)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        super().on_evaluate(args, state, control, metrics, **kwargs)
        is_over = self.early_stopping_patience_counter >= self.early_stopping_patience
        if is_over and state.global_step < state.max_steps and args.should_log:
            threshold = self.early_stopping_threshold
            logger.warning(
                "Stopped early at update %d of %d: in %d evaluations in a row, the %s was not better than before%s "
                "(--early_stopping_patience %d).",
                state.global_step,
                state.max_steps,
                self.early_stopping_patience_counter,
                words(args.metric_for_best_model),
                f" by more than --early_stopping_threshold {threshold:g}" if threshold else "",
                self.early_stopping_patience,
            )


class KeepBest(TrainerCallback):
    """Writes a checkpoint at each best evaluation, whatever `save_steps` is, and where early stopping ends the run.

    It must come after `EarlyStopping`. The Trainer deletes neither the best checkpoint nor the last one.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        find_best(state, args)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if args.metric_for_best_model not in metrics:
            name = args.metric_for_best_model.removeprefix("eval_")
            raise UserError(
                f"--metric_for_best_model {name} cannot be computed on this validation data; choose another metric, "
                "such as token_loss."
            )
        best = [
            entry
            for entry in state.log_history
            if entry["step"] == state.best_global_step and args.metric_for_best_model in entry
        ]
        is_best = not best or rank(metrics, args) > rank(best[0], args)
        if is_best and best and metrics[args.metric_for_best_model] == state.best_metric:
            state.best_metric = None  # the Trainer would keep the first of several equal values
        if args.save_strategy == SaveStrategy.NO:
            return
        if is_best:
            # The Trainer notes the folder of the best checkpoint if it exists. FSDP creates it later, in one process
            # before the others, which would then load different checkpoints.
            _checkpoint_folder(args, state.global_step).mkdir(parents=True, exist_ok=True)
        if is_best or control.should_training_stop:
            control.should_save = True


def rank(entry: dict[str, float], args: MiniTrainingArguments) -> tuple[float, float]:
    """The order of evaluations: by the metric for the best model; of equal ones, the lower loss is better."""
    value = entry[args.metric_for_best_model]
    return value if args.greater_is_better else -value, -entry["eval_token_loss"]


def _checkpoint_folder(args: MiniTrainingArguments, step: int) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def find_best(state: TrainerState, args: MiniTrainingArguments) -> None:
    """Set the best update of a resumed run to the best one whose checkpoint is in `--output_dir`.

    The recorded path may lead to a folder from which the run was copied, and the checkpoint may have been deleted, or
    chosen by another metric.
    """
    state.best_metric = state.best_global_step = state.best_model_checkpoint = None
    best = None
    for entry in state.log_history:
        folder = _checkpoint_folder(args, entry["step"])
        if args.metric_for_best_model not in entry or (best is not None and rank(entry, args) <= rank(best, args)):
            continue
        if folder.is_dir() and checkpoint_defect(folder) is None:
            best, state.best_metric = entry, entry[args.metric_for_best_model]
            state.best_global_step, state.best_model_checkpoint = entry["step"], str(folder)


class WarnOfRisingLoss(TrainerCallback):
    """Warns when two evaluations in a row are worse than the best one by more than its margin."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        points = [entry for entry in state.log_history if "eval_token_loss" in entry]
        best = min(points, key=lambda point: point["eval_token_loss"])
        margin = best["eval_token_loss_margin"]  # 0 for a single row, which says nothing about others
        highest = best["eval_token_loss"] + (margin or math.inf)
        if args.should_log and [point["eval_token_loss"] > highest for point in points[-3:]] == [False, True, True]:
            logger.warning(
                "The validation loss rises: %.4f at update %d, but %.4f at update %d. A model that memorizes its "
                "training text does this: stop in time with --early_stopping_patience 2, train on more text, or raise "
                "--weight_decay or dropout. If the training loss rises as well, lower --learning_rate.",
                best["eval_token_loss"],
                best["step"],
                points[-1]["eval_token_loss"],
                points[-1]["step"],
            )


def stopped_early(state: TrainerState, args: MiniTrainingArguments) -> bool:
    """Whether early stopping ended the run at this checkpoint, with the patience of `args`."""
    recorded = state.stateful_callbacks.get(EarlyStopping.__name__)
    if recorded is None or args.early_stopping_patience is None:
        return False
    return recorded["attributes"]["early_stopping_patience_counter"] >= args.early_stopping_patience
