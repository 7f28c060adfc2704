"""Interface of models of the noise."""

import abc

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Float

from scorepriors._typing import Array


class AbstractNoise(eqx.Module):
    r"""Gaussian noise of the pixels of one exposure, independent between its bands.

    Exact spectra, likelihoods and curvatures of a scene need only products with the precision
    matrix :math:`N_b^{-1}` of the pixels of band b.  A new model of the noise is a subclass with
    `precision`, `diagonal`, `sample` and `distribution`.

    Notes
    -----
    A masked pixel has no weight: its row and column of the precision matrix are zero.
    """

    @abc.abstractmethod
    def precision(self, images: Float[Array, "*N B H W"]) -> Float[Array, "*N B H W"]:
        """Multiply images by the precision matrix of the pixels; zero where masked."""

    @abc.abstractmethod
    def diagonal(self) -> Float[Array, "B H W"]:
        """Return the diagonal of the precision matrix; zero where masked."""

    @abc.abstractmethod
    def sample(self, key) -> Float[Array, "B H W"]:
        """Draw noise; zero where masked."""

    @abc.abstractmethod
    def distribution(self, model: Float[Array, "B H W"]) -> dist.Distribution:
        """Return the distribution of the pixels about a model image, for the site ``pixels``.

        With ``event_shape`` ``()`` where pixels are independent (leave-one-out then works pixel by
        pixel), and ``(H, W)`` where they are correlated within a band.
        """

    def cut(self, corner, shape: tuple[int, int]) -> "AbstractNoise":
        """Return the noise of a window of the pixels; beyond the image nothing is known.

        Parameters
        ----------
        corner
            First pixel (row, column) of the window; it may be negative.
        shape
            Height and width of the window.

        Notes
        -----
        Of a model that does not define it, independent pixels with its `diagonal`.
        """
        from ._diagonal import Diagonal

        return Diagonal(cut_out(self.diagonal(), corner, shape))

    def inner(
        self, first: Float[Array, "*N B H W"], second: Float[Array, "*N B H W"]
    ) -> Float[Array, "*N B"]:
        """Return inner products of images under the precision matrix, band by band."""
        return jnp.sum(first * self.precision(second), (-2, -1))

    def log_likelihood(self, residual: Float[Array, "B H W"]) -> Float[Array, ""]:
        """Return the normalized log-density of a residual, data minus model (paper eq. 12)."""
        return jnp.sum(self.distribution(jnp.zeros_like(residual)).log_prob(residual))


def cut_out(image, corner, shape: tuple[int, int]):
    """Return a window ``[..., h, w]`` of an image, zero beyond it."""
    out = np.zeros((*np.shape(image)[:-2], *shape), np.asarray(image).dtype)
    first, last = [], []
    for begin, size, whole in zip(np.asarray(corner, int), shape, np.shape(image)[-2:]):
        first.append(min(max(int(begin), 0), whole))
        last.append(max(min(int(begin) + size, whole), first[-1]))
    to = [slice(a - int(c), b - int(c)) for a, b, c in zip(first, last, corner, strict=True)]
    if first[0] < last[0] and first[1] < last[1]:
        rows, columns = (slice(a, b) for a, b in zip(first, last, strict=True))
        out[..., to[0], to[1]] = np.asarray(image)[..., rows, columns]
    return out
