"""The one exception that ends a command with a sentence instead of a traceback."""

import re


class UserError(Exception):
    """A mistake or a state that the user can mend. Its text names what was found, where, and what to do."""


def one_line(error: BaseException) -> str:
    """The text of an exception in one line; without a token of the Hub, which a server might have sent back."""
    return re.sub(r"\bhf_\w+", "hf_***", " ".join(str(error).split())) or type(error).__name__
