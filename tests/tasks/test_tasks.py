"""The five applications: examples, rows, decoding, baselines, and the commands around them, on data made here."""

import io
import itertools
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import GPT2Config, GPT2LMHeadModel, pipeline

from modeling_mini import (
    MiniConfig,
    MiniForCausalLM,
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
)
from modeling_mini.cli import main as command
from modeling_mini.data.packing import PackExamples
from modeling_mini.errors import UserError
from modeling_mini.inference.evaluate import SPLITS
from modeling_mini.loss_mini import IGNORED_LABEL
from modeling_mini.tasks import TASKS, task_class
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tasks.question_answering import answer_tokens, best_spans, rest_of_line
from modeling_mini.tasks.summarization import first_sentence
from modeling_mini.tokenization import train_tokenizer
from modeling_mini.training.run import main as train


NUMBERS = "one two three four five six seven eight nine".split()
FRENCH = dict(zip(NUMBERS, "un deux trois quatre cinq six sept huit neuf".split()))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(NUMBERS), " ".join(FRENCH.values()), "axis : int or None"], vocab_size=320)


def build(name, **arguments):
    return task_class(name)(TaskArguments(task=name, **arguments))


def jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def counting(count: int, seed: int = 0) -> list[dict]:
    """Pairs of English and French numbers."""
    draw = random.Random(seed)
    words = [[draw.choice(NUMBERS) for _ in range(draw.randint(1, 4))] for _ in range(count)]
    return [{"source": " ".join(row), "target": " ".join(FRENCH[word] for word in row)} for row in words]


def questions(count: int, seed: int = 0) -> list[dict]:
    """Which word stands after another? One in four asks for a word that is not there."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        words = draw.sample(NUMBERS, 6)
        asked = draw.randrange(5)
        if i % 4 == 3:
            missing = draw.choice([word for word in NUMBERS if word not in words])
            answers, question = {"text": [], "answer_start": []}, f"after {missing}"
        else:
            text = words[asked + 1]
            start = " ".join(words[: asked + 1]) + " "
            answers, question = {"text": [text], "answer_start": [len(start)]}, f"after {words[asked]}"
        rows.append({"question": question, "context": " ".join(words), "answers": answers})
    return rows


def ends(count: int, seed: int = 0) -> list[dict]:
    """Which word is the last, or the last but one? One in four asks for a word that is not there."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = draw.choices(NUMBERS, k=6)
        question = draw.choice(["last", "last", "before", "seventh"])
        place = {"last": 5, "before": 4, "seventh": None}[question]
        found = {"text": [], "answer_start": []}
        if place is not None:
            found = {"text": [words[place]], "answer_start": [sum(len(word) + 1 for word in words[:place])]}
        rows.append({"question": question, "context": " ".join(words), "answers": found})
    return rows


# Every task


def test_every_task_has_a_file_a_recipe_and_perhaps_built_in_data():
    from modeling_mini.data.builtin import BUILTIN
    from modeling_mini.training.arguments import parse_arguments, recipe_names

    recipes = {parse_arguments([name])[1].task for name in recipe_names()}
    assert recipes == set(TASKS)
    assert {task_class(name).default_dataset for name in TASKS} <= {*BUILTIN, None}
    assert [task_class(name).name for name in TASKS] == list(TASKS)
    assert len({task_class(name) for name in TASKS}) == len(TASKS) == 7


def test_a_task_may_have_no_built_in_data(monkeypatch):
    from modeling_mini.tasks import choose_dataset

    monkeypatch.setattr(task_class("translation"), "default_dataset", None)
    with pytest.raises(UserError, match="translation has no built-in data; name a data set with --dataset"):
        choose_dataset(TaskArguments(task="translation"))


def test_an_answer_that_is_missing_is_refused_where_all_have_one(tmp_path):
    row = {"question": "What?", "context": "It is.", "answers": {"text": [], "answer_start": []}}
    path = jsonl(tmp_path / "a.jsonl", [row, row])
    for name in ("question-answering", "generative-question-answering"):
        with pytest.raises(UserError, match=r"line 1: there is no answer in 'answers\.text'; leave --no_unanswerable"):
            build(name, dataset=path, unanswerable=False).load()
        assert len(build(name, dataset=path).load(divide=False)["train"]) == 2


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "folder"])
def test_columns_can_be_named_and_nested_ones_reached(tmp_path, format):
    pairs = counting(20)
    nested = [{"id": i, "translation": {"en": p["source"], "fr": p["target"]}} for i, p in enumerate(pairs)]
    flat = [{"id": i, "translation.en": p["source"], "translation.fr": p["target"]} for i, p in enumerate(pairs)]
    path = tmp_path / f"pairs.{format}"
    if format == "jsonl":
        jsonl(path, nested)
    elif format == "csv":
        Dataset.from_list(flat).to_csv(path)
    elif format == "parquet":
        Dataset.from_list(nested).to_parquet(path)
    else:
        path.mkdir()
        jsonl(path / "train.jsonl", nested)
    columns = ["source=translation.en", "target=translation.fr"]
    splits = build("translation", dataset=str(path), columns=columns, validation_fraction=0.25).load()
    assert set(splits) == {"train", "validation"}
    assert set(splits["train"].column_names) == {"source", "target"}
    found = [*splits["train"], *splits["validation"]]
    assert sorted(map(str, found)) == sorted(map(str, pairs))


