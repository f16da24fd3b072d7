"""A run watches itself: it measures the task's metrics, keeps and reports its best checkpoint, and stops in time."""

import itertools
import json
import math
import re
import shutil
import signal
import statistics
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from conftest import lose_the_end
from datasets import Dataset
from safetensors.torch import load_file
from torch.utils.data import BatchSampler
from transformers import EvalPrediction, TrainerControl, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from modeling_mini.errors import UserError
from modeling_mini.presets import configuration_path
from modeling_mini.tasks import TASKS, task_class
from modeling_mini.tasks.base import TaskArguments, random_sample
from modeling_mini.training.arguments import ModelArguments, parse_arguments
from modeling_mini.training.callbacks import (
    EarlyStopping,
    KeepBest,
    NoteOfLength,
    OneValidationLoss,
    OrderOfEpoch,
    RowLoss,
    RunningLoss,
    StopOnSignal,
    ValidationMetrics,
    WarnOfRisingLoss,
    find_best,
    order_by_length,
)
from modeling_mini.training.progress import evaluation as shown_evaluation
from modeling_mini.training.report import learning_curve, plot_curve
from modeling_mini.training.resuming import refuse_finished
from modeling_mini.training.run import evaluate_reported, main, watchers
from modeling_mini.training.values import check_together
from modeling_mini.training.watching import (
    NEVER,
    Reported,
    advise_pretraining,
    choose_best_metric,
    log_best,
    reported_checkpoint,
)


# Predictions and examples that each task can score.
SCORED = {
    "translation": (
        ["die Datei jetzt bitte wieder öffnen"],
        {"source": ["Open the file"], "target": ["die Datei jetzt bitte wieder öffnen"]},
    ),
    "summarization": (["a cat sits"], {"document": ["A cat sits there."], "summary": ["a cat sits"]}),
    "text-classification": (["a"], {"text": ["x"], "label": ["a"]}),
    "question-answering": (["cat"], {"question": ["who?"], "context": ["a cat"], "answers.text": [["cat"]]}),
    "generative-question-answering": (["cat"], {"question": ["who?"], "context": ["cat"], "answers.text": [["cat"]]}),
}
METRICS = [
    (name, metric, direction) for name in TASKS for metric, direction in task_class(name).metric_directions().items()
]


def parse(tmp_path, *more, task="text-generation"):
    argv = ["--output_dir", str(tmp_path / "run"), "--dataset", "user/data", "--task", task, *more]
    args = parse_arguments(argv)[2]
    choose_best_metric(task_class(task), args)
    return args


# Which metric, and in which direction


@pytest.mark.parametrize("prefix", ["", "eval_"])
@pytest.mark.parametrize(("task", "metric", "is_greater_better"), METRICS, ids=lambda value: str(value))
def test_each_metric_of_each_task_can_choose_the_best_model_in_its_direction(
    tmp_path, task, metric, is_greater_better, prefix
):
    args = parse(tmp_path, "--metric_for_best_model", prefix + metric, task=task)
    assert args.load_best_model_at_end
    assert args.metric_for_best_model == f"eval_{metric}"
    assert args.greater_is_better == is_greater_better
    assert is_greater_better == (metric not in ("token_loss", "perplexity", "bits_per_byte"))


def test_the_metrics_that_a_task_declares_are_those_that_it_computes():
    for name, (predictions, columns) in SCORED.items():
        task = task_class(name)(TaskArguments(task=name))
        scores = task.score(predictions, Dataset.from_dict(columns))
        assert {*task.score_names} <= {*scores}, name
        assert task.metric in task.score_names
        assert all(scores[metric] > 0 or metric == "mcc" for metric in task.score_names), "greater is better"
    for name in TASKS.keys() - SCORED.keys():
        assert not task_class(name).score_names
    assert "bits_per_byte" not in task_class("fill-mask").metric_directions(), "its rows do not hold the whole text"
    without_perplexity = {name for name in TASKS if "perplexity" not in task_class(name).metric_directions()}
    assert without_perplexity == {"text-classification", "question-answering"}, "whose targets are not tokens"


