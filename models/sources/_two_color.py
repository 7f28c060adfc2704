"""Galaxies as a disk and a bulge with spectra of their own."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from scorepriors._typing import Array

from ._abstract import Column, Gradient
from ._bulge_disk import BULGE_SITES, SHAPE_SITES, bulge_disk_columns, bulges_and_disks, fraction_of
from ._parametric import AbstractParametric, Site, single
from ._placement import Placement

#: Least light of a part in its box, relative to that of the source, for its normalization.
SMALLEST_LIGHT = 1e-6


class TwoColor(AbstractParametric):
    """Bulges and disks with a spectrum each.

    Sites are those of `BulgeDisk`, ``bulge_logit`` of the bulge's share at the mean color of the
    galaxy.  What it has more or less of it in each band is integrated out with the spectra.

    Attributes
    ----------
    at
        Positions of the sources.
    name
        Name of the group.
    psf_sigma
        Standard deviation of the model's Gaussian PSF, pixels.
    sites
        Priors of the sites.
    """

    at: Placement
    name: str = eqx.field(static=True)
    psf_sigma: Float[Array, ""]
    sites: dict[str, Site]

    def __init__(
        self,
        at: Placement,
        name: str = "profiles",
        *,
        psf_sigma: Any = 0.7,
        center_error: float = 0.3,
    ):
        self.at, self.name, self.psf_sigma = at, name, single(psf_sigma)
        offset = {"offset": Site(0.0, center_error, "axis", 0.7)}
        self.sites = {**offset, **SHAPE_SITES, **BULGE_SITES}

    def image(self, values: dict, xp: Any = jnp):
        """Return disk and bulge at the mean color."""
        return bulges_and_disks(self, values, fraction_of(values, xp), xp)

    def gradient(self, values: dict, xp: Any = jnp) -> Gradient:
        """Return bulge minus disk."""
        none = xp.zeros_like(values["bulge_logit"])
        disk, bulge = (bulges_and_disks(self, values, f, xp) for f in (none, none + 1))
        return difference(disk, bulge, fraction_of(values, xp), xp)

    def columns(self, values: dict) -> list[Column]:
        """Return radius and shape of the disk, and the bulge's share of the flux."""
        return bulge_disk_columns(values)


def difference(first, second, fraction, xp: Any = jnp) -> Gradient:
    """Return what moves between two parts with images ``[K, n, n]`` of flux one, less what is outside.

    Parameters
    ----------
    first, second
        Images of the parts.
    fraction
        Share of the second in the flux at the mean color, ``[K]``.
    xp
        Array module.
    """
    light = [xp.maximum(one.sum((-2, -1)), SMALLEST_LIGHT) for one in (first, second)]
    inside = fraction * light[1] / (fraction * light[1] + (1 - fraction) * light[0])
    image = second / light[1][:, None, None] - first / light[0][:, None, None]
    return Gradient(image, inside)
