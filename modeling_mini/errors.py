"""The one exception that ends a command with a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake or a state that the user can mend. Its text names what was found, where, and what to do."""
