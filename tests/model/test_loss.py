"""The loss: chunked = plain, accumulated = whole batch, and the targets that each head counts."""

import subprocess
import sys
from pathlib import Path
from weakref import WeakSet

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Trainer, TrainingArguments

from modeling_mini import (
    MiniForCausalLM,
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
    MiniForTokenClassification,
)
from modeling_mini.loss_mini import IGNORED_LABEL, MiniLMHead


LANGUAGE_MODELS = pytest.mark.parametrize("model_class", [MiniForCausalLM, MiniForMaskedLM])
HEADS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "tied, bias": {"lm_head_bias": True},
    "untied, bias": {"tie_word_embeddings": False, "lm_head_bias": True},
}


@pytest.fixture
def small_chunks(monkeypatch):
    """Compute five rows of logits at a time."""
    monkeypatch.setattr("modeling_mini.loss_mini.LOGITS_PER_CHUNK", 5 * 97 + 96)


def some_ignored(ids):
    """The ids as labels, of which a random third is ignored."""
    return torch.where(torch.rand(ids.shape) < 1 / 3, IGNORED_LABEL, ids)


def plain_loss(model, logits, labels):
    """Cross entropy in nats as a textbook writes it; a causal model predicts the next token."""
    if isinstance(model, MiniForCausalLM):
        logits, labels = logits[:, :-1], labels[:, 1:]
    logits, labels = logits.flatten(0, 1)[labels.flatten() != IGNORED_LABEL], labels[labels != IGNORED_LABEL]
    return -logits.log_softmax(-1)[torch.arange(len(labels)), labels].mean()


def assert_relatively_equal(actual, expected, tolerance):
    """Each tensor differs by less than `tolerance` times its own norm."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        # Biases of keys have no gradient (a softmax ignores a constant), so the computed one is only rounding.
        error, scale = (actual[name] - tensor).norm().item(), max(tensor.norm().item(), 1e-2)
        assert error < tolerance * scale, f"{name}: {error / scale:.1e}"


@LANGUAGE_MODELS
def test_logits_are_computed_only_where_there_is_a_label(tiny_model, random_ids, monkeypatch, model_class):
    model, ids = tiny_model(model_class).train(), random_ids(3, 20)
    labels = some_ignored(ids)
    computed = []
    forward = nn.functional.linear
    monkeypatch.setattr(
        nn.functional, "linear", lambda x, *rest: computed.append(x.shape[:-1].numel()) or forward(x, *rest)
    )
    model(ids, labels=labels, skip_logits=True)
    targets = labels[:, 1:] if model_class is MiniForCausalLM else labels
    assert computed[-1] == (targets != IGNORED_LABEL).sum()


@LANGUAGE_MODELS
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.usefixtures("small_chunks")
def test_chunked_loss_and_gradients_equal_plain_cross_entropy(tiny_model, random_ids, gradients, model_class, head):
    model = tiny_model(model_class, **HEADS[head]).train()
    ids = random_ids(3, 9)
    labels = some_ignored(ids)
    expected = plain_loss(model, model(ids).logits, labels)
    expected.backward()
    expected_gradients = gradients(model)

    outputs = model(ids, labels=labels, skip_logits=True)
    outputs.loss.backward()
    assert outputs.logits is None
    torch.testing.assert_close(outputs.loss, expected, rtol=1e-5, atol=0)
    assert_relatively_equal(gradients(model), expected_gradients, 1e-5)


@LANGUAGE_MODELS
def test_loss_with_logits_equals_loss_without_in_training_and_in_evaluation(tiny_model, random_ids, model_class):
    model = tiny_model(model_class)
    ids = random_ids(3, 9)
    labels = some_ignored(ids)
    expected = model(ids).logits
    for mode in (model.train(), model.eval()):
        with_logits = mode(ids, labels=labels, skip_logits=False)
        without = mode(ids, labels=labels, skip_logits=True)
        assert without.logits is None
        torch.testing.assert_close(with_logits.logits, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(with_logits.loss, plain_loss(model, expected, labels), rtol=1e-5, atol=0)
        torch.testing.assert_close(without.loss, with_logits.loss, rtol=1e-5, atol=0)


@LANGUAGE_MODELS
def test_logits_are_skipped_only_for_the_trainer_and_on_request(tiny_model, random_ids, model_class):
    """The Trainer's training step passes `num_items_in_batch` and reads only the loss; other loops read the logits."""
    model, ids = tiny_model(model_class), random_ids(3, 9)
    expected = model(ids).logits
    for mode in (model.train(), model.eval()):
        torch.testing.assert_close(mode(ids, labels=ids).logits, expected, rtol=0, atol=1e-5)
        assert mode(ids, labels=ids, num_items_in_batch=27, skip_logits=False).logits is not None
        assert mode(ids, labels=ids, skip_logits=True).logits is None
    assert model.train()(ids, labels=ids, num_items_in_batch=27).logits is None
    assert model.eval()(ids, labels=ids, num_items_in_batch=27).logits is not None


