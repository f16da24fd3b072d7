"""Recipes and the command line: which value counts, and an error sentence for every mistake."""

import dataclasses
import json

import pytest
import torch
from made_data import jsonl

from modeling_mini.errors import UserError
from modeling_mini.inference.evaluate import evaluate
from modeling_mini.presets import preset_names
from modeling_mini.tasks import TASKS, task_class
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tasks.text_generation import TextGeneration
from modeling_mini.training import building
from modeling_mini.training.arguments import ARGUMENT_CLASSES, parse_arguments
from modeling_mini.training.building import load_config
from modeling_mini.training.recipes import recipe_names
from modeling_mini.training.values import check_together


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


@pytest.mark.parametrize(
    ("recipe", "options", "expected"),
    [
        ("max_steps: 9", ["--num_train_epochs", "2"], {"max_steps": -1, "num_train_epochs": 2}),
        ("max_steps: 9", ["--num-train-epochs=2"], {"max_steps": -1, "num_train_epochs": 2}),
        ("max_steps: 9", ["--num_train_epochs", "2", "--max_steps", "5"], {"max_steps": 5}),
        ("num_train_epochs: 2", ["--max_steps", "5"], {"max_steps": 5}),
        ('save_strategy: "no"', ["--save_steps", "7"], {"save_strategy": "steps", "save_steps": 7}),
        ("eval_strategy: epoch", ["--eval_steps", "7"], {"eval_strategy": "steps", "eval_steps": 7}),
        ("logging_strategy: epoch", ["--logging_steps", "7"], {"logging_strategy": "steps", "logging_steps": 7}),
        ("logging_steps: 9", ["--eval_steps", "7"], {"eval_strategy": "steps", "eval_steps": 7}),
        ("save_steps: 9", ["--save_strategy", "epoch"], {"save_strategy": "epoch"}),
        ("init_from: old", ["--model", "nano"], {"init_from": None, "model": "nano"}),
        ("train_file: old.txt", ["--dataset", "user/data"], {"train_file": None, "dataset": "user/data"}),
        ("tokenizer: old", ["--tokenizer_kind", "char"], {"tokenizer": None, "tokenizer_kind": "char"}),
    ],
    ids=str,
)
def test_an_option_wins_over_the_argument_of_the_recipe_that_would_rule_it_out(
    tmp_path, recipe, options, expected, caplog
):
    arguments = parse_arguments([write(tmp_path, recipe), *options])
    values = {name: value for group in arguments for name, value in vars(group).items()}
    assert {name: values[name] for name in expected} == expected
    if "--max_steps" not in options:
        assert "has no effect" not in caplog.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--num_train_epochs 2 --max_steps 5", "--num_train_epochs has no effect: --max_steps 5 sets the length"),
        ("--eval_strategy epoch --eval_steps 5", "--eval_steps has no effect: --eval_strategy is epoch"),
        ("--save_strategy no --save_steps 5", "--save_steps has no effect: --save_strategy is no"),
        ("--model nano --init_from old", "--model has no effect: --init_from sets the shape"),
        ("--tokenizer_kind char --tokenizer old", "--tokenizer_kind has no effect: no tokenizer is trained"),
    ],
)
def test_two_options_of_which_one_has_no_effect_give_a_warning(options, sentence, caplog):
    parse_arguments(options.split())
    assert sentence in caplog.text


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
    assert "is_causal" not in parse_arguments([name, "--init_from", "runs/any"])[0].overrides()


def test_a_recipe_for_fine_tuning_names_the_one_for_new_weights(caplog):
    parse_arguments(["text-classification"])
    assert "use the recipe text-classification-scratch." in caplog.text
    caplog.clear()
    parse_arguments(["text-classification", "--init_from", "runs/any"])
    parse_arguments(["text-classification-scratch"])
    assert not caplog.text


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_does_not_change_the_sizes_of_a_model_to_fine_tune(name):
    model, _, _ = parse_arguments([name, "--init_from", "runs/any", "--config_overrides", '{"hidden_dropout": 0.3}'])
    assert [name for name in model.overrides() if "size" in name or "num_" in name] == []
    assert model.overrides()["hidden_dropout"] == 0.3