@pytest.mark.parametrize(
    ("more", "task", "sentence"),
    [
        (
            ["--metric_for_best_model", "bleu"],
            "text-generation",
            "not measured by text-generation; choose one of token_",
        ),
        (["--metric_for_best_model", "acuracy"], "text-classification", r"token_loss, accuracy, macro_f1, mcc\."),
        (["--metric_for_best_model", "eval_bits_per_byte"], "fill-mask", r"choose one of token_loss, perplexity\."),
        (
            ["--metric_for_best_model", "token_loss_margin"],
            "translation",
            "choose one of token_loss, perplexity, bleu",
        ),
        (["--metric_for_best_model", "acuracy"], "text-classification", r"mcc\. Did you mean accuracy\?"),
        (["--metric_for_best_model", "eval_acuracy"], "text-classification", r"Did you mean accuracy\?"),
        (["--metric_for_best_model", "bleu", "--eval_sample", "0"], "translation", "with --eval_sample 0; choose"),
        (
            ["--metric_for_best_model", "bleu", "--greater_is_better", "false"],
            "translation",
            "of bleu, greater is better; leave the option out",
        ),
        (["--greater_is_better", "true"], "text-generation", "of token_loss, smaller is better"),
        (["--load_best_model_at_end", "--eval_strategy", "no"], "translation", "never evaluates; set --eval_strategy"),
        (
            ["--load_best_model_at_end", "--save_strategy", "no"],
            "translation",
            "never writes a checkpoint; set --save",
        ),
        (["--metric_for_best_model", "bleu", "--eval_strategy", "no"], "translation", "the run never evaluates"),
        (["--early_stopping_patience", "3", "--eval_strategy", "no"], "translation", "the run never evaluates"),
        (["--save_strategy", "best", "--eval_strategy", "no"], "translation", "the run never evaluates"),
        (["--early_stopping_patience", "0"], "translation", "is 0; give .*at least 1"),
        (
            ["--early_stopping_patience", "2", "--early_stopping_threshold", "nan"],
            "translation",
            "give a finite number",
        ),
        (["--early_stopping_threshold", "0.1"], "translation", "needs --early_stopping_patience"),
        (["--eval_sample", "-1"], "translation", "at least 0"),
    ],
)
def test_a_metric_that_cannot_choose_is_refused_before_training(tmp_path, more, task, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(tmp_path, *more, task=task)


def test_a_run_that_evaluates_and_saves_keeps_its_best_checkpoint_by_validation_loss(tmp_path):
    args = parse(tmp_path, "--eval_steps", "5", "--save_steps", "7")  # the Trainer alone refuses these
    assert (args.load_best_model_at_end, args.metric_for_best_model) == (True, "eval_token_loss")
    assert args.greater_is_better is False
    assert parse(tmp_path, "--metric_for_best_model", "eval_loss").metric_for_best_model == "eval_token_loss"
    for more in (["--load_best_model_at_end", "false"], ["--save_strategy", "no"], ["--eval_strategy", "no"]):
        args = parse(tmp_path, *more)
        assert not args.load_best_model_at_end
        assert args.metric_for_best_model is None
    assert parse(tmp_path, "--save_total_limit", "1").save_total_limit == 2, "the best one and the last one"
    assert parse(tmp_path, "--save_total_limit", "1", "--load_best_model_at_end", "false").save_total_limit == 1


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_follows_a_score_knows_that_greater_is_better(tmp_path, schedule):
    chosen = parse(tmp_path, "--lr_scheduler_type", schedule, "--metric_for_best_model", "bleu", task="translation")
    assert chosen.lr_scheduler_kwargs == {"mode": "max"}
    assert parse(tmp_path, "--lr_scheduler_type", schedule).lr_scheduler_kwargs == {"mode": "min"}


def test_recorded_arguments_of_callbacks_cannot_replace_those_of_the_run(tmp_path):
    option = "--restore_callback_states_from_checkpoint"
    _, data_args, args = parse_arguments(["--output_dir", str(tmp_path / "run"), option])
    with pytest.raises(UserError, match=f"{option} .*leave it out"):
        check_together(data_args, args)


# What an evaluation measures


def test_an_evaluation_adds_the_scores_of_a_sample_to_the_loss_of_all_rows():
    rows = EvalPrediction(predictions=torch.tensor([[2.0, 2.0], [1.0, 1.0]]).numpy(), label_ids=None)
    metrics = ValidationMetrics(RowLoss(), lambda: {"bleu": 12.5})(rows)
    assert metrics["token_loss"] == 1.0
    assert metrics["bleu"] == 12.5


def test_the_sample_is_random_the_same_each_time_and_part_of_the_reported_one():
    examples = Dataset.from_dict({"n": list(range(50))})
    small, large = random_sample(examples, 5)["n"][:], random_sample(examples, 20)["n"][:]
    assert small == random_sample(examples, 5)["n"][:] == large[:5]
    assert small != list(range(5)), "files are often sorted"
    assert len(random_sample(examples, 100)) == 50


def test_the_scores_of_a_sample_are_plain_numbers_without_intervals():
    class Translator(task_class("translation")):
        def predict(self, model, tokenizer, examples, batch_size=32, decoding=None):
            return examples["target"][:]

    sample = Dataset.from_dict({"source": ["a b c d"], "target": ["a b c d"]})
    scores = Translator(TaskArguments(task="translation")).sample_scores(None, None, sample)
    assert scores == pytest.approx({"bleu": 100.0, "chrf": 100.0})


def test_there_is_one_validation_loss():
    logs = {"eval_loss": 3.0, "eval_token_loss": 2.5}
    state = TrainerState(log_history=[{**logs, "step": 1}])
    OneValidationLoss().on_log(None, state, None, logs=logs)
    assert logs["eval_loss"] == state.log_history[0]["eval_loss"] == 2.5
    OneValidationLoss().on_log(None, TrainerState(log_history=[{"loss": 1.0}]), None, logs={"loss": 1.0})


# History


def test_history_holds_what_was_measured_of_the_weights_of_each_update():
    log = [
        {"step": 2, "loss": 4.0, "learning_rate": 0.01, "grad_norm": 1.0},
        {"step": 2, "eval_token_loss": 3.5, "eval_bleu": 10.0, "eval_runtime": 1.0},
        {"step": 4, "eval_token_loss": 3.9, "eval_bleu": 9.0},
        {"step": 4, "train_runtime": 2.0},
        {"step": 2, "eval_token_loss": 3.6},  # the reported weights, evaluated again
    ]
    assert learning_curve(log, ("bleu",)) == [
        {"update": 2, "train_loss": 4.0, "learning_rate": 0.01},
        {"update": 2, "validation_loss": 3.5, "bleu": 10.0},
        {"update": 4, "validation_loss": 3.9, "bleu": 9.0},
    ]


def height(path):
    return int.from_bytes(path.read_bytes()[20:24], "big")  # of a PNG


def test_the_plot_has_a_second_panel_for_a_metric_that_is_not_a_loss(tmp_path):
    points = [{"update": 1, "train_loss": 2.0}, {"update": 1, "validation_loss": 2.0, "bleu": 1.0}]
    results = {"history": points, "reported_update": 1}
    plot_curve(results, "bleu", 0.1, tmp_path / "two.png")
    plot_curve(results, "rougel", 0.0, tmp_path / "one.png")
    plot_curve({"history": [], "reported_update": 1}, "bleu", 0.0, tmp_path / "empty.png")
    assert height(tmp_path / "two.png") > height(tmp_path / "one.png") == height(tmp_path / "empty.png")


# Callbacks


def evaluation(step, loss, **more):
    return {
        "step": step,
        "eval_token_loss": loss,
        "eval_token_loss_margin": 0.1,
        "eval_perplexity": math.exp(loss),
        **more,
    }


@pytest.mark.parametrize(
    ("losses", "is_warned"),
    [
        ([2.0, 2.05, 2.2], False),
        ([2.0, 2.2, 2.3], True),
        ([2.5, 2.0, 2.2, 2.3], True),
        ([2.0, 2.2, 2.3, 2.4], False),  # was warned before
        ([2.0, 2.2, 2.0, 2.2], False),
        ([2.0, 2.2, 1.8], False),
    ],
)
def test_two_evaluations_above_the_best_by_more_than_its_margin_give_one_warning(losses, is_warned, caplog):
    state = TrainerState(log_history=[evaluation(step, loss) for step, loss in enumerate(losses)])
    WarnOfRisingLoss().on_evaluate(SimpleNamespace(should_log=True), state, TrainerControl(), {})
    assert ("--early_stopping_patience" in caplog.text) == is_warned


def test_one_row_of_validation_has_no_margin_and_gives_no_warning(caplog):
    entries = [{**evaluation(step, loss), "eval_token_loss_margin": 0.0} for step, loss in enumerate([2.0, 2.2, 2.3])]
    WarnOfRisingLoss().on_evaluate(SimpleNamespace(should_log=True), TrainerState(log_history=entries), None, {})
    assert not caplog.text
    assert shown_evaluation(entries[0], []) == "validation loss 2.000"


@pytest.mark.parametrize(
    ("scores", "num_scored", "chosen_by", "is_warned"),
    [
        ([1.0, 2.5, 36.8], 100, "eval_token_loss", True),
        ([35.0, 34.0, 36.8], 1000, "eval_token_loss", False),
        ([30.0, 30.0, 36.8], 40, "eval_token_loss", False),  # the difference may be of two examples
        ([1.0, 2.5, 36.8], 100, "eval_bleu", False),
        ([], 100, "eval_token_loss", False),
    ],
)
def test_a_better_score_than_that_of_the_saved_update_is_pointed_out(
    tmp_path, caplog, scores, num_scored, chosen_by, is_warned
):
    entries = [evaluation(step, 2.0 + step) for step in range(3)]
    for entry, score in zip(entries, scores):
        entry["eval_bleu"] = score
    update = 2 if chosen_by == "eval_bleu" else 0
    args = best_args(tmp_path, chosen_by, greater=chosen_by == "eval_bleu")
    reported = Reported(update, 2, tmp_path, "the best")
    log_best(TrainerState(log_history=entries), args, reported, task_class("translation")(TaskArguments()), num_scored)
    sentence = "Validation bleu was 36.8 at update 2, against 1.0 at update 0, which is saved. To choose by it, give"
    assert (sentence in caplog.text) == is_warned
    assert ("To choose by it" in caplog.text) == is_warned


def best_args(tmp_path, metric="eval_token_loss", greater=False):
    return SimpleNamespace(
        output_dir=str(tmp_path), metric_for_best_model=metric, greater_is_better=greater, save_strategy="steps"
    )


@pytest.mark.parametrize(("strategy", "exists"), [("steps", True), ("no", False)])
def test_the_folder_of_the_best_checkpoint_exists_before_it_is_written(tmp_path, strategy, exists):
    """FSDP creates it after the Trainer has looked for it."""
    args = best_args(tmp_path)
    args.save_strategy = strategy
    KeepBest().on_evaluate(args, TrainerState(global_step=5), TrainerControl(), evaluation(5, 2.0))
    assert (tmp_path / "checkpoint-5").is_dir() is exists


def test_a_checkpoint_is_written_at_each_best_evaluation_and_at_no_other(tmp_path):
    state, saved = TrainerState(), []
    for step, loss in enumerate([3.0, 2.0, 2.5, 1.5], 1):
        control = TrainerControl()
        state.log_history.append(evaluation(step, loss))
        KeepBest().on_evaluate(best_args(tmp_path), state, control, evaluation(step, loss))
        if control.should_save:
            state.best_metric, state.best_global_step = loss, step
            saved.append(step)
    assert saved == [1, 2, 4]
    control = TrainerControl(should_training_stop=True)
    KeepBest().on_evaluate(best_args(tmp_path), state, control, evaluation(5, 9.0))
    assert control.should_save, "the run must be able to continue from where early stopping ended it"


def test_of_equal_scores_the_lower_loss_is_better(tmp_path):
    args = best_args(tmp_path, "eval_bleu", greater=True)
    state = TrainerState(log_history=[evaluation(1, 3.0, eval_bleu=0.0)], best_metric=0.0, best_global_step=1)
    for loss, is_saved in ((3.5, False), (2.0, True)):
        control = TrainerControl()
        KeepBest().on_evaluate(args, state, control, evaluation(2, loss, eval_bleu=0.0))
        assert control.should_save == is_saved
        assert (state.best_metric is None) == is_saved, "so that the Trainer takes it as the best"


def test_a_metric_that_the_data_do_not_give_is_named(tmp_path):
    args = best_args(tmp_path, "eval_bleu", greater=True)
    with pytest.raises(UserError, match="--metric_for_best_model bleu cannot be computed on this validation data"):
        KeepBest().on_evaluate(args, TrainerState(), TrainerControl(), evaluation(1, 2.0))


def test_a_resumed_run_takes_the_best_checkpoint_that_its_folder_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_mini.training.callbacks.checkpoint_defect", lambda folder: None)
    log = [evaluation(step, loss, eval_bleu=loss) for step, loss in ((2, 3.0), (4, 2.0), (6, 2.5))]
    state = TrainerState(log_history=log, best_metric=2.0, best_global_step=4, best_model_checkpoint="elsewhere/4")
    for step in (2, 4, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
    find_best(state, best_args(tmp_path))
    assert state.best_model_checkpoint == str(tmp_path / "checkpoint-4"), "not the folder it was copied from"
    find_best(state, best_args(tmp_path, "eval_bleu", greater=True))
    assert (state.best_global_step, state.best_metric) == (2, 3.0), "by the metric of this run"
    shutil.rmtree(tmp_path / "checkpoint-4")
    find_best(state, best_args(tmp_path))
    assert state.best_global_step == 6, "of those that are left"
    monkeypatch.setattr("modeling_mini.training.callbacks.checkpoint_defect", lambda folder: "is truncated")
    find_best(state, best_args(tmp_path))
    assert state.best_model_checkpoint is None


def test_early_stopping_continues_with_its_counter_and_the_patience_of_this_run(tmp_path):
    recorded = {"args": {"early_stopping_patience": 2}, "attributes": {"early_stopping_patience_counter": 1}}
    args = parse(tmp_path, "--early_stopping_patience", "5")
    [stopping] = [callback for callback in watchers(args) if isinstance(callback, EarlyStopping)]
    for state in (TrainerState(stateful_callbacks={"EarlyStopping": recorded}), TrainerState()):
        stopping.on_train_begin(args, state, TrainerControl())
        assert stopping.early_stopping_patience == 5
        assert stopping.early_stopping_patience_counter == 1
        assert "EarlyStopping" in state.stateful_callbacks, "the Trainer writes only callbacks that the state knows"
    assert [type(callback) for callback in watchers(args)] == [WarnOfRisingLoss, EarlyStopping, KeepBest]


@pytest.mark.parametrize("metric", ["token_loss", "perplexity"])
@pytest.mark.parametrize(("last_update", "threshold"), [(9, "0"), (9, "0.5"), (3, "0")])
def test_early_stopping_says_where_and_why(tmp_path, caplog, metric, last_update, threshold):
    options = ["--early_stopping_patience", "2", "--eval_steps", "1", "--metric_for_best_model", metric]
    args = parse(tmp_path, *options, "--early_stopping_threshold", threshold)
    [stopping] = [callback for callback in watchers(args) if isinstance(callback, EarlyStopping)]
    state, control = TrainerState(best_metric=2.0, max_steps=last_update), TrainerControl()
    for state.global_step in (2, 3):
        assert not control.should_training_stop
        stopping.on_evaluate(args, state, control, {f"eval_{metric}": 2.1})
    assert control.should_training_stop
    name = "validation loss" if metric == "token_loss" else "validation perplexity"
    by = " by more than --early_stopping_threshold 0.5" if threshold != "0" else ""
    sentence = f"in 2 evaluations in a row, the {name} was not better than before{by} (--early_stopping_patience 2)"
    said = f"Stopped early at update 3 of 9: {sentence}." in caplog.text
    assert said == (last_update == 9), "at the last update, nothing stopped early"


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ("linear", "The training and its schedule end at update 150 instead of 2000, so the learning rates to come"),
        ("constant_with_warmup", "The training ends at update 150 instead of 2000."),
    ],
)
def test_a_resumed_run_says_that_its_schedule_has_another_end(tmp_path, caplog, schedule, sentence):
    TrainerState(global_step=20, max_steps=2000).save_to_json(tmp_path / "trainer_state.json")
    args = parse(tmp_path, "--lr_scheduler_type", schedule)
    for checkpoint, max_steps in ((None, 150), (str(tmp_path), 2000), (str(tmp_path), 150)):
        assert "instead of" not in caplog.text
        NoteOfLength(checkpoint).on_train_begin(args, TrainerState(max_steps=max_steps), TrainerControl())
    assert sentence in caplog.text


