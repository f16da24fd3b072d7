"""train.py as a user runs it: its output, resuming, error sentences and the push to the Hub."""

import json
import math
import random
import re
import shlex
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import TRAIN, lose_the_end
from datasets import Dataset
from huggingface_hub import HfApi
from made_data import build
from packaging.version import Version
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, EvalPrediction, TrainerControl

from modeling_mini import MiniForCausalLM
from modeling_mini.errors import UserError
from modeling_mini.presets import count_parameters
from modeling_mini.tasks.batches import next_token_nll
from modeling_mini.training.arguments import ModelArguments, parse_arguments
from modeling_mini.training.building import load_finished
from modeling_mini.training.callbacks import RowLoss, StopOnNaN, StopOnSignal
from modeling_mini.training.run import length_of_training, main


ROOT = Path(__file__).resolve().parents[2]


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.versions
def test_a_run_writes_a_loadable_model_and_a_complete_report(arguments, run, tmp_path):
    code, output = run(arguments)
    assert code == 0, output
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert metrics["parameters"] == model.num_parameters()
    assert metrics["context"] == model.config.max_position_embeddings == tokenizer.model_max_length == 32
    assert metrics["loss_by_position"][-1]["positions"] == [24, 31]
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["validation_loss"]))
    assert metrics["tokens_per_second"] > 0
    assert metrics["sample"].startswith("the model")
    assert [point["update"] for point in metrics["history"] if "validation_loss" in point] == [5, 10]

    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert "library_name: transformers" in card
    assert f"{metrics['bits_per_byte']:.4f}" in card
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {"modeling_mini.py", "configuration_mini.py"} <= {path.name for path in folder.iterdir()}
    assert "Tokens per update: 128 (4 rows x 1 accumulated x 1 devices x 32 tokens)" in output
    assert re.search(r"Length: 10 updates read the training data 0\.\d times; --num_train_epochs N reads all", output)
    assert f"modeling-mini generate {folder}" in output


