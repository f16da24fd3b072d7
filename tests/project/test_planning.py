"""The planned operations, activations and peak memory equal those of a real run."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_mini import MiniConfig, MiniForCausalLM
from modeling_mini.cli import main
from modeling_mini.errors import UserError
from modeling_mini.planning import Run, choose, parse_memory, strategies
from modeling_mini.presets import count_parameters, preset_path


def make_run(config, length, gpus=1, memory=80e9, element=4):
    return Run(config, count_parameters(config), gpus, memory, length, element)


def preset_run(name, **options):
    config = MiniConfig.from_pretrained(preset_path(name))
    return make_run(config, options.pop("length", config.max_position_embeddings), **options)


@pytest.fixture
def kept_bytes():
    """`kept_bytes(model, ids, bf16)`: bytes kept by the trunk for its backward pass, without weights and casts.

    Each row holds two documents.
    """

    def measure(model, ids, bf16):
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        shapes = {tuple(shape) for p in model.parameters() for shape in (p.shape, p.shape[::-1])}
        kept = {}

        def keep(tensor):
            if tensor.untyped_storage().data_ptr() not in weights and tuple(tensor.shape) not in shapes:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        positions = torch.arange(ids.shape[1] // 2).repeat(ids.shape[0], 2)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            model.model(ids, position_ids=positions, use_cache=False)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    return measure


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("options", [{}, {"norm_first": False}, {"hidden_act": "relu"}], ids=str)
def test_planned_activations_equal_what_the_forward_pass_keeps(
    tiny_config, random_ids, kept_bytes, options, bf16, recomputed
):
    batch, length, measured = 2, 20, {}
    for layers in (1, 2):
        config = tiny_config(num_hidden_layers=layers, **options)
        model = MiniForCausalLM(config).train()
        if recomputed:
            model.gradient_checkpointing_enable()
        measured[layers] = kept_bytes(model, random_ids(batch, length), bf16)
    planned = {}
    for layers in (1, 2):
        run = make_run(tiny_config(num_hidden_layers=layers, **options), length, element=2 if bf16 else 4)
        strategy = strategies(run)[1 if recomputed else 0]
        planned[layers] = batch * run.row_activations(strategy)
    assert measured[2] - measured[1] == planned[2] - planned[1]


def test_memory_of_a_device_equals_a_calculation_by_hand(tiny_config):
    """16 bytes per parameter; under DDP also the buckets, under FSDP2 a shard and the gathered layers."""
    run = make_run(tiny_config(), 24, gpus=4, element=2)
    n, layer, table = run.parameters, run.layer_parameters, 97 * 32
    assert n == 2 * layer + table + 2 * 32
    by_file = {strategy.file: strategy for strategy in strategies(run) if not strategy.arguments}
    assert by_file["ddp.yaml"].state == 16 * n + 4 * n + 2 * (2 * layer + table)
    assert by_file["fsdp2.yaml"].state == 4 * n + 2 * (4 * layer + 2 * table)
    assert by_file["fsdp2-offload.yaml"].state == 2 * (4 * layer + 2 * table)
    assert by_file["zero2.yaml"].state == 2 * n + 18 * n / 4 + 2 * 2 * n
    alone = strategies(make_run(tiny_config(), 24))[0]
    assert (alone.file, alone.state) == ("one-device.yaml", 16 * n)


def test_planned_operations_equal_those_that_torch_counts(tiny_config, random_ids):
    config = tiny_config()
    config._attn_implementation = "eager"
    model, ids = MiniForCausalLM(config), random_ids(2, 24)
    with FlopCounterMode(display=False) as counter:
        model(ids, labels=ids, use_cache=False, skip_logits=False).loss.backward()
    run = make_run(config, 24)
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)  # biases and norms are not in matrix products
    # Every input needs a gradient, also that of the first layer, so the backward pass costs two forward passes.
    assert counter.get_total_flops() == ids.numel() * (run.flops_per_token() - 6 * vectors)


@pytest.mark.parametrize("name", ["nano", "base", "gpt3-13b", "seed"])
def test_layers_embedding_norm_and_head_hold_all_parameters(name):
    run = preset_run(name)
    norm = 2 * run.config.hidden_size if run.config.norm_first else 0
    head = run.config.vocab_size * run.config.lm_head_bias + (0 if run.config.tie_word_embeddings else run.table)
    assert run.layer_parameters * run.config.num_hidden_layers + run.table + norm + head == run.parameters


def test_operations_and_days_of_gpt3_equal_the_published_ones():
    """Brown et al. 2020, table D.1: 3.14e23 operations, without attention. Narayanan et al. 2021, section 5.1: 34 days
    on 1,024 A100 at 140 TFLOP/s each, where a fourth of the operations is recomputation."""
    run = preset_run("gpt3-175b")
    total = run.flops_per_token() * 300e9
    assert total == pytest.approx(3.14e23, rel=0.04)
    days = total / (1024 * 140e12 * 3 / 4) / 86_400
    assert days == pytest.approx(34, rel=0.05)


def test_a_model_too_large_for_a_device_is_sharded_and_one_that_does_not_fit_is_reported(capsys):
    small, large = preset_run("base", gpus=8, element=2), preset_run("gpt3-175b", gpus=1024, memory=72e9, element=2)
    assert choose(strategies(small), small).file == "ddp.yaml"
    chosen = choose(strategies(large), large)
    assert chosen.file == "fsdp2-checkpointing.yaml"
    assert chosen.peak(large, chosen.rows(large)) <= large.memory < chosen.peak(large, chosen.rows(large) + 1)
    assert main(["plan", "gpt3-175b"]) == 0
    assert "Nothing fits" in capsys.readouterr().out


def test_command_prints_the_plan(capsys):
    arguments = "plan gpt3-175b --gpus 1024 --memory 80GB --tokens 300e9 --tflops 312 --mfu 0.3365 --batch_tokens 50e6"
    assert main(arguments.split()) == 0
    output = capsys.readouterr().out
    assert "accelerate/fsdp2-checkpointing.yaml --num_processes 1024 --num_machines 128 --machine_rank RANK" in output
    rows, batches = re.search(
        r"--per_device_train_batch_size (\d+) --gradient_accumulation_steps (\d+)", output
    ).groups()
    assert int(rows) * int(batches) == 24
    assert "sync_each_batch" in output  # otherwise each device keeps whole gradients between the batches
    assert "An update reads 50,331,648 tokens (requested: 50,000,000" in output
    assert "35 days" in output


def test_float32_is_planned_with_its_own_speed(capsys):
    assert main(["plan", "base", "--precision", "no"]) == 0
    output = capsys.readouterr().out
    assert "67 TFLOP/s" in output
    assert "--mixed_precision no" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Name a preset"),
        ("nanoo", "the nearest preset is 'nano'"),
        ("nano --gpus 0", "--gpus is 0"),
        ("nano --gpus 12", "not divisible by --gpus_per_node 8"),
        ("nano --memory much", "write it like 80GB or 24GiB"),
        ("nano --mfu 40", "--mfu is 40"),
        ("nano --reserve 1", "--reserve is 1"),
        ("nano --tokens nan", "--tokens is nan"),
        ("nano --batch_tokens inf", "--batch_tokens is inf"),
        ("nano --precision fp8", "fp8"),
    ],
)
def test_wrong_arguments_are_refused(capsys, arguments, message):
    assert main(["plan", *arguments.split()]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "modeling_mini", "hidden_size": 7}, "config.json: "),
        ({"model_type": "llama"}, "contains a llama model"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(tmp_path, capsys, config, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert main(["plan", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_memory_is_read_with_its_unit():
    assert parse_memory("80GB") == 80e9
    assert parse_memory("24 GiB") == 24 * 2**30
    with pytest.raises(UserError, match="--memory"):
        parse_memory("0GB")


PEAK = """
import re, sys, torch
from pathlib import Path
from transformers import set_seed
from modeling_mini import MiniConfig, MiniForCausalLM
from modeling_mini.presets import preset_path

