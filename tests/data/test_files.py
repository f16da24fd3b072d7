"""Local files and folders as people bring them: odd names, encodings, types, damage, splits, filters and samples."""

import gzip
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, Value
from made_data import build, jsonl, questions

from modeling_mini import MiniConfig
from modeling_mini.data import sources
from modeling_mini.data.arguments import DataArguments
from modeling_mini.data.filters import Where
from modeling_mini.data.sources import _filtered
from modeling_mini.data.tables import Table
from modeling_mini.errors import UserError
from modeling_mini.inference.evaluate import heading
from modeling_mini.options import check_data, is_same
from modeling_mini.tasks import choose_dataset, task_class
from modeling_mini.tasks.base import TaskArguments


pytestmark = pytest.mark.usefixtures("datasets_cache")

GENERATION = "text-generation"


@pytest.fixture(autouse=True)
def messages(caplog):
    caplog.set_level("INFO", "modeling_mini")
    return caplog


def rows(path, task=GENERATION, **arguments):
    """Split -> rows, without a division."""
    return {
        name: list(split) for name, split in build(task, dataset=str(path), **arguments).load(divide=False).items()
    }


def texts(path, **arguments):
    """The texts of the training split."""
    return [row["text"] for row in rows(path, **arguments)["train"]]


def refusal(path, task=GENERATION, **arguments):
    """The sentence with which a path is refused."""
    with pytest.raises(UserError) as error:
        rows(path, task, **arguments)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


# Names


@pytest.mark.parametrize("name", ["q[1]", "c?", "d*", "a::b", "x y", "{a,b}", "Ünï 中文", "%41", "#1"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_path_is_a_path(tmp_path, name, streaming):
    for other in ("q1", "c1", "d1", "a", "xy", "b", "A"):
        jsonl(tmp_path / f"{other}.jsonl", [{"text": "WRONG"}] * 9)
    lines = [{"text": f"right {i}"} for i in range(9)]
    path = jsonl(tmp_path / f"{name}.jsonl", lines)
    arguments = {"streaming": True, "max_validation_documents": 2} if streaming else {}
    expected = [line["text"] for line in lines]
    assert texts(path, **arguments) == (expected[2:] if streaming else expected)
    folder = tmp_path / name
    folder.mkdir()
    jsonl(folder / "train.jsonl", lines)
    assert texts(folder, **arguments) == (expected[2:] if streaming else expected)


def test_rows_in_a_list_of_an_object_are_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "data": [{"text": "a"}, {"text": "b"}]}))
    assert refusal(path) == f"{path} holds its rows in the list 'data'; write that list alone into the file."
    path.write_text(json.dumps([{"meta": [{"x": 1}], "body": "a"}]))
    assert "has no column 'text'; choose the text from meta.x, body" in refusal(path)
    path = Path(jsonl(tmp_path / "a.jsonl", [{"data": [{"text": "a"}]}]))
    assert "has no column 'text'; choose the text from data.text" in refusal(path)


@pytest.mark.parametrize("dataset", ["pairs.jsonl", "message-catalogues"])
def test_two_columns_are_not_read_from_one(tmp_path, dataset):
    path = jsonl(tmp_path / "pairs.jsonl", [{"source": "a", "target": "b"}] * 2)
    dataset = path if dataset == "pairs.jsonl" else dataset
    sentence = "--columns source=target: the target is in the column 'target' too; add target=NAME."
    assert refusal(dataset, "translation", columns=["source=target"]) == sentence
    both = rows(path, "translation", columns=["source=target", "target=source"])["train"]
    assert both[0] == {"source": "b", "target": "a"}


def test_an_optional_column_that_is_read_under_another_name_is_not_read_twice(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "text_pair": "b", "label": "c"}] * 2)
    assert rows(path, "text-classification", columns=["text=text_pair"])["train"][0] == {"text": "b", "label": "c"}


def test_what_is_not_a_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "link.jsonl").symlink_to("nowhere.jsonl")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    assert "is a pipe or a device, not a file" in refusal(tmp_path / "pipe.jsonl")
    assert "link to nowhere.jsonl, which does not exist" in refusal(tmp_path / "link.jsonl")
    assert "link to loop.txt" in refusal(tmp_path / "loop.txt")
    assert len(refusal("x" * 5000)) < 400
    for name in ("pipe.jsonl", "link.jsonl"):
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (tmp_path / name).rename(folder / name)
        assert name in refusal(folder)
    assert "there is no such file" in refusal(tmp_path / "no.jsonl")
    for name in ("pipe.jsonl", "link.jsonl"):  # refused before torch is imported
        with pytest.raises(UserError, match="is a pipe|is a link"):
            check_data({"test_file": str(tmp_path / f"with {name}" / name)})
    with pytest.raises(UserError, match="--dataset is empty"):
        choose_dataset(TaskArguments(dataset=" "))


# Encodings and compression


