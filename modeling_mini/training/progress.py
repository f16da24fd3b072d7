"""Shows how a run goes: a bar on a terminal, and a line now and then elsewhere, for example in a log file."""

import logging
import sys
import time
from collections.abc import Iterable

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, trainer_utils
from transformers.utils import logging as transformers_logging

from ..streams import SECONDS_BETWEEN_LINES
from ..tables import decimals
from .callbacks import Throughput


logger = logging.getLogger(__name__)

# Logged when the Trainer orders checkpoints by their number instead of their time: for a run, this is the same order.
HARMLESS = "mtime may not be reliable"


def quiet_libraries() -> None:
    """Hide the bars that transformers draws while it reads and writes weights, and warnings without a meaning here."""
    transformers_logging.disable_progress_bar()
    trainer_utils.logger.addFilter(_is_useful)


def _is_useful(record: logging.LogRecord) -> bool:
    return HARMLESS not in str(record.msg)


def show_progress(trainer: Trainer, throughput: Throughput, tokens_per_update: int, metrics: Iterable[str]) -> None:
    """Replace what the Trainer shows; in a notebook, keep its table.

    `metrics` are the metrics of an evaluation that are shown, without `eval_`.
    """
    for replaced in (ProgressCallback, PrinterCallback):
        if any(type(callback) is replaced for callback in trainer.callback_handler.callbacks):
            trainer.remove_callback(replaced)
            is_bar = replaced is ProgressCallback and sys.stderr.isatty()
            trainer.add_callback((ProgressBar if is_bar else ProgressLines)(throughput, tokens_per_update, metrics))


class ProgressLines(TrainerCallback):
    """A line with update, training loss, speed and time left, at most every ten seconds; and one per evaluation."""

    def __init__(self, throughput: Throughput, tokens_per_update: int, metrics: Iterable[str]):
        self.throughput, self.tokens_per_update, self.metrics = throughput, tokens_per_update, tuple(metrics)
        self.last_line = self.begin = None  # times

    def on_step_begin(self, args, state, control, **kwargs):
        if self.begin is None:  # after the data that a resumed run skips
            self.first_update, self.begin = state.global_step, time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self.begin = None  # what is evaluated later stands in the report

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not (logs and self.begin and state.is_world_process_zero):
            return
        if "eval_token_loss" in logs:
            logger.info("Update %s: %s", _of(state), evaluation(logs, self.metrics))
        elif "loss" in logs:
            now = time.monotonic()
            is_due = self.last_line is None or now - self.last_line >= SECONDS_BETWEEN_LINES
            if is_due or state.global_step >= state.max_steps:
                self.last_line = now
                logger.info("Update %s: loss %.3f%s%s", _of(state), logs["loss"], _speed(self), self._left(state))

    def _left(self, state) -> str:
        """The time of the updates that are left, with as many evaluations and checkpoints as so far."""
        done, left = state.global_step - self.first_update, state.max_steps - state.global_step
        return f", {duration((time.monotonic() - self.begin) / done * left)} left" if done and left else ""


class ProgressBar(ProgressCallback):
    """The Trainer's bars, with the last training loss and the speed, and a line above them for each evaluation."""

    def __init__(self, throughput: Throughput, tokens_per_update: int, metrics: Iterable[str]):
        super().__init__()
        self.throughput, self.tokens_per_update, self.metrics = throughput, tokens_per_update, tuple(metrics)

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.current_step = state.global_step  # of a resumed run
        if self.training_bar is not None:
            self.training_bar.n = self.training_bar.initial = state.global_step
            self.training_bar.refresh()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None or not logs:
            return
        if "eval_token_loss" in logs:
            self.training_bar.write(f"Update {_of(state)}: {evaluation(logs, self.metrics)}", file=sys.stderr)
        elif "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.3f}{_speed(self)}")


def _of(state) -> str:
    return f"{state.global_step:,} of {state.max_steps:,}"


def _speed(shown: ProgressLines | ProgressBar) -> str:
    speed = shown.throughput.tokens_per_second(shown.tokens_per_update)
    return f", {speed:,.0f} tokens/s" if speed else ""


def evaluation(logs: dict[str, float], metrics: Iterable[str]) -> str:
    """`validation loss 1.234 +- 0.012, accuracy 71.20`, from the entry that the Trainer logs."""
    margin = logs.get("eval_token_loss_margin")  # 0 for a single row
    shown_margin = f" +- {margin:.3f}" if margin else ""
    scores = [
        f"{name.replace('_', ' ')} {value:.{decimals(value)}f}"
        for name in metrics
        if name != "token_loss" and (value := logs.get(f"eval_{name}")) is not None
    ]
    return ", ".join([f"validation loss {logs['eval_token_loss']:.3f}{shown_margin}", *scores])


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
