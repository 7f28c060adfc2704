"""Checker of annotations for jaxtyping's hook: beartype, for arrays only.

Shapes and element types are what nothing else checks.  Other types are mypy's, and tests
that hand in a wrong one to read the message would not get as far as the message.  Whether an
array is JAX's or NumPy's makes no difference: where one goes, so does the other.
"""

from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Union, get_args, get_origin

import jax
import numpy as np
from beartype import beartype
from jaxtyping import AbstractArray


def is_array(hint) -> bool:
    """Whether an annotation is that of an array's shape."""
    return isinstance(hint, type) and issubclass(hint, AbstractArray)


def arrays_in(hint) -> Any:
    """The annotation with NumPy's arrays beside JAX's, or None if it says nothing of arrays."""
    if is_array(hint):
        if hint.array_type is not jax.Array:
            return hint
        return hint.dtype[jax.Array | np.ndarray, hint.dim_str]
    parts = get_args(hint)
    inside = [arrays_in(part) for part in parts]
    if all(part is None for part in inside):
        return None
    inside = [part if new is None else new for part, new in zip(parts, inside, strict=True)]
    if get_origin(hint) in (Union, UnionType):
        return reduce(or_, inside)
    return get_origin(hint)[tuple(inside)]


def checked(function):
    """Check the arrays that a function takes or returns."""
    found = {n: arrays_in(hint) for n, hint in getattr(function, "__annotations__", {}).items()}
    kept = {name: hint for name, hint in found.items() if hint is not None}
    if not kept:
        return function
    function.__annotations__ = kept
    return beartype(function)
