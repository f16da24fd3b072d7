"""The command line: output on standard output, and errors as one sentence and an exit code."""

import io
import json
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from made_data import build

import modeling_mini
from modeling_mini import MiniForCausalLM, MiniForSequenceClassification, options
from modeling_mini.cli import _parse, main
from modeling_mini.decoding import SAMPLE_PROMPT, DecodingArguments
from modeling_mini.errors import UserError
from modeling_mini.inference.evaluate import EvalArguments
from modeling_mini.inference.predict import _json_lines, predict
from modeling_mini.parsing import argument_names
from modeling_mini.planning import PlanArguments
from modeling_mini.presets import preset_names
from modeling_mini.streams import StandardInput
from modeling_mini.tasks import task_class
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tasks.generation import continue_text, encode_prompt
from modeling_mini.tokenization import train_tokenizer
from modeling_mini.training.arguments import ARGUMENT_CLASSES


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """A model and its tokenizer, saved in one folder."""
    tokenizer = train_tokenizer(["the model reads the text and writes the next word"], vocab_size=300)
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer), max_position_embeddings=32)
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


def test_presets_lists_every_preset(capsys):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines[1:]) == preset_names()


def test_generate_writes_the_same_text_for_the_same_seed(checkpoint, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["generate", checkpoint, "the model", "--max_new_tokens", "12", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("the model")
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("option", ["--max_new_tokens", "--max-new-tokens", "--max", "--max-new"])
def test_options_may_have_dashes_and_be_abbreviated(checkpoint, capsys, option):
    outputs = []
    for words in ([option, "3"], [f"{option}=3"], ["--max_new_tokens", "3"]):
        assert main(["generate", checkpoint, "the text-file --", *words, "--temperature", "0"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].startswith("the text-file --")


@pytest.mark.parametrize(("separator", "text"), [([], "--read-only files are"), (["--"], "--read-only")])
def test_a_text_that_looks_like_an_option_keeps_its_dashes(checkpoint, capsys, separator, text):
    options = ["--max-new-tokens", "3", "--temperature=0"]
    assert main(["generate", *options, *separator, checkpoint, text]) == 0
    assert capsys.readouterr().out.startswith(text)


def test_prompt_comes_from_standard_input_too(checkpoint, capsys, monkeypatch):
    options = ["--max_new_tokens", "5", "--temperature", "0"]
    assert main(["generate", checkpoint, "the text", *options]) == 0
    given = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("the text\n"))
    assert main(["generate", checkpoint, *options]) == 0
    assert capsys.readouterr().out == given


def test_temperature_zero_is_greedy_decoding(checkpoint, capsys):
    from transformers import AutoTokenizer

    model, tokenizer = MiniForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer("the", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert continue_text(model, tokenizer, "the", max_new_tokens=8, temperature=0) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_new_tokens": 0}, "--max_new_tokens is 0; give at least 1"),
        ({"temperature": -1.0}, "--temperature is -1.0; give at least 0"),
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": "the text " * 100}, "the model reads at most 32; shorten it"),
    ],
)
def test_setting_out_of_range_is_refused(checkpoint, options, sentence):
    from transformers import AutoTokenizer

    model, tokenizer = MiniForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    if options.get("prompt") == "":
        tokenizer.bos_token = None
    with pytest.raises(UserError, match=sentence):
        continue_text(model, tokenizer, **({"prompt": "the"} | options))


def test_continuation_stays_within_the_context_and_says_so(checkpoint, caplog):
    from transformers import AutoTokenizer

    model, tokenizer = MiniForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    outputs, generate = [], model.generate
    model.generate = lambda ids, **options: outputs.append(generate(ids, **options)) or outputs[-1]
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None  # nothing ends the text early
    continue_text(model, tokenizer, "the text", max_new_tokens=1000)
    assert outputs[0].shape == (1, 32)
    length = encode_prompt(tokenizer, "the text", 32).shape[1]
    sentence = f"The text ends after {32 - length} of 1000 new tokens (--max_new_tokens): the model reads at most 32"
    assert sentence in caplog.text
    caplog.clear()
    continue_text(model, tokenizer, "the text", max_new_tokens=32 - length)
    continue_text(model, tokenizer, "the text", max_new_tokens=1000, warns=False)
    assert caplog.text == "", "nothing is missing, or the caller wants no warning"


def test_missing_checkpoint_ends_with_a_sentence(capsys):
    assert main(["generate", "no/such/folder", "the"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: no/such/folder: there is no such folder")
    assert captured.out == ""


def test_checkpoint_with_another_head_writes_no_text(checkpoint, tiny_model, capsys):
    tiny_model(MiniForSequenceClassification, vocab_size=300).save_pretrained(checkpoint)
    assert main(["generate", checkpoint, "the"]) == 1
    assert "holds a MiniForSequenceClassification, but generate needs a MiniForCausalLM" in capsys.readouterr().err


def test_texts_may_follow_an_option(capsys):
    assert main(["classify", "no/such/folder", "--batch_size", "4", "one", "two"]) == 1
    assert "no/such/folder: there is no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["classify", "no/such/folder", "one", "--beams", "4"])
    with pytest.raises(SystemExit):
        main(["presets", "one"])


def test_no_subcommand_shows_the_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "train,eval,presets,plan,env,generate,translate,summarize,classify,answer" in capsys.readouterr().err


def test_bidirectional_checkpoint_ends_with_a_sentence(checkpoint, tiny_model, capsys):
    tiny_model(MiniForCausalLM, vocab_size=300, is_causal=False).save_pretrained(checkpoint)
    assert main(["generate", checkpoint, "the"]) == 1
    assert "has is_causal=False and does not continue text" in capsys.readouterr().err


def test_a_prompt_is_encoded_like_the_beginning_of_a_training_document(checkpoint):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = tokenizer("the text", add_special_tokens=False).input_ids
    assert encode_prompt(tokenizer, "the text", 32).tolist() == [[tokenizer.bos_token_id, *text]]


def test_an_unfinished_run_is_reported_as_such(tmp_path, capsys):
    for number in (10, 20):
        (tmp_path / "run" / f"checkpoint-{number}").mkdir(parents=True)
    assert main(["generate", str(tmp_path / "run"), "the"]) == 1
    assert "no config.json; give a checkpoint in it, such as" in capsys.readouterr().err  # of a script with a Trainer
    (tmp_path / "run" / "_run.json").touch()
    state = {"best_model_checkpoint": "elsewhere/run/checkpoint-10"}
    (tmp_path / "run" / "checkpoint-20" / "trainer_state.json").write_text(json.dumps(state))
    assert main(["generate", str(tmp_path / "run"), "the"]) == 1
    printed = capsys.readouterr().err
    assert "the run did not finish: continue it with --resume" in printed
    assert "checkpoint-10" in printed, "the best one"


def test_unknown_characters_of_a_prompt_are_reported(caplog):
    tokenizer = train_tokenizer(["abc"], "char", vocab_size=20)
    encode_prompt(tokenizer, "abxyc", 32)
    assert "2 tokens of the prompt are unknown" in caplog.text
    caplog.clear()
    task = build("text-generation")
    task.check(tokenizer, SAMPLE_PROMPT, 32)
    assert "unknown" not in caplog.text, "nobody chose the built-in prompt"
    task.check(tokenizer, "abxyc", 32)
    assert caplog.text.count("2 tokens of the prompt are unknown") == 1


# Refused before torch and transformers are imported


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["quikstart"], "did you mean quickstart?"),
        (["nosuch.yaml"], "nosuch.yaml is neither a recipe file nor one of the recipes"),
        (["x" * 5000], "is neither a recipe file nor one of the recipes"),
        (["text-generation"], "; name a task with --task text-generation."),
        (["qqqq"], "; choose one of them."),
        (["--lerning_rate", "1"], "There is no argument --lerning_rate; did you mean learning_rate?"),
        (["--lerning-rate=1"], "There is no argument --lerning_rate; did you mean learning_rate?"),
        (["quickstart", "--blok_size", "1"], "did you mean block_size?"),
        (["--task", "translate"], "--task translate: there is no such choice; did you mean translation?"),
        (["--dataset", "nosuch.txt"], "--dataset nosuch.txt: there is no such file or folder"),
        (["--dataset=nosuch.jsonl.gz"], "--dataset nosuch.jsonl.gz: there is no such file or folder"),
        (["--dataset", "./nosuch"], "--dataset ./nosuch: there is no such file or folder"),
        (["--dataset", "nosuch/"], "--dataset nosuch/: there is no such file or folder"),
        (["--dataset", "x" * 5000 + ".txt"], "there is no such file or folder"),
        (["--dataset", ""], "--dataset is empty"),
        (["--init_from", "nosuch/"], "--init_from nosuch/: there is no such folder"),
        (["--init_from", "nosuch"], "--init_from nosuch: there is no such folder"),
        (["--init_from", " "], "--init_from is empty"),
    ],
)
def test_a_wrong_name_or_path_of_a_training_is_refused_before_the_imports(without_torch, arguments, sentence):
    exit_code, error = without_torch(["train", *arguments])
    assert exit_code == 1
    assert sentence in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["eval", "nosuch"], "nosuch: there is no such folder"),
        (["eval", "--batchsize", "3"], "There is no argument --batchsize; did you mean batch_size?"),
        (["eval", "--task", "nosuch"], "--task nosuch: there is no such choice"),
        (["eval", "--dataset", "no/such/file.csv"], "there is no such file or folder"),
        (["plan", "nano", "--gpu", "3"], "There is no argument --gpu; did you mean gpus?"),
        (["plan", "nanoo"], "'nanoo' is neither a preset nor an existing path; the nearest preset is 'nano'"),
        (["push", "nosuch", "user/repo"], "There is no folder nosuch; give a trained model"),
        (["generate", "nosuch", "text"], "nosuch: there is no such folder"),
        (["generate", "", "text"], "The checkpoint is empty"),
        (["classify", "../nosuch", "text"], "../nosuch: there is no such folder"),
        (["translate", "nosuch", "text"], "nosuch: there is no such folder"),
        (["serve", "nosuch"], "nosuch: there is no such folder"),
        (["chat", "nosuch"], "nosuch: there is no such folder"),
    ],
)
def test_a_wrong_name_or_path_of_another_command_is_refused_before_the_imports(without_torch, arguments, sentence):
    exit_code, error = without_torch(arguments)
    assert exit_code == 1
    assert sentence in error
    assert len(error.splitlines()) == 1


