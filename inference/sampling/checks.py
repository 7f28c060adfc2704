"""Check that the gradient that moves a sampler is that of the density it accepts by."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from scorepriors.errors import InputError

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


def check_gradient(log_density, position, key, *, segments: int = 5, length: float = 0.5) -> None:
    """Refuse a density whose gradient is not its own.

    Leapfrog is volume preserving and reversible whatever force drives it, so HMC
    samples exp(log_density) even if the gradient belongs to something else: a prior
    with a score but a constant ``log_prob`` is then silently left out.  Compared are
    the line integral of the gradient and the difference of the log-density along
    random segments.

    Parameters
    ----------
    log_density
        A pytree that is called with a position.
    position
        ``[d]``, in coordinates of about unit width.
    key
        For the segments.
    segments, length
        How many, and their standard deviation per coordinate.

    Raises
    ------
    InputError
        If the two disagree.
    """
    difference, integral, size = (
        np.asarray(a, float) for a in _compare(log_density, position, key, segments, length)
    )
    # Rounding alone may part the two in a very bright scene; a part of the model left out
    # does so along every segment, and by much of `size`.
    excess = np.abs(difference - integral) - (0.02 * size + 0.05)
    middle = int(np.argsort(np.where(np.isnan(excess), np.inf, excess))[len(excess) // 2])
    if not excess[middle] <= 0:
        raise InputError(
            "the gradient is not that of the log-density: along a short segment the density "
            f"changes by {difference[middle]:.4g} nats, the line integral of the gradient by "
            f"{integral[middle]:.4g}.  Sampling would leave a part of the model out without a "
            "word.  A prior that only has a score needs a potential: "
            "`ScorePrior.from_score`."
        )


@eqx.filter_jit
def _compare(log_density, position, key, segments, length):
    steps = length * jax.random.normal(key, (segments, position.size), position.dtype)

    def one(step):
        ends = log_density(position + step) - log_density(position)
        nodes = jnp.asarray((_NODES + 1) / 2, position.dtype)
        slopes = jax.lax.map(
            lambda t: jnp.vdot(jax.grad(lambda q: log_density(q))(position + t * step), step),
            nodes,
        )
        weights = jnp.asarray(_WEIGHTS / 2, position.dtype)
        return ends, weights @ slopes, weights @ jnp.abs(slopes)

    return jax.lax.map(one, steps)