@pytest.mark.slow
def test_the_end_of_the_context_is_learned_as_well_as_its_start(arguments, run, tmp_path, corpus):
    overrides = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
    text = "\n".join(json.loads(line)["text"] for line in corpus.read_text().splitlines())
    (tmp_path / "long.txt").write_text(text)
    options = ["--dataset", tmp_path / "long.txt", "--config_overrides", json.dumps(overrides)]
    options += ["--max_steps", "150", "--learning_rate", "1e-2", "--eval_strategy", "no", "--save_strategy", "no"]
    assert run([*arguments, *options])[0] == 0
    folder = tmp_path / "run"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    context = model.config.max_position_embeddings  # what a tool that reads the config takes as the longest input
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    rows = ids[: len(ids) // context * context].view(-1, context)
    with torch.no_grad():
        logits = model(rows).logits[:, :-1].flatten(0, 1)
    nats = torch.nn.functional.cross_entropy(logits, rows[:, 1:].flatten(), reduction="none").view(len(rows), -1)
    first, last = nats[:, : context // 4].mean(), nats[:, -(context // 4) :].mean()
    assert last <= 1.1 * first  # 1.08; with rows of 32 and a context of 128, 1.3


@pytest.mark.slow
def test_reported_bits_per_byte_match_the_validation_text(arguments, run, tmp_path, corpus):
    assert run([*arguments, "--validation_fraction", "0.1"])[0] == 0
    folder = tmp_path / "run"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    from datasets import Dataset

    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    held_out = Dataset.from_dict({"text": texts}).train_test_split(test_size=0.1, seed=0)["test"]["text"]
    bits = num_bytes = 0
    for text in held_out:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        for start in range(0, len(ids) - 1, 31):  # rows of 32 that share a token
            # The run splits a document only at the end of a row, so this sum over more pieces is an upper bound.
            row = torch.tensor([ids[start : start + 32]])
            bits += model(row, labels=row).loss.item() * (row.shape[1] - 1) / math.log(2)
        num_bytes += len(text.encode())
    reported = json.loads((folder / "metrics.json").read_text())["bits_per_byte"]
    assert reported == pytest.approx(bits / num_bytes, rel=0.02)


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize(
    "options",
    [
        ["--optimizer", "muon"],
        ["--optimizer", "muon", "--task", "fill-mask"],  # which draws random tokens in each pass
        pytest.param(["--optimizer", "adamw"], marks=pytest.mark.heavy),
    ],
)
def test_a_run_that_is_killed_and_resumed_is_bit_identical_to_an_uninterrupted_run(arguments, run, tmp_path, options):
    arguments = [*arguments, *options, "--max_steps", "80"]
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    assert run([*arguments, "--output_dir", str(uninterrupted)])[0] == 0
    process = run.start([*arguments, "--output_dir", str(killed)])
    wait_for(lambda: (killed / "checkpoint-4" / "trainer_state.json").exists())
    time.sleep(random.random())  # during an update, an evaluation or a checkpoint
    assert process.poll() is None, "the run ended too early to be killed"
    process.kill()
    process.communicate()
    code, output = run([*arguments, "--output_dir", str(killed), "--resume"])
    assert code == 0, output
    assert re.search(r"Continuing from .*checkpoint-\d+\n", output)
    assert (uninterrupted / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_finished_run_is_not_trained_further_and_a_missing_report_is_written(arguments, run, tmp_path):
    assert run(arguments)[0] == 0
    folder = tmp_path / "run"
    code, output = run([*arguments, "--resume"])
    assert code == 1
    assert "is finished (10 of 10 updates)" in output
    before, weights = json.loads((folder / "metrics.json").read_text()), (folder / "model.safetensors").read_bytes()
    for name in ("metrics.json", "model.safetensors"):  # as after a kill between the last checkpoint and the report
        (folder / name).unlink()
    code, output = run([*arguments, "--resume"])
    assert code == 0, output
    after = json.loads((folder / "metrics.json").read_text())
    assert (folder / "model.safetensors").read_bytes() == weights
    for name in ("validation_loss", "bits_per_byte", "updates", "history", "sample"):
        assert after[name] == before[name], name


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_writes_a_checkpoint_and_logs_how_to_continue(arguments, run, tmp_path, number, code):
    arguments = [*arguments, "--max_steps", "100000", "--save_steps", "100000", "--eval_strategy", "no"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = run.start(arguments, stdout=file)
    wait_for(lambda: ": loss " in log.read_text())  # an earlier signal ends the process without a checkpoint
    process.send_signal(number)
    process.wait(timeout=60)
    output = log.read_text()
    assert process.returncode == code, output
    [checkpoint] = (tmp_path / "run").glob("checkpoint-*")
    assert f"Stopped after update {checkpoint.name.rpartition('-')[2]}, with a checkpoint" in output
    assert "Traceback" not in output
    command = shlex.split(re.search(r"Continue with: (.*)", output)[1])
    assert command[:2] == ["python", str(TRAIN)]
    assert parse_arguments(command[2:])[2].resume


@pytest.mark.slow
def test_resuming_with_other_data_or_another_model_is_refused(arguments, run, tmp_path):
    assert run([*arguments, "--max_steps", "4"])[0] == 0
    code, output = run([*arguments, "--resume", "--block_size", "16"])
    assert code == 1
    assert "started with --block_size 32, not 16" in output


@pytest.mark.slow
def test_a_full_disk_gives_an_error_sentence_and_keeps_written_checkpoints(arguments, run, tmp_path):
    """A limit on the size of a file simulates a full disk: the same writes fail."""
    import resource

    assert run([*arguments, "--max_steps", "4"])[0] == 0
    before = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    size = 50_000  # bytes: less than the weights
    code, output = run(
        [*arguments, "--resume"], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    )
    assert code == 1, output
    assert "Error: the disk is full" in output
    assert "Traceback" not in output
    after = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_streamed_run_trains(arguments, run, tmp_path):
    code, output = run([*arguments, "--streaming", "--max_validation_documents", "5"])
    assert code == 0, output
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["updates"] == 10


@pytest.mark.slow
def test_two_processes_train_and_resume(arguments, tmp_path, two_processes):
    """Two processes with gloo simulate two devices; `accelerate launch` and torchrun start the same script."""
    command = [ROOT / "train.py", *arguments, "--use_cpu", "true", "--ddp_backend", "gloo"]
    stages = [["--max_steps", "4"], ["--resume"]]
    if Version(transformers.__version__) < Version("5.23"):
        # 5.17 restores optimizer states of several CPU processes to "cpu:0", which is not a device of torch.
        stages = [["--max_steps", "10"]]
    for extra in stages:
        result = two_processes(*command, *extra)
        assert result.returncode == 0, result.stderr[-3000:]
    assert "Tokens per update: 256 (4 rows x 1 accumulated x 2 devices x 32 tokens)" in result.stderr
    assert ("Continuing from" in result.stderr) == ("--resume" in stages[-1])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["updates"] == 10


SLOW_PROCESS = """
import os, sys, time
from modeling_mini.training import resuming, run
write = resuming.check_writable
resuming.check_writable = lambda *folder: (write(*folder), time.sleep(5 * int(os.environ["RANK"])))
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_that_is_late_does_not_find_files_of_others_in_the_folder(arguments, tmp_path, two_processes):
    """The first process writes into the folder only when each has checked it."""
    (tmp_path / "rank.py").write_text(SLOW_PROCESS)
    options = ["--use_cpu", "true", "--ddp_backend", "gloo", "--max_steps", "1"]
    result = two_processes(tmp_path / "rank.py", *arguments, *options)
    assert result.returncode == 0, result.stderr[-9000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["--optimizer", "muon"],
        pytest.param(["--optimizer", "adamw"], marks=pytest.mark.heavy),
        ["--streaming", "true", "--max_validation_documents", "5"],
        # Less than an epoch.
        pytest.param(
            ["--task", "text-classification", "--optimizer", "muon", "--max_steps", "7"], marks=pytest.mark.heavy
        ),
    ],
    ids=["muon", "adamw", "streaming", "classifier"],
)
def test_two_processes_train_the_same_weights_as_one_on_the_same_rows(
    arguments, run, same_weights, tmp_path, two_processes, more
):
    """DDP: two batches of four rows are the eight rows of one process, without repeated or missing rows."""
    shape = json.dumps({"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2})
    arguments = [*arguments, "--config_overrides", shape, "--save_strategy", "no", *more]
    one, two = tmp_path / "one", tmp_path / "two"
    code, output = run([*arguments, "--per_device_train_batch_size", "8", "--output_dir", str(one)])
    assert code == 0, output
    result = two_processes(
        ROOT / "train.py", *arguments, "--use_cpu", "true", "--ddp_backend", "gloo", "--output_dir", two
    )
    assert result.returncode == 0, result.stderr[-3000:]
    same_weights(one, two)


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_with_one(arguments, run, same_weights, tmp_path, two_processes):
    shape = json.dumps({"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2})
    arguments = [*arguments, "--config_overrides", shape, "--use_cpu", "true"]
    one, changed = tmp_path / "one", tmp_path / "changed"
    one_process = [*arguments, "--per_device_train_batch_size", "8"]
    assert run([*one_process, "--output_dir", str(one)])[0] == 0
    result = two_processes(ROOT / "train.py", *arguments, "--ddp_backend", "gloo", "--output_dir", changed)
    assert result.returncode == 0, result.stderr[-3000:]
    lose_the_end(changed, 10)
    code, output = run([*arguments, "--output_dir", str(changed), "--resume"])
    assert code == 1
    assert "records 8 rows per update for this run, but it would read 4" in output
    code, output = run([*one_process, "--output_dir", str(changed), "--resume"])
    assert code == 0, output
    assert re.search(r"Continuing from .*checkpoint-8\n", output)
    same_weights(changed, one)


def test_unknown_validation_tokens_are_reported(arguments, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    overrides = {"vocab_size": 12, "hidden_size": 32, "num_hidden_layers": 1}
    short = ["--max_steps", "1", "--eval_strategy", "no", "--config_overrides", json.dumps(overrides)]
    assert main([*arguments, *short, "--tokenizer_kind", "char"]) == 0
    assert any("are unknown to the tokenizer" in message for message in caplog.messages)


def test_a_folder_of_trained_weights_is_refused_as_a_shape(arguments, tiny_model, tmp_path, caplog):
    tiny_model(MiniForCausalLM).save_pretrained(tmp_path / "trained")
    assert main([*arguments, "--model", str(tmp_path / "trained")]) == 1
    assert "holds trained weights" in caplog.messages[-1]
    assert main([*arguments, "--model", str(tmp_path / "absent")]) == 1
    assert "is neither a preset nor an existing path" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--dataset", "absent.txt"], "no such file or folder"),
        (["--output_dir", "/dev/null/run"], "cannot be written"),
        (["--block_size", "100000"], "fewer than one row of --block_size 100000"),
        (["--streaming", "--max_steps", "-1"], "set the length of the training with --max_steps"),
        (["--tokenizer", "absent"], "The tokenizer of absent could not be loaded"),
        (["--learning_rate", "1e30"], r"The \w+ is (nan|inf) at update"),
        (["--prompt", "the model " * 400], "the model reads at most 32; shorten it"),
        (["--dataloader_drop_last"], "leave it out"),
        (["--remove_unused_columns"], "from which positions and labels are made; leave it out"),
        (
            ["--resume_from_checkpoint", "absent"],
            "absent: the folder does not exist; give the folder of a checkpoint",
        ),
    ],
)
def test_a_mistake_ends_with_one_sentence(arguments, extra, sentence, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert main([*arguments, *extra]) == 1
    assert re.search(f"^Error: .*{sentence}", caplog.messages[-1])


def test_a_loss_of_nan_or_inf_stops_training():
    for loss in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="lower --learning_rate"):
            StopOnNaN().on_log(None, type("State", (), {"global_step": 3}), None, logs={"loss": loss})
    with pytest.raises(UserError, match="The eval_token_loss is nan"):
        StopOnNaN().on_log(None, type("State", (), {"global_step": 3}), None, logs={"eval_token_loss": float("nan")})
    StopOnNaN().on_log(None, None, None, logs={"loss": 1.0, "grad_norm": 2.0})


@pytest.mark.parametrize(("backend", "used"), [(None, "sdpa"), ("eager", "eager")])
def test_a_finished_run_is_evaluated_with_its_attention_backend(checkpoint, backend, used):
    task, folder = build("text-generation", dataset="unused"), checkpoint()
    model = load_finished(task, str(folder), ModelArguments(attn_implementation=backend))
    assert model.config._attn_implementation == used
    with pytest.raises(UserError, match="^--attn_implementation nonsense: "):
        load_finished(task, str(folder), ModelArguments(attn_implementation="nonsense"))


def test_the_log_says_how_often_the_data_are_read():
    assert length_of_training(2000, 13_455, 32) == "Length: 2,000 updates read the training data 4.8 times."
    assert length_of_training(2000, 69_614, 32) == (
        "Length: 2,000 updates read the training data 0.9 times; --num_train_epochs N reads all of it N times instead."
    )
    assert "read the training data 0.013 times;" in length_of_training(4, 9_600, 32)
    assert length_of_training(800, 64, 16) == (
        "Length: 800 updates read the training data 200.0 times, which is much; --num_train_epochs 5 reads it 5 "
        "times, and takes less time."
    )


@pytest.mark.parametrize("name", ["text-generation", "fill-mask", "translation"])
def test_the_report_reads_batches_of_the_evaluation(name, tokenizer, monkeypatch):
    sizes = []

    def record(self, model, tokenizer, examples, batch_size):
        sizes.append(batch_size)
        raise NotImplementedError

    task = build(name, dataset="unused", block_size=16)
    monkeypatch.setattr(type(task), "predict" if name == "translation" else "loss_by_position", record)
    monkeypatch.setattr("modeling_mini.tasks.text_generation.continue_text", lambda *args, **options: "")
    examples = Dataset.from_dict({column: ["one two three four five six seven"] * 9 for column in task.columns})
    model = SimpleNamespace(device="cpu", eval=lambda: lambda **batch: SimpleNamespace(logits=torch.ones(1, 16, 9)))
    with pytest.raises(NotImplementedError):
        task.report(model, tokenizer, examples, "the", 5)
    assert sizes == [5]


@pytest.mark.slow
def test_weights_are_saved_before_an_evaluation_in_half_precision(arguments, datasets_cache, tmp_path):
    assert main([*arguments, "--bf16_full_eval", "true", "--disable_tqdm", "true"]) == 0
    folder = tmp_path / "run"
    assert (folder / "model.safetensors").read_bytes() == (folder / "checkpoint-10/model.safetensors").read_bytes()


def test_a_full_disk_is_refused_before_the_data_are_read(arguments, monkeypatch, caplog):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr("modeling_mini.tasks.base.Task.load", lambda *args, **kwargs: pytest.fail("data were read"))
    monkeypatch.setattr("modeling_mini.training.run.prepare_repository", lambda args: pytest.fail("wrote to the Hub"))
    assert main([*arguments, "--push_to_hub", "true"]) == 1
    assert "checkpoints of this model need" in caplog.messages[-1]


@pytest.mark.parametrize("tied", [True, False])
def test_the_size_without_a_vocabulary_is_a_lower_bound(tiny_config, tied):
    config = tiny_config(tie_word_embeddings=tied)
    assert 0 < count_parameters(config, 1) < count_parameters(config, 50) < count_parameters(config)
    config.vocab_size = 50
    assert count_parameters(config) == count_parameters(tiny_config(tie_word_embeddings=tied), 50)


def test_metrics_are_averaged_over_tokens_and_not_over_batches():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 6, 9), torch.randint(9, (3, 6))
    labels[0, 2:] = -100
    rows = next_token_nll(logits, labels)
    targets = labels[:, 1:]
    whole = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 9), targets.reshape(-1))
    assert rows[:, 1].tolist() == [1, 5, 5]
    metrics = RowLoss(num_bytes=20)(EvalPrediction(predictions=rows.numpy(), label_ids=None))
    assert metrics["token_loss"] == pytest.approx(whole.item(), rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(whole.item()), rel=1e-5)
    assert metrics["bits_per_byte"] == pytest.approx(whole.item() * 11 / math.log(2) / 20, rel=1e-6)


@pytest.mark.slow
@pytest.mark.versions
def test_a_run_pushes_its_output_and_verifies_it(arguments, run, hub, tmp_path):
    sharing = ["--push_to_hub", "--hub_model_id", "alice/mini", "--hub_strategy", "every_save"]
    code, output = run([*arguments, *sharing, "--hub_private_repo", "true", "--hub_always_push"], hub=hub)
    assert code == 0, output
    assert output.count("equal bit for bit") == 2
    repository = hub.repository("alice/mini")
    assert repository.private
    files = repository.find("main").files
    card = files["README.md"].data.decode()
    results = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"{results['bits_per_byte']:.4f}" in card
    assert 'from_pretrained("alice/mini", trust_remote_code=True)' in card
    assert {"loss.png", "metrics.json", "tokenizer.json", "modeling_mini.py", "configuration_mini.py"} < set(files)
    commits = repository.history()[1:-1]
    assert commits, "nothing was pushed during training"
    assert all({"config.json", "modeling_mini.py", "configuration_mini.py"} < set(commit.files) for commit in commits)
    assert not [path for commit in repository.history() for path in commit.files if path.endswith("run.json")]


@pytest.mark.parametrize(
    ("repo_id", "token", "sentence"),
    [
        ("bob/mini", "hf_alice", "The token belongs to alice, who cannot write to bob/mini"),
        ("alice/mini", "hf_nobody_knows", "the token is not valid"),
        ("alice/mini", "", "You are not logged in to the Hub"),
        ("../mini", "hf_alice", "is not a valid repository name"),
        ("alice/public", "hf_alice", "alice/public exists and is public, but a private repository was requested"),
    ],
)
def test_a_run_that_could_not_be_pushed_does_not_start(
    arguments, hub, tmp_path, monkeypatch, caplog, repo_id, token, sentence
):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    HfApi(token="hf_alice").create_repo("alice/public")
    login = ["--hub_token", token] if token else []
    private = ["--hub_private_repo", "true"]
    assert main([*arguments, "--push_to_hub", "--hub_model_id", repo_id, *private, *login]) == 1
    assert sentence in caplog.text
    assert "Training text" not in caplog.text
    assert not token or token not in caplog.text
    assert list(hub.repositories) == [("models", "alice/public")]


@pytest.mark.parametrize(
    "login",
    [["--hub_token", "hf_secret"], ["--hub_token=hf_secret"], ["--hub-token", "hf_secret"], ["--hub-token=hf_secret"]],
    ids=" ".join,
)
def test_the_logged_command_that_continues_a_run_has_no_token(login):
    stop = StopOnSignal()
    stop.signal_number = signal.SIGINT
    with pytest.raises(Exception, match="Continue with") as interruption:
        stop.raise_if_stopped(3, ["python", "train.py", *login, "--max_steps", "7"])
    assert "hf_secret" not in str(interruption.value)
    assert re.search("--hub[_-]token[ =]TOKEN --max_steps 7 --resume", str(interruption.value))


@pytest.mark.parametrize("event", ["on_step_end", "on_evaluate"])
def test_a_signal_asks_for_a_checkpoint_at_the_next_event(event):
    stop, control = StopOnSignal(), TrainerControl()
    getattr(stop, event)(None, None, control)
    assert not control.should_save
    stop.signal_number = signal.SIGINT
    getattr(stop, event)(None, None, control)
    assert control.should_save
    assert control.should_training_stop


@pytest.mark.parametrize(
    "old", [["--resume_from_checkpoint", "other/checkpoint-2"], ["--resume-from-checkpoint=other/checkpoint-2"]]
)
def test_the_logged_command_continues_from_the_latest_checkpoint(old):
    stop = StopOnSignal()
    stop.signal_number = signal.SIGINT
    with pytest.raises(Exception, match="Continue with: python train.py --max_steps 7 --resume$"):
        stop.raise_if_stopped(3, ["python", "train.py", *old, "--max_steps", "7"])


def test_the_token_of_a_misspelt_option_is_not_logged(arguments, caplog):
    assert main([*arguments, "--hub_tokn=hf_secret"]) == 1
    assert "There is no argument --hub_tokn; did you mean hub_token?" in caplog.text
    assert "hf_secret" not in caplog.text
