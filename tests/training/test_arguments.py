"""Recipes and the command line: the one over the other, and a sentence for every slip."""

import dataclasses
import json

import pytest
import torch

from modeling_mini.errors import UserError
from modeling_mini.presets import preset_names
from modeling_mini.tasks.text_generation import TextGeneration
from modeling_mini.training.arguments import ARGUMENT_CLASSES, parse_arguments, recipe_names
from modeling_mini.training.building import load_config


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_command_line_wins_over_recipe_and_recipe_over_defaults(tmp_path):
    recipe = write(tmp_path, "model: small\nlearning_rate: 1.0e-3\nblock_size: 64\n")
    model_args, data_args, training_args = parse_arguments([recipe, "--block_size", "32"])
    assert (model_args.model, training_args.learning_rate, data_args.block_size) == ("small", 1e-3, 32)
    assert training_args.output_dir == "runs/recipe"
    assert data_args.dataset == "python-docs"


def test_values_keep_their_types(tmp_path):
    recipe = write(
        tmp_path,
        "use_muon: false\nlr_scheduler_kwargs: {num_decay_steps: 5}\nlr_scheduler_type: warmup_stable_decay\n"
        "config_overrides: {hidden_size: 64}\nmax_train_documents: null\nreport_to: [none]\n",
    )
    model_args, data_args, training_args = parse_arguments([recipe])
    assert training_args.optimizer == "adamw"
    assert training_args.lr_scheduler_kwargs == {"num_decay_steps": 5}
    assert model_args.overrides() == {"hidden_size": 64}
    assert data_args.max_train_documents is None


def test_without_a_recipe_the_quickstart_runs():
    assert parse_arguments([])[2].output_dir == "runs/quickstart"


@pytest.mark.parametrize("name", recipe_names())
def test_fine_tuning_keeps_the_mask_of_pretraining(name):
    """A model that suddenly sees what follows loses what it has learnt: docs/experiments.md."""
    assert ("is_causal" in parse_arguments([name])[0].overrides()) == (name == "fill-mask")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_leaves_room_for_a_model_to_start_from(name):
    model, _, _ = parse_arguments([name, "--init_from", "runs/any", "--config_overrides", '{"hidden_dropout": 0.3}'])
    assert [name for name in model.overrides() if "size" in name or "num_" in name] == []
    assert model.overrides()["hidden_dropout"] == 0.3


def test_overrides_of_the_command_line_are_laid_over_those_of_the_recipe():
    model, _, _ = parse_arguments(["fill-mask", "--config_overrides", '{"hidden_size": 64, "vocab_size": 500}'])
    assert model.overrides() == {"vocab_size": 500, "is_causal": False, "hidden_size": 64}


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_parses_and_holds_only_what_differs(name):
    import yaml

    from modeling_mini.presets import configuration_path

    model_args, _, _ = parse_arguments([name])
    assert model_args.model in preset_names()
    recipe = yaml.safe_load(configuration_path("recipes", f"{name}.yaml").read_text())
    defaults = {f.name: f.default for c in ARGUMENT_CLASSES for f in dataclasses.fields(c)}
    assert [key for key, value in recipe.items() if value == defaults[key]] == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lerning_rate: 1\n", r"no argument lerning_rate; did you mean learning_rate\?"),
        ("- a\n- b\n", "must hold lines of `argument: value`"),
        ("a: [1\n", "is not YAML"),
    ],
)
def test_bad_recipe_is_refused_with_a_sentence(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_arguments([write(tmp_path, text)])


def test_missing_recipe_names_those_that_exist():
    with pytest.raises(UserError, match=r"nothing\.yaml is neither .* quickstart"):
        parse_arguments(["nothing.yaml"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lerning_rate", "1"], r"no argument --lerning_rate; did you mean learning_rate\?"),
        (["--learning_rat", "1"], r"no argument --learning_rat; did you mean learning_rate\?"),  # no abbreviations
        (["--learning_rate", "abc"], "argument --learning_rate/--learning-rate: invalid float value: 'abc'"),
        (["--zzz", "1"], "no argument --zzz; --help lists all arguments"),
        (["--load_best_model_at_end", "--eval_strategy", "no"], "requires the save and eval strategy to match"),
    ],
)
def test_bad_command_line_is_refused_with_a_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_arguments(arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "smal"], "'smal' is neither a preset nor an existing path; the nearest preset is 'small'"),
        (["--model", "bert-base"], "is_causal=False"),
        (["--config_overrides", "{hidden"], "is not JSON"),
        (["--config_overrides", "[1]"], "must be a JSON object"),
        (["--config_overrides", '{"hidden_size": 65}'], "`hidden_size` is 65"),
        (["--config_overrides", '{"hidden_size": "big"}'], "'hidden_size' expected int"),
        (["--config_overrides", '{"hiden_size": 64}'], "no field 'hiden_size'; the nearest is 'hidden_size'"),
    ],
)
def test_bad_model_is_refused_with_a_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        load(arguments)


def load(arguments):
    model_args, data_args, _ = parse_arguments(arguments)
    return load_config(model_args, TextGeneration(data_args))


def test_overrides_reach_the_config():
    config = load(["--config_overrides", json.dumps({"d_model": 64, "hidden_dropout": 0.1})])
    assert (config.hidden_size, config.hidden_dropout) == (64, 0.1)


def test_memory_is_pinned_only_for_an_accelerator():
    assert parse_arguments([])[2].dataloader_pin_memory == torch.accelerator.is_available()


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("deepspeed", [False, True])
def test_processes_of_a_machine_without_accelerator_find_each_other(monkeypatch, deepspeed, processes):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("transformers.TrainingArguments.__post_init__", lambda self: None)  # looks for the others
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", str(deepspeed).lower())
    args = parse_arguments([])[2]
    assert args.use_cpu != deepspeed
    assert args.ddp_backend == (None if processes == 1 else "gloo")
