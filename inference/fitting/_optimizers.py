"""Optimizers that users give, as those of optax."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
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


def check_flat(optimizer: optax.GradientTransformation, dimension: int) -> None:
    """Refuse an optimizer that goes by the names of sites.

    Raises
    ------
    InputError
        If it does not take one flat vector.
    """
    try:
        jax.eval_shape(optimizer.init, jnp.zeros(dimension))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(
            "`optimizer` does not take the parameters as one flat vector, in which sites have no "
            "names (`optax.multi_transform` and `optax.masked` by site do not work): give "
            "`scale={site: width}` for steps of different sizes, or leave `optimizer` out."
        ) from error


@lru_cache(maxsize=16)  # programs are kept by the identity of their optimizer
def _from_numpyro(optimizer) -> optax.GradientTransformationExtraArgs:
    def update(gradient, state, params, *, value, **_):
        wanted = {"value": value} if getattr(optimizer, "update_with_value", False) else {}
        state = optimizer.update(gradient, state, **wanted)
        # NumPyro's state holds the parameters: the update is what it changed.
        return jax.tree.map(lambda new, old: new - old, optimizer.get_params(state), params), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
