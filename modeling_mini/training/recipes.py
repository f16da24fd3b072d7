"""Recipes: YAML files of arguments, found by path or by name, and read without importing torch."""

import json
from collections.abc import Collection
from pathlib import Path

import yaml

from ..errors import UserError, one_line, shortened
from ..options import (
    FILE_ARGUMENTS,
    OLDER_NAMES,
    TRAIN_CLASSES,
    check_checkpoint,
    check_choice,
    check_data,
    check_names,
    names_in_source,
    nearest,
    options,
)
from ..presets import configuration_path
from ..tasks import TASKS


DEFAULT_RECIPE = "quickstart"
# Option of the command line: the arguments of a recipe that would win over it.
_WINNERS = {
    "num_train_epochs": ("max_steps",),
    "model": ("init_from",),
    "tokenizer_kind": ("tokenizer",),
    "dataset": FILE_ARGUMENTS,
    **dict.fromkeys(FILE_ARGUMENTS, ("dataset", "dataset_config", "columns")),
}
_INTERVALS = ("eval", "save", "logging")  # of `--eval_steps`, which counts where `--eval_strategy` is steps


def recipe_names() -> list[str]:
    """Names of the recipes in `configuration/recipes`."""
    return sorted(path.stem for path in configuration_path("recipes").glob("*.yaml"))


def check_early(argv: list[str]) -> None:
    """Refuse a wrong recipe, name of an argument, task or path before the imports of a run. Raises `UserError`.

    What needs more than names and paths is checked when the arguments are parsed.
    """
    path, argv = split_recipe(argv)
    recipe = read_recipe(path)
    check_names(argv, [*names_in_source(TRAIN_CLASSES), *OLDER_NAMES])
    given = options(argv)
    if "help" in given:
        return
    recipe = without_winners(recipe, given)
    values = {**{name: value for name, value in recipe.items() if isinstance(value, str)}, **given}
    if (task := values.get("task")) is not None:
        check_choice("--task", task, sorted(TASKS))
    check_data(values)
    if (init_from := values.get("init_from")) is not None:
        check_checkpoint(init_from, "--init_from")


def split_recipe(argv: list[str]) -> tuple[Path, list[str]]:
    """`[RECIPE] [--argument value ...]` as the path of the recipe, and the arguments. Raises `UserError`."""
    has_recipe = bool(argv) and not argv[0].startswith("-")
    return _recipe_path(argv[0] if has_recipe else DEFAULT_RECIPE), argv[has_recipe:]


def _recipe_path(name_or_path: str) -> Path:
    names = recipe_names()
    if name_or_path in names:
        return configuration_path("recipes", f"{name_or_path}.yaml")
    try:
        if Path(name_or_path).is_file():
            return Path(name_or_path)
    except (OSError, ValueError):  # a name that is too long, or with a NUL character
        name_or_path = shortened(name_or_path, 100)
    hint = nearest(name_or_path, names)
    hint = hint.lstrip("; ") if "did you mean" in hint else "choose one of them."
    if name_or_path in TASKS:
        hint = f"name a task with --task {name_or_path}."
    raise UserError(f"{name_or_path} is neither a recipe file nor one of the recipes {', '.join(names)}; {hint}")


def read_recipe(path: Path) -> dict:
    """The arguments of a recipe. Raises `UserError` for a file that is not a YAML mapping of known arguments."""
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8-sig"), _UniqueKeys)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-13-45
        reason = one_line(error).partition("; use sys.")[0]  # advice for Python code about numbers of 5,000 digits
        raise UserError(f"{path} is not YAML: {reason}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply; a recipe holds lines of `argument: value`.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    recipe = {} if recipe is None else recipe
    if not isinstance(recipe, dict):
        raise UserError(f"{path} must hold lines of `argument: value`, but holds a {type(recipe).__name__}.")
    if not isinstance(recipe.get("config_overrides") or {}, dict):
        raise UserError(f"{path}: config_overrides must hold fields and values: {{hidden_size: 192}}.")
    names = names_in_source(TRAIN_CLASSES)
    for name in recipe:
        if name not in (*names, *OLDER_NAMES):
            raise UserError(f"{path}: there is no argument {name}{nearest(str(name), names)}")
    return recipe


def without_winners(recipe: dict, given: Collection[str]) -> dict:
    """A recipe without the arguments that would win over the options that the command line gives.

    `--num_train_epochs` drops its `max_steps`, and `--eval_steps` makes its `eval_strategy` steps.
    """
    dropped = {winner for name in given for winner in _WINNERS.get(name, ())}
    strategies = {f"{name}_strategy": "steps" for name in _INTERVALS if f"{name}_steps" in given}
    return {name: value for name, value in recipe.items() if name not in dropped} | strategies


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key stands twice: the last would replace the first without a word."""

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} is given twice; remove one of the two", key_node.start_mark
                )
            keys.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)


def to_argv(recipe: dict, path: Path, lists: Collection[str], dicts: Collection[str]) -> list[str]:
    """A recipe as a command line, so that argparse checks and converts all values.

    Args:
        recipe: values by argument; None stands for the default.
        path: the recipe, for errors.
        lists, dicts: the arguments that take several values, or a JSON object.

    Raises:
        UserError: several values for an argument that takes one.
    """
    argv = []
    for name, value in recipe.items():
        if (isinstance(value, dict) and name not in dicts) or (isinstance(value, list) and name not in lists):
            raise UserError(
                f"{path}: {name} takes one value, but holds a {type(value).__name__}: {shortened(str(value), 100)}"
            )
        if isinstance(value, list) and value:
            if nested := next((item for item in value if isinstance(item, (dict, list))), None):
                raise UserError(
                    f"{path}: {name} takes a list of values, but one of them is {shortened(str(nested), 100)}"
                )
            argv += [f"--{name}", *map(str, value)]
        elif value is not None and value != []:
            argv.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return argv
