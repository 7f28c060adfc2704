"""Descriptive values carried by a pytree without being part of its structure."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Aside(Generic[T]):
    """A value in the static part of a pytree that does not affect comparisons.

    Names, units and WCS objects do not change a program, yet JAX compares the static part
    of a pytree before it takes a compiled function from its cache: two priors that differ
    in their names alone would compile twice.  All instances of this class are equal and
    have one hash, so they compile once.

    Parameters
    ----------
    value
        Any object, hashable or not.

    Notes
    -----
    A compiled function sees the value that it was traced with.  Read `value` outside of
    jitted functions only, and take it from their inputs, not from their outputs.

    Examples
    --------
    >>> Aside("lsst-32") == Aside("ztf-32"), Aside("lsst-32").value
    (True, 'lsst-32')
    """

    __slots__ = ("_value",)
    _value: T

    def __init__(self, value: T):
        object.__setattr__(self, "_value", value)

    @property
    def value(self) -> T:
        """The value."""
        return self._value

    def __setattr__(self, name, value):
        raise AttributeError(f"an Aside is immutable; make another instead of setting {name!r}.")

    def __eq__(self, other):
        return isinstance(other, Aside) or NotImplemented

    def __hash__(self):
        return hash(Aside)

    def __reduce__(self):
        return Aside, (self._value,)

    def described(self):
        """Return nothing: the names of programs on disk don't depend on it (`scorepriors._traces`)."""
        return None, None

    def __repr__(self):
        return f"Aside({self._value!r})"