def test_the_masked_model_ignores_logits_to_keep(tiny_model, random_ids):
    """A caller that passes it to every model still gets all logits and the loss."""
    model, ids = tiny_model(MiniForMaskedLM), random_ids(2, 5)
    outputs = model(ids, labels=ids, logits_to_keep=1)
    torch.testing.assert_close(outputs.logits, model(ids).logits)
    torch.testing.assert_close(outputs.loss, plain_loss(model, outputs.logits, ids))


@LANGUAGE_MODELS
def test_the_trainer_trains_without_logits_and_evaluates_with_them(tiny_model, random_ids, model_class, tmp_path):
    seen, rows = [], [{"input_ids": ids, "labels": ids} for ids in random_ids(4, 9)]
    model = tiny_model(model_class)
    model.register_forward_hook(lambda module, _, outputs: seen.append((module.training, outputs.logits is None)))
    args = TrainingArguments(output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to="none")
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    trainer.evaluate()
    assert set(seen) == {(True, True), (False, False)}


def test_cpt_of_peft_trains(tiny_model, random_ids):
    """CPT adds the loss of its prompt, which it computes from the logits of a model in training mode."""
    peft = pytest.importorskip("peft")
    config = peft.CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=[5, 6], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 2])
    model, ids = peft.get_peft_model(tiny_model(MiniForCausalLM), config).train(), random_ids(2, 9)
    types = torch.full_like(ids, 4)
    mask = torch.ones_like(ids)
    outputs = model(input_ids=ids, labels=ids, input_type_mask=types, attention_mask=mask)
    assert outputs.logits.shape == (2, 9 + 2, 97)


@LANGUAGE_MODELS
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("skip_logits", [True, False])
def test_num_items_in_batch_divides_the_summed_loss(tiny_model, random_ids, model_class, skip_logits):
    model = tiny_model(model_class).train()
    ids = random_ids(3, 9)
    labels = some_ignored(ids)
    counted = labels[:, 1:] if model_class is MiniForCausalLM else labels
    mean, count = model(ids, labels=labels, skip_logits=True).loss, (counted != IGNORED_LABEL).sum()
    for items in (torch.tensor(7), 7):
        loss = model(ids, labels=labels, num_items_in_batch=items, skip_logits=skip_logits).loss
        torch.testing.assert_close(loss, mean * count / 7, rtol=1e-5, atol=0)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


class MostAtOnce(TorchDispatchMode):
    """Records the largest number of storages of a given size that exist at the same time."""

    def __init__(self, elements: int):
        super().__init__()
        self.elements, self.storages, self.most = elements, WeakSet(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.numel() == self.elements:
                self.storages.add(leaf.untyped_storage())
        self.most = max(self.most, len(self.storages))
        return result


@LANGUAGE_MODELS
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_no_chunk_of_logits_outlives_the_next(tiny_model, monkeypatch, random_ids, model_class, bf16, training):
    rows, vocabulary = 8, 397
    monkeypatch.setattr("modeling_mini.loss_mini.LOGITS_PER_CHUNK", rows * vocabulary)
    model = tiny_model(model_class, vocab_size=vocabulary)
    ids = random_ids(4, 3 * rows, vocab_size=vocabulary)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    with MostAtOnce(rows * vocabulary) as chunks, autocast, torch.set_grad_enabled(training):
        loss = model(ids, labels=ids, skip_logits=True).loss
        if training:
            loss.backward()
    assert chunks.most == 2  # logits in two precisions, or logits and their log-softmax


@LANGUAGE_MODELS
@pytest.mark.usefixtures("small_chunks")
def test_gradient_of_the_head_under_autocast_is_float32(tiny_model, random_ids, gradients, model_class):
    model = tiny_model(model_class, tie_word_embeddings=False).train()
    ids = random_ids(3, 9)
    model(ids, labels=ids, skip_logits=True).loss.backward()
    expected = gradients(model)["lm_head.weight"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids, skip_logits=True).loss
    loss.backward()
    gradient = gradients(model)["lm_head.weight"]
    assert not torch.equal(gradient, gradient.bfloat16().float())
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0.02 * expected.abs().max().item())


