r"""Fluxes of fixed shapes by weighted least squares, all sources of a scene jointly.

With unit renderings :math:`g_k` of the sources in a band, weights W and pixels d the fluxes are

.. math:: f = N^{-1} p, \qquad N_{kl} = g_k^\top W g_l, \qquad p_k = g_k^\top W d,

with covariance :math:`N^{-1}`.  There is no prior: fluxes of what is not there scatter about zero.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from scorepriors.inference.deblending._seen import SEEN
from scorepriors.inference.deblending.photometry._equations import inverse
from scorepriors.models.rendering._exposure import Exposure

from ._sources import Boxes, Slopes


class Solved(NamedTuple):
    """Fluxes of N sources in B bands, in the unit of the image.

    Attributes
    ----------
    flux
        Fluxes ``[N, B]``, NaN without data.
    covariance
        Covariance of the noise of the pixels, ``[B, N, N]``.
    share
        Share of the light of each source on unmasked pixels, ``[N, B]``.
    alone
        Errors that sources would have without neighbors, ``[N, B]``.
    unit
        Renderings of unit flux, ``[N, B, H, W]``.
    """

    flux: Float[np.ndarray, "N B"]
    covariance: Float[np.ndarray, "B N N"]
    share: Float[np.ndarray, "N B"]
    alone: Float[np.ndarray, "N B"]
    unit: Float[np.ndarray, "N B H W"]


def rendered(exposure: Exposure, boxes: Boxes) -> Float[np.ndarray, "N B H W"]:
    """Render images in an exposure, those of one size at once."""
    out = np.zeros((len(boxes.images), exposure.num_bands, *exposure.shape), np.float32)
    sides = np.array([len(image) for image in boxes.images])
    for side in boxes.sides:
        which = np.flatnonzero(sides == side)
        images = np.stack([boxes.images[k] for k in which])
        out[which] = exposure.render_on_host(images, boxes.corners[which])
    return out


def unit_fluxes(exposure: Exposure, boxes: Boxes) -> Float[np.ndarray, "N B H W"]:
    """Render sources of unit flux."""
    area = boxes.area
    # Without any light there is nothing to render.
    scale = np.divide(1.0, area, out=np.zeros_like(area), where=area > 0)
    return rendered(exposure, boxes) * scale[:, None, None, None].astype(np.float32)


def solve_fluxes(exposure: Exposure, unit: Float[np.ndarray, "N B H W"]) -> Solved:
    """Solve for the fluxes of all sources in every band.

    Parameters
    ----------
    exposure
        Pixels and noise.
    unit
        Renderings of unit flux.
    """
    num_sources, num_bands = unit.shape[:2]
    good = np.asarray(exposure.noise.diagonal()) > 0
    share = (unit * good).sum((2, 3), dtype=float)
    weighed = np.asarray(exposure.noise.precision(unit), float)
    flux = np.full((num_sources, num_bands), np.nan)
    alone = np.full((num_sources, num_bands), np.nan)
    covariance = np.full((num_bands, num_sources, num_sources), np.nan)
    for band, image in enumerate(np.asarray(exposure.images, float)):
        normal, mine = _normal(weighed[:, band], unit[:, band])
        seen = (share[:, band] >= SEEN) & (np.diag(normal) > 0)
        found = inverse(normal, seen)
        flux[seen, band] = (found @ (mine @ image.ravel()))[seen]
        covariance[band][np.ix_(seen, seen)] = found[np.ix_(seen, seen)]
        alone[seen, band] = 1 / np.sqrt(np.diag(normal)[seen])
    return Solved(flux, covariance, share, alone, unit)


def shapes_by_draws(
    exposure: Exposure, draws: Sequence[Boxes], seen: np.ndarray
) -> Float[np.ndarray, "B N N"]:
    """Return the covariance of the fluxes over draws of the shapes, ``[B, N, N]``.

    Parameters
    ----------
    exposure
        Pixels and noise.
    draws
        Images of the sources in each draw.
    seen
        Mask ``[N, B]`` of sources with data.
    """
    fluxes = np.stack([solve_fluxes(exposure, unit_fluxes(exposure, one)).flux for one in draws])
    return _masked(scatter_of(fluxes), seen)


def scatter_of(fluxes: Float[np.ndarray, "D N B"]) -> Float[np.ndarray, "B N N"]:
    """Return the covariance of fluxes over draws, from those in which both of a pair have one.

    A source may leave the data in some of the draws, where its flux is NaN; with fewer than two
    fluxes it has no scatter, which is NaN.
    """
    known = ~np.isnan(fluxes)
    count = known.sum(0)
    mean = np.nan_to_num(fluxes).sum(0) / np.maximum(count, 1)
    away = np.where(known, fluxes - mean, 0.0)
    both = np.einsum("dkb,dlb->bkl", known.astype(float), known.astype(float))
    found = np.einsum("dkb,dlb->bkl", away, away) / np.maximum(both - 1, 1)
    enough = (count > 1).T
    # Pairs that are never seen together tell nothing of each other.
    found = np.where(both > 1, found, 0.0)
    return np.where(enough[:, :, None] & enough[:, None, :], found, np.nan)


def shapes_by_slopes(
    exposure: Exposure, slopes: Slopes, flux: np.ndarray, seen: np.ndarray
) -> Float[np.ndarray, "B N N"]:
    r"""Return the covariance of the fluxes that follows from that of the shape parameters.

    To first order, :math:`\partial f / \partial \theta_q = -N^{-1} G^\top W f_k \partial g_k /
    \partial \theta_q`.
    """
    about, owner = slopes.about, slopes.owner
    unit, area = unit_fluxes(exposure, about), about.area
    boxes = Boxes(slopes.images, about.corners[owner])
    change = rendered(exposure, boxes) / np.where(area > 0, area, 1.0)[owner, None, None, None]
    lost = boxes.area / np.where(area > 0, area, 1.0)[owner]
    change = change - unit[owner] * lost[:, None, None, None]
    weighed = np.asarray(exposure.noise.precision(unit), float)
    out = np.zeros((unit.shape[1], len(unit), len(unit)))
    for band in range(len(out)):
        normal, mine = _normal(weighed[:, band], unit[:, band])
        bright = np.nan_to_num(flux[owner, band])
        moved = mine @ change[:, band].reshape(len(owner), -1).T * bright
        slope = -inverse(normal, seen[:, band]) @ moved
        out[band] = slope @ slopes.covariance @ slope.T
    return _masked(out, seen)


def _normal(weighed: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the normal matrix of a band, and its weighed renderings as rows."""
    mine = weighed.reshape(len(unit), -1)
    normal = mine @ unit.reshape(len(unit), -1).astype(float).T
    return (normal + normal.T) / 2, mine


def _masked(covariance: np.ndarray, seen: np.ndarray) -> np.ndarray:
    both = seen.T[:, :, None] & seen.T[:, None, :]
    return np.where(both, covariance, np.nan)