def test_config_overrides_of_command_line_and_recipe_are_merged():
    name = "text-classification-scratch"
    recipe = parse_arguments([name])[0].overrides()
    model, _, _ = parse_arguments([name, "--config_overrides", '{"hidden_size": 64, "vocab_size": 500}'])
    assert model.overrides() == recipe | {"hidden_size": 64, "vocab_size": 500}


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
        (["--optimizer", "moun"], r"invalid choice: 'moun'.*; did you mean muon\?"),
        (["--save_strategy", "epochs"], r"; did you mean epoch\?"),
        (["--zzz", "1"], "no argument --zzz; --help lists all arguments"),
        (["--fp16", "true", "--bf16", "true"], "At most one of fp16 and bf16"),
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


@pytest.mark.parametrize(
    ("optimizer", "warning"), [("muon", "so only the matrices of Muon change;"), ("adamw", "so no weight changes;")]
)
def test_a_rate_of_zero_is_pointed_out(tmp_path, caplog, optimizer, warning):
    for rate in ("0", "0.1"):
        arguments = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--learning_rate", rate]
        check_together(*parse_arguments([*arguments, "--optimizer", optimizer])[1:])
    [record] = caplog.records
    assert warning in record.message


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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--max_source_tokens 3", "--max_source_tokens has no effect: text-generation does not use it. Leave it out."),
        ("--task translation --unanswerable false", "--unanswerable has no effect: translation does not use it."),
        ("--task translation --no_unanswerable", "--unanswerable has no effect: translation does not use it."),
        ("--dataset a/b --text_unit line", "--text_unit has no effect: only plain text files"),
        ("--task text-classification --mask_probability 0.9", "--mask_probability has no effect: text-class"),
        ("--shuffle_buffer 3", "--shuffle_buffer has no effect: only a stream"),
        ("--dataset FILE --text_unit line", "--text_unit has no effect: only plain text files"),
        ("--train_file FILE --text_unit line", "--text_unit has no effect: only plain text files"),
        ("--text_unit line", "--text_unit has no effect: only plain text files"),
        ("--dataset FILE --dataset_config fr", "--dataset_config has no effect: files have no configurations."),
    ],
)
def test_an_option_that_the_task_or_the_data_do_not_use_gives_a_warning(tmp_path, options, sentence, caplog):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    parse_arguments(options.replace("FILE", path).split())
    assert sentence in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        "--task translation --max_source_tokens 3 --max_target_tokens 3",
        "--task question-answering --max_target_tokens 3 --stride 3 --no_unanswerable",
        "--task generative-question-answering --max_source_tokens 3 --unanswerable false",
        "--task fill-mask --mask_probability 0.2",
        "--dataset a/b --streaming --max_steps 2 --shuffle_buffer 3 --dataset_config fr",
        "--dataset FOLDER --text_unit line",
        "--task translation --dataset message-catalogues --dataset_config fr",
    ],
)
def test_options_that_are_used_give_no_warning(tmp_path, options, caplog):
    parse_arguments(options.replace("FOLDER", str(tmp_path)).split())
    assert "has no effect" not in caplog.text


# Values, before any data are read