@LANGUAGE_MODELS
def test_backward_may_run_twice(tiny_model, random_ids, gradients, model_class):
    model, ids = tiny_model(model_class).train(), random_ids(3, 9)
    loss = model(ids, labels=ids, skip_logits=True).loss * 3
    loss.backward(retain_graph=True)
    once = gradients(model)
    loss.backward()
    assert_relatively_equal(gradients(model), once, 1e-6)


@LANGUAGE_MODELS
@pytest.mark.parametrize("head", HEADS)
def test_training_never_holds_a_tensor_as_large_as_all_logits(tiny_model, monkeypatch, random_ids, model_class, head):
    tokens, vocabulary = 2 * 64, 400
    monkeypatch.setattr("modeling_mini.loss_mini.LOGITS_PER_CHUNK", 8 * vocabulary)
    model = tiny_model(model_class, vocab_size=vocabulary, num_attention_heads=2, **HEADS[head]).train()
    ids = random_ids(2, 64)
    with LargestTensor() as chunked:
        model(ids, labels=ids, skip_logits=True).loss.backward()
    with LargestTensor() as plain:
        model(ids, labels=ids).loss.backward()
    assert plain.elements >= tokens * vocabulary
    largest_parameter = max(parameter.numel() for parameter in model.parameters())
    attention_weights = 2 * 2 * 64 * 64
    assert chunked.elements <= max(largest_parameter, attention_weights) < tokens * vocabulary / 2


@LANGUAGE_MODELS
def test_training_keeps_no_logits_for_the_backward_pass(tiny_model, monkeypatch, random_ids, model_class):
    tokens, vocabulary = 2 * 64, 400
    monkeypatch.setattr("modeling_mini.loss_mini.LOGITS_PER_CHUNK", 8 * vocabulary)
    model = tiny_model(model_class, vocab_size=vocabulary).train()
    ids, saved_elements = random_ids(2, 64), {}
    for skip_logits in (True, False):
        sizes = []

        def keep(tensor, sizes=sizes):
            if tensor.shape[-1:] == (vocabulary,):
                sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(ids, labels=ids, skip_logits=skip_logits)
        saved_elements[skip_logits] = sum(sizes)
    assert saved_elements[False] >= tokens * vocabulary
    assert saved_elements[True] == 0


@LANGUAGE_MODELS
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_gradients_of_a_padded_batch_equal_those_of_each_row_alone(
    tiny_model, random_ids, pad, gradients, model_class, side, attn_implementation
):
    """Padding on the left attends to nothing; its gradients must not become NaN."""
    model = tiny_model(model_class).train()
    model.set_attn_implementation(attn_implementation)
    rows = [random_ids(length) for length in (9, 4, 12)]
    labels = [some_ignored(row[None])[0] for row in rows]
    for row in labels:
        row[0] = IGNORED_LABEL  # otherwise the padding before a row would predict its first token
    (ids, mask), (labels_of_batch, _) = pad(rows, side), pad(labels, side, pad_token_id=IGNORED_LABEL)
    loss = model(ids, attention_mask=mask, labels=labels_of_batch).loss
    loss.backward()
    padded_gradients = gradients(model)

    count = (labels_of_batch != IGNORED_LABEL).sum()
    alone = sum(
        model(row[None], labels=line[None], num_items_in_batch=count).loss
        for row, line in zip(rows, labels, strict=True)
    )
    alone.backward()
    torch.testing.assert_close(loss, alone, rtol=1e-5, atol=0)
    assert_relatively_equal(padded_gradients, gradients(model), 1e-5)


