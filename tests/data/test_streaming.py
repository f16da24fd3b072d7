"""A stream read by two processes: each row once, in the same order as with one process, also repeated and resumed."""

import json
import shutil
import time
from pathlib import Path

import pytest
import transformers
from conftest import TRAIN, lose_the_end
from datasets import load_dataset
from packaging.version import Version

from modeling_mini.data.packing import UnpackRows, pack
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tokenization import train_tokenizer


pytestmark = pytest.mark.slow

DOCUMENTS, TOKENS = 47, 32  # digits of each document, between bos and eos
BATCH, BATCHES = 3, 20  # per process; 120 rows are more than two passes
CPU = ["--use_cpu", "true", "--ddp_backend", "gloo"]

READING = """
import json
import os
import sys
from itertools import islice

from transformers import Trainer, TrainingArguments

from modeling_mini import MiniConfig, MiniForCausalLM

sys.path[:0] = FOLDERS
from test_streaming import BATCH, BATCHES, rows_of

folder, resumed_at = sys.argv[1], int(sys.argv[2])
config = MiniConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1)
args = TrainingArguments(
    output_dir=f"{folder}/run", use_cpu=True, ddp_backend="gloo", per_device_train_batch_size=BATCH, max_steps=BATCHES
)
trainer = Trainer(model=MiniForCausalLM(config), args=args, train_dataset=rows_of(folder))
loader = trainer.get_train_dataloader()
if resumed_at:
    loader = trainer.accelerator.skip_first_batches(loader, resumed_at)
rows = [row for batch in islice(loader, BATCHES - resumed_at) for row in batch["input_ids"].tolist()]
with open(f"{folder}/{os.environ['RANK']}.json", "w") as file:
    json.dump(rows, file)
"""


def rows_of(folder, shuffle_buffer=20):
    """A stream of three files, one of which holds nearly all documents."""
    documents = load_dataset("json", data_files=f"{folder}/*.jsonl", split="train", streaming=True)
    tokenizer = train_tokenizer(["0123456789"], "char", 20, model_max_length=32)
    args = TaskArguments(block_size=32, shuffle_buffer=shuffle_buffer, streaming=True)
    return pack(documents, tokenizer, args, "training").rows


def ids(rows):
    return [tuple(map(int, row["input_ids"])) for row in rows]


@pytest.fixture
def uneven_files(tmp_path):
    for name, numbers in (("a", range(1)), ("b", range(1, 45)), ("c", range(45, 47))):
        lines = [json.dumps({"text": f"{number * 7919:06d}" * 5}) + "\n" for number in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.mark.parametrize("resumed_at", [0, 11])
def test_two_processes_read_each_row_of_a_stream_once(uneven_files, two_processes, resumed_at):
    script = uneven_files / "rank.py"
    folders = [str(Path(__file__).parent), str(TRAIN.parent / "tests")]  # of this file, and of conftest.py
    script.write_text(READING.replace("FOLDERS", repr(folders)))
    result = two_processes(script, uneven_files, resumed_at)
    assert result.returncode == 0, result.stderr[-3000:]
    halves = [json.loads((uneven_files / f"{rank}.json").read_text()) for rank in (0, 1)]
    read = []
    for start in range(0, len(halves[0]), BATCH):
        read += halves[0][start : start + BATCH] + halves[1][start : start + BATCH]
    expected = ids(rows_of(uneven_files).take(2 * BATCH * BATCHES))
    assert [tuple(row) for row in read] == expected[2 * BATCH * resumed_at :]


def test_a_stream_is_repeated_with_each_document_once_per_pass(uneven_files):
    stream = list(rows_of(uneven_files).take(3 * BATCH * BATCHES))
    rows = ids(stream)
    length = rows.index(rows[0], 1)
    assert len(set(rows[:length])) == length < BATCH * BATCHES
    assert rows[length : 2 * length] == rows[:length]
    targets = (UnpackRows()(stream[:length])["labels"][:, 1:] != -100).sum()
    assert targets == DOCUMENTS * (TOKENS - 1), "each token except the first of its document is a target once"
    assert rows[:length] != ids(rows_of(uneven_files, shuffle_buffer=1).take(length)), "the rows are not shuffled"


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="restores several CPU processes to 'cpu:0'"
)
def test_a_streamed_run_resumed_in_its_second_pass_gives_the_same_bits(arguments, two_processes, tmp_path):
    options = ["--streaming", "--max_validation_documents", "5", "--max_steps", "40", "--save_steps", "15", *CPU]
    options += ["--load_best_model_at_end", "false"]  # no other checkpoints than those of --save_steps
    uninterrupted, resumed = tmp_path / "run", tmp_path / "resumed"
    result = two_processes(TRAIN, *arguments, *options)
    assert result.returncode == 0, result.stderr[-3000:]
    shutil.copytree(uninterrupted, resumed)
    lose_the_end(resumed, 40)
    result = two_processes(TRAIN, *arguments, *options, "--output_dir", resumed, "--resume")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "checkpoint-30" in result.stderr
    assert (uninterrupted / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()


FAILING = """
import os
import sys

from modeling_mini.training import run


class FailInOne(run.StopOnNaN):
    def on_step_end(self, args, state, control, **kwargs):
        if os.environ["RANK"] == "1" and state.global_step == 3:
            raise RuntimeError("the second device is broken")


run.StopOnNaN = FailInOne
sys.exit(run.main())
"""


def test_a_process_that_fails_ends_the_run_with_its_error(arguments, two_processes, tmp_path):
    (tmp_path / "rank.py").write_text(FAILING)
    start = time.monotonic()
    result = two_processes(tmp_path / "rank.py", *arguments, *CPU)
    assert result.returncode != 0
    assert "the second device is broken" in result.stderr
    assert time.monotonic() - start < 120, "the other process did not stop"
