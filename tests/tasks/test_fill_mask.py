"""Fill-mask: which tokens are masked in training and in validation."""

import random
import re

import pytest
import torch
from datasets import Dataset
from made_data import NUMBERS, build
from torch.utils.data import DataLoader
from transformers import TrainerState, TrainingArguments

from modeling_mini import MiniConfig, MiniForMaskedLM
from modeling_mini.errors import UserError
from modeling_mini.loss_mini import IGNORED_LABEL
from modeling_mini.training.callbacks import SeedOfBatches


pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_training_masks_change_and_validation_masks_stay(tokenizer):
    task = build("fill-mask", dataset="unused", block_size=32)
    texts = Dataset.from_list([{"text": " ".join(random.Random(i).choices(NUMBERS, k=40))} for i in range(40)])
    training, validation = (task.encode(texts, tokenizer, name).rows for name in ("training", "validation"))
    collate = task.collator(tokenizer)
    draws = []
    for epoch in range(2):
        collate.begin_pass(0, epoch)
        draws.append(collate([training[i] for i in range(len(training))]))
    assert not torch.equal(draws[0]["labels"], draws[1]["labels"])
    fixed = [collate([validation[i] for i in range(len(validation))]) for _ in range(2)]
    assert torch.equal(fixed[0]["labels"], fixed[1]["labels"])
    for batch in (draws[0], fixed[0]):
        masked = batch["labels"] != IGNORED_LABEL
        assert 0.10 < masked.float().mean() < 0.20
        replacements = batch["input_ids"][masked]
        assert 0.7 < (replacements == tokenizer.mask_token_id).float().mean() < 0.9
        special = torch.tensor([tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id])
        assert not torch.isin(batch["labels"][masked], special).any()
        assert set(batch) >= {"input_ids", "labels", "position_ids"}


def test_training_masks_depend_only_on_seed_pass_and_rows(tokenizer):
    task = build("fill-mask", dataset="unused", block_size=32)
    texts = Dataset.from_list([{"text": " ".join(random.Random(i).choices(NUMBERS, k=40))} for i in range(8)])
    rows = list(task.encode(texts, tokenizer, "training").rows)
    collate = task.collator(tokenizer)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = collate(rows[:4])["labels"]
    assert torch.equal(torch.rand(1), expected), "the random numbers of the run are not used"
    assert torch.equal(collate(rows[:4])["labels"], first)
    with collate.seeded(rows[:4]):
        numbers = torch.rand(3)
    with collate.seeded(rows[4:8]):
        assert not torch.equal(torch.rand(3), numbers)
    collate.begin_pass(5, 0)
    assert not torch.equal(collate(rows[:4])["labels"], first)


def test_workers_of_a_data_loader_see_the_pass(tokenizer):
    """A data loader with persistent workers keeps the collator that it was given at first."""
    task = build("fill-mask", dataset="unused", block_size=32)
    texts = Dataset.from_list([{"text": " ".join(random.Random(i).choices(NUMBERS, k=40))} for i in range(8)])
    rows = list(task.encode(texts, tokenizer, "training").rows)
    collate = task.collator(tokenizer)
    loader = DataLoader(rows, 4, collate_fn=collate, num_workers=1, persistent_workers=True)
    first = next(iter(loader))["labels"]
    assert torch.equal(next(iter(loader))["labels"], first)
    SeedOfBatches(collate).on_epoch_begin(TrainingArguments(seed=0), TrainerState(epoch=1.5), None)
    assert collate.shared.tolist() == [0, 1]
    assert not torch.equal(next(iter(loader))["labels"], first)


def test_a_causal_model_becomes_bidirectional():
    config = MiniConfig(is_causal=True)
    build("fill-mask", dataset="unused").configure(config)
    assert not config.is_causal


def test_the_report_shows_a_row_with_a_masked_token(tokenizer, tiny_model):
    """Few documents of one word have a masked token; the first has none."""
    task = build("fill-mask", dataset="unused", block_size=8)
    texts = Dataset.from_list([{"text": "one"}] * 40)
    with pytest.raises(UserError, match="no token of the validation text is masked"):
        task.encode(texts.take(1), tokenizer, "validation")
    model = tiny_model(MiniForMaskedLM, vocab_size=len(tokenizer), max_position_embeddings=8)
    _, shown = task.report(model, tokenizer, texts, "The ")
    assert re.search(r"\[.*\|.*\]", shown.partition("\n")[2])
