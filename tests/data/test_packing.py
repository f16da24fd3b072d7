"""Stored rows are compact, but give the same batches as rows with 64-bit positions and labels; they are cached."""

import copy
import errno
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import NUMBERS, build, counting, jsonl, questions
from tokenizers import pre_tokenizers
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from modeling_mini.data.cache import source_cache
from modeling_mini.data.fingerprint import content_hash, tokenizer_hash
from modeling_mini.data.packing import (
    PackExamples,
    PackRows,
    TokenizeDocuments,
    UnpackRows,
    pack,
    row_lengths,
    slices_of_text,
    text_bytes,
)
from modeling_mini.loss_mini import IGNORED_LABEL
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tasks.text_to_text import EncodePairs
from modeling_mini.tokenization import train_tokenizer


pytestmark = pytest.mark.usefixtures("datasets_cache")

COLUMNS = ("input_ids", "position_ids", "labels")


def reference_rows(documents, block_size, pad_token_id):
    """Packed documents with all columns as 64-bit integers."""
    documents = [np.asarray(ids, dtype=np.int64) for ids in documents]
    step = block_size - 1
    total = sum(map(len, documents))
    num_rows = max(1, -(-(total - 1) // step))
    padding = num_rows * step + 1 - total
    tokens = np.concatenate([*documents, np.full(padding, pad_token_id)])
    starts = np.cumsum([0, *map(len, documents)])
    document_start = np.repeat(starts, [*map(len, documents), padding])
    labels = tokens.copy()
    labels[starts[:-1][starts[:-1] < total]] = IGNORED_LABEL
    labels[total:] = IGNORED_LABEL
    index = np.arange(num_rows)[:, None] * step + np.arange(block_size)
    positions = index - np.maximum(document_start[index], index[:, :1])
    has_target = (labels[index][:, 1:] != IGNORED_LABEL).any(axis=1)
    return tokens[index][has_target], positions[has_target], labels[index][has_target]


def reference_examples(examples, prompt_lengths, block_size, pad_token_id):
    """Packed examples with all columns as 64-bit integers."""
    pairs = sorted(zip(examples, prompt_lengths, strict=True), key=lambda pair: -len(pair[0]))
    rows, free = [], np.empty(0, dtype=int)
    for pair in pairs:
        fitting = np.flatnonzero(free >= len(pair[0]))
        if fitting.size == 0:
            rows.append([])
            free = np.append(free, block_size)
            fitting = [len(rows) - 1]
        rows[fitting[0]].append(pair)
        free[fitting[0]] -= len(pair[0])

    def fill(parts, filler):
        row = [value for part in parts for value in part]
        return row + [filler] * (block_size - len(row))

    positions = [
        [*(position for ids, _ in row for position in range(len(ids))), *range(room)]
        for row, room in zip(rows, free, strict=True)
    ]
    labels = [fill([[IGNORED_LABEL] * length + ids[length:] for ids, length in row], IGNORED_LABEL) for row in rows]
    return [fill([ids for ids, _ in row], pad_token_id) for row in rows], positions, labels


def as_rows(columns):
    """A dict of columns as a list of rows."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def assert_batch(rows, expected):
    """The collator's batch of these rows is the expected one, bit for bit and with the same type."""
    expected = [torch.tensor(np.array(column), dtype=torch.int64) for column in expected]
    if len(expected[0]) == 0:
        assert rows == []
        return
    batch = UnpackRows()(rows)
    assert set(batch) == set(COLUMNS)
    for name, column in zip(COLUMNS, expected, strict=True):
        assert batch[name].dtype == torch.int64
        assert torch.equal(batch[name], column), name


@functools.cache
def trained(kind, pre_tokenizer=None):
    """A tokenizer for the letters of this file's long documents."""
    tokenizer = train_tokenizer(["ab aab.\n\nab aba\n a. ab\nab", "\u00e9\u4f60"], kind, 280)
    if pre_tokenizer is not None:  # one that adds a space at the start of a text: no text can be divided
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


TOKENIZERS = {
    "bpe": lambda: trained("bpe"),
    "uncased": lambda: trained("uncased"),
    "char": lambda: trained("char"),
    "metaspace": lambda: trained("char", pre_tokenizer=pre_tokenizers.Metaspace()),
    "word": lambda: trained("char", pre_tokenizer=pre_tokenizers.Whitespace()),
}


documents_of_ids = st.lists(st.lists(st.integers(0, 99), max_size=40), min_size=1, max_size=30)


@given(documents_of_ids, st.integers(8, 33), st.integers(0, 99))
def test_packed_documents_give_the_reference_batches(documents, block_size, pad_token_id):
    rows = as_rows(PackRows(block_size, pad_token_id)({"input_ids": documents}))
    assert_batch(rows, reference_rows(documents, block_size, pad_token_id))
    if rows:
        assert sum(row["num_tokens"] for row in rows) == sum(map(len, documents))


@given(
    st.integers(8, 33).flatmap(
        lambda size: st.tuples(
            st.just(size),
            st.lists(
                st.lists(st.integers(0, 99), min_size=1, max_size=size).flatmap(
                    lambda ids: st.tuples(st.just(ids), st.integers(0, len(ids)))
                ),
                min_size=1,
                max_size=30,
            ),
        )
    )
)
def test_packed_examples_give_the_reference_batches(drawn):
    block_size, pairs = drawn
    examples, prompts = (list(column) for column in zip(*pairs, strict=True))
    counted = PackExamples(block_size, 7)({"input_ids": examples, "prompt_length": prompts, "n": [3] * len(pairs)})
    assert_batch(as_rows(counted), reference_examples(examples, prompts, block_size, 7))
    assert sum(counted["num_tokens"]) == sum(map(len, examples))
    assert sum(counted["n"]) == 3 * len(pairs)


def texts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(NUMBERS, size=rng.integers(1, 60))) for _ in range(count)]