@pytest.mark.parametrize("extension", ["txt", "csv", "jsonl", "json"])
@pytest.mark.parametrize("encoding", ["gbk", "shift-jis", "utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_only_utf_8_is_read(tmp_path, extension, encoding):
    content = {
        "txt": "日本\n",
        "csv": 'text\n"日本"\n',
        "jsonl": '{"text": "日本"}\n',
        "json": '[{"text": "日本"}]',
    }[extension]
    path = tmp_path / f"a.{extension}"
    path.write_bytes((content if encoding != "utf-16-le" else content.replace("日本", "a text")).encode(encoding))
    if encoding == "utf-8-sig":
        assert [text.strip() for text in texts(path)] == ["日本"]
    else:
        sentence = refusal(path)
        assert str(path) in sentence
        assert "convert it" in sentence
        for name in ("UTF-16", "UTF-32"):
            assert (name in sentence) == encoding.startswith(name.lower())


def test_the_line_of_a_wrong_byte_is_named_in_a_large_compressed_file(tmp_path):
    good = b'{"text": "' + b"x" * 300 + b'"}\n'
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(good * 5000 + b'{"text": "caf\xe9"}\n', 1))
    assert f"{path} is not UTF-8 (byte 0xE9 at line 5001)" in refusal(path)


@pytest.mark.parametrize("extension", ["txt", "csv", "jsonl", "json", "parquet"])
def test_damaged_compression_is_named(tmp_path, extension):
    whole = gzip.compress(b'{"text": "a"}\n' + random.Random(0).randbytes(2000).hex().encode())
    truncated, plain = tmp_path / f"a.{extension}.gz", tmp_path / f"b.{extension}.gz"
    truncated.write_bytes(whole[:40])
    plain.write_bytes(b'{"text": "a"}\n')
    assert "is truncated: the compressed data end too early" in refusal(truncated)
    assert "is not compressed with gzip" in refusal(plain)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"text\na\n", mtime=0), "is compressed with gzip; add .gz"),
        (b"PK\x03\x04....", "is a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"BZh91AY&SY\n", "is compressed with bzip2"),
        (b"\xfd7zXZ\x00\n", "is compressed with xz"),
        (b"%PDF-1.4\n", "is a PDF"),
    ],
)
def test_a_file_of_another_kind_is_recognized(tmp_path, content, reason):
    for name in ("a.txt", "a.csv", "a.jsonl", "a.parquet"):
        (tmp_path / name).write_bytes(content)
        assert reason in refusal(tmp_path / name)


# Types


def test_no_cell_of_csv_is_missing_data_or_a_number(tmp_path):
    cells = ["hello", "NA", "null", "None", "nan", "N/A", "01", "1", "1e5", "2020-01-01", "true", " x "]
    (tmp_path / "a.csv").write_text("text\n" + "\n".join(cells) + "\n")
    assert texts(tmp_path / "a.csv") == cells
    (tmp_path / "b.csv").write_text("text,label\n" + "".join(f"t,{cell}\n" for cell in cells))
    assert [row["label"] for row in rows(tmp_path / "b.csv", "text-classification")["train"]] == cells


def test_labels_are_as_they_are_written(tmp_path):
    labels = [1, "01", True, "①", "²", "x", 2.0, "NA"]
    path = jsonl(tmp_path / "a.jsonl", [{"text": "t", "label": label} for label in labels])
    task, config = build("text-classification", dataset=path), MiniConfig()
    train = task.load(divide=False)["train"]
    assert train["label"][:] == ["1", "01", "true", "①", "²", "x", "2", "NA"]
    task.configure(config, train)
    assert list(config.id2label.values()) == ["01", "1", "2", "NA", "true", "x", "²", "①"]


def test_the_first_rows_do_not_define_types(tmp_path):
    """Unused columns may hold anything; used columns have the type that the task needs."""
    lines = [{"text": f"2020-01-{i % 28 + 1:02d}", "id": i, "note": None, "meta": {"a": 1}} for i in range(3000)]
    lines += [{"text": "late", "id": "A1", "note": "n/a", "meta": {"b": [1]}, "new": 10**400}]
    path = jsonl(tmp_path / "a.jsonl", lines)
    assert texts(path) == [line["text"] for line in lines]
    (tmp_path / "b.csv").write_text("id,text\n" + "".join(f"{i},t{i}\n" for i in range(3000)) + "A9,last\n")
    assert texts(tmp_path / "b.csv")[-1] == "last"
    labels = [0, 1] * 1500 + ["neg"]
    path = jsonl(tmp_path / "c.jsonl", [{"text": "t", "label": label} for label in labels])
    assert rows(path, "text-classification")["train"][-1]["label"] == "neg"


def test_text_that_looks_like_a_date_is_text(tmp_path):
    answer = {"text": ["2020-01-01"], "answer_start": [3]}
    lines = [{"question": "2020-01-01", "context": "On 2020-01-01.", "answers": answer}] * 5
    for task in ("question-answering", "generative-question-answering"):
        assert rows(jsonl(tmp_path / "a.jsonl", lines), task)["train"][0]["answers.text"] == ["2020-01-01"]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "half \\ud83d"}', r"'text' holds half of a surrogate pair (\ud83d)"),
        ('{"text": "a", "text": "b"}', "has the key 'text' twice"),
        ('{"text": 3}', "'text' holds int, but must hold text"),
        ('{"text": ["a"]}', "'text' holds list, but must hold text"),
        ('{"text": ', "is not JSON (Expecting value at column 9)"),
        ("null", "holds null, but must hold a JSON object"),
        ("[1]", "holds list, but must hold a JSON object"),
        ('"a"', "holds str, but must hold a JSON object"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"text": "a"} {"text": "b"}', "is not JSON (Extra data"),
    ],
)
def test_the_line_of_an_error_is_named_in_a_large_file(tmp_path, line, reason, compressed, streaming):
    content = ('{"text": "' + "x" * 200 + '"}\n') * 2000 + "\n" + line + "\n" + '{"text": "a"}\n'
    path = tmp_path / ("a.jsonl.gz" if compressed else "a.jsonl")
    path.write_bytes(gzip.compress(content.encode(), 1) if compressed else content.encode())
    assert refusal(path, streaming=streaming).startswith(f"{path}, line 2002")
    assert reason in refusal(path, streaming=streaming)


