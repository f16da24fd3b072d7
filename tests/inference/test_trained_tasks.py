"""Train a small model, read its report, evaluate it and use it, through the commands that a user runs."""

import io
import json
import random
import re

import pytest
import torch
from made_data import NUMBERS, counting, ends, jsonl, questions

from modeling_mini import MiniForMaskedLM, MiniForSequenceClassification
from modeling_mini.cli import main as command
from modeling_mini.tasks import task_class
from modeling_mini.training.run import main as train


pytestmark = pytest.mark.usefixtures("datasets_cache")


# Training data, number of examples, arguments, metric, and its minimum.
RUNS = {
    "translation": (counting, 1500, {"max_target_tokens": 24, "block_size": 64, "max_steps": 150}, "bleu", 60),
    "question-answering": (questions, 1500, {"block_size": 48, "max_steps": 600}, "exact_match", 80),
    "generative-question-answering": (
        ends,
        1500,
        {"block_size": 64, "max_target_tokens": 8, "max_steps": 300},
        "exact_match",
        80,
    ),
}


@pytest.fixture
def trained(tmp_path):
    """`trained("translation")`: the folder of a small model that is trained on rows of `made_data`."""

    def run(name, *more):
        make, size, options, *_ = RUNS[name]
        folder = tmp_path / "data"
        folder.mkdir()
        for split, count, seed in (("train", size, 0), ("validation", 50, 1), ("test", 60, 2)):
            jsonl(folder / f"{split}.jsonl", make(count, seed))
        shape = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        options = {
            "task": name,
            "dataset": folder,
            "output_dir": tmp_path / "run",
            "config_overrides": json.dumps(shape | {"is_causal": name != "question-answering"}),
            "per_device_train_batch_size": 32,
            "learning_rate": 3e-3,
            "optimizer": "muon",
            "warmup_steps": 10,
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": "true",
            **options,
        }
        argv = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        assert train(["quickstart", *argv, *more]) == 0
        return tmp_path / "run"

    return run


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("name", RUNS)
def test_a_task_can_be_trained_reported_evaluated_and_used(trained, name, tmp_path, capsys, monkeypatch):
    run = trained(name)
    metric, minimum = RUNS[name][3:]
    results = json.loads((run / "metrics.json").read_text())
    assert results[metric] > minimum
    card = (run / "README.md").read_text()
    assert f"pipeline_tag: {task_class(name).pipeline_tag or name}" in card
    assert ("tokenizer.eos_token, return_tensors" in card) == (name != "question-answering")
    assert "other metrics on 50 chosen at random" in card
    assert f"{results[metric]:.4f}" in card
    assert (run / "loss.png").exists()

    capsys.readouterr()
    assert command(["eval", str(run), "--output", str(tmp_path / "eval")]) == 0
    table = capsys.readouterr().out
    assert f"{name}: " in table
    assert "test, 60 examples\n\nThe model is better than every baseline: " in table
    evaluated = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert (evaluated["checkpoint"], evaluated["split"], evaluated["examples"]) == (str(run), "test", 60)
    *baselines, model = evaluated["systems"].values()
    assert ("perplexity" in model) == task_class(name).predicts_tokens
    assert model[metric] > max(scores[metric] for scores in baselines) + 10
    predictions = [json.loads(line) for line in (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 60

    verb, inputs = {
        "translation": ("translate", ["source"]),
        "question-answering": ("answer", ["question", "context"]),
        "generative-question-answering": ("answer", ["question", "context"]),
    }[name]
    lines = "".join(json.dumps({key: row[key] for key in inputs}) + "\n" for row in predictions)
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert command([verb, str(run), "--jsonl", "--batch_size", "7"]) == 0
    printed = [json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()]
    assert printed == [row["prediction"] for row in predictions]
    (run / "_run.json").unlink()  # the Hub does not have this file
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert command([verb, str(run), "--jsonl", "--batch_size", "7"]) == 0
    assert [json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()] == printed
    assert command(["eval", str(run), "--dataset", str(tmp_path / "data"), "--no_baselines"]) == 0
    assert f"{name}: " in capsys.readouterr().out
    if name == "translation":
        assert command(["eval", str(run), "--task", "summarization"]) == 1
        assert "was trained for translation, not for summarization" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.versions
def test_pretraining_fine_tuning_and_wrong_heads(tmp_path, capsys, caplog, monkeypatch):
    """Fill-mask, then a classifier that starts from its trunk; `classify` and `eval` with the classifier."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(NUMBERS, k=12)) for _ in range(200)]
    corpus = jsonl(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    rows = [{"text": text, "label": "even" if len(text) % 2 else "odd"} for text in texts]
    labelled = jsonl(tmp_path / "labels.jsonl", rows)
    shape = json.dumps({"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "is_causal": False})
    common = ["--per_device_train_batch_size", "8", "--block_size", "64", "--eval_strategy", "no"]
    common += ["--save_strategy", "no", "--report_to", "none", "--max_steps", "6"]
    pretrained = str(tmp_path / "pretrained")
    start = ["--task", "fill-mask", "--dataset", corpus, "--output_dir", pretrained, "--config_overrides", shape]
    assert train(["quickstart", *start, *common]) == 0
    assert "[guess|truth]" in (tmp_path / "pretrained" / "README.md").read_text()

    classify = ["--task", "text-classification", "--dataset", labelled, "--init_from", pretrained]
    frozen = ["--learning_rate", "0", "--optimizer", "adamw", "--weight_decay", "0"]
    tuned = str(tmp_path / "tuned")
    assert train(["quickstart", *classify, *frozen, "--output_dir", tuned, *common]) == 0
    before, after = MiniForMaskedLM.from_pretrained(pretrained), MiniForSequenceClassification.from_pretrained(tuned)
    assert after.config.id2label == {0: "even", 1: "odd"}
    assert all(torch.equal(value, after.model.state_dict()[name]) for name, value in before.model.state_dict().items())
    assert "fine-tuned from `pretrained`" in (tmp_path / "tuned" / "README.md").read_text()

    wider = ["--config_overrides", json.dumps({"hidden_size": 64})]
    assert train(["quickstart", *classify, *wider, "--output_dir", str(tmp_path / "x"), *common]) == 1
    assert "holds weights of other shapes; leave sizes out" in caplog.messages[-1]
    assert train(["quickstart", "--init_from", pretrained, "--output_dir", str(tmp_path / "y"), *common]) == 1
    assert "has is_causal=False, so it would see the words that text-generation predicts" in caplog.messages[-1]

    capsys.readouterr()
    assert command(["eval", pretrained, "--task", "text-classification", "--dataset", labelled]) == 1
    assert "holds a MiniForMaskedLM, but text-classification needs a MiniForSequenceC" in capsys.readouterr().err
    assert command(["generate", tuned, "one"]) == 1
    assert "but generate needs a MiniForCausalLM; choose another checkpoint." in capsys.readouterr().err
    check_classify(tuned, capsys, monkeypatch)
    check_eval(tuned, labelled, jsonl(tmp_path / "other.jsonl", rows), capsys)


def check_classify(tuned, capsys, monkeypatch):
    """`classify` with arguments, lines and JSON lines, and the inputs that it refuses."""
    assert command(["classify", tuned, "one two", "three"]) == 0
    assert set(capsys.readouterr().out.split()) <= {"even", "odd"}
    pairs = [{"text": "one", "id": 7}, {"text": "two", "text_pair": "three"}]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(pair) + "\n" for pair in pairs)))
    assert command(["classify", tuned, "--jsonl"]) == 1
    assert "line 2: give text_pair in every line, or in none" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"text": "one", "text_pair": " "})))
    assert command(["classify", tuned, "--jsonl"]) == 1
    assert "line 1 has no text in text_pair" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(pairs[1])))
    assert command(["classify", tuned, "--jsonl"]) == 1
    assert "was trained on examples without a text_pair; leave it out of the input" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(pairs[0])))
    assert command(["classify", tuned, "--jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == 7
    monkeypatch.setattr("sys.stdin", io.StringIO("caf\udce9\n"))
    assert command(["classify", tuned]) == 1
    assert "The text is not UTF-8; convert it." in capsys.readouterr().err
    assert command(["translate", tuned, "one"]) == 1
    assert "was trained for text-classification, not for translation" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("one two\n\nthree\n"))
    assert command(["classify", tuned]) == 0
    assert [bool(line) for line in capsys.readouterr().out.splitlines()] == [True, False, True]
    with pytest.raises(SystemExit):
        command(["classify", tuned, "one", "--batch_size", "0"])
    assert "--batch_size: 0 is out of range" in capsys.readouterr().err


def check_eval(tuned, labelled, other, capsys):
    """`eval` on the training data, on other data, and with the values that it refuses."""
    assert command(["eval", tuned, "--dataset", labelled]) == 0  # the training data, so only the held-out part
    assert re.search(r"text-classification: .*labels\.jsonl, validation, 10 examples", capsys.readouterr().out)
    assert command(["eval", tuned, "--dataset", other, "--max_examples", "50"]) == 0
    assert re.search(r"text-classification: .*other\.jsonl, 50 examples", capsys.readouterr().out)
    assert command(["eval", tuned, "--max_examples", "0"]) == 1
    assert "--max_examples is 0" in capsys.readouterr().err
    assert command(["eval", tuned, "--split", "nowhere"]) == 1
    assert "--split nowhere" in capsys.readouterr().err
