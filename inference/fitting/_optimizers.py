"""Optimizers that users give, as those of optax."""

from functools import lru_cache
from typing import Any

import jax
import optax
from numpyro import optim

from scorepriors._errors import InputError


def as_optax(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer of optax or of NumPyro as one of optax that takes extra arguments.

    Parameters
    ----------
    optimizer
        An optax optimizer, or one of `numpyro.optim`.

    Raises
    ------
    InputError
        For anything else, and for `numpyro.optim.Minimize`, which is no rule of updates but a
        whole fit.
    """
    if isinstance(optimizer, optim.Minimize):
        raise InputError(
            "`optimizer` is `numpyro.optim.Minimize`, which evaluates the density by itself: leave "
            "`optimizer` out for L-BFGS with Newton's method, or give `optax.lbfgs()`."
        )
    methods = ("init", "update", "get_params")
    if not isinstance(optimizer, type) and all(hasattr(optimizer, name) for name in methods):
        return _from_numpyro(optimizer)
    # Classes and functions that make an optimizer have neither.
    if isinstance(optimizer, type) or not (
        hasattr(optimizer, "init") and hasattr(optimizer, "update")
    ):
        raise InputError(
            "`optimizer` must be an optax optimizer, such as `optax.adam(0.01)`, or one of "
            f"`numpyro.optim`, got {optimizer!r}."
        )
    return optax.with_extra_args_support(optimizer)


@lru_cache(maxsize=16)  # programs are kept by the identity of their optimizer
def _from_numpyro(optimizer) -> optax.GradientTransformationExtraArgs:
    def update(gradient, state, params, *, value, **_):
        wanted = {"value": value} if getattr(optimizer, "update_with_value", False) else {}
        state = optimizer.update(gradient, state, **wanted)
        # NumPyro's state holds the parameters: the update is what it changed.
        return jax.tree.map(lambda new, old: new - old, optimizer.get_params(state), params), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
