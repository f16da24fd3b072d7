"""A run resumes only as what it was: the same data and settings, complete states, alone in a folder of its own."""

import errno
import json
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from modeling_mini.checkpoints import FSDP_FULL, written_by
from modeling_mini.commands import Interrupted
from modeling_mini.errors import UserError
from modeling_mini.inference.evaluate import check_output
from modeling_mini.training.arguments import parse_arguments
from modeling_mini.training.callbacks import StopOnSignal
from modeling_mini.training.locking import BOOT_ID, LOCK_NAME, locked, start_of
from modeling_mini.training.resuming import (
    FIXED_ARGUMENTS,
    check_output_dir,
    check_same_rows,
    check_same_run,
    fixed_arguments,
    is_finished,
    read_report,
    refuse_finished,
    require_resumable,
    resume_point,
)
from modeling_mini.training.run import main, train


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
OTHER_VALUES = {
    "seed": 7,
    "data_seed": 5,
    "learning_rate": 0.5,
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": '{"num_cycles": 0.3}',
    "warmup_steps": 3,
    "weight_decay": 0.9,
    "adam_beta1": 0.5,
    "adam_beta2": 0.5,
    "adam_epsilon": 0.1,
    "max_grad_norm": 9.0,
    "label_smoothing_factor": 0.2,
    "neftune_noise_alpha": 1.0,
    "muon_learning_rate": 0.5,
    "muon_momentum": 0.5,
    "optim": "sgd",
    "bf16": True,
    "optim_args": "momentum=0.5",
}
MAY_DIFFER = {
    "max_steps": 1000,
    "num_train_epochs": 9,
    "logging_steps": 3,
    "save_steps": 7,
    "eval_steps": 9,
    "save_total_limit": 5,
    "prompt": "else",
    "per_device_eval_batch_size": 3,
    "gradient_checkpointing": True,
}


def fixed(output_dir, *more):
    return fixed_arguments(*parse_arguments(["--output_dir", str(output_dir), *more]))


def record(folder, **entries):
    (folder / "_run.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_an_argument_that_changes_the_weights_must_stay(tmp_path, name):
    check_same_run(tmp_path, fixed(tmp_path), resume=False, write=True)
    check_same_run(tmp_path, fixed(tmp_path), resume=True, write=True)
    changed = fixed(tmp_path, f"--{name}", str(OTHER_VALUES[name]))
    with pytest.raises(UserError, match=f"was started (with|without) --{name}[ ,].*resume with the same arguments"):
        check_same_run(tmp_path, changed, resume=True, write=True)


def test_all_arguments_that_differ_from_the_record_are_named_with_how_to_go_on(tmp_path):
    check_same_run(tmp_path, fixed(tmp_path, "--init_from", "old model", "--seed", "3"), resume=False, write=True)
    changed = fixed(tmp_path, "--tokenizer", "else", "--optimizer", "adamw", "--per_device_train_batch_size", "2")
    with pytest.raises(UserError) as error:
        check_same_run(tmp_path, changed, resume=True, write=True)
    for part in (
        "was started with --init_from 'old model', not without it; without --tokenizer, not with else; ",
        "with --seed 3, not 42; with --optimizer muon, not adamw; ",
        "with 16 rows per update (batch size x accumulation x processes), not 2. ",
        "same arguments (--resume --init_from 'old model' --seed 3 --optimizer muon, without --tokenizer), or choose",
    ):
        assert part in str(error.value)
    assert "None" not in str(error.value)


def test_an_argument_that_only_watches_the_run_may_differ(tmp_path):
    check_same_run(tmp_path, fixed(tmp_path), resume=False, write=True)
    options = [word for name, value in MAY_DIFFER.items() for word in (f"--{name}", str(value))]
    check_same_run(tmp_path, fixed(tmp_path, *options), resume=True, write=True)
    halves = ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"]
    check_same_run(tmp_path, fixed(tmp_path, *halves), resume=True, write=True)


def test_a_run_of_an_older_version_resumes(tmp_path):
    """It recorded four arguments of the Trainer, as text."""
    recorded = fixed(tmp_path)
    names = ("seed", "optimizer", "optim", "train_sampling_strategy")
    recorded["training"] = {name: str(recorded["training"][name]) for name in names}
    record(tmp_path, **recorded)
    check_same_run(tmp_path, fixed(tmp_path), resume=True, write=True)
    check_same_run(tmp_path, fixed(tmp_path, "--learning_rate", "0.5"), resume=True, write=True)
    with pytest.raises(UserError, match="was started with --seed"):
        check_same_run(tmp_path, fixed(tmp_path, "--seed", "9"), resume=True, write=True)


def test_the_fixed_arguments_exist():
    args = parse_arguments([])[2]
    assert not [name for name in FIXED_ARGUMENTS if not hasattr(args, name)]


@pytest.mark.parametrize("content", ["[]", "{", "null", '{"training": []}', ""])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "_run.json").write_text(content)
    with pytest.raises(UserError, match="_run.json"):
        check_same_run(tmp_path, fixed(tmp_path), resume=True, write=True)


