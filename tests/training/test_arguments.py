"""Recipes and the command line: which value counts, and an error sentence for every mistake."""

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
        "streaming: true\nlr_scheduler_kwargs: {num_decay_steps: 5}\nlr_scheduler_type: warmup_stable_decay\n"
        "config_overrides: {hidden_size: 64}\nmax_train_documents: null\nreport_to: [none]\n",
    )
    model_args, data_args, training_args = parse_arguments([recipe])
    assert data_args.streaming is True
    assert training_args.lr_scheduler_kwargs == {"num_decay_steps": 5}
    assert model_args.overrides() == {"hidden_size": 64}
    assert data_args.max_train_documents is None


def test_without_a_recipe_the_quickstart_runs():
    assert parse_arguments([])[2].output_dir == "runs/quickstart"


@pytest.mark.parametrize("name", recipe_names())
def test_fine_tuning_keeps_the_mask_of_pretraining(name):
    """A causal model that is fine-tuned without its mask forgets what it has learned: docs/experiments.md."""
    assert ("is_causal" in parse_arguments([name])[0].overrides()) == (name == "fill-mask")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_does_not_change_the_sizes_of_a_model_to_fine_tune(name):
    model, _, _ = parse_arguments([name, "--init_from", "runs/any", "--config_overrides", '{"hidden_dropout": 0.3}'])
    assert [name for name in model.overrides() if "size" in name or "num_" in name] == []
    assert model.overrides()["hidden_dropout"] == 0.3


def test_config_overrides_of_command_line_and_recipe_are_merged():
    model, _, _ = parse_arguments(["fill-mask", "--config_overrides", '{"hidden_size": 64, "vocab_size": 500}'])
    assert model.overrides() == {"vocab_size": 500, "is_causal": False, "hidden_size": 64}


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_parses_and_holds_no_defaults(name):
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


def test_the_error_for_a_missing_recipe_names_the_existing_ones():
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
    ("arguments", "optimizer"),
    [
        (["--optimizer", "muon"], "muon"),
        (["--optimizer", "adamw"], "adamw"),
        (["--use_muon", "true"], "muon"),
        (["--use_muon"], "muon"),
        (["--use_muon", "--max_steps", "3"], "muon"),
        (["--use-muon", "true"], "muon"),
        (["--use_muon", "false"], "adamw"),
        (["--use-muon", "false"], "adamw"),
        (["--use_muon", "true", "--optimizer", "adamw"], "adamw"),
        (["--optimizer", "adamw", "--use_muon", "true"], "muon"),
        (["--use_muon", "false", "--optimizer", "muon"], "muon"),
        (["--optimizer", "muon", "--use_muon", "false"], "adamw"),
    ],
)
@pytest.mark.parametrize("recipe", ["optimizer: muon", "optimizer: adamw", "use_muon: true", "use_muon: false"])
def test_the_last_optimizer_or_use_muon_on_the_command_line_counts(tmp_path, recipe, arguments, optimizer):
    assert parse_arguments([write(tmp_path, recipe), *arguments])[2].optimizer == optimizer


@pytest.mark.parametrize(
    ("recipe", "optimizer"),
    [
        ("optimizer: muon", "muon"),
        ("use_muon: true", "muon"),
        ("use_muon: false", "adamw"),
        ("optimizer: muon\nuse_muon: false", "adamw"),
    ],
)
def test_a_recipe_may_name_the_optimizer_in_the_older_form(tmp_path, recipe, optimizer):
    assert parse_arguments([write(tmp_path, recipe)])[2].optimizer == optimizer


@pytest.mark.parametrize(
    "arguments", [["--max-steps", "3", "--block-size", "64"], ["--max-steps=3", "--block-size=64"]], ids=" ".join
)
def test_an_option_may_have_dashes_for_underscores(arguments):
    _, data_args, training_args = parse_arguments(arguments)
    assert (training_args.max_steps, data_args.block_size) == (3, 64)


def test_an_unknown_optimizer_is_refused_with_the_choices(tmp_path):
    sentence = "argument --optimizer: invalid choice: 'sgd' .choose from '?adamw'?, '?muon'?"
    with pytest.raises(UserError, match=sentence):
        parse_arguments(["--optimizer", "sgd"])
    with pytest.raises(UserError, match=sentence):
        parse_arguments([write(tmp_path, "optimizer: sgd\n")])
    with pytest.raises(UserError, match="argument --use_muon/--use-muon: .*sgd"):
        parse_arguments(["--use_muon", "sgd"])


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
    model_args, data_args, training_args = parse_arguments(arguments)
    return load_config(model_args, TextGeneration(data_args), training_args)


def test_overrides_reach_the_config():
    config = load(["--config_overrides", json.dumps({"d_model": 64, "hidden_dropout": 0.1})])
    assert (config.hidden_size, config.hidden_dropout) == (64, 0.1)


def test_memory_is_pinned_only_for_an_accelerator():
    assert parse_arguments([])[2].dataloader_pin_memory == torch.accelerator.is_available()


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("deepspeed", [False, True])
def test_processes_without_an_accelerator_communicate_through_gloo(monkeypatch, deepspeed, processes):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("transformers.TrainingArguments.__post_init__", lambda self: None)  # connects the processes
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", str(deepspeed).lower())
    args = parse_arguments([])[2]
    assert args.use_cpu != deepspeed
    assert args.ddp_backend == (None if processes == 1 else "gloo")
