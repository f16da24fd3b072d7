"""Hooks of MkDocs: other files of the repository, and the help of every command, become pages; formulas are drawn."""

import contextlib
import io
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


REPOSITORY = Path(__file__).resolve().parents[1]
COPIED = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "configuration/README.md",
    "examples/attention_by_hand.ipynb",
    "examples/your_own_model.ipynb",
    "examples/lm_eval/bits_per_byte.yaml",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the copied files, at their path in the repository."""
    for path in COPIED:
        files.append(File.generated(config, path, content=_text(path)))
    files.append(File.generated(config, "reference/command-line.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """Links that leave docs/ lead to the copies, and formulas become MathML, which browsers draw themselves."""
    up = "../" * page.file.src_uri.count("/")
    for path in COPIED:
        markdown = markdown.replace(f"](../{up}{path}", f"]({up}{path}")
    return re.sub(r"( *)```math\n(.+?)\n *```", _formula, markdown, flags=re.DOTALL)


def _formula(match: re.Match) -> str:
    return f'{match[1]}<div class="formula">{convert(match[2].strip(), display="block")}</div>'


def command_line() -> str:
    """A page with the help of every command."""
    sys.path.insert(0, str(REPOSITORY))
    from modeling_mini.cli import main

    overview = _help(main, [])
    names = re.search(r"\{([\w,-]+)\}", overview)[1].split(",")
    parts = [f"## modeling-mini {name}\n\n```text\n{_help(main, [name])}\n```" for name in names]
    return "\n\n".join(["# Command line", f"```text\n{overview}\n```", *parts, ""])


def _help(main, command: list[str]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as written, contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return written.getvalue().strip()


def _text(path: str) -> str:
    """The file; its links to docs/ lead to the pages of the site."""
    up = "../" * path.count("/")
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    return text.replace(f"]({up}docs/", f"]({up}") if path.endswith(".md") else text
