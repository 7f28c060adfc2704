"""Point sources: the model's PSF at a free position."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf as jax_erf
from jaxtyping import Float
from scipy.special import erf as scipy_erf

from scorepriors._typing import Array

from ._abstract import Look
from ._parametric import AbstractParametric, Site
from ._placement import Placement

#: Side of the boxes of stars, pixels: ten standard deviations of the model PSF.
STAR_BOX = 15

#: Width of the position of a star when a fit starts from an earlier one, pixels.
SETTLED = 0.02


class PointSource(AbstractParametric):
    """Stars, with the site ``offset [K, 2]`` in pixels.

    Attributes
    ----------
    at
        Positions of the sources.
    name
        Name of the group.
    psf_sigma
        Standard deviation of the model's Gaussian PSF, pixels.
    sites
        Prior of the offset.
    """

    at: Placement
    name: str = eqx.field(static=True)
    psf_sigma: Float[Array, ""]
    sites: dict[str, Site]

    flag: ClassVar[str] = "point"

    def __init__(
        self,
        at: Placement,
        name: str = "stars",
        *,
        psf_sigma: float = 0.7,
        center_error: float = 0.3,
    ):
        self.at, self.name, self.psf_sigma = at, name, np.asarray(psf_sigma, np.float32)
        self.sites = {"offset": Site(0.0, center_error, "axis", 0.7)}

    def image(self, values: dict, xp: Any = jnp, pixels: Any = None):
        """Return the model PSF at the positions."""
        place, sigma = self.place(values, xp), self.psf_sigma
        return point_image(place, box=self.at.box, psf_sigma=sigma, pixels=pixels, xp=xp)

    def guess(self, width: float):
        """Return the model PSF; `width` does not matter."""
        return super().guess(float(self.psf_sigma))

    def start(self, look: Look) -> tuple[dict, dict]:
        """Start at the given positions, or at those of an earlier fit."""
        values, widths = super().start(look)
        if look.values is not None:
            widths = {"offset": np.full_like(values["offset"], SETTLED)}
        return values, widths


def point_image(place: Float[Array, "K 2"], *, box: int, psf_sigma, pixels=None, xp=jnp):
    """Return the model PSF, integrated over pixels, at (row, column) in ``[K, box, box]``.

    Or at pixels ``[K, P, 2]`` alone, ``[K, P]``.
    """
    erf = jax_erf if xp is jnp else scipy_erf
    if pixels is not None:
        near = (pixels - place[:, None, :]) / (2**0.5 * psf_sigma)
        half = 0.5 / (2**0.5 * psf_sigma)
        return xp.prod((erf(near + half) - erf(near - half)) / 2, -1)
    edges = xp.arange(box + 1, dtype=place.dtype) - 0.5
    steps = xp.diff(erf((edges - place[..., None]) / (2**0.5 * psf_sigma))) / 2
    return steps[..., 0, :, None] * steps[..., 1, None, :]