def reference_of_texts(documents, tokenizer, block_size):
    """The batch of all rows of stored documents: 1,000 documents at a time, from the first."""
    ids = [
        [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        for text in documents
    ]
    batches = [reference_rows(ids[i : i + 1000], block_size, tokenizer.pad_token_id) for i in range(0, len(ids), 1000)]
    return [np.concatenate(columns) for columns in zip(*batches, strict=True)]


@pytest.mark.parametrize("workers", [None, 2, 3])
def test_stored_rows_are_the_same_with_any_number_of_processes(tokenizer, workers):
    documents = texts(2300)
    args = TaskArguments(block_size=32, preprocessing_workers=workers)
    data = pack(Dataset.from_dict({"text": documents}), tokenizer, args, "training")
    assert_batch(list(data.rows), reference_of_texts(documents, tokenizer, 32))
    assert data.num_bytes == sum(len(text.encode()) for text in documents)
    assert data.num_tokens == sum(len(tokenizer(text).input_ids) + 1 for text in documents)


def test_a_stream_has_the_rows_of_stored_documents(tokenizer):
    documents = texts(1500)
    args = TaskArguments(block_size=32, streaming=True, shuffle_buffer=1)
    stream = pack(Dataset.from_dict({"text": documents}).to_iterable_dataset(), tokenizer, args, "training").rows
    expected = reference_of_texts(documents, tokenizer, 32)
    assert_batch(list(stream.take(len(expected[0]))), expected)


def test_rows_take_little_more_than_the_bytes_of_their_tokens(tokenizer, tmp_path):
    data = pack(Dataset.from_dict({"text": texts(2000)}), tokenizer, TaskArguments(block_size=128), "training")
    assert data.rows.features["input_ids"].feature.dtype == "uint16"
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2.5 * data.num_tokens


def test_a_vocabulary_beyond_65536_is_stored_without_loss():
    rows = PackRows(8, 0)({"input_ids": [[70_000, 5, 65_536]]})
    assert rows["input_ids"].tolist() == [[70_000, 5, 65_536, 0, 0, 0, 0, 0]]
    large = train_tokenizer(["a b c"], "char", 20)
    large.add_tokens([f"<extra {i}>" for i in range(65_536)])
    data = pack(Dataset.from_dict({"text": ["<extra 65535> a b c"]}), large, TaskArguments(block_size=8), "training")
    assert 65_540 < max(data.rows[0]["input_ids"]) == max(large.get_vocab().values())


def test_a_small_vocabulary_takes_one_byte_a_token():
    characters = train_tokenizer(["abc"], "char", 20)
    data = pack(Dataset.from_dict({"text": ["abc" * 9]}), characters, TaskArguments(block_size=8), "training")
    assert data.rows.features["input_ids"].feature.dtype == "uint8"


@pytest.mark.parametrize("name", ["training", "validation"])
def test_masks_are_those_of_the_collator_of_transformers(tokenizer, name):
    task = build("fill-mask", dataset="unused", block_size=16)
    documents = texts(900)
    data = task.encode(Dataset.from_dict({"text": documents}), tokenizer, name)
    ids, positions, _ = reference_of_texts(documents, tokenizer, 16)
    assert len(ids) > 1000, "the masks of the second batch continue those of the first"
    rows = [{"input_ids": i, "position_ids": p} for i, p in zip(ids.tolist(), positions.tolist(), strict=True)]
    mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=1 if name == "validation" else None)
    collate = task.collator(tokenizer)
    if name == "training":
        with collate.seeded(list(data.rows)):
            expected = mask(rows)
    else:
        inputs = [{"input_ids": row["input_ids"]} for row in rows]
        batches = [mask(inputs[i : i + 1000]) for i in range(0, len(inputs), 1000)]
        expected = {key: torch.cat([batch[key] for batch in batches]) for key in ("input_ids", "labels")}
        expected["position_ids"] = torch.tensor(positions)
    batch = collate(list(data.rows))
    assert set(batch) == set(expected)
    for key, values in expected.items():
        assert batch[key].dtype == torch.int64
        assert torch.equal(batch[key], values), key


