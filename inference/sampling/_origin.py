"""Points about which chains begin."""

from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors._errors import InputError
from scorepriors._traces import Kept
from scorepriors.inference._posterior import Posterior
from scorepriors.inference.curvature._spectrum import DENSE
from scorepriors.inference.fitting._map import MAPResult, fit_map

#: Expected gain, in nats, below which an unconverged fit is close enough to its mode.
NEAR_MODE = 0.1

#: Half-width of the interval about zero, in each unconstrained coordinate, of uniform starts.
UNIFORM = 2.0

#: Nats per dimension by which uniform starts may lie below the best point known: more than from
#: 14 widths away in every coordinate.
FAR_BELOW = 100.0


class Origin(NamedTuple):
    """A point about which chains start.

    Attributes
    ----------
    point
        Unconstrained parameters by site.
    text
        Its origin in words; beginning with ``uniform`` where chains start without curvature.
    is_mode
        Whether it is the mode of a fit made for it, which may be left for another point.
    """

    point: dict
    text: str
    is_mode: bool = False


def origin_of(bound: Posterior, init: str | dict | MAPResult, key) -> Origin:
    """Return the point about which chains start.

    Parameters
    ----------
    bound
        The posterior.
    init
        Argument of `scorepriors.inference.sample`.
    key
        Random key for fits, and for sites without a value.

    Raises
    ------
    InputError
        For an `init` that is none of those.
    """
    if isinstance(init, MAPResult):
        return Origin(at_fit(bound, init, key), "given mode")
    if isinstance(init, dict):
        return Origin(bound.start(init, key=key), "given values")
    if init == "map":
        try:
            fit = fit_map(bound, key=key, max_iterations=1000)
        except InputError:
            return Origin(bound.start(key=key), "uniform (no density at the start of a fit)")
        mode = Origin(fit.params, "map", True)
        # Rounding in a very bright scene can prevent convergence: near the mode is enough.
        # A mode at infinity always has a larger expected gain.
        if fit.converged or 0 <= float(fit.expected_gain) < NEAR_MODE:
            return mode
        reason = "no mode was found"
        other = elsewhere(bound, mode, reason, key)
        return Origin(bound.start(key=key), f"uniform ({reason})") if other is None else other
    if init == "pathfinder":
        return Origin(_pathfinder(bound, key), "pathfinder")
    if init == "uniform":
        return Origin(bound.start(key=key), "uniform")
    raise InputError(
        f"`init` must be 'map', 'pathfinder', 'uniform', site values or a MAPResult, got {init!r}."
    )


def elsewhere(bound: Posterior, mode: Origin, reason: str, key) -> Origin | None:
    """Return a point to start at in place of a mode: ``uniform`` if that is not too far.

    The mode of a funnel is the end of its neck, from which chains take long to come back.  Uniform
    starts are at home in models of standard units; of others they may be millions of nats away,
    and there Pathfinder's point is taken, which is on the way to the mode where its Gaussian
    fits best.

    Parameters
    ----------
    bound
        The posterior.
    mode
        The end of a fit.
    reason
        Reason in words.
    key
        Random key.

    Returns
    -------
    Origin or None
        The point; None where no other is known.
    """
    start = bound.start(key=key)
    flat, unravel = ravel_pytree(start)
    uniform = jax.random.uniform(key, (8, len(flat)), flat.dtype, -UNIFORM, UNIFORM)
    values = np.nan_to_num([float(value_at(bound, unravel(u))) for u in uniform], nan=-np.inf)
    best = float(value_at(bound, mode.point))
    # The density at a point that a fit has ended at may be infinite.
    if np.isfinite(best) and best - np.median(values) > FAR_BELOW * len(flat):
        # Pathfinder evaluates thousands of points at once, too many for large models.
        if len(flat) > DENSE:
            return None
        point = _pathfinder(bound, key)
        if not np.isfinite(float(value_at(bound, point))):
            return None
        return Origin(point, f"pathfinder ({reason})")
    return Origin(start, f"uniform ({reason})")


@Kept
def value_at(bound: Posterior, point: dict) -> Any:
    """Return the log-density at unconstrained parameters."""
    return bound.log_density(point)


def at_fit(bound: Posterior, fit: MAPResult, key) -> dict:
    """Return unconstrained parameters at the end of a fit, by itself or of another model.

    Those of the fit, if its values are theirs: a value that is rounded to the edge of its support
    has none any more.
    """
    names = bound.sites()
    if fit.params.keys() == names.keys():
        point = {n: fit.params[n] for n in names}
        try:
            values = bound.constrain(point, deterministics=False)
        except (TypeError, ValueError):  # of other shapes
            values = {}
        same = (np.allclose(v, fit.values[n], rtol=1e-4, equal_nan=True) for n, v in values.items())
        if values and all(same):
            return {n: jnp.asarray(v) for n, v in point.items()}
    return bound.start({n: fit.values[n] for n in names}, key=key)


def _pathfinder(bound: Posterior, key) -> dict:
    first, second = jax.random.split(key)
    return _approximate(bound, bound.start(key=first), second)


@Kept
def _approximate(bound: Posterior, start: dict, key) -> Any:
    state, _ = blackjax.vi.pathfinder.approximate(key, bound.log_density, start)
    return state.position
