"""Data that needs no download: it is read from what is installed, and stays under the licences of its packages."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, config, load_from_disk

from ..errors import UserError


@dataclass(frozen=True)
class EmbeddedData:
    """What an embedded data set is, in the words of a model card."""

    load: Callable[..., DatasetDict]
    description: str
    licence: str
    languages: tuple[str, ...] = ("en",)
    license_of_weights: str | None = "apache-2.0"


def _python_docs() -> DatasetDict:
    from ..caching import code_hash
    from . import python_docs

    key = code_hash(python_docs.__file__, sys.version)
    return DatasetDict(train=Dataset.from_generator(python_docs.python_documents, fingerprint=key))


def _stored(name: str, make: Callable[[], DatasetDict]) -> DatasetDict:
    """What `make` makes, kept in the cache of `datasets`, so that what is derived from it can be kept there too."""
    folder = Path(config.HF_DATASETS_CACHE) / "modeling_mini" / name
    if not folder.exists():
        part = folder.with_name(f"{name}.{os.getpid()}.part")
        make().save_to_disk(part)
        with suppress(OSError):  # another process was quicker
            part.rename(folder)
    return load_from_disk(folder)


def _docstrings(function: str, description: str) -> EmbeddedData:
    def load() -> DatasetDict:
        from . import docstrings

        records = docstrings.installed_docstrings()
        return _stored(f"{function}-{records._fingerprint}", lambda: getattr(docstrings, function)(records))

    return EmbeddedData(load, f"{description} of the standard library and scientific packages", "those packages")


def _messages(language: str = "zh") -> DatasetDict:
    from .catalogues import messages

    return messages(language)


EMBEDDED = {
    "python-docs": EmbeddedData(
        _python_docs, "the reference topics and docstrings of Python's standard library", "Python"
    ),
    "docstrings": _docstrings("texts", "the docstrings"),
    "docstring-summaries": _docstrings("summaries", "docstrings with their summary lines"),
    "docstring-questions": _docstrings("questions", "questions on the parameters in docstrings"),
    "docstring-fields": _docstrings("fields", "docstrings with the field that they belong to"),
    "docstring-pairs": _docstrings("pairs", "docstrings with summaries that describe them or another"),
    "message-catalogues": EmbeddedData(
        _messages,
        "the translated messages of Django, Gramps, JupyterLab and Trac",
        "those packages (BSD-3-Clause, and GPL-2.0-or-later for Gramps)",
        ("en", "zh"),
        license_of_weights=None,  # whoever shares a model that learnt from text under the GPL decides
    ),
}


def load_embedded(name: str, configuration: str | None = None) -> DatasetDict:
    """An embedded data set by its name, with the splits that it has.

    Raises:
        UserError: a configuration for a data set that has none, or a language without a catalogue.
    """
    if configuration is None:
        return EMBEDDED[name].load()
    if name != "message-catalogues":
        raise UserError(f"--dataset_config {configuration}: the embedded {name} has no configurations; leave it out.")
    return EMBEDDED[name].load(configuration)
