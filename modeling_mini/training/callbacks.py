"""What watches a run: signals, losses that are not a number, throughput, and the loss of each row."""

import logging
import math
import re
import shlex
import signal
import time

import numpy as np
from transformers import EvalPrediction, TrainerCallback

from ..errors import UserError
from ..metrics import TextLoss


logger = logging.getLogger(__name__)


class RowLoss:
    """`compute_metrics` for the Trainer: `TextLoss` of the rows that `Task.row_loss` measured."""

    def __init__(self, num_bytes: int | None = None):
        self.num_bytes = num_bytes
        self.metric = TextLoss(keep_in_memory=True)  # the Trainer has already gathered all processes

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        nats, targets = np.asarray(prediction.predictions, dtype=np.float64).T
        return self.metric.compute(nats=nats, targets=targets.astype(int), num_bytes=self.num_bytes)


class Interrupted(Exception):
    """Training stopped on a signal, after a checkpoint."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopOnSignal(TrainerCallback):
    """On Ctrl-C or SIGTERM: finish the update, write a checkpoint, stop. A second signal stops immediately.

    In a run of several processes, each may receive the signal in another update; such a run writes no checkpoint, and
    resumes from its last regular one.
    """

    def __init__(self):
        self.signal_number = None
        self._previous = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if args.world_size == 1:
            self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number, frame):
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
        continued = shlex.join([*without_token(command), *([] if "--resume" in command else ["--resume"])])
        raise Interrupted(
            f"Stopped after update {step}, with a checkpoint. Continue with: {continued}", self.signal_number
        )


def without_token(command: list[str]) -> list[str]:
    """A command line with `TOKEN` instead of the value of --hub_token, because the line may be logged."""
    hidden = []
    for argument in command:
        if hidden and re.fullmatch("--hub[_-]token", hidden[-1]):
            argument = "TOKEN"
        hidden.append(re.sub(r"(?s)^(--hub[_-]token)=.*", r"\1=TOKEN", argument))
    return hidden


class StopOnNaN(TrainerCallback):
    """Ends a run whose loss or gradient is not a number."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "grad_norm", "eval_token_loss"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise UserError(
                    f"The {name} is {value} at update {state.global_step}; lower --learning_rate (and "
                    "--muon_learning_rate), or warm up longer with --warmup_steps, and start again."
                )


class Throughput(TrainerCallback):
    """Time of the updates with their data, without evaluation, checkpoints, and the first update, which is slower."""

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