def test_other_training_rows_are_refused(tmp_path):
    new = parse_arguments(["--output_dir", str(tmp_path)])[2]
    resumed = parse_arguments(["--output_dir", str(tmp_path), "--resume"])[2]
    record(tmp_path, data={})
    check_same_rows(new, None)  # a stream
    check_same_rows(resumed, "a")  # the run of an older version recorded none
    check_same_rows(resumed, "a")
    assert json.loads((tmp_path / "_run.json").read_text()) == {"data": {}, "training_rows": "a"}
    with pytest.raises(UserError, match="records other training rows: the text of the data"):
        check_same_rows(resumed, "b")
    check_same_rows(new, "c", "validation")
    check_same_rows(resumed, "c", "validation")
    with pytest.raises(UserError, match="records other validation rows"):
        check_same_rows(resumed, "d", "validation")


def test_there_must_be_a_run_to_resume(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match=f"--resume: there is no run in {folder}; give the --output_dir"):
            train(["--resume", "--output_dir", str(folder)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["README.md", "readme.md", "config.json", "tokenizer.json", "model.safetensors", "metrics.json", "loss.png"],
)
def test_files_of_others_are_not_overwritten(tmp_path, name):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "src").mkdir()
    check_output_dir(tmp_path, resume=False)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds {name}, which no run of this program wrote|holds an earlier run"):
        train(["--output_dir", str(tmp_path), "--dataset", "user/data"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "notes.txt", "src"])
    record(tmp_path, data={})
    if name != "config.json":  # the mark of a finished run
        check_output_dir(tmp_path, resume=False)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"scripts": {}}', '{"data": 1}', "\xff"])
def test_a_record_that_no_run_wrote_is_neither_overwritten_nor_extended(tmp_path, content):
    path = tmp_path / "_run.json"
    path.write_text(content, encoding="latin-1")
    (tmp_path / "_run.part").write_text("mine")
    with pytest.raises(UserError, match="holds _run.json, which no run of this program wrote.*choose another"):
        train(["--output_dir", str(tmp_path), "--dataset", "user/data"])
    with pytest.raises(UserError, match="there is no run in"):
        check_output_dir(tmp_path, resume=True)
    with pytest.raises(UserError, match="holds _run.json, which no run"):
        check_output_dir(tmp_path, resume=True, checkpoint="elsewhere/checkpoint-2")
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(UserError, match="_run.json"):
        check_same_run(tmp_path, fixed(tmp_path), resume=True, write=True)
    assert path.read_text(encoding="latin-1") == content
    check_same_run(tmp_path, fixed(tmp_path), resume=False, write=True)
    assert (tmp_path / "_run.part").read_text() == "mine"
    check_output_dir(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["results.json", "results.png", "predictions.jsonl"])
def test_results_of_others_are_not_overwritten(tmp_path, name):
    check_output(str(tmp_path))
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(UserError, match=f"--output .* holds {name}, which this command did not write"):
        check_output(str(tmp_path))
    (tmp_path / "results.json").write_text('{"task": "x", "systems": {}, "versions": {}}')
    check_output(str(tmp_path))