def test_the_line_of_an_error_in_a_json_array_and_the_row_in_parquet_are_named(tmp_path):
    (tmp_path / "a.json").write_text('[\n {"text": "a"},\n\n {"text":\n  "b"},\n {"text": 5}]')
    assert refusal(tmp_path / "a.json").startswith(f"{tmp_path}/a.json, line 6: 'text' holds int")
    (tmp_path / "a.json").write_text('[\n {"text": "a"},\n {"text": "b"\n {"text": "c"}]')
    assert "line 4 is not JSON (Expecting ',' delimiter" in refusal(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('[\n {"text": "a"},\n\n {"text": "b", "text": "c"}]')
    assert "line 4 has the key 'text' twice" in refusal(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('[\n {"text": "a"},\n' + "[" * 100_000)
    assert "line 3 is nested too deeply" in refusal(tmp_path / "a.json")
    pq.write_table(pa.table({"text": pa.array(["a", "b"]), "label": pa.array([0.5, 1])}), tmp_path / "a.parquet")
    assert "row 1: 'label' holds float" in refusal(tmp_path / "a.parquet", "text-classification")


@pytest.mark.parametrize("content", ["null", "3", '"a"', "[null]", "[[1]]", "[" * 100_000, "{", "{}x", "[]", "\n"])
def test_odd_json_is_refused(tmp_path, content):
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(content)
        assert refusal(tmp_path / name).startswith(str(tmp_path / name))


def test_json_in_every_arrangement_gives_the_same_rows(tmp_path):
    lines = [{"text": f"row {i}\u2028"} for i in range(5)]
    for name, content in {
        "array.json": json.dumps(lines),
        "indented.json": json.dumps(lines, indent=2),
        "array.jsonl": json.dumps(lines),
        "lines.json": "\n".join(map(json.dumps, lines)),
        "windows.jsonl": "\r\n".join(map(json.dumps, lines)),
        "objects.json": "\n".join(json.dumps(line, indent=2) for line in lines),
        "strings.json": json.dumps([line["text"] for line in lines]),
    }.items():
        (tmp_path / name).write_text(content, newline="")
        assert texts(tmp_path / name) == [line["text"] for line in lines], name


def test_parquet_that_is_almost_so(tmp_path):
    path = tmp_path / "a.parquet"
    offsets, characters = pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"ab\xff\xfe")
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 2, [None, offsets, characters])}), path)
    assert refusal(path) == f"{path} holds bytes that are not UTF-8 in a column of text; write it again."
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["text", "text", "other"])
    pq.write_table(twice, path)
    assert "has several columns 'text'" in refusal(path)
    assert texts(path, columns=["text=other"]) == ["c"]


