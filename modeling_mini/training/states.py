"""Judges the states in a checkpoint that the Trainer loads, before any long work: do they fit the run that continues?

The optimizer and the schedule are built for the shapes of the model, without its weights, and compared with what is
stored. Random states are set in generators of their own.
"""

import random
from collections.abc import Iterator
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, get_scheduler
from transformers.trainer_pt_utils import safe_globals

from .. import modeling_mini
from ..checkpoints import DDP, written_by
from ..errors import UserError, one_line
from ..model_folders import read_config
from .arguments import MiniTrainingArguments
from .optim import Muon, MuonAdamW, optimizer_of


# What the Trainer looks up in the states that it loads. `state` is empty for SGD without momentum.
KEYS = {
    "optimizer.pt": ("state", "param_groups"),
    "scheduler.pt": ("last_epoch",),
    "rng_state*.pth": ("python", "numpy", "cpu"),
}
# What an optimizer keeps for each parameter. Others are compared by shape alone.
STATE_NAMES = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    Muon: {"momentum_buffer"},
}
SETTINGS = ("lr", "betas", "eps", "momentum", "weight_decay")  # of a group, which an update reads


class Damage(Exception):
    """What is wrong with a state, as the end of a sentence that begins with the name of its file."""


def require_states(checkpoint: Path, args: MiniTrainingArguments) -> None:
    """Refuse a checkpoint whose states are not those of a run with these arguments.

    Sharded states are loaded by name, by the library that wrote them, and only their random states are judged.

    Raises:
        UserError: names the file, and what is wrong with it.
    """
    states = {path.name: _load(path, keys) for name, keys in KEYS.items() for path in sorted(checkpoint.glob(name))}
    for name, state in states.items():
        if name.startswith("rng_state"):
            _judge(checkpoint / name, check_random_states, state)
    if written_by(checkpoint) != DDP:
        return
    optimizer = stand_in_optimizer(checkpoint, args)
    if optimizer is not None:
        _judge(checkpoint / "optimizer.pt", check_optimizer, states["optimizer.pt"], optimizer)
        schedule = get_scheduler(
            args.lr_scheduler_type, optimizer, 0, 1000, scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {})
        )
        _judge(checkpoint / "scheduler.pt", check_schedule, states["scheduler.pt"], schedule.state_dict())


def _load(path: Path, keys: tuple[str, ...]) -> dict:
    """A state that has the entries that the Trainer needs. Raises `UserError`."""
    try:
        with safe_globals():
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        lacking = [key for key in keys if key not in state or (key == "param_groups" and not state[key])]
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise UserError(f"{path} does not open: {one_line(error)}; use another checkpoint.") from error
    if lacking:
        raise UserError(f"{path} is damaged: {lacking[0]!r} is missing or empty in it; use another checkpoint.")
    return state


def _judge(path: Path, check: Any, *states: Any) -> None:
    try:
        check(*states)
    except Damage as damage:
        raise UserError(f"{path} is damaged: {damage}; use another checkpoint.") from damage


def check_random_states(state: dict) -> None:
    """Raise `Damage` for states that the generators of Python, NumPy or torch refuse."""
    generators = {
        "python": random.Random().setstate,
        "numpy": np.random.RandomState().set_state,
        "cpu": torch.Generator().set_state,
    }
    for name, set_state in generators.items():
        try:
            set_state(state[name])
        except Exception as error:  # each generator has its own
            raise Damage(f"{name!r} is not the state of a random generator ({one_line(error)})") from error


def stand_in_optimizer(checkpoint: Path, args: MiniTrainingArguments) -> torch.optim.Optimizer | None:
    """The optimizer that the Trainer builds for the model in a checkpoint, on tensors without content.

    None for optimizers that replace parts of the model.
    """
    config = read_config(checkpoint, str(checkpoint))
    with torch.device("meta"):
        model = getattr(modeling_mini, config.architectures[0])(config)
    trainer = Trainer.__new__(Trainer)  # without data, for one method
    trainer.model, trainer.args, trainer.optimizer = model, args, None
    trainer.optimizer_cls_and_kwargs = optimizer_of(args).for_trainer(args)
    try:
        return trainer.create_optimizer()
    except (AttributeError, ImportError, ValueError):  # GaLore and others like it look for modules by name
        return None


