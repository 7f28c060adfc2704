"""Galaxies as a single Sersic profile, of a given index or a free one."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorepriors._typing import Array

from ._abstract import Column
from ._bulge_disk import SHAPE_SITES, SMALLEST_RADIUS, shape_columns
from ._parametric import AbstractParametric, Site
from ._placement import Placement
from ._profiles import ellipse, gaussian_mixture_image, sersic_mixture, sersic_mixture_of

#: Lowest and highest index of the mixtures.
LOWEST, HIGHEST = 0.5, 6.0

#: Prior of the index between both ends, on a logistic scale.  The median is 1.5,
#: and 68 % of galaxies lie between .9 and 2.6.
INDEX_SITE = Site(-1.5, 1.0, "", 0.05)


class Sersic(AbstractParametric):
    r"""Sersic profiles :math:`I(R) \propto \exp(-b_n (R/R_e)^{1/n})`.

    Sites: ``offset [K, 2]`` (pixels), ``log_radius [K]`` (half light, pixels), ``ellipticity
    [K, 2]`` (see `ellipse`) and, if the index is free, ``index_logit [K]``.

    Attributes
    ----------
    at
        Positions of the sources.
    name
        Name of the group.
    index
        The index n of all sources, 0.5 to 6; None for a free index of each source.  A given
        index is static: each value has another mixture.
    psf_sigma
        Standard deviation of the model's Gaussian PSF, pixels.
    sites
        Priors of the sites.
    """

    at: Placement
    name: str = eqx.field(static=True)
    index: float | None = eqx.field(static=True)
    psf_sigma: Float[Array, ""]
    sites: dict[str, Site]

    def __init__(
        self,
        at: Placement,
        name: str = "profiles",
        *,
        index: float | None = None,
        psf_sigma: float = 0.7,
        center_error: float = 0.3,
    ):
        self.at, self.name, self.psf_sigma = at, name, np.asarray(psf_sigma, np.float32)
        self.index = None if index is None else float(index)
        free = {"index_logit": INDEX_SITE} if index is None else {}
        offset = {"offset": Site(0.0, center_error, "axis", 0.7)}
        self.sites = {**offset, **SHAPE_SITES, **free}

    def image(self, values: dict, xp: Any = jnp, pixels: Any = None):
        """Return a mixture of Gaussians."""
        if self.index is None:
            weights, sigmas = sersic_mixture_of(_index(values["index_logit"], xp), xp)
        else:
            weights, sigmas = (np.asarray(a, np.float32) for a in sersic_mixture(self.index))
        radius = xp.exp(values["log_radius"]) + SMALLEST_RADIUS
        return gaussian_mixture_image(
            weights,
            sigmas * radius[:, None],
            ellipse(values["ellipticity"][:, None], xp),
            self.place(values, xp),
            box=self.at.box,
            psf_sigma=self.psf_sigma,
            pixels=pixels,
            xp=xp,
        )

    def settings(self) -> dict[str, Any]:
        """Return the index and the width of the model PSF."""
        return {"index": self.index, **super().settings()}

    def columns(self, values: dict) -> list[Column]:
        """Return radius, shape and index."""
        columns = shape_columns(values, "profile")
        if self.index is None:
            index = _index(np.asarray(values["index_logit"], float), np)
            columns.append(
                Column("profile_index", index, None, "Sersic index in the parametric scene")
            )
        return columns


def _index(logit, xp):
    return LOWEST + (HIGHEST - LOWEST) / (1 + xp.exp(-logit))