def test_the_loss_since_the_last_log_survives_a_checkpoint():
    trainer = SimpleNamespace(_tr_loss=torch.tensor(7.0), _globalstep_last_logged=5)
    args, saving = SimpleNamespace(parallel_mode=None), TrainerControl(should_save=True)
    writer = RunningLoss(trainer)
    writer.on_log(None, TrainerState(global_step=5), None, logs={"loss": 1.0})
    writer.on_step_end(args, None, saving)
    state = TrainerState(global_step=8, stateful_callbacks={"RunningLoss": writer.state()})
    resumed = SimpleNamespace(_tr_loss=torch.tensor(0.0), _globalstep_last_logged=8)
    RunningLoss(resumed).on_train_begin(None, state, None)
    assert (resumed._tr_loss.item(), resumed._globalstep_last_logged) == (7.0, 5)
    writer.on_log(None, TrainerState(global_step=9), None, logs={"loss": 1.0})
    assert writer.state()["attributes"] == {"loss_sum": 0.0, "last_logged": 9}, "logged before the checkpoint"
    older = SimpleNamespace(_tr_loss=torch.tensor(0.0), _globalstep_last_logged=8)
    RunningLoss(older).on_train_begin(None, TrainerState(global_step=8), None)
    assert (older._tr_loss.item(), older._globalstep_last_logged) == (0.0, 8)


