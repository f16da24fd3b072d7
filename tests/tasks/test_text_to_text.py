"""Text-to-text tasks: prompt, separator and target, their packing, truncation, loss and decoding."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from made_data import build, counting

from modeling_mini import MiniForCausalLM
from modeling_mini.data.packing import PackExamples, UnpackRows
from modeling_mini.loss_mini import IGNORED_LABEL
from modeling_mini.tasks.summarization import first_sentence
from modeling_mini.tasks.translation import _recommend_chrf, placeholder_recall


pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_packed_examples_are_whole_and_only_targets_have_labels():
    rng = np.random.default_rng(0)
    examples = [rng.integers(5, 99, size=size).tolist() for size in (9, 3, 30, 12, 7, 31, 2, 16)]
    prompts = [len(ids) // 2 for ids in examples]
    rows = PackExamples(block_size=32, pad_token_id=0)({"input_ids": examples, "prompt_length": prompts})
    assert len(rows["input_ids"]) == 4  # 110 tokens: as few rows as possible
    batch = UnpackRows()([dict(zip(rows, values)) for values in zip(*rows.values())])
    packed = []
    for ids, positions, labels in zip(*(batch[name].tolist() for name in ("input_ids", "position_ids", "labels"))):
        assert len(ids) == len(positions) == len(labels) == 32
        starts = [*np.flatnonzero(np.asarray(positions) == 0), 32]
        parts = [slice(start, end) for start, end in itertools.pairwise(starts)]
        packed += [(ids[part], labels[part]) for part in parts if any(ids[part])]
        assert all(label == IGNORED_LABEL for part in parts if not any(ids[part]) for label in labels[part])
    expected = [(ids, [IGNORED_LABEL] * n + ids[n:]) for ids, n in zip(examples, prompts)]
    assert sorted(packed) == sorted(expected)


def test_packed_loss_equals_the_loss_of_each_target_alone(tokenizer, tiny_model):
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
    assert targets == sum(len(tokenizer(pair["target"]).input_ids) for pair in pairs)  # its bos counts for eos
    assert nats == pytest.approx(expected, rel=1e-4)


def test_batched_decoding_equals_decoding_each_example_alone(tokenizer, tiny_model):
    task = build("translation", dataset="unused", block_size=96, max_target_tokens=12)
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
    pairs = Dataset.from_list(counting(7))
    together = task.predict(model, tokenizer, pairs, batch_size=4)
    alone = [task.predict(model, tokenizer, pairs.select([i]))[0] for i in range(len(pairs))]
    assert together == alone


def test_source_and_target_are_truncated_and_only_a_whole_target_has_eos(tokenizer):
    task = build("translation", dataset="unused", block_size=32, max_target_tokens=8)
    long = Dataset.from_list([{"source": "one " * 50, "target": "deux " * 50}, {"source": "one", "target": "un"}])
    rows = task.encode(long, tokenizer, "training").rows
    ids = next(row["input_ids"] for row in rows if len(row["input_ids"]) - row["input_ids"].count(0) >= 31)
    assert len(rows) == 2
    assert ids[: task.source_length + 2].count(tokenizer.eos_token_id) == 1
    assert ids.count(tokenizer.eos_token_id) == 1
    no_source = build("translation", dataset="unused", block_size=32, max_target_tokens=8, max_source_tokens=0)
    short = no_source.encode(long.select([1]), tokenizer, "training").rows[0]["input_ids"]
    assert short[:2] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert short.count(tokenizer.eos_token_id) == 2


def test_truncated_targets_are_reported_with_their_option_and_their_cost(tokenizer, caplog):
    task = build("translation", dataset="unused", block_size=32, max_target_tokens=8)
    rows = [{"source": "one " * 50, "target": "deux " * 50}, {"source": "one", "target": "un"}]
    with caplog.at_level("INFO"):
        task.encode(Dataset.from_list(rows), tokenizer, "training")
    source, target = caplog.messages
    assert "50.0% of the training examples have their source truncated to 21 tokens (--block_size" in source
    assert "their target truncated to 8 tokens (raise --max_target_tokens: from a truncated target, the" in target
    assert "does not learn where to stop" in target


def test_placeholders_are_scored_only_if_there_are_enough():
    references = ["open %s and %d"] * 9
    assert placeholder_recall(["open %s"] * 9, references) == {}
    scores = placeholder_recall(["open %s and"] * 10, [*references, "%s and %d"])
    assert scores == {"placeholder_recall": 50, "placeholder_recall_interval": [50, 50]}
    assert placeholder_recall(["open"], ["%s " * 20]) == {"placeholder_recall": 0}


@pytest.mark.parametrize(
    ("target", "weak"), [("ไทยนี้รักสงบ", True), ("ភាសាខ្មែរ", True), ("Кошка сидит дома тут", False)]
)
def test_chrf_comes_first_where_bleu_counts_characters(target, weak, caplog):
    _recommend_chrf.cache_clear()
    examples = Dataset.from_list([{"source": "x", "target": target}] * 2)
    for _ in range(2):
        scores = build("translation").score([target, target[:-1]], examples)
    assert next(iter(scores)) == ("chrf" if weak else "bleu")
    assert caplog.text.count("prefer chrF") == int(weak)
    assert scores["bleu"] > 40


@pytest.mark.parametrize(
    "summary", ["Кошка сидит", "고양이가 앉아 있다", "η γάτα κάθεται", "القطة تجلس", "แมวนั่งอยู่", "猫坐着"]
)
def test_an_identical_summary_is_perfect_in_any_script(summary):
    examples = Dataset.from_list([{"document": "x", "summary": summary}, {"document": "x", "summary": "the cat"}])
    scores = build("summarization").score([summary, "a dog"], examples)
    assert scores["rougel"] == 50


def test_the_first_sentence_ends_at_a_full_stop_or_a_blank_line():
    assert first_sentence("猫坐着。狗跑了。") == "猫坐着。"
    assert first_sentence("बिल्ली बैठी है। कुत्ता भागा।") == "बिल्ली बैठी है।"
    assert first_sentence("أين القطة؟ هنا.") == "أين القطة؟"
    assert first_sentence("Return the\n  sum. Then more.") == "Return the sum."
    for line_break in ("\n", "\r\n"):
        assert first_sentence(f"See numpy.sum for it{line_break * 2}Notes. More.") == "See numpy.sum for it"
