"""Keywords that have found another place, and the sentence that says which."""

from collections.abc import Callable, Mapping
from functools import wraps

from scorepriors._errors import InputError


def moved_keywords(places: Mapping[str, str]) -> Callable[[Callable], Callable]:
    """Refuse keywords that a function no longer has, and say where they went.

    Parameters
    ----------
    places
        By keyword, what has become of it; ``{}`` stands for its name.
    """

    def decorate(function):
        @wraps(function)
        def checked(*args, **kwargs):
            for name in places.keys() & kwargs.keys():
                raise InputError(f"`{name}` of `{function.__name__}` {places[name].format(name)}.")
            return function(*args, **kwargs)

        return checked

    return decorate
