"""Error messages for keywords that were moved elsewhere."""

from collections.abc import Callable, Mapping
from functools import wraps

from scorepriors._errors import InputError


def moved_keywords(places: Mapping[str, str]) -> Callable[[Callable], Callable]:
    """Reject keywords that a function no longer has, with a message about their replacement.

    Parameters
    ----------
    places
        Description of the replacement by keyword; ``{}`` stands for the keyword's name.
    """

    def decorate(function):
        @wraps(function)
        def checked(*args, **kwargs):
            for name in places.keys() & kwargs.keys():
                raise InputError(f"`{name}` of `{function.__name__}` {places[name].format(name)}.")
            return function(*args, **kwargs)

        return checked

    return decorate