def test_other_training_rows_than_those_of_the_other_folder_are_refused(tmp_path):
    for name, rows in (("old", {"training_rows": "a"}), ("new", {})):
        (tmp_path / name).mkdir()
        record(tmp_path / name, data={}, **rows)
    checkpoint = ["--resume_from_checkpoint", str(tmp_path / "old" / "checkpoint-2")]
    args = parse_arguments(["--output_dir", str(tmp_path / "new"), *checkpoint])[2]
    with pytest.raises(UserError, match="old/_run.json records other training rows"):
        check_same_rows(args, "b")
    check_same_rows(args, "a")
    assert json.loads((tmp_path / "new" / "_run.json").read_text())["training_rows"] == "a"


@pytest.mark.parametrize(
    ("options", "last_update"),
    [
        (["--num_train_epochs", "2"], 20),
        (["--num_train_epochs", "3"], math.inf),
        (["--max_steps", "25"], 25),
        (["--max_steps", "5", "--num_train_epochs", "9"], 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_reported", [True, False])
def test_a_finished_run_goes_on_with_more_epochs_or_updates(tmp_path, options, last_update, is_reported):
    checkpoint = tmp_path / "checkpoint-20"
    checkpoint.mkdir()
    TrainerState(global_step=20, max_steps=20, num_train_epochs=2).save_to_json(checkpoint / "trainer_state.json")
    if is_reported:
        (tmp_path / "metrics.json").write_text('{"updates": 20}')
    args = parse_arguments(["--output_dir", str(tmp_path), "--max_steps", "-1", *options])[2]
    if last_update > 20:
        refuse_finished(checkpoint, args, read_report(tmp_path))
        assert not is_finished(checkpoint, args)
    elif is_reported:
        option = "--max_steps" if "--max_steps" in options else "--num_train_epochs"
        for refuse in (
            lambda: refuse_finished(checkpoint, args, read_report(tmp_path)),
            lambda: is_finished(checkpoint, args),
        ):
            with pytest.raises(
                UserError, match=f"is finished .20 of {last_update} updates.*larger {option} to continue"
            ):
                refuse()
    else:
        assert is_finished(checkpoint, args)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with locked(tmp_path, True):
        with pytest.raises(UserError, match=f"is in use by another run .process {os.getpid()}.; wait for its end"):
            train(["--output_dir", str(tmp_path), "--dataset", "user/data"])
        with locked(tmp_path, False):  # another process of the same run
            pass
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
    assert list(tmp_path.iterdir()) == []


OTHER_START = {"started": 1.0, "since_boot": -9.0}


def holder(**changes):
    mine = {"process": os.getpid(), **start_of(psutil.Process()), "host": socket.gethostname()}
    return json.dumps(mine | changes)


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux is corrected")
@pytest.mark.parametrize("hides_boot", [False, True])
def test_a_lock_holds_when_the_clock_of_the_machine_is_set(tmp_path, monkeypatch, hides_boot):
    if hides_boot:
        monkeypatch.setattr("modeling_mini.training.locking.BOOT_ID", tmp_path / "missing")
    with locked(tmp_path, True):
        seconds = psutil.boot_time() + 3600
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: seconds)
        monkeypatch.setattr("psutil._pslinux.BOOT_TIME", seconds, raising=False)  # of psutil below 7.1
        with pytest.raises(UserError, match="is in use by another run"), locked(tmp_path, True):
            pass


@pytest.mark.parametrize(
    ("text", "is_stale"),
    [
        (holder(), False),
        (
            json.dumps(
                {"process": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()}
            ),
            False,
        ),
        (holder(**OTHER_START), True),  # the number of the process was given to another one since
        (holder(boot=""), False),
        pytest.param(
            holder(boot="before"), True, marks=pytest.mark.skipif(not BOOT_ID.exists(), reason="needs Linux")
        ),
        (holder(process=2**22 + 1), True),
        (holder(process="x"), True),
        (holder(host="elsewhere"), False),
        ("", True),
        ("{", True),
        (holder()[:20], True),
    ],
    ids=[
        "ours",
        "of 0.2.0",
        "reused",
        "unknown boot",
        "before the boot",
        "gone",
        "no number",
        "elsewhere",
        "empty",
        "one byte",
        "truncated",
    ],
)
def test_the_lock_of_a_process_that_is_gone_is_replaced(tmp_path, text, is_stale):
    (tmp_path / LOCK_NAME).write_text(text)
    with nullcontext() if is_stale else pytest.raises(UserError, match="is in use by"), locked(tmp_path, True):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["process"] == os.getpid()
    assert (tmp_path / LOCK_NAME).exists() != is_stale


@pytest.mark.parametrize(
    ("seconds", "age"), [(5, "less than a minute"), (90, "1 minute"), (7500, "2 hours"), (2e5, "2 days")]
)
def test_the_lock_of_another_host_says_whose_it_is_and_how_to_remove_it(tmp_path, seconds, age):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / LOCK_NAME).write_text(holder(host="elsewhere", process=77))
    then = time.time() - seconds
    os.utime(folder / LOCK_NAME, (then, then))
    with pytest.raises(UserError) as refusal:
        train(["--output_dir", str(folder), "--dataset", "user/data"])
    assert f"(host elsewhere, process 77, started {age} ago)" in str(refusal.value)
    subprocess.run(str(refusal.value).partition("start again: ")[2], shell=True, check=True)
    with locked(folder, True):
        pass


def block_with(kind, path):
    """Put something else than a lock in its place."""
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to("missing")
    elif kind == "link":
        path.with_name("mine.json").write_text(holder(**OTHER_START))
        path.symlink_to("mine.json")
    else:
        path.write_bytes({"list": b"[]", "object": b'{"name": "npm"}', "bytes": b"\xff\xfe"}[kind])


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "link", "list", "object", "bytes"])
def test_what_is_not_a_lock_is_named_and_left_as_it_is(tmp_path, kind):
    block_with(kind, tmp_path / LOCK_NAME)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="_lock.json (is|was not) .*; rename it, or choose another --output_dir"):
        train(["--output_dir", str(tmp_path), "--dataset", "user/data"])
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_lock_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / LOCK_NAME).write_text(holder(**OTHER_START))

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot be read .Permission denied.*delete the file .*: rm .*_lock.json$"):
        train(["--output_dir", str(tmp_path), "--dataset", "user/data"])


