"""The warning of readers: what a file says, or lacks, that a user should know of."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Whether sentences are left out, since they were said before.
_SAID: ContextVar[bool] = ContextVar("said", default=False)

#: Lists that sentences are added to, the innermost last.
_LISTS: ContextVar[tuple[list[str], ...]] = ContextVar("lists", default=())


class FileWarning(UserWarning):
    """Something in a file bears on the result; the sentence says how it was understood."""


def note(sentence: str, category: type[Warning] = FileWarning, *, to_results: bool = True) -> None:
    """Warn with one sentence, at the line of the user's own code that asked for the file.

    Parameters
    ----------
    sentence
        The sentence.
    category
        Kind of the warning.
    to_results
        Whether `collected` takes it; not where results find and say it themselves.
    """
    if _SAID.get():
        return
    if to_results:
        for found in _LISTS.get():
            found.append(sentence)
    frame, level = sys._getframe(1), 2
    # As `skip_file_prefixes` of Python 3.12 does.
    while frame.f_back is not None and _is_ours(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, category, stacklevel=level)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Yield a list of the sentences of `note`, whatever becomes of the warnings themselves.

    Filters of warnings are for the terminal; what bears on a result belongs to it all the same.
    """
    found: list[str] = []
    token = _LISTS.set((*_LISTS.get(), found))
    try:
        yield found
    finally:
        _LISTS.reset(token)


@contextmanager
def said_before():
    """Leave out sentences of `note`: a file is looked at again, of which they were said."""
    token = _SAID.set(True)
    try:
        yield
    finally:
        _SAID.reset(token)


def _is_ours(frame) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("scorepriors.")