@pytest.fixture
def without_torch(monkeypatch, capsys):
    """`without_torch(argv)`: run a command that must not import torch, transformers or datasets."""

    options.names_in_source(options.TRAIN_CLASSES)  # cached, because below the file of transformers is not found

    def run(argv):
        monkeypatch.setattr(modeling_mini, "training", modeling_mini.training, raising=False)  # restored afterwards
        for name in [name for name in sys.modules if name.startswith("modeling_mini.") and "training" in name]:
            monkeypatch.delitem(sys.modules, name)
        for name in ("torch", "transformers", "datasets"):
            monkeypatch.setitem(sys.modules, name, None)  # importing it raises ModuleNotFoundError
        exit_code = main(argv)
        return exit_code, capsys.readouterr().err

    return run


@pytest.mark.slow
def test_a_refusal_takes_less_than_a_second():
    """Processor time of a process of its own; `python -c pass` takes 0.02 s, and the imports of a run 6 s."""
    command = [sys.executable, str(Path(__file__).parents[2] / "train.py"), "--lerning_rate", "1"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 1
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (options.TRAIN_CLASSES, ARGUMENT_CLASSES),
        (options.EVAL_CLASSES, (TaskArguments, EvalArguments, DecodingArguments)),
        (options.PLAN_CLASSES, (PlanArguments,)),
    ],
)
def test_the_names_read_from_the_source_are_those_of_the_classes(names, classes):
    assert set(options.names_in_source(names)) == set(argument_names(classes))


