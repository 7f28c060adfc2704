r"""What holds a source: how much of it the data know, how much the prior says.

For one source with its most coupled neighbors, all of the following in the tangent
space at a point, in the stretched coordinates z of the prior:

.. math:: H = F + P, \qquad F = J^\top W J, \qquad P = -\partial^2 \log p(z),

F the Fisher information of the pixels about shapes, amplitudes and brightnesses
(positive by construction: J is the derivative of the rendered scene), P the curvature of
the priors.  What a neighbor does is not known, only what its own prior and the data
say: it is eliminated (a Schur complement), which is to integrate it out.  A direction in
which a learned prior curves the wrong way, or hardly, counts as a hundredth of the usual
curvature; how many there are is reported.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

#: Curvatures of an image prior below this share of the usual one count as this.
FLOOR = 0.01


class SourceBlocks(NamedTuple):
    """Matrices about one source (index 0) and its neighbors.

    Parameters are ordered source by source: pixels ``n n``, amplitudes ``B``, log flux.

    Attributes
    ----------
    data
        Fisher information of the pixels, ``[D, D]``.
    image_prior
        ``[D, D]``, block-diagonal: curvature of the image prior with what is negative
        left out.
    flux_prior
        ``[D, D]``, of the amplitudes and brightnesses.
    flux
        ``[D]``, derivative of the first source's total flux.
    pixels, own
        Numbers of pixels, and of all parameters, of the first source.
    """

    data: np.ndarray
    image_prior: np.ndarray
    flux_prior: np.ndarray
    flux: np.ndarray
    pixels: int
    own: int


class SourceInformation(NamedTuple):
    """What is known of one source; see `source_information`.

    Attributes
    ----------
    data_curvature
        ``[n n]``, diagonal of what the data know of each pixel, neighbors and spectra
        integrated out.
    pixel_sd
        ``[n n]``, standard deviation of each pixel in z.
    flux_sd
        Standard deviation of the total flux.
    degrees_of_freedom
        Number of parameters of the image that the data determine.
    """

    data_curvature: np.ndarray
    pixel_sd: np.ndarray
    flux_sd: float
    degrees_of_freedom: float


def source_information(blocks: SourceBlocks) -> SourceInformation:
    r"""What data and prior know of a source when its neighbors are not known.

    Parameters
    ----------
    blocks
        The matrices.

    Notes
    -----
    With w the derivative of the total flux its variance is :math:`w^\top H^{-1} w`.
    Degrees of freedom are :math:`\mathrm{tr}(H^{-1} F)` over the image with everything
    else eliminated: the trace of the resolution matrix, n^2 if data alone decide and 0
    if they say nothing.
    """
    own, pixels = blocks.own, blocks.pixels
    prior = blocks.image_prior + blocks.flux_prior
    # Eliminating the neighbors leaves what the data know, and the source's own priors.
    known = _eliminate(blocks.data, blocks.data + prior, own)
    total = known + prior[:own, :own]
    flux = blocks.flux[:own]
    variance = flux @ cho_solve(_factor(total), flux)
    # The image with its spectrum eliminated: all that is not the image's own prior.
    image_prior = blocks.image_prior[:pixels, :pixels]
    image = _eliminate(total, total, pixels) - image_prior
    covariance = cho_solve(_factor(image + image_prior), np.eye(pixels))
    return SourceInformation(
        np.maximum(np.diagonal(image), 0.0),
        np.sqrt(np.maximum(np.diagonal(covariance), 0.0)),
        float(np.sqrt(variance)),
        float(np.sum(covariance * image)),
    )


def _eliminate(matrix, with_prior, size):
    """Schur complement: `matrix` over the first `size` parameters, the rest integrated out.

    The rest has the precision `with_prior`, whose coupling to the first is that of
    `matrix`.
    """
    if size == len(matrix):
        return matrix
    coupling = with_prior[:size, size:]
    return matrix[:size, :size] - coupling @ cho_solve(
        _factor(with_prior[size:, size:]), coupling.T
    )


def _factor(matrix):
    """Cholesky factor, with as much lift as rounding needs."""
    lift = 1e-12 * np.trace(matrix) / len(matrix)
    return cho_factor(matrix + lift * np.eye(len(matrix)), lower=True)


def positive_part(curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix with its eigenvalues raised to `FLOOR` of the median, and all of them."""
    values, vectors = eigh((curvature + curvature.T) / 2)
    raised = np.maximum(values, FLOOR * np.median(values))
    return (vectors * raised) @ vectors.T, values
