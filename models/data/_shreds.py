"""Shreds: peaks on a bright, well resolved galaxy that are its arms and lumps.

Detection finds every lump of a spiral, and each then takes some of its light.  A shred tells
itself by three signs at once: it stands out little from the light about it (contrast), has that
light's color, and no valley parts it from a brighter peak (isophotes).  Neighbors of another
color, on the outskirts, or about as bright as what they sit on are kept, and so is everything
next to galaxies of the size of a blend, where contrast and valleys tell nothing.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter, gaussian_laplace, label

from ._observation import Observation

# Tuned on simulated LSST spirals with arms and lumps, and on blends of bulges and disks.

#: Largest share of a shred in the light at its place.
SHARE = 0.45

#: Smallest share of the smooth profile of its parent in that light.
PROFILE = 0.25

#: Largest chi2 of its color, in standard deviations above the number of colors; a difference from
#: the light about it of this share is none.
COLOR, SAME_COLOR = 4.0, 0.2

#: Depth of the valley to a brighter peak below which there is none.
VALLEY = 0.9

#: Smallest signal to noise of the parent's peak, and area of its isophote at a twentieth of it in
#: units of a point source's.
BRIGHT, RESOLVED = 100.0, 4.5

#: Largest light of a shred at its peak, as a share of its parent's.
PART = 0.35

#: Number of shreds in a galaxy from which on the limits `SHARE`, `PROFILE` and `VALLEY` are these.
SEVERAL, LUMPY = 3, (0.7, 0.2, 0.8)

#: Half the side of the window about a peak in which isophotes are followed, in units of the
#: smoothed PSF's standard deviation.
WINDOW = 30.0


class Filtered(NamedTuple):
    """Bands at a common PSF; images ``[B, H, W]``.

    Attributes
    ----------
    light, blobs
        Smoothed images, and minus the Laplacian of them.
    error
        Noise of the second.
    levels
        Weights of the bands in their sum, ``[B]``.
    width
        Standard deviation of a point source in `light`, pixels.
    """

    light: Float[np.ndarray, "B H W"]
    blobs: Float[np.ndarray, "B H W"]
    error: Float[np.ndarray, "B H W"]
    levels: Float[np.ndarray, " B"]
    width: float


def shreds(
    obs: Observation, places: Float[np.ndarray, "N 2"], model: np.ndarray | None = None
) -> Bool[np.ndarray, " N"]:
    """Return which of the detected peaks are parts of a bright galaxy.

    Parameters
    ----------
    obs
        The observation.
    places
        Peaks (row, column), ``[N, 2]``.
    model
        Light of fitted sources ``[B, H, W]`` without which the peaks stand out; none by default.
    """
    found = np.zeros(len(places), bool)
    if len(places) < 2:
        return found
    seen = filtered(obs, model)
    rows, columns = np.clip(np.round(places).astype(int), 0, np.array(obs.shape) - 1).T
    light = np.einsum("b,byx->yx", seen.levels, seen.light)
    blobs = np.einsum("b,bk->k", seen.levels, seen.blobs[:, rows, columns])
    peak = light[rows, columns]
    # A point source alone has a share of one.
    share = blobs * seen.width**2 / 2 / np.maximum(peak, 1e-30)
    noise = np.sqrt(np.einsum("b,bk->k", seen.levels**2, seen.error[:, rows, columns] ** 2))
    colored = _color_chi2(seen, rows, columns) < _limit(len(seen.levels))
    # In the smoothed image the noise of the sharpened one is larger by a known factor.
    usual = noise * seen.width**2 / 2
    parents = np.full(len(places), -1)
    for strict in (True, False):
        most, least, valley = (SHARE, PROFILE, VALLEY) if strict else LUMPY
        # A galaxy with several shreds is full of lumps: others in it are likely to be some too.
        full = np.bincount(parents[found], minlength=len(places)) >= SEVERAL
        able = (peak > BRIGHT * usual) & (strict | full)
        for k in np.flatnonzero((share < most) & colored & (peak > 0) & ~found):
            around = _window(places[k], seen.width, light.shape)
            inside = _isophote(
                light[around], valley * peak[k], _within(around, rows[k], columns[k])
            )
            for parent in np.flatnonzero(able & ~found & (peak > peak[k])):
                at = _within(around, rows[parent], columns[parent])
                if at is None or not inside[at] or share[k] * peak[k] > PART * peak[parent]:
                    continue
                if _smooth(light, places, parent, k, seen.width) > least * peak[k]:
                    found[k], parents[k] = True, parent
                    break
    return found


def filtered(obs: Observation, model: np.ndarray | None = None) -> Filtered:
    """Return smoothed and sharpened bands of one PSF; bands without data are left out."""
    seen = obs.weights > 0
    used = np.flatnonzero(seen.any((1, 2)))
    widths = np.array([psf_sigma(obs.psfs[b]) for b in used])
    smooth = max(1.05 * widths.max(), 1.0)
    light, blobs, error, levels = [], [], [], []
    for band, own in zip(used, np.sqrt(smooth**2 + widths.max() ** 2 - widths**2), strict=True):
        good = seen[band]
        image = filled(np.where(good, obs.images[band], 0.0).astype(float), ~good)
        image -= np.median(image[good])
        variance = 1 / np.where(good, obs.weights[band], np.median(obs.weights[band][good]))
        sharp = image if model is None else image - np.where(good, model[band], 0.0)
        light.append(gaussian_filter(image, own))
        blobs.append(-gaussian_laplace(sharp, own))
        # The Laplacian of a Gaussian has the squared norm 1 / (2 pi s^6).
        power = gaussian_filter(variance.astype(float), own) / (2 * np.pi * own**6)
        error.append(np.sqrt(power))
        levels.append(np.median(obs.weights[band][good]))
    width = float(np.hypot(smooth, widths.max()))
    return Filtered(np.array(light), np.array(blobs), np.array(error), np.array(levels), width)


def _limit(num_bands: int) -> float:
    colors = max(num_bands - 1, 0)
    return colors + COLOR * np.sqrt(2 * colors) if colors else np.inf


def _color_chi2(seen: Filtered, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return chi2 ``[N]`` of peaks with the color of the light at their places."""
    about, own = seen.light[:, rows, columns], seen.blobs[:, rows, columns]
    error, share = seen.error[:, rows, columns], np.zeros(len(rows))
    chi2 = share
    for _ in range(3):
        weight = 1 / (error**2 + (SAME_COLOR * share * about) ** 2)
        share = (weight * own * about).sum(0) / np.maximum((weight * about**2).sum(0), 1e-30)
        chi2 = (weight * (own - share * about) ** 2).sum(0)
    return chi2