@pytest.mark.parametrize("name", ["imdb", "stanfordnlp/imdb", "user/data-v1.0", "python-docs", None])
def test_names_on_the_hub_are_no_missing_paths(name):
    options.check_data({"dataset": name})


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        (["--a", "1", "--b=2"], {"a": "1", "b": "2"}),
        (["--a-b", "1"], {"a_b": "1"}),
        (["--flag", "--a", "x y"], {"flag": None, "a": "x y"}),
        (["--a", "--two words"], {"a": None}),
        (["--a", "1", "--a", "2"], {"a": "2"}),
        (["--a=x\ny"], {"a": "x\ny"}),
        (["--", "--a", "1"], {}),
        (["one", "-5"], {}),
    ],
)
def test_options_are_read_like_argparse_reads_them(argv, values):
    assert options.options(argv) == values


# Values of the other commands


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate", "run", "x", "--max_new_tokens", "many"], "invalid int value: 'many'"),
        (["classify", "run", "x", "--batch_size", "0"], "0 is out of range"),
        (["push", "run", "u/r", "--license", "no: such ["], "'no: such [' is not of the form apache-2.0, mit, other"),
        (["push", "run", "u/r", "--language", "english\nx"], "is not of the form en, zh, yue"),
        (["push", "run", "u/r", "--language", "pt-BR"], "'pt-BR' is not of the form en, zh, yue"),
        (["push", "run", "u/r", "--max_shard_size", "1.5GB"], "'1.5GB' is not of the form 5GB, 500MB"),
        (["push", "run", "u/r", "--max_shard_size", "large"], "'large' is not of the form 5GB, 500MB"),
        (["push", "run", "u/r", "--licence", "mit"], "unrecognized arguments: --licence mit; did you mean --license?"),
        (["upgrade-repo", "u/r", "--dry_rum"], "did you mean --dry_run?"),
        (["generate", "run", "x", "--temprature", "1"], "did you mean --temperature?"),
        (["classify", "run", "--jsnl"], "did you mean --jsonl?"),
        (["summarise", "run"], "; did you mean summarize?"),
        (["generat", "run"], "; did you mean generate?"),
        (["qqqq", "run"], "invalid choice: 'qqqq'"),
        (["export", "run", "--to", "onnxx"], "; did you mean onnx?"),
        (["serve", "run", "--dtype", "bfloat"], "; did you mean bfloat16?"),
    ],
)
def test_wrong_values_and_options_are_refused_by_name(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--temperature", "nan"], "--temperature is nan; give at least 0.01"),
        (["--temperature", "inf"], "--temperature is inf"),
        (["--temperature", "1e-320"], "--temperature is 1e-320"),
        (["--temperature=-1"], "--temperature is -1"),
        (["--seed", "-1"], "--seed is -1; give 0 to 4294967295"),
        (["--seed", "9" * 400], "--seed is 999"),
        (["--top_k", "0"], "--top_k is 0; give at least 1"),
        (["--repetition_penalty", "nan"], "--repetition_penalty is nan"),
    ],
)
def test_wrong_values_of_decoding_are_refused_before_the_checkpoint_is_opened(capsys, options, sentence):
    assert main(["generate", "nowhere", "x", *options]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("temperature", [float("nan"), float("inf")])
def test_continue_text_refuses_a_temperature_that_is_not_finite(checkpoint, temperature):
    from transformers import AutoTokenizer

    model, tokenizer = MiniForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    with pytest.raises(UserError, match="--temperature is"):
        continue_text(model, tokenizer, "the", temperature=temperature)


# Text in and out


def test_a_terminal_that_cannot_show_a_character_gets_its_code(checkpoint, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", output)
    assert main(["generate", checkpoint, "中文 the", "--max_new_tokens", "3"]) == 0
    assert output.buffer.getvalue().startswith(rb"\u4e2d\u6587 the")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"text": "a"}\n{"text": "a", "id": "\\ud83d"}\n', "line 2 holds half a character"),
        (b'{"text": "a", "text": "b"}\n', "line 1 is not JSON .the key 'text' is given twice."),
        (b"[" * 100_000 + b"\n", "line 1 is not JSON .it is nested too deeply"),
        (b'{"text": ' + b"[" * 100_000 + b"\n", "line 1 is not JSON .it is nested too deeply"),
        (
            b'{"text": "a"}\n{"text": "a", "id": ' + b"9" * 5000 + b"}\n",
            r"line 2 is not JSON .a number has 5,000 digits\)",
        ),
        (b'{"text": "a", "id": 1e999}\n', "line 1 is not JSON .the number 1e999 is too large"),
        (b'{"text": NaN}\n', "line 1 is not JSON .NaN is not a JSON value; write null"),
        (b'{"text": "a", "id": -Infinity}\n', "line 1 is not JSON .-Infinity is not a JSON value"),
        (b'\xff\xfe{\x00"\x00', "line 1 is UTF-16"),
        (b'{"text": "caf\xe9"}\n', "line 1 is not UTF-8"),
        (b"[]\n", "line 1 has no text in text"),
        (b"null\n", "line 1 has no text in text"),
        (b"{\n", "line 1 is not JSON"),
        (b"", "Standard input is empty"),
    ],
)
def test_json_lines_that_cannot_be_used_are_refused_with_their_line(monkeypatch, line, sentence):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line), encoding="ascii"))
    with pytest.raises(UserError, match=sentence):
        _json_lines(StandardInput(), task_class("text-classification")(TaskArguments(task="text-classification")))


