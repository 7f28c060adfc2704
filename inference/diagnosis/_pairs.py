"""Fisher information between parameters of overlapping sources, and of their spectra's prior.

Parameters of a source are its pixels in z, its amplitudes and its log flux, in this order.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from scorepriors._traces import Kept
from scorepriors.models.rendering._information import gather, likelihood_block

from ._galaxies import Galaxies
from ._information import SourceBlocks

#: Smallest correlation of sources that count as neighbors.
COUPLED = 1e-3


def correlations(here: Galaxies) -> np.ndarray:
    """Return overlaps ``[K, K]`` of the sources as observed, in units of those with themselves."""
    overlap = np.abs(np.asarray(_overlap(here), float))
    return overlap / np.sqrt(np.outer(np.diagonal(overlap), np.diagonal(overlap)) + 1e-300)


@Kept
def _overlap(here: Galaxies):
    """Return weighted overlaps ``[K, K]`` of the sources as observed."""
    count, first = len(here.corner), 0
    total = jnp.zeros((count, count))
    for one, unit in zip(here.exposures, here.unit, strict=True):
        seen = unit * here.spectrum[:, first : first + one.num_bands, None, None]
        first += one.num_bands
        total += jnp.einsum("kbyx,lbyx->kl", seen, one.noise.precision(seen))
    return total


def neighborhood(coupling: np.ndarray, k: int, most: int) -> list[int]:
    """Return a source and its most coupled neighbors.

    Parameters
    ----------
    coupling
        Result of `correlations`.
    k
        Index of the source.
    most
        Largest number of neighbors.
    """
    order = [m for m in np.argsort(-coupling[k]) if m != k and coupling[k, m] > COUPLED]
    return [k, *(int(m) for m in order[:most])]


class Pairs:
    """Fisher information between all parameters of two sources; each pair is computed once.

    Parameters
    ----------
    here
        The sources.
    slope
        Derivative dx/dz, ``[K, n, n]``.
    """

    def __init__(self, here: Galaxies, slope: np.ndarray):
        self.here, self.slope = here, slope
        self.spectrum = np.asarray(here.spectrum, float)
        self.made: dict[tuple[int, int], np.ndarray] = {}

    def __getitem__(self, pair: tuple[int, int]) -> np.ndarray:
        k, m = pair
        if pair not in self.made:
            # Stored in the precision of the arrays it is made from.
            turned = self.made.get((m, k))
            precision = self.here.morphology.dtype
            self.made[pair] = turned.T if turned is not None else self._make(k, m).astype(precision)
        return self.made[pair]

    def _make(self, k: int, m: int) -> np.ndarray:
        pixels, bands = self.slope[0].size, self.here.num_bands
        between, row, column, amplitudes = (
            np.asarray(part, float) for part in _pair_arrays(self.here, np.int32(k), np.int32(m))
        )
        block = np.zeros((pixels + bands + 1, pixels + bands + 1))
        first, second = self.slope[k].ravel(), self.slope[m].ravel()
        block[:pixels, :pixels] = between * first[:, None] * second
        each = pixels + np.arange(bands)
        block[:pixels, each] = (row.reshape(bands, -1) * self.spectrum[k][:, None] * first).T
        block[each, :pixels] = column.reshape(bands, -1) * self.spectrum[m][:, None] * second
        block[each, each] = amplitudes
        return block


@Kept
def _pair_arrays(here: Galaxies, k, m):
    """Return products by band: pixels, pixels with amplitudes both ways, and amplitudes."""
    products = here.spectrum[k] * here.spectrum[m]
    between = likelihood_block(here.exposures, products, here.corner[k], here.corner[m], here.box)
    row, column, amplitudes = [], [], []
    for one, unit in zip(here.exposures, here.unit, strict=True):
        first, second = (one.noise.precision(unit[i])[None] for i in (k, m))
        row.append(gather(one, second, here.corner[k][None], here.box)[0])
        column.append(gather(one, first, here.corner[m][None], here.box)[0])
        amplitudes.append(one.noise.inner(unit[k], unit[m]))
    return between, *(jnp.concatenate(parts) for parts in (row, column, amplitudes))


def source_blocks(
    here: Galaxies,
    members: Sequence[int],
    slope: np.ndarray,
    image_priors: np.ndarray,
    pairs: Pairs,
) -> SourceBlocks:
    """Return the matrices of the first of `members` and its neighbors.

    Parameters
    ----------
    here
        The sources.
    members
        Indices of the source and its neighbors.
    slope
        Derivative dx/dz, ``[K, n, n]``.
    image_priors
        Curvature of the prior of every source in z, ``[K, n n, n n]``, positive definite.
    pairs
        Fisher information of pairs of the sources.
    """
    pixels, bands = slope[0].size, here.num_bands
    own = pixels + bands + 1
    size = own * len(members)
    information, image_prior, flux_prior = np.zeros((3, size, size))
    for a, k in enumerate(members):
        rows = slice(a * own, a * own + pixels)
        image_prior[rows, rows] = image_priors[k]
        first = a * own
        flux_prior[first : first + own, first : first + own] = _flux_prior(here, k, slope[k])
        for b, m in enumerate(members[: a + 1]):
            block = pairs[k, m]
            information[first : first + own, b * own : (b + 1) * own] = block
            information[b * own : (b + 1) * own, first : first + own] = block.T
    # Total flux: amplitudes times the sum of the pixels.
    k = members[0]
    flux = np.zeros(size)
    flux[:pixels] = float(here.spectrum[k].sum()) * slope[k].ravel()
    flux[pixels : pixels + bands] = float(here.morphology[k].sum())
    return SourceBlocks(information, image_prior, flux_prior, flux, pixels, own)


def _flux_prior(here: Galaxies, k: int, slope: np.ndarray) -> np.ndarray:
    """Return the Gauss-Newton curvature of the prior of amplitudes and brightness.

    The residuals are those of the fluxes from their mean and of the brightness from its mean,
    in units of their widths.
    """
    pixels, bands = slope.size, here.num_bands
    given = here.flux_prior()
    factor = np.linalg.inv(np.linalg.cholesky(np.asarray(given.covariance[k], float)))
    spectrum = np.asarray(here.spectrum[k], float)
    jacobian = np.zeros((bands + 1, pixels + bands + 1))
    jacobian[:bands, :pixels] = np.outer(factor @ spectrum, slope.ravel())
    jacobian[:bands, pixels:-1] = factor * float(here.morphology[k].sum())
    jacobian[:bands, -1] = -factor @ np.asarray(given.mean[k], float)
    jacobian[bands, -1] = 1 / float(here.spectra.brightness_width)
    return jacobian.T @ jacobian
