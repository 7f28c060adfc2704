r"""Newton's method with exact curvature: tests a claimed mode, and goes on where it is none.

An optimizer that has not seen a direction does not know its curvature, and may stop far from
the mode.  Here the whole Hessian is computed by products with unit vectors, so nothing is
missed, and the steps are those of a trust region (Nocedal & Wright 2006, section 4.3), solved
exactly from eigenvalues in float64.  Coordinates are scaled so that the diagonal of the
Hessian is one: neither a test nor a step depends on the units of a parameter.

Rounding of the model's own arithmetic (float32, mostly) is measured, not assumed: gradients at
points a few units in the last place away differ from those expected by noise alone.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors._compat import quick_compilation
from scorepriors.inference._posterior import Posterior
from scorepriors.inference._status import FitStatus

#: Largest dimension for which the full Hessian is computed.
DENSE = 400

#: Number of points a few roundings away, at which the noise of gradients is measured.
PROBES = 4

#: Most directions whose curvature is computed again without cancellation.
SOFT = 8


@cache
def compiled(function: Callable) -> Callable:
    """Return the function compiled, once per shape of its arguments."""
    jit: Any = eqx.filter_jit
    return jit(function, compiler_options=quick_compilation())


class Local(NamedTuple):
    """A potential about a point, in flat unconstrained coordinates.

    Attributes
    ----------
    value, gradient, hessian
        Potential and its derivatives, ``[]``, ``[d]`` and ``[d, d]``.
    shifts, values, gradients
        Shifts of a few roundings, ``[PROBES, d]``, and potentials and gradients there.
    sites
        Constrained and deterministic sites.
    """

    value: Any
    gradient: Any
    hessian: Any
    shifts: Any
    values: Any
    gradients: Any
    sites: Any


def _local(bound: Posterior, u: dict, signs, product: Callable) -> Local:
    flat, unravel = ravel_pytree(u)

    def objective(v):
        return bound.potential_and_values(unravel(v))

    def gradient(v):
        return jax.grad(lambda v: objective(v)[0].astype(v.dtype))(v)

    (value, sites), slope = jax.value_and_grad(objective, has_aux=True)(flat)
    size = len(flat)
    # Padded to full batches: a smaller last one would be compiled separately.
    rows = jnp.eye(-(-size // 16) * 16, size, dtype=flat.dtype)
    hessian = jax.lax.map(partial(product, gradient, flat), rows, batch_size=16)[:size]
    shifts = _roundings(flat, signs)
    values, gradients = jax.vmap(jax.value_and_grad(lambda v: objective(v)[0]))(flat + shifts)
    return Local(value, slope, hessian, shifts, values, gradients, sites)


def _roundings(flat, signs):
    """Return shifts by `signs` units in the last place, exact in floating point."""
    ulp = jnp.finfo(flat.dtype).eps * jnp.abs(flat)
    return (flat + ulp * signs) - flat


def _forward(gradient, point, vector):
    return jax.jvp(gradient, (point,), (vector,))[1]


def _reverse(gradient, point, vector):
    # For models with rules of reverse mode only; the Hessian is symmetric.
    return jax.vjp(gradient, point)[1](vector)[0]


def by_difference(gradient, point, vector):
    """Return the product by central differences, a small share of the width apart."""
    eps = jnp.finfo(point.dtype).eps

    def quotient(step):
        return (gradient(point + step * vector) - gradient(point - step * vector)) / (2 * step)

    step = eps ** (1 / 3) * jnp.maximum(1.0, jnp.abs(jnp.vdot(point, vector)))
    for _ in range(2):
        curvature = jnp.abs(jnp.vdot(vector, quotient(step)))
        step = jnp.where(curvature > 0, eps**0.25 / jnp.sqrt(curvature), step)
    return quotient(step)


class Along(NamedTuple):
    """Derivatives of a potential along given directions only, without cancellation.

    Attributes
    ----------
    gradient, hessian
        ``[k]`` and ``[k, k]``.
    gradients
        Gradients at points a few roundings away, ``[PROBES, k]``.
    """

    gradient: Any
    hessian: Any
    gradients: Any


def _along(bound: Posterior, u: dict, shifts, directions) -> Along:
    flat, unravel = ravel_pytree(u)

    def objective(point, t):
        return bound.potential_fn(unravel(point + t @ directions)).astype(point.dtype)

    zero = jnp.zeros(len(directions), flat.dtype)
    slopes = jax.jacfwd(objective, argnums=1)
    hessian = jax.jacfwd(slopes, argnums=1)(flat, zero)
    return Along(
        slopes(flat, zero), hessian, jax.vmap(slopes, in_axes=(0, None))(flat + shifts, zero)
    )


class Quadratic(NamedTuple):
    """A potential to second order, in coordinates y in which the Hessian is diagonal.

    Attributes
    ----------
    to_u
        Matrix ``[d, d]``: a step in u is ``to_u @ y``.
    curvature, slope
        Eigenvalues ``[d]`` and gradient ``[d]`` in y.
    noise
        Samples of the rounding noise of the gradient in y, ``[PROBES, d]``.
    value, value_noise
        Potential, and the standard deviation of its rounding noise.
    eps
        Relative spacing of the numbers it is computed with.
    """

    to_u: np.ndarray
    curvature: np.ndarray
    slope: np.ndarray
    noise: np.ndarray
    value: float
    value_noise: float
    eps: float

    @property
    def is_flat(self) -> np.ndarray:
        """Mask ``[d]`` of directions in which nothing changes: modes that are lines have them."""
        floor = 100 * len(self.slope) * self.eps**2
        level = np.abs(self.slope) < 10 * len(self.slope) ** 0.5 * self.eps
        return (np.abs(self.curvature) < floor) & level

    @property
    def is_convex(self) -> bool:
        """Whether all curvatures are positive, except in flat directions."""
        return bool((self.curvature > 0)[~self.is_flat].all())

    @property
    def gain(self) -> float:
        """Gain of a Newton step, half of g' H^-1 g; infinite where there is no minimum."""
        if not self.is_convex:
            return np.inf
        steep = ~self.is_flat
        return float(0.5 * (self.slope[steep] ** 2 / self.curvature[steep]).sum())

    @property
    def gain_noise(self) -> float:
        """Part of the gain that rounding noise of the gradient would give at the mode."""
        if not self.is_convex:
            return 0.0
        # Each sample is the difference of two noises.
        steep = ~self.is_flat
        squared = self.noise[:, steep] ** 2 / self.curvature[steep]
        return float(0.25 * squared.sum(1).mean())

    @property
    def reach(self) -> float:
        """Length of the Newton step for the absolute values of the curvatures."""
        floor = 1e-6 * np.abs(self.curvature).max()
        step = self.slope / np.maximum(np.abs(self.curvature), floor)
        return max(float(np.linalg.norm(step)), len(self.slope) ** 0.5)

    def fall(self, y) -> float:
        """Return the expected decrease of the potential by a step y."""
        return float(-(self.slope @ y + 0.5 * self.curvature @ y**2))

    def step(self, radius: float) -> np.ndarray:
        """Return the minimum within ``|y| <= radius`` (Nocedal & Wright, algorithm 4.3)."""
        lowest = self.curvature.min()
        if lowest > 0:
            whole = -self.slope / self.curvature
            if np.linalg.norm(whole) <= radius:
                return whole
        size = np.linalg.norm(self.slope)
        low = max(0.0, -lowest)
        high = low + size / radius
        tiny = 1e-14 * max(1.0, np.abs(self.curvature).max())

        def at(damping):
            return -self.slope / np.maximum(self.curvature + damping, tiny)

        for _ in range(200):
            middle = 0.5 * (low + high)
            if np.linalg.norm(at(middle)) > radius:
                low = middle
            else:
                high = middle
        y = at(high)
        # Along a direction of negative curvature without a slope (the hard case), to the edge.
        rest = radius**2 - y @ y
        if lowest <= 0 and rest > 1e-6 * radius**2:
            index = self.curvature.argmin()
            sign = -1.0 if self.slope[index] > 0 else 1.0
            y[index] += sign * np.sqrt(rest)
        return y


