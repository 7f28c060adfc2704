"""Iterations of a fit, many in one compiled program."""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from scorepriors._compat import quick_compilation
from scorepriors._traces import Kept
from scorepriors.inference._posterior import Posterior

from ._batches import axes_of, mapped, with_arrays
from ._lbfgs import LBFGSState

#: Number of iterations over which the potential of a fit without a test must have come to rest.
WINDOW = 10

# Estimates the curvature for other optimizers than L-BFGS, to compute the expected gain.
_CURVATURE = optax.scale_by_lbfgs(memory_size=20)


class State(eqx.Module):
    """State of a fit: offset `v` from the start, in widths, and a record of its progress.

    Attributes
    ----------
    optimizer, curvature
        States of the optimizer, and of the estimate of the curvature if it is not L-BFGS.
    value, gain
        Potential at the last point evaluated, and expected gain of a Newton step, nats.
    best
        The best point so far.
    recent
        Lowest potentials after each of the last `WINDOW` iterations, the last one first.
    calm, misses
        Numbers of iterations in a row with nothing to gain, and without finite density.
    iteration, converged, failed
        Number of iterations, and whether the fit has converged or failed.
    """

    v: Any
    optimizer: Any
    curvature: Any
    value: Any
    best: Any
    gain: Any
    recent: Any
    calm: Any
    iteration: Any
    converged: Any
    failed: Any
    misses: Any

    @property
    def done(self):
        """Return whether the fit has ended."""
        return self.converged | self.failed


class Best(eqx.Module):
    """The best point of a fit: as in `scorepriors.inference.MAPResult`."""

    params: Any
    values: Any
    value: Any
    gradient_norm: Any
    gain: Any


@Kept
def unconstrain(bound, values, batch):
    """Return unconstrained parameters for values of every site."""

    def one(arrays, values):
        return with_arrays(bound, arrays).unconstrain_all(values)

    return mapped(one, batch, axes_of(batch), 0)(bound.arrays, values)


def _objective(bound, arrays, origin, widths):
    """Return potential and site values as a function of the flat offset in widths."""
    local = with_arrays(bound, arrays)
    flat, unravel = ravel_pytree(origin)
    width, _ = ravel_pytree(widths)

    def objective(v):
        u = unravel(flat + width * v)
        value, sites = local.potential_and_values(u)
        # Data of another type than the parameters' (float64 with JAX_ENABLE_X64) change no state.
        return value.astype(v.dtype), (u, sites)

    return objective


def begin(bound, origin, optimizer, batch):
    """Return a state of the right shape; `advance` sets the start of a fit."""
    # Abstractly: nothing of it has to be computed or compiled.
    state = _first_state.shapes(bound, origin, optimizer, batch)
    return jax.tree.map(_zeros, state)


def _zeros(s):
    """Return zeros without a weak type, which would compile the loop a second time."""
    if jax.dtypes.issubdtype(s.dtype, jax.dtypes.extended):
        return jnp.zeros(s.shape, s.dtype)  # random keys, which NumPy does not support
    return np.zeros(s.shape, s.dtype)


@Kept
def _first_state(bound, origin, optimizer, batch):
    def one(arrays, origin):
        v = jnp.zeros_like(ravel_pytree(origin)[0])
        objective = _objective(bound, arrays, origin, origin)
        params, values = jax.eval_shape(objective, v)[1]
        params, values = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (params, values))
        initial = optimizer.init(v)
        curvature = None if isinstance(initial, LBFGSState) else _CURVATURE.init(v)
        real, number, flag = v[0], jnp.int32(0), jnp.zeros((), bool)
        return State(
            v=v,
            optimizer=initial,
            curvature=curvature,
            value=real,
            best=Best(params, values, real, real, real),
            gain=real,
            recent=jnp.zeros(WINDOW, real.dtype),
            calm=number,
            iteration=number,
            converged=flag,
            failed=flag,
            misses=number,
        )

    return mapped(one, batch, axes_of(batch), 0)(bound.arrays, origin)


class Task(NamedTuple):
    """Posterior and start of a fit; with a batch, all but shared arrays have a leading axis.

    Attributes
    ----------
    bound
        The posterior.
    origin, widths
        Start values, and the units of the search, by site.
    tolerance
        Tolerance in nats.
    """

    bound: Posterior
    origin: dict
    widths: dict
    tolerance: Any


class Steering(NamedTuple):
    """Arguments of the compiled loop that change between calls.

    Attributes
    ----------
    fresh, idle
        Lanes in which a fit begins, and those without one.
    waiting
        Whether more fits wait for a lane.
    clock
        Number of iterations of the loop so far.
    max_iterations
        Largest number of iterations of one fit.
    tested
        Whether claims of convergence are tested afterwards, with the real curvature.
    """

    fresh: Any
    idle: Any
    waiting: Any
    clock: Any
    max_iterations: Any
    tested: Any


