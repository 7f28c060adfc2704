"""Maximum a posteriori fits of any NumPyro model with optax.

The mode is taken in the unconstrained space, Jacobians included.  For a `ScorePrior`
this is the stretched space in which the prior was learned: there its density is a
Gaussian-smoothed one, and a mode means the same in faint and in bright pixels.  (The
mode in x itself, which NumPyro's AutoDelta finds, weighs each pixel by dz/dx.)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from scorepriors._loops import deferred_interrupt
from scorepriors.errors import InputError

from ._progress import fit_progress
from .lbfgs import flat_lbfgs
from .posterior import Posterior, posterior


@dataclass(frozen=True)
class MAPResult:
    """Outcome of `fit_map`.

    With ``in_axes``, every array (and `converged`) has a leading axis over the fits.

    Attributes
    ----------
    params
        Unconstrained parameters of the best iterate, by site.
    values
        Constrained sites and deterministic sites there.
    converged
        Whether the expected remaining gain fell below the tolerance while the
        potential had settled.
    num_iterations
        Iterations done.
    potential
        Minus the log-density of the best iterate, nats.
    loss_history
        Potential after each iteration, ``[iterations]``; NaN after a fit has stopped.
    gradient_norm
        Of the best iterate, in units of the `scale` (nats per width).
    expected_gain
        Half of g' H^-1 g there, nats: what a Newton step would still win.
    seconds
        Wall time, compilation included.
    interrupted
        Whether Ctrl-C ended the fit; the best iterate so far is kept.
    posterior
        What was maximised.
    """

    params: dict
    values: dict
    converged: Any
    num_iterations: Any
    potential: Any
    loss_history: np.ndarray
    gradient_norm: Any
    expected_gain: Any
    seconds: float
    interrupted: bool
    posterior: Posterior


class _State(eqx.Module):
    v: Any
    optimizer: Any
    curvature: Any
    value: Any
    best_v: Any
    best_value: Any
    best_gradient: Any
    best_gain: Any
    gain: Any
    calm: Any
    iteration: Any
    converged: Any
    failed: Any
    misses: Any

    @property
    def done(self):
        return self.converged | self.failed


_DEFAULT_OPTIMIZER = flat_lbfgs()
# Watches the curvature of whatever optimiser runs, to say what is left to gain.
_CURVATURE = optax.scale_by_lbfgs(memory_size=20)


def fit_map(
    model: Callable | Posterior,
    *model_args,
    key,
    model_kwargs: dict | None = None,
    init: dict | None = None,
    scale: dict | None = None,
    optimizer: optax.GradientTransformation | None = None,
    max_iterations: int = 500,
    tolerance: float = 0.01,
    block: int = 10,
    in_axes: tuple | None = None,
    progress: bool | Callable = False,
) -> MAPResult:
    """Find the mode of any NumPyro model.

    Parameters
    ----------
    model
        NumPyro model, or a `Posterior`.
    *model_args, model_kwargs
        Arguments of the model.  Arrays are traced: other values of the same shapes
        compile nothing.  Python scalars are static.
    key
        For start values that `init` does not give.
    init
        Start values of sites, constrained; missing sites start at a prior median.
    scale
        Widths of sites in the unconstrained space, by name, each broadcastable to the
        site; 1 by default.  The search runs in units of them: a rough guess of the
        posterior widths makes an ill-conditioned fit quick.
    optimizer
        Any optax optimiser; L-BFGS by default (`flat_lbfgs`).
    max_iterations
        At most so many.
    tolerance
        In nats: converged when a Newton step is expected to gain less (and to gain
        something: at a saddle it is negative) and the potential falls by less than a
        tenth of it per iteration, three times in a row.
    block
        Iterations per compiled call; between calls progress is shown and Ctrl-C read.
    in_axes
        Fit a batch side by side, as in `jax.vmap`: one entry per positional argument,
        0 for a leading batch axis, None for one shared by all.  `init` and `scale`
        then carry the batch axis as well.
    progress
        True for a bar; or a function called as ``progress(iteration, potential, gain)``.

    Returns
    -------
    MAPResult
        Also when it has not converged: see `MAPResult.converged`.

    Raises
    ------
    InputError
        For start values that do not fit the model or where the density is not finite.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def coin(heads):
    ...     p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    ...     numpyro.sample("heads", dist.Binomial(10, p), obs=heads)
    >>> best = fit_map(coin, jnp.asarray(7), key=jax.random.key(0))
    >>> bool(best.converged), round(float(best.values["p"]), 3)
    (True, 0.667)
    """
    started = time.monotonic()
    for name, number in (("max_iterations", max_iterations), ("block", block)):
        if number < 1:
            raise InputError(f"`{name}` must be at least 1, got {number}.")
    if not tolerance > 0:
        raise InputError(f"`tolerance` must be positive, got {tolerance}.")
    optimizer = _DEFAULT_OPTIMIZER if optimizer is None else optimizer
    optimizer = optax.with_extra_args_support(optimizer)
    bound = posterior(model, *model_args, model_kwargs=model_kwargs)
    batch = None if in_axes is None else _batch_axes(bound, in_axes)
    if batch is None:
        origin = bound.start(init, key=key)
    else:
        origin = _batched_start(bound, batch, init, key)
    origin = jax.tree.map(lambda u: jax.lax.convert_element_type(u, u.dtype), origin)
    widths = _widths(origin, scale)
    state = _begin(bound, origin, optimizer, batch)
    history, interrupted, done = [], False, 0
    with fit_progress(progress, max_iterations) as report, deferred_interrupt() as interrupt:
        while done < max_iterations and not np.asarray(state.done).all():
            count = min(block, max_iterations - done)
            state, values = _advance(
                bound, origin, widths, state, np.asarray(count, np.int32),
                np.asarray(tolerance, np.float32),
                optimizer, block, batch,
            )  # fmt: skip
            history.append(np.moveaxis(np.asarray(values), -1, 0)[:count])
            done += count
            if not np.isfinite(history[0][0]).all():
                raise InputError(
                    "the model's log-density is not finite at the start values; give `init` for "
                    "the sites with hard bounds, or check the data for NaN."
                )
            report(
                int(np.max(state.iteration)), float(np.sum(state.best_value)),
                float(np.max(state.gain)),
            )  # fmt: skip
            if interrupt:
                interrupted = True
                break
    params, values = _finish(bound, origin, widths, state, batch)
    loss = np.concatenate(history)
    return MAPResult(
        params=params,
        values=values,
        converged=np.asarray(state.converged)[()],
        num_iterations=np.asarray(state.iteration)[()],
        potential=np.asarray(state.best_value)[()],
        loss_history=loss[: int(np.max(state.iteration))],
        gradient_norm=np.linalg.norm(np.asarray(state.best_gradient), axis=-1)[()],
        expected_gain=np.asarray(state.best_gain)[()],
        seconds=time.monotonic() - started,
        interrupted=interrupted,
        posterior=bound,
    )


def _batch_axes(bound: Posterior, in_axes: tuple):
    """Axes tree for the posterior's arrays, from one entry per positional argument."""
    args, kwargs = bound.arrays
    if len(in_axes) != len(args):
        raise InputError(
            f"`in_axes` has {len(in_axes)} entries for {len(args)} positional arguments."
        )
    axes = tuple(
        jax.tree.map(lambda _, a=axis: a, arg) for axis, arg in zip(in_axes, args, strict=True)
    )
    return _Static((axes, jax.tree.map(lambda _: None, kwargs)))


