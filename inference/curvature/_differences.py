"""Hessians of functions with derivatives in reverse mode only, by differences of gradients.

``jax.custom_vjp`` defines no forward mode, by which products with a Hessian are usually made; so
do functions built on it, such as ``jax.experimental.ode.odeint``.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree

#: Sentence for warnings.
DIFFERENCES = (
    "the model has derivatives in reverse mode only (`jax.custom_vjp`, such as `odeint`): its "
    "curvature is from differences of gradients"
)

#: Step in units of the width of the function along the direction.  The truncation error is of the
#: order of its square; rounding errors of gradients are divided by it.
STEP = 0.02

#: Number of steps tried, each of the length that the curvature along the one before asks for.
TRIALS = 3

#: Largest growth of the step from one trial to the next, for directions without curvature.
GROWTH = 100.0


def is_differentiable(products: Callable, *args) -> bool:
    """Return whether JAX has the derivatives in a function: it is traced, not run.

    Parameters
    ----------
    products
        Function whose result is mapped over an axis by `jax.vmap`: that the rule of
        `jax.custom_vjp` is missing is found there, otherwise only by the compiler.
    args
        Arguments, arrays or their shapes.
    """
    try:
        eqx.filter_eval_shape(products, *args)
    except (TypeError, ValueError, NotImplementedError):
        # Of `custom_vjp`, of callbacks and foreign functions, of primitives without a rule.
        return False
    return True


def differenced_hessian(function: Callable, point) -> lx.FunctionLinearOperator:
    """Return the Hessian of a scalar function at a point, by differences of its gradient.

    Parameters
    ----------
    function, point
        Arguments of `scorepriors.inference.curvature._hessian.hessian`.
    """
    structure = jax.eval_shape(lambda: point)
    # The function is a pytree: no arrays are closed over.
    product = _Differences(function, point)
    return lx.FunctionLinearOperator(product, structure, lx.symmetric_tag, closure_convert=False)


class _Differences(eqx.Module):
    """Product with a Hessian, by central differences of the gradient.

    The step is `STEP` of the width along the direction, by the curvature found with the step
    before: the first, in units of the parameters, may be far too long or too short.
    """

    function: Callable
    point: dict

    def __call__(self, direction):
        center, unravel = ravel_pytree(self.point)
        along, _ = ravel_pytree(direction)
        dtype = center.dtype
        largest = jnp.abs(along).max()
        unit = along / jnp.where(largest > 0, largest, 1)

        def slope(x):
            return ravel_pytree(jax.grad(self.function)(unravel(x)))[0]

        def trial(_, carry):
            step, _ = carry
            # By `map`: the gradient is compiled once for both sides.
            ends = jnp.stack([center + step * unit, center - step * unit])
            slopes = jax.lax.map(slope, ends)
            # By the distance after rounding, which may be a large part of a short step.
            distance = (ends[0] - ends[1]) @ unit / (unit @ unit)
            product = (slopes[0] - slopes[1]) / distance
            curvature = jnp.abs(unit @ product)
            wanted = STEP / jnp.sqrt(jnp.maximum(curvature, jnp.finfo(dtype).tiny))
            wanted = jnp.where(jnp.isfinite(curvature), wanted, step / GROWTH)
            return jnp.clip(wanted, step / GROWTH, step * GROWTH), product

        first = jnp.asarray(STEP, dtype) * jnp.maximum(1, 1e-3 * jnp.abs(center * unit).max())
        _, product = jax.lax.fori_loop(0, TRIALS, trial, (first, jnp.zeros_like(center)))
        return unravel(product * largest)
