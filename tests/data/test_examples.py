"""Examples of a data set: columns, splits, wrong lines, and skipped examples."""

import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets.fingerprint import Hasher
from made_data import build, counting, jsonl, questions

from modeling_mini import MiniConfig
from modeling_mini.data.examples import _CheckExample
from modeling_mini.errors import UserError
from modeling_mini.inference.evaluate import SPLITS


pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "folder"])
def test_columns_can_have_other_names_and_be_nested(tmp_path, format):
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
    rows = [*splits["train"], *splits["validation"]]
    assert sorted(map(str, rows)) == sorted(map(str, pairs))


def test_training_does_not_read_the_test_split(tmp_path):
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


def test_a_data_set_without_a_training_split_can_be_evaluated(tmp_path):
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data" / "test.jsonl", counting(5))
    task = build("translation", dataset=str(tmp_path / "data"))
    assert set(task.load(roles=SPLITS, needs_train=False)) == {"test"}
    with pytest.raises(UserError, match="no split 'train'; choose one of test with --train_split"):
        task.load()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"validation_split": "train"},
            "--validation_split train is the split that is trained on.*--validation_fract",
        ),
        ({"test_split": "train"}, "--test_split train is the split that is trained on; name another one.$"),
        ({"train_split": "a", "validation_split": "a"}, "--validation_split a is the split that is trained on"),
        ({"train_split": "a", "test_split": "a", "streaming": True}, "--test_split a is the split that is trained on"),
        (
            {"validation_split": "dev", "train_file": "x.jsonl"},
            "given as files; leave it out, and .* --validation_file",
        ),
        ({"train_split": "dev", "train_file": "x.jsonl"}, "--train_split dev names a split of --dataset, but"),
    ],
    ids=str,
)
def test_a_split_that_would_not_be_read_is_refused(tmp_path, monkeypatch, options, sentence):
    (tmp_path / "x.jsonl").write_text("not read")
    monkeypatch.chdir(tmp_path)
    data = {} if "train_file" in options else {"dataset": "x.jsonl"}
    for roles in (("train", "validation"), SPLITS):
        with pytest.raises(UserError, match=sentence):
            build("text-generation", **data, **options).load(roles=roles)


def test_splits_with_two_uses_are_pointed_out(tmp_path, caplog):
    caplog.set_level("INFO", "modeling_mini")
    (tmp_path / "data").mkdir()
    for name in ("train", "validation"):
        jsonl(tmp_path / "data" / f"{name}.jsonl", counting(20))
    data = {"dataset": str(tmp_path / "data")}
    assert set(build("translation", **data, train_split="validation").load()) == {"train", "validation"}
    assert "trained on the split 'validation', of which a part is set aside for validation" in caplog.text
    caplog.clear()
    splits = build("translation", **data, test_split="validation").load(roles=SPLITS)
    assert len(splits["test"]) == len(splits["validation"]) == 20
    assert "the split 'validation' is used for validation and as the test" in caplog.text
    caplog.clear()
    build("translation", **data).load()
    assert "split" not in caplog.text


@pytest.mark.parametrize("name", ["question-answering", "generative-question-answering"])
def test_questions_on_one_context_stay_in_one_split(tmp_path, name):
    rows = [row | {"question": f"{row['question']} {i}"} for row in questions(40) for i in range(3)]
    splits = build(name, dataset=jsonl(tmp_path / "a.jsonl", rows), validation_fraction=0.25).load()
    train, validation = (set(splits[split]["context"]) for split in ("train", "validation"))
    assert not train & validation
    assert (len(splits["train"]), len(splits["validation"])) == (90, 30)
    with pytest.raises(UserError, match="1 different contexts, of which"):
        build(name, dataset=jsonl(tmp_path / "b.jsonl", rows[:3])).load()


@pytest.fixture
def on_the_hub(monkeypatch):
    """`on_the_hub(DatasetDict(...))`: every data set name then loads these splits."""
    return lambda splits: monkeypatch.setattr(
        "modeling_mini.data.sources.load_dataset", lambda *args, **options: splits
    )


def test_wrong_examples_of_a_hub_data_set_are_skipped_and_counted(on_the_hub, caplog):
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


def test_a_data_set_script_is_refused(monkeypatch):
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
        ("text-classification", {"text": "one", "label": " "}, r"line 701: there is no label in 'label'"),
        ("text-classification", {"text": "one", "label": [3]}, r"line 701: 'label' holds list, but must hold a name"),
        (
            "question-answering",
            {**GOOD["question-answering"], "answers": "two"},
            r"line 701: 'answers.text' holds str in 'answers', but must hold an object with 'text'",
        ),
        (
            "question-answering",
            {**GOOD["question-answering"], "answers": {"text": ["two"], "answer_start": []}},
            r"line 701: there are 1 answers but 0 starts",
        ),
    ],
)
def test_a_wrong_line_is_named_before_training(tmp_path, task, wrong, sentence):
    path = jsonl(tmp_path / "a.jsonl", [GOOD[task]] * 700 + [wrong] + [GOOD[task]] * 50)
    with pytest.raises(UserError, match=rf"a\.jsonl.*{sentence}"):
        build(task, dataset=path).load()


def test_line_numbers_count_blank_lines(tmp_path):
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
            json.dumps(GOOD["question-answering"] | {"answers": {"text": 2, "answer_start": 4}}),
            {},
            "line 1: 'answers.text' is neither a text nor a list of texts; correct it",
        ),
    ],
)
def test_bad_input_is_refused_with_a_reason(tmp_path, tokenizer, task, content, arguments, sentence):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    application = build(task, **{"dataset": str(path), "block_size": 128, **arguments})
    with pytest.raises(UserError, match=sentence):
        prepare(application, tokenizer)


def prepare(task, tokenizer):
    splits = task.load(divide=False)
    task.configure(MiniConfig(), splits["train"])
    return task.encode(splits["train"], tokenizer, "validation")


def test_a_misspelled_built_in_data_set_gets_a_suggestion():
    with pytest.raises(UserError, match="the built-in data set is called message-catalogues"):
        build("translation", dataset="message-catalogs").load()


def test_a_change_of_the_code_that_reads_examples_gives_new_cache_keys(monkeypatch):
    """Otherwise `datasets` would reuse rows that the earlier code has made."""
    task = build("translation", dataset="pairs.jsonl")
    unchanged = Path.read_bytes

    def keys():
        return task.code, Hasher.hash(_CheckExample(task, "pairs.jsonl", "train", {}))

    for name in ("examples.py", "text_to_text.py", "translation.py"):
        before = keys()
        with monkeypatch.context() as changed:
            changed.setattr(Path, "read_bytes", lambda path, name=name: unchanged(path) + b"#" * (path.name == name))
            assert not set(keys()) & set(before)
        assert keys() == before
