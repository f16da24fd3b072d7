"""From documents to rows: no token is lost, predicted twice, or predicted from another document."""

import copy
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from modeling_mini import MiniConfig, MiniForCausalLM
from modeling_mini.data.builtin.python_docs import python_documents
from modeling_mini.data.packing import PackRows, UnpackRows, check_training_rows, pack
from modeling_mini.data.splits import load_splits
from modeling_mini.errors import UserError
from modeling_mini.loss_mini import IGNORED_LABEL
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tasks.text_generation import TextGeneration
from modeling_mini.tokenization import train_tokenizer


TEXTS = [f"Document {i} says: {'word ' * (i % 7)}and ends.\n" for i in range(40)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=300)


def load_documents(args: TaskArguments) -> tuple:
    splits = load_splits(args, TextGeneration(args))
    return splits["train"], splits["validation"]


def with_truncated_line(path: Path) -> Path:
    """Truncate the fourth line of a file."""
    lines = path.read_text().splitlines()
    lines[3] = lines[3][:20]
    path.write_text("\n".join(lines) + "\n")
    return path


def write(path: Path, texts: list[str]) -> Path:
    if path.suffix == ".txt":
        path.write_text("\n\n".join(texts))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    elif path.suffix == ".csv":
        Dataset.from_dict({"id": range(len(texts)), "text": texts}).to_csv(path)
    else:
        Dataset.from_dict({"id": range(len(texts)), "text": texts}).to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_each_document_of_a_table_is_in_exactly_one_split(tmp_path, name):
    train, validation = load_documents(TaskArguments(dataset=str(write(tmp_path / name, TEXTS))))
    assert train.column_names == validation.column_names == ["text"]
    assert len(validation) == 2  # 5 % of 40
    assert sorted([*train["text"], *validation["text"]]) == sorted(TEXTS)