def _window(place: np.ndarray, width: float, shape) -> tuple[slice, slice]:
    half = int(np.ceil(WINDOW * width))
    low = np.maximum(np.round(place).astype(int) - half, 0)
    high = np.minimum(np.round(place).astype(int) + half + 1, shape)
    return slice(low[0], high[0]), slice(low[1], high[1])


def _isophote(light: np.ndarray, level: float, place: tuple[int, int]) -> np.ndarray:
    """Return the mask of the pixels above a level that are connected to a place."""
    each, _ = label(light > level)
    return (each == each[place]) & (each > 0)


def _within(window: tuple[slice, slice], row: int, column: int) -> tuple[int, int] | None:
    """Return the place of a pixel in a window; None if it is outside."""
    down, right = row - window[0].start, column - window[1].start
    inside = down >= 0 and row < window[0].stop and right >= 0 and column < window[1].stop
    return (int(down), int(right)) if inside else None


def _smooth(light, places, parent: int, k: int, width: float) -> float:
    """Return the brightness of the smooth profile of a well resolved parent at peak k, or zero.

    It is the median along the ellipse with the moments of the galaxy's body.
    """
    near = _window(places[parent], width, light.shape)
    image = light[near]
    limits = np.array(image.shape) - 1
    first = np.array([near[0].start, near[1].start])
    center, place = (
        tuple(np.clip(np.round(places[i]).astype(int) - first, 0, limits)) for i in (parent, k)
    )
    body = _isophote(image, image[center] / 20, center)
    if body.sum() < RESOLVED * 2 * np.pi * np.log(20) * width**2:
        return 0.0
    offsets = np.indices(image.shape) - np.reshape(center, (2, 1, 1))
    inside = offsets[:, body]
    moments = inside @ inside.T / inside.shape[1] + np.eye(2) / 12
    squared = np.einsum("iyx,ij,jyx->yx", offsets, np.linalg.inv(moments), offsets)
    radius = np.sqrt(squared)
    # Rings of a pixel along the minor axis.
    step = 1 / np.sqrt(np.linalg.eigvalsh(moments)[0])
    return float(np.median(image[np.abs(radius - radius[place]) < step]))


def filled(image: np.ndarray, mask: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """Fill masked pixels from those around them, so that holes in bright sources have no edges."""
    if not mask.any():
        return image
    near = gaussian_filter(np.where(mask, 0.0, 1.0), sigma)
    around = gaussian_filter(np.where(mask, 0.0, image), sigma) / np.maximum(near, 1e-6)
    return np.where(mask, around, image)


def psf_sigma(psf: np.ndarray) -> float:
    """Return the standard deviation of a Gaussian with the FWHM of a PSF, pixels."""
    return float(2 * np.sqrt((psf > psf.max() / 2).sum() / np.pi) / 2.355)
