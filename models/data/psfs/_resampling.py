"""Sampling of PSFs on pixels: sums over pixels, interpolation, and moves to the center."""

import numpy as np
from scipy.interpolate import make_interp_spline

#: Light fainter than this share of the peak does not count for the center of a PSF: noise and
#: far wings would move it.
_FAINT = 0.01

#: Offset that is left as it is, pixels.
CENTERED = 0.01


def center_of(image: np.ndarray) -> np.ndarray:
    """Return the centroid (row, column) of the light above `_FAINT` of the peak."""
    light = np.maximum(image - _FAINT * image.max(), 0)
    total = light.sum()
    rows, columns = (np.arange(length) for length in image.shape)
    return np.array([light.sum(1) @ rows, light.sum(0) @ columns]) / total


def on_pixels(image: np.ndarray, step: float, effective: bool, fine: int = 1) -> np.ndarray:
    """Sample a PSF on the pixels of an image, centered on one of them.

    Parameters
    ----------
    image
        Samples ``[H, W]``.
    step
        Distance of the samples, in pixels of the image.
    effective
        Whether samples are values of the effective PSF, which are interpolated; else each is the
        light on a square of the side `step`, and these are summed over pixels.
    fine
        Number of places per pixel, along one axis, at which the light in a whole pixel is returned.

    Returns
    -------
    numpy.ndarray
        PSF ``[P, P]``, P odd; its sum is that of the samples (times `fine` squared), unless
        `effective`.
    """
    middle = (np.array(image.shape) - 1) / 2
    center = center_of(image)
    if np.abs(center - middle).max() * step < CENTERED:
        center = middle  # so that whole samples are summed where they fit
    half = int(np.ceil(max(image.shape) * step / 2 - 0.5))
    out = image
    for axis in (0, 1):
        if effective:
            out = _interpolated(out, axis, center[axis], step, half, fine)
        else:
            out = _summed(out, axis, center[axis], step, half, fine)
    return out


def _summed(
    image: np.ndarray, axis: int, center: float, step: float, half: int, fine: int = 1
) -> np.ndarray:
    """Sum samples over pixels: differences of a spline through their cumulative sum.

    At edges of samples that sum is exact, so no light is lost between pixels.
    """
    pads = [(3, 3) if axis == i else (0, 0) for i in (0, 1)]
    padded = np.pad(image, pads)
    shape = [1 if axis == i else n for i, n in enumerate(padded.shape)]
    sums = np.concatenate([np.zeros(shape), np.cumsum(padded, axis)], axis)
    knots = np.arange(sums.shape[axis]) - 3.5
    places = np.arange(2 * fine * half + 1) / fine - half
    spline = make_interp_spline(knots, sums, k=3, axis=axis)
    low, high = (
        spline(np.clip(center + (places + side) / step, knots[0], knots[-1]))
        for side in (-0.5, 0.5)
    )
    return high - low


def _interpolated(
    image: np.ndarray, axis: int, center: float, step: float, half: int, fine: int = 1
) -> np.ndarray:
    """Interpolate samples by the sinc function, exact for what they resolve."""
    where = center + (np.arange(2 * fine * half + 1) / fine - half) / step
    count = image.shape[axis]
    weights = np.sinc(where[:, None] - np.arange(count))
    weights[(where < -0.5) | (where > count - 0.5)] = 0
    return weights @ image if axis == 0 else image @ weights.T


def centered(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move a PSF so that its centroid is the middle of a pixel, and that pixel the central one.

    Whole pixels are moved as they are, the rest of the way by a phase in Fourier space.

    Parameters
    ----------
    image
        PSF ``[P, P]`` on pixels of the image.

    Returns
    -------
    image
        PSF ``[Q, Q]``, Q = P if that is odd, else P + 1.
    offset
        Where the centroid was, (row, column), from the pixel ``P // 2``.  For an even P that is
        cut around a pixel it is measured from that pixel.
    """
    size = len(image)
    center = center_of(image)
    # Between two pixels rounding must not decide by the last digit.
    nearest = np.floor(center + 0.5 + 1e-6).astype(int)
    # Even images have two pixels beside their middle, either of which may be the central one.
    around = nearest if size % 2 == 0 and _beside_middle(nearest, size) else size // 2
    half = size // 2
    padded = np.zeros((3 * size + 2,) * 2)
    start = size + half - nearest
    padded[start[0] : start[0] + size, start[1] : start[1] + size] = image
    rest = center - nearest
    moved = padded
    if np.abs(rest).max() > CENTERED:
        total = np.zeros(2)
        for _ in range(20):
            # The threshold of the centroid moves with the image, hence a few rounds.
            total = total + rest
            moved = _shifted(padded, -total)
            rest = center_of(_middle(moved, size, half)) - half
            if np.abs(rest).max() < CENTERED / 10:
                break
    offset = center - around
    return _middle(moved, size, half), offset


def _beside_middle(pixel: np.ndarray, size: int) -> bool:
    return bool(np.isin(pixel, (size // 2 - 1, size // 2)).all())


def _middle(padded: np.ndarray, size: int, half: int) -> np.ndarray:
    return padded[size : size + 2 * half + 1, size : size + 2 * half + 1]


def _shifted(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Move an image by a fraction of a pixel, with a phase in Fourier space."""
    rows, columns = (
        np.exp(-2j * np.pi * np.fft.fftfreq(length) * by)
        for length, by in zip(image.shape, shift, strict=True)
    )
    return np.fft.ifft2(np.fft.fft2(image) * rows[:, None] * columns).real