def test_shift_labels_are_not_shifted_again(tiny_model, random_ids):
    model = tiny_model(MiniForCausalLM)
    ids = random_ids(3, 9)
    targets = some_ignored(random_ids(3, 9))
    logits = model(ids).logits
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    for mode in (model.train(), model.eval()):
        for labels in (None, ids):
            loss = mode(ids, labels=labels, shift_labels=targets).loss
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("with_count", [False, True])
@pytest.mark.parametrize("model_class", [MiniForCausalLM, MiniForMaskedLM, MiniForTokenClassification])
def test_a_batch_without_targets_has_zero_loss_and_zero_gradients(
    tiny_model, random_ids, gradients, model_class, with_count, training
):
    """All labels are ignored; with and without the count that the Trainer passes."""
    model = tiny_model(model_class).train(training)
    ids = random_ids(2, 9)
    count = {"num_items_in_batch": torch.tensor(0)} if with_count else {}
    loss = model(ids, labels=torch.full_like(ids, IGNORED_LABEL), **count).loss
    loss.backward()
    assert loss.item() == 0
    for name, gradient in gradients(model).items():
        assert not gradient.any(), name  # `any` is true for NaN as well


def resized_head(model):
    model.resize_token_embeddings(120, mean_resizing=False)
    return model


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("head", "is_kept"), [("tied", True), ("untied", False), ("untied, bias", False)])
def test_resized_embeddings_train_with_the_plain_loss(tiny_model, random_ids, gradients, head, is_kept):
    """A resize keeps a tied head, and replaces an untied one with a plain nn.Linear."""
    model = resized_head(tiny_model(MiniForCausalLM, **HEADS[head])).train()
    assert (type(model.lm_head) is MiniLMHead) is is_kept
    ids = random_ids(2, 9, vocab_size=120)
    logits = model(ids).logits
    assert logits.shape[-1] == 120
    expected = plain_loss(model, logits, ids)
    expected.backward()
    expected_gradients = gradients(model)
    loss = model(ids, labels=ids).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert_relatively_equal(gradients(model), expected_gradients, 1e-5)


# Sequence classification, token classification, question answering


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels", "reference"),
    [
        ("regression", 1, torch.tensor([0.5, -1.0, 2.0]), lambda x, y: ((x[:, 0] - y) ** 2).mean()),
        ("regression", 2, torch.tensor([[0.5, -1], [2, 0], [1, 3]]), lambda x, y: ((x - y) ** 2).mean()),
        ("single_label_classification", 4, torch.tensor([3, 0, 2]), nn.functional.cross_entropy),
        (
            "multi_label_classification",
            4,
            torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 0]]),
            nn.functional.binary_cross_entropy_with_logits,
        ),
    ],
)
def test_classifier_loss_equals_that_of_its_problem_type(
    tiny_model, random_ids, problem_type, num_labels, labels, reference
):
    model = tiny_model(MiniForSequenceClassification, num_labels=num_labels, problem_type=problem_type)
    outputs = model(random_ids(3, 9), labels=labels)
    torch.testing.assert_close(outputs.loss, reference(outputs.logits, labels), rtol=1e-5, atol=0)


@pytest.mark.parametrize("pooling", ["mean", "first_last_mean", "last"])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_classification_ignores_padding_on_either_side(tiny_model, random_ids, pad, pooling, is_causal, side):
    model = tiny_model(MiniForSequenceClassification, classifier_pooling=pooling, is_causal=is_causal, num_labels=3)
    rows = [random_ids(length) for length in (9, 4, 12)]
    ids, mask = pad(rows, side)
    alone = torch.cat([model(row[None]).logits for row in rows])
    torch.testing.assert_close(model(ids, attention_mask=mask).logits, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "first_last_mean", "last"])
@torch.no_grad()
def test_classification_without_mask_ignores_padding_tokens_on_the_right(tiny_model, random_ids, pad, pooling):
    model = tiny_model(MiniForSequenceClassification, classifier_pooling=pooling, num_labels=3)
    rows = [random_ids(length) for length in (9, 4, 12)]
    ids, _ = pad(rows, "right", pad_token_id=model.config.pad_token_id)
    alone = torch.cat([model(row[None]).logits for row in rows])
    torch.testing.assert_close(model(ids).logits, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "first_last_mean", "last"])
