r"""Newton's method by conjugate gradients, where the Hessian is too large to be stored.

The test of a claimed mode, as in `_newton`, from products with the Hessian.  Conjugate
gradients on :math:`H p = -g` add to the gain, half of g' H^-1 g, with every product; what is
still missing is at most :math:`r^\top r / 2 \theta`, with the residual r and the smallest
eigenvalue :math:`\theta`, for which the smallest Ritz value stands, which the same recurrence
gives (Golub & Meurant 2010, "Matrices, Moments and Quadrature", chapter 12).

The Krylov space of the gradient knows nothing of directions that have no part in it: by symmetry
a saddle may have no slope along the direction that leads down.  A claim of convergence is thus
followed by Lanczos's recurrence from a random vector, which has a part in every direction
(Kuczynski & Wozniakowski 1992, SIAM J. Matrix Anal. Appl. 13, 1094).  It is a search: a narrow
way down among many wide directions may be missed.

Coordinates are equilibrated: rows of the scaled Hessian have unit norm (Ruiz 2001), estimated by
random probes.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import eigh_tridiagonal

from scorepriors.inference._lanczos import ritz_pairs_so_far
from scorepriors.inference._posterior import Posterior
from scorepriors.inference._status import FitStatus

from ._newton import Outcome, Problem, by_difference, compiled, falls_on, is_kink

#: Products per compiled call, between which the remainder is estimated.
CHUNK = 25

#: Most products for one step.
MOST = 2000

#: Products with the Hessian in search of a direction of negative curvature, and how often their
#: outcome is looked at.  By the bound of Kuczynski & Wozniakowski less than one in 1,000 random
#: starts in 1,000 dimensions misses a curvature of minus a hundredth of the range of all.
SOUGHT, LOOK = 60, 15

#: Rounds and probes of the equilibration.
ROUNDS, SIGNS = 4, 4

#: Share of the gain that may be missing when a step is taken.
ROUGH = 0.1


class Solve(NamedTuple):
    """State of conjugate gradients in scaled coordinates.

    Attributes
    ----------
    step, image
        The step p and H p.
    residual, direction
        Residual and search direction.
    bent
        Whether a direction of negative curvature was found; `direction` is then the last one.
    """

    step: Any
    image: Any
    residual: Any
    direction: Any
    bent: Any


class Point(NamedTuple):
    """A point: potential, gradient, and sites."""

    value: Any
    gradient: Any
    sites: Any


def _gradient(bound: Posterior, unravel):
    return jax.grad(lambda v: bound.potential_fn(unravel(v)).astype(v.dtype))


def _point(bound: Posterior, u: dict) -> Point:
    flat, unravel = ravel_pytree(u)
    (value, sites), gradient = jax.value_and_grad(
        lambda v: bound.potential_and_values(unravel(v)), has_aux=True
    )(flat)
    return Point(value, gradient, sites)


def _equilibrated(bound: Posterior, u: dict, key, product):
    """Return scales ``[d]`` by which rows of the Hessian have about unit norm."""
    flat, unravel = ravel_pytree(u)
    gradient = _gradient(bound, unravel)

    def round_of(i, scale):
        signs = jax.random.rademacher(jax.random.fold_in(key, i), (SIGNS, len(flat)), flat.dtype)
        rows = jax.lax.map(lambda s: scale * product(gradient, flat, scale * s), signs)
        norm = jnp.sqrt(jnp.mean(rows**2, axis=0))
        usable = jnp.isfinite(norm) & (norm > 0)
        return scale / jnp.sqrt(jnp.where(usable, norm, 1.0))

    return jax.lax.fori_loop(0, ROUNDS, round_of, jnp.ones_like(flat))


def _continue(bound: Posterior, u: dict, scale, state: Solve, product):
    """Do `CHUNK` products; returns the state, and the coefficients of the recurrence."""
    flat, unravel = ravel_pytree(u)
    gradient = _gradient(bound, unravel)

    def once(state: Solve, _):
        image = scale * product(gradient, flat, scale * state.direction)
        curvature = jnp.vdot(state.direction, image)
        squared = jnp.vdot(state.residual, state.residual)
        bent = state.bent | ~(curvature > 0)
        length = jnp.where(bent, 0.0, squared / jnp.where(bent, 1.0, curvature))
        residual = state.residual - length * image
        left = jnp.vdot(residual, residual)
        ratio = left / jnp.where(squared > 0, squared, 1.0)
        direction = jnp.where(bent, state.direction, residual + ratio * state.direction)
        new = Solve(
            state.step + length * state.direction,
            state.image + length * image,
            residual,
            direction,
            bent & (squared > 0),
        )
        return new, (length, ratio, left)

    return jax.lax.scan(once, state, length=CHUNK)


class Found(NamedTuple):
    """A step and what it is expected to gain.

    Attributes
    ----------
    step
        Step in unconstrained coordinates, float64.
    gain, missing
        Gain of the step, and an estimate of what a full Newton step would gain beyond it.
    bent
        Direction of negative curvature in unconstrained coordinates, or None.
    """

    step: np.ndarray
    gain: float
    missing: float
    bent: np.ndarray | None


def _newton_step(problem: Problem, u: dict, point: Point, scale, tolerance, interrupt) -> Found:
    """Return the Newton step, as far as its gain above the tolerance is found."""
    slope = np.asarray(scale) * np.asarray(point.gradient)
    zero = np.zeros_like(slope)
    state = Solve(zero, zero, -slope, -slope, np.zeros((), bool))
    lengths: list = []
    ratios: list = []
    gain = missing = 0.0
    for _ in range(MOST // CHUNK):
        state, found = compiled(_continue)(problem.bound, u, scale, state, problem.product)
        length, ratio, left = (np.asarray(a, float) for a in found)
        used = int(np.argmin(length > 0)) if not (length > 0).all() else CHUNK
        lengths.extend(length[:used])
        ratios.extend(ratio[:used])
        step, image = np.asarray(state.step, float), np.asarray(state.image, float)
        gain = -(slope.astype(float) @ step + 0.5 * step @ image)
        if used:
            missing = 0.5 * left[used - 1] / _lowest(lengths, ratios)
        if bool(state.bent) or used < CHUNK or interrupt:
            break
        if missing < ROUGH * max(gain, tolerance):
            break
    bent = np.asarray(scale, float) * np.asarray(state.direction) if bool(state.bent) else None
    return Found(np.asarray(scale, float) * step, float(gain), float(missing), bent)


def _image(bound: Posterior, u: dict, scale, vector, product):
    """Return the product of the scaled Hessian with a vector."""
    flat, unravel = ravel_pytree(u)
    return scale * product(_gradient(bound, unravel), flat, scale * vector)


def _falling(problem: Problem, u: dict, scale, interrupt) -> tuple[np.ndarray | None, bool]:
    """Return a direction of negative curvature in unconstrained coordinates, or None.

    The second value says whether curvatures were finite, without which nothing is known.
    """
    # Rounding of a flat direction is no curvature; differences of gradients are less exact.
    exact = problem.product is not by_difference
    noise = np.sqrt(problem.eps) if exact else problem.eps**0.25

    def product(vector):
        return compiled(_image)(problem.bound, u, scale, vector, problem.product)

    steps = min(SOUGHT, problem.dimension)
    for pairs in ritz_pairs_so_far(product, scale, steps, LOOK, jax.random.key(1)):
        if not np.isfinite(pairs.values).all():
            return None, False
        if interrupt:
            break
        if pairs.values[0] < -noise * np.abs(pairs.values).max():
            return np.asarray(scale, float) * pairs.vectors[:, 0], True
    return None, True


def _lowest(lengths: list, ratios: list) -> float:
    """Return the smallest Ritz value, from the coefficients of conjugate gradients."""
    a, b = np.asarray(lengths), np.asarray(ratios)
    diagonal = 1 / a
    diagonal[1:] += b[:-1] / a[:-1]
    beside = np.sqrt(b[:-1]) / a[:-1]
    if len(a) == 1:
        return float(diagonal[0])
    lowest = eigh_tridiagonal(diagonal, beside, select="i", select_range=(0, 0))[0][0]
    return max(float(lowest), 1e-30)


def _slope(problem: Problem, flat: np.ndarray) -> np.ndarray:
    return np.asarray(compiled(_point)(problem.bound, problem.params(flat)).gradient)


def refine_large(
    problem: Problem, params: dict, tolerance: float, steps: int, interrupt
) -> Outcome:
    """Test a point, and go on from it, by products with the Hessian; see `_newton.refine`."""
    flat = problem.flat(problem.params(problem.flat(params)))
    u = problem.params(flat)
    point = jax.device_get(compiled(_point)(problem.bound, u))
    history: list[float] = []
    falls: list[float] = []
    gain, status, previous, weak = np.inf, None, np.inf, 0
    while np.isfinite(point.value) and np.isfinite(point.gradient).all():
        scale = problem.attempt(_equilibrated, u, jax.random.key(0))
        found = _newton_step(problem, u, point, scale, tolerance, interrupt)
        gain = np.inf if found.bent is not None else found.gain + found.missing
        if gain < tolerance:
            falling, known = _falling(problem, u, scale, interrupt)
            if not known:
                # Products overflow, or have no value: whether this is a mode can't be checked.
                gain, status = np.inf, FitStatus.ROUNDING
                break
            if falling is not None:
                gain, found = np.inf, found._replace(bent=falling)
        if gain < tolerance and not interrupt:
            status = FitStatus.CONVERGED
            break
        if len(history) >= steps or interrupt:
            break
        weak = weak + 1 if gain > 0.5 * previous else 0
        noise = 10 * problem.eps * abs(float(point.value))
        moved = _search(problem, flat, point, found, noise)
        if moved is None or (weak >= 3 and falls[-1] < noise):
            endless = falls_on(falls, 10, 1.0)
            status = FitStatus.NO_MODE if endless else FitStatus.ROUNDING
            if is_kink(partial(_slope, problem), flat, found.step, max(noise, tolerance)):
                status = FitStatus.KINK
            break
        flat, there = moved
        falls.append(float(point.value) - float(there.value))
        point, u, previous = there, problem.params(flat), gain
        history.append(float(point.value))
    gradient = np.asarray(point.gradient, float)
    return Outcome(u, point.sites, point.value, gradient, gain, status, history)


def _search(problem: Problem, flat, point: Point, found: Found, noise: float):
    """Return a better point along the step, or None if there is none."""
    gradient = np.asarray(point.gradient, float)
    candidates = [found.step * 0.25**i for i in range(15)]
    if found.bent is not None:
        along = -np.sign(gradient @ found.bent) * found.bent
        along = along if along.any() else found.bent
        far = along * max(1.0, np.linalg.norm(found.step)) / np.linalg.norm(along)
        candidates = [c + far * 4.0 ** (3 - i) for i, c in enumerate(candidates)]
    for step in candidates:
        trial = problem.flat(problem.params(flat + step))
        if (trial == flat).all():
            return None
        there = jax.device_get(compiled(_point)(problem.bound, problem.params(trial)))
        if not (np.isfinite(there.value) and np.isfinite(there.gradient).all()):
            continue
        fall, expected = float(point.value) - float(there.value), -1e-4 * float(gradient @ step)
        # Below the noise of the potential the slopes decide.
        flatter = abs(np.asarray(there.gradient, float) @ step) < 0.8 * abs(gradient @ step)
        if fall > max(expected, 0.0) or (fall > -noise and flatter and found.bent is None):
            return trial, there
    return None
