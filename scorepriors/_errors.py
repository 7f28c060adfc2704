"""The exceptions that this package raises on purpose."""


class InputError(ValueError):
    """Something handed in by the user is wrong; the message names it and the mend.

    The command line prints the message as its only line and exits with status 2.
    """
