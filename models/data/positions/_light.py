"""Whether positions are those of an image: light under them, or one vector away."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree

from scorepriors._errors import InputError
from scorepriors.models.data._detection import detect, detection_image
from scorepriors.models.data._warnings import FileWarning

from ._margins import psf_fwhm
from ._places import is_inside
from ._positions import Positions

#: Significance of a detection that a catalog of the image would have.
_BRIGHT = 7.0

#: Signal to noise of the light about a position, below which there is none.
_LIGHT = 3.0

#: Largest distance in FWHM of the PSF between a position and the peak of its light.
_NEAR = 0.5

#: Largest length of a common vector, pixels.
_LONGEST = 40.0

#: Share of the sources that a vector must bring onto detections.
_BROUGHT = 0.7

#: Share of the sources that may be near a detection without a vector that is longer.
_HIT_ALREADY = 0.4

#: Shortest vector that is no error of detections, in pixels and in FWHM of the PSF: of 76 simulated
#: blends with their true positions none is above it.
_SMALL, _SMALL_WIDTHS = 0.75, 0.16

#: Distance from it within which most sources are, in pixels and in FWHM.
_ALIKE, _ALIKE_WIDTHS = 0.4, 0.09

#: Share of positions that are near a detection in catalogs of other images.
_HIT_BY_CHANCE = 0.25


class PositionsWarning(FileWarning):
    """Warning about positions that are not those of the image."""


class Match(NamedTuple):
    """How positions compare with the light of an image.

    Attributes
    ----------
    inside, dark
        Numbers of positions in the image, and of those without light under them.
    bright, missed
        Numbers of bright detections, and of those without a position close by.
    vector
        Common vector (x, y) in pixels from the positions to detections; None if there is none.
    brought, hit
        Numbers of detections with a position upon them, moved by the vector and as given.
    """

    inside: int
    dark: int
    bright: int
    missed: int
    vector: tuple[float, float] | None
    brought: int
    hit: int


def match_light(positions: Positions, obs) -> Match | None:
    """Compare positions with the light of an image; None where nothing is detected in it.

    Parameters
    ----------
    positions
        Positions of the sources.
    obs
        The observation; of joined ones the first counts.
    """
    try:
        found = detect(obs, threshold=_BRIGHT).row_column
    except InputError:
        return None
    places = positions.row_column[is_inside(positions.row_column, obs.shape)]
    if not len(places):
        return None
    width = psf_fwhm(obs.views[0].psfs)
    near = _near(width)
    dark = int((_light(places, obs, near) < _LIGHT).sum())
    missed = int((cKDTree(places).query(found)[0] > 2 * near).sum())
    vector, brought, hit = _common_vector(places, found, width)
    return Match(len(places), dark, len(found), missed, vector, brought, hit)


def displacement(positions: Positions, obs) -> str:
    """Return a sentence on positions that are not those of the image; empty if they can be."""
    match = match_light(positions, obs)
    if match is None:
        return ""
    if match.vector is not None:
        x, y = match.vector
        return (
            f"the positions and the light are apart by one vector: (x, y) = ({x:+.1f}, {y:+.1f}) px added "
            f"to the positions would put {match.brought} of {match.inside} on detected sources; check "
            "the columns, the WCS, and whether pixels count from 0 or 1."
        )
    few = match.hit <= _HIT_BY_CHANCE * min(match.inside, match.bright)
    if few and match.missed > match.bright / 2:
        return (
            f"{match.missed} of {match.bright} bright sources in the image have no position, and "
            f"{match.dark} of {match.inside} positions have no light under them: check that the catalog "
            "is of this image, its columns and the WCS."
        )
    return ""


def _light(places: np.ndarray, obs, near: float) -> np.ndarray:
    """Return the largest signal to noise of the sum of the bands close to each place."""
    image, variance, mask = detection_image(obs)
    width = psf_fwhm(obs.views[0].psfs) / 2.355
    # Noise of a Gaussian mean of white noise of variance one.
    smooth = gaussian_filter(image, width, mode="constant") * 2 * np.sqrt(np.pi) * width
    noise = np.sqrt(gaussian_filter(np.where(mask, 1.0, variance), width))
    side = 2 * int(np.ceil(near)) + 1
    best = maximum_filter(np.where(mask, -np.inf, smooth / noise), side)
    rows, columns = np.clip(np.round(places).astype(int), 0, np.array(obs.shape) - 1).T
    # Under a mask there may be light.
    return np.where(np.isfinite(best[rows, columns]), best[rows, columns], np.inf)


def _common_vector(places: np.ndarray, found: np.ndarray, width: float):
    """Return a vector (x, y) from places to detections, and how many it and none bring there."""
    detections = cKDTree(found)
    near = _near(width)
    hit = int((detections.query(places)[0] <= near).sum())
    small = _small_vector(places, found, width)
    if small is not None:
        return small, _matches(places + small[::-1], detections, near), hit
    fewest = max(2.0, _BROUGHT * min(len(places), len(found)))
    if hit > _HIT_ALREADY * min(len(places), len(found)):
        return None, hit, hit
    apart = (found[None] - places[:, None]).reshape(-1, 2)
    apart = apart[np.hypot(*apart.T) < _LONGEST]
    if not len(apart):
        return None, hit, hit
    counts = np.array([_matches(places + one, detections, near / 2) for one in apart])
    best = apart[np.argmax(counts)]
    distance, partner = detections.query(places + best)
    close = distance <= near / 2
    vector = np.median((found[partner] - places)[close], axis=0)
    brought = _matches(places + vector, detections, near)
    if brought < fewest or np.hypot(*vector) <= near:
        return None, hit, hit
    return (float(vector[1]), float(vector[0])), brought, hit


def _small_vector(
    places: np.ndarray, found: np.ndarray, width: float
) -> tuple[float, float] | None:
    """Return a vector (x, y) shorter than the PSF by which most sources are off alike, or None."""
    distance, partner = cKDTree(found).query(places)
    back = cKDTree(places).query(found)[1]
    mutual = (distance <= width) & (back[partner] == np.arange(len(places)))
    apart = (found[partner] - places)[mutual]
    if len(apart) < 2:
        return None
    vector = np.median(apart, axis=0)
    alike = np.hypot(*(apart - vector).T) < max(_ALIKE, _ALIKE_WIDTHS * width)
    if alike.mean() < _BROUGHT or np.hypot(*vector) < max(_SMALL, _SMALL_WIDTHS * width):
        return None
    return float(vector[1]), float(vector[0])


def _near(width: float) -> float:
    """Return the distance of a source from the peak of its light, for a FWHM of the PSF."""
    return max(_NEAR * width, 1.0)


def _matches(places: np.ndarray, detections: cKDTree, radius: float) -> int:
    """Return the number of detections that have a place close by, each place used once."""
    distance, partner = detections.query(places)
    return len(set(partner[distance <= radius].tolist()))
