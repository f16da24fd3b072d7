"""Tables in Markdown."""


def markdown_table(rows: list[list[str]]) -> str:
    """Cells as a table in Markdown; the first row is the header."""
    header, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body))