@partial(Kept, compiler_options=quick_compilation)
def advance(task: Task, state: State, steering: Steering, optimizer, block: int, batch):
    """Do at most `block` iterations, fewer if a lane becomes free for a waiting fit.

    Returns the state, the values, NaN where idle, and the number of iterations.  There is one
    evaluation per iteration, and one copy of the model in the program.
    """
    bound, origin, widths, tolerance = task
    fresh, idle, waiting, clock, max_iterations, tested = steering

    def one(arrays, origin, widths, tolerance, state, idle, clock):
        objective = _objective(bound, arrays, origin, widths)
        running = ~(idle | state.done | (state.iteration >= max_iterations))
        new = _iterate(objective, optimizer, state, tolerance, clock, tested)
        return _unless_ended(new, state, running), jnp.where(running, new.value, jnp.nan)

    iterate = mapped(one, batch, axes_of(batch), 0, 0, 0, 0, 0, None)
    state = mapped(partial(_restart, optimizer), batch, 0, 0)(state, fresh)

    def condition(carry):
        state, _, i = carry
        ended = state.done | (state.iteration >= max_iterations)
        free = waiting & (ended & ~idle).any()
        return (i < block) & ~(ended | idle).all() & ~free

    def body(carry):
        state, values, i = carry
        state, value = iterate(bound.arrays, origin, widths, tolerance, state, idle, clock + i)
        values = jax.lax.dynamic_update_index_in_dim(values, value, i, 0)
        return state, values, i + 1

    values = jnp.full((block, *state.value.shape), jnp.nan, state.value.dtype)
    state, values, steps = jax.lax.while_loop(condition, body, (state, values, jnp.int32(0)))
    return state, values.T, steps


def _restart(optimizer, state: State, fresh) -> State:
    """Return the initial state of fits that are `fresh`, and the old one of others."""
    v = jnp.zeros_like(state.v)
    inf = jnp.full_like(state.value, jnp.inf)
    best = Best(state.best.params, state.best.values, inf, inf, inf)
    zero, no = jnp.zeros_like(state.calm), jnp.zeros_like(state.failed)
    initial = optimizer.init(v)
    curvature = None if state.curvature is None else _CURVATURE.init(v)
    recent = jnp.full_like(state.recent, jnp.inf)
    new = State(v, initial, curvature, inf, best, inf, recent, zero, zero, no, no, zero)
    return jax.tree.map(lambda new, old: jnp.where(fresh, new, old), new, state)


def _unless_ended(new: State, old: State, running) -> State:
    """Return the new state of running fits, and the old one of those that have ended.

    Memories of the optimizer are always new: those of ended fits are not used again, and need
    no copy.
    """

    def with_memories(state, memories):
        return eqx.tree_at(
            lambda s: (s.optimizer, s.curvature), state, memories, is_leaf=lambda x: x is None
        )

    kept = jax.tree.map(
        lambda new, old: jnp.where(running, new, old),
        with_memories(new, (None, None)),
        with_memories(old, (None, None)),
    )
    return with_memories(kept, (new.optimizer, new.curvature))


def _iterate(objective, optimizer, state: State, tolerance, clock, tested) -> State:
    """Evaluate the current point, test for convergence, and choose the next."""
    v = state.v
    (value, (params, sites)), gradient = jax.value_and_grad(objective, has_aux=True)(v)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    misses = jnp.where(finite, 0, state.misses + 1)
    usable = jnp.where(finite, gradient, 0.0)
    # Line searches of optax hand arguments that they don't know on to `value_fn`.
    extra: dict = {"value_fn": lambda v: objective(v)[0], "grad": usable}
    if isinstance(state.optimizer, LBFGSState):
        extra = {"clock": clock}
    reached = jnp.where(finite, value, jnp.inf)
    updates, optimizer_state = optimizer.update(usable, state.optimizer, v, value=reached, **extra)
    if state.curvature is None:
        curvature, gain, judged = None, optimizer_state.gain, optimizer_state.accepted
    else:
        step, watched = _CURVATURE.update(gradient, state.curvature, v)
        curvature = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), watched, state.curvature
        )
        gain, judged = 0.5 * jnp.vdot(step, gradient), finite
    better = finite & (value <= state.best.value)
    new_best = Best(params, sites, value, jnp.linalg.norm(gradient), gain)
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), new_best, state.best)
    # Calm: a small expected gain, and a potential that no longer falls.  The second test
    # excludes modes at infinity, where curvature vanishes and the first may hold by mistake.
    # Rounding of a potential of 1e5 in float32 is 0.01, which must not prevent convergence.
    rounding = 4 * jnp.finfo(value.dtype).eps * jnp.abs(value)
    settled = jnp.abs(state.value - value) <= 0.1 * tolerance + rounding
    # Without a test, what the last iterations have gained stands for what is left: in soft
    # directions, which the optimizer hardly knows, its own estimate is much too small.
    gained = state.recent[-1] - best.value
    gain = jnp.where(tested, gain, jnp.where(gain >= 0, jnp.maximum(gain, gained), gain))
    best = eqx.tree_at(lambda b: b.gain, best, jnp.where(tested, best.gain, gain))
    calm = jnp.where(judged & (gain >= 0) & (gain < tolerance) & settled, state.calm + 1, 0)
    return State(
        v=optax.apply_updates(v, updates),
        optimizer=optimizer_state,
        curvature=curvature,
        value=value,
        best=best,
        gain=gain,
        recent=jnp.concatenate([best.value[None], state.recent[:-1]]),
        calm=calm,
        iteration=state.iteration + 1,
        converged=calm >= 3,
        # A line search steps back from points outside the support; other optimizers would
        # stay there.
        misses=misses,
        failed=misses >= 10,
    )
