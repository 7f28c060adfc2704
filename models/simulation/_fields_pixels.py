"""What happens to the pixels of a simulated field: full wells, gaps, sky, noise."""

import numpy as np
from scipy.ndimage import binary_dilation

from scorepriors._surveys import Camera
from scorepriors.models.noise._correlation import draw_correlated

#: Bits of the planes of masks, as in those of Rubin and HSC.
PLANES = {"SAT": 1, "NO_DATA": 8}

#: Holes in a field of 1000 x 1000 pixels, and their radii in pixels.
_HOLES, _RADII = 6.0, (6.0, 25.0)


def saturate(light: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Let light above the level of full pixels run along their columns, in place.

    Parameters
    ----------
    light
        Light ``[B, H, W]``; its sum is kept, but for what runs over the border.
    levels
        Largest value of a pixel in each band, ``[B]``.

    Returns
    -------
    numpy.ndarray
        True for full pixels, ``[B, H, W]``.
    """
    full = np.zeros(light.shape, bool)
    for band, level, marked in zip(light, levels, full, strict=True):
        for column in np.flatnonzero((band > level).any(0)):
            _bleed(band[:, column], marked[:, column], float(level))
    return full


def _bleed(column: np.ndarray, marked: np.ndarray, level: float) -> None:
    """Spread the excess of each run of full pixels over the pixels above and below."""
    over = np.flatnonzero(column > level)
    for run in np.split(over, np.flatnonzero(np.diff(over) > 1) + 1):
        excess = float(np.sum(column[run] - level, dtype=float))
        column[run], marked[run] = level, True
        below, above = int(run[0]) - 1, int(run[-1]) + 1
        while excess > 0 and (below >= 0 or above < len(column)):
            for at in (below, above):
                if 0 <= at < len(column) and excess > 0:
                    taken = min(max(level - float(column[at]), 0.0), excess)
                    column[at] += taken
                    excess -= taken
                    marked[at] = True
            below, above = below - 1, above + 1


def gaps(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels without data ``[H, W]``: a slanted edge, a corner and holes."""
    height, width = shape
    row, column = np.ogrid[:height, :width]
    edge = (0.02 + 0.04 * rng.uniform()) * width
    missing = column < edge * (1 + row / height)
    missing |= (height - 1 - row) + (width - 1 - column) < 0.15 * min(shape)
    for _ in range(max(1, round(_HOLES * height * width / 1e6))):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(*_RADII)
        missing |= (row - y) ** 2 + (column - x) ** 2 < radius**2
    return missing


def near_full(full: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return whether a pixel at or beside each of some places is full in a band, ``[K]``."""
    any_band = binary_dilation(full.any(0), np.ones((3, 3), bool))
    row, column = np.round(np.reshape(places, (-1, 2))).astype(int).T
    return any_band[row, column]


def add_sky(rng: np.random.Generator, images: np.ndarray, amplitude: float, camera: Camera) -> None:
    """Add what is left of the sky, a smooth image of mean zero in each band, in place.

    Parameters
    ----------
    rng
        Random number generator.
    images
        Pixels ``[B, H, W]``.
    amplitude
        Difference of its brightest and darkest pixel, in standard deviations of the sky's noise.
    camera
        Camera with the variance of the sky.
    """
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in images.shape[1:])
    y = y[:, None]
    for band, variance in zip(images, camera.sky_variance, strict=True):
        a, b, c, d, e = rng.standard_normal(5, np.float32)
        sky = a * x + b * y + 0.5 * (c * x**2 + d * y**2 + e * x * y)
        sky -= sky.mean()
        band += sky * np.float32(amplitude * np.sqrt(variance) / np.ptp(sky))


def add_noise(
    rng: np.random.Generator,
    light: np.ndarray,
    camera: Camera,
    correlation: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Add the noise of sky and sources to the light, in place and row by row.

    Parameters
    ----------
    rng
        Random number generator.
    light
        Light of the sources ``[B, H, W]``, float32.
    camera
        Camera with gain and the variance of the sky.
    correlation
        Correlation ``[k, k]`` of the noise of neighboring pixels; independent ones if not given.

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        The image, which is `light`, and its variance.
    """
    gain = camera.gain.astype(np.float32)[:, None]
    sky = camera.sky_variance.astype(np.float32)[:, None]
    if correlation is not None:
        variance = sky[..., None] + gain[..., None] * np.maximum(light, 0)
        for band, own in zip(light, variance, strict=True):
            band += draw_correlated(rng, band.shape, correlation) * np.sqrt(own)
        return light, variance
    variance = np.empty_like(light)
    for row in range(light.shape[1]):
        variance[:, row] = sky + gain * np.maximum(light[:, row], 0)
        noise = rng.standard_normal(light[:, row].shape, np.float32)
        light[:, row] += noise * np.sqrt(variance[:, row])
    return light, variance
