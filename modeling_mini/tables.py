"""Markdown: tables, the decimals of their scores, and text of any content that cannot break the page around it."""

import html
import re


def markdown_table(rows: list[list[str]]) -> str:
    """Cells as a table in Markdown; the first row is the header."""
    header, *body = [[_on_one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body))


def decimals(score: float) -> int:
    """How many decimals of a score a table or a sentence shows."""
    return 2 if abs(score) >= 10 else 3


def _on_one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) if not text.isprintable() else text


def escaped(text: str) -> str:
    """A name as Markdown that shows it as it is: on one line, without markup and without HTML."""
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", html.escape(_on_one_line(text), quote=False))


def code_span(text: str) -> str:
    """A name in code style, on one line: inside more backticks than it holds in a row."""
    text = _on_one_line(text)
    ticks = "`" * (_longest_run(text) + 1)
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{padding}{text}{padding}{ticks}"


def fence(text: str) -> str:
    """Backticks that enclose a text as a code block: more than it holds in a row, and at least four."""
    return "`" * max(4, _longest_run(text) + 1)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