@torch.no_grad()
def test_what_a_classifier_reads(tiny_model, random_ids, pooling):
    model = tiny_model(MiniForSequenceClassification, classifier_pooling=pooling, num_labels=3)
    ids = random_ids(2, 9)
    hidden_states = model.model(ids).last_hidden_state
    embeddings = model.model.embed_tokens(ids)
    bag_of_words = embeddings.mean(1) * model.config.hidden_size**0.5
    pooled = {
        "mean": hidden_states.mean(1),
        "first_last_mean": hidden_states.mean(1) + bag_of_words,
        "last": hidden_states[:, -1],
    }[pooling]
    expected = pooled @ model.score.weight.T
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(inputs_embeds=embeddings).logits, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_token_dropout_reaches_the_bag_of_words(tiny_model, random_ids, monkeypatch):
    monkeypatch.setattr(nn.functional, "dropout1d", lambda embeddings, *_: torch.zeros_like(embeddings))
    model = tiny_model(MiniForSequenceClassification, classifier_pooling="first_last_mean", num_labels=3)
    ids = random_ids(2, 9)
    expected = model.model(ids).last_hidden_state.mean(1) @ model.score.weight.T
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-5)


def test_token_classification_loss_equals_cross_entropy_at_each_labelled_token(tiny_model, random_ids):
    model = tiny_model(MiniForTokenClassification, num_labels=4)
    ids = random_ids(3, 9)
    labels = some_ignored(ids % 4)
    outputs = model(ids, labels=labels)
    expected = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(outputs.loss, expected, rtol=1e-5, atol=0)


def test_question_answering_loss_is_the_mean_of_start_and_end_losses_inside_the_text(tiny_model, random_ids):
    model = tiny_model(MiniForQuestionAnswering)
    ids = random_ids(3, 9)
    starts, ends = torch.tensor([2, 0, 5]), torch.tensor([4, 20, 8])  # 20 is outside: the answer was truncated
    outputs = model(ids, start_positions=starts, end_positions=ends)
    expected = nn.functional.cross_entropy(outputs.start_logits, starts) / 2
    expected = expected + nn.functional.cross_entropy(outputs.end_logits[[0, 2]], ends[[0, 2]]) / 2
    torch.testing.assert_close(outputs.loss, expected, rtol=1e-5, atol=0)


# With the stock Trainer


def language_examples(ids):
    """Eight rows of twelve tokens, of which two to twelve have labels."""
    lengths = (12, 3, 8, 2, 11, 5, 9, 4)
    return [
        {"input_ids": row, "labels": torch.where(torch.arange(12) < length, row, IGNORED_LABEL)}
        for row, length in zip(ids, lengths, strict=True)
    ]


def token_examples(ids):
    return [
        row | {"labels": torch.where(row["labels"] < 0, row["labels"], row["labels"] % 3)}
        for row in language_examples(ids)
    ]


def sequence_examples(ids):
    return [{"input_ids": row, "labels": i % 3} for i, row in enumerate(ids)]


def number_examples(ids):
    return [{"input_ids": row, "labels": float(i)} for i, row in enumerate(ids)]


def several_numbers_examples(ids):
    return [{"input_ids": row, "labels": [float(i), -float(i)]} for i, row in enumerate(ids)]


def several_labels_examples(ids):
    return [
        {"input_ids": row, "labels": [float(i % divisor == 0) for divisor in (2, 3, 4)]} for i, row in enumerate(ids)
    ]


def answer_examples(ids):
    return [{"input_ids": row, "start_positions": i % 5, "end_positions": i} for i, row in enumerate(ids)]