def test_a_lock_is_released_by_an_error_and_survives_a_kill_only_as_stale(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "run", True):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()
    script = (
        "import os, sys; from modeling_mini.training.locking import locked\n"
        f"with locked({str(tmp_path)!r}, True): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert (tmp_path / LOCK_NAME).exists()
    with locked(tmp_path, True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_hard_links_has_a_lock_too(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / LOCK_NAME).write_text(holder(**OTHER_START))
    with locked(tmp_path, True):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["process"] == os.getpid()
        with pytest.raises(UserError, match="is in use by another run"), locked(tmp_path, True):
            pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_runs_at_once_one_gets_the_lock(tmp_path):
    (tmp_path / LOCK_NAME).write_text(holder(**OTHER_START))
    script = (
        "import sys, time; from modeling_mini.training import locking\n"
        "from modeling_mini.errors import UserError\n"
        "time.sleep(max(0, float(sys.argv[1]) - time.time()))\n"
        "try:\n"
        f"    with locking.locked({str(tmp_path)!r}, True): print('got it'); time.sleep(3)\n"
        "except UserError as error: print(error)"
    )
    start = str(time.time() + 12)
    command = [sys.executable, "-c", script, start]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate()[0] for process in processes]
    assert sum("got it" in output for output in outputs) == 1, outputs
    assert sum("in use by" in output for output in outputs) == 2, outputs


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus):
    """A finished run of four updates, with its checkpoints; and its arguments."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    options = {
        "dataset": corpus,
        "output_dir": folder,
        "config_overrides": json.dumps({**SHAPE, "vocab_size": 300}),
        "block_size": 32,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "warmup_steps": 0,
        "save_steps": 2,
        "eval_steps": 2,
        "logging_steps": 1,
    }
    arguments = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    assert main(arguments) == 0
    return folder, arguments


@pytest.fixture
def run_copy(finished, tmp_path):
    """A copy of the finished run, and the arguments that resume it."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    return folder, [*finished[1], "--output_dir", str(folder), "--resume"]


