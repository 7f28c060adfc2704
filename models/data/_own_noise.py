r"""Variances that follow the noise of their own pixels.

Many pipelines take the variance of a pixel from its own noisy value d,
:math:`V = S + g\,d`, sky and readout plus source.  A pixel that came out low then gets a larger
weight, and every flux is biased low, the more the fewer counts there are (Humphrey, Liu &
Buote 2009, ApJ 693, 822).  `noise_from_model` mends it.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from scipy.ndimage import correlate1d

from ._warnings import note

#: Second differences along both axes: sees noise from pixel to pixel, and is blind to whatever is
#: a polynomial of degree three over three pixels.
_ROUGH = np.array([1.0, -2.0, 1.0]) / 2

#: Variance of white noise after `_ROUGH` along both axes.
_ROUGH_VARIANCE = float((_ROUGH**2).sum() ** 2)

#: Share of the noise from pixel to pixel that the variances must explain.  They explain at most .06
#: where they are honest, and .7 to 1 where they follow the pixels; .2 and more where a flat
#: field adds a roughness of its own to them.
EXPLAINED = 0.15

#: Largest signal to noise of the mean of 3 x 3 pixels that count as sky: there the structure of
#: sources, which an honest variance shows as well, is less than the noise of a pixel.
_FAINT = 3.0

#: Fewest pixels for a judgment: by chance, variances explain one part in their number.
_FEWEST = 100

#: The latest answers by a digest of the pixels, and how many are kept: on its way to a fit an
#: observation is made several times of the same pixels, and to look costs ten times the digest.
_known: dict[bytes, "OwnNoise"] = {}
_KEPT = 64


class NoiseWarning(UserWarning):
    """Warning about variances that follow the noise of their own pixels."""


class OwnNoise(NamedTuple):
    """Variance per unit of a pixel's own value, by band.

    Attributes
    ----------
    above, below
        Slopes ``[B]`` where pixels are above and below zero (pipelines often cut at zero), in the
        unit of the image; zero for bands whose variances do not follow their pixels.
    """

    above: np.ndarray
    below: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Mask ``[B]`` of the bands whose variances follow their pixels."""
        return self.above > 0


def own_noise(images: np.ndarray, weights: np.ndarray) -> OwnNoise:
    """Find the bands whose variances follow the noise of their own pixels.

    That sources are bright in images and in variances is no sign of it.  So both are reduced to
    their differences from pixel to pixel, on the sky alone, where these are noise; an honest
    variance knows nothing of it.

    Parameters
    ----------
    images, weights
        Pixels and inverse variances ``[B, H, W]``; weight zero means masked.
    """
    found = hashlib.blake2b(repr((images.shape, images.dtype, weights.dtype)).encode())
    for array in (images, weights):
        found.update(np.ascontiguousarray(array).data)
    key = found.digest()
    known = _known.get(key)
    if known is None:
        slopes = [_slopes(*band) for band in zip(images, weights, strict=True)]
        above, below = np.array(slopes, float).reshape(-1, 2).T
        above.setflags(write=False)
        below.setflags(write=False)
        while len(_known) >= _KEPT:
            _known.pop(next(iter(_known)), None)
        known = _known[key] = OwnNoise(above, below)
    return known


def check_own_noise(images: np.ndarray, weights: np.ndarray, bands: tuple[str, ...]) -> None:
    """Warn if the variances of a band follow the noise of its own pixels."""
    found = own_noise(images, weights).found
    if found.any():
        names = ", ".join(band for band, one in zip(bands, found, strict=True) if one)
        note(
            f"the variance in band {names} follows the noise of its own pixels, which biases fluxes "
            "low: `deblend` takes the noise of sources from its model instead, and for a model of "
            "your own `noise_from_model` does.",
            NoiseWarning,
            to_results=False,
        )


def _slopes(image: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return the slopes of one band; zeros where the variance does not follow the pixels."""
    good = weights > 0
    whole = mean_of_nine(good) > 1 - 1e-6
    if whole.sum() < _FEWEST:
        return 0.0, 0.0
    image = np.where(good, image, 0.0).astype(float)
    # Masked pixels get an unremarkable variance; none of them is next to a pixel that counts.
    variance = 1 / np.where(good, weights, np.median(weights[good])).astype(float)
    noise = np.sqrt(mean_of_nine(variance))
    sky = whole & (np.abs(mean_of_nine(image)) < _FAINT / 3 * noise)
    sky = sky if sky.sum() >= _FEWEST else whole
    scale = np.sqrt(_ROUGH_VARIANCE) * noise
    pixels, changes = _rough(image) / scale, _rough(variance) / scale
    x, y = pixels[sky], changes[sky]
    total, own, both = x @ x, y @ y, x @ y
    # Rounding of weights in single precision is no signal.
    smallest = (1e-5 * np.median(noise)) ** 2 * len(y)
    if total == 0 or own <= smallest or both <= 0:
        return 0.0, 0.0
    left = total - both**2 / own
    # Without sky, what is left must be far less than the noise: structure of sources, seen by both,
    # leaves all of it.
    enough = sky is not whole or left < 0.5 * len(x)
    if left > (1 - EXPLAINED) * total or not enough:
        return 0.0, 0.0
    parts = [np.maximum(image, 0), np.minimum(image, 0)]
    design = np.stack([(_rough(part) / scale)[whole] for part in parts], axis=1)
    above, below = np.linalg.lstsq(design, changes[whole], rcond=None)[0]
    return (float(above), float(below)) if above > 0 else (0.0, 0.0)


def _rough(image: np.ndarray) -> np.ndarray:
    return correlate1d(correlate1d(image, _ROUGH, axis=0), _ROUGH, axis=1)


def mean_of_nine(image: np.ndarray) -> np.ndarray:
    """Return means of 3 x 3 pixels; zero beyond the border."""
    thirds, image = np.full(3, 1 / 3), np.asarray(image, float)
    return correlate1d(
        correlate1d(image, thirds, axis=0, mode="constant"), thirds, 1, mode="constant"
    )
