"""The context that a run advertises is the context that it trains."""

import json

import pytest
import torch
from datasets import Dataset
from made_data import build

from modeling_mini import MiniForCausalLM
from modeling_mini.data.packing import EncodedData
from modeling_mini.errors import UserError
from modeling_mini.presets import preset_names
from modeling_mini.training.arguments import parse_arguments, recipe_names
from modeling_mini.training.building import load_config, longest_document, set_context, warn_about_short_documents
from modeling_mini.training.run import prepare_data, task_class


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


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize("name", ["text-generation", "fill-mask"])
@pytest.mark.parametrize("words", [[3, 9, 2], [3, 22, 2], [1], [400], [2, 40, 2]], ids=str)
def test_documents_that_end_long_before_the_context_are_pointed_out(name, words, tokenizer, caplog):
    task = build(name, dataset="unused", block_size=32)
    texts = Dataset.from_dict({"text": [" ".join(["7"] * count) for count in words] * 30})
    data = task.encode(texts, tokenizer, "validation")
    longest = min(32, max(len(tokenizer(text)["input_ids"]) + 1 for text in texts["text"]))  # with the end
    assert longest_document(data.rows, 32, enough=32) == longest
    warn_about_short_documents(data)
    is_short = longest < 24
    sentence = f"The longest training document has {longest} tokens, but the context of the model is 32"
    assert (sentence in caplog.text) == is_short
    assert ("--block_size" in caplog.text) == is_short


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize("base", [False, True])
def test_a_new_model_is_warned_of_once(base, tokenizer, tiny_model, tmp_path, caplog):
    (tmp_path / "data.txt").write_text("the next word\n" * 90)
    argv = ["--dataset", str(tmp_path / "data.txt"), "--text_unit", "line", "--block_size", "64"]
    tiny_model(MiniForCausalLM, vocab_size=len(tokenizer), max_position_embeddings=64).save_pretrained(
        tmp_path / "base"
    )
    tokenizer.save_pretrained(tmp_path / "base")
    argv += ["--init_from", str(tmp_path / "base")] if base else ["--tokenizer", str(tmp_path / "base")]
    model_args, data_args, training_args = parse_arguments([*argv, "--output_dir", str(tmp_path / "run")])
    task = task_class(data_args.task)(data_args)
    config = load_config(model_args, task, training_args)
    set_context(config, model_args, data_args.block_size)
    prepare_data(task, config, model_args, training_args)
    assert caplog.text.count("are never trained") == (0 if base else 1)


def test_examples_in_packed_rows_are_not_documents(caplog):
    rows = Dataset.from_dict({"input_ids": [[1] * 8], "starts": [[0]], "padding": [4], "prompt_lengths": [[1]]})
    for columns in (rows, rows.remove_columns(["starts", "prompt_lengths"]), rows.select([])):
        warn_about_short_documents(EncodedData(columns, 8))
    warn_about_short_documents(EncodedData(rows.to_iterable_dataset(), 8))
    assert not caplog.text
    warn_about_short_documents(EncodedData(rows.remove_columns(["prompt_lengths"]), 8))
    assert "The longest training document has 4 tokens" in caplog.text