def test_a_task_whose_recipe_needs_a_pretrained_model_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    args = parse(tmp_path)
    for name in TASKS:
        caplog.clear()
        advise_pretraining(task_class(name), ModelArguments(), args)
        recipe = configuration_path("recipes", f"{name}.yaml")
        needs_one = recipe.exists() and "Needs a model to start from" in recipe.read_text()
        assert ("--init_from runs/pretraining" in caplog.text) == needs_one, name
        caplog.clear()
        advise_pretraining(task_class(name), ModelArguments(init_from="runs/pretraining"), args)
        assert not caplog.text


# Whole runs


@pytest.fixture
def scripted(monkeypatch, arguments, datasets_cache):
    """`scripted([3.0, 2.0], *options)`: train with an evaluation at each update that gives these losses, then 1.0."""

    def run(losses, *more):
        values = iter(losses)

        def evaluate(prediction):
            loss = next(values, 1.0)
            return {"token_loss": loss, "token_loss_margin": 0.1, "perplexity": math.exp(loss), "bits_per_byte": loss}

        monkeypatch.setattr("modeling_mini.training.run.RowLoss", lambda *options: evaluate)
        options = ["--max_steps", str(len(losses)), "--eval_steps", "1", "--save_steps", "4", "--disable_tqdm", "true"]
        return main([*arguments, *options, *more])

    return run


