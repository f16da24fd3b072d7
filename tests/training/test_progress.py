"""What a run shows while it trains: lines in a log, bars on a terminal."""

import logging
import re
import subprocess
import sys

import pytest
from transformers import PrinterCallback, ProgressCallback, TrainerState, trainer_utils
from transformers.trainer_callback import CallbackHandler

from modeling_mini import MiniForCausalLM
from modeling_mini.model_folders import open_model
from modeling_mini.streams import SECONDS_BETWEEN_LINES
from modeling_mini.training import progress
from modeling_mini.training.callbacks import Throughput
from modeling_mini.training.progress import (
    HARMLESS,
    ProgressBar,
    ProgressLines,
    duration,
    evaluation,
    quiet_libraries,
    show_progress,
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves: `clock.now += 5`."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def lines(clock, caplog):
    """`ProgressLines` of a run of 100 updates that begins now, without its speed."""
    caplog.set_level(logging.INFO, logger=progress.__name__)
    callback = ProgressLines(Throughput(), 64, ["token_loss", "bits_per_byte", "accuracy"])
    callback.on_step_begin(None, TrainerState(global_step=0, max_steps=100), None)
    return callback


def log(callback, update, **logs):
    callback.on_log(None, TrainerState(global_step=update, max_steps=100, is_world_process_zero=True), None, logs=logs)


def test_a_line_has_the_loss_and_the_time_that_is_left(lines, clock, caplog):
    clock.now += 30
    log(lines, 20, loss=2.3456)
    assert caplog.messages == ["Update 20 of 100: loss 2.346, 2 min left"]


def test_lines_come_at_most_every_ten_seconds_and_at_the_end(lines, clock, caplog):
    for update in range(10, 101, 10):
        clock.now += 4
        log(lines, update, loss=1.0)
    updates = [int(re.match(r"Update (\d+) of 100", message)[1]) for message in caplog.messages]
    assert updates == [10, 40, 70, 100]
    assert caplog.messages[-1] == "Update 100 of 100: loss 1.000"


def test_a_resumed_run_does_not_count_the_updates_before(clock, caplog):
    caplog.set_level(logging.INFO, logger=progress.__name__)
    callback = ProgressLines(Throughput(), 64, [])
    callback.on_step_begin(None, TrainerState(global_step=80, max_steps=100), None)
    callback.on_step_begin(None, TrainerState(global_step=81, max_steps=100), None)
    clock.now += 10
    log(callback, 90, loss=1.0)
    assert caplog.messages == ["Update 90 of 100: loss 1.000, 10 s left"]


def test_each_evaluation_has_a_line_until_the_training_ends(lines, caplog):
    log(lines, 10, eval_token_loss=1.5, eval_token_loss_margin=0.1, eval_bits_per_byte=2.5, eval_runtime=1.0)
    log(lines, 20, eval_token_loss=1.4, eval_accuracy=71.234, epoch=1.0)
    lines.on_train_end(None, None, None)
    log(lines, 20, eval_token_loss=1.4)
    assert caplog.messages == [
        "Update 10 of 100: validation loss 1.500 +- 0.100, bits per byte 2.500",
        "Update 20 of 100: validation loss 1.400, accuracy 71.23",
    ]


def test_other_processes_say_nothing(lines, caplog):
    state = TrainerState(global_step=10, max_steps=100, is_world_process_zero=False)
    lines.on_log(None, state, None, logs={"loss": 1.0})
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5300, "88 min"), (12_000, "3 h 20 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_the_speed_stands_in_the_line(clock, caplog):
    caplog.set_level(logging.INFO, logger=progress.__name__)
    throughput = Throughput()
    throughput.seconds, throughput.updates = 2.0, 10
    callback = ProgressLines(throughput, 640, [])
    callback.on_step_begin(None, TrainerState(global_step=0, max_steps=100), None)
    log(callback, 100, loss=1.0)
    assert caplog.messages == ["Update 100 of 100: loss 1.000, 3,200 tokens/s"]


class FakeTrainer:
    def __init__(self, *callbacks):
        self.callback_handler = CallbackHandler(list(callbacks), None, None, None, None)
        self.add_callback, self.remove_callback = (
            self.callback_handler.add_callback,
            self.callback_handler.remove_callback,
        )

    def shown(self):
        return [type(callback) for callback in self.callback_handler.callbacks if "Default" not in str(type(callback))]


class NotebookTable(ProgressCallback):
    """Stands for the table of transformers in a notebook, which needs IPython."""


@pytest.mark.parametrize(
    ("callback", "is_terminal", "expected"),
    [
        (ProgressCallback, True, ProgressBar),
        (ProgressCallback, False, ProgressLines),
        (PrinterCallback, True, ProgressLines),  # --disable_tqdm
        (NotebookTable, False, NotebookTable),
    ],
)
def test_bars_are_for_terminals_only(callback, is_terminal, expected, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    trainer = FakeTrainer(callback)
    show_progress(trainer, Throughput(), 64, [])
    assert trainer.shown() == [expected]


def test_a_bar_shows_the_loss_and_a_line_each_evaluation(capsys):
    bar = ProgressBar(Throughput(), 64, ["accuracy"])
    state = TrainerState(global_step=0, max_steps=100, is_world_process_zero=True)
    bar.on_train_begin(None, state, None)
    log(bar, 10, loss=1.23456)
    log(bar, 10, eval_token_loss=1.5, eval_accuracy=50.0)
    postfix = bar.training_bar.postfix
    bar.on_train_end(None, state, None)
    assert postfix == "loss 1.235"
    assert "Update 10 of 100: validation loss 1.500, accuracy 50.00\n" in capsys.readouterr().err


def test_other_warnings_of_the_library_are_not_hidden(caplog, monkeypatch):
    monkeypatch.setattr(trainer_utils.logger, "filters", [])
    monkeypatch.setattr("transformers.utils.logging.disable_progress_bar", lambda: None)
    quiet_libraries()
    trainer_utils.logger.warning(f"{HARMLESS} on this filesystem")
    trainer_utils.logger.warning("a real problem")
    assert caplog.messages == ["a real problem"]


def test_the_bar_of_a_resumed_run_begins_where_it_stopped():
    bar = ProgressBar(Throughput(), 64, [])
    state = TrainerState(global_step=80, max_steps=100, is_world_process_zero=True)
    bar.on_train_begin(None, state, None)
    state.global_step = 81
    bar.on_step_end(None, state, None)
    shown = bar.training_bar.n, bar.training_bar.initial
    bar.on_train_end(None, state, None)
    assert shown == (81, 80)


def test_evaluation_without_scores():
    assert evaluation({"eval_token_loss": 2.0}, ["accuracy"]) == "validation loss 2.000"


@pytest.mark.slow
def test_a_run_in_a_log_file_has_no_bars(arguments, run):
    code, output = run([*arguments, "--max_steps", "4", "--eval_steps", "2", "--logging_steps", "2"])
    assert code == 0, output
    assert re.search(r"^Update 4 of 4: loss \d", output, re.MULTILINE)
    assert len(re.findall(r"^Update \d of 4: validation loss", output, re.MULTILINE)) == 2
    for noise in ("{'loss'", "it/s", "Writing model shards", HARMLESS):
        assert noise not in output


def test_bars_of_libraries_are_drawn_rarely_in_a_log():
    program = """
from modeling_mini.commands import finish

def command():
    import datasets
    print(datasets.utils.tqdm(range(3)).mininterval)

finish(command, [])
"""
    log = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(log.stdout) == SECONDS_BETWEEN_LINES


def test_a_command_that_opens_a_model_shows_no_bar_of_weights(tiny_model, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", True)
    tiny_model(MiniForCausalLM).save_pretrained(tmp_path)
    capfd.readouterr()
    open_model(tmp_path, MiniForCausalLM, str(tmp_path))
    assert capfd.readouterr().err == ""
