"""Columns that divide a data set into splits without `--split_column` are pointed out, by their names and values."""

import csv

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from made_data import build, jsonl

from modeling_mini.data.filters import advice_about_splits, may_divide, split_of


pytestmark = pytest.mark.usefixtures("datasets_cache")

ALL_SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def messages(caplog):
    caplog.set_level("WARNING", "modeling_mini")
    return caplog


def load(path, **arguments):
    return build("text-generation", dataset=str(path), **arguments).load(divide=False, roles=("train",))


@pytest.mark.parametrize(
    ("name", "values", "advice"),
    [
        ("split", {"train", "test"}, "--split_column split."),
        ("dataSplit", {"Training", "DEV"}, "--split_column dataSplit."),
        ("meta.split", {"train", "val", "challenge"}, "--split_column meta.split."),
        ("my set", {"train", "test"}, "--split_column 'my set'."),
        ("phase", {"training", "evaluation"}, "--split_column phase."),
        ("part", {"train", "test"}, "--split_column part."),
        ("train_val_test", {"train", "val"}, "--split_column train_val_test."),
        ("is_test", {True, False}, '--where "is_test == False", or'),
        ("isTrain", {"True", "False"}, "--where \"isTrain == 'True'\", or"),
        ("in_train_set", {"0", "1"}, "--where \"in_train_set == '1'\", or"),
        ("is-dev", {0, 1}, "--where \"row['is-dev'] == 0\", or"),
        ("train", {0.0, 1.0}, "--split_column train --train_split 1."),
        ("meta.is_test", {"yes", "no"}, "--where \"meta.is_test == 'no'\", or"),
        ("partition", {0, 1, 2}, '--where "partition == 0", or divide them with --split_column partition --train_'),
        ("split", {"0", "1"}, "--split_column split --train_split 0."),
    ],
)
def test_a_column_that_divides_is_recognized_by_name_and_values(name, values, advice):
    assert may_divide(name)
    assert advice in advice_about_splits(name, values)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("set", {"spoons", "forks"}),
        ("set", {"train", "test", "car", "boat", "plane"}),
        ("split", {"train"}),
        ("split", set()),
        ("fold", {0, 1, 2}),  # cross-validation
        ("essay_set", {1, 2}),
        ("partition", {0, 1, 2, 3}),
        ("partition", {0}),
        ("text", {"train", "test"}),
        ("offset", {"train", "test"}),
        ("is_test", {True}),
        ("is_test", {"no", "0"}),
        ("is_test", {"yes", "no", "maybe"}),
        ("is_valid", {True, False}),
        ("test", {True, False}),
        ("is_train_station", {True, False}),
    ],
)
def test_other_columns_are_not_pointed_out(name, values):
    assert advice_about_splits(name, values) is None


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "hub"])
@pytest.mark.parametrize(
    ("name", "values"), [("is_test", [False, True]), ("partition", [0, 1, 2]), ("meta.split", ["train", "test"])]
)
def test_the_advice_can_be_followed(tmp_path, messages, monkeypatch, kind, name, values):
    sets = ["spoon", "fork", "knife"] * 2
    rows = [{"text": f"{i}", "set": sets[i], name: values[i % len(values)]} for i in range(6)]
    path = write(tmp_path, kind, name, rows, monkeypatch)
    load(path)
    (warning,) = messages.messages
    assert f"The column {name!r}" in warning
    options = warning.rpartition("--split_column ")[2].removesuffix(".").split()
    arguments = dict(zip(["split_column", "train_split"], [options[0], *options[2:]], strict=False))
    expected = [row["text"] for row in rows if row[name] == values[0]]
    assert load(path, **arguments)["train"]["text"][:] == expected
    if "--where" in warning:
        condition = warning.partition('--where "')[2].partition('"')[0]
        assert load(path, where=condition)["train"]["text"][:] == expected


def write(folder, kind, name, rows, monkeypatch):
    """A file, or a data set of the Hub, in which a column with a dot is nested where the format can nest."""
    path = folder / f"a.{kind}"
    if kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, ["text", "set", name], delimiter="\t" if kind == "tsv" else ",")
            table.writeheader()
            table.writerows(rows)
        return path
    outer, _, inner = name.partition(".")
    nested = [{**row, outer: {inner: row[name]}} if inner else row for row in rows]
    nested = [{key: value for key, value in row.items() if "." not in key} for row in nested]
    if kind == "jsonl":
        return jsonl(path, nested)
    if kind == "parquet":
        Dataset.from_list(nested).to_parquet(path)
        return path
    stored = DatasetDict(train=Dataset.from_list(nested))
    monkeypatch.setattr("modeling_mini.data.sources.load_dataset", lambda *args, **options: stored)
    return "someone/data"


def test_a_split_column_of_class_names_of_the_hub(messages, monkeypatch):
    features = Features({"text": Value("string"), "split": ClassLabel(names=["test", "train"])})
    stored = Dataset.from_dict({"text": list("abcd"), "split": [0, 1, 1, 0]}, features=features)
    monkeypatch.setattr("modeling_mini.data.sources.load_dataset", lambda *args, **options: DatasetDict(train=stored))
    load("someone/data")
    assert "names splits (test, train)" in messages.text
    assert load("someone/data", split_column="split")["train"]["text"][:] == ["b", "c"]


def test_whole_numbers_and_flags_are_splits_of_their_own():
    assert [split_of(value) for value in (0, 2.0, True, "VAL", " x ")] == ["0", "2", "true", "validation", "x"]


def test_streams_and_unused_columns(tmp_path, messages):
    lines = [{"text": f"{i}", "meta": {"split": "train"} if i else [1]} for i in range(10)]
    lines[5]["meta"]["split"] = "test"
    path = jsonl(tmp_path / "a.jsonl", [*lines[1:], lines[0]])  # the last row nests something else
    build("text-generation", dataset=path, streaming=True, max_validation_documents=2).load()
    assert "The column 'meta.split' of" in messages.text
