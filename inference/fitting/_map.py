"""Maximum a posteriori fits of any NumPyro model with optax.

The mode is taken in the unconstrained space, Jacobians included.  For a `ScorePrior`
this is the stretched space in which the prior was learned: there its density is smoothed by
a Gaussian, and a mode has the same meaning in faint and in bright pixels.  (The mode in x,
which NumPyro's AutoDelta finds, weights each pixel by dz/dx.)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scorepriors._errors import InputError
from scorepriors._loops import deferred_interrupt
from scorepriors._programs import make_room_now_and_then
from scorepriors._progress import Progress, reporting
from scorepriors.inference._checked import check_free
from scorepriors.inference._constants import SENTENCE
from scorepriors.inference._masks import check_masks
from scorepriors.inference._posterior import (
    Posterior,
    bind,
    floating_on_host,
    needs_values,
    posterior,
)
from scorepriors.inference._status import FitStatus
from scorepriors.inference._tracing import refuse_tracing

from ._batches import batch_axes, batch_size, listed_batches, members_of
from ._conjugate import refine_large
from ._iterations import Best, Steering, Task, advance, begin, unconstrain
from ._lbfgs import flat_lbfgs
from ._newton import DENSE, refine
from ._newton import Problem as Newton
from ._optimizers import as_optax, check_flat


@dataclass(frozen=True)
class MAPResult:
    """Result of `fit_map`.

    With ``in_axes``, every array (and `status`) has a leading axis over the fits; a fit that
    was not started because of Ctrl-C has no iterations and values of NaN.

    Attributes
    ----------
    params
        Unconstrained parameters of the best iterate, by site.
    values
        Constrained sites and deterministic sites there.
    status
        Status of the fit: a `FitStatus`, with a sentence and a remedy.  With ``in_axes`` an
        array of them.
    num_iterations
        Number of iterations.
    potential
        Minus the log-density of the best iterate, nats.
    loss_history
        Potential after each iteration, ``[iterations]``; NaN after a fit has stopped.
    gradient_norm
        Norm of the gradient at the best iterate, in units of the `scale` (nats per width).
    expected_gain
        Half of g' H^-1 g there, nats: the expected gain of a Newton step; infinite where the
        curvature is negative.  Without `verify` the larger of the optimizer's estimate and
        what the last ten iterations have gained.
    seconds
        Wall time, compilation included.
    posterior
        The posterior that was maximized.
    axes
        Leading axes of the arrays of `posterior`, for a batch.
    """

    params: dict
    values: dict
    status: Any
    num_iterations: Any
    potential: Any
    loss_history: np.ndarray
    gradient_norm: Any
    expected_gain: Any
    seconds: float
    posterior: Posterior
    axes: Any = None

    @property
    def converged(self) -> Any:
        """Whether what is left to gain is expected to be below the tolerance; one per fit.

        That is what a Newton step gains, or without `verify` the weaker claim of `expected_gain`.
        """
        return self._is(FitStatus.CONVERGED)

    @property
    def interrupted(self) -> Any:
        """Whether Ctrl-C ended the fit, or prevented its start; one per fit."""
        return self._is(FitStatus.INTERRUPTED, FitStatus.NOT_STARTED)

    def _is(self, *members):
        if isinstance(self.status, FitStatus):
            return self.status in members
        return np.array([status in members for status in self.status], bool)

    def __getitem__(self, index: int) -> "MAPResult":
        """Return one fit of a batch."""
        if self.axes is None:
            raise TypeError("this is the result of a single fit; only a batch has members.")
        params, values = jax.tree.map(lambda leaf: leaf[index], (self.params, self.values))
        iterations = int(self.num_iterations[index])
        return MAPResult(
            params,
            values,
            self.status[index],
            self.num_iterations[index],
            self.potential[index],
            self.loss_history[:iterations, index],
            self.gradient_norm[index],
            self.expected_gain[index],
            self.seconds,
            members_of(self.posterior, self.axes, index),
        )


_DEFAULT_OPTIMIZER = flat_lbfgs()

#: Number of iterations per compiled call; between calls progress is shown and Ctrl-C handled.
BLOCK = 10

#: Smallest and largest number of iterations of the default optimizer before Newton's method.
SEARCH = 50, 200


def fit_map(
    model: Callable | Posterior,
    *model_args: Any,
    key,
    model_kwargs: dict | None = None,
    init: dict | None = None,
    scale: dict | None = None,
    optimizer: optax.GradientTransformation | None = None,
    max_iterations: int = 500,
    tolerance: Any = 0.01,
    in_axes: tuple | None = None,
    side_by_side: int | None = None,
    verify: bool = True,
    progress: Progress = False,
) -> MAPResult:
    """Find the mode of any NumPyro model.

    Parameters
    ----------
    model
        NumPyro model, or a `Posterior`.
    *model_args, model_kwargs
        Arguments of the model.  Arrays are traced: other values of the same shapes
        recompile nothing.  Python scalars are static.
    key
        Random key for start values that are not in `init`.
    init
        Start values of sites, constrained; missing sites start at a prior median.
    scale
        Widths of sites in the unconstrained space, by name, each broadcastable to the
        site; 1 by default.  They are the units of the search: a rough estimate of the
        posterior widths makes an ill-conditioned fit fast.
    optimizer
        An optax optimizer of one flat vector, in which all sites are joined, or one of
        `numpyro.optim`; L-BFGS by default (`flat_lbfgs`).  Line searches get the values and the
        function that they need.  Optimizers by site (`optax.multi_transform`, `optax.masked`
        with labels by name) have no names to go by: give `scale`.
    max_iterations
        Largest number of iterations, Newton steps included.
    tolerance
        Tolerance in nats: converged when the expected gain of a Newton step is smaller.  One
        number, or with ``in_axes`` one per fit.
    in_axes
        Axes of a batch, as in `jax.vmap` (keyword arguments are shared by all fits, and must not
        have its length): one entry per positional argument, 0 for a leading
        batch axis, None for one shared by all, or a tree of them that is a prefix of the
        argument's.  `init` and `scale` then have the batch axis as well.  Lists of numbers with a
        batch axis are arrays, also those of integers.
    side_by_side
        Number of fits of a batch that share each evaluation; all of them by default.  When
        one ends, the next takes its place, so other fits don't wait for a long one, and
        batches of every length run the same compiled program.
    verify
        Whether to test the claim of the optimizer with the real curvature, and to go on by
        Newton's method where it fails: see the notes.  Without, the optimizer's own estimate
        and what the last ten iterations have gained must be below the tolerance: a weaker
        claim, for densities whose Hessian products are dear.
    progress
        True for a bar (over iterations, or over the fits of a batch); or a function
        called as ``progress(done, total, text)``.

    Returns
    -------
    MAPResult
        Result, converged or not: see `MAPResult.status`.

    Raises
    ------
    InputError
        For start values that do not fit the model or where the density is not finite, a
        `numpyro.param`, a model without a free continuous site, masked elements of a site without
        any density (`obs_mask`), an `optimizer` that is none or that goes by site, or a call inside of `jax.jit`, `jax.vmap`
        or `jax.grad`.

    Notes
    -----
    An optimizer may come to rest far from the mode, along directions that it has not seen.  So
    its claim is tested: up to 400 dimensions with the whole Hessian, beyond with products with
    it (conjugate gradients, equilibrated), where a random start of Lanczos's recurrence looks for
    directions that lead down without a slope.  The gain of a Newton step, half of g' H^-1 g, is
    the `expected_gain`, and must be below the tolerance with the rounding noise of the
    gradient, which is measured.  Where it is not, steps of a trust region follow.  L-BFGS makes
    way for them after 50 iterations, or as many as there are dimensions, at most 200.  Rounding
    that prevents convergence, and a density that rises without end, are statuses of their own
    (`FitStatus`).  Models with rules of reverse mode only are multiplied with by reverse mode
    twice, or by differences of gradients.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> def coin(heads):
    ...     p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    ...     numpyro.sample("heads", dist.Binomial(10, p), obs=heads)
    >>> best = fit_map(coin, jnp.asarray(7), key=jax.random.key(0))
    >>> bool(best.converged), round(float(best.values["p"]), 3)
    (True, 0.667)
    """
    started = time.monotonic()
    if max_iterations < 1:
        raise InputError(f"`max_iterations` must be at least 1, got {max_iterations}.")
    if not np.all(np.asarray(tolerance) > 0):
        raise InputError(f"`tolerance` must be positive, got {tolerance}.")
    is_default = optimizer is None
    optimizer = as_optax(_DEFAULT_OPTIMIZER if optimizer is None else optimizer)
    if in_axes is not None:
        model_args = listed_batches(model_args, in_axes)
        if isinstance(model, partial):
            in_axes = (None,) * len(model.args) + tuple(in_axes)
    if in_axes is None:
        bound = posterior(model, *model_args, model_kwargs=model_kwargs)
    else:
        bound, _ = bind(model, *model_args, model_kwargs=model_kwargs)
    instead = ", with `in_axes` for many fits at once"
    refuse_tracing("fit_map", bound, key, init, scale, tolerance, instead=instead)
    make_room_now_and_then()
    if in_axes is None:
        check_masks(bound)
    problem = _problem(bound, init, scale, key, tolerance, in_axes, side_by_side)
    check_free(problem.origin, "fit")
    check_flat(optimizer, problem.dimension)
    limits = _limits(problem, max_iterations, is_default, verify)
    batch, num_fits = problem.batch, problem.num_fits
    fits = [_Fit() for _ in range(num_fits)]
    total = max_iterations if num_fits == 1 else num_fits
    with reporting(progress, "fit", total) as report, deferred_interrupt() as interrupt:
        try:
            _run(problem, optimizer, limits, fits, report, interrupt)
        except _BadStartError:
            if init or in_axes is not None:
                raise
            # Wide priors on coefficients of large numbers overflow; at zero they do not.
            zero = jax.tree.map(jnp.zeros_like, problem.origin)
            problem, fits = replace(problem, origin=zero), [_Fit()]
            _run(problem, optimizer, limits, fits, report, interrupt)
    best, iterations = _collect(fits, batch)
    loss = _histories(fits)
    return MAPResult(
        params=best.params,
        values=best.values,
        status=fits[0].status if batch is None else np.array([f.status for f in fits], object),
        num_iterations=iterations,
        potential=best.value,
        loss_history=loss if batch is not None else loss[:, 0],
        gradient_norm=best.gradient_norm,
        expected_gain=best.gain,
        seconds=time.monotonic() - started,
        posterior=bound,
        axes=batch,
    )


def _problem(bound, init, scale, key, tolerance, in_axes, side_by_side) -> "_Problem":
    if in_axes is None:
        batch, num_fits, lanes = None, 1, 1
        origin = bound.start(init, key=key)
    else:
        batch = batch_axes(bound, in_axes)
        num_fits = batch_size(bound, batch)
        if needs_values(members_of(bound, batch, 0)):
            raise InputError(
                f"{SENTENCE}, which is not possible with `in_axes`: compute the number outside "
                "and give it as an argument, or fit one after the other."
            )
        lanes = num_fits if side_by_side is None else side_by_side
        origin = _batched_start(bound, batch, init, key, num_fits, lanes)
    return _Problem(bound, batch, origin, _widths(origin, scale), tolerance, num_fits, lanes)


@dataclass(frozen=True)
class _Problem:
    """Problem of a fit; with a batch, everything but shared arrays has a leading axis."""

    bound: Posterior
    batch: Any
    origin: dict
    widths: dict
    tolerance: Any
    num_fits: int
    lanes: int

    @property
    def dimension(self) -> int:
        """Number of parameters of one fit."""
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.origin))
        return count if self.batch is None else count // self.num_fits

    @property
    def vmapped(self):
        """Axes of the arrays inside one evaluation; None for a single fit."""
        return self.batch if self.lanes > 1 else None

    def select(self, members: list[int]) -> Task:
        """Return the task of the fits `members`, one per lane, for a compiled call."""
        if self.batch is None:
            tolerance = np.asarray(self.tolerance, np.float32)
            return Task(self.bound, self.origin, self.widths, tolerance)
        pick: Any = np.asarray(members) if self.lanes > 1 else members[0]
        bound = members_of(self.bound, self.batch, pick)
        tolerance = np.broadcast_to(np.asarray(self.tolerance, np.float32), self.num_fits)
        origin, widths = jax.tree.map(
            lambda leaf: np.asarray(leaf)[pick], (self.origin, self.widths)
        )
        return Task(bound, origin, widths, np.asarray(tolerance[pick]))


@dataclass
class _Fit:
    """Record of one fit, while it runs and at its end."""

    best: Best | None = None
    iterations: Any = field(default_factory=lambda: np.int32(0))
    status: FitStatus = FitStatus.NOT_STARTED
    losses: list = field(default_factory=list)


class _BadStartError(InputError):
    """The density is not finite at the start values."""


class _Limits(NamedTuple):
    """Limits of a fit.

    Attributes
    ----------
    search
        Largest number of iterations of the optimizer.
    whole
        The same with those by Newton's method that follow.
    tested
        Whether claims are tested with the curvature.
    """

    search: int
    whole: int
    tested: bool


def _limits(problem: _Problem, most: int, is_default: bool, verify: bool) -> _Limits:
    # The default optimizer makes way once it has cost as much as a Hessian, or as many products.
    search = min(most, int(np.clip(problem.dimension, *SEARCH))) if verify and is_default else most
    return _Limits(search, most, verify)


def _run(problem, optimizer, limits: _Limits, fits: list[_Fit], report, interrupt) -> None:
    """Run the fits and fill in their records `fits`."""
    max_iterations = limits.search
    queue = list(range(problem.num_fits))[::-1]
    lanes = problem.lanes
    members = [queue.pop() if queue else None for _ in range(lanes)]
    fresh = np.ones(lanes, bool)
    task = problem.select([0 if m is None else m for m in members])
    state = begin(task.bound, task.origin, optimizer, problem.vmapped)
    clock = 0
    lane = (lambda leaf, i: np.asarray(leaf)[i]) if lanes > 1 else (lambda leaf, i: leaf)
    while True:
        idle = np.array([m is None for m in members])
        steering = Steering(
            fresh if lanes > 1 else fresh[0],
            idle if lanes > 1 else idle[0],
            np.asarray(bool(queue)),
            np.asarray(clock, np.int32),
            np.asarray(max_iterations, np.int32),
            np.asarray(limits.tested),
        )
        state, values, steps = advance(task, state, steering, optimizer, BLOCK, problem.vmapped)
        clock += int(steps)
        history = np.asarray(values).reshape(lanes, BLOCK)[:, : int(steps)]
        iterations = np.asarray(state.iteration).reshape(lanes)
        ends = [_status(lane(state.converged, i), lane(state.failed, i)) for i in range(lanes)]
        ended = np.asarray(state.done).reshape(lanes) | (iterations >= max_iterations)
        for i, member in enumerate(members):
            if member is not None and ended[i]:
                fits[member].status = ends[i]
        potential = float(np.asarray(state.best.value).reshape(lanes)[~idle].sum())
        gain = float(np.asarray(state.gain).reshape(lanes)[~idle].max())
        checked = {}
        for i, member in enumerate(members):
            claims = limits.tested and ends[i] is not FitStatus.DENSITY_BROKE
            if claims and member is not None and ended[i] and not interrupt:
                best = jax.tree.map(partial(lane, i=i), state.best)
                left = limits.whole - int(iterations[i])
                checked[i] = _checked(problem, member, best, left, interrupt)
                ends[i] = fits[member].status = checked[i].status
        alone = problem.num_fits == 1
        complete = sum(fit.status is not FitStatus.NOT_STARTED for fit in fits)
        report(
            int(iterations.max()) if alone else complete,
            max_iterations if alone else problem.num_fits,
            f"potential {potential:.2f}, to gain {gain:.2g}",
        )
        for i, member in enumerate(members):
            if member is None:
                continue
            fit = fits[member]
            finite = np.isfinite(history[i, 0]) and np.isfinite(lane(state.best.value, i))
            if fresh[i] and not finite:
                raise _BadStartError(
                    "the model's log-density is not finite at the start values; give `init` for "
                    "the sites with hard bounds, or check the data for NaN."
                )
            fit.losses.append(history[i])
            fresh[i] = bool(ended[i])
            if ended[i] or interrupt:
                fit.status = ends[i] if ended[i] else FitStatus.INTERRUPTED
                pick = partial(lane, i=i)
                fit.best, fit.iterations = jax.tree.map(pick, (state.best, state.iteration))
                fit.losses = [np.concatenate(fit.losses)[: int(iterations[i])]]
                if i in checked:
                    fit.best = checked[i].best
                    fit.losses.append(np.asarray(checked[i].history, np.float32))
                    fit.iterations = np.int32(iterations[i] + len(checked[i].history))
                members[i] = queue.pop() if queue else None
        active = [i for i, m in enumerate(members) if m is not None]
        if interrupt or not active:
            return
        if fresh[active].any():
            task = problem.select([0 if m is None else m for m in members])


class _Checked(NamedTuple):
    """A fit after the test of its claim: best point, potentials of the steps, and status."""

    best: Best
    history: list
    status: FitStatus


def _checked(problem: _Problem, member: int, best: Best, left: int, interrupt) -> _Checked:
    """Test the best point of a fit with the whole Hessian, and go on from it."""
    bound, width, tolerance = problem.bound, problem.widths, problem.tolerance
    if problem.batch is not None:
        bound = members_of(bound, problem.batch, member)
        width = jax.tree.map(lambda leaf: leaf[member], width)
        tolerance = np.broadcast_to(np.asarray(tolerance), problem.num_fits)[member]
    newton = Newton(bound, best.params)
    step = refine if newton.dimension <= DENSE else refine_large
    found = step(newton, best.params, float(tolerance), left, interrupt)
    norm = float(np.linalg.norm(newton.flat(width) * found.gradient))
    real = np.asarray(best.value).dtype.type
    point = Best(found.params, found.sites, found.value, real(norm), real(found.gain))
    interrupted = FitStatus.INTERRUPTED if interrupt else FitStatus.OUT_OF_ITERATIONS
    return _Checked(point, found.history, found.status or interrupted)


def _status(converged, failed) -> FitStatus:
    """Return the status of a fit that has ended."""
    if converged:
        return FitStatus.CONVERGED
    return FitStatus.DENSITY_BROKE if failed else FitStatus.OUT_OF_ITERATIONS


def _collect(fits: list[_Fit], batch) -> tuple[Best, Any]:
    """Return best points and numbers of iterations, of a batch stacked along a leading axis."""
    if batch is None:
        best: Any = fits[0].best
        names = ("value", "gradient_norm", "gain")
        plain = [np.asarray(getattr(best, name))[()] for name in names]
        params, values = jax.device_put((best.params, best.values))
        return Best(params, values, *plain), np.asarray(fits[0].iterations)[()]
    known = next(fit.best for fit in fits if fit.best is not None)

    def missing(leaf):
        leaf = np.asarray(leaf)
        return np.full_like(leaf, np.nan if np.issubdtype(leaf.dtype, np.floating) else 0)

    nothing = jax.tree.map(missing, known)
    every = [nothing if fit.best is None else fit.best for fit in fits]
    best = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *every)
    return best, np.stack([np.asarray(fit.iterations) for fit in fits])


def _histories(fits: list[_Fit]) -> np.ndarray:
    """Return losses ``[iterations, fits]``, NaN after the end of each fit."""
    losses = [np.concatenate(fit.losses) if fit.losses else np.zeros(0) for fit in fits]
    out = np.full((max(len(loss) for loss in losses), len(losses)), np.nan, np.float32)
    for column, loss in enumerate(losses):
        out[: len(loss), column] = loss
    return out


def _complete(bound: Posterior, init: dict) -> bool:
    """Return whether `init` has a value of the right shape for every site."""
    return bool(init) and bound.sites(init) == {n: v.shape for n, v in init.items()}


def _batched_start(bound, batch, init, key, size, lanes):
    init = {} if init is None else {n: floating_on_host(v) for n, v in init.items()}
    if _complete(
        members_of(bound, batch, 0), {n: v[0] for n, v in init.items()}
    ):  # nothing to draw: map the values, compiled once
        take = lambda leaf, i: np.asarray(leaf)[i]  # noqa: E731
        # In groups of one size, so that batches of all lengths share the program.
        parts = []
        for start in range(0, size, lanes):
            members = np.minimum(np.arange(start, start + lanes), size - 1)
            group = _Problem(bound, batch, {}, {}, 1.0, size, lanes).select(list(members)).bound
            pick = members if lanes > 1 else members[0]
            u = unconstrain(
                group, {n: take(v, pick) for n, v in init.items()}, batch if lanes > 1 else None
            )
            u = jax.tree.map(
                lambda leaf: np.asarray(leaf).reshape(lanes, *leaf.shape[lanes > 1 :]), u
            )
            parts.append(jax.tree.map(lambda leaf, n=size - start: leaf[:n], u))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    starts = [
        members_of(bound, batch, i).start({n: v[i] for n, v in init.items()}, key=k)
        for i, k in enumerate(jax.random.split(key, size))
    ]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(u) for u in leaves]), *starts)


def _widths(origin: dict, scale: dict | None) -> dict:
    scale = {} if scale is None else scale
    unknown = sorted(set(scale) - set(origin))
    if unknown:
        raise InputError(
            f"`scale` names {unknown[0]!r}, which is no latent site; sites are {', '.join(origin)}."
        )
    try:
        return {
            name: np.broadcast_to(np.asarray(scale.get(name, 1.0), u.dtype), u.shape)
            for name, u in origin.items()
        }
    except ValueError as error:
        raise InputError(f"`scale` does not fit the sites: {error}.") from error
