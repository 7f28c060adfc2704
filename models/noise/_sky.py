r"""A sky that is left in, constant or a plane in each band, integrated out exactly.

The sky is linear, :math:`T c` with templates :math:`T` (one, and the two coordinates) and Gaussian
coefficients of widths S, so with the noise N of the pixels their covariance is
:math:`N + T S^2 T^\top`, and by Woodbury's identity the precision

.. math:: N^{-1} - V M V^\top, \quad V = N^{-1} T S, \quad M = (1 + S T^\top V)^{-1},

with matrices M of one or three rows.  Its cost is that of one or three more products with an image.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Float

from scorepriors._errors import InputError
from scorepriors._typing import Array

from ._abstract import AbstractNoise

#: Kinds of sky, and the number of their coefficients.
SKIES = {"constant": 1, "plane": 3}

#: Smallest share of a weight that stays where the sky explains all of a pixel, so that a pixel with
#: data is never taken for a masked one.
_LEAST = 1e-6


class Sky(AbstractNoise):
    """Noise of another model, plus a sky of unknown level, or level and slopes, in each band.

    Build one with `Sky.about`.

    Attributes
    ----------
    noise
        The noise of the pixels without sky.
    templates
        Images ``[K, H, W]`` of the K coefficients: one; for a plane also row and column, from -1 to 1
        across the image, so that these coefficients are half the change across it.
    width
        Standard deviations of the coefficients ``[B, K]``, image units; their means are zero.
    weighed
        Templates times `width`, multiplied by the precision of `noise`, ``[B, K, H, W]``.
    inverse
        The matrix M above, ``[B, K, K]``: the posterior covariance in units of `width`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from scorepriors.models import Diagonal, Sky
    >>> noise = Sky.about(Diagonal(jnp.ones((1, 8, 8))), jnp.array([3.0]))
    >>> level, error = noise.level(jnp.full((1, 8, 8), 0.5))
    >>> print(f"{level[0, 0]:.3f} +- {error[0, 0]:.3f}")
    0.499 +- 0.125
    """

    noise: AbstractNoise
    templates: Float[Array, "K H W"]
    width: Float[Array, "B K"]
    weighed: Float[Array, "B K H W"]
    inverse: Float[Array, "B K K"]

    @classmethod
    def about(
        cls, noise: AbstractNoise, width: Float[Array, " B"], kind: str = "constant"
    ) -> "Sky":
        """Add a sky to a model of the noise.

        Parameters
        ----------
        noise
            Noise of the pixels without sky.
        width
            Standard deviation of the sky, and for a plane of half of its change along both axes,
            ``[B]``, image units; the mean is zero, so subtract what is known.
        kind
            ``"constant"`` or ``"plane"``.

        Raises
        ------
        InputError
            For another kind.
        """
        if kind not in SKIES:
            raise InputError(f"unknown sky {kind!r}; there are {', '.join(SKIES)}.")
        weights = jnp.asarray(noise.diagonal())
        height, across = weights.shape[-2:]
        templates = sky_templates((height, across), kind).astype(weights.dtype)
        widths = jnp.broadcast_to(
            jnp.asarray(width, weights.dtype)[:, None], (len(weights), len(templates))
        )
        # One template of all bands at a time is an image that the noise knows to multiply.
        alike = jnp.broadcast_to(templates[:, None], (len(templates), *weights.shape))
        weighed = jnp.swapaxes(noise.precision(alike), 0, 1) * widths[:, :, None, None]
        products = jnp.einsum("bkyx,lyx->bkl", weighed, templates) * widths[:, None, :]
        matrix = jnp.eye(len(templates)) + (products + jnp.swapaxes(products, 1, 2)) / 2
        balance = 1 / jnp.sqrt(jnp.einsum("bkk->bk", matrix))
        unit = jnp.linalg.inv(matrix * balance[:, :, None] * balance[:, None, :])
        inverse = unit * balance[:, :, None] * balance[:, None, :]
        return cls(noise, templates, widths, weighed, inverse)

    def precision(self, images: Float[Array, "*N B H W"]) -> Float[Array, "*N B H W"]:
        """Multiply images by the precision matrix of pixels whose sky is integrated out."""
        explained = jnp.einsum("...bk,bkyx->...byx", self._share(images), self.weighed)
        return self.noise.precision(images) - explained

    def inner(
        self, first: Float[Array, "*N B H W"], second: Float[Array, "*N B H W"]
    ) -> Float[Array, "*N B"]:
        """Return inner products of images, what is left of them and the coefficients apart.

        The difference of two large numbers, as for images of a large sky, would be rounding error.
        """
        shares = self._share(first), self._share(second)
        left = [one - self._drawn(share) for one, share in zip((first, second), shares)]
        return self.noise.inner(*left) + jnp.sum(shares[0] * shares[1], -1)

    def diagonal(self) -> Float[Array, "B H W"]:
        """Return the diagonal of the precision matrix; zero where masked."""
        own = self.noise.diagonal()
        explained = jnp.einsum("bkyx,bkl,blyx->byx", self.weighed, self.inverse, self.weighed)
        return jnp.maximum(own - explained, _LEAST * own)

    def sample(self, key) -> Float[Array, "B H W"]:
        """Draw noise and sky; zero where masked."""
        own, of_sky = jax.random.split(key)
        white = jax.random.normal(of_sky, self.width.shape, self.width.dtype)
        seen = self.noise.diagonal() > 0
        return jnp.where(seen, self.noise.sample(own) + self._drawn(white), 0.0)

    @property
    def kind(self) -> str:
        """Kind of the sky, a key of `SKIES`."""
        return next(kind for kind, count in SKIES.items() if count == len(self.templates))

    def cut(self, corner, shape: tuple[int, int], kind: str = "constant") -> "Sky":
        """Return the noise of a window, with a sky of its own: constant, as in a small one, or of a kind."""
        return Sky.about(self.noise.cut(corner, shape), self.width[:, 0], kind)

    def distribution(self, model: Float[Array, "B H W"]) -> dist.Distribution:
        """Return the distribution of the pixels of each band jointly, sky integrated out."""
        return _SkyDistribution(model, self)

    def level(
        self, residual: Float[Array, "B H W"]
    ) -> tuple[Float[Array, "B K"], Float[Array, "B K"]]:
        """Return the coefficients of the sky given a residual, data minus model, and their errors.

        Parameters
        ----------
        residual
            Residual without the sky's share subtracted.

        Returns
        -------
        level, error
            Mean and standard deviation of the coefficients, ``[B, K]``, image units.
        """
        error = self.width * jnp.sqrt(jnp.einsum("bkk->bk", self.inverse))
        return self.width * self._share(residual), error

    def image(self, level: Float[Array, "B K"]) -> Float[Array, "B H W"]:
        """Return the image of a sky with these coefficients."""
        return jnp.einsum("bk,kyx->byx", level, self.templates)

    def _share(self, images) -> Float[Array, "*N B K"]:
        """Return the posterior mean of the coefficients in units of `width`."""
        found = jnp.einsum("bkyx,...byx->...bk", self.weighed, images)
        return jnp.einsum("bkl,...bl->...bk", self.inverse, found)

    def _drawn(self, share) -> Float[Array, "*N B H W"]:
        return jnp.einsum("...bk,bk,kyx->...byx", share, self.width, self.templates)


def sky_templates(shape: tuple[int, int], kind: str) -> Float[Array, "K H W"]:
    """Return the images of the coefficients of a sky (see `Sky`).

    Parameters
    ----------
    shape
        Height and width.
    kind
        ``"constant"`` or ``"plane"``.
    """
    flat = jnp.ones((1, *shape))
    if kind == "constant":
        return flat
    rows, columns = (jnp.linspace(-1, 1, n) if n > 1 else jnp.zeros(1) for n in shape)
    return jnp.concatenate([flat, jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"))])


class _SkyDistribution(dist.Distribution):
    r"""Pixels of each band jointly about a model image.

    With the posterior mean :math:`\hat c` of the coefficients the density is
    :math:`p(x \mid \hat c)\, p(\hat c) / p(\hat c \mid x)`: all of it sums of squares.
    """

    support = dist.constraints.independent(dist.constraints.real, 2)
    pytree_data_fields = ("loc", "noise")

    def __init__(self, loc, noise: Sky, *, validate_args=None):
        self.loc, self.noise = loc, noise
        shape = jnp.shape(loc)
        super().__init__(shape[:-2], shape[-2:], validate_args=validate_args)

    def log_prob(self, value):
        """Return the log-densities of the bands."""
        share = self.noise._share(value - self.loc)
        given: Any = self.noise.noise.distribution(self.loc + self.noise._drawn(share))
        found = given.log_prob(value)
        found = found if given.event_dim == 2 else jnp.sum(found, (-2, -1))
        _, log_det = jnp.linalg.slogdet(self.noise.inverse)
        return found + 0.5 * (log_det - jnp.sum(share**2, -1))

    def sample(self, key, sample_shape=()):
        """Draw pixels."""
        own, of_sky = jax.random.split(key)
        white = jax.random.normal(of_sky, (*sample_shape, *self.noise.width.shape))
        given = self.noise.noise.distribution(self.loc)
        return given.sample(own, sample_shape) + self.noise._drawn(white)
