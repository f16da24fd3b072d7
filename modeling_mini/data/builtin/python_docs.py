"""The built-in corpus: English technical prose from the Python installation, without a download."""

import ast
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm


# Docstrings of tests do not describe the library, and the content of site-packages differs between machines.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def python_documents(min_characters: int = 200) -> Iterator[dict[str, str]]:
    """The reference topics of `pydoc`, then the docstrings of each module of the standard library.

    A document is one topic, or all docstrings of one module in source order. A docstring that several modules share is
    kept once, and modules with fewer than `min_characters` are left out. The text depends on the version of Python:
    about 2.2 million characters with 3.11.

    Yields:
        `{"name": ..., "text": ...}`.
    """
    import pydoc_data.topics  # half a megabyte of text, used only here

    seen = set()
    for topic, text in sorted(pydoc_data.topics.topics.items()):
        if text not in seen:  # some topics have two names
            yield {"name": f"topic {topic}", "text": text.strip()}
        seen.add(text)
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in root.rglob("*.py") if not _SKIPPED_FOLDERS & set(path.relative_to(root).parts))
    for path in tqdm(files, desc="Reading docstrings", unit="file", disable=not sys.stderr.isatty()):
        docstrings = [text for text in _docstrings(path) if text not in seen]
        seen.update(docstrings)
        text = "\n\n".join(docstrings)
        if len(text) >= min_characters:
            yield {"name": path.relative_to(root).as_posix(), "text": text}


def _docstrings(path: Path) -> list[str]:
    """The docstrings of a module, its classes and functions, top to bottom; empty if the file does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted(
        (node for node in ast.walk(tree) if isinstance(node, documented)), key=lambda n: getattr(n, "lineno", 0)
    )
    return [text for text in map(ast.get_docstring, nodes) if text]