def test_a_test_split_is_kept_apart_and_training_does_not_look_at_it(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, rows in (("train", counting(20)), ("test", counting(5, seed=1))):
        jsonl(folder / f"{name}.jsonl", rows)
    splits = build("translation", dataset=str(folder)).load(roles=SPLITS)
    assert splits["test"].to_list() == counting(5, seed=1)
    assert len(splits["train"]) + len(splits["validation"]) == 20
    jsonl(folder / "test.jsonl", [{"source": "one", "target": ""}])
    assert set(build("translation", dataset=str(folder)).load()) == {"train", "validation"}
    with pytest.raises(UserError, match=r"test\.jsonl, line 1: there is no target"):
        build("translation", dataset=str(folder)).load(roles=SPLITS, needs_train=False)


def test_a_source_without_a_training_split_can_be_evaluated_on(tmp_path):
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data" / "test.jsonl", counting(5))
    task = build("translation", dataset=str(tmp_path / "data"))
    assert set(task.load(roles=SPLITS, needs_train=False)) == {"test"}
    with pytest.raises(UserError, match="no split 'train'; choose one of test with --train_split"):
        task.load()


@pytest.mark.parametrize("name", ["question-answering", "generative-question-answering"])
def test_questions_on_one_context_are_not_divided(tmp_path, name):
    rows = [row | {"question": f"{row['question']} {i}"} for row in questions(40) for i in range(3)]
    splits = build(name, dataset=jsonl(tmp_path / "a.jsonl", rows), validation_fraction=0.25).load()
    train, validation = (set(splits[split]["context"]) for split in ("train", "validation"))
    assert not train & validation
    assert (len(splits["train"]), len(splits["validation"])) == (90, 30)
    with pytest.raises(UserError, match="1 different contexts, of which"):
        build(name, dataset=jsonl(tmp_path / "b.jsonl", rows[:3])).load()


@pytest.fixture
def on_the_hub(monkeypatch):
    """`on_the_hub(DatasetDict(...))`: what every name of a data set then stands for."""
    return lambda splits: monkeypatch.setattr(
        "modeling_mini.data.sources.load_dataset", lambda *args, **options: splits
    )


def test_what_is_wrong_in_a_data_set_of_the_hub_is_passed_over_and_counted(on_the_hub, caplog):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["yes", "no"])})
    train = Dataset.from_dict({"text": ["a", "", "c", "d"], "label": [0, 1, 1, 0]}, features=features)
    hidden = Dataset.from_dict({"text": ["a", "b"], "label": [-1, -1]}, features=features)
    on_the_hub(DatasetDict(train=train, validation=train, test=hidden))
    caplog.set_level("WARNING", "modeling_mini")
    task, config = build("text-classification", dataset="someone/some-data"), MiniConfig()
    splits = task.load()
    assert splits["train"].to_list() == [{"text": t, "label": n} for t, n in (("a", "yes"), ("c", "no"), ("d", "yes"))]
    assert caplog.messages[0].endswith("1 of 4 examples of 'train' are skipped: there is no text in 'text'")
    task.configure(config, splits["train"])
    assert config.id2label == {0: "yes", 1: "no"}  # as the Hub numbers them
    with pytest.raises(
        UserError,
        match="no example of the split 'test' can be used: there is no label in 'label'; choose another data set",
    ):
        build("text-classification", dataset="someone/some-data").load(roles=SPLITS, needs_train=False)