def check_optimizer(state: dict, own: torch.optim.Optimizer) -> None:
    """Raise `Damage` for a state with other groups, parameters or shapes than the run's own optimizer."""
    groups, values = state["param_groups"], state["state"]
    if not (isinstance(groups, list) and all(isinstance(group, dict) for group in groups)):
        raise Damage("'param_groups' is not a list of groups")
    if len(groups) != len(own.param_groups):
        raise Damage(f"it has {len(groups)} groups of parameters where this run has {len(own.param_groups)}")
    for number, (group, expected) in enumerate(zip(groups, own.param_groups, strict=True)):
        indices = group.get("params")
        if not isinstance(indices, list) or len(indices) != len(expected["params"]):
            count = len(indices) if isinstance(indices, list) else "no list of"
            raise Damage(f"group {number} has {count} parameters where this run has {len(expected['params'])}")
        for name in SETTINGS:
            if name in expected and not _is_like(group.get(name), expected[name]):
                raise Damage(f"{name!r} of group {number} is {group.get(name)!r}")
    numbers = [index for group in groups for index in group["params"]]
    if numbers != list(range(len(numbers))):
        raise Damage("its parameters are not numbered from 0")
    if not isinstance(values, dict) or not values.keys() <= {*numbers}:
        raise Damage("'state' is not a state for each parameter")
    for index, (parameter, names, has_its_shape) in enumerate(_expected_states(own)):
        _check_parameter(index, values.get(index, {}), parameter.shape, names, has_its_shape)


def _expected_states(own: torch.optim.Optimizer) -> Iterator[tuple[torch.Tensor, set[str], bool]]:
    """Of each parameter: itself, the names of what is kept for it, and whether that has the shape of the parameter."""
    for part in own.parts if isinstance(own, MuonAdamW) else [own]:
        has_its_shape = type(part) is Muon or type(part).__module__.startswith("torch.optim.")
        for group in part.param_groups:
            for parameter in group["params"]:
                yield parameter, STATE_NAMES.get(type(part), set()), has_its_shape


def _check_parameter(index: int, kept: Any, shape: torch.Size, names: set[str], has_its_shape: bool) -> None:
    if not isinstance(kept, dict):
        raise Damage(f"the state of parameter {index} is a {type(kept).__name__}")
    if lacking := sorted(names - kept.keys()):
        raise Damage(f"{lacking[0]!r} of parameter {index} is missing")
    for name, value in kept.items():
        if name in names and not isinstance(value, torch.Tensor):
            raise Damage(f"{name!r} of parameter {index} is a {type(value).__name__}")
        expected = torch.Size() if name == "step" else shape
        if has_its_shape and isinstance(value, torch.Tensor) and value.shape != expected:
            raise Damage(f"{name!r} of parameter {index} has the shape {[*value.shape]} instead of {[*expected]}")


def check_schedule(state: dict, own: dict) -> None:
    """Raise `Damage` for a state whose entries have other types or lengths than the run's own schedule."""
    if "lr_lambdas" in own and "lr_lambdas" not in state:
        raise Damage("'lr_lambdas' is missing in it")
    for name, value in own.items():
        if name in state and not _is_like(state[name], value):
            found = state[name]
            size = f" of {len(found)}" if isinstance(found, list) else ""
            raise Damage(f"{name!r} holds a {type(found).__name__}{size}, which does not fit this run")


def _is_like(value: Any, own: Any) -> bool:
    """Whether a stored value has the type of the run's own; lists and tuples also its length and types."""
    if isinstance(own, list | tuple):
        is_sequence = isinstance(value, list | tuple) and len(value) == len(own)
        return is_sequence and all(map(_is_like, value, own))
    if own is None or isinstance(own, bool):
        return True
    if isinstance(own, Number | torch.Tensor):
        return isinstance(value, Number | torch.Tensor) and not isinstance(value, bool)
    return isinstance(value, type(own))