def unfinish(folder):
    """As after a kill between the two checkpoints."""
    shutil.rmtree(folder / "checkpoint-4")
    for name in ("metrics.json", "model.safetensors", "config.json"):
        (folder / name).unlink()


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("lost", [["checkpoint-4"], ["checkpoint-2"], [], ["checkpoint-2", "checkpoint-4"]])
@pytest.mark.parametrize("more", [[], ["--max_steps", "3"]])
def test_a_finished_run_stays_finished_whichever_checkpoints_are_left(run_copy, lost, more):
    folder, arguments = run_copy
    for name in lost:
        shutil.rmtree(folder / name)
    before = content(folder)
    with pytest.raises(UserError, match=f"The run in {folder} is finished"):
        train([*arguments, *more])
    assert content(folder) == before


@pytest.mark.slow
def test_a_checkpoint_without_its_optimizer_is_not_resumed(run_copy):
    folder, arguments = run_copy
    for step in (2, 4):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (folder / f"checkpoint-{step}" / name).unlink()
    before = content(folder)
    for more in ([], ["--resume_from_checkpoint", str(folder / "checkpoint-2")]):
        with pytest.raises(UserError, match=r"was saved without its optimizer .*--save_only_model.*--init_from"):
            train([*arguments, "--max_steps", "6", *more])
        assert content(folder) == before


def truncate(path):
    path.write_bytes(path.read_bytes()[:500])


def other_shape(path):
    weights = load_file(path)
    save_file({**weights, "model.norm.weight": torch.ones(7)}, path, metadata={"format": "pt"})


def change(path, **entries):
    torch.save({**torch.load(path, weights_only=False), **entries}, path)


STATES = {
    "trainer_state.json is missing or damaged": lambda last: (last / "trainer_state.json").write_text("[]"),
    "trainer_state.json is missing or damaged ": lambda last: (last / "trainer_state.json").write_text('{"steps": 1}'),
    "trainer_state.json is missing or damaged  ": lambda last: (last / "trainer_state.json").write_text("{" * 9999),
    "trainer_state.json is missing or damaged   ": lambda last: (last / "trainer_state.json").write_text(
        json.dumps({**json.loads((last / "trainer_state.json").read_text()), "log_history": [1]})
    ),
    "optimizer.pt is damaged: 'state'": lambda last: torch.save({}, last / "optimizer.pt"),
    "optimizer.pt is damaged: 'param_groups'": lambda last: torch.save({"state": {0: 1}}, last / "optimizer.pt"),
    "optimizer.pt does not open": lambda last: torch.save(5, last / "optimizer.pt"),
    "scheduler.pt is damaged: 'last_epoch'": lambda last: torch.save({}, last / "scheduler.pt"),
    "scheduler.pt is damaged: 'last_epoch' holds a str": lambda last: change(last / "scheduler.pt", last_epoch="x"),
    "rng_state.pth is damaged: 'cpu' is not": lambda last: change(last / "rng_state.pth", cpu=torch.zeros(3)),
    "rng_state.pth is damaged: 'python' is not the state": lambda last: change(last / "rng_state.pth", python="x"),
    "rng_state.pth is damaged: 'python' is missing": lambda last: torch.save({}, last / "rng_state.pth"),
    r"hold model.norm.weight of shape \[7\]": lambda last: other_shape(last / "model.safetensors"),
    "config.json in .* is not JSON": lambda last: (last / "config.json").write_text("{"),
    "tokenizer.json in --output_dir .* is not JSON": lambda last: truncate(last.parent / "tokenizer.json"),
    "contains no tokenizer_config.json": lambda last: (last.parent / "tokenizer_config.json").unlink(),
    "contains no tokenizer.json": lambda last: (last.parent / "tokenizer.json").unlink(),
    "metrics.json in .* holds a list": lambda last: (last.parent / "metrics.json").write_text("[]"),
}


