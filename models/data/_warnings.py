"""The warning of readers: what a file says, or lacks, that a user should know of."""

import sys
import warnings


class FileWarning(UserWarning):
    """Something in a file bears on the result; the sentence says how it was understood."""


def note(sentence: str, category: type[Warning] = FileWarning) -> None:
    """Warn with one sentence, at the line of the user's own code that asked for the file."""
    frame, level = sys._getframe(1), 2
    # As `skip_file_prefixes` of Python 3.12 does.
    while frame.f_back is not None and _is_ours(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, category, stacklevel=level)


def _is_ours(frame) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("scorepriors.")