class _Static:
    """A tree of axes, hashable so that jit can take it as static."""

    def __init__(self, tree):
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
        self._key = (tuple(leaves), structure)

    def __hash__(self):
        return hash(self._key)

    def __eq__(self, other):
        return isinstance(other, _Static) and self._key == other._key


def _slice(bound: Posterior, batch: _Static, index: int) -> Posterior:
    arrays = jax.tree.map(
        lambda axis, leaf: leaf if axis is None else leaf[index],
        batch.tree, bound.arrays, is_leaf=lambda x: x is None,
    )  # fmt: skip
    return eqx.tree_at(lambda p: p.arrays, bound, arrays, is_leaf=lambda x: x is None)


def _batched_start(bound, batch, init, key):
    sizes = {
        leaf.shape[0]
        for axis, leaf in zip(
            jax.tree.leaves(batch.tree, is_leaf=lambda x: x is None),
            jax.tree.leaves(bound.arrays, is_leaf=lambda x: x is None),
            strict=True,
        )
        if axis == 0
    }
    if len(sizes) != 1:
        raise InputError(f"batched arguments disagree on the size of the batch: {sorted(sizes)}.")
    (size,) = sizes
    sites = _slice(bound, batch, 0).sites()
    init = {} if init is None else init
    if set(init) == set(sites):  # nothing to draw: map the values, compiled once
        return _unconstrain_batch(bound, init, batch)
    starts = [
        _slice(bound, batch, i).start({n: v[i] for n, v in init.items()}, key=k)
        for i, k in enumerate(jax.random.split(key, size))
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)


def _widths(origin: dict, scale: dict | None) -> dict:
    scale = {} if scale is None else scale
    unknown = sorted(set(scale) - set(origin))
    if unknown:
        raise InputError(
            f"`scale` names {unknown[0]!r}, which is no latent site; sites are {', '.join(origin)}."
        )
    try:
        return {
            name: jnp.broadcast_to(jnp.asarray(scale.get(name, 1.0), u.dtype), u.shape)
            for name, u in origin.items()
        }
    except ValueError as error:
        raise InputError(f"`scale` does not fit the sites: {error}.") from error


def _mapped(function, batch, *axes):
    if batch is None:
        return function
    return jax.vmap(function, in_axes=axes)