def test_pairs_are_counted_and_packed_as_before_they_are_stored(tokenizer):
    task = build("translation", dataset="unused", block_size=48, max_target_tokens=6)
    pairs = Dataset.from_list(counting(1200))
    data = task.encode(pairs, tokenizer, "training")
    expected = [[], [], []]
    for start in (0, 1000):
        batch = EncodePairs(task, tokenizer)(pairs[start : start + 1000])
        columns = reference_examples(batch["input_ids"], batch["prompt_length"], 48, tokenizer.pad_token_id)
        expected = [old + new for old, new in zip(expected, columns, strict=True)]
    assert_batch(list(data.rows), expected)
    assert data.num_bytes == sum(len((pair["source"] + pair["target"]).encode()) for pair in pairs)
    assert data.num_tokens == sum(len(ids) - ids.count(tokenizer.pad_token_id) for ids in expected[0])


@pytest.mark.parametrize("name", ["text-classification", "question-answering"])
def test_rows_of_one_example_are_stored_in_small_types_and_batches_in_int64(tokenizer, name):
    task = build(name, dataset="unused", block_size=32)
    if name == "text-classification":
        task.labels = ["one", "two"]
        examples = Dataset.from_list([{"text": text, "label": text.split()[0]} for text in ("one two", "two", "one")])
    else:
        examples = Dataset.from_list(questions(8)).flatten()
    data = task.encode(examples, tokenizer, "training")
    types = {getattr(feature, "feature", feature).dtype for feature in data.rows.features.values()}
    assert types <= {"uint8", "uint16"}
    batch = task.collator(tokenizer)([data.rows[i] for i in range(3)])
    assert {values.dtype for values in batch.values()} == {torch.int64}
    assert data.num_tokens == sum(len(ids) for ids in data.rows["input_ids"])


def prepared(path, tokenizer, **options):
    args = TaskArguments(dataset=str(path), block_size=16, **options)
    documents = load_dataset("json", data_files=str(path), split="train")
    return pack(documents, tokenizer, args, "training")