def saved_updates(folder):
    return sorted(int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*"))


def results_of(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["token_loss", "perplexity", "bits_per_byte"])
def test_the_best_update_is_saved_and_reported_and_the_run_continues_from_the_last(scripted, tmp_path, caplog, metric):
    caplog.set_level("INFO")
    chosen = ["--metric_for_best_model", metric, "--save_total_limit", "1"]
    losses = [3.0, 2.0, 2.5, 2.6, 2.7]
    assert scripted(losses, *chosen) == 0
    folder = tmp_path / "run"
    results = results_of(folder)
    assert (results["reported_update"], results["updates"]) == (2, 5)
    assert results["validation_loss"] == 1.0, "of the reported weights"
    assert [point["validation_loss"] for point in results["history"] if "validation_loss" in point] == losses
    assert saved_updates(folder) == [2, 5]
    best, final = (load_file(path / "model.safetensors") for path in (folder / "checkpoint-2", folder))
    assert all(torch.equal(best[name], final[name]) for name in best)
    assert re.search(r"The last update was worse: validation .* at update 5 against .* at update 2", caplog.text)
    assert "The validation loss rises: 2.0000 at update 2, but 2.6000 at update 4" in caplog.text
    assert "of update 2 of 5, the best by validation" in (folder / "README.md").read_text()

    caplog.clear()
    assert scripted(losses, *chosen, "--resume") == 1
    assert "is finished (5 of 5 updates)" in caplog.text
    for name in ("metrics.json", "model.safetensors"):  # as after a kill before the report
        (folder / name).unlink()
    assert scripted(losses, *chosen, "--resume") == 0
    assert results_of(folder)["reported_update"] == 2
    final = load_file(folder / "model.safetensors")
    assert all(torch.equal(best[name], final[name]) for name in best)
    assert scripted([1.5], *chosen, "--resume", "--max_steps", "6") == 0
    assert re.search(r"Continuing from .*checkpoint-5", caplog.text)
    assert results_of(folder)["reported_update"] == 6
    assert saved_updates(folder) == [5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--load_best_model_at_end", "false"], ["--save_strategy", "no"]])
def test_a_run_that_keeps_only_the_last_update_says_so_if_an_earlier_one_was_better(scripted, tmp_path, caplog, more):
    assert scripted([3.0, 2.0, 2.5], *more) == 0
    assert "an earlier one was better: validation loss 2.5 at update 3 against 2 at update 2" in caplog.text
    assert results_of(tmp_path / "run")["reported_update"] == 3


def test_with_save_strategy_best_the_trainer_does_not_cancel_the_checkpoint_of_a_stop(tmp_path, caplog):
    caplog.set_level("INFO")
    args = parse(tmp_path, "--save_strategy", "best")
    assert (args.save_strategy, args.save_steps) == ("steps", NEVER)
    assert (args.load_best_model_at_end, args.metric_for_best_model) == (True, "eval_token_loss")
    assert "checkpoints are written at each best evaluation, and at the end" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("losses", [[3.0, 2.0, 2.5, 2.6, 2.7], [3.0, 2.0, 2.5, 1.5, 2.7]], ids=["early", "end"])
def test_with_save_strategy_best_the_best_and_the_last_checkpoint_are_kept(scripted, tmp_path, losses):
    assert scripted(losses, "--save_strategy", "best", "--early_stopping_patience", "2") == 0
    assert saved_updates(tmp_path / "run") == ([2, 4] if losses[3] > 2 else [4, 5])


@pytest.mark.slow
def test_with_save_strategy_best_a_signal_leaves_a_checkpoint(scripted, tmp_path, caplog, monkeypatch):
    class StopAtThree(StopOnSignal):
        def on_evaluate(self, args, state, control, **kwargs):
            self.signal_number = signal.SIGTERM if state.global_step == 3 else None
            self.on_step_end(args, state, control, **kwargs)

    monkeypatch.setattr("modeling_mini.training.run.StopOnSignal", StopAtThree)
    assert scripted([3.0, 2.0, 2.5, 2.6, 2.7], "--save_strategy", "best") == 143
    assert "Stopped after update 3, with a checkpoint" in caplog.text
    assert saved_updates(tmp_path / "run") == [2, 3]


@pytest.mark.slow
def test_a_run_that_stopped_early_stays_finished_without_its_last_checkpoint(scripted, tmp_path, caplog):
    losses = [3.0, 2.0, 2.5, 2.6, 2.7, 2.8]
    assert scripted(losses, "--early_stopping_patience", "2") == 0
    folder = tmp_path / "run"
    assert results_of(folder)["stopped_with_patience"] == 2
    shutil.rmtree(folder / "checkpoint-4")
    for patience, more in (("2", []), ("1", []), ("2", ["--max_steps", "9"])):
        caplog.clear()
        assert scripted(losses, "--early_stopping_patience", patience, "--resume", *more) == 1
        assert "is finished (4 of " in caplog.text
        assert "or a larger --early_stopping_patience to continue" in caplog.text
    assert scripted([2.7, 2.8, 1.0], "--early_stopping_patience", "4", "--resume", "--max_steps", "5") == 0
    assert results_of(folder)["stopped_with_patience"] is None


@pytest.mark.parametrize(
    ("patience", "is_finished"),
    [(None, False), (3, True), (2, True), (4, False)],
    ids=["none", "same", "less", "more"],
)
def test_early_stopping_finished_a_run_with_the_same_patience_only(tmp_path, patience, is_finished):
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    TrainerState(global_step=2, max_steps=9).save_to_json(checkpoint / "trainer_state.json")
    options = [] if patience is None else ["--early_stopping_patience", str(patience)]
    args = parse(tmp_path, "--max_steps", "9", *options)
    report = {"updates": 4, "stopped_with_patience": 3}
    with pytest.raises(UserError, match="finished .4 of 9 upd.*early_stopping_pat") if is_finished else nullcontext():
        refuse_finished(checkpoint, args, report)
    refuse_finished(checkpoint, args, {"updates": 4})


@pytest.mark.slow
def test_early_stopping_ends_the_run_and_a_larger_patience_continues_it(scripted, tmp_path, caplog):
    caplog.set_level("INFO")
    losses = [3.0, 2.0, 2.5, 2.6, 2.7, 2.8]
    assert scripted(losses, "--early_stopping_patience", "2") == 0
    folder = tmp_path / "run"
    results = results_of(folder)
    assert (results["reported_update"], results["updates"]) == (2, 4)
    assert saved_updates(folder) == [2, 4]
    assert "Stopped early at update 4 of 6: in 2 evaluations in a row, the validation loss was not" in caplog.text
    assert scripted(losses, "--early_stopping_patience", "2", "--resume") == 1
    assert "a larger --early_stopping_patience to continue" in caplog.text
    # The counter stands at 2, and these two evaluations are no better.
    assert "instead of" not in caplog.text
    assert scripted([2.7, 2.8, 1.0], "--early_stopping_patience", "4", "--resume", "--max_steps", "9") == 0
    assert "The training and its schedule end at update 9 instead of 6" in caplog.text
    assert results_of(folder)["updates"] == 6


@pytest.mark.slow
def test_a_resumed_run_logs_the_losses_of_an_uninterrupted_run(arguments, datasets_cache, tmp_path):
    """With dropout; the checkpoint of update 8 is between two logs."""
    arguments = [*arguments, "--logging_steps", "5", "--eval_steps", "10", "--disable_tqdm", "true"]
    assert main(arguments) == 0
    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "run", resumed)
    lose_the_end(resumed, 10)
    assert main([*arguments, "--output_dir", str(resumed), "--resume"]) == 0
    assert results_of(resumed)["history"] == results_of(tmp_path / "run")["history"]
    assert (resumed / "model.safetensors").read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert [point["update"] for point in results_of(resumed)["history"] if "train_loss" in point] == [5, 10]


def order_of_epoch(epoch, data_seed=None, is_sharded=False):
    """The order of `group_by_length` at the start of an epoch, or where a resumed run is in it."""
    sampler = LengthGroupedSampler(4, lengths=[i % 7 for i in range(40)])
    batch_sampler = BatchSampler(sampler, 4, False)
    if is_sharded:
        batch_sampler = BatchSamplerShard(batch_sampler)
    args = SimpleNamespace(seed=3, data_seed=data_seed, world_size=2 if is_sharded else 1)
    loader, callback = SimpleNamespace(batch_sampler=batch_sampler), OrderOfEpoch()
    callback.on_epoch_begin(args, TrainerState(epoch=0), None, train_dataloader=loader)  # an earlier epoch
    torch.randn(1)  # the state of the global generator does not matter
    callback.on_epoch_begin(args, TrainerState(epoch=epoch), None, train_dataloader=loader)
    return [row for batch in getattr(batch_sampler, "batch_sampler", batch_sampler) for row in batch]


@pytest.mark.parametrize("is_sharded", [False, True])
def test_the_order_by_length_depends_on_seed_and_epoch_alone(is_sharded):
    assert order_of_epoch(1.4, is_sharded=is_sharded) == order_of_epoch(1.0, is_sharded=is_sharded)
    assert order_of_epoch(1.0, is_sharded=is_sharded) != order_of_epoch(0, is_sharded=is_sharded)
    assert order_of_epoch(1.0, data_seed=8, is_sharded=is_sharded) != order_of_epoch(1.0, is_sharded=is_sharded)


def lengths_of_batches(world_size, accumulated):
    """The lengths in each batch of each process, for rows of 0 to 99 tokens of which some do not fill a batch."""
    lengths = [number % 100 for number in range(1995)]
    processes = []
    for process in range(world_size):
        batch_sampler = BatchSampler(LengthGroupedSampler(4 * accumulated, lengths=lengths), 4, False)
        shard = BatchSamplerShard(batch_sampler, world_size, process) if world_size > 1 else batch_sampler
        args = SimpleNamespace(seed=3, data_seed=None, world_size=world_size)
        loader = SimpleNamespace(batch_sampler=shard)
        OrderOfEpoch().on_epoch_begin(args, TrainerState(epoch=0), None, train_dataloader=loader)
        assert set(batch_sampler.sampler) == set(range(1995))
        processes.append([[lengths[row] for row in batch] for batch in shard])
    return processes


@pytest.mark.parametrize(("world_size", "accumulated"), [(1, 1), (1, 2), (3, 1), (4, 2)])
def test_batches_of_similar_lengths_come_in_random_order(world_size, accumulated):
    """Else the last rows before an evaluation are always the shortest ones."""
    processes = lengths_of_batches(world_size, accumulated)
    steps = [list(itertools.chain(*batches)) for batches in zip(*processes, strict=True)]
    whole = steps[: len(steps) // accumulated * accumulated - accumulated]
    spreads = [max(step) - min(step) for step in whole]
    assert max(spreads) < 60
    assert statistics.mean(spreads) < 10
    means = [statistics.mean(step) for step in whole[::accumulated]]
    falls = sum(second < first for first, second in itertools.pairwise(means))
    assert 0.35 < falls / len(means) < 0.65


def test_the_longest_row_comes_first_and_an_incomplete_batch_is_not_the_shortest_rows():
    lengths = list(range(107))
    orders = [order_by_length(lengths, 10, torch.Generator().manual_seed(seed)) for seed in range(50)]
    assert all(sorted(order) == lengths for order in orders)
    assert all(106 in order[:10] for order in orders)
    assert 45 < statistics.mean(row for order in orders for row in order[-7:]) < 61


def test_fewer_rows_than_a_batch_are_in_random_order():
    assert sorted(order_by_length([5, 6, 7], 8, torch.Generator().manual_seed(1))) == [0, 1, 2]


@pytest.mark.slow
def test_a_run_that_is_resumed_within_a_later_epoch_reads_the_rows_that_are_left(arguments, datasets_cache, tmp_path):
    more = ["--task", "text-classification", "--train_sampling_strategy", "group_by_length", "--disable_tqdm", "true"]
    more += ["--max_train_documents", "20", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"]
    arguments = [*arguments, *more, "--validation_fraction", "0.2"]
    assert main(arguments) == 0
    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "run", resumed)
    lose_the_end(resumed, 10)
    assert main([*arguments, "--output_dir", str(resumed), "--resume"]) == 0
    assert (resumed / "model.safetensors").read_bytes() == (tmp_path / "run" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_classifier_is_chosen_by_its_accuracy_and_logs_one_loss(arguments, datasets_cache, tmp_path):
    more = ["--task", "text-classification", "--metric_for_best_model", "accuracy", "--label_smoothing_factor", "0.2"]
    assert main([*arguments, *more, "--validation_fraction", "0.2", "--disable_tqdm", "true"]) == 0
    folder = tmp_path / "run"
    results = results_of(folder)
    measured = [point for point in results["history"] if "validation_loss" in point]
    assert [point["update"] for point in measured] == [5, 10]
    assert all({"accuracy", "macro_f1", "mcc"} < point.keys() for point in measured)
    assert "perplexity" not in {*results, *measured[0]}
    assert "perplexity" not in (folder / "README.md").read_text()
    best = max(measured, key=lambda point: (point["accuracy"], -point["validation_loss"]))
    assert results["reported_update"] == best["update"]
    assert results["accuracy"] == pytest.approx(best["accuracy"]), "all examples fit into the sample"
    state = json.loads((folder / "checkpoint-10" / "trainer_state.json").read_text())
    losses = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert losses
    assert all(entry["eval_loss"] == entry["eval_token_loss"] for entry in losses)
    assert all("eval_perplexity" not in entry for entry in losses), "the loggers of the Trainer show these entries"
    assert height(folder / "loss.png") == 900


@pytest.mark.slow
def test_a_run_without_an_update_writes_no_report(arguments, datasets_cache, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("transformers.Trainer.train", lambda self, **kwargs: None)
    assert main(arguments) == 1
    assert "ended without an update" in caplog.messages[-1]
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_run_that_does_not_keep_the_best_reports_the_last(tmp_path):
    state = TrainerState(global_step=9, best_global_step=4, best_model_checkpoint="run/checkpoint-4")
    keep = SimpleNamespace(load_best_model_at_end=True, metric_for_best_model="eval_bleu")
    reported = reported_checkpoint(state, keep)
    assert (reported.update, reported.last, reported.choice) == (4, 9, "the best by validation bleu")
    keep.load_best_model_at_end = False
    assert (reported_checkpoint(state, keep).update, reported_checkpoint(state, keep).checkpoint) == (9, None)


def test_the_evaluation_of_the_reported_weights_is_logged_at_their_update():
    """Where the last update was not evaluated, it would otherwise get the loss of the best one."""
    state, removed = TrainerState(global_step=9), []

    def evaluate():
        state.log_history.append({"step": state.global_step, "eval_token_loss": 2.0})
        return {"eval_token_loss": 2.0}

    trainer = SimpleNamespace(state=state, evaluate=evaluate, remove_callback=removed.append, compute_metrics=None)
    evaluate_reported(trainer, RowLoss(), SimpleNamespace(update=4))
    assert learning_curve(state.log_history) == [{"update": 4, "validation_loss": 2.0}]
    assert isinstance(trainer.compute_metrics, RowLoss), "the report scores more examples"
    assert {EarlyStopping, KeepBest, WarnOfRisingLoss} == {*removed}, "they act on evaluations during training"
