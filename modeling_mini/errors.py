"""The one exception that ends a command with a sentence instead of a traceback."""

import re


class UserError(Exception):
    """A mistake or a state that the user can fix. Its text says what was found, where, and what to do."""


def one_line(error: BaseException) -> str:
    """The text of an exception on one line, without Hub tokens: a server may have sent one back."""
    return re.sub(r"\bhf_\w+", "hf_***", " ".join(str(error).split())) or type(error).__name__
