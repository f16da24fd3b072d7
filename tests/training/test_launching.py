"""train.py under `accelerate launch` with the shipped files: two processes on a CPU train the same model as one.

FSDP2 runs through `fsdp2_on_cpu.py`; DeepSpeed must be installed (`make deepspeed`). `fsdp2-offload.yaml` needs a GPU.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TRAIN, lose_the_end
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from modeling_mini.checkpoints import checkpoint_defect, latest_complete_checkpoint
from modeling_mini.presets import configuration_path


pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[1]
SHAPE = json.dumps({"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2})
CLASSIFIER = ["--task", "text-classification"]
# Ten updates are less than an epoch.
TWO_PROCESSES = ["--config_overrides", SHAPE, "--per_device_train_batch_size", "2"]
ONE_PROCESS = ["--use_cpu", "true", "--per_device_train_batch_size", "4"]  # the same rows per update
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="see `make deepspeed`")


@pytest.fixture
def launch(tmp_path, free_port):
    """`launch(file, arguments)`: run train.py in `processes` processes, and return the finished launcher."""

    def run(name, arguments, *more, processes=2, precision="no", hub=None):
        command = [sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", configuration_path("accelerate", f"{name}.yaml"), *more]
        command += ["--num_processes", processes, "--mixed_precision", precision, "--main_process_port", free_port]
        if name.startswith("fsdp2"):
            command += [TESTS / "fsdp2_on_cpu.py"]
            device = {"ACCELERATE_USE_CPU": "true"}
            arguments = [*arguments, "--use_cpu", "true"]
        else:
            device = {"DS_ACCELERATOR": "cpu"}
        environment = {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if hub is not None:
            environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_alice"}
            environment["HF_HUB_DISABLE_XET"] = "1"
        result = subprocess.run(
            [str(part) for part in [*command, TRAIN, *arguments, "--ddp_backend", "gloo"]],
            env=os.environ | environment | device,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert result.returncode == 0, result.stderr.partition("ChildFailedError")[0][-9000:]
        return result

    return run


def continues_from(update, log):
    return re.search(rf"Continuing from .*checkpoint-{update}$", log, re.MULTILINE)


def chunks_per_weight(checkpoint):
    """For each weight of a sharded checkpoint, the number of chunks."""
    metadata = FileSystemReader(checkpoint / "pytorch_model_fsdp_0").read_metadata().state_dict_metadata
    return {name: len(tensor.chunks) for name, tensor in metadata.items()}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        pytest.param("fsdp2", ["--optimizer", "muon"], marks=pytest.mark.versions),
        pytest.param("fsdp2-checkpointing", ["--optimizer", "adamw"], marks=pytest.mark.heavy),
        ("fsdp2", [*CLASSIFIER, "--optimizer", "adamw"]),
        pytest.param("fsdp2-checkpointing", [*CLASSIFIER, "--optimizer", "muon"], marks=pytest.mark.heavy),
    ],
    ids=["muon", "adamw", "classifier adamw", "classifier muon"],
)
def test_fsdp2_trains_the_weights_of_one_process(arguments, run, launch, same_weights, tmp_path, name, more):
    arguments = [*arguments, *TWO_PROCESSES, "--save_steps", "10", *more]
    one, two = tmp_path / "one", tmp_path / "two"
    code, output = run([*arguments, *ONE_PROCESS, "--output_dir", str(one)])
    assert code == 0, output
    launch(name, [*arguments, "--output_dir", two])
    same_weights(two, one)
    chunks = chunks_per_weight(two / "checkpoint-10")
    assert chunks["model.model.layers.0.self_attn.q_proj.weight"] == 2, f"was not sharded: {chunks}"


def test_fsdp2_in_bf16_trains_nearly_the_weights_of_one_process(arguments, run, launch, same_weights, tmp_path):
    arguments = [*arguments, *TWO_PROCESSES]
    one, two, float32 = (tmp_path / name for name in ("one", "two", "float32"))
    assert run([*arguments, *ONE_PROCESS, "--output_dir", str(one)])[0] == 0
    launch("fsdp2", [*arguments, "--output_dir", two], precision="bf16")
    same_weights(two, one, rtol=0.02, atol=0.01)
    launch("fsdp2", [*arguments, "--output_dir", float32])
    assert (two / "model.safetensors").read_bytes() != (float32 / "model.safetensors").read_bytes(), "was not bf16"


def test_fsdp2_resumes_bit_identically_from_shards(arguments, launch, tmp_path):
    """With dropout. If a finished run has no report, all processes write it together, without another update."""
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    launch("fsdp2", [*arguments, "--output_dir", uninterrupted])
    shutil.copytree(uninterrupted, resumed)
    lose_the_end(resumed, 10)
    result = launch("fsdp2", [*arguments, "--output_dir", resumed, "--resume"])
    assert continues_from(8, result.stderr)
    assert (uninterrupted / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()

    metrics = json.loads((resumed / "metrics.json").read_text())
    (resumed / "metrics.json").unlink()
    (resumed / "model.safetensors").unlink()
    launch("fsdp2", [*arguments, "--output_dir", resumed, "--resume"])
    assert (uninterrupted / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    assert json.loads((resumed / "metrics.json").read_text())["validation_loss"] == metrics["validation_loss"]


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.heavy)])
def test_fsdp2_resumes_with_another_number_of_processes(arguments, run, launch, same_weights, tmp_path, before, after):
    """The rows of an update stay the same, and so do the weights, except for rounding."""
    arguments = [*arguments, *TWO_PROCESSES]
    one, changed = tmp_path / "one", tmp_path / "changed"
    assert run([*arguments, *ONE_PROCESS, "--output_dir", str(one)])[0] == 0
    for processes, more in ((before, []), (after, ["--resume"])):
        rows = ["--per_device_train_batch_size", 4 // processes]
        result = launch("fsdp2", [*arguments, *rows, "--output_dir", changed, *more], processes=processes)
        same_weights(changed, one)
        lose_the_end(changed, 10)
    assert continues_from(8, result.stderr)


@pytest.mark.parametrize("name", ["fsdp2", pytest.param("zero3", marks=needs_deepspeed)], ids=["fsdp2", "deepspeed"])
def test_a_sharded_run_pushes_its_whole_model(arguments, launch, hub, tmp_path, name):
    sharing = ["--optimizer", "adamw", "--push_to_hub", "--hub_model_id", "alice/mini"]
    result = launch(name, [*arguments, *sharing], hub=hub)
    assert "equal bit for bit" in result.stdout + result.stderr
    assert ("only the last commit of this run will hold the weights" in result.stderr) == (name == "fsdp2")
    pushed = hub.repository("alice/mini").find("main").files["model.safetensors"].data
    assert pushed == (tmp_path / "run" / "model.safetensors").read_bytes()


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_trains_the_weights_of_one_process_and_resumes(
    arguments, run, launch, same_weights, tmp_path, stage
):
    """From given weights, because ZeRO-3 initialises layer by layer and so gets other random numbers."""
    start, one, two, resumed = (tmp_path / name for name in ("start", "one", "two", "resumed"))
    arguments = [*arguments, *TWO_PROCESSES, "--optimizer", "adamw"]
    arguments += CLASSIFIER if stage == 2 else []
    assert run([*arguments, *ONE_PROCESS, "--max_steps", "1", "--output_dir", str(start)])[0] == 0
    arguments = [*arguments, "--init_from", str(start), "--config_overrides", "{}"]
    assert run([*arguments, *ONE_PROCESS, "--output_dir", str(one)])[0] == 0
    name = "zero3" if stage == 3 else "zero2"
    launch(name, [*arguments, "--output_dir", two], "--zero_stage", stage)
    same_weights(two, one)

    parts = two / "checkpoint-10" / "global_step10"
    assert len(list(parts.glob("*optim_states.pt"))) == 2, "each process holds a shard of the optimizer"
    assert len(list(parts.glob("*model_states.pt"))) == (2 if stage == 3 else 1)
    for path in parts.iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        assert "truncated" in checkpoint_defect(two / "checkpoint-10")
        path.unlink()
        assert "missing" in checkpoint_defect(two / "checkpoint-10")
        path.write_bytes(content)
    assert latest_complete_checkpoint(two) == two / "checkpoint-10"

    expected = load_file(one / "model.safetensors")
    num_parameters = sum(weights.numel() for weights in expected.values())
    assert json.loads((two / "metrics.json").read_text())["parameters"] == num_parameters

    shutil.copytree(two, resumed)
    lose_the_end(resumed, 10)
    result = launch(name, [*arguments, "--output_dir", resumed, "--resume"], "--zero_stage", stage)
    assert continues_from(8, result.stderr)
    assert (two / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()


@needs_deepspeed
def test_deepspeed_initialises_weights_with_the_scales_of_the_model(arguments, launch, tmp_path):
    launch("zero3", [*arguments, "--optimizer", "adamw", "--max_steps", "1", "--learning_rate", "0"])
    weights = load_file(tmp_path / "run" / "model.safetensors")
    expected_stds = {"embed_tokens": 32**-0.5, "layers.0.mlp.up_proj": 0.02, "layers.0.mlp.down_proj": 0.01}
    for name, std in expected_stds.items():
        torch.testing.assert_close(weights[f"model.{name}.weight"].std(), torch.tensor(std), rtol=0.1, atol=0)