def test_the_split_depends_on_the_seed(tmp_path):
    path = str(write(tmp_path / "a.jsonl", TEXTS))
    first, again, other = (
        load_documents(TaskArguments(dataset=path, split_seed=seed))[1]["text"][:] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_compressed_file_gives_the_same_documents(tmp_path):
    plain = write(tmp_path / "a.jsonl", TEXTS)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    texts = [load_documents(TaskArguments(dataset=str(path)))[0]["text"][:] for path in (plain, packed)]
    assert texts[0] == texts[1]


def test_a_single_text_is_split_at_a_line_near_its_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {i}\n" for i in range(100)))
    train, validation = load_documents(TaskArguments(dataset=str(path), validation_fraction=0.1))
    assert len(train) == len(validation) == 1
    assert train[0]["text"] + validation[0]["text"] == path.read_text()
    assert validation[0]["text"].startswith("line 9")
    assert train[0]["text"].endswith("\n")


def test_paragraphs_and_lines_of_a_text_can_be_documents(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\nthree\nfour\n\nfive\n")
    for unit, count in (("paragraph", 3), ("line", 5)):
        train, validation = load_documents(TaskArguments(dataset=str(path), text_unit=unit, validation_fraction=0.3))
        assert len(train) + len(validation) == count


def test_file_names_in_a_folder_give_the_splits(tmp_path):
    write(tmp_path / "train.jsonl", TEXTS[:30])
    write(tmp_path / "validation.jsonl", TEXTS[30:])
    train, validation = load_documents(TaskArguments(dataset=str(tmp_path)))
    assert train["text"][:] == TEXTS[:30]
    assert validation["text"][:] == TEXTS[30:]


def test_each_text_file_of_a_folder_is_a_document(tmp_path):
    for i, text in enumerate(TEXTS[:10]):
        (tmp_path / f"{i}.txt").write_text(text)
    train, validation = load_documents(TaskArguments(dataset=str(tmp_path), validation_fraction=0.2))
    assert sorted([*train["text"], *validation["text"]]) == sorted(TEXTS[:10])


def test_the_column_and_the_number_of_documents_can_be_chosen(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": text, "text": 1}) + "\n" for text in TEXTS))
    args = TaskArguments(dataset=str(path), columns=["text=body"], max_train_documents=5, max_validation_documents=1)
    train, validation = load_documents(args)
    assert (len(train), len(validation)) == (5, 1)
    assert set(train["text"]) <= set(TEXTS)


def test_the_first_documents_of_a_stream_are_held_out(tmp_path):
    path = write(tmp_path / "a.jsonl", TEXTS)
    args = TaskArguments(dataset=str(path), streaming=True, max_validation_documents=4)
    train, validation = load_documents(args)
    assert validation["text"][:] == TEXTS[:4]
    assert [document["text"] for document in train] == TEXTS[4:]


def test_streamed_rows_equal_the_rows_of_the_stored_corpus(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", TEXTS)
    rows = {}
    for streaming in (False, True):
        args = TaskArguments(dataset=str(path), streaming=streaming, block_size=16, max_validation_documents=4)
        documents = load_documents(args)[0] if streaming else Dataset.from_dict({"text": TEXTS[4:]})
        packed = pack(documents, tokenizer, args, "training").rows
        packed = packed.take(len(rows[False])) if streaming else packed  # a stream is repeated
        batch = UnpackRows()(list(packed))
        rows[streaming] = sorted(zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True))
    assert rows[False] == rows[True]


@pytest.mark.parametrize(
    ("make", "arguments", "sentence"),
    [
        (lambda d: d / "nothing.txt", {}, "no such file or folder"),
        (
            lambda d: write(d / "a.jsonl", TEXTS),
            {"columns": ["text=body"]},
            "no column 'body'; choose the text from id, text with",
        ),
        (lambda d: write(d / "a.jsonl", TEXTS), {"columns": ["text=id"]}, "'id' holds int, but must hold text"),
        (lambda d: write(d / "a.jsonl", TEXTS), {"train_split": "learn"}, "no split 'learn'; choose one of train"),
        (lambda d: write(d / "a.jsonl", TEXTS), {"block_size": 4}, "--block_size is 4"),
        (lambda d: write(d / "a.jsonl", TEXTS), {"validation_fraction": 1.5}, "--validation_fraction is 1.5"),
        (lambda d: write(d / "a.jsonl", TEXTS), {"max_train_documents": 0}, "--max_train_documents is 0"),
        (lambda d: write(d / "a.jsonl", [" ", "\n"]), {}, "has no text: every document is empty"),
        (lambda d: d.joinpath("a.jsonl").write_text('{"text": "x"}\n{"text": \n') and d / "a.jsonl", {}, "line 2"),
        (lambda d: write(d / "a.jsonl", TEXTS[:2]), {"validation_fraction": 0.99}, "leaves nothing on one side"),
        (lambda d: d.joinpath("empty").mkdir() or d / "empty", {}, "the folder holds no file with the extension"),
        (
            lambda d: d.joinpath("a.jsonl").write_text('{"text": "x"}\n' * 700 + '{"text": \n') and d / "a.jsonl",
            {"streaming": True},
            "line 701 is not JSON",
        ),
        (
            lambda d: d.joinpath("a.txt").write_bytes(b"caf\xe9 \n" * 9) and d / "a.txt",
            {},
            r"a\.txt is not UTF-8 \(byte 0xE9 at line 1\); convert it",
        ),
        (
            lambda d: d.joinpath("a.txt").write_bytes(b"caf\xe9 \n" * 9) and d / "a.txt",
            {"streaming": True},
            r"a\.txt is not UTF-8 \(byte 0xE9 at line 1\); convert it",
        ),
        (lambda d: d.joinpath("a.docx").write_text("x") and d / "a.docx", {}, "its extension is not one of"),
        (lambda d: with_truncated_line(write(d / "a.jsonl", TEXTS)), {}, "line 4 is not JSON"),
        (lambda d: with_truncated_line(write(d / "train.jsonl", TEXTS)).parent, {}, "train.jsonl, line 4 is not JSON"),
        (lambda d: d.joinpath("a.csv").write_text("text\n") and d / "a.csv", {}, "there is no example for train"),
        (lambda d: write(d / "a.jsonl", TEXTS), {"columns": ["text=a", "text=b"]}, "name each column once"),
        (lambda d: d.joinpath("a.txt").write_text("one line") and d / "a.txt", {}, "cannot be split"),
    ],
)
def test_a_wrong_source_or_argument_is_refused_with_a_reason(tmp_path, make, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        load_documents(TaskArguments(dataset=str(make(tmp_path)), **arguments))


def packed_batch(documents, block_size=8):
    """The batch of all rows of documents of token ids."""
    rows = PackRows(block_size, pad_token_id=0)({"input_ids": documents})
    return UnpackRows()([dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)])


def test_each_token_except_the_first_of_a_document_is_a_target_once():
    generator = np.random.default_rng(0)
    documents = [generator.integers(5, 99, size=size).tolist() for size in (3, 1, 17, 8, 2, 40, 1)]
    rows = packed_batch(documents)
    targets = rows["labels"][:, 1:]
    targets = sorted(targets[targets != IGNORED_LABEL].tolist())
    assert targets == sorted(token for document in documents for token in document[1:])


def test_positions_restart_with_each_document_and_each_row():
    rows = packed_batch([[1, 11, 12, 2], [1, 21, 22, 23, 24, 25, 2]])
    assert rows["input_ids"].tolist() == [[1, 11, 12, 2, 1, 21, 22, 23], [23, 24, 25, 2, 0, 0, 0, 0]]
    assert rows["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 2, 3]]
    x = IGNORED_LABEL
    assert rows["labels"].tolist() == [[x, 11, 12, 2, x, 21, 22, 23], [23, 24, 25, 2, x, x, x, x]]


def test_the_loss_of_packed_rows_equals_the_loss_of_separate_documents():
    torch.manual_seed(0)
    model = MiniForCausalLM(MiniConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2))
    documents = [torch.randint(5, 64, (size,)).tolist() for size in (5, 9, 3, 12)]
    # 29 tokens in one row: no document is split, so the two sums must be equal
    packed = model(**packed_batch(documents, block_size=32))
    separate = [model(torch.tensor([ids]), labels=torch.tensor([ids])).loss * (len(ids) - 1) for ids in documents]
    targets = sum(len(ids) - 1 for ids in documents)
    torch.testing.assert_close(packed.loss, sum(separate) / targets, rtol=1e-5, atol=1e-6)


def test_tokens_and_bytes_are_counted(tokenizer):
    texts = ["héllo", "你好"]
    text = pack(Dataset.from_dict({"text": texts}), tokenizer, TaskArguments(block_size=8), "training")
    assert text.num_bytes == 6 + 6
    assert text.num_documents == 2
    assert text.num_tokens == sum(len(tokenizer(t).input_ids) + 1 for t in texts)


def test_names_of_special_tokens_in_a_document_are_plain_text(tokenizer):
    text = pack(Dataset.from_dict({"text": ["a <eos> b"]}), tokenizer, TaskArguments(block_size=64), "training")
    ids = text.rows[0]["input_ids"][: text.num_tokens]
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids[1:-1]) == "a <eos> b"


def test_rows_do_not_depend_on_the_number_of_processes(tokenizer):
    documents = Dataset.from_dict({"text": TEXTS})
    one, two = (
        pack(documents, tokenizer, TaskArguments(block_size=16, preprocessing_workers=n), "training").rows[:]
        for n in (None, 2)
    )
    assert one == two


def test_too_little_text_is_refused(tokenizer):
    args = TaskArguments(block_size=64)
    short = pack(Dataset.from_dict({"text": ["a b"]}), tokenizer, args, "training")
    with pytest.raises(UserError, match="fewer than one row of --block_size 64"):
        check_training_rows(short, args)


def test_documents_of_a_single_token_are_refused(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = bare.eos_token = None
    single = Dataset.from_dict({"text": ["a"] * 20})  # one token each, without bos and eos
    args = TaskArguments(block_size=8)
    with pytest.raises(UserError, match="more than one token, so there is no token to predict"):
        check_training_rows(pack(single, bare, args, "training"), args)


def test_a_stream_with_only_held_out_documents_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(UserError, match="no document after the 500 that are held out"):
        load_documents(TaskArguments(dataset=str(path), streaming=True))


def test_the_built_in_corpus_has_about_two_million_characters_without_duplicates():
    documents = list(python_documents())
    assert 1_500_000 < sum(len(document["text"]) for document in documents) < 4_000_000
    assert len({document["text"] for document in documents}) == len(documents)
    assert sum(document["name"].startswith("topic") for document in documents) > 50
    assert not any("/test/" in document["name"] for document in documents)


def test_packed_rows_are_cached(tmp_path, tokenizer, monkeypatch):
    path = write(tmp_path / "a.jsonl", TEXTS)
    args = TaskArguments(dataset=str(path), block_size=16)
    first = pack(load_documents(args)[0], tokenizer, args, "training")
    monkeypatch.setattr(PackRows, "__call__", None)  # would fail if it ran
    again = pack(load_documents(args)[0], tokenizer, args, "training")
    assert again.rows[:] == first.rows[:]
