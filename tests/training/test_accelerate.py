"""accelerate reads the files of `configuration/accelerate` as their headers describe them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from modeling_mini import MiniForCausalLM
from modeling_mini.errors import UserError
from modeling_mini.presets import configuration_path
from modeling_mini.training.arguments import parse_arguments
from modeling_mini.training.run import main as train
from modeling_mini.training.values import check_together


ROOT = Path(__file__).resolve().parents[2]
LAUNCH_OPTIONS = {
    "cpu": "use_cpu",
    "one-device": None,
    "ddp": "multi_gpu",
    "fsdp2": "use_fsdp",
    "fsdp2-checkpointing": "use_fsdp",
    "fsdp2-offload": "use_fsdp",
    "multi-node": "use_fsdp",
    "zero2": "use_deepspeed",
    "zero3": "use_deepspeed",
}


def test_every_file_is_tested():
    assert {path.stem for path in configuration_path("accelerate").glob("*.yaml")} == set(LAUNCH_OPTIONS)


@pytest.mark.parametrize("name", LAUNCH_OPTIONS)
def test_accelerate_reads_every_key(name):
    path = configuration_path("accelerate", f"{name}.yaml")
    config = yaml.safe_load(path.read_text())
    parser = launch_command_parser()
    args, *_ = _validate_launch_command(parser.parse_args(["--config_file", str(path), "train.py"]))
    chosen = [option for option in ("use_cpu", "multi_gpu", "use_fsdp", "use_deepspeed") if getattr(args, option)]
    assert chosen == [LAUNCH_OPTIONS[name]][: LAUNCH_OPTIONS[name] is not None]
    destinations = {action.dest for action in parser._actions}
    for key, value in {**config.get("fsdp_config", {}), **config.get("deepspeed_config", {})}.items():
        assert key in destinations
        assert getattr(args, key) == value
    for key in config.keys() - {"compute_environment", "distributed_type", "fsdp_config", "deepspeed_config"}:
        assert getattr(args, key) == config[key], key


@pytest.mark.parametrize("name", [name for name, option in LAUNCH_OPTIONS.items() if option == "use_fsdp"])
def test_fsdp_gathers_one_layer_at_a_time(name):
    config = yaml.safe_load(configuration_path("accelerate", f"{name}.yaml").read_text())["fsdp_config"]
    assert [config["fsdp_transformer_layer_cls_to_wrap"]] == MiniForCausalLM._no_split_modules
    assert config["fsdp_version"] == 2


@pytest.mark.parametrize("name", LAUNCH_OPTIONS)
def test_the_header_gives_the_command_that_uses_the_file(name):
    text = configuration_path("accelerate", f"{name}.yaml").read_text()
    command = text[: text.index("compute_environment")].replace("\\\n#", "").rpartition("#   ")[2]
    args = launch_command_parser().parse_args(command.split()[2:])
    assert command.startswith("accelerate launch ")
    assert args.config_file == f"configuration/accelerate/{name}.yaml"
    assert args.training_script == "train.py"


def test_a_script_without_arguments_prints_its_usage():
    script = configuration_path("accelerate", "torchrun.sh")
    result = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "usage: " in result.stderr


def test_missing_deepspeed_gives_an_error_sentence(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    assert train(["--output_dir", str(tmp_path / "run")]) == 1
    assert "Install it, or choose another option." in caplog.messages[-1]


def test_muon_with_deepspeed_or_offloading_is_refused_before_data_is_read(monkeypatch, tmp_path):
    _, data_args, args = parse_arguments(["--optimizer", "muon", "--output_dir", str(tmp_path / "run")])
    check_together(data_args, args)
    args.deepspeed_plugin = object()
    with pytest.raises(UserError, match="train with --optimizer adamw, or shard the model with FSDP2"):
        check_together(data_args, args)
    args.deepspeed_plugin = None
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(UserError, match="keeps the weights in host memory"):
        check_together(data_args, args)


@pytest.fixture
def tiny_run(tmp_path):
    """Arguments of a run of four updates on a CPU, and its folder."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"the text number {i} has words"}) + "\n" for i in range(40)))
    shape = json.dumps({"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2})
    options = {
        "dataset": corpus,
        "output_dir": tmp_path / "run",
        "config_overrides": shape,
        "block_size": 32,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "use_cpu": "true",
        "ddp_backend": "gloo",
    }
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)], tmp_path / "run"


@pytest.fixture
def environment(tmp_path):
    """One thread, no GPU, separate caches, and the commands of this Python environment first in PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    caches = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **caches, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
def test_machines_started_by_torchrun_train_together(tiny_run, environment, free_port):
    arguments, folder = tiny_run
    command = [str(configuration_path("accelerate", "torchrun.sh")), "127.0.0.1", "2", "1", *arguments]
    options = {"env": environment | {"PORT": str(free_port)}, "stderr": subprocess.PIPE, "text": True}
    machines = [subprocess.Popen(command, cwd=ROOT, **options) for _ in range(2)]
    logs = [machine.communicate(timeout=240)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], logs
    assert any("(2 rows x 1 accumulated x 2 devices x 32 tokens)" in log for log in logs)
    assert json.loads((folder / "metrics.json").read_text())["updates"] == 4


@pytest.mark.slow
def test_slurm_starts_a_launcher_on_each_machine(tiny_run, environment, free_port, tmp_path):
    """Scripts replace the commands of SLURM: `srun` runs its command once per machine, with the machine's number."""
    arguments, folder = tiny_run
    slurm_commands = {
        "scontrol": "echo 127.0.0.1; echo 127.0.0.1",
        "srun": 'shift 2; SLURM_NODEID=1 "$@" & SLURM_NODEID=0 "$@"; code=$?; wait $! && exit $code',
    }
    for name, script in slurm_commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    cluster = {
        "SLURM_JOB_NODELIST": "two",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_PER_NODE": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    cluster |= {"PATH": f"{tmp_path}{os.pathsep}{environment['PATH']}", "MAIN_PROCESS_PORT": str(free_port)}
    script = [str(configuration_path("accelerate", "slurm.sh")), *arguments]
    result = subprocess.run(
        script, cwd=ROOT, env=environment | cluster, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "(2 rows x 1 accumulated x 2 devices x 32 tokens)" in result.stderr
    assert json.loads((folder / "metrics.json").read_text())["updates"] == 4
