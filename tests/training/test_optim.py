"""Muon and AdamW in one optimizer: equal to torch's own, batched, schedulable and resumable."""

import copy

import pytest
import torch

from modeling_mini import MiniForCausalLM, MiniForSequenceClassification
from modeling_mini.errors import UserError
from modeling_mini.training.optim import Muon, MuonAdamWFactory, orthogonalize, split_parameters


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


def test_rounding_to_bfloat16_lets_no_singular_value_grow(monkeypatch):
    """As an accelerator computes it. Without the cushion, the one singular value of this matrix comes out at 104."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.bfloat16)
    values = torch.linalg.svdvals(orthogonalize(torch.ones(1, 64, 64)))
    assert 0.4 < values.max() < 1.6


def test_a_batch_is_orthogonalized_as_each_matrix_alone():
    matrices = torch.randn(4, 12, 20)
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices), alone, rtol=1e-5, atol=1e-6)


def test_no_singular_vector_is_turned():
    u, _, v = torch.linalg.svd(torch.randn(10, 10))
    matrix = u @ torch.diag(torch.linspace(0.2, 1.0, 10)) @ v
    core = u.mT @ orthogonalize(matrix[None])[0] @ v.mT
    torch.testing.assert_close(core, torch.diag(core.diagonal()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
def test_muon_takes_the_steps_of_torch_muon(monkeypatch, shape):
    # With torch's coefficients. torch computes in bfloat16, this in float32 on a CPU: equal to bfloat16's 8 bits.
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
    moved = (ours - start).detach()
    assert (ours - theirs).norm() < 0.03 * moved.norm()


def test_hidden_matrices_go_to_muon_and_all_else_to_adamw(tiny_model):
    model = tiny_model(MiniForCausalLM, tie_word_embeddings=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden, tables, vectors = ({names[id(p)] for p in group} for group in split_parameters(model))
    assert tables == {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(".layers." in name and name.endswith("weight") for name in hidden)
    assert len(hidden) == 2 * 6
    assert all("norm" in name or name.endswith("bias") for name in vectors)
    assert hidden | tables | vectors == set(names.values())


def test_classifier_head_is_no_hidden_matrix(tiny_model):
    model = tiny_model(MiniForSequenceClassification)
    tables = {id(p) for p in split_parameters(model)[1]}
    assert id(model.score.weight) in tables


def test_weight_decay_spares_biases_and_norms(tiny_model):
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


def test_resumed_optimizer_takes_bit_identical_steps(tiny_model, random_ids):
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
    for straight, again in zip(model.parameters(), resumed.parameters()):
        assert torch.equal(straight, again)


def test_model_without_hidden_matrices_is_refused():
    with pytest.raises(UserError, match="--optimizer adamw"):
        MuonAdamWFactory()(torch.nn.Linear(4, 4))


def test_closure_is_evaluated_once_and_serves_both_parts(tiny_model, random_ids):
    ids = random_ids(2, 12)
    stepped = []
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
        stepped.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(plain, closed) for plain, closed in zip(*stepped))
