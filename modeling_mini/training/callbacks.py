"""Callbacks of a run: they stop it on a signal or on a loss that is not finite, and measure speed and loss."""

import logging
import math
import re
import shlex
import signal
import time

import numpy as np
from transformers import EvalPrediction, TrainerCallback

from ..commands import Interrupted
from ..errors import UserError
from ..metrics import TextLoss


logger = logging.getLogger(__name__)


class RowLoss:
    """`compute_metrics` for the Trainer: `TextLoss` of the rows whose loss `Task.row_loss` computed."""

    def __init__(self, num_bytes: int | None = None):
        self.num_bytes = num_bytes
        self.metric = TextLoss(keep_in_memory=True)  # the Trainer has already gathered the rows of all processes

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        nats, targets = np.asarray(prediction.predictions, dtype=np.float64).T
        return self.metric.compute(nats=nats, targets=targets.astype(int), num_bytes=self.num_bytes)


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

    def on_train_end(self, args, state, control, **kwargs):
        self._restore()

    def raise_if_stopped(self, step: int, command: list[str]) -> None:
        """Raise `Interrupted` with the command that continues the run."""
        if self.signal_number is None:
            return
        command_line = shlex.join([*without_token(command), *([] if "--resume" in command else ["--resume"])])
        raise Interrupted(
            f"Stopped after update {step}, with a checkpoint. Continue with: {command_line}", self.signal_number
        )


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
