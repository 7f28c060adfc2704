"""Motions of stars between the epochs of a joint observation, with errors."""

from typing import Any

import numpy as np
from astropy import units as u

from scorepriors.models.sources._moving import MovingStar

from ._result import Deblended

#: Descriptions of the columns.
MOTION_TEXTS = {
    "motion_x": "motion along columns; NaN for sources at rest",
    "motion_y": "motion along rows; NaN for sources at rest",
    "pm_ra": "motion towards the east on the sky (times the cosine of the declination)",
    "pm_dec": "motion towards the north",
}


def motion_columns(result: Deblended) -> dict[str, u.Quantity]:
    """Return motions of the stars that move as columns of a catalog; empty without any.

    Parameters
    ----------
    result
        Result of `deblend` with the option `moving`.

    Returns
    -------
    dict
        ``motion_x``, ``motion_y`` in pixels per day and, with a WCS, ``pm_ra``, ``pm_dec`` in
        arcseconds per year, with errors ``*_err``; NaN for sources at rest.
    """
    scene, values = result.parametric.scene, result.parametric.fit.values
    group = next((g for g in scene.sources if isinstance(g, MovingStar)), None)
    if group is None:
        return {}
    index = np.asarray(group.at.index)
    way = np.full((len(scene.order), 2), np.nan)
    way[index[index >= 0]] = np.asarray(values[f"{group.name}/way"], float)[index >= 0]
    covariance: Any = result.photometry.way_covariance
    return columns_of_ways(way, covariance, group.days, result.center, result.observation.wcs)


def columns_of_ways(
    way: np.ndarray, covariance: np.ndarray, days: float, center: np.ndarray, wcs: Any
) -> dict[str, u.Quantity]:
    """Return motions with errors as columns of a catalog: see `motion_columns`.

    Parameters
    ----------
    way, covariance
        Ways (rows, columns) in pixels between the first and the last time, ``[N, 2]``, and their
        covariances ``[N, 2, 2]``; NaN for sources at rest.
    days
        Days between these times.
    center
        Places (row, column) of the sources, ``[N, 2]``.
    wcs
        WCS of the image; None for none.
    """
    error = np.sqrt(np.einsum("kii->ki", covariance))
    rate = u.pix / u.day
    out = {}
    for axis, name in ((1, "motion_x"), (0, "motion_y")):
        out[name] = way[:, axis] / days * rate
        out[f"{name}_err"] = error[:, axis] / days * rate
    if wcs is not None:
        turn = sky_steps(center[:, 0], center[:, 1], wcs)
        years = u.arcsec / (days * u.day)
        on_sky = np.einsum("kis,ki->ks", turn, way)
        spread = np.sqrt(np.einsum("kis,kij,kjs->ks", turn, covariance, turn))
        for axis, name in enumerate(("pm_ra", "pm_dec")):
            for ending, found in (("", on_sky), ("_err", spread)):
                out[name + ending] = (found[:, axis] * years).to(u.arcsec / u.yr)
    return out


def sky_steps(row: np.ndarray, column: np.ndarray, wcs) -> np.ndarray:
    """Return arcseconds (east, north) per pixel along (rows, columns) at places, ``[N, 2, 2]``."""
    steps = []
    for up, right in ((1, 0), (0, 1)):
        ends = [wcs.pixel_to_world(column + s * right / 2, row + s * up / 2).icrs for s in (-1, 1)]
        steps.append([one.to_value(u.arcsec) for one in ends[0].spherical_offsets_to(ends[1])])
    return np.moveaxis(np.array(steps), 2, 0)
