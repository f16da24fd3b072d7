"""Decoding options of the commands: what they change, and which tasks refuse them."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from made_data import build, counting, jsonl
from transformers import pipeline

from modeling_mini import MiniForCausalLM, MiniForQuestionAnswering, MiniForSequenceClassification
from modeling_mini.cli import main
from modeling_mini.decoding import DecodingArguments


pytestmark = pytest.mark.usefixtures("datasets_cache")

OPTIONS = {"num_beams": 2, "no_repeat_ngram_size": 1, "max_new_tokens": 7, "length_penalty": 0.5}
WORDS = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]


@pytest.fixture
def saved(tokenizer, tiny_model, tmp_path):
    """`saved("translation", MiniForCausalLM)`: the folder of an untrained model that names its task."""

    def save(task, model_class, **config):
        folder = tmp_path / "saved"
        model = tiny_model(model_class, vocab_size=len(tokenizer), max_position_embeddings=96, **config)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        encoding = {"task": task, "block_size": 96, "max_target_tokens": 9}
        Path(folder, "metrics.json").write_text(json.dumps({"encoding": encoding}))
        return model, str(folder)

    return save


@pytest.mark.parametrize(
    ("name", "verb", "column"), [("translation", "translate", "source"), ("summarization", "summarize", "document")]
)
def test_commands_and_pipelines_write_as_the_options_say(saved, tokenizer, capsys, name, verb, column):
    model, folder = saved(name, MiniForCausalLM)
    task = build(name, block_size=96, max_target_tokens=9)
    rows = Dataset.from_list([{column: "one two"}])
    [expected] = task.predict(model, tokenizer, rows, decoding=DecodingArguments(**OPTIONS))
    assert [expected] != task.predict(model, tokenizer, rows)
    assert main([verb, folder, *WORDS, "one two"]) == 0
    assert capsys.readouterr().out == " ".join(expected.splitlines()) + "\n"
    assert list(pipeline(name, model=folder)("one two", **OPTIONS)[0].values()) == [expected]


@pytest.mark.parametrize(
    ("name", "verb", "model_class"),
    [
        ("translation", "translate", MiniForCausalLM),
        ("text-classification", "classify", MiniForSequenceClassification),
    ],
)
def test_a_text_that_is_truncated_is_counted_on_standard_error(saved, capsys, caplog, name, verb, model_class):
    _, folder = saved(name, model_class)
    assert main([verb, folder, "one two"]) == 0
    assert "truncated" not in caplog.text
    assert main([verb, folder, "one two", "one two three " * 60]) == 0
    assert "1 of 2 texts are longer than the model reads, and are truncated." in caplog.text
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_eval_writes_and_records_the_options(saved, tokenizer, tmp_path, capsys):
    model, folder = saved("translation", MiniForCausalLM)
    data = jsonl(tmp_path / "pairs.jsonl", counting(3))
    assert main(["eval", folder, "--dataset", data, "--no_baselines", "--output", ""]) == 1
    command = ["eval", folder, "--dataset", data, "--no_baselines", "--output", str(tmp_path / "out")]
    assert main([*command, *WORDS]) == 0
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    task, rows = build("translation", block_size=96, max_target_tokens=9), Dataset.from_list(counting(3))
    expected = task.predict(model, tokenizer, rows, decoding=DecodingArguments(**OPTIONS))
    assert [json.loads(line)["prediction"] for line in lines] == expected
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["decoding"] == OPTIONS | {"do_sample": False}
    assert main(command) == 0
    decoding = json.loads((tmp_path / "out" / "results.json").read_text())["decoding"]
    assert decoding == {"num_beams": 4, "do_sample": False}
    assert main([*command, "--no_do_sample"]) == 0
    assert main([*command, "--do_sample", "--seed", "1"]) == 0
    decoding = json.loads((tmp_path / "out" / "results.json").read_text())["decoding"]
    assert decoding == {"num_beams": 1, "do_sample": True, "seed": 1}  # as it was sampled, without beams


def test_generate_takes_the_options(saved, capsys):
    _, folder = saved("text-generation", MiniForCausalLM)
    texts = []
    for options in (["--num_beams", "3"], ["--temperature", "0"], ["--temperature", "0", "--repetition_penalty", "5"]):
        assert main(["generate", folder, "one ", *options, "--max_new_tokens", "12"]) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 3
    assert all(text.startswith("one ") for text in texts)


@pytest.mark.parametrize(
    ("command", "task", "model_class", "sentence"),
    [
        (
            ["answer"],
            "question-answering",
            MiniForQuestionAnswering,
            "--num_beams is for tasks that write a text; que",
        ),
        (["eval"], "text-classification", MiniForSequenceClassification, "text-classification does not. Leave it out"),
        (["eval"], "text-generation", MiniForCausalLM, "--num_beams is for tasks that write a text; text-generation"),
    ],
)
def test_options_are_refused_where_nothing_is_written(saved, capsys, command, task, model_class, sentence):
    _, folder = saved(task, model_class)
    texts = ["one", "one two"] if command == ["answer"] else []
    assert main([*command, folder, *texts, "--num_beams", "3"]) == 1
    assert sentence in capsys.readouterr().err


def test_options_are_judged_before_the_model_is_loaded(capsys):
    for argv, sentence in [
        (["generate", "nowhere", "a", "--temperature", "nan"], "--temperature is nan"),
        (["generate", "nowhere", "a", "--num_beams", "2", "--top_k", "9"], "--top_k is for sampling"),
        (["translate", "nowhere", "a", "--top_p", "2"], "--top_p is 2.0"),
        (["eval", "--task", "translation", "--num_beams", "2"], "--num_beams is for a model that writes; name its"),
    ]:
        assert main(argv) == 1
        assert sentence in capsys.readouterr().err
