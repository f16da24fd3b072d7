"""Which rows `modeling-mini eval` scores, and which rows its baselines are trained on."""

import json

import pytest
from made_data import build, jsonl

from modeling_mini.cli import main
from modeling_mini.errors import UserError
from modeling_mini.inference.evaluate import EvalArguments, _choose, _completed, division_changes
from modeling_mini.tasks import task_class
from modeling_mini.tasks.base import TaskArguments


pytestmark = pytest.mark.usefixtures("datasets_cache")

TASK = "text-classification"


def labelled(path, count, **columns):
    """A file of `count` rows with a text of their own."""
    return jsonl(path, [{"text": f"{path.stem} {i}", "label": "ab"[i % 2], **columns} for i in range(count)])


def chosen(args, task, changed=(), divide=True):
    """Name, number of rows to score, and number of rows to train baselines on."""
    split, examples, train = _choose(task, args, divide, list(changed))
    return split, len(examples), train and len(train)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (None, ("test", 30, 100)),
        ("test", ("test", 30, 100)),
        ("validation", ("validation", 20, 100)),
        ("train", ("train", 100, None)),
    ],
)
def test_baselines_learn_from_all_training_rows_whichever_split_is_named(tmp_path, split, expected):
    for name, count in (("train", 100), ("validation", 20), ("test", 30)):
        labelled(tmp_path / f"{name}.jsonl", count)
    assert chosen(EvalArguments(split=split), build(TASK, dataset=str(tmp_path))) == expected


def test_baselines_that_could_not_be_trained_are_mentioned(tmp_path, capsys):
    advice = "give training rows with --train_file, and the rows to score with --test_file"
    note = f"Baselines that need training were not scored; {advice}."
    documents = [{"document": f"Open file {i}. Then read it.", "summary": f"Read file {i}."} for i in range(20)]
    sums = [{"source": f"1 + {i}", "target": str(i)} for i in range(20)]
    rows = jsonl(tmp_path / "documents.jsonl", documents)
    train = jsonl(tmp_path / "train.jsonl", [{**row, "document": f"And {row['document']}"} for row in documents])
    for options, is_mentioned in (
        (["--task", "summarization", "--test_file", rows], True),
        (["--task", "summarization", "--dataset", rows], True),
        (["--task", "summarization", "--test_file", rows, "--train_file", train], False),
        (["--task", "summarization", "--train_file", rows, "--split", "train"], False),
        (["--task", "translation", "--test_file", jsonl(tmp_path / "sums.jsonl", sums)], False),
    ):
        assert main(["eval", *options]) == 0
        assert (note in capsys.readouterr().out) == is_mentioned
    labels = labelled(tmp_path / "test.jsonl", 20)
    for options, sentence in (
        (["--test_file", labels], f"has no baselines here; {advice}, or name a checkpoint."),
        (["--train_file", labels, "--split", "train"], "has no baselines on the split train; name a checkpoint."),
        (["--train_file", labels, "--no_baselines"], "has no baselines here; name a checkpoint."),
    ):
        assert main(["eval", "--task", TASK, *options]) == 1
        assert f"{TASK} {sentence}" in capsys.readouterr().err


def test_a_stream_is_divided_by_its_first_documents(tmp_path):
    (tmp_path / "a.txt").write_text("a line\n" * 60)
    recorded = {"dataset": f"{tmp_path}/a.txt", "text_unit": "line", "streaming": True, "max_validation_documents": 20}
    given = {"max_validation_documents": 40, "split_seed": 1}
    changed = division_changes(TaskArguments(**{**recorded, **given}), recorded)
    assert changed == ["max_validation_documents"]
    with pytest.raises(UserError, match="^--max_validation_documents is not as in the training"):
        chosen(EvalArguments(), build("text-generation", **{**recorded, **given}), changed)
    assert division_changes(TaskArguments(**{**recorded, "text_unit": "paragraph"}), recorded) == ["text_unit"]


def test_an_argument_without_effect_and_a_missing_split_are_no_other_division(tmp_path):
    path = labelled(tmp_path / "a.jsonl", 60)
    recorded = {"task": TASK, "dataset": path}
    assert division_changes(TaskArguments(**recorded, text_unit="line"), recorded) == []
    with pytest.raises(UserError, match="--split test: .*a.jsonl has train; choose"):
        chosen(EvalArguments(split="test"), build(TASK, dataset=path, split_seed=1), ["split_seed"])


