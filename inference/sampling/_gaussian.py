"""Gaussians about a point: its way to the mode, and how far the posterior is from it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.diagnostics import psis_weights
from jax.flatten_util import ravel_pytree

from scorepriors._traces import Kept
from scorepriors.inference._posterior import Posterior
from scorepriors.inference.curvature._preconditioner import LowRankMap
from scorepriors.inference.curvature._spectrum import (
    DENSE,
    Spectrum,
    curvature_spectrum,
    whitening_map,
)

from ._density import LogDensity, no_refinement, problem_at

#: Expected gain of a Newton step, in nats, above which a step is taken.
FAR = 1e-3

#: Largest number of Newton's steps.
NEWTON_STEPS = 20

#: Number of positions at which the density is evaluated by one call.
BLOCK = 64

#: Spread of log importance ratios, in nats, below which they are rounding errors.
EQUAL = 1e-3


class Gaussian(NamedTuple):
    """The Gaussian with the curvature of a posterior at a point.

    Attributes
    ----------
    point
        Unconstrained parameters by site.
    spectrum
        Curvature there.
    whiten
        Map from draws of a standard normal distribution to offsets from the point.
    gain
        Expected gain of a Newton step in nats: half of g' H^-1 g.
    """

    point: dict
    spectrum: Spectrum
    whiten: LowRankMap
    gain: float

    def log_density(self, bound: Posterior) -> LogDensity:
        """Return the log-density of the posterior, less that at the point, of draws."""
        return LogDensity(problem_at(bound, self.point, self.whiten), no_refinement(self.point))


def gaussian_at_mode(bound: Posterior, point: dict, *, rank: int = 400, key) -> Gaussian | None:
    """Return the Gaussian about the mode that Newton's steps lead to.

    Steps are taken, and the curvature is computed anew, where that is the full Hessian and
    positive; each is halved until the density rises.

    Parameters
    ----------
    bound
        The posterior.
    point
        Unconstrained parameters near the mode.
    rank
        Number of directions beyond `DENSE` dimensions.
    key
        Random key for the curvature.

    Returns
    -------
    Gaussian or None
        The Gaussian; its ``gain`` tells whether the point is a mode.  None where there is no
        curvature.
    """
    found = _gaussian(bound, point, rank, key)
    if found is None:
        return None
    for _ in range(NEWTON_STEPS):
        gaussian, slope = found
        whole = len(slope) <= DENSE and not gaussian.spectrum.negative + gaussian.spectrum.flat
        if not whole or not gaussian.gain > FAR:
            break
        step = _rising(gaussian.log_density(bound), slope, gaussian.gain)
        if step is None:
            break
        flat, unravel = ravel_pytree(gaussian.point)
        new = _gaussian(bound, unravel(flat + gaussian.whiten(step)), rank, key)
        if new is None:
            break
        found = new
    return found[0]


def _gaussian(bound, point, rank, key):
    """Return the Gaussian at a point, and the slope of the log-density in its coordinates."""
    spectrum = curvature_spectrum(bound, point, rank=rank, key=key)
    if spectrum is None:
        return None
    flat, _ = ravel_pytree(point)
    whiten = whitening_map(spectrum, flat.dtype, exact=True)
    gaussian = Gaussian(point, spectrum, whiten, np.nan)
    slope = _slope(gaussian.log_density(bound), jnp.zeros_like(flat))
    gain = float((np.asarray(slope, float) ** 2).sum() / 2)
    return gaussian._replace(gain=gain), slope


def _rising(density, slope, gain):
    """Return the longest step of 1, 1/2, 1/4, ... of Newton's that raises the density; or None."""
    shares = 0.5 ** np.arange(8)
    steps = (shares[:, None] * np.asarray(slope)).astype(slope.dtype)
    # Armijo's condition; a Gaussian rises by `gain` in one step.
    enough = log_densities(density, steps) > 1e-4 * shares * 2 * gain
    return steps[enough.argmax()] if enough.any() else None


@Kept
def _slope(density, q):
    return jax.grad(lambda q: density(q))(q)


def log_densities(density: LogDensity, draws) -> np.ndarray:
    """Return log-densities of draws ``[n, d]``; ``-inf`` where they are no numbers."""
    draws = np.asarray(draws)
    rows = np.pad(draws, ((0, -len(draws) % BLOCK), (0, 0)))
    blocks = [_values(density, rows[i : i + BLOCK]) for i in range(0, len(rows), BLOCK)]
    values = np.concatenate([np.asarray(b, float) for b in blocks])[: len(draws)]
    return np.where(np.isnan(values), -np.inf, values)


def log_ratios(density: LogDensity, draws) -> np.ndarray:
    """Return log-densities of draws ``[n, d]`` less those of the standard normal, which they are of.

    Up to a constant.
    """
    return log_densities(density, draws) + (np.asarray(draws, float) ** 2).sum(1) / 2


@Kept
def _values(density, rows):
    # A few at a time: rendering needs much memory.
    return jax.lax.map(lambda q: density(q), rows, batch_size=8)


def pareto_khat(ratios: np.ndarray) -> float:
    """Return the shape of the tail of importance ratios, by BlackJAX.

    Above .7 (less for few draws, see `largest_khat`) the two densities are too different for
    averages over one to be corrected to the other (Vehtari et al. 2024, JMLR 25).

    Parameters
    ----------
    ratios
        Logs of the importance ratios ``[n]``.
    """
    ratios = np.asarray(ratios, float)
    best = ratios.max()
    if not np.isfinite(best):
        return float("inf")
    if best - ratios.min() < EQUAL:
        return 0.0
    # In double precision: ratios near one differ in their last digits.
    with jax.enable_x64(True):
        _, found = psis_weights(jnp.asarray(ratios - best, jnp.float64))
        found = float(found)
    return float("inf") if np.isnan(found) else found


def largest_khat(number: int) -> float:
    """Return the largest Pareto k for which as many draws are enough (Vehtari et al. 2024)."""
    return min(1 - 1 / np.log10(number), 0.7)
