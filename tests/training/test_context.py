"""The context that a run advertises is the context that it trains."""

import json

import pytest
import torch
from datasets import Dataset
from made_data import build

from modeling_mini import MiniForCausalLM
from modeling_mini.errors import UserError
from modeling_mini.presets import preset_names
from modeling_mini.training.arguments import parse_arguments, recipe_names
from modeling_mini.training.building import load_config, set_context
from modeling_mini.training.run import task_class


def context_of(argv):
    model_args, data_args, training_args = parse_arguments([*argv, "--output_dir", "unused"])
    config = load_config(model_args, task_class(data_args.task)(data_args), training_args)
    set_context(config, model_args, data_args.block_size)
    return config.max_position_embeddings


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_new_model_of_a_recipe_reads_as_many_tokens_as_its_rows(recipe):
    _, data_args, _ = parse_arguments([recipe])
    assert context_of([recipe]) == data_args.block_size


@pytest.mark.parametrize("preset", sorted({"nano", "small", "seed"} & {*preset_names()}))
@pytest.mark.parametrize("block_size", [16, 2000])
def test_rows_set_the_context_of_a_preset_in_both_directions(preset, block_size):
    assert context_of(["--model", preset, "--block_size", str(block_size)]) == block_size


@pytest.mark.parametrize(("rows", "expected"), [(32, 64), (64, 64), (128, 128)])
def test_rows_raise_the_context_of_a_base_and_never_lower_it(tiny_model, tokenizer, tmp_path, rows, expected):
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer), max_position_embeddings=64)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert context_of(["--init_from", str(tmp_path), "--block_size", str(rows)]) == expected


@pytest.mark.parametrize("context", [64, 1024])
def test_a_context_that_the_rows_do_not_train_is_refused(context):
    overrides = json.dumps({"max_position_embeddings": context})
    with pytest.raises(UserError, match=f"max_position_embeddings is {context}.*128 positions.*--block_size"):
        context_of(["--config_overrides", overrides])
    assert context_of(["--config_overrides", overrides, "--block_size", str(context)]) == context


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize("name", ["text-generation", "fill-mask"])
def test_the_loss_by_position_adds_up_to_the_loss(name, tokenizer, tiny_model):
    task = build(name, dataset="unused", block_size=16)
    model = tiny_model(task.model_class, vocab_size=len(tokenizer), is_causal=task.model_class is MiniForCausalLM)
    texts = Dataset.from_dict({"text": ["one two three four five six seven eight nine ten " * 20, "two three"]})
    nats, targets = map(sum, zip(*task.losses(model, tokenizer, texts), strict=True))
    quarters = task.loss_by_position(model, tokenizer, texts)["loss_by_position"]
    assert [quarter["positions"] for quarter in quarters] == [[0, 3], [4, 7], [8, 11], [12, 15]]
    assert sum(quarter["targets"] for quarter in quarters) == targets
    assert sum(quarter["loss"] * quarter["targets"] for quarter in quarters) == pytest.approx(nats, rel=1e-4)


@pytest.mark.usefixtures("datasets_cache")
def test_a_quarter_without_targets_has_no_loss(tokenizer, tiny_model):
    task = build("text-generation", dataset="unused", block_size=32)
    texts = Dataset.from_dict({"text": ["one two", "three four"]})
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
    quarters = task.loss_by_position(model, tokenizer, texts)["loss_by_position"]
    assert quarters[0]["loss"] > 0
    assert quarters[-1] == {"positions": [24, 31], "loss": None, "targets": 0}
    assert torch.isfinite(torch.tensor(quarters[0]["loss"]))