def test_a_nested_column_in_one_with_a_dot(tmp_path):
    row = {"a.b": {"c": "x"}, "d": {"c": "y"}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    for path in (tmp_path / "a.parquet", jsonl(tmp_path / "a.jsonl", [row])):
        assert texts(path, columns=["text=a.b.c"]) == ["x"]
        assert texts(path, columns=["text=d.c"]) == ["y"]


def test_csv_that_is_almost_so(tmp_path):
    path = tmp_path / "a.csv"
    for content, reason in {
        'text\n"never closed\nmore\n': "line 3 is not CSV (unexpected end of data)",
        'text\n"a"b\n': "line 2 is not CSV",
        "text,label\na,b\na, b,c\n": "line 3 has 3 cells, but the header has 2",
        "text,text\na,b\n": "has several columns 'text'",
        "text;label\na;b\n": "separated by ';'",
    }.items():
        path.write_text(content)
        assert reason in refusal(path)
    path.write_text(f"id,text\n\n1,{'x' * 200_000}\n2,\n3,last\n")
    assert [len(text) for text in texts(path)] == [200_000, 4]
    path.write_bytes(b"text\ra\rb\r")
    assert texts(path) == ["a", "b"]


def test_classes_of_a_parquet_file_keep_their_order(tmp_path):
    from datasets import ClassLabel, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["yes", "no"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).to_parquet(tmp_path / "a.parquet")
    for name, content in (("a.parquet", None), ("a.parquet.gz", gzip.compress((tmp_path / "a.parquet").read_bytes()))):
        if content:
            (tmp_path / name).write_bytes(content)
        task, config = build("text-classification", dataset=str(tmp_path / name)), MiniConfig()
        train = task.load(divide=False)["train"]
        task.configure(config, train)
        assert (train["label"][:], config.id2label) == (["no", "yes"], {0: "yes", 1: "no"})


def test_a_blank_cell_is_refused_in_every_column_that_is_used(tmp_path):
    path = tmp_path / "a.csv"
    for row, column in ((",a,p", "text"), ("t,,p", "label"), ("t,a,", "text_pair"), ("t,a", "text_pair")):
        path.write_text(f"text,label,text_pair\nx,b,y\n{row}\n")
        sentence = refusal(path, "text-classification")
        assert "line 3: there is no" in sentence
        assert f"in '{column}'" in sentence


def test_an_optional_column_is_never_lost(tmp_path):
    lines = [{"text": "t", "label": "a"}] * 1500 + [{"text": "t", "label": "b", "text_pair": "p"}]
    sentence = refusal(jsonl(tmp_path / "a.jsonl", lines), "text-classification")
    assert "line 1501: there is a 'text_pair', which the first rows do not have" in sentence


@pytest.mark.parametrize("unit", ["document", "paragraph", "line"])
def test_text_is_divided_as_by_datasets(tmp_path, unit, monkeypatch):
    from datasets import load_dataset

    monkeypatch.setattr("modeling_mini.data.formats._CHARACTERS", 7)
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\ntwo\n\n\nthree\x0bfour\u2028\n\n\n\nfive\rsix\n\nseven".encode())
    expected = load_dataset("text", data_files=str(path), split="train", sample_by=unit)["text"]
    assert texts(path, text_unit=unit) == [text for text in expected if text.strip()]


# Folders


def write_some(folder: Path, *names: str) -> Path:
    """Files whose only text is their name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = name.lower().removesuffix(".gz").rpartition(".")[2]
        if kind == "parquet":
            pq.write_table(pa.table({"text": [name], "other": [1]}), path)
            continue
        content = {"csv": f"text\n{name}\n", "jsonl": json.dumps({"text": name}), "json": json.dumps([{"text": name}])}
        data = content.get(kind, name).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def test_all_files_of_a_folder_are_read(tmp_path):
    names = [
        "B.TXT",
        "LICENSE.csv",
        "a.csv",
        "a.txt",
        "b.jsonl",
        "c/d.JSON",
        "c/e.jsonl.gz",
        "latest.jsonl",
        "x.parquet",
    ]
    assert texts(write_some(tmp_path / "data", *names)) == names


def test_stray_files_are_skipped_with_a_word(tmp_path, messages):
    strays = ["README.md", "README.txt", "LICENSE", "LICENSE.txt", ".DS_Store", "a.png", "b.png", "config.json"]
    folder = write_some(tmp_path / "data", "train.jsonl", ".git/x.txt", "__MACOSX/train.jsonl", *strays)
    (folder / "README.md").write_text("---\nMy notes: about: this\nconfigs:\n- x: [\n---\n")
    assert texts(folder) == ["train.jsonl"]
    lines = [message for message in messages.messages if message.startswith("Not read in")]
    assert len(lines) == 1
    assert ".DS_Store" in lines[0]
    assert "5 more" in lines[0]
    pairs = tmp_path / "pairs"
    write_some(pairs, "notes.txt")
    jsonl(pairs / "train.jsonl", [{"source": "a", "target": "b"}])
    assert rows(pairs, "translation")["train"] == [{"source": "a", "target": "b"}]
    assert "notes.txt" in messages.messages[-1]


@pytest.mark.parametrize(
    ("names", "train", "validation", "test"),
    [
        (
            ["latest.jsonl", "contest.csv", "attestation.txt"],
            ["attestation.txt", "contest.csv", "latest.jsonl"],
            [],
            [],
        ),
        (["training.jsonl", "dev.csv", "test_2.csv"], ["training.jsonl"], ["dev.csv"], ["test_2.csv"]),
        (["train-00000-of-00001.parquet", "Val.TXT"], ["train-00000-of-00001.parquet"], ["Val.TXT"], []),
        (["train/a.txt", "train/b.txt", "test/a.txt"], ["train/a.txt", "train/b.txt"], [], ["test/a.txt"]),
        (["train-v2.0.json", "my_data.validation.jsonl.gz"], ["train-v2.0.json"], ["my_data.validation.jsonl.gz"], []),
        (["a.txt", "test.txt"], ["a.txt"], [], ["test.txt"]),
        (["trainData.txt", "valData.txt", "myTest1.txt"], ["trainData.txt"], ["valData.txt"], ["myTest1.txt"]),
    ],
)
def test_words_in_names_give_the_splits(tmp_path, names, train, validation, test):
    task = build(GENERATION, dataset=str(write_some(tmp_path / "data", *names)))
    splits = task.load(divide=False, roles=("train", "validation", "test"))
    found = [[row["text"] for row in splits.get(name, [])] for name in ("train", "validation", "test")]
    assert found == [train, validation, test]


def test_files_without_a_split_are_named(tmp_path, messages):
    folder = write_some(tmp_path / "data", "train.jsonl", "latest.jsonl")
    assert texts(folder) == ["train.jsonl"]
    assert "hold none of the words" in messages.text
    assert "latest.jsonl" in messages.text
    write_some(folder, "train_test.jsonl")
    assert "named after two splits, train and test" in refusal(folder)


def test_files_of_a_folder_need_the_column_that_is_used_and_no_other(tmp_path):
    folder = write_some(tmp_path / "data", "b.parquet")
    jsonl(folder / "a.jsonl", [{"text": "a", "x": 1}])
    assert texts(folder) == ["a", "b.parquet"]
    (folder / "c.csv").write_text("y,z\n1,c\n")
    assert f"{folder}/c.csv has no column 'text'; choose the text from y, z" in refusal(folder)


# Files by split, columns of splits, filters, samples


def test_a_file_can_be_named_for_each_split(tmp_path):
    for name, count in (("test", 5), ("b [1]", 3), ("c", 2)):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name} {i}"} for i in range(count)])
    write_some(tmp_path / "folder", "x.txt", "test.txt")
    files = {"train_file": f"{tmp_path}/test.jsonl", "validation_file": f"{tmp_path}/b [1].jsonl"}
    args = TaskArguments(**files, test_file=f"{tmp_path}/folder")
    choose_dataset(args)
    assert args.dataset == files["train_file"]
    splits = task_class(GENERATION)(args).load(roles=("train", "validation", "test"))
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [5, 3, 2]
    for arguments, reason in (
        ({**files, "dataset": "python-docs"}, "--dataset and --train_file both name the data"),
        ({**files, "split_column": "x"}, "leave out --train_file"),
        ({"validation_file": files["validation_file"]}, "no train file; name one with --train_file"),
        ({"train_file": f"{tmp_path}/no.jsonl"}, "--train_file .*no.jsonl: there is no such file"),
        ({"train_file": ""}, "--train_file is empty"),
    ):
        with pytest.raises(UserError, match=reason):
            build(GENERATION, **arguments).load()


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_of_two_splits_is_pointed_out(tmp_path, messages, is_link):
    path, other = jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}]), tmp_path / "b.jsonl"
    other.symlink_to(path)
    files = {"train_file": str(path), "validation_file": str(other if is_link else path)}
    build(GENERATION, **files).load()
    assert "a.jsonl is read for train and validation: scores on the same rows" in messages.text


def test_a_key_that_is_written_twice_in_two_ways_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"\\u00e9": "a", "\\u00e9": "b"}\n')
    assert "has the key 'é' twice" in refusal(path, columns=["text=é"])


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_can_divide_the_rows(tmp_path, messages, extension, streaming):
    names = ["train", "dev", "test", "Training", "valid", "train", "challenge"] * 3
    table = Dataset.from_list([{"split": name, "text": f"{i} {name}"} for i, name in enumerate(names)])
    path = tmp_path / f"a.{extension}"
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[extension](str(path))
    assert len(texts(path)) == 21
    assert "names splits (Training, challenge, dev, test, train, valid)" in messages.text
    task = build(GENERATION, dataset=str(path), split_column="split", streaming=streaming)
    splits = task.load(roles=("train", "validation", "test"))
    counts = {name: len(list(split)) for name, split in splits.items()}
    assert counts == {"train": 9, "validation": 6, "test": 3}
    assert {row["text"].split()[1] for row in splits["train"]} == {"train", "Training"}
    assert "has no column 'fold'; its columns are" in refusal(path, split_column="fold")


def test_a_column_of_splits_is_pointed_out(tmp_path, messages, monkeypatch):
    lines = [{"text": f"t{i}", "fold": "train" if i < 1500 else "test"} for i in range(2000)]
    rows(jsonl(tmp_path / "a.jsonl", lines))
    assert messages.messages[-1].endswith("divide them with --split_column fold.")
    lines[3]["fold"] = None
    path = jsonl(tmp_path / "b.jsonl", lines)
    assert "line 4: 'fold' does not name a split" in refusal(path, split_column="fold")
    stored = DatasetDict(train=Dataset.from_list(lines[4:]))
    monkeypatch.setattr("modeling_mini.data.sources.load_dataset", lambda *args, **options: stored)
    messages.clear()
    rows("someone/data")
    assert messages.messages[-1].endswith("divide them with --split_column fold.")
    task = build(GENERATION, dataset="someone/data", split_column="fold")
    assert {name: len(split) for name, split in task.load(roles=("train", "test")).items()}["test"] == 500


WHERE = [
    ("domain == 'movies'", [0, 3]),
    ("domain != 'movies'", [1, 2, 4]),
    ("year >= 2000 and domain in ['movies', 'books']", [1, 3]),
    ("not (year < 2000 or domain == 'music')", [1, 3]),
    ("1990 < year <= 2001", [1, 2]),
    ("year not in (1980, 2020)", [1, 2, 4]),
    ("'ovi' in domain", [0, 3]),
    ('row["a name"] == "x"', [4]),
    ("year == -1", [4]),
]


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet", "hub"])
@pytest.mark.parametrize(("condition", "expected"), WHERE)
def test_rows_can_be_chosen_by_a_condition(tmp_path, monkeypatch, messages, extension, condition, expected):
    domains, years = ["movies", "books", "music", "movies", "news"], [1980, 2001, 1991, 2020, -1]
    table = Dataset.from_dict(
        {"text": list("abcde"), "domain": domains, "year": years, "a name": ["", "", "", "", "x"]}
    )
    path = tmp_path / f"a.{extension}"
    if extension == "hub":
        path = "someone/data"
        monkeypatch.setattr("modeling_mini.data.sources.load_dataset", lambda *a, **o: DatasetDict(train=table))
    else:
        {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[extension](str(path))
    assert texts(path, where=condition) == ["abcde"[i] for i in expected]
    assert f"{len(expected)} of 5 rows" in messages.text


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("domain = 'movies'", "this is not a condition"),
        ("", "this is not a condition"),
        ("domain == 'movies' and", "this is not a condition"),
        ("domian == 'movies'", "has no column 'domian'; its columns are text, domain, year"),
        ("__import__('os').system('true')", "is not a comparison"),
        ("len(domain) > 3", "is not a column, a text in quotes, a number or a list"),
        ("domain.upper() == 'A'", "is not a column"),
        ("[x for x in domain] == []", "is not a column"),
        ("domain == f'{year}'", "is not a column"),
        ("domain == 2 ** 99999", "is not a column"),
        ("lambda: 0", "is not a comparison"),
        ("domain", "is not a comparison"),
        ("1 == 1", "reads no column"),
        ("domain is None", "use == or !="),
        ("year in 'text'", "is not a list or a column"),
        ("domain == 'nothing'", "no row of .* remains"),
        ("year == '2000'", "line 1: 'year': 2000 and '2000' cannot be compared"),
        ("domain > 3", "line 1: 'domain': 'movies' and 3 cannot be compared"),
        ("not " * 5000 + "year == 1", "nested too deeply"),
        ("(" * 500 + "year == 1" + ")" * 500, "nested|this is not a condition"),
    ],
)
def test_a_wrong_condition_is_refused(tmp_path, condition, reason):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "t", "domain": "movies", "year": 2000}] * 5)
    with pytest.raises(UserError, match=reason) as error:
        rows(path, where=condition)
    assert "\n" not in str(error.value)


def test_a_sample_is_drawn_at_random_and_a_smaller_one_is_part_of_it(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"{i:04d}"} for i in range(1000)])

    def sample(seed, count):
        task = build(
            GENERATION, train_file=path, validation_file=path, split_seed=seed, max_validation_documents=count
        )
        return task.load()["validation"]["text"][:]

    large, small = sample(0, 100), sample(0, 20)
    assert large == sorted(large)
    assert {*small} < {*large}
    assert len({text[1] for text in large}) == 10  # from all of the file
    assert small == sample(0, 20) != sample(1, 20)
    assert len(sample(0, 2000)) == 1000
    train = build(GENERATION, dataset=path, max_train_documents=50).load()["train"]["text"][:]
    assert len(train) == 50
    assert max(train) > "0800"


def test_the_division_into_training_and_validation_never_changes(tmp_path):
    """A run can be evaluated on its validation documents years later."""
    lines = [{"text": f"{i}"} for i in range(60)]
    jsonl(tmp_path / "a.jsonl", lines)
    (tmp_path / "a.csv").write_text("text\n" + "\n".join(line["text"] for line in lines))
    Dataset.from_list(lines).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("\n\n".join(line["text"] for line in lines))
    for name in ("a.jsonl", "a.csv", "a.parquet", "a.txt"):
        for seed, expected in ((0, [16, 27, 20, 8, 42, 34]), (3, [22, 0, 3, 38, 37, 2])):
            arguments = {"split_seed": seed, "validation_fraction": 0.1, "text_unit": "paragraph"}
            splits = build(GENERATION, dataset=str(tmp_path / name), **arguments).load()
            assert [int(text) for text in splits["validation"]["text"]] == expected


def test_two_names_of_a_file_are_the_same_data(tmp_path, monkeypatch):
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    monkeypatch.chdir(tmp_path)
    assert is_same("a.jsonl", path)
    assert is_same("./a.jsonl", "a.jsonl")
    assert not is_same("b.jsonl", path)
    assert not is_same(None, path)
    assert not is_same("x" * 5000, path)  # longer than a file name can be


def test_a_heading_names_the_file_that_is_evaluated(tmp_path):
    path = jsonl(tmp_path / "test.jsonl", [{"text": "a"}])
    assert heading(TaskArguments(dataset=path), "train", divide=False) == path
    assert heading(TaskArguments(dataset=path), "validation", divide=True) == f"{path}, validation"
    assert heading(TaskArguments(dataset="python-docs"), "train", divide=False) == "python-docs, train"
    assert heading(TaskArguments(dataset="x", test_file=path), "test", divide=False) == path


# Answers


def squad(answers, context="Paris is the capital of France.", **question):
    return {"question": "Which?", "context": context, "answers": answers, **question}


def test_misplaced_answers_are_repaired_or_skipped_and_counted(tmp_path, messages):
    lines = [squad({"text": ["Paris", "capital"], "answer_start": [0, 13 + offset]}) for offset in (-2, -1, 0, 1, 2)]
    lines *= 20
    lines[7] = squad({"text": ["France"], "answer_start": [-7]}, id="seven")
    lines[8] = squad({"text": ["France"], "answer_start": [10]})
    lines[9] = squad({"text": ["France"], "answer_start": [10**9]})
    lines[10] = squad({"text": ["", "Paris"], "answer_start": [5, 1]})
    lines[11] = squad({"text": [" "], "answer_start": [5]})
    train = rows(jsonl(tmp_path / "a.jsonl", lines), "question-answering")["train"]
    assert len(train) == 97
    for row in train:
        starts = zip(row["answers.text"], row["answers.answer_start"])
        assert all(row["context"][start:].startswith(text) for text, start in starts)
    assert train[7]["answers.text"] == ["Paris"]
    assert train[8]["answers.text"] == []
    assert "3 of 100 examples of 'train' are skipped" in messages.text
    assert "line 8 (id seven): the answer 'France' is not at character -7" in messages.text
    sentence = refusal(jsonl(tmp_path / "b.jsonl", lines[:20]), "question-answering")
    assert sentence.startswith("3 of 20 examples of the split 'train' are wrong")


@pytest.mark.parametrize("task", ["question-answering", "generative-question-answering"])
def test_a_blank_answer_is_no_answer(tmp_path, task):
    path = jsonl(tmp_path / "a.jsonl", [squad({"text": [""], "answer_start": [0]})] * 3)
    assert rows(path, task)["train"][0]["answers.text"] == []
    assert "there is no answer" in refusal(path, task, unanswerable=False)


def test_squad_in_every_arrangement_gives_the_same_rows(tmp_path):
    flat = questions(12)
    listed = [
        row | {"answers": [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values())]} for row in flat
    ]
    articles = [
        {"title": "t", "paragraphs": [{"context": row["context"], "qas": [row | {"id": str(i)}]}]}
        for i, row in enumerate(listed)
    ]
    document = json.dumps({"version": "v2.0", "data": articles}, ensure_ascii=False)
    expected = rows(jsonl(tmp_path / "flat.jsonl", flat), "question-answering")
    for name, content in {
        "bom.json": "\ufeff" + document,
        "name.jsonl": document,
        "indented.json": json.dumps(json.loads(document), indent=1),
        "compressed.json.gz": document,
        "articles.json": json.dumps(articles),
        "articles.jsonl": "\n".join(map(json.dumps, articles)),
        "article.json": json.dumps({"paragraphs": [p for a in articles for p in a["paragraphs"]]}),
        "rows.jsonl": "\n".join(map(json.dumps, listed)),
        "rows.json": json.dumps(listed),
    }.items():
        data = content.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        assert rows(tmp_path / name, "question-answering") == expected, name
    (tmp_path / "latin.json").write_bytes(document.replace("one", "café").encode("latin-1"))
    assert "latin.json is not UTF-8 (byte 0xE9 at line 1)" in refusal(tmp_path / "latin.json", "question-answering")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (None, "answers holds null, not a list"),
        ({"text": "Paris"}, "answers holds dict, not a list"),
        ([{"text": "Paris"}], "key 'answer_start' is missing"),
        ([{"text": 3, "answer_start": 0}], "'answers.text' is not a list of texts"),
        ([{"text": "Paris", "answer_start": "0"}], "'answers.answer_start' is not a list of whole numbers"),
        ([{"text": "Paris", "answer_start": 10**30}], "which is not a position in a text"),
        ([{"text": "Paris", "answer_start": 10**400}], "holds a number of 401 digits"),
    ],
)
def test_squad_that_is_almost_so_is_refused(tmp_path, answers, reason):
    paragraph = {"context": "Paris is", "qas": [{"id": "q1", "question": "Which?", "answers": answers}]}
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    assert reason in refusal(path, "question-answering")
    assert "q1" in refusal(path, "question-answering")
    path.write_text('{"data": []}')
    assert "there is no example for train" in refusal(path, "question-answering")


def test_the_right_line_is_blamed_for_a_start(tmp_path):
    lines = [squad({"text": ["Paris"], "answer_start": [0]})] * 30
    wrong = squad({"text": ["Paris"], "answer_start": [10**30]})
    sentence = refusal(jsonl(tmp_path / "a.jsonl", [*lines, wrong, *lines]), "question-answering")
    assert "line 31: 'answers.answer_start' holds a number of 31 digits" in sentence


# Streams of the Hub


def test_a_condition_on_a_nested_column_of_a_stream():
    stream = IterableDataset.from_generator(lambda: ({"text": str(i), "meta": {"year": i}} for i in range(3)))
    filtered = _filtered(stream, "train", DataArguments(dataset="a/b", streaming=True), Where("meta.year == 1"))
    assert [row["text"] for row in filtered] == ["1"]


@pytest.mark.parametrize("column", ["text", "m.content"])
def test_a_stream_is_read_by_its_used_columns_alone(monkeypatch, column):
    """Rows may have columns that the first row does not have, and pictures that cannot be opened."""
    rows = [{"text": f"text {i}", "m": {"content": f"text {i}"}, **({"extra": 1} if i else {})} for i in range(600)]
    pictures = [{"text": row["text"], "m": row["m"], "picture": {"bytes": b"none", "path": None}} for row in rows]
    features = Features({"text": Value("string"), "m": {"content": Value("string")}, "picture": Image()})
    for made, known in ((rows, None), (pictures, features)):
        stream = IterableDataset.from_generator(lambda made=made: iter(made), features=known)
        monkeypatch.setattr(sources, "load_dataset", lambda *_, stream=stream, **__: DatasetDict(train=stream))
        loaded = build(GENERATION, dataset="a/b", streaming=True, columns=[f"text={column}"]).load()["train"]
        assert next(iter(loaded.batch(2))) == {"text": ["text 500", "text 501"]}


def test_a_nested_column_of_a_stream(monkeypatch):
    rows = [{"m": {"content": f"text {i}"}, "n": i} for i in range(600)]
    for features in (None, Dataset.from_list(rows).features):
        stream = IterableDataset.from_generator(lambda: iter(rows), features=features)
        monkeypatch.setattr(sources, "load_dataset", lambda *_, stream=stream, **__: DatasetDict(train=stream))
        arguments = {"dataset": "a/b", "streaming": True}
        loaded = build(GENERATION, **arguments, columns=["text=m.content"]).load()
        assert next(iter(loaded["train"])) == {"text": "text 500"}
        with pytest.raises(
            UserError, match="has no column 'm.text'; choose the text from (m.content, n|n, m.content) with"
        ):
            build(GENERATION, **arguments, columns=["text=m.text"]).load()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_is_read_once(tmp_path, monkeypatch, streaming):
    calls = []
    read = Table._checked_rows
    monkeypatch.setattr(Table, "_checked_rows", lambda self, verb: calls.append(self.name) or read(self, verb))
    splits = ("train", "validation")
    files = {f"{name}_file": jsonl(tmp_path / f"{name}.jsonl", [{"text": "a"}] * 9) for name in splits}
    build(GENERATION, streaming=streaming, **files).load()
    assert calls == [files["train_file"], files["validation_file"]]


# The cache


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "file" / "cache"))
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a"}] * 5)
    for source in (path, "someone/data", "python-docs"):
        assert refusal(source).startswith(f"The cache {tmp_path}/file/cache cannot be written: Not a directory")
    with monkeypatch.context() as full:
        full.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        open_file = pa.OSFile
        full.setattr(pa, "OSFile", lambda path, mode: open_file("/dev/full", mode))
        assert "No space left on device; free some space there" in refusal(path)
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_a_file_that_is_read_again_with_others_is_named_in_errors(tmp_path):
    good = jsonl(tmp_path / "a.jsonl", [{"source": "a", "target": "b"}] * 2)
    wrong = jsonl(tmp_path / "b.jsonl", [{"source": "a", "target": ""}] * 2)
    assert f"{wrong}, line 1" in refusal(good, "translation", train_file=good, validation_file=wrong)
    assert f"{wrong}, line 1" in refusal(wrong, "translation")


def test_a_text_that_arrow_cannot_hold_is_named(tmp_path, monkeypatch):
    def overflow(*_):
        raise pa.ArrowCapacityError("array cannot contain more than 2147483646 bytes")  # as of 2 GB

    monkeypatch.setattr("modeling_mini.data.tables._Writer.write", overflow)
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a"}] * 2)
    assert f"{path}, line 1: a text has more than 2 GB" in refusal(path)


def test_rows_are_read_again_if_anything_changes(tmp_path):
    path = Path(jsonl(tmp_path / "a.jsonl", [{"text": "a", "other": "x"}] * 2))
    fingerprints = set()
    for change in ({}, {"columns": ["text=other"]}, {"where": "other == 'x'"}):
        fingerprints |= {build(GENERATION, dataset=str(path), **change).load(divide=False)["train"]._fingerprint}
    jsonl(path, [{"text": "b", "other": "x"}] * 2)
    assert texts(path) == ["b", "b"]
    assert len(fingerprints) == 3
    again = [build(GENERATION, dataset=str(path)).load(divide=False)["train"]._fingerprint for _ in range(2)]
    assert again[0] == again[1] not in fingerprints


@pytest.mark.parametrize("extension", ["jsonl", "json"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("9" * 5000, "holds Infinity, or a number that is too large"),
        ("1e999", "holds Infinity, or a number that is too large"),
        ("-Infinity", "holds Infinity"),
        ("NaN", "holds NaN"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ],
)
def test_extreme_values_are_refused_where_they_are_used_and_ignored_elsewhere(tmp_path, extension, value, reason):
    lines = ['{"text": "a", "other": "b"}', f'{{"text": "c", "other": {value}}}']
    path = tmp_path / f"a.{extension}"
    path.write_text("\n".join(lines) if extension == "jsonl" else "[" + ",\n".join(lines) + "]")
    if "nested" in reason:
        assert f"line 2 is {reason}" in refusal(path)
    else:
        assert texts(path) == ["a", "c"]
    for arguments in ({"columns": ["text=other"]}, {"task": "text-classification", "columns": ["label=other"]}):
        sentence = refusal(path, **arguments)
        assert "line 2" in sentence
        assert reason in sentence
        assert len(sentence) < 400


@pytest.mark.parametrize("fraction", [1e-320, 1e-17])
def test_a_share_that_leaves_no_text_of_a_document_is_refused(tmp_path, fraction):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(UserError, match="cannot be split into training and validation"):
        build(GENERATION, dataset=str(tmp_path / "a.txt"), validation_fraction=fraction).load()
