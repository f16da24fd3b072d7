"""The one exception that ends a command with a sentence instead of a traceback."""

import re


class UserError(Exception):
    """A mistake or a state that the user can fix. Its text says what was found, where, and what to do."""


def one_line(error: BaseException) -> str:
    """The text of an exception on one line, without Hub tokens: a server may have sent one back."""
    return _without_tokens(" ".join(str(error).split())) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of the text of an exception that is not blank, without Hub tokens."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _without_tokens(lines[0]) if lines else type(error).__name__


def shortened(text: str, length: int) -> str:
    """A text, of which at most `length` characters are shown."""
    return text if len(text) <= length else f"{text[:length]}..."


def _without_tokens(text: str) -> str:
    return re.sub(r"\bhf_\w+", "hf_***", text)
