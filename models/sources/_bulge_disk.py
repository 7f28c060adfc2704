"""Galaxies as an exponential disk plus a de Vaucouleurs bulge of one color."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from astropy import units
from jaxtyping import Float

from scorepriors._typing import Array

from ._abstract import Column
from ._parametric import AbstractParametric, Site
from ._placement import Placement
from ._profiles import ellipse, gaussian_mixture_image, sersic_mixture

#: Lower limit of half-light radii, pixels: sources below a twentieth of a pixel are points.
SMALLEST_RADIUS = 0.05

#: Sites of both parametric profiles.  Priors are wide Gaussians that keep faint sources
#: galaxy-like and hardly affect bright ones.
SHAPE_SITES = {
    "log_radius": Site(math.log(1.5), 0.7, "", 0.5),
    "ellipticity": Site(0.0, 0.3, "ellipticity_component", 0.5),
}

BULGE_SITES = {
    "bulge_logit": Site(-2.0, 1.5, "", 0.05),
    "bulge_log_ratio": Site(math.log(0.6), 0.5, "", 0.02),
    "bulge_ellipticity": Site(0.0, 0.15, "ellipticity_component", 0.02),
}


class BulgeDisk(AbstractParametric):
    """Bulges and disks.

    Sites, all ``[K]`` or ``[K, 2]`` and real: ``offset`` (pixels), ``log_radius`` (of the
    disk, pixels), ``ellipticity`` (see `ellipse`), ``bulge_logit`` (of the bulge's share of the
    flux), ``bulge_log_ratio`` (bulge to disk radius) and ``bulge_ellipticity``.

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
        psf_sigma: float = 0.7,
        center_error: float = 0.3,
    ):
        self.at, self.name, self.psf_sigma = at, name, np.asarray(psf_sigma, np.float32)
        offset = {"offset": Site(0.0, center_error, "axis", 0.7)}
        self.sites = {**offset, **SHAPE_SITES, **BULGE_SITES}

    def image(self, values: dict, xp: Any = jnp, pixels: Any = None):
        """Return disk and bulge as one mixture of Gaussians."""
        return bulges_and_disks(self, values, fraction_of(values, xp), xp, pixels)

    def columns(self, values: dict) -> list[Column]:
        """Return radius and shape of the disk, and the bulge's share of the flux."""
        return bulge_disk_columns(values)


def fraction_of(values: dict, xp: Any = jnp):
    """Return the bulge's share of the flux, ``[K]``."""
    return 1 / (1 + xp.exp(-values["bulge_logit"]))


def bulges_and_disks(
    group: AbstractParametric, values: dict, fraction, xp: Any = jnp, pixels: Any = None
):
    """Return images ``[K, n, n]`` of bulges and disks, or what they are ``[K, P]`` at pixels.

    Parameters
    ----------
    group
        Sources with the sites of `BulgeDisk`.
    values
        Their values.
    fraction
        Share of the bulges in the flux, ``[K]``: 0 for the disks alone, 1 for the bulges.
    xp
        Array module.
    pixels
        Pixels (row, column) of each box, ``[K, P, 2]``; None for all.
    """
    disk, bulge = _mixture(1.0), _mixture(4.0)
    # Each component has its own size and shape.
    count = len(disk[0])
    is_bulge = np.arange(count + len(bulge[0])) >= count
    share = xp.where(is_bulge, fraction[:, None], 1 - fraction[:, None])
    weights = np.concatenate([disk[0], bulge[0]]) * share
    disk_radius = xp.exp(values["log_radius"]) + SMALLEST_RADIUS
    bulge_radius = disk_radius * xp.exp(values["bulge_log_ratio"]) + SMALLEST_RADIUS
    radius = xp.where(is_bulge, bulge_radius[:, None], disk_radius[:, None])
    of_bulge, of_disk = values["bulge_ellipticity"], values["ellipticity"]
    shape = xp.where(is_bulge[:, None], of_bulge[:, None], of_disk[:, None])
    return gaussian_mixture_image(
        weights,
        np.concatenate([disk[1], bulge[1]]) * radius,
        ellipse(shape, xp),
        group.place(values, xp),
        box=group.at.box,
        psf_sigma=group.psf_sigma,
        pixels=pixels,
        xp=xp,
    )


def bulge_disk_columns(values: dict) -> list[Column]:
    """Return radius and shape of the disk, and the bulge's share of the flux."""
    host = {name: np.asarray(value, float) for name, value in values.items()}
    text = "share of the bulge in the flux of the parametric scene"
    return [
        *shape_columns(values, "disk"),
        Column("profile_bulge_fraction", fraction_of(host, np), None, text),
    ]


def shape_columns(values: dict, what: str) -> list[Column]:
    """Return columns of a radius and an ellipticity."""
    radius = np.exp(np.asarray(values["log_radius"], float)) + SMALLEST_RADIUS
    first, second = np.asarray(values["ellipticity"], float).T
    text = f"ellipticity parameter of the {what} in the parametric scene"
    return [
        Column(
            "profile_radius",
            radius,
            units.pix,
            f"half-light radius of the {what} in the parametric scene",
        ),
        Column("profile_e1", first, None, text),
        Column("profile_e2", second, None, text),
    ]


def _mixture(index: float):
    return tuple(np.asarray(a, np.float32) for a in sersic_mixture(index))