@pytest.mark.parametrize(
    "given",
    [{"where": "text != ''"}, {"split_seed": 1}, {"validation_fraction": 0.2}, {"split_column": "part"}],
    ids=lambda given: next(iter(given)),
)
def test_rows_of_the_training_are_not_scored_as_held_out(tmp_path, given):
    path = labelled(tmp_path / "a.jsonl", 60, part="validation")
    recorded = {"task": TASK, "dataset": path, "validation_fraction": 0.1}
    arguments = TaskArguments(**{**recorded, **given})
    changed = division_changes(arguments, recorded)
    assert changed == list(given)
    task = build(TASK, **{name: value for name, value in {**recorded, **given}.items() if name != "task"})
    with pytest.raises(UserError, match=rf"^--{changed[0]} is not as in the training, so rows that the model was"):
        chosen(EvalArguments(), task, changed)
    assert division_changes(arguments, {**recorded, **given}) == []


def test_a_language_model_is_not_scored_on_the_texts_of_its_training(tmp_path):
    """Contexts of questions are divided, but rows of a language model: it may have been trained on a context."""
    rows = [
        {"context": f"{i // 3} a", "question": f"{i}?", "answers": {"text": ["a"], "answer_start": [2]}}
        for i in range(60)
    ]
    recorded = {"task": "text-generation", "dataset": jsonl(tmp_path / "a.jsonl", rows)}
    given = {**recorded, "task": "generative-question-answering"}
    changed = division_changes(TaskArguments(**given), recorded)
    with pytest.raises(UserError, match="^--task is not as in the training, so rows"):
        chosen(EvalArguments(), task_class(given["task"])(TaskArguments(**given)), changed)
    assert division_changes(TaskArguments(**recorded), recorded) == []


def test_rows_of_a_split_of_their_own_can_be_filtered(tmp_path):
    for name, count in (("train", 40), ("test", 30)):
        labelled(tmp_path / f"{name}.jsonl", count)
    task = build(TASK, dataset=str(tmp_path), where="'1' in text")
    split, count, _ = chosen(EvalArguments(), task, ["where"])
    assert (split, count) == ("test", 12)
    with pytest.raises(UserError, match="--where is not as in the training"):
        chosen(EvalArguments(split="validation"), task, ["where"])
    assert chosen(EvalArguments(split="train"), task, ["where"]) == ("train", 13, None)


def test_a_file_that_is_named_is_scored_as_a_whole_whatever_column_divided_it(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"a {i}", "label": "ab"[i % 2], "part": "train"} for i in range(30)])
    recorded = {"task": TASK, "dataset": path, "split_column": "part"}
    given = TaskArguments(task=TASK, dataset=path, test_file=path)
    completed = _completed(given, recorded, {"dataset", "test_file"}, "runs/a")
    assert completed.split_column is None
    changed = division_changes(completed, recorded)
    task = task_class(TASK)(completed)
    assert chosen(EvalArguments(), task, changed, divide=False)[:2] == ("test", 30)


def test_the_command_refuses_them_and_keeps_the_unit_of_the_training(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    lines = "".join(f"the {i}th line of the text\n" for i in range(60))
    (tmp_path / "a.txt").write_text(lines)
    (tmp_path / "b.txt").write_text(lines[:300])
    run = str(tmp_path / "run")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    options = f"--dataset {tmp_path}/a.txt --text_unit line --block_size 32 --max_steps 2 --output_dir {run}".split()
    options += ["--config_overrides", json.dumps(shape | {"vocab_size": 300}), "--eval_strategy", "no"]
    assert main(["train", "quickstart", *options, "--save_strategy", "no", "--validation_fraction", "0.1"]) == 0
    capsys.readouterr()
    assert main(["eval", run, "--split_seed", "1"]) == 1
    assert "Error: --split_seed is not as in the training" in capsys.readouterr().err
    assert main(["eval", run, "--split_seed", "0", "--validation_fraction", "0.1", "--no_baselines"]) == 0
    assert "a.txt, validation, 6 examples" in capsys.readouterr().out
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    for name in (f"{tmp_path}/./a.txt", f"{tmp_path}/link.txt"):  # the same file, with the division of the run
        assert main(["eval", run, "--dataset", name, "--no_baselines"]) == 0
        assert "validation, 6 examples" in capsys.readouterr().out
    assert main(["eval", run, "--dataset", str(tmp_path / "b.txt"), "--no_baselines"]) == 0
    assert f"b.txt, {lines[:300].count(chr(10)) + 1} examples" in capsys.readouterr().out
