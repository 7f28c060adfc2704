"""L-BFGS with a flattened line search: one gradient per iteration, as an optax optimiser.

optax's own L-BFGS searches along each direction inside one update, which traces the
objective several times over (compilation) and, under `vmap`, makes every fit of a
batch wait for the slowest search.  Here a rejected trial point is an iteration like
any other: the next update steps back along the same line.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree


class LBFGSState(NamedTuple):
    """State of `flat_lbfgs`: the last accepted point, its line, and past curvature."""

    point: Any
    value: Any
    gradient: Any
    direction: Any
    step: Any
    steps: Any
    differences: Any
    inverse_products: Any
    count: Any


#: Sufficient decrease, as a share of what the slope promises (Nocedal & Wright, eq. 3.4).
_ARMIJO = 1e-4


def flat_lbfgs(
    memory_size: int = 20, first_step: float = 0.1, max_step: float = 10.0
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS (Nocedal & Wright 2006, algorithm 7.4) with backtracking across updates.

    Parameters
    ----------
    memory_size
        Pairs of steps and gradient differences kept.
    first_step
        Largest change of any parameter in the first, gradient-descent step.
    max_step
        Largest change of any parameter in every other one: curvature learned near one
        point says little about far ones, where densities overflow.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its ``update(grad, state, params, value=...)`` needs the value at `params`.
    """

    def init(params):
        flat, _ = ravel_pytree(params)
        zeros = jnp.zeros((memory_size, flat.size), flat.dtype)
        infinite = jnp.asarray(jnp.inf, flat.dtype)
        nothing = jnp.zeros_like(flat)
        return LBFGSState(
            flat, infinite, nothing, nothing, jnp.ones((), flat.dtype), zeros, zeros,
            jnp.zeros(memory_size, flat.dtype), jnp.zeros((), jnp.int32),
        )  # fmt: skip

    def _accept(state, point, gradient, value, slope, finite):
        del slope, finite
        first = ~jnp.isfinite(state.value)
        moved, change = point - state.point, gradient - state.gradient
        product = jnp.vdot(moved, change)
        # Only pairs of clearly positive curvature keep the inverse Hessian definite.
        floor = 1e-6 * jnp.linalg.norm(moved) * jnp.linalg.norm(change)
        useful = ~first & (product > floor)
        slot = state.count % memory_size
        keep = lambda new, old: jnp.where(useful, old.at[slot].set(new), old)  # noqa: E731
        steps = keep(moved, state.steps)
        differences = keep(change, state.differences)
        inverse = keep(1 / jnp.where(useful, product, 1.0), state.inverse_products)
        count = state.count + useful.astype(jnp.int32)
        newton = -_two_loop(gradient, steps, differences, inverse, count, memory_size)
        newton *= max_step / jnp.maximum(jnp.max(jnp.abs(newton)), max_step)
        start = -gradient * first_step / jnp.maximum(jnp.max(jnp.abs(gradient)), first_step)
        direction = jnp.where(count > 0, newton, start)
        state = LBFGSState(
            point, value, gradient, direction, jnp.ones_like(state.step), steps, differences,
            inverse, count,
        )  # fmt: skip
        return direction, state

    def _retreat(state, point, gradient, value, slope, finite):
        del gradient
        # Minimum of the parabola through both values and the slope, kept within bounds.
        excess = value - state.value - state.step * slope
        parabola = -0.5 * slope * state.step / jnp.where(excess > 0, excess, 1.0)
        share = jnp.where(finite & (excess > 0), jnp.clip(parabola, 0.1, 0.5), 0.1)
        step = state.step * share
        target = state.point + step * state.direction
        return target - point, state._replace(step=step)

    def update(updates, state, params=None, *, value=None, **extra):
        del extra
        if params is None or value is None:
            raise ValueError("flat_lbfgs needs `params` and `value` in its update.")
        gradient, unravel = ravel_pytree(updates)
        point, _ = ravel_pytree(params)
        slope = jnp.vdot(state.gradient, state.direction)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        # A step that changes the value by less than rounding can resolve is accepted.
        rounding = 2 * jnp.finfo(gradient.dtype).eps * jnp.abs(state.value)
        rounding = jnp.where(jnp.isfinite(rounding), rounding, 0.0)
        enough = value <= state.value + _ARMIJO * state.step * slope + rounding
        accepted = finite & (enough | ~jnp.isfinite(state.value))
        step, state = jax.lax.cond(
            accepted, _accept, _retreat, state, point, gradient, value, slope, finite
        )
        return unravel(step), state

    return optax.GradientTransformationExtraArgs(init, update)


def _two_loop(gradient, steps, differences, inverse, count, size):
    """Inverse Hessian times the gradient from the stored pairs, newest first."""
    held = jnp.minimum(count, size)

    def backward(i, carry):
        q, alphas = carry
        slot = (count - 1 - i) % size
        alpha = jnp.where(i < held, inverse[slot] * jnp.vdot(steps[slot], q), 0.0)
        return q - alpha * differences[slot], alphas.at[slot].set(alpha)

    q, alphas = jax.lax.fori_loop(0, size, backward, (gradient, jnp.zeros_like(inverse)))
    newest = (count - 1) % size
    squared = jnp.vdot(differences[newest], differences[newest])
    gamma = 1 / jnp.where(held > 0, inverse[newest] * squared, 1.0)
    r = jnp.where(held > 0, gamma, 1.0) * q

    def forward(i, r):
        slot = (count - held + i) % size
        beta = inverse[slot] * jnp.vdot(differences[slot], r)
        return r + jnp.where(i < held, alphas[slot] - beta, 0.0) * steps[slot]

    return jax.lax.fori_loop(0, size, forward, r)
