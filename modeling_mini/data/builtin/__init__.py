"""Built-in data sets: read from installed packages, without a download, under the licences of those packages."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, config, load_from_disk

from ...errors import UserError


@dataclass(frozen=True)
class BuiltinData:
    """A built-in data set, and how a model card describes it."""

    load: Callable[..., DatasetDict]
    description: str
    licence: str
    languages: tuple[str, ...] = ("en",)
    license_of_weights: str | None = "apache-2.0"


def _python_docs() -> DatasetDict:
    from ..fingerprint import code_hash
    from . import python_docs

    key = code_hash(python_docs.__file__, sys.version)
    return DatasetDict(train=Dataset.from_generator(python_docs.python_documents, fingerprint=key))


def _stored(name: str, make: Callable[[], DatasetDict]) -> DatasetDict:
    """The result of `make`, stored in the cache of `datasets`.

    A stored data set has a stable fingerprint, so that `datasets` also caches what is derived from it.
    """
    folder = Path(config.HF_DATASETS_CACHE) / "modeling_mini" / name
    if not folder.exists():
        part = folder.with_name(f"{name}.{os.getpid()}.part")
        make().save_to_disk(part)
        with suppress(OSError):  # another process has stored it first
            part.rename(folder)
    return load_from_disk(folder)


def _docstrings(function: str, description: str) -> BuiltinData:
    def load() -> DatasetDict:
        from . import docstrings

        records = docstrings.installed_docstrings()
        return _stored(f"{function}-{records._fingerprint}", lambda: getattr(docstrings, function)(records))

    return BuiltinData(load, f"{description} of the standard library and scientific packages", "those packages")


def _messages(language: str = "zh") -> DatasetDict:
    from .catalogues import messages

    return messages(language)


BUILTIN = {
    "python-docs": BuiltinData(
        _python_docs, "the reference topics and docstrings of Python's standard library", "Python"
    ),
    "docstrings": _docstrings("texts", "the docstrings"),
    "docstring-summaries": _docstrings("summaries", "docstrings with their summary lines"),
    "docstring-questions": _docstrings("questions", "questions on the parameters in docstrings"),
    "docstring-fields": _docstrings("fields", "docstrings with the field that they belong to"),
    "message-catalogues": BuiltinData(
        _messages,
        "the translated messages of Django, Gramps, JupyterLab and Trac",
        "those packages (BSD-3-Clause, and GPL-2.0-or-later for Gramps)",
        ("en", "zh"),
        license_of_weights=None,  # trained partly on text under the GPL: the user who shares the model decides
    ),
}


def load_builtin(name: str, configuration: str | None = None) -> DatasetDict:
    """The splits of a built-in data set.

    Raises:
        UserError: the data set has no configurations, or no installed catalogue has messages in the language.
    """
    if configuration is None:
        return BUILTIN[name].load()
    if name != "message-catalogues":
        raise UserError(
            f"--dataset_config {configuration}: the built-in data set {name} has no configurations; leave it out."
        )
    return BUILTIN[name].load(configuration)