def test_data_set_that_is_a_script_is_refused_with_a_sentence(monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("Dataset scripts are no longer supported, but found old.py")

    monkeypatch.setattr("modeling_mini.data.sources.load_dataset", refuse)
    with pytest.raises(UserError, match="--dataset someone/old: Dataset scripts are no longer supported"):
        build("translation", dataset="someone/old").load()


GOOD = {
    "generative-question-answering": {"question": "after one", "context": "one two", "answers": {"text": ["two"]}},
    "translation": {"source": "one", "target": "un"},
    "text-classification": {"text": "one", "label": "odd"},
    "question-answering": {
        "question": "after one",
        "context": "one two",
        "answers": {"text": ["two"], "answer_start": [4]},
    },
}


@pytest.mark.parametrize(
    ("task", "wrong", "sentence"),
    [
        ("translation", {"source": "one"}, r"line 701: there is no target in 'target'; fill it in"),
        ("translation", {"source": "", "target": "un"}, r"line 701: there is no source in 'source'"),
        ("translation", {"source": " ", "target": "un"}, r"line 701: there is no source in 'source'"),
        ("translation", {"source": ["one"], "target": "un"}, r"line 701: 'source' holds list, but must hold text"),
        ("text-classification", {"text": "one", "label": None}, r"line 701: there is no label in 'label'"),
        ("text-classification", {"text": "one", "label": [3]}, r"line 701: 'label' holds list, and a label is a name"),
        (
            "question-answering",
            {**GOOD["question-answering"], "answers": "two"},
            r"line 701 has str in 'answers', but the lines before it have dict; correct it",
        ),
        (
            "question-answering",
            {**GOOD["question-answering"], "answers": {"text": ["two"], "answer_start": [3]}},
            r"line 701: the answer 'two' does not stand at character 3 of its context",
        ),
        (
            "question-answering",
            {**GOOD["question-answering"], "answers": {"text": ["two"], "answer_start": []}},
            r"line 701: there are 1 answers and 0 starts",
        ),
    ],
)
def test_one_wrong_line_is_named_before_training(tmp_path, task, wrong, sentence):
    path = jsonl(tmp_path / "a.jsonl", [GOOD[task]] * 700 + [wrong] + [GOOD[task]] * 50)
    with pytest.raises(UserError, match=rf"a\.jsonl.*{sentence}"):
        build(task, dataset=path).load()


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    good = json.dumps(GOOD["translation"])
    (tmp_path / "a.jsonl").write_text(f"{good}\n\n\n{good}\n" + '{"source": "two"}\n')
    with pytest.raises(UserError, match="line 5: there is no target"):
        build("translation", dataset=str(tmp_path / "a.jsonl")).load()


@pytest.mark.parametrize(
    ("task", "content", "arguments", "sentence"),
    [
        ("translation", "", {}, "a.jsonl is empty; give a file"),
        ("translation", '{"en": "one"}\n' * 5, {}, "no column 'source'; choose the source from en with --columns"),
        ("translation", '{"en": "one"}\n' * 5, {"columns": ["sauce=en"]}, "--columns sauce=en: write COLUMN=NAME"),
        ("translation", '{"source": "a", "target": "b"}\n' * 5, {"streaming": True}, "--streaming"),
        ("translation", '{"source": "a", "target": "b"}\n' * 5, {"block_size": 64}, "leaves no room for a source"),
        ("text-classification", '{"text": "a", "label": "b"}\n' * 5, {}, "has the same label"),
        ("fill-mask", '{"text": "a b c d"}\n' * 5, {"mask_probability": 1.0}, "--mask_probability is 1.0"),
        (
            "question-answering",
            json.dumps(GOOD["question-answering"]),
            {"stride": -1},
            "--stride is -1; give at least 0",
        ),
        ("translation", '{"source": "a", "target": "b"}\n', {"max_target_tokens": 0}, "--max_target_tokens is 0"),
        ("translation", '{"source": "a", "target": "b"}\n', {"max_source_tokens": -2}, "at least 0, or leave it out"),
        (
            "translation",
            '{"source": "a", "target": "b"}\n',
            {"validation_split": "dev"},
            "no split 'dev'; choose one of",
        ),
        (
            "generative-question-answering",
            json.dumps(GOOD["question-answering"] | {"answers": {"text": "two", "answer_start": 4}}),
            {},
            "line 1: 'answers.text' is no list of texts",
        ),
    ],
)
def test_bad_input_is_refused_with_a_sentence(tmp_path, tokenizer, task, content, arguments, sentence):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    application = build(task, **{"dataset": str(path), "block_size": 128, **arguments})
    with pytest.raises(UserError, match=sentence):
        prepare(application, tokenizer)


def prepare(task, tokenizer):
    splits = task.load(divide=False)
    task.configure(MiniConfig(), splits["train"])
    return task.encode(splits["train"], tokenizer, "validation")


def test_dataset_that_is_almost_an_embedded_one_is_named():
    with pytest.raises(UserError, match="the built-in data set is called message-catalogues"):
        build("translation", dataset="message-catalogs").load()


# Prompt, separator, target


def test_packed_examples_are_whole_and_only_targets_are_learnt():
    rng = np.random.default_rng(0)
    examples = [rng.integers(5, 99, size=size).tolist() for size in (9, 3, 30, 12, 7, 31, 2, 16)]
    prompts = [len(ids) // 2 for ids in examples]
    rows = PackExamples(block_size=32, pad_token_id=0)({"input_ids": examples, "prompt_length": prompts})
    assert len(rows["input_ids"]) == 4  # 110 tokens: no more rows than they need
    found = []
    for ids, positions, labels in zip(*(rows[name] for name in ("input_ids", "position_ids", "labels"))):
        assert len(ids) == len(positions) == len(labels) == 32
        starts = [*np.flatnonzero(np.asarray(positions) == 0), 32]
        parts = [slice(start, end) for start, end in itertools.pairwise(starts)]
        found += [(ids[part], labels[part]) for part in parts if any(ids[part])]
        assert all(label == IGNORED_LABEL for part in parts if not any(ids[part]) for label in labels[part])
    wanted = [(ids, [IGNORED_LABEL] * n + ids[n:]) for ids, n in zip(examples, prompts)]
    assert sorted(found) == sorted(wanted)


def test_loss_of_packed_examples_is_that_of_each_target_alone(tokenizer, tiny_model):
    task = build("translation", dataset="unused", block_size=96, max_target_tokens=32)
    pairs = Dataset.from_list(counting(12))
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
    nats, targets = (sum(values) for values in zip(*task.losses(model, tokenizer, pairs)))
    expected = 0.0
    for pair in pairs:
        prompt = [tokenizer.bos_token_id, *tokenizer(pair["source"], add_special_tokens=False).input_ids]
        prompt.append(tokenizer.eos_token_id)
        target = [*tokenizer(pair["target"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        expected += torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum").item()
    assert targets == sum(len(tokenizer(pair["target"]).input_ids) for pair in pairs)  # bos there is eos here
    assert nats == pytest.approx(expected, rel=1e-4)


def test_batched_decoding_is_that_of_each_example_alone(tokenizer, tiny_model):
    task = build("translation", dataset="unused", block_size=96, max_target_tokens=12)
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
    pairs = Dataset.from_list(counting(7))
    together = task.predict(model, tokenizer, pairs, batch_size=4)
    alone = [task.predict(model, tokenizer, pairs.select([i]))[0] for i in range(len(pairs))]
    assert together == alone


def test_source_and_target_are_cut_and_only_a_whole_target_has_an_end(tokenizer):
    task = build("translation", dataset="unused", block_size=32, max_target_tokens=8)
    long = Dataset.from_list([{"source": "one " * 50, "target": "deux " * 50}, {"source": "one", "target": "un"}])
    rows = task.encode(long, tokenizer, "training").rows
    ids = next(row["input_ids"] for row in rows if len(row["input_ids"]) - row["input_ids"].count(0) >= 31)
    assert len(rows) == 2
    assert ids[: task.source_length + 2].count(tokenizer.eos_token_id) == 1
    assert ids.count(tokenizer.eos_token_id) == 1
    nothing = build("translation", dataset="unused", block_size=32, max_target_tokens=8, max_source_tokens=0)
    short = nothing.encode(long.select([1]), tokenizer, "training").rows[0]["input_ids"]
    assert short[:2] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert short.count(tokenizer.eos_token_id) == 2


def test_context_of_a_question_is_cut_and_the_question_kept(tokenizer):
    task = build("generative-question-answering", dataset="unused", block_size=32, max_target_tokens=8)
    row = {"question": "after one", "context": "nine " * 50, "answers.text": ["two"]}
    ids = task.encode(Dataset.from_list([row]), tokenizer, "training").rows[0]["input_ids"]
    prompt = ids[1 : ids.index(tokenizer.eos_token_id)]
    assert len(prompt) == task.source_length
    assert tokenizer.decode(prompt).endswith("nine \nafter one")


def test_first_sentence_ends_at_a_stop_or_a_blank_line():
    assert first_sentence("Return the\n  sum. Then more.") == "Return the sum."
    assert first_sentence("See numpy.sum for it\n\nNotes. More.") == "See numpy.sum for it"


def test_baselines_see_what_they_say(tmp_path):
    translation = dict(build("translation").baselines(Dataset.from_list(counting(3)), None))
    assert translation == {"copy the source": [pair["source"] for pair in counting(3)]}
    texts = [{"text": f"{word} item", "label": "a" if i < 5 else "b"} for i, word in enumerate(NUMBERS)] * 4
    rows = Dataset.from_list(texts)
    found = dict(build("text-classification").baselines(rows, rows))
    assert found["the commonest label"] == ["a"] * len(rows)
    assert found["bag of words + logistic regression"] == rows["label"][:]
    pairs = [(word, "no", "the rest") for word in NUMBERS] + [(word, "yes", f"the {word}") for word in NUMBERS]
    pairs = Dataset.from_list([{"text": f"{w} item", "text_pair": pair, "label": label} for w, label, pair in pairs])
    found = dict(build("text-classification").baselines(pairs, pairs))
    assert found["share of common words + logistic regression"] == pairs["label"][:]
    chinese = Dataset.from_list([{"text": t, "label": t[0]} for t in ("打开文件", "打开窗口", "关闭文件", "关闭窗口")])
    found = dict(build("text-classification").baselines(chinese, chinese))
    assert found["bag of words + logistic regression"] == chinese["label"][:]
    assert rest_of_line("What type is `axis`?", "sum of it\naxis : int or None\n  what") == "int or None"


# Text


def test_a_tokenizer_without_a_start_is_said_to_flatter(caplog):
    without = train_tokenizer(["one two"], vocab_size=300)
    build("text-generation").check(without, "one", 16)
    assert not caplog.messages
    without.bos_token = None
    build("text-generation").check(without, "one", 16)
    assert "leave that one out" in caplog.messages[0]


# Fill-mask


def test_masking_is_drawn_anew_for_training_and_once_for_validation(tokenizer):
    task = build("fill-mask", dataset="unused", block_size=32)
    texts = Dataset.from_list([{"text": " ".join(random.Random(i).choices(NUMBERS, k=40))} for i in range(40)])
    training, validation = (task.encode(texts, tokenizer, name).rows for name in ("training", "validation"))
    collate = task.collator(tokenizer)
    torch.manual_seed(0)
    draws = [collate([training[i] for i in range(len(training))]) for _ in range(2)]
    assert not torch.equal(draws[0]["labels"], draws[1]["labels"])
    fixed = [collate([validation[i] for i in range(len(validation))]) for _ in range(2)]
    assert torch.equal(fixed[0]["labels"], fixed[1]["labels"])
    for batch in (draws[0], fixed[0]):
        hidden = batch["labels"] != IGNORED_LABEL
        assert 0.10 < hidden.float().mean() < 0.20
        kinds = batch["input_ids"][hidden]
        assert 0.7 < (kinds == tokenizer.mask_token_id).float().mean() < 0.9
        special = torch.tensor([tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id])
        assert not torch.isin(batch["labels"][hidden], special).any()
        assert set(batch) >= {"input_ids", "labels", "position_ids"}


# Classification


def test_labels_may_be_names_numbers_or_of_a_class_feature(tmp_path):
    texts = ["a", "b", "c", "d"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    classes = Dataset.from_dict({"text": texts, "label": [0, 1, 1, 0]}, features=features)
    DatasetDict(train=classes, validation=classes)["train"].to_parquet(tmp_path / "classes.parquet")
    jsonl(tmp_path / "names.jsonl", [{"text": t, "label": n} for t, n in zip(texts, ["no", "yes", "yes", "no"])])
    jsonl(tmp_path / "numbers.jsonl", [{"text": t, "label": n} for t, n in zip(texts, [10, 9, 9, 10])])
    found = {}
    for name in ("classes.parquet", "names.jsonl", "numbers.jsonl"):
        task, config = build("text-classification", dataset=str(tmp_path / name)), MiniConfig()
        train = task.load(divide=False)["train"]
        task.configure(config, train)
        found[name] = (train["label"][:], config.id2label, config.num_labels)
    assert found["classes.parquet"] == found["names.jsonl"]
    assert found["names.jsonl"] == (["no", "yes", "yes", "no"], {0: "no", 1: "yes"}, 2)
    assert found["numbers.jsonl"] == (["10", "9", "9", "10"], {0: "9", 1: "10"}, 2)


def test_row_without_a_label_is_the_one_that_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none,0\ntwo,\nthree,1\n")
    with pytest.raises(UserError, match="row 2 of the split 'train': there is no label"):
        build("text-classification", dataset=str(tmp_path / "a.csv")).load()


def test_unknown_label_is_refused_before_training(tmp_path, tiny_model):
    for name, labels in (("train", ["a", "b"]), ("validation", ["b", "c"])):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": "one", "label": label} for label in labels])
    with pytest.raises(UserError, match=r"validation\.jsonl, line 2: 'label' is 'c', and the labels are a, b"):
        build("text-classification", dataset=str(tmp_path)).load()
    trained = build("text-classification", dataset=str(tmp_path / "train.jsonl"))
    trained.read_config(MiniConfig(id2label={0: "b", 1: "c"}, label2id={"b": 0, "c": 1}))
    with pytest.raises(UserError, match=r"train\.jsonl, line 1: 'label' is 'a', and the labels are b, c; correct it"):
        trained.load(divide=False)


def test_label_that_only_validation_has_is_still_one(tmp_path):
    labels = ["rare", *["a", "b"] * 10]
    path = jsonl(tmp_path / "a.jsonl", [{"text": "one", "label": label} for label in labels])
    for seed in range(20):
        task = build("text-classification", dataset=path, split_seed=seed, validation_fraction=0.3)
        splits = task.load()
        if "rare" in splits["validation"]["label"]:
            break
    config = MiniConfig()
    task.configure(config, splits["train"])
    assert "rare" not in splits["train"]["label"]
    assert config.id2label == {0: "a", 1: "b", 2: "rare"}


def test_model_that_knows_the_labels_keeps_their_numbers(tokenizer):
    texts = [{"text": "a", "label": "no"}, {"text": "b", "label": "yes"}]
    task, config = build("text-classification"), MiniConfig(id2label={0: "yes", 1: "no"}, label2id={"yes": 0, "no": 1})
    rows = task.prepare(Dataset.from_list(texts))
    task.configure(config, rows)
    assert config.label2id == {"yes": 0, "no": 1}
    assert task.encode(rows, tokenizer, "training").rows["labels"][:] == [1, 0]
    task = build("text-classification")
    task.configure(config, task.prepare(Dataset.from_list([*texts, {"text": "c", "label": "so"}])))
    assert config.id2label == {0: "no", 1: "so", 2: "yes"}


def test_pair_is_read_as_the_tokenizer_writes_pairs(tokenizer, tiny_model):
    task = build("text-classification", block_size=64)
    config = {"vocab_size": len(tokenizer), "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    model = tiny_model(MiniForSequenceClassification, is_causal=False, **config)
    task.configure(model.config)
    rows = [{"text": f"one {word}", "text_pair": " two" * i, "label": "no"} for i, word in enumerate(NUMBERS, start=1)]
    examples = Dataset.from_list(rows)
    together = task.probabilities(model, tokenizer, examples, batch_size=4)
    for row, (label, probability) in zip(rows, together):
        inputs = tokenizer(row["text"], row["text_pair"], return_tensors="pt")
        expected = model(**inputs).logits.softmax(-1)[0]
        assert model.config.label2id[label] == expected.argmax()
        assert probability == pytest.approx(expected.max().item(), rel=1e-4)


# Question answering


def test_every_answer_is_found_again_from_the_tokens_of_its_windows(tokenizer):
    task = build("question-answering", block_size=24, stride=6)
    draw = random.Random(0)
    for _ in range(20):
        words = draw.choices(NUMBERS, k=40)
        place = draw.randrange(40)
        start = sum(len(word) + 1 for word in words[:place])
        row = {
            "question": "after one",
            "context": " ".join(words),
            "answers.text": [words[place]],
            "answers.answer_start": [start],
        }
        rows = task.encode(Dataset.from_list([row]), tokenizer, "training").rows
        assert len(rows) > 3
        found = [(r["input_ids"], r["start_positions"], r["end_positions"]) for r in rows if r["start_positions"]]
        assert 1 <= len(found) <= 2  # in two where windows overlap
        assert {tokenizer.decode(ids[first : last + 1]).strip() for ids, first, last in found} == {words[place]}
        assert all(r["end_positions"] == 0 for r in rows if r["start_positions"] == 0)


def test_answer_that_a_window_cuts_is_not_in_it():
    spans = [[-1, -1], [-1, -1], [0, 3], [3, 7], [7, 9]]
    assert answer_tokens(spans, 4, 9) == (3, 4)
    assert answer_tokens(spans, 4, 12) == (0, 0)
    assert answer_tokens(spans, -1, -1) == (0, 0)


def test_best_spans_are_those_of_trying_all():
    rng = np.random.default_rng(0)
    starts, ends = rng.normal(size=(2, 18))
    spans = [[-1, -1]] * 3 + [[i, i + 1] for i in range(15)]
    expected = sorted(((starts[i] + ends[j], i - 3, j - 2) for i in range(3, 18) for j in range(i, 18)), reverse=True)[
        :4
    ]
    assert best_spans(starts, ends, spans, 15, 4) == [(pytest.approx(score), *span) for score, *span in expected]
    assert all(end - start <= 2 for _, start, end in best_spans(starts, ends, spans, 2, 9))


def test_overlong_question_is_cut_and_the_context_read(tokenizer):
    row = GOOD["question-answering"]["answers"]
    row = {"question": "why " * 99, "context": "one two", "answers.text": row["text"], "answers.answer_start": [4]}
    rows = build("question-answering", block_size=32).encode(Dataset.from_list([row]), tokenizer, "training").rows
    ids, first, last = (rows[0][name] for name in ("input_ids", "start_positions", "end_positions"))
    assert len(ids) <= 32
    assert tokenizer.decode(ids[first : last + 1]).strip() == "two"


def test_no_answer_is_a_candidate_only_where_the_data_may_lack_one(tokenizer, tiny_model):
    model = tiny_model(MiniForQuestionAnswering, vocab_size=len(tokenizer), is_causal=False)
    model.qa_outputs.weight.data.zero_()  # every span is as good as none
    row = Dataset.from_list([{"question": "after one", "context": "one two"}])
    for unanswerable in (True, False):
        best = build("question-answering", unanswerable=unanswerable).n_best(model, tokenizer, row, n=20)[0]
        assert ("" in [b["answer"] for b in best]) == unanswerable


def test_answers_of_long_contexts_do_not_depend_on_the_batch(tokenizer, tiny_model):
    task = build("question-answering", block_size=24, stride=6)
    model = tiny_model(MiniForQuestionAnswering, vocab_size=len(tokenizer), is_causal=False)
    rows = [{"question": f"after {word}", "context": " ".join(NUMBERS[i:] * 4)} for i, word in enumerate(NUMBERS)]
    examples = Dataset.from_list(rows)
    together = task.n_best(model, tokenizer, examples, batch_size=8)
    alone = [task.n_best(model, tokenizer, examples.select([i]), batch_size=1)[0] for i in range(len(rows))]
    assert [[b["answer"] for b in best] for best in together] == [[b["answer"] for b in best] for best in alone]
    for row, best in zip(rows, together):
        assert len(best) == 3
        assert [b["score"] for b in best] == sorted((b["score"] for b in best), reverse=True)
        assert all(row["context"][b["start"] : b["end"]] == b["answer"] for b in best)


def test_answers_have_no_spaces_around_them(tokenizer, tiny_model):
    model = tiny_model(MiniForQuestionAnswering, vocab_size=len(tokenizer), is_causal=False)
    row = {"question": "after one", "context": "one two  three\nfour"}
    best = build("question-answering").n_best(model, tokenizer, Dataset.from_list([row]), n=20)[0]
    assert len({(b["start"], b["end"]) for b in best}) == len(best) > 5
    assert all(b["answer"] == b["answer"].strip() == row["context"][b["start"] : b["end"]] for b in best)


def test_official_squad_json_reads_like_its_rows(tmp_path):
    rows = questions(8)
    paragraphs = [
        {
            "context": row["context"],
            "qas": [
                {
                    "id": str(i),
                    "question": row["question"],
                    "is_impossible": not row["answers"]["text"],
                    "answers": [
                        {"text": text, "answer_start": start}
                        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"])
                    ],
                }
            ],
        }
        for i, row in enumerate(rows)
    ]
    nested = {"version": "v2.0", "data": [{"title": "numbers", "paragraphs": paragraphs}]}
    (tmp_path / "dev-v2.0.json").write_text(json.dumps(nested))
    flat = jsonl(tmp_path / "rows.jsonl", rows)
    nested_rows, flat_rows = (
        build("question-answering", dataset=str(path)).load(divide=False)["train"].to_list()
        for path in (tmp_path / "dev-v2.0.json", flat)
    )
    assert nested_rows == flat_rows
    folder = tmp_path / "squad"
    folder.mkdir()
    for name in ("train-v2.0.json", "dev-v2.0.json"):
        (folder / name).write_text(json.dumps(nested))
    splits = build("question-answering", dataset=str(folder)).load()
    assert splits["train"].to_list() == splits["validation"].to_list() == flat_rows
    del nested["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"]
    (folder / "dev-v2.0.json").write_text(json.dumps(nested))
    with pytest.raises(
        UserError, match=r"dev-v2\.0\.json: the question 0 is not as in SQuAD, for want of 'answer_start'"
    ):
        build("question-answering", dataset=str(folder)).load()


# Pipelines


@pytest.fixture
def saved(tokenizer, tiny_model, tmp_path):
    """`saved(MiniForCausalLM)`: the folder of an untrained model with its tokenizer."""

    def save(model_class, **config):
        folder = tmp_path / "saved"
        tiny_model(model_class, vocab_size=len(tokenizer), max_position_embeddings=96, **config).save_pretrained(
            folder
        )
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.mark.parametrize(
    ("name", "column", "output"),
    [("translation", "source", "translation_text"), ("summarization", "document", "summary_text")],
)
def test_writing_pipeline_says_what_the_task_says(saved, tokenizer, name, column, output):
    folder = saved(MiniForCausalLM)
    texts = [pair["source"] for pair in counting(5)]
    writer = pipeline(name, model=folder)
    task = build(name, block_size=96, max_target_tokens=9)
    examples = Dataset.from_list([{column: text} for text in texts])
    expected = [{output: text} for text in task.predict(writer.model, tokenizer, examples)]
    assert writer(texts, max_new_tokens=9, batch_size=2) == expected
    assert writer(texts[0], max_new_tokens=9) == expected[:1]
    assert writer([]) == []
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=20))
    with pytest.raises(ValueError, match="reads modeling_mini models, and this is a gpt2 model"):
        pipeline(name, model=gpt2, tokenizer=tokenizer)


def test_answering_pipeline_says_what_the_task_says(saved, tokenizer):
    answerer = pipeline("question-answering", model=saved(MiniForQuestionAnswering, is_causal=False))
    asked = [{key: row[key] for key in ("question", "context")} for row in questions(4)]
    task = build("question-answering", block_size=96)
    expected = task.n_best(answerer.model, tokenizer, Dataset.from_list(asked), n=2)
    one, several = answerer(**asked[0]), answerer(asked, top_k=2, batch_size=3)
    assert one["answer"] == expected[0][0]["answer"]
    assert [[best["answer"] for best in row] for row in several] == [[b["answer"] for b in row] for row in expected]
    assert set(one) == {"answer", "start", "end", "score"}
    contexts = [row["context"] for row in asked]
    together = answerer(question=[row["question"] for row in asked], context=contexts)
    assert together == [answerer(**row) for row in asked]
    with pytest.raises(ValueError, match="wants a MiniForQuestionAnswering, and the checkpoint is a MiniForCausalLM"):
        pipeline("question-answering", model=saved(MiniForCausalLM))


def test_pipeline_reads_as_much_as_training_did(saved, tokenizer, tmp_path):
    folder = saved(MiniForCausalLM)
    encoding = {"task": "translation", "block_size": 40, "max_target_tokens": 16}
    Path(folder, "metrics.json").write_text(json.dumps({"encoding": encoding}))
    writer = pipeline("translation", model=folder)
    assert writer.application.source_length == 40 - 16 - 3
    assert len(tokenizer(writer("one", max_new_tokens=90)[0]["translation_text"]).input_ids) > 16  # untrained: no end
    with pytest.raises(ValueError, match="was trained for translation, not for summarization"):
        pipeline("summarization", model=folder)


# From a recipe to predictions, as a user runs it


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
    """`trained("translation")`: the folder of a small model that has learnt its task from rows made here."""

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
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        assert train(["quickstart", *words, *more]) == 0
        return tmp_path / "run"

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_task_is_learnt_reported_evaluated_and_used(trained, name, tmp_path, capsys, monkeypatch):
    run = trained(name)
    metric, least = RUNS[name][3:]
    results = json.loads((run / "metrics.json").read_text())
    assert results[metric] > least
    card = (run / "README.md").read_text()
    assert f"pipeline_tag: {task_class(name).pipeline_tag or name}" in card
    assert ("tokenizer.eos_token, return_tensors" in card) == (name != "question-answering")
    assert "the rest of 50, drawn at random" in card
    assert f"{results[metric]:.4f}" in card
    assert (run / "loss.png").exists()

    capsys.readouterr()
    assert command(["eval", str(run), "--output", str(tmp_path / "eval")]) == 0
    table = capsys.readouterr().out
    assert f"{name}: " in table
    assert "test, 60 examples" in table
    evaluated = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert (evaluated["checkpoint"], evaluated["split"], evaluated["examples"]) == (str(run), "test", 60)
    *baselines, model = evaluated["systems"].values()
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
    said = [json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()]
    assert said == [row["prediction"] for row in predictions]
    (run / "_run.json").unlink()  # as on the Hub
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert command([verb, str(run), "--jsonl", "--batch_size", "7"]) == 0
    assert [json.loads(line)["prediction"] for line in capsys.readouterr().out.splitlines()] == said
    assert command(["eval", str(run), "--dataset", str(tmp_path / "data"), "--no_baselines"]) == 0
    assert f"{name}: " in capsys.readouterr().out
    if name == "translation":
        assert command(["eval", str(run), "--task", "summarization"]) == 1
        assert "was trained for translation, not for summarization" in capsys.readouterr().err


@pytest.mark.slow
def test_pretraining_fine_tuning_and_the_wrong_head(tmp_path, capsys, caplog, monkeypatch):
    """fill-mask, then a classifier from its weights, in which the trunk is what was pretrained."""
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
    assert "has is_causal=False, and text-generation predicts the next word" in caplog.messages[-1]

    capsys.readouterr()
    assert command(["eval", pretrained, "--task", "text-classification", "--dataset", labelled]) == 1
    assert "holds a MiniForMaskedLM, and text-classification needs a MiniForSequenceC" in capsys.readouterr().err
    assert command(["classify", tuned, "one two", "three"]) == 0
    assert set(capsys.readouterr().out.split()) <= {"even", "odd"}
    pairs = [{"text": "one", "id": 7}, {"text": "two", "text_pair": "three"}]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(pair) + "\n" for pair in pairs)))
    assert command(["classify", tuned, "--jsonl"]) == 1
    assert "line 2: give text_pair in every line, or in none" in capsys.readouterr().err
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
    assert command(["classify", tuned, "one", "--batch_size", "0"]) == 1
    assert "--batch_size is 0" in capsys.readouterr().err
    assert command(["eval", tuned, "--dataset", labelled]) == 0  # what it learnt from, so what was held out
    assert re.search(r"text-classification: .*labels\.jsonl, validation, 10 examples", capsys.readouterr().out)
    other = jsonl(tmp_path / "other.jsonl", rows)
    assert command(["eval", tuned, "--dataset", other, "--max_examples", "50"]) == 0
    assert re.search(r"text-classification: .*other\.jsonl, train, 50 examples", capsys.readouterr().out)
    assert command(["eval", tuned, "--max_examples", "0"]) == 1
    assert "--max_examples is 0" in capsys.readouterr().err
    assert command(["eval", tuned, "--split", "nowhere"]) == 1
    assert "--split nowhere" in capsys.readouterr().err
