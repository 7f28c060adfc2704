"""Check that the gradient of a density is consistent with its values."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from scorepriors._errors import InputError
from scorepriors._traces import Kept
from scorepriors.inference._status import Check, Finding

from ._diagnostics import SamplingWarning

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)

#: Basis of polynomials up to degree five at the nodes.  Along a segment of half a width a
#: density is that smooth: the remainder is rounding error.
_POLYNOMIALS = np.linalg.qr(np.polynomial.legendre.legvander(_NODES, 5))[0]
_ROUGHNESS = np.eye(len(_NODES)) - _POLYNOMIALS @ _POLYNOMIALS.T

#: Roughness of the values, as a share of what the gradient misses, from which that is jumps.  One
#: jump of the whole size has 0.2 and more inside of the segment; smooth values have a thousandth.
JUMPS = 0.06


def check_gradient(log_density, position, key, *, segments: int = 5, length: float = 0.5) -> bool:
    """Raise InputError for a density whose gradient is not that of its values.

    Leapfrog is volume preserving and reversible for any force, so HMC samples
    exp(log_density) even if the gradient is another one: a prior with a score but a constant
    ``log_prob`` would silently have no effect.  Where the two differ because the values jump (a
    change point), draws are right and steps blind: that is a warning.  The line integral of the gradient is compared
    with the difference of the log-density along random segments; in single precision they may
    differ by the rounding error of either, estimated from their roughness along the segment (a
    bright star: a tenth of a nat).

    Parameters
    ----------
    log_density
        Log-density as a function of a position, itself a pytree.
    position
        Position ``[d]`` in coordinates of about unit width.
    key
        Random key for the segments.
    segments, length
        Number of segments, and their standard deviation per coordinate.

    Returns
    -------
    bool
        Whether values jump.

    Raises
    ------
    InputError
        If the two disagree, and values are smooth.

    Warns
    -----
    SamplingWarning
        If values jump.
    """
    # Segments that leave the support (`Uniform(0, theta)` of data) have nothing to compare: at its
    # edge short ones are inside.
    for shorter in (1, 8, 64):
        found = np.asarray(_compare(log_density, position, key, segments, length / shorter), float)
        inside = np.isfinite(found[0])
        if inside.any():
            break
    else:
        return False
    difference, integral, size, rounding, jumps = found[:, inside]
    # In double precision roughness is that of the model, not rounding error.
    if position.dtype != jnp.float32:
        rounding = np.zeros_like(rounding)
    # If a part of the model is missing, the two differ along every segment, by much of `size`.
    excess = np.abs(difference - integral) - (0.02 * size + 0.05 + 5 * rounding)
    middle = int(np.argsort(np.where(np.isnan(excess), np.inf, excess))[len(excess) // 2])
    refused = not excess[middle] <= 0
    # In single precision jumps would pass as rounding errors, which are below a nat.
    jumping = (jumps > JUMPS) & (np.abs(difference - integral) > 1 + 0.02 * size)
    if jumping.mean() >= 0.5 or (refused and np.median(jumps[~(excess <= 0)]) > JUMPS):
        warnings.warn(
            f"along a short segment the log-density changes by {difference[middle]:.4g} nats, the line "
            f"integral of its gradient by {integral[middle]:.4g}: {Finding(Check.JUMPS).sentence()}",
            SamplingWarning,
            stacklevel=2,
        )
        return True
    if refused:
        raise InputError(
            "the gradient is not that of the log-density: along a short segment the density "
            f"changes by {difference[middle]:.4g} nats, the line integral of the gradient by "
            f"{integral[middle]:.4g}.  Sampling would leave a part of the model out without a "
            "word.  A prior that only has a score needs a potential: "
            "`ScorePrior.from_score`."
        )
    return False


@Kept
def _compare(log_density, position, key, segments, length):
    steps = length * jax.random.normal(key, (segments, position.size), position.dtype)
    nodes = jnp.asarray((_NODES + 1) / 2, position.dtype)
    weights = jnp.asarray(_WEIGHTS / 2, position.dtype)
    remover = jnp.asarray(_ROUGHNESS, position.dtype)
    freedom = len(_NODES) - _POLYNOMIALS.shape[1]

    def roughness(values):
        return jnp.sqrt(jnp.sum((remover @ (values - values[0])) ** 2) / freedom)

    def one(step):
        def along(t):
            return log_density(position + t * step)

        difference = along(jnp.ones_like(nodes[0])) - along(jnp.zeros_like(nodes[0]))
        values, slopes = jax.lax.map(jax.value_and_grad(along), nodes)
        rounding = jnp.hypot(
            jnp.sqrt(2.0) * roughness(values), jnp.linalg.norm(weights) * roughness(slopes)
        )
        integral = weights @ slopes
        # Rounding errors are rough as well: they differ between points next to each other.
        beside = 1000 * jnp.finfo(nodes.dtype).eps
        noise = jax.lax.map(along, nodes + beside) - values - beside * slopes
        rough = roughness(values)
        rough = jnp.where(rough > 10 * jnp.sqrt(jnp.mean(noise**2)), rough, 0.0)
        jumps = rough / jnp.abs(difference - integral)
        return difference, integral, weights @ jnp.abs(slopes), rounding, jumps

    return jax.lax.map(one, steps)
