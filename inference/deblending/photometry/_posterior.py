r"""Posterior of the fluxes from their measurement and the prior on spectra.

Measured fluxes of all sources are jointly Gaussian, :math:`N(\hat F, C)`; the prior of each
source's fluxes is a mixture of Gaussians over its brightness.  Expectation propagation
(Minka 2001) replaces the prior of one source after the other by the Gaussian that gives the same
mean and covariance in the presence of all others: exact for a source alone, and for bright ones.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ._equations import inverse

#: Sweeps over the sources, and the largest change at which they end: of a mean in units of its
#: error, and of an error as a share of itself.
SWEEPS, SETTLED = 20, 0.01

#: Share of each change that is made, since all sources change at once.
DAMPING = 0.7

Moments = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def posterior_fluxes(
    flux: Float[np.ndarray, "N B"], covariance: Float[np.ndarray, "M M"], moments: Moments
) -> tuple[Float[np.ndarray, "N B"], Float[np.ndarray, "M M"], Float[np.ndarray, "N B B"]]:
    """Return mean and covariance of the fluxes, and the precision that the prior adds.

    Parameters
    ----------
    flux, covariance
        Measured fluxes, and their covariance ``[N B, N B]`` (bands fastest).
    moments
        Function of fluxes ``[N, B]`` and covariances ``[N, B, B]`` that returns those under the
        prior of each source.
    """
    num_sources, num_bands = flux.shape
    measured = inverse(covariance)
    pulled = measured @ flux.ravel()
    precision = np.zeros((num_sources, num_bands, num_bands))
    pull = np.zeros((num_sources, num_bands))
    every = np.arange(num_sources)
    mean, joint, error = flux, covariance, np.sqrt(np.diag(covariance))
    for _ in range(SWEEPS):
        blocks = joint.reshape(num_sources, num_bands, num_sources, num_bands)
        own = _inverted(blocks[every, :, every])
        # All that is known of a source but its own prior.
        rest = own - precision
        usable = np.linalg.eigvalsh(rest).min(1) > 0
        rest = np.where(usable[:, None, None], rest, own)
        away = np.einsum("kbc,kc->kb", own, mean) - np.where(usable[:, None], pull, 0.0)
        cavity = _inverted(rest)
        center = np.einsum("kbc,kc->kb", cavity, away)
        wanted, spread = moments(center, cavity)
        # Where fluxes run away, as of sources at a wrong place, rounding may leave no variance at all:
        # what is known of these stays.
        sound = (np.einsum("kbb->kb", spread) > 0).all(1) & np.isfinite(wanted).all(1)
        spread = np.where(sound[:, None, None], spread, np.eye(num_bands))
        wanted, usable = np.where(sound[:, None], wanted, 0.0), usable & sound
        tight = _inverted(spread)
        share = np.where(usable, DAMPING, 0.0)
        known = precision
        precision = precision + share[:, None, None] * (tight - rest - precision)
        pull += share[:, None] * (np.einsum("kbc,kc->kb", tight, wanted) - away - pull)
        total, before, wide = measured.copy(), mean, error
        for k in range(num_sources):
            rows = slice(k * num_bands, (k + 1) * num_bands)
            total[rows, rows] += precision[k]
        if not _is_positive(total):
            # Changes that overshoot where hardly anything is known: what was reached stays.
            return mean, joint, known
        joint = inverse(total)
        mean = (joint @ (pulled + pull.ravel())).reshape(flux.shape)
        error = np.sqrt(np.diag(joint))
        moved = np.abs(mean - before).ravel() / error
        if max(np.max(moved), np.max(np.abs(wide / error - 1))) < SETTLED:
            break
    return mean, joint, precision


def _is_positive(matrix: np.ndarray) -> bool:
    """Return whether a symmetric matrix is positive definite, to the rounding of its entries."""
    diagonal = np.diag(matrix)
    if not np.isfinite(matrix).all() or (diagonal < 0).any():
        return False
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    smallest = -len(matrix) * np.finfo(np.float32).eps
    return bool(np.linalg.eigvalsh(matrix * scale[:, None] * scale).min() > smallest)


def _inverted(matrices: np.ndarray) -> np.ndarray:
    """Invert symmetric matrices ``[K, B, B]`` in units of their diagonals."""
    scale = 1 / np.sqrt(np.einsum("kbb->kb", matrices))
    unit = matrices * scale[:, :, None] * scale[:, None, :]
    return np.linalg.inv(unit) * scale[:, :, None] * scale[:, None, :]