def _axes(batch):
    """Axes of a Posterior whose arrays are batched as `batch` says."""
    return None if batch is None else batch.tree


@eqx.filter_jit
def _unconstrain_batch(bound, values, batch):
    def one(arrays, values):
        local = eqx.tree_at(lambda p: p.arrays, bound, arrays, is_leaf=lambda x: x is None)
        return local.unconstrain(values)

    return jax.vmap(one, in_axes=(_axes(batch), 0))(bound.arrays, values)


def _objective(bound, arrays, origin, widths):
    """Potential as a function of the flat offset from the start, in widths."""
    local = eqx.tree_at(lambda p: p.arrays, bound, arrays, is_leaf=lambda x: x is None)
    flat, unravel = ravel_pytree(origin)
    width, _ = ravel_pytree(widths)

    def place(v):
        return unravel(flat + width * v)

    return (lambda v: local.potential_fn(place(v))), place, local


@eqx.filter_jit
def _begin(bound, origin, optimizer, batch):
    """State before the first evaluation; it evaluates nothing, so it compiles fast."""

    def one(arrays, origin):
        v = jnp.zeros_like(ravel_pytree(origin)[0])
        infinite = jnp.asarray(jnp.inf, v.dtype)
        # Explicit types: a weak one would compile the loop a second time.
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return _State(
            v=v, optimizer=optimizer.init(v), curvature=_CURVATURE.init(v), value=infinite,
            best_v=v, best_value=infinite, best_gradient=v, best_gain=infinite, gain=infinite,
            calm=zero, iteration=zero, converged=no, failed=no, misses=zero,
        )  # fmt: skip

    return _mapped(one, batch, _axes(batch), 0)(bound.arrays, origin)


@eqx.filter_jit
def _advance(bound, origin, widths, state, count, tolerance, optimizer, block, batch):
    """At most `count` iterations; returns the state and the values, NaN where idle."""

    def one(arrays, origin, widths, state):
        objective, _, _ = _objective(bound, arrays, origin, widths)

        def condition(carry):
            state, _, i = carry
            return (i < count) & ~state.done

        def body(carry):
            state, values, i = carry
            state = _iterate(objective, optimizer, state, tolerance)
            return state, values.at[i].set(state.value), i + 1

        values = jnp.full(block, jnp.nan, state.value.dtype)
        state, values, _ = jax.lax.while_loop(condition, body, (state, values, 0))
        return state, values

    return _mapped(one, batch, _axes(batch), 0, 0, 0)(bound.arrays, origin, widths, state)


def _iterate(objective, optimizer, state: _State, tolerance) -> _State:
    """Evaluate the current point, judge it, and choose the next."""
    v = state.v
    value, gradient = jax.value_and_grad(objective)(v)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    step, watched = _CURVATURE.update(gradient, state.curvature, v)
    curvature = jax.tree.map(lambda new, old: jnp.where(finite, new, old), watched, state.curvature)
    gain = 0.5 * jnp.vdot(step, gradient)
    misses = jnp.where(finite, 0, state.misses + 1)
    better = finite & (value <= state.best_value)
    pick = lambda new, old: jnp.where(better, new, old)  # noqa: E731
    # Calm: little left to gain, and the potential has stopped falling.  The second test
    # catches modes at infinity, where curvature vanishes and the first can be fooled.
    # Rounding of a potential of 1e5 in float32 is 0.01: it must not keep a fit from ending.
    usable = jnp.where(finite, gradient, 0.0)
    updates, optimizer_state = optimizer.update(
        usable, state.optimizer, v,
        value=jnp.where(finite, value, jnp.inf), grad=usable, value_fn=objective,
    )  # fmt: skip
    rounding = 4 * jnp.finfo(value.dtype).eps * jnp.abs(value)
    settled = jnp.abs(state.value - value) <= 0.1 * tolerance + rounding
    calm = jnp.where(finite & (gain >= 0) & (gain < tolerance) & settled, state.calm + 1, 0)
    return _State(
        v=optax.apply_updates(v, updates),
        optimizer=optimizer_state,
        curvature=curvature,
        value=value,
        best_v=pick(v, state.best_v),
        best_value=pick(value, state.best_value),
        best_gradient=pick(gradient, state.best_gradient),
        best_gain=pick(gain, state.best_gain),
        gain=gain,
        calm=calm,
        iteration=state.iteration + 1,
        converged=calm >= 3,
        # A line search steps back from points outside the support; an optimiser that
        # cannot would stay there for ever.
        misses=misses,
        failed=misses >= 10,
    )


@eqx.filter_jit
def _finish(bound, origin, widths, state, batch):
    def one(arrays, origin, widths, v):
        _, place, local = _objective(bound, arrays, origin, widths)
        u = place(v)
        return u, local.constrain(u)

    return _mapped(one, batch, _axes(batch), 0, 0, 0)(bound.arrays, origin, widths, state.best_v)