def checked(arguments):
    _, data_args, training_args = parse_arguments(["--optimizer", "adamw", *arguments])
    check_together(data_args, training_args)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size is 0; give a number of at least 1"),
        (["--per_device_eval_batch_size", "-1"], "--per_device_eval_batch_size is -1"),
        (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps is 0"),
        (["--gradient_accumulation_steps", "-1"], "--gradient_accumulation_steps is -1"),
        (["--eval_accumulation_steps", "0"], "--eval_accumulation_steps is 0; .* or leave it out"),
        (["--learning_rate", "nan"], "--learning_rate is nan; give a finite number of at least 0"),
        (["--validation_fraction", "nan"], "--validation_fraction is nan; give a share between 0 and 1"),
        (["--validation_fraction", "inf"], "--validation_fraction is inf; give a share between 0 and 1"),
        (["--validation_fraction", "abc"], "invalid float value: 'abc'"),
        (["--config_overrides", '{"hidden_size": NaN}'], "not JSON .NaN is not a JSON value"),
        (["--config_overrides", '{"hidden_size": 1e999}'], "not JSON .the number 1e999 is too large"),
        (["--config_overrides", '{"hidden_size": ' + "9" * 5000 + "}"], "not JSON .a number has 5,000 digits"),
        (["--learning_rate", "inf"], "--learning_rate is inf; give a finite number"),
        (["--muon_learning_rate", "-1"], "--muon_learning_rate is -1"),
        (["--muon_momentum", "5"], "--muon_momentum is 5.0; give a number of at least 0 and below 1"),
        (["--seed", "-1"], "--seed is -1; give a number of at least 0 and at most 4294967295"),
        (["--seed", "99999999999999999999"], "--seed is 99999999999999999999"),
        (["--data_seed", "4294967296"], "--data_seed is 4294967296; .*, or leave it out"),
        (["--split_seed", "-1"], "--split_seed is -1"),
        (["--adam_beta1", "2"], "--adam_beta1 is 2.0; give a number of at least 0 and below 1"),
        (["--adam_beta2", "1"], "--adam_beta2 is 1.0"),
        (["--adam_epsilon", "0"], "--adam_epsilon is 0.0; give a finite number above 0"),
        (["--weight_decay", "nan"], "--weight_decay is nan"),
        (["--max_grad_norm", "-1"], "--max_grad_norm is -1.0"),
        (["--label_smoothing_factor", "5"], "--label_smoothing_factor is 5.0"),
        (["--neftune_noise_alpha", "nan"], "--neftune_noise_alpha is nan"),
        (["--warmup_steps", "nan"], "--warmup_steps is nan"),
        (["--dataloader_num_workers", "-1"], "--dataloader_num_workers is -1"),
        (["--save_steps", "-2"], "--save_steps is -2.0"),
        (["--eval_steps", "0"], "--eval_steps is 0.0"),
        (["--logging_steps", "nan"], "--logging_steps is nan"),
        (["--save_total_limit", "0"], "--save_total_limit is 0"),
        (["--shuffle_buffer", "0"], "--shuffle_buffer is 0"),
        (["--length_column_name", "words"], "--length_column_name names a column that the rows do not have"),
        (["--max_steps", "0"], "--max_steps is 0 and .*: there is no update"),
        (["--max_steps", "-1", "--num_train_epochs", "0"], "--num_train_epochs is 0.0: there is no update"),
        (["--max_steps", "-7"], "--max_steps is -7"),
        (["--block_size", "99999999999"], "--block_size is 99999999999: one row needs at least .* GB"),
        (["--output_dir", ""], "--output_dir is empty"),
        (["--output_dir", " "], "--output_dir is empty"),
        (["--dataset", ""], "--dataset is empty"),
        (["--prediction_loss_only", "true"], "--prediction_loss_only would take away what the report measures"),
        (["--batch_eval_metrics", "true"], "--batch_eval_metrics would take away"),
        (["--eval_do_concat_batches", "false"], "--eval_do_concat_batches would take away"),
        (["--label_names", "words"], "--label_names would take away"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "--lr_scheduler_kwargs: One of min_lr or min_lr_rate"),
        (["--lr_scheduler_type", "warmup_stable_decay"], "--lr_scheduler_kwargs: .*missing.*'num_decay_steps'"),
        (["--lr_scheduler_kwargs", '{"x": 1}'], "--lr_scheduler_kwargs: .* unexpected keyword argument 'x'"),
        (["--lr_scheduler_kwargs", '{"x"'], "--lr_scheduler_kwargs is not JSON"),
        (["--lr_scheduler_kwargs", "x"], "--lr_scheduler_kwargs is 'x'; give a JSON object"),
        (
            ["--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", '{"power": "a"}'],
            "kwargs: unsup",
        ),
        (["--optim", "adamw_8bit"], "--optim adamw_8bit: .*bitsandbytes"),
        (["--optim", "galore_adamw"], "--optim galore_adamw: .*galore_torch"),
        (["--optim", "lomo"], "--optim lomo: .*lomo"),
        (["--optim_args", "lr=5"], "--optim_args has no effect with --optim adamw_torch"),
        (["--optimizer", "muon", "--optim", "sgd"], "have no effect with --optimizer muon"),
        (["--report_to", "nosuch"], "--report_to: nosuch is not supported, only"),
        (["--report_to", "dvclive"], "--report_to dvclive: the package for it is not installed"),
        (["--accelerator_config", "nosuch.json"], "--accelerator_config nosuch.json: there is no such file"),
        (["--accelerator_config", '{"nosuch": 1}'], "unexpected keyword argument 'nosuch'"),
        (["--fsdp_config", "nosuch.json"], "--fsdp_config nosuch.json: there is no such file"),
        (["--fsdp", "full_shard"], "--fsdp shards a model over several processes"),
        (["--deepspeed", "[1]"], r"--deepspeed \[1\]: there is no such file"),
        (["--gradient_checkpointing_kwargs", '{"x": 1}'], "--gradient_checkpointing_kwargs: .*'x'"),
        (["--torch_compile_backend", "nosuch"], "--torch_compile_backend nosuch: there is no such choice"),
        (["--torch_compile_mode", "nosuch"], "--torch_compile_mode: Unrecognized mode=nosuch"),
        (["--use_liger_kernel", "true"], "--use_liger_kernel: the package is not installed"),
        (["--dataloader_persistent_workers", "true"], "needs --dataloader_num_workers of at least 1"),
        (
            ["--task", "question-answering", "--label_smoothing_factor", "0.1"],
            "--label_smoothing_factor has no effect on question-answering, whose loss the Trainer does not smooth",
        ),
        (["--save_strategy", "best"], "--save_strategy best needs --metric_for_best_model"),
        (["--debug", "underflow_overflow"], "--debug underflow_overflow cannot read"),
        (["--config_overrides", "[" * 100_000], "--config_overrides is not JSON"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_value_that_cannot_work_is_refused_with_its_option(arguments, sentence):
    with pytest.raises(UserError, match=sentence) as refusal:
        checked(arguments)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("choice", ["adafactor", "adagrad", "rmsprop", "sgd", "adamw_torch", "adamw_torch_fused"])
def test_optimizers_that_torch_has_are_accepted(choice):
    checked(["--optim", choice])


@pytest.mark.parametrize(
    ("choice", "settings"),
    [
        ("linear", "{}"),
        ("cosine", '{"num_cycles": 0.5}'),
        ("cosine_with_min_lr", '{"min_lr_rate": 0.1}'),
        ("inverse_sqrt", "{}"),
        ("polynomial", '{"power": 2.0, "lr_end": 1e-9}'),
        ("warmup_stable_decay", '{"num_decay_steps": 50}'),
        ("reduce_lr_on_plateau", '{"factor": 0.5}'),
        ("constant_with_warmup", "{}"),
    ],
)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_schedules_that_work_are_accepted(choice, settings, optimizer):
    checked(["--lr_scheduler_type", choice, "--lr_scheduler_kwargs", settings, "--optimizer", optimizer])


def test_values_at_the_bounds_are_accepted():
    values = {"learning_rate": 0, "adam_beta1": 0, "max_grad_norm": 0, "seed": 2**32 - 1, "warmup_steps": 0.5}
    checked([f"--{name}={value}" for name, value in values.items()])


def test_the_checks_use_no_random_numbers():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    checked(["--gradient_checkpointing_kwargs", '{"use_reentrant": false}'])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_passes_the_checks(name):
    _, data_args, training_args = parse_arguments([name])
    check_together(data_args, training_args)


@pytest.mark.parametrize("task", ["question-answering", "generative-question-answering"])
def test_a_stride_that_would_be_shortened_is_refused(tmp_path, task):
    argv = ["--task", task, "--max_target_tokens", "8", "--dataset", "user/data", "--block_size"]
    sentence = r"--stride is 64, but windows share at most a quarter of the 32 tokens of a row .*; give at most 8, or"
    for given in ([*argv, "32", "--stride", "64"], [write(tmp_path, "stride: 64"), *argv, "32"]):
        with pytest.raises(UserError, match=sentence):
            parse_arguments(given)
        parse_arguments([*given, "--resume"])
    with pytest.raises(UserError, match=sentence):
        evaluate([*argv, "32", "--stride", "64"])
    for accepted in (["32"], ["32", "--stride", "8"], ["256", "--stride", "64"]):  # the default is shortened
        parse_arguments([*argv, *accepted])
    with pytest.raises(UserError, match="--stride is 32, but a row has 32 tokens"):
        TaskArguments(task=task, block_size=32, stride=32).check()
    TaskArguments(task="text-generation", block_size=32).check()  # the default is shortened


# Recipes


@pytest.mark.parametrize("text", ["report_to: [tensorboard, trackio]\n", "report_to:\n- tensorboard\n- trackio\n"])
def test_a_recipe_may_hold_lists(tmp_path, text):
    assert parse_arguments([write(tmp_path, text)])[2].report_to == ["tensorboard", "trackio"]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("report_to: none\n", "report_to", []),
        ("report_to: [none]\n", "report_to", []),
        ("label_names: []\n", "label_names", None),
        ("optim_target_modules: [q_proj, v_proj]\n", "optim_target_modules", ["q_proj", "v_proj"]),
        ("optim_target_modules: all-linear\n", "optim_target_modules", "all-linear"),
        ("prompt: --read-only\n", "prompt", "--read-only"),
        ("prompt: -5\n", "prompt", "-5"),
        ("\ufeffmax_steps: 3\n", "max_steps", 3),
        ("max_steps: 3\r\n", "max_steps", 3),
        ("", "output_dir", "runs/recipe"),
        ("# nothing\n", "output_dir", "runs/recipe"),
        ("max_steps:\n", "max_steps", -1),
    ],
)
def test_values_of_recipes_reach_the_arguments(tmp_path, text, name, value):
    assert getattr(parse_arguments([write(tmp_path, text)])[2], name) == value


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"seed: 1\nseed: 2\n", "seed is given twice; .* line 2"),
        (b"config_overrides: {hidden_size: 64, hidden_size: 32}\n", "hidden_size is given twice"),
        (b"a: " + b"[" * 5000, "is nested too deeply|is not YAML"),
        (b"config_overrides: " + b"{a: " * 5000, "is nested too deeply|is not YAML"),
        (b"prompt: caf\xe9\n", r"is not UTF-8 \(.* at byte 11\); convert it"),
        ("seed: 1\n".encode("utf-16"), "is not UTF-8"),
        (b"\0\0", "is not YAML"),
        (b"seed\n", "must hold lines of `argument: value`, but holds a str"),
        (b"- seed: 1\n", "but holds a list"),
        (b"false\n", "but holds a bool"),
        (b"learning_rate: [1, 2]\n", r"learning_rate takes one value, but holds a list: \[1, 2\]"),
        (b"dataset: {a: b}\n", "dataset takes one value, but holds a dict"),
        (b"report_to: [[a]]\n", r"report_to takes a list of values, but one of them is \['a'\]"),
        (b"run_name: 2020-13-45\n", "is not YAML|month must be"),
        (b"prompt: !!python/object/apply:os.system [ls]\n", "is not YAML: could not determine a constructor"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_refused_with_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        parse_arguments([str(path)])


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("more", [[], ["--tokenizer", "runs/mine"], ["--resume_from_checkpoint", "runs/mine"]])
def test_no_uncased_tokenizer_is_trained_for_a_model_that_writes_text(name, more, monkeypatch):
    monkeypatch.setattr(building, "existing_tokenizer", lambda *_: None)
    arguments = parse_arguments(["--task", name, "--dataset", "user/data", "--tokenizer_kind", "uncased", *more])
    task = task_class(name)(arguments[1])
    if more or name in ("fill-mask", "question-answering", "text-classification"):
        load_config(arguments[0], task, arguments[2])
    else:
        with pytest.raises(UserError, match=f"uncased: a model of {name} would write without capitals; "):
            load_config(arguments[0], task, arguments[2])
