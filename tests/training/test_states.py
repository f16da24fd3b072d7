"""States of a checkpoint that do not fit the run are refused with a sentence before the data are read."""

import json
import random

import numpy as np
import pytest
import torch

from modeling_mini.checkpoints import checkpoint_defect, trainer_state
from modeling_mini.errors import UserError
from modeling_mini.training.arguments import parse_arguments
from modeling_mini.training.resuming import resume_point


MUON, ADAMW = ["--optimizer", "muon"], ["--optimizer", "adamw"]
OPTIMIZERS = {
    "adamw": ADAMW,
    "amsgrad": [*ADAMW, "--optim_args", "amsgrad=true", "--optim", "adamw_torch"],
    "muon": MUON,
    "sgd": [*ADAMW, "--optim", "sgd"],
    "adafactor": [*ADAMW, "--optim", "adafactor"],
    "rmsprop": [*ADAMW, "--optim", "rmsprop"],
    "adagrad": [*ADAMW, "--optim", "adagrad"],
}
SCHEDULES = {
    "cosine": [],
    "constant": ["--lr_scheduler_type", "constant"],
    "wsd": ["--lr_scheduler_type", "warmup_stable_decay", "--lr_scheduler_kwargs", '{"num_decay_steps": 2}'],
    "plateau": ["--lr_scheduler_type", "reduce_lr_on_plateau"],
}


@pytest.fixture
def resumed(checkpoint, save_states):
    """`resumed(change, *options)`: what an unfinished run continues from, after `change(folder)`."""

    def resume(change, *options):
        folder = checkpoint(name="run/checkpoint-2")
        save_states(folder, *options)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": 2, "max_steps": 4}))
        change(folder)
        return resume_point(parse_arguments(["--output_dir", str(folder.parent), "--resume", *options])[2])

    return resume


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_states_of_the_same_run_fit(resumed, optimizer):
    assert resumed(lambda folder: None, *OPTIMIZERS[optimizer]).endswith("checkpoint-2")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_of_the_same_run_fits(resumed, schedule):
    assert resumed(lambda folder: None, *ADAMW, *SCHEDULES[schedule]).endswith("checkpoint-2")


def changed(name, change):
    """A function that changes a stored state in place."""

    def apply(folder):
        state = torch.load(folder / name, weights_only=False)
        change(state)
        torch.save(state, folder / name)

    return apply


def resize(state, key):
    state["state"][0][key] = torch.zeros(3)


DAMAGED_OPTIMIZERS = {
    r"it has 1 groups of parameters where this run has \d": lambda s: s.update(param_groups=s["param_groups"][:1]),
    r"it has \d groups of parameters where": lambda s: s["param_groups"].append(s["param_groups"][0]),
    r"group 0 has \d+ parameters where this run has \d+": lambda s: s["param_groups"][0]["params"].pop(),
    "group 1 has no list of parameters": lambda s: s["param_groups"][1].pop("params"),
    "'lr' of group 0 is None": lambda s: s["param_groups"][0].pop("lr"),
    "'weight_decay' of group 1 is 'much'": lambda s: s["param_groups"][1].update(weight_decay="much"),
    "'param_groups' is not a list of groups": lambda s: s.update(param_groups={"params": 1}),
    "its parameters are not numbered": lambda s: s["param_groups"][0]["params"].reverse(),
    "'state' is not a state for each parameter": lambda s: s["state"].update({999: {}}),
    "'state' is not a state for each parameter ": lambda s: s.update(state=[1]),
    r"of parameter 1 is missing": lambda s: s["state"].pop(1),
    r"of parameter 0 is missing": lambda s: s["state"][0].clear(),
    r"of parameter 0 is a float": lambda s: s["state"][0].update(dict.fromkeys(s["state"][0], 2.0)),
    "the state of parameter 0 is a list": lambda s: s["state"].update({0: [1]}),
}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("sentence", DAMAGED_OPTIMIZERS)
def test_an_optimizer_that_does_not_fit_the_run_is_refused(resumed, sentence, optimizer):
    change = changed("optimizer.pt", DAMAGED_OPTIMIZERS[sentence])
    with pytest.raises(UserError, match=f"optimizer.pt is damaged: .*{sentence.strip()}.*; use another checkpoint"):
        resumed(change, *OPTIMIZERS[optimizer])


@pytest.mark.parametrize(
    ("optimizer", "key"),
    [
        ("adamw", "exp_avg"),
        ("adamw", "exp_avg_sq"),
        ("adamw", "step"),
        ("muon", "momentum_buffer"),
        ("adagrad", "sum"),
    ],
)
def test_a_state_of_another_shape_is_refused(resumed, optimizer, key):
    with pytest.raises(UserError, match=rf"'{key}' of parameter 0 has the shape \[3\] instead of \["):
        resumed(changed("optimizer.pt", lambda state: resize(state, key)), *OPTIMIZERS[optimizer])