@pytest.mark.slow
@pytest.mark.parametrize("sentence", STATES)
def test_a_damaged_state_is_named_before_the_data_are_read(run_copy, monkeypatch, sentence):
    folder, arguments = run_copy
    unfinish(folder)
    STATES[sentence](folder / "checkpoint-2")
    monkeypatch.setattr("modeling_mini.tasks.base.Task.load", lambda *args, **kwargs: pytest.fail("data were read"))
    explicit = ["--resume_from_checkpoint", str(folder / "checkpoint-2")]
    with pytest.raises(UserError, match=sentence.strip()):
        train([*arguments, *explicit])


@pytest.mark.slow
def test_a_resumed_run_leaves_the_tokenizer_as_it_was(run_copy, monkeypatch):
    folder, arguments = run_copy
    unfinish(folder)
    names = ("tokenizer.json", "tokenizer_config.json")
    before = [(folder / name).read_bytes() for name in names]
    assert main(arguments) == 0
    assert [(folder / name).read_bytes() for name in names] == before
    assert not (folder / LOCK_NAME).exists()


@pytest.mark.slow
def test_the_lock_is_held_during_the_run(run_copy, monkeypatch):
    folder, arguments = run_copy
    unfinish(folder)
    held = []
    monkeypatch.setattr(
        "modeling_mini.training.run.describe", lambda *args: held.append((folder / LOCK_NAME).exists())
    )
    assert main(arguments) == 0
    assert held == [True]
    assert not (folder / LOCK_NAME).exists()


def test_a_run_without_a_checkpoint_and_without_a_report_starts_from_the_beginning(tmp_path, caplog):
    record(tmp_path, data={})
    assert resume_point(parse_arguments(["--output_dir", str(tmp_path), "--resume"])[2]) is None
    assert "starting from the beginning" in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_a_trained_model_is_not_overwritten_by_a_start_from_the_beginning(tmp_path, name):
    record(tmp_path, data={})
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"{name} is a trained model, and there is no checkpoint"):
        resume_point(parse_arguments(["--output_dir", str(tmp_path), "--resume"])[2])


@pytest.mark.slow
def test_a_checkpoint_of_another_folder_is_continued_with_its_tokenizer_and_arguments(run_copy, tmp_path):
    folder, arguments = run_copy
    there = ["--output_dir", str(tmp_path / "new"), "--resume_from_checkpoint", str(folder / "checkpoint-2")]
    with pytest.raises(UserError, match="was started with --learning_rate .*, not 0.5"):
        train([*arguments, *there, "--learning_rate", "0.5"])
    assert main([*arguments, *there]) == 0
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        assert (tmp_path / "new" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_a_continued_run_of_another_folder_is_resumed_in_its_own(run_copy, tmp_path, monkeypatch):
    class StopAtThree(StopOnSignal):
        def on_step_end(self, args, state, control, **kwargs):
            self.signal_number = signal.SIGINT if state.global_step == 3 else None
            super().on_step_end(args, state, control, **kwargs)

    folder, arguments = run_copy
    arguments = [*arguments, "--output_dir", str(tmp_path / "new")]
    monkeypatch.setattr("modeling_mini.training.run.StopOnSignal", StopAtThree)
    with pytest.raises(Interrupted, match="Stopped after update 3") as interruption:
        train([*arguments, "--resume_from_checkpoint", str(folder / "checkpoint-2")])
    monkeypatch.undo()
    train(shlex.split(str(interruption.value).partition("train.py ")[2]))
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_whole_checkpoints_of_fsdp_and_plain_sgd_are_continued(run_copy):
    checkpoint = run_copy[0] / "checkpoint-4"
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    torch.save({**state, "state": {}}, checkpoint / "optimizer.pt")  # SGD without momentum has no state
    require_resumable(checkpoint)
    (checkpoint / "optimizer.pt").rename(checkpoint / "optimizer.bin")
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model_fsdp.bin")
    assert written_by(checkpoint) == FSDP_FULL
    require_resumable(checkpoint)