torch.set_num_threads(1)
name, rows, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = MiniConfig.from_pretrained(preset_path(name), hidden_dropout=0.0, attention_dropout=0.0)

def peak():  # of this process only: ru_maxrss includes that of the parent process
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

# The memory of the libraries, including that of their first matrix product.
tiny = MiniForCausalLM(MiniConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
ids = torch.randint(5, 64, (2, 16))
tiny(ids, labels=ids, skip_logits=True).loss.backward()
torch.optim.AdamW(tiny.parameters(), fused=True).step()
before = peak()
model = MiniForCausalLM(config).train()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
for _ in range(2):
    for _ in range(2):  # batches of an update
        ids = torch.randint(5, config.vocab_size, (rows, length))
        model(ids, labels=ids, skip_logits=True).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is in /proc")
@pytest.mark.parametrize(
    ("name", "rows", "length"),
    [
        ("seed", 4, 512),
        pytest.param("small", 8, 512, marks=pytest.mark.heavy),
        pytest.param("base", 1, 512, marks=pytest.mark.heavy),
    ],
)
def test_peak_of_a_process_is_within_15_percent(tmp_path, name, rows, length):
    (tmp_path / "peak.py").write_text(PEAK)
    command = [sys.executable, tmp_path / "peak.py", name, rows, length]
    # Return freed memory at once: glibc would keep much of it, whereas the allocator of a GPU reuses it.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    run = preset_run(name, length=length)
    run.config.hidden_dropout = 0.0
    assert strategies(run)[0].peak(run, rows) == pytest.approx(float(result.stdout), rel=0.15)
