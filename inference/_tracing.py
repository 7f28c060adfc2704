"""Refusal of calls from inside of JAX's transforms."""

from typing import Any

import jax
import jax.numpy as jnp

from scorepriors._errors import InputError


def refuse_tracing(name: str, *inputs: Any, instead: str = "") -> None:
    """Refuse a call inside of `jax.jit`, `jax.vmap` or `jax.grad`.

    Parameters
    ----------
    name
        Name of the function that is called.
    *inputs
        Its arguments: trees of arrays.
    instead
        Further words on what to do.

    Raises
    ------
    InputError
        If an input, or an operation on constants, is traced.
    """
    # An operation on constants is traced inside of `jax.jit` alone, one on inputs in all.
    if any(isinstance(a, jax.core.Tracer) for a in (*jax.tree.leaves(inputs), jnp.add(0, 0))):
        raise InputError(
            f"`{name}` runs compiled programs of its own and can't be part of a `jax.jit`, "
            f"`jax.vmap` or `jax.grad`: call it outside of them{instead}."
        )