def test_a_second_run_tokenizes_nothing_and_a_changed_file_is_tokenized_again(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / "a.jsonl"
    jsonl(path, [{"text": text} for text in texts(50)])
    first = prepared(path, tokenizer)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = type(tokenizer).from_pretrained(tmp_path / "tokenizer")  # as in a run that is resumed
    loaded(["one two", "three"], truncation=True, max_length=2, padding=True)
    with monkeypatch.context() as patch:
        patch.setattr(TokenizeDocuments, "__call__", None)  # would fail if it ran
        assert prepared(path, loaded).rows[:] == first.rows[:]
        assert prepared(path, loaded, preprocessing_workers=2).rows[:] == first.rows[:]
        with pytest.raises(TypeError):
            prepared(path, train_tokenizer(["one"], vocab_size=300))
    jsonl(path, [{"text": text} for text in texts(50, seed=1)])
    changed = prepared(path, tokenizer)
    assert changed.rows[:] != first.rows[:]
    assert changed.fingerprint != first.fingerprint


def test_the_same_text_at_another_place_is_not_tokenized_again(tmp_path, tokenizer, monkeypatch):
    documents = texts(1200)
    first = pack(Dataset.from_dict({"text": documents}), tokenizer, TaskArguments(block_size=16), "training").rows
    monkeypatch.setattr(TokenizeDocuments, "__call__", None)
    backwards = Dataset.from_dict({"text": documents[::-1]}).select(range(1199, -1, -1))  # with a mapping of indices
    shards = [Dataset.from_dict({"text": part}) for part in (documents[:7], documents[7:])]
    stored = load_dataset("json", data_files=jsonl(tmp_path / "a.jsonl", [{"text": text} for text in documents]))[
        "train"
    ]
    for examples in (backwards, datasets.concatenate_datasets(shards), stored):
        assert pack(examples, tokenizer, TaskArguments(block_size=16), "training").rows[:] == first[:]


RUN = """
import json, sys
from made_data import build, number_tokenizer
from modeling_mini.data.packing import TokenizeDocuments
from modeling_mini.tasks.fill_mask import MaskRows
from modeling_mini.tasks.question_answering import EncodeWindows
from modeling_mini.tasks.text_classification import EncodeTexts
from modeling_mini.tasks.text_to_text import EncodePairs

steps = TokenizeDocuments, MaskRows, EncodeWindows, EncodeTexts, EncodePairs
if sys.argv[1] == "again":
    for step in steps:
        step.__call__ = None  # would fail if it ran
tokenizer = number_tokenizer()
for name, path in json.loads(sys.argv[2]).items():
    task = build(name, dataset=path, block_size=64, max_target_tokens=8)
    for split, examples in task.load().items():
        data = task.encode(examples, tokenizer, split)
        print(name, split, data.fingerprint, data.num_tokens)
"""


@pytest.mark.slow
def test_another_process_reuses_the_rows_of_each_task(tmp_path, run_python):
    lines = [{"text": text, "label": text.split()[0]} for text in texts(50)]
    (tmp_path / "lines.txt").write_text("\n\n".join(line["text"] for line in lines))
    files = {
        "text-generation": jsonl(tmp_path / "texts.jsonl", lines),
        "fill-mask": str(tmp_path / "lines.txt"),
        "text-classification": jsonl(tmp_path / "labels.jsonl", lines),
        "question-answering": jsonl(tmp_path / "questions.jsonl", questions(40)),
        "generative-question-answering": jsonl(tmp_path / "same-questions.jsonl", questions(40)),
        "translation": jsonl(tmp_path / "pairs.jsonl", counting(40)),
    }
    script = f"import sys\nsys.path.append({str(Path(__file__).parents[1])!r})\n{RUN}"
    first, again = (
        run_python(script, run, json.dumps(files), cache=tmp_path / "cache", installed=True)
        for run in ("first", "again")
    )
    assert again.returncode == 0, again.stderr
    assert first.stdout == again.stdout
    assert first.stdout.count("\n") == 12


def test_nothing_is_kept_if_caching_is_disabled(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / "a.jsonl"
    jsonl(path, [{"text": text} for text in texts(50)])
    datasets.disable_caching()
    try:
        first, second = (prepared(path, tokenizer).rows for _ in range(2))
    finally:
        datasets.enable_caching()
    assert first[:] == second[:]
    assert first.cache_files != second.cache_files
    assert not (tmp_path / "cache" / "modeling_mini").exists()


def test_a_full_disk_raises_its_error_and_leaves_no_rows(tmp_path, tokenizer, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("datasets.arrow_writer.ArrowWriter.write_table", full)
    with pytest.raises(OSError) as error:
        pack(Dataset.from_dict({"text": texts(50)}), tokenizer, TaskArguments(block_size=16), "training")
    assert error.value.errno == errno.ENOSPC
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_fingerprint_is_of_the_content(tokenizer):
    documents = texts(1300)

    def fingerprint(documents, block_size=16):
        args = TaskArguments(block_size=block_size)
        return pack(Dataset.from_dict({"text": documents}), tokenizer, args, "training").fingerprint

    assert fingerprint(documents) == fingerprint(list(documents))
    assert fingerprint(documents) != fingerprint(documents, block_size=17)
    assert fingerprint(documents) != fingerprint([*documents[:-1], documents[-1] + " one"])


VALUES = [
    [[1, 2], [3], [], [4, 5, 6]],
    [[1], [2, 3], [], [4, 5, 6]],
    ["a", "bc", "", "d"],
    ["ab", "c", "", "d"],
    ["ab", "c", None, "d"],
    [["a"], [], ["bc", "d"], ["e"]],
    [["a"], [], ["b", "cd"], ["e"]],
    [{"x": 1}, {"x": 2}, {"x": 3}, {"x": 4}],
    [1.5, 2.0, None, 4.0],
]


def test_the_hash_of_content_depends_on_values_and_not_on_where_they_are_stored():
    hashes = set()
    for values in VALUES:
        rows = Dataset.from_dict({"a": values})
        parts = [rows.select([0, 1]), rows.select([2, 3])]
        backwards = Dataset.from_dict({"a": values[::-1]})
        expected = content_hash(rows)
        assert expected == content_hash(datasets.concatenate_datasets(parts))
        assert expected == content_hash(backwards.select([3, 2, 1, 0]))
        hashes |= {expected, content_hash(backwards), content_hash(rows.rename_column("a", "b"))}
    assert len(hashes) == 3 * len(VALUES)


def test_the_fingerprint_of_a_stream_is_that_of_its_first_rows(tokenizer):
    def fingerprint(documents):
        stream = Dataset.from_dict({"text": documents}).to_iterable_dataset()
        return pack(stream, tokenizer, TaskArguments(block_size=16, streaming=True), "training").fingerprint

    documents = texts(40)
    assert fingerprint(documents) == fingerprint(documents)
    assert fingerprint(documents) != fingerprint(documents[1:])
    assert fingerprint(["one"] * 1000 + ["two"]) == fingerprint(["one"] * 1000)


def test_a_tokenizer_with_another_special_token_has_another_key(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.bos_token = other.eos_token
    assert tokenizer_hash(other) != tokenizer_hash(tokenizer) == tokenizer_hash(copy.deepcopy(tokenizer))


@given(st.lists(st.text("ab", max_size=30)), st.integers(1, 40))
@settings(deadline=None)
def test_slices_of_text_hold_each_text_once_and_few_characters(documents, characters):
    slices = slices_of_text(documents, characters)
    assert [text for part in slices for text in part] == documents
    longest = max(map(len, documents), default=0)
    assert all(sum(map(len, part)) <= characters + longest for part in slices)


@pytest.mark.parametrize("kind", ["bpe", "uncased", "char", "word", "metaspace"])
@given(st.text("abA .\n\u0301\u00e9\u4f60", max_size=400))
@settings(deadline=None, max_examples=30)
def test_a_long_document_is_tokenized_in_parts_without_another_token(kind, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modeling_mini.data.packing.CHARACTERS_AT_ONCE", 20)
        tokenize = TokenizeDocuments(TOKENIZERS[kind]())
        (ids,) = tokenize({"text": [text]})["input_ids"]
    expected = tokenize.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ids.tolist() == [tokenize.tokenizer.bos_token_id, *expected, tokenize.tokenizer.eos_token_id]


def test_a_long_document_is_tokenized_in_parts_of_a_million_characters(tokenizer, monkeypatch):
    lengths = []

    def tokenize(self, texts):
        lengths.append(sum(map(len, texts)))
        return [[]] * len(texts)

    monkeypatch.setattr(TokenizeDocuments, "_ids", tokenize)
    TokenizeDocuments(tokenizer)({"text": ["one two\n" * 700_000]})
    assert sum(lengths) > 5_600_000
    assert max(lengths) < 2_100_000


def test_bytes_and_lengths_are_counted_without_python_lists():
    examples = Dataset.from_dict({"text": ["né", "", "你好"], "other": ["a", "b", "c"]})
    assert text_bytes(examples, ["text"]) == 3 + 0 + 6
    assert text_bytes(examples.select([2, 0]), ["text", "other"]) == 6 + 3 + 2
    assert row_lengths(Dataset.from_dict({"input_ids": [[1], [], [2, 3]]}).select([2, 0])).tolist() == [2, 1]


def test_rows_can_be_grouped_by_length(tokenizer, tiny_model, tmp_path):
    from modeling_mini import MiniForSequenceClassification

    task = build("text-classification", dataset="unused", block_size=64)
    task.labels = ["a", "b"]
    examples = Dataset.from_list([{"text": text, "label": "a"} for text in texts(400)])
    args = TrainingArguments(
        tmp_path / "run",
        train_sampling_strategy="group_by_length",
        per_device_train_batch_size=4,
        remove_unused_columns=False,
        use_cpu=True,
    )
    trainer = Trainer(
        tiny_model(MiniForSequenceClassification, vocab_size=len(tokenizer), num_labels=2),
        args,
        task.collator(tokenizer),
        task.encode(examples, tokenizer, "training").rows,
    )
    batches = [batch["attention_mask"] for batch in trainer.get_train_dataloader()]
    assert sum(mask.sum().item() for mask in batches) > 0.9 * sum(mask.numel() for mask in batches)


def test_groups_are_divided_as_by_their_values():
    from modeling_mini.data.splits import _divide_at_random

    contexts = [f"context {i * 7 % 23}" for i in range(200)]
    examples = Dataset.from_dict({"context": contexts, "number": range(200)}).select(range(150, 20, -1))
    train, validation = _divide_at_random(examples, TaskArguments(validation_fraction=0.3, split_seed=4), "context")
    unique = Dataset.from_dict({"group": list(dict.fromkeys(examples["context"]))})
    held_out = set(unique.train_test_split(test_size=0.3, seed=4)["test"]["group"])
    assert validation["number"][:] == [row["number"] for row in examples if row["context"] in held_out]
    assert train["number"][:] == [row["number"] for row in examples if row["context"] not in held_out]


SOURCES = """
import datasets, os, sys
datasets.config.HF_DATASETS_CACHE = sys.argv[1]
from modeling_mini.data.cache import source_cache
folder = source_cache()
(folder / "text.arrow").write_text("text")
print(folder)
if sys.argv[2] == "killed":
    sys.stdout.flush()
    os.kill(os.getpid(), 9)
"""


def run_reader(cache, end):
    finished = subprocess.run([sys.executable, "-c", SOURCES, cache, end], capture_output=True, text=True, check=False)
    return finished.stdout.strip()


def test_texts_are_removed_after_the_run_and_those_of_a_killed_run_by_the_next(tmp_path):
    cache = tmp_path / "cache"
    own = source_cache()
    assert source_cache() == own, "all files of a run are in one folder"
    killed = run_reader(cache, "killed")
    assert os.path.exists(killed)
    ended = run_reader(cache, "ends")
    assert ended
    assert not os.path.exists(ended)
    assert not os.path.exists(killed), "the next run removes what a killed run left"
    assert own.exists(), "the folder of a running process stays"
    assert {path.name for path in own.parent.iterdir()} == {own.name, f"{own.name}.lock"}


def test_the_processes_of_a_run_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # read by the processes that this one starts: it is their parent
    folders = {run_reader(tmp_path / "cache", "killed") for _ in range(2)}
    assert len(folders) == 1
