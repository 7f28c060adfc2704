"""The exceptions that this package raises on purpose."""


class InputError(ValueError):
    """A wrong argument or file of the user; the message names it and how to correct it.

    The command line prints the message as its only line and exits with status 2.
    """
