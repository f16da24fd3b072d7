"""Muon and AdamW in one optimizer: same steps as torch, batches, schedules and resuming; and how to add another."""

import copy

import pytest
import torch
from transformers import Trainer

from modeling_mini import MiniForCausalLM, MiniForSequenceClassification
from modeling_mini.errors import UserError
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tasks.text_generation import TextGeneration
from modeling_mini.training.arguments import MiniTrainingArguments, ModelArguments
from modeling_mini.training.optim import (
    OPTIMIZERS,
    Muon,
    MuonAdamWFactory,
    TrainerOptimizer,
    optimizer_of,
    orthogonalize,
    split_parameters,
)
from modeling_mini.training.report import card_facts
from modeling_mini.training.run import train


def train_step(model, optimizer, ids):
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    spectrum = torch.logspace(0, -2, min(shape[1:]))
    matrices = u * spectrum @ v * torch.tensor([1e-3, 1.0, 1e3])[: shape[0], None, None]
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.4
    assert values.max() < 1.6


def test_singular_values_do_not_grow_by_rounding_to_bfloat16(monkeypatch):
    """As on an accelerator. Without the cushion, the only nonzero singular value of this matrix becomes 104."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.bfloat16)
    values = torch.linalg.svdvals(orthogonalize(torch.ones(1, 64, 64)))
    assert 0.4 < values.max() < 1.6


def test_a_batch_is_orthogonalized_like_each_matrix_alone():
    matrices = torch.randn(4, 12, 20)
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices), alone, rtol=1e-5, atol=1e-6)


def test_singular_vectors_do_not_change():
    u, _, v = torch.linalg.svd(torch.randn(10, 10))
    matrix = u @ torch.diag(torch.linspace(0.2, 1.0, 10)) @ v
    core = u.mT @ orthogonalize(matrix[None])[0] @ v.mT
    torch.testing.assert_close(core, torch.diag(core.diagonal()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
def test_muon_takes_the_same_steps_as_torch_muon(monkeypatch, shape):
    # With torch's coefficients. On a CPU, torch computes in bfloat16 and ours in float32: equal to 8 bits.
    monkeypatch.setattr("modeling_mini.training.optim.QUINTICS", 5 * [(3.4445, -4.7750, 2.0315)])
    monkeypatch.setattr("modeling_mini.training.optim.CUSHION", 1)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}
    optimizers = [Muon([ours], **options), torch.optim.Muon([theirs], **options)]
    for _ in range(3):
        gradient = torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    change = (ours - start).detach()
    assert (ours - theirs).norm() < 0.03 * change.norm()


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw(tiny_model):
    model = tiny_model(MiniForCausalLM, tie_word_embeddings=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden, tables, vectors = ({names[id(p)] for p in group} for group in split_parameters(model))
    assert tables == {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(".layers." in name and name.endswith("weight") for name in hidden)
    assert len(hidden) == 2 * 6
    assert all("norm" in name or name.endswith("bias") for name in vectors)
    assert hidden | tables | vectors == set(names.values())


def test_a_classifier_head_is_not_a_hidden_matrix(tiny_model):
    model = tiny_model(MiniForSequenceClassification)
    tables = {id(p) for p in split_parameters(model)[1]}
    assert id(model.score.weight) in tables


def test_weight_decay_applies_only_to_matrices(tiny_model):
    model = tiny_model(MiniForCausalLM)
    optimizer = MuonAdamWFactory()(model, weight_decay=0.3)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in model.parameters() if p.ndim == 1} == {0.0}
    assert {decays[id(p)] for p in model.parameters() if p.ndim == 2} == {0.3}


def test_a_scheduler_scales_both_learning_rates(tiny_model):
    optimizer = MuonAdamWFactory()(tiny_model(MiniForCausalLM), muon_learning_rate=0.02, learning_rate=0.001)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - 0.5 * step)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.0005, 0.0005]
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.01, 0.0005, 0.0005]


def test_a_resumed_optimizer_takes_bit_identical_steps(tiny_model, random_ids):
    model = tiny_model(MiniForCausalLM).train()
    optimizer = MuonAdamWFactory()(model)
    batches = [random_ids(2, 12) for _ in range(4)]
    for ids in batches[:2]:
        train_step(model, optimizer, ids)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    resumed = tiny_model(MiniForCausalLM).train()
    resumed.load_state_dict(saved[0])
    resumed_optimizer = MuonAdamWFactory()(resumed)
    resumed_optimizer.load_state_dict(saved[1])
    for ids in batches[2:]:
        train_step(model, optimizer, ids)
        train_step(resumed, resumed_optimizer, ids)
    for parameter, resumed_parameter in zip(model.parameters(), resumed.parameters()):
        assert torch.equal(parameter, resumed_parameter)


def test_a_model_without_hidden_matrices_is_refused():
    with pytest.raises(UserError, match="--optimizer adamw"):
        MuonAdamWFactory()(torch.nn.Linear(4, 4))


def test_a_closure_is_evaluated_once_for_both_parts(tiny_model, random_ids):
    ids = random_ids(2, 12)
    updated = []
    for with_closure in (False, True):
        model = tiny_model(MiniForCausalLM).train()
        optimizer, calls = MuonAdamWFactory()(model), []

        def closure(model=model, calls=calls):
            calls.append(model(ids, labels=ids).loss)
            calls[-1].backward()
            return calls[-1]

        if with_closure:
            assert optimizer.step(closure) is calls[0]
        else:
            closure()
            optimizer.step()
        assert len(calls) == 1
        updated.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(plain, closed) for plain, closed in zip(*updated))


class SGDFactory:
    def __call__(self, model, learning_rate):
        return torch.optim.SGD(model.parameters(), lr=learning_rate)


class PlainSGD(TrainerOptimizer):
    @staticmethod
    def for_trainer(args):
        return SGDFactory, {"learning_rate": args.learning_rate}

    @staticmethod
    def describe(args):
        return f"SGD at {args.learning_rate}"


def test_a_new_optimizer_is_one_class_and_one_entry(monkeypatch, tiny_model, tmp_path):
    monkeypatch.setitem(OPTIMIZERS, "sgd", PlainSGD)
    args = MiniTrainingArguments(output_dir=str(tmp_path), use_cpu=True, optimizer="sgd", learning_rate=0.5)
    assert optimizer_of(args) is PlainSGD
    optimizer_of(args).check(args)

    trainer = Trainer(tiny_model(MiniForCausalLM), args, optimizer_cls_and_kwargs=optimizer_of(args).for_trainer(args))
    assert isinstance(trainer.create_optimizer(), torch.optim.SGD)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.5]

    results = {"validation_loss": 2.0, "validation_loss_margin": 0.1, "perplexity": 7.389, "train_tokens": None}
    results |= dict.fromkeys(("parameters", "context", "vocabulary", "updates", "tokens_per_update"), 1000)
    results |= {"train_seconds": 12.3, "hardware": "a CPU", "sample": "the"}
    facts = card_facts(TextGeneration(TaskArguments(dataset="python-docs")), results, {}, ModelArguments(), args)
    assert facts.training["optimizer"].startswith("SGD at 0.5, weight decay ")


@pytest.mark.usefixtures("datasets_cache")
def test_the_chosen_optimizer_reaches_the_trainer(arguments, tmp_path, monkeypatch):
    class Built(Exception):
        """Ends the run where the Trainer is built, with what it is given."""

    def build(optimizer_cls_and_kwargs, **options):
        raise Built(optimizer_cls_and_kwargs)

    monkeypatch.setattr("modeling_mini.training.run.Trainer", build)
    with pytest.raises(Built) as built:
        train([*arguments, "--optimizer", "muon", "--muon_learning_rate", "0.03"])
    factory, options = built.value.args[0]
    assert (factory, options["muon_learning_rate"]) == (MuonAdamWFactory, 0.03)
    with pytest.raises(Built) as built:
        train([*arguments, "--optimizer", "adamw", "--output_dir", str(tmp_path / "adamw")])
    assert built.value.args[0] is None