def test_the_column_that_a_json_line_lacks_is_named(monkeypatch):
    task = task_class("question-answering")(TaskArguments(task="question-answering"))
    for column, line in (("context", '{"question": "What?"}'), ("question", '{"context": "A.", "question": null}')):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line.encode()), encoding="ascii"))
        with pytest.raises(UserError, match=f"line 1 has no text in {column}[.]$"):
            _json_lines(StandardInput(), task)


def test_help_explains_words_without_an_option_and_negations(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "CHECKPOINT is the folder of a trained model" in text
    assert "The same as --baselines false." in text
    assert "The same as --unanswerable false." in text


def test_a_plan_states_its_assumptions(capsys):
    assert main(["plan", "nano", "--gpus", "16"]) == 0
    text = capsys.readouterr().out
    assert "Assumed: 8 devices per machine (--gpus_per_node), 40% (--mfu), the TFLOP/s of an H100 (--tflops)." in text


@pytest.mark.parametrize(
    ("words", "do_sample", "prompt"),
    [
        (["--do_sample", "false", "a"], False, "a"),
        (["--do_sample=false", "a"], False, "a"),
        (["--do_sample=True", "a"], True, "a"),
        (["a", "--do-sample", "False"], False, "a"),
        (["a", "--no_do_sample"], False, "a"),
        (["a", "--no_do_sample", "false"], True, "a"),
        (["--do_sample", "true", "a"], True, "a"),
        (["--do_sample", "a"], True, "a"),
        (["--do_sample", "true", "false"], True, "false"),
        (["--do_sample", "True", "True"], True, "True"),
        (["false"], None, "false"),
    ],
)
def test_a_flag_takes_true_and_false_as_in_train(words, do_sample, prompt):
    args = _parse(["generate", "run", *words])
    assert (args.do_sample, args.prompt) == (do_sample, prompt)


@pytest.mark.parametrize("words", [["--jsonl", "false"], ["--jsonl=false"]])
def test_false_leaves_out_a_flag_without_an_opposite(words):
    args = _parse(["classify", "run", *words, "a"])
    assert (args.jsonl, args.texts) == (False, ["a"])


def test_without_sampling_generate_writes_the_most_likely_text(checkpoint, capsys):
    texts = []
    for words in (["--do_sample", "false"], ["--temperature", "0"], ["--no_do_sample", "--temperature", "0"]):
        assert main(["generate", checkpoint, "the model", *words, "--max_new_tokens", "12"]) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 1
    assert main(["generate", checkpoint, "the model", "--do_sample", "false", "--top_k", "5"]) == 1
    assert "--top_k is for sampling" in capsys.readouterr().err
    assert main(["generate", checkpoint, "the model", "--do_sample", "--temperature", "0"]) == 1
    assert "--do_sample is for sampling, which --temperature 0 switches off" in capsys.readouterr().err


def test_a_text_next_to_jsonl_is_refused():
    with pytest.raises(UserError, match="--jsonl reads objects from standard input, but a text is given too"):
        next(predict("run", ["text-classification"], ["a text"], io.StringIO(), is_jsonl=True))


def test_env_prints_the_versions(capsys):
    assert main(["env"]) == 0
    lines = dict(line.removeprefix("- ").split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["torch"] == metadata.version("torch")
    assert lines["Python"] == platform.python_version()
    assert lines["vllm"] == "not installed" or lines["vllm"][0].isdigit()
    assert lines["accelerator"]