def test_states_of_two_parameters_cannot_be_exchanged(resumed):
    def swap(state):
        state["state"][0], state["state"][1] = state["state"][1], state["state"][0]

    with pytest.raises(UserError, match="of parameter 0 has the shape"):
        resumed(changed("optimizer.pt", swap), *ADAMW)


def test_the_optimizer_of_another_model_is_refused(resumed, checkpoint, save_states):
    def replace(folder):
        other = checkpoint(name="other/checkpoint-2", hidden_size=16)
        save_states(other, *ADAMW)
        (other / "optimizer.pt").rename(folder / "optimizer.pt")

    with pytest.raises(UserError, match="optimizer.pt is damaged: .* has the shape"):
        resumed(replace, *ADAMW)


DAMAGED_SCHEDULES = {
    "'lr_lambdas' is missing": lambda s: s.pop("lr_lambdas"),
    "'lr_lambdas' holds a list of 1": lambda s: s["lr_lambdas"].pop(),
    "'lr_lambdas' holds a list of 3": lambda s: s["lr_lambdas"].append({}),
    "'lr_lambdas' holds a list of 2": lambda s: s.update(lr_lambdas=[1, 2]),
    "'base_lrs' holds a list of 1": lambda s: s["base_lrs"].pop(),
    "'base_lrs' holds a dict": lambda s: s.update(base_lrs={}),
    "'last_epoch' holds a NoneType": lambda s: s.update(last_epoch=None),
}


@pytest.mark.parametrize("sentence", DAMAGED_SCHEDULES)
def test_a_schedule_that_does_not_fit_the_run_is_refused(resumed, sentence):
    with pytest.raises(UserError, match=f"scheduler.pt is damaged: {sentence}.*; use another checkpoint"):
        resumed(changed("scheduler.pt", DAMAGED_SCHEDULES[sentence]), *ADAMW)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("python", (3, (1, 2), None)),
        ("python", (9, random.getstate()[1], None)),
        ("numpy", ("MT19937", np.zeros(5, dtype=np.uint32), 3, 0, 0.0)),
        ("numpy", 2),
        ("cpu", torch.zeros(5056)),
        ("cpu", torch.zeros(7, dtype=torch.uint8)),
    ],
    ids=["python length", "python version", "numpy length", "numpy type", "cpu type", "cpu length"],
)
def test_a_random_state_that_its_generator_refuses_is_refused(resumed, name, value):
    before = []

    def change(state):
        state[name] = value
        before.extend([random.getstate(), torch.get_rng_state()])

    with pytest.raises(UserError, match=f"rng_state.pth is damaged: '{name}' is not the state of a random generator"):
        resumed(changed("rng_state.pth", change))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


CALLBACK = {"args": {}, "attributes": {"loss_sum": 1.0, "last_logged": 2}}
WRONG_FIELDS = {
    "global_step": [None, "2", 2.5, True, [2]],
    "max_steps": ["4", None, float("inf")],
    "num_train_epochs": ["1"],
    "total_flos": ["many", None],
    "num_input_tokens_seen": [{}],
    "epoch": ["first"],
    "log_history": [{}, [1], [{"loss": 1.0}], [{"step": 2, "eval_token_loss": "low"}], [{"step": 2, "loss": None}]],
    "stateful_callbacks": [
        [1],
        {"WorldSize": 1},
        {"RunningLoss": {}},
        {"RunningLoss": {**CALLBACK, "attributes": {"loss_sum": "high"}}},
        {"EarlyStopping": [CALLBACK]},
    ],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_FIELDS.items() for value in values], ids=str
)
def test_a_trainer_state_with_a_field_of_the_wrong_type_is_damaged(tmp_path, name, value):
    state = {
        "global_step": 2,
        "log_history": [{"step": 2, "loss": 1.0}],
        "stateful_callbacks": {"RunningLoss": CALLBACK},
    }
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    trainer_state(tmp_path)
    (tmp_path / "trainer_state.json").write_text(json.dumps({**state, name: value}))
    assert checkpoint_defect(tmp_path) == "trainer_state.json is missing or damaged"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "", "null", "\ud800".encode("utf-8", "surrogatepass")]
)
def test_a_trainer_state_that_does_not_parse_is_damaged(tmp_path, text):
    (tmp_path / "trainer_state.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert checkpoint_defect(tmp_path) == "trainer_state.json is missing or damaged"
