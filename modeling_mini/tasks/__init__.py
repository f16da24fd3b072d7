"""One file for each application: `text_generation.py` holds the task `text-generation`.

A task is a subclass of `modeling_mini.task.Task`, and a new one is a new file here: it is found by its name.
"""

import pkgutil
from importlib import import_module


def task_names() -> list[str]:
    """Names of all tasks, as the Hub names them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def task_class(name: str) -> type:
    """The `Task` subclass of a task by its name. Raises `TypeError` if its file holds none of that name."""
    module = import_module(f".{name.replace('-', '_')}", __name__)
    found = next((value for value in vars(module).values() if getattr(value, "name", None) == name), None)
    if found is None:
        raise TypeError(f"{module.__file__} holds no task whose `name` is {name!r}, that of the file.")
    return found