class Problem:
    """Derivatives of one posterior, as quadratics at its points."""

    def __init__(self, bound: Posterior, like: dict):
        self.bound = bound
        self.leaves, self.structure = jax.tree.flatten(jax.tree.map(np.asarray, like))
        self.sizes = [leaf.size for leaf in self.leaves]
        self.dimension = sum(self.sizes)
        dtypes = [leaf.dtype for leaf in self.leaves]
        self.dtype = np.result_type(*dtypes)
        self.eps = float(np.finfo(self.dtype).eps)
        rng = np.random.default_rng(0)
        signs = rng.integers(1, 4, (PROBES, self.dimension)) * rng.choice(
            [-1, 1], (PROBES, self.dimension)
        )
        self.signs = signs.astype(self.dtype)
        self.product: Any = _forward

    def flat(self, u: dict) -> np.ndarray:
        """Return parameters as a vector."""
        leaves = jax.tree.leaves(u)
        return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in leaves])

    def params(self, flat: np.ndarray) -> dict:
        """Return a vector as parameters, rounded to their types."""
        parts = np.split(flat, np.cumsum(self.sizes)[:-1])
        shaped = [
            part.reshape(leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(parts, self.leaves, strict=True)
        ]
        return jax.tree.unflatten(self.structure, shaped)

    def local(self, flat: np.ndarray) -> Local:
        """Return the derivatives at a point."""
        return jax.device_get(self.attempt(_local, self.params(flat), self.signs))

    def gradient(self, flat: np.ndarray) -> np.ndarray:
        """Return the gradient of the potential at a point ``[d]``."""
        return np.asarray(self.local(flat).gradient)

    def attempt(self, program: Callable, *inputs):
        """Run a program that multiplies with the Hessian, in a way that the model allows."""
        while True:
            try:
                return compiled(program)(self.bound, *inputs, self.product)
            except (TypeError, ValueError, NotImplementedError):
                if self.product is by_difference:
                    raise
                self.product = _reverse if self.product is _forward else by_difference

    def quadratic(self, flat: np.ndarray, local: Local) -> Quadratic | None:
        """Return the quadratic of `local`; None if it is not finite."""
        hessian, gradient = np.asarray(local.hessian, float), np.asarray(local.gradient, float)
        if not (np.isfinite(local.value) and np.isfinite(gradient).all()):
            return None
        if not np.isfinite(hessian).all():
            return None
        hessian = 0.5 * (hessian + hessian.T)
        scale = _scales(hessian)
        curvature, vectors = np.linalg.eigh(hessian * scale * scale[:, None])
        to_u = scale[:, None] * vectors
        shifts = np.asarray(local.shifts, float)
        noise = np.asarray(local.gradients, float) - gradient - shifts @ hessian
        slope, noise = gradient @ to_u, np.nan_to_num(noise @ to_u)
        soft = np.flatnonzero(curvature < np.sqrt(self.eps))[:SOFT]
        if len(soft) and self.product is _forward:
            width = min(SOFT, self.dimension)
            directions = np.zeros((width, self.dimension), self.dtype)
            directions[: len(soft)] = to_u[:, soft].T
            found = compiled(_along)(self.bound, self.params(flat), local.shifts, directions)
            found = Along(*(np.asarray(a, float) for a in found))
            if all(np.isfinite(a).all() for a in found):
                to_u[:, soft] = np.asarray(directions[: len(soft)], float).T
                block = found.hessian[: len(soft), : len(soft)]
                values, turn = np.linalg.eigh(0.5 * (block + block.T))
                moved = found.gradients - found.gradient
                moved[:, : len(soft)] -= shifts @ (hessian @ to_u[:, soft])
                to_u[:, soft] = to_u[:, soft] @ turn
                curvature[soft] = values
                slope[soft] = found.gradient[: len(soft)] @ turn
                noise[:, soft] = moved[:, : len(soft)] @ turn
        rise = shifts @ gradient + 0.5 * ((shifts @ hessian) * shifts).sum(1)
        values = np.asarray(local.values, float) - float(local.value) - rise
        value_noise = float(np.sqrt(np.mean(np.nan_to_num(values) ** 2) / 2))
        value_noise += self.eps * abs(float(local.value))
        return Quadratic(to_u, curvature, slope, noise, float(local.value), value_noise, self.eps)


def _scales(hessian: np.ndarray) -> np.ndarray:
    """Return units in which the diagonal of the Hessian is one, as far as it is positive."""
    diagonal = np.abs(np.diagonal(hessian))
    # An element without curvature of its own takes that of its strongest coupling.
    largest = np.abs(hessian).max(1)
    own = np.where(diagonal > 1e-12 * largest, diagonal, largest)
    positive = own[own > 0]
    own = np.where(own > 0, own, np.median(positive) if len(positive) else 1.0)
    return 1 / np.sqrt(own)


class Outcome(NamedTuple):
    """Result of `refine`.

    Attributes
    ----------
    params, sites, value, gradient
        Best point, its sites, potential and gradient.
    gain
        Gain of a Newton step there, nats; infinite at a saddle.
    status
        Status of the fit; None while more steps may help.
    history
        Potentials after each step.
    """

    params: dict
    sites: dict
    value: float
    gradient: np.ndarray
    gain: float
    status: FitStatus | None
    history: list[float]


def refine(problem: Problem, params: dict, tolerance: float, steps: int, interrupt) -> Outcome:
    """Test a point with the exact curvature, and take up to `steps` Newton steps from it.

    Parameters
    ----------
    problem
        The posterior.
    params
        Point to start from.
    tolerance
        Largest expected gain of a Newton step at a mode, nats.
    steps
        Largest number of steps.
    interrupt
        True in a boolean context once the user wants to stop.
    """
    flat = problem.flat(problem.params(problem.flat(params)))
    local = problem.local(flat)
    here = problem.quadratic(flat, local)
    history: list[float] = []
    falls: list[float] = []
    radius, refused = np.inf, 0

    def outcome(status):
        gain = np.inf if here is None else here.gain
        gradient = np.asarray(local.gradient, float)
        value = local.value
        return Outcome(problem.params(flat), local.sites, value, gradient, gain, status, history)

    if here is None:
        return outcome(None)
    while True:
        if here.is_convex and here.gain + here.gain_noise < tolerance:
            return outcome(FitStatus.CONVERGED)
        if len(history) >= steps or interrupt:
            return outcome(None)
        if not np.isfinite(radius) and not here.is_convex:
            radius = here.reach
        y = here.step(radius)
        expected, length = here.fall(y), float(np.linalg.norm(y))
        trial = problem.flat(problem.params(flat + here.to_u @ y))
        found = None
        if (trial != flat).any():
            there = problem.local(trial)
            found = problem.quadratic(trial, there)
        history.append(local.value if found is None else found.value)
        if found is not None and _is_better(here, found, expected):
            falls.append(here.value - found.value)
            share = falls[-1] / expected
            if share > 0.75 and length > 0.9 * radius:
                radius *= 4 if share > 0.9 else 2
            elif falls[-1] < 0.1 * expected and expected > 10 * here.value_noise:
                radius = 0.5 * length
            flat, local, here, refused = trial, there, found, 0
            continue
        refused += 1
        radius = 0.25 * length
        if expected < here.value_noise or refused > 20 or (trial == flat).all():
            saddle = here.curvature.min() < -np.sqrt(problem.eps)
            # At the edge of a funnel a Newton step promises more than there is.
            hollow = here.gain > 10 * (1 + abs(here.value))
            endless = saddle or hollow or falls_on(falls, 10, 1.0)
            rise = max(10 * here.value_noise, tolerance)
            if is_kink(problem.gradient, flat, here.to_u @ y, rise):
                return outcome(FitStatus.KINK)
            return outcome(FitStatus.NO_MODE if endless else FitStatus.ROUNDING)


def _is_better(here: Quadratic, there: Quadratic, expected: float) -> bool:
    """Return whether a step is a good one: by the potential, or below its noise by the gain."""
    fall, noise = here.value - there.value, 10 * here.value_noise
    if expected > noise:
        return fall >= 1e-4 * expected
    return fall >= -noise and there.gain < 0.9 * here.gain


def is_kink(gradient: Callable, flat: np.ndarray, step: np.ndarray, rise: float) -> bool:
    """Return whether a potential has a kink at a point: slopes to both sides, from close on.

    A smooth potential has slopes that grow with the distance, also where those at the point are
    rounding errors; at a kink they are the same near and far.

    Parameters
    ----------
    gradient
        Gradient as a function of a point.
    flat
        The point ``[d]``.
    step
        Direction ``[d]`` in which steps are refused.
    rise
        Rise of the potential, well above its rounding errors, up to which the kink counts as that
        of the point, nats.
    """
    along = step / np.linalg.norm(step)
    here = abs(float(gradient(flat) @ along))
    if not (np.isfinite(along).all() and 0 < here < np.inf):
        return False
    near = max(rise / here, 8 * float(np.spacing(np.abs(flat).max())))
    places = [flat + (t * near * along).astype(flat.dtype) for t in (-4, -1, 1, 4)]
    left, before, after, right = (float(gradient(place) @ along) for place in places)
    return before < 0 < after and 2 * before < left < 0 < right < 2 * after


def falls_on(falls: list[float], steps: int, least: float) -> bool:
    """Return whether the last steps fell by `least` nats, in their second half as in the first."""
    first, last = sum(falls[-steps : -steps // 2]), sum(falls[-steps // 2 :])
    return len(falls) >= steps and first + last > least and last > 0.3 * first
