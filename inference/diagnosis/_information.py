r"""Information of data and prior about a source.

For one source with its most coupled neighbors, all of the following in the tangent
space at a point, in the stretched coordinates z of the prior:

.. math:: H = F + P, \qquad F = J^\top W J, \qquad P = -\partial^2 \log p(z),

F the Fisher information of the pixels about shapes, amplitudes and brightnesses
(positive by construction: J is the derivative of the rendered scene), P the curvature of
the priors.  A neighbor is constrained by its own prior and the data only: it is eliminated
(a Schur complement), that is, integrated out.  Directions in which a learned prior has
negative or very small curvature get a hundredth of the typical curvature; their number is
reported.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

#: Lower limit of the curvatures of an image prior, in units of the typical one.
FLOOR = 0.01


class SourceBlocks(NamedTuple):
    """Matrices of one source (index 0) and its neighbors.

    Parameters are ordered source by source: pixels ``n n``, amplitudes ``B``, log flux.

    Attributes
    ----------
    data
        Fisher information of the pixels, ``[D, D]``.
    image_prior
        Curvature of the image priors without negative parts, ``[D, D]``, block-diagonal.
    flux_prior
        Curvature of the prior of amplitudes and brightnesses, ``[D, D]``.
    flux
        Derivative of the first source's total flux, ``[D]``.
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
    """Information about one source; see `source_information`.

    Attributes
    ----------
    data_curvature
        Diagonal of the information of the data on each pixel, ``[n n]``, neighbors and spectra
        integrated out.
    pixel_sd
        Standard deviation of each pixel in z, ``[n n]``.
    flux_sd
        Standard deviation of the total flux.
    flux_from_prior
        Part of it that is the width of the priors; the rest, in squares, is noise of the data.
    degrees_of_freedom
        Number of parameters of the image that the data determine.
    """

    data_curvature: np.ndarray
    pixel_sd: np.ndarray
    flux_sd: float
    flux_from_prior: float
    degrees_of_freedom: float


def source_information(blocks: SourceBlocks) -> SourceInformation:
    r"""Return the information of data and prior about a source with unknown neighbors.

    Parameters
    ----------
    blocks
        The matrices.

    Notes
    -----
    With w the derivative of the total flux its variance is :math:`w^\top H^{-1} w`, the sum of
    :math:`w^\top H^{-1} F H^{-1} w`, the noise of the data, and :math:`w^\top H^{-1} P H^{-1} w`: by
    so much the flux of a galaxy that is drawn from the prior differs from the one fitted to data
    without noise, for what the data do not say the prior fills in.
    Degrees of freedom are :math:`\mathrm{tr}(H^{-1} F)` over the image with everything
    else eliminated: the trace of the resolution matrix, n^2 if the data determine everything
    and 0 if they have no information.
    """
    own, pixels = blocks.own, blocks.pixels
    prior = blocks.image_prior + blocks.flux_prior
    # Eliminating the neighbors leaves the information of the data, and the source's priors.
    known, others = _eliminate(blocks.data, blocks.data + prior, own)
    total = known + prior[:own, :own]
    flux = blocks.flux[:own]
    response = cho_solve(_factor(total), flux)
    everywhere = np.concatenate([response, -others @ response])
    variance, filled = flux @ response, everywhere @ prior @ everywhere
    # The image with its spectrum eliminated: all information except the image's own prior.
    image_prior = blocks.image_prior[:pixels, :pixels]
    image = _eliminate(total, total, pixels)[0] - image_prior
    covariance = cho_solve(_factor(image + image_prior), np.eye(pixels))
    return SourceInformation(
        np.maximum(np.diagonal(image), 0.0),
        np.sqrt(np.maximum(np.diagonal(covariance), 0.0)),
        float(np.sqrt(variance)),
        float(np.sqrt(filled)),
        float(np.sum(covariance * image)),
    )


def _eliminate(matrix, with_prior, size):
    """Return the Schur complement: `matrix` with all but the first `size` parameters eliminated.

    The rest has the precision `with_prior`, whose coupling to the first is that of
    `matrix`.  The second array is minus the response of the rest to the first, ``[rest, size]``.
    """
    if size == len(matrix):
        return matrix, np.zeros((0, size))
    coupling = with_prior[:size, size:]
    response = cho_solve(_factor(with_prior[size:, size:]), coupling.T)
    return matrix[:size, :size] - coupling @ response, response


def _factor(matrix):
    """Return the Cholesky factor, with as large a ridge as rounding requires."""
    lift = 1e-12 * np.trace(matrix) / len(matrix)
    return cho_factor(matrix + lift * np.eye(len(matrix)), lower=True)


def positive_part(curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a matrix with eigenvalues raised to `FLOOR` of the median, and the eigenvalues."""
    values, vectors = eigh((curvature + curvature.T) / 2)
    raised = np.maximum(values, FLOOR * np.median(values))
    return (vectors * raised) @ vectors.T, values