ACCUMULATED = {
    "causal": (MiniForCausalLM, {}, language_examples),
    "causal untied": (MiniForCausalLM, {"tie_word_embeddings": False}, language_examples),
    "causal resized": (MiniForCausalLM, {"tie_word_embeddings": False}, language_examples),
    "masked": (MiniForMaskedLM, {}, language_examples),
    "masked untied": (MiniForMaskedLM, {"tie_word_embeddings": False}, language_examples),
    "masked resized": (MiniForMaskedLM, {"tie_word_embeddings": False}, language_examples),
    "token": (MiniForTokenClassification, {"num_labels": 3}, token_examples),
    "sequence": (MiniForSequenceClassification, {"num_labels": 3}, sequence_examples),
    "several labels": (
        MiniForSequenceClassification,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        several_labels_examples,
    ),
    "regression": (MiniForSequenceClassification, {"num_labels": 1}, number_examples),
    "several numbers": (
        MiniForSequenceClassification,
        {"num_labels": 2, "problem_type": "regression"},
        several_numbers_examples,
    ),
    "answer": (MiniForQuestionAnswering, {}, answer_examples),
}


def trainer_for(model, directory, examples=None, **arguments):
    settings = {
        "optim": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "max_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    return Trainer(model, TrainingArguments(str(directory), **(settings | arguments)), train_dataset=examples)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ACCUMULATED)
def test_one_step_over_eight_rows_equals_four_accumulated_micro_batches(tiny_model, random_ids, tmp_path, name):
    model_class, overrides, examples_of = ACCUMULATED[name]
    examples, updates = examples_of(random_ids(8, 12)), []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = tiny_model(model_class, **overrides)
        if name.endswith("resized"):
            resized_head(model)
        before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
        trainer = trainer_for(
            model,
            tmp_path,
            examples,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        updates.append({key: parameter.detach() - before[key] for key, parameter in model.named_parameters()})
    assert max(update.norm() for update in updates[0].values()) > 0.1
    assert_relatively_equal(updates[1], updates[0], 1e-4)  # each update is a difference of float32 parameters


@LANGUAGE_MODELS
def test_label_smoothing_through_the_trainer_smooths_the_targets_of_the_plain_loss(
    tiny_model, random_ids, tmp_path, model_class
):
    """The Trainer shifts labels only for causal models, which it recognises by their class names."""
    model = tiny_model(model_class).train()
    ids = random_ids(3, 9)
    labels = some_ignored(ids)
    trainer = trainer_for(model, tmp_path, label_smoothing_factor=0.1)
    loss = trainer.compute_loss(model, {"input_ids": ids, "labels": labels})
    logits, targets = model(ids).logits, labels
    if model_class is MiniForCausalLM:
        logits, targets = logits[:, :-1], labels[:, 1:]
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


LORA_SCRIPT = """
import sys

import torch

for name in sys.argv[1:]:
    __import__(name)
import modeling_mini
import peft

torch.manual_seed(0)
config = modeling_mini.MiniConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2)
model = peft.get_peft_model(modeling_mini.MiniForCausalLM(config), peft.LoraConfig(task_type="CAUSAL_LM"))
trained = {name.split(".lora_")[0].split("layers.")[1] for name, p in model.named_parameters() if p.requires_grad}
assert trained == {f"{i}.self_attn.{p}_proj" for i in range(2) for p in "qv"}, trained
ids = torch.randint(5, 97, (2, 9))
losses = []
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
for _ in range(5):
    loss = model.train()(ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
assert losses[-1] < losses[0] - 0.01, losses
adapted = model.eval()(ids).logits
assert (model.merge_and_unload()(ids).logits - adapted).abs().max() < 1e-5
"""


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("order", [("peft", "modeling_mini"), ("modeling_mini", "peft")])
def test_lora_finds_its_targets_whichever_package_is_imported_first(order):
    pytest.importorskip("peft")
    command = [sys.executable, "-c", LORA_SCRIPT, *order]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.versions
def test_lora_on_the_head_trains_with_the_plain_loss(tiny_model, random_ids):
    peft = pytest.importorskip("peft")
    model = tiny_model(MiniForCausalLM, tie_word_embeddings=False)
    lora = peft.get_peft_model(model, peft.LoraConfig(target_modules=["lm_head"], init_lora_weights=False)).train()
    ids = random_ids(2, 9)
    expected = plain_loss(model, lora(ids).logits, ids)
    torch.testing.assert_close(lora(ids, labels=ids).loss, expected, rtol=1e-5, atol=0)
