"""L-BFGS with a flattened line search: one gradient per iteration, as an optax optimizer.

optax's own L-BFGS searches along each direction inside one update, which traces the
objective several times over (compilation) and, under `vmap`, makes every fit of a
batch wait for the slowest search.  Here a rejected trial point is an iteration like
any other: the next update steps back along the same line.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree


class LBFGSState(NamedTuple):
    """State of `flat_lbfgs`: the last accepted point, its line, and past curvature.

    ``gain`` is half of g' H^-1 g at that point, the expected gain of a Newton step; ``longest``
    is the largest change of a parameter in any accepted step; ``accepted`` is whether the last trial point was accepted.
    """

    point: Any
    value: Any
    gradient: Any
    direction: Any
    step: Any
    steps: Any
    differences: Any
    inverse_products: Any
    scale: Any
    clock: Any
    gain: Any
    longest: Any
    accepted: Any


#: Sufficient decrease, as a share of that expected from the slope (Nocedal & Wright, eq. 3.4).
_ARMIJO = 1e-4


def flat_lbfgs(
    memory_size: int = 20,
    first_step: float = 0.1,
    max_step: float = np.inf,
    max_growth: float = 10.0,
) -> optax.GradientTransformationExtraArgs:
    """Return L-BFGS (Nocedal & Wright 2006, algorithm 7.4) with backtracking across updates.

    Parameters
    ----------
    memory_size
        Number of last updates whose pairs of steps and gradient differences are kept, except
        updates that stepped back.
    first_step
        Largest change of any parameter in the first, gradient-descent step.
    max_step
        Largest change of any parameter in other steps, in the units of the parameters.
    max_growth
        Largest ratio of the change of any parameter in a step to that in the longest step
        before: the curvature near one point is not valid far away, where densities may
        overflow.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Optimizer whose ``update(grad, state, params, value=...)`` needs the value at `params`.
        A ``clock``, the number of the update, may be given too: under `vmap` one that all
        fits share avoids copies of the memories.

    Raises
    ------
    ValueError
        In an update without `params` or `value`.
    """

    def init(params):
        flat, _ = ravel_pytree(params)
        zeros = jnp.zeros((memory_size, flat.size), flat.dtype)
        infinite = jnp.asarray(jnp.inf, flat.dtype)
        nothing = jnp.zeros_like(flat)
        one = jnp.ones((), flat.dtype)
        return LBFGSState(
            flat,
            infinite,
            nothing,
            nothing,
            one,
            zeros,
            zeros,
            jnp.zeros(memory_size, flat.dtype),
            jnp.zeros((), flat.dtype),
            jnp.zeros((), jnp.int32),
            infinite,
            jnp.zeros((), flat.dtype),
            jnp.zeros((), bool),
        )

    def update(updates, state, params=None, *, value=None, clock=None, **extra):
        del extra
        if params is None or value is None:
            raise ValueError("flat_lbfgs needs `params` and `value` in its update.")
        gradient, unravel = ravel_pytree(updates)
        point, _ = ravel_pytree(params)
        clock = state.clock if clock is None else clock
        slope = jnp.vdot(state.gradient, state.direction)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        # A step that changes the value by less than the rounding error is accepted, and one
        # that may do so if the slopes at both ends show that it descends (the approximate Wolfe
        # condition of Hager & Zhang 2005): sums of many terms round worse than their result.
        rounding = jnp.finfo(gradient.dtype).eps * jnp.abs(state.value)
        rounding = jnp.where(jnp.isfinite(rounding), rounding, 0.0)
        first = ~jnp.isfinite(state.value)
        descends = jnp.abs(jnp.vdot(gradient, state.direction)) <= 0.8 * jnp.abs(slope)
        unsure = jnp.where(descends, 64 * rounding, 2 * rounding)
        enough = value <= state.value + _ARMIJO * state.step * slope + unsure
        accepted = finite & (enough | first)

        moved, change = point - state.point, gradient - state.gradient
        product = jnp.vdot(moved, change)
        # Only pairs of clearly positive curvature keep the inverse Hessian definite.
        floor = 1e-6 * jnp.linalg.norm(moved) * jnp.linalg.norm(change)
        useful = accepted & ~first & (product > floor)
        # Every update writes a row, of zeros if the pair is not used: without a branch, memory
        # of a batch of fits is not copied.
        steps = _write(state.steps, jnp.where(useful, moved, 0.0), clock)
        differences = _write(state.differences, jnp.where(useful, change, 0.0), clock)
        inverse = jnp.where(useful, 1 / jnp.where(useful, product, 1.0), 0.0)
        inverse = _write(state.inverse_products, inverse, clock)
        squared = jnp.vdot(change, change)
        scale = jnp.where(useful, product / jnp.where(useful, squared, 1.0), state.scale)
        newton = -_two_loop(gradient, steps, differences, inverse, scale, clock)
        gain = -0.5 * jnp.vdot(newton, gradient)
        start = -gradient * first_step / jnp.maximum(jnp.max(jnp.abs(gradient)), first_step)
        longest = jnp.where(accepted & ~first, jnp.max(jnp.abs(moved)), 0.0)
        longest = jnp.maximum(longest, state.longest)
        limit = jnp.minimum(max_step, max_growth * jnp.where(longest > 0, longest, first_step))
        newton *= limit / jnp.maximum(jnp.max(jnp.abs(newton)), limit)
        onward = jnp.where(scale > 0, newton, start)

        # Minimum of the parabola through both values and the slope, kept within bounds.
        excess = value - state.value - state.step * slope
        parabola = -0.5 * slope * state.step / jnp.where(excess > 0, excess, 1.0)
        share = jnp.where(finite & (excess > 0), jnp.clip(parabola, 0.1, 0.5), 0.1)
        shorter = state.step * share
        back = state.point + shorter * state.direction - point

        def pick(new, old):
            return jnp.where(accepted, new, old)

        state = LBFGSState(
            pick(point, state.point),
            pick(value, state.value),
            pick(gradient, state.gradient),
            pick(onward, state.direction),
            pick(jnp.ones_like(shorter), shorter),
            steps,
            differences,
            inverse,
            scale,
            clock + 1,
            pick(gain, state.gain),
            longest,
            accepted,
        )
        return unravel(pick(onward, back)), state

    return optax.GradientTransformationExtraArgs(init, update)


def _write(memory, row, clock):
    return jax.lax.dynamic_update_index_in_dim(memory, row, clock % len(memory), 0)


def _two_loop(gradient, steps, differences, inverse, scale, clock):
    """Return the inverse Hessian times the gradient from the stored pairs, newest first."""
    size = len(steps)
    read = partial(jax.lax.dynamic_index_in_dim, keepdims=False)

    def backward(i, carry):
        q, alphas = carry
        slot = (clock - i) % size
        alpha = read(inverse, slot) * jnp.vdot(read(steps, slot), q)
        return q - alpha * read(differences, slot), _write(alphas, alpha, slot)

    q, alphas = jax.lax.fori_loop(0, size, backward, (gradient, jnp.zeros_like(inverse)))

    def forward(i, r):
        slot = (clock + 1 + i) % size
        beta = read(inverse, slot) * jnp.vdot(read(differences, slot), r)
        return r + (read(alphas, slot) - beta) * read(steps, slot)

    return jax.lax.fori_loop(0, size, forward, jnp.where(scale > 0, scale, 1.0) * q)
