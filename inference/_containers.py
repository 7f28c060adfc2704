"""Arguments of a model that come in containers of other libraries, as plain arrays.

Series and tables (pandas, xarray, polars) are taken by their own `to_numpy`.  What would lose
its meaning on the way (a unit, a mask, the upper digits of integers) is refused.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from scorepriors._errors import InputError

#: Kinds of arrays, as NumPy abbreviates them, that hold no numbers: dates, texts, objects.
_NO_NUMBERS = "MmOSU"


def plain_arrays(model: Callable, args: tuple, keywords: dict) -> tuple[tuple, dict]:
    """Return the arguments of a model with arrays in the place of other containers of numbers.

    Parameters
    ----------
    model
        The model, whose signature gives its arguments their names.
    args, keywords
        Its arguments: trees.

    Raises
    ------
    InputError
        For quantities with a unit, arrays with masked elements, integers that do not fit the
        type that JAX will give them, and arrays of no numbers.
    """
    names = _names(model, len(args))
    plain = [_plain(names[i], one) for i, one in enumerate(args)]
    return tuple(plain), {name: _plain(name, one) for name, one in keywords.items()}


def refuse_quantity(value: Any, name: str) -> None:
    """Raise InputError for a quantity with a unit, which NumPyro would take as a number."""
    if _has_unit(value) and not value.unit.is_equivalent(""):
        raise InputError(
            f"{name} has the unit {value.unit}, and a model takes numbers: give "
            f"`.to_value({str(value.unit)!r})` of it, or that of the unit of your priors."
        )


def _names(model: Callable, number: int) -> list[str]:
    try:
        known = [
            one.name
            for one in inspect.signature(model).parameters.values()
            if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):  # of what is written in C
        known = []
    return [*known, *(f"argument {i + 1}" for i in range(len(known), number))][:number]


def _plain(name: str, tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(partial(_leaf, name), tree)


def _leaf(name: str, path: tuple, value: Any) -> Any:
    where = f"`{name}{jax.tree_util.keystr(path)}`"
    refuse_quantity(value, where)
    if _has_unit(value):  # percent, say
        value = np.asarray(value.to_value(""))
    if not isinstance(value, type) and hasattr(value, "to_numpy"):
        value = np.asarray(value.to_numpy())
    if not isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(value).sum())
        if masked:
            raise InputError(
                f"{where} has {masked} masked {'element' if masked == 1 else 'elements'}, which "
                "would be data like all others: give `.filled(0)` of it, with the mask as another "
                "argument for `numpyro.handlers.mask(mask=~masked)`, or `.compressed()`."
            )
        value = np.asarray(value.data)
    if value.dtype.kind in _NO_NUMBERS:
        raise InputError(
            f"{where} is an array of the type {value.dtype}, and a model takes numbers: convert it "
            "(`.astype(float)`; categories by their codes), and give gaps a mask."
        )
    return _fitting(value, where)


def _has_unit(value: Any) -> bool:
    # As an `astropy.units.Quantity`, without importing it.
    return hasattr(value, "unit") and hasattr(value, "to_value") and not isinstance(value, type)


def _fitting(value: np.ndarray, where: str) -> np.ndarray:
    kind = jax.dtypes.canonicalize_dtype(value.dtype)
    if value.dtype.kind in "iu" and kind != value.dtype and value.size:
        least, largest = int(value.min()), int(value.max())
        limits = np.iinfo(kind)
        if least < limits.min or largest > limits.max:
            far = largest if largest > limits.max else least
            raise InputError(
                f"{where} has the integer {far}, which does not fit {kind}: give it as floats or "
                "from another zero point, or start Python with JAX_ENABLE_X64=1."
            )
    return value
