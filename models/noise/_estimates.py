"""Correlations of noise from its pixels: products of pixels, and what of them is no accident."""

import numpy as np
from jaxtyping import Float

from ._correlation import regularized


def realization_correlation(
    realizations: Float[np.ndarray, "N H W"], weights: Float[np.ndarray, "*N H W"], reach: int = 4
) -> Float[np.ndarray, "k k"]:
    """Return the correlation of the pixels of noise realizations, images without any source.

    Parameters
    ----------
    realizations
        Noise ``[N, H, W]`` with the variance of the image.
    weights
        Inverse variances ``[H, W]``, or those of each ``[N, H, W]``; zero means masked.
    reach
        Largest distance of pixels along an axis.
    """
    values = np.asarray(realizations, float)
    good = np.isfinite(values) & (np.asarray(weights) > 0)
    values = np.where(good, values, 0.0) * np.sqrt(np.asarray(weights, float))
    values = np.where(good, values - values.sum() / max(good.sum(), 1), 0.0)
    products, pairs = of_images(values, good, reach)
    return estimate(products[None], pairs[None])[0]


def of_images(
    images: Float[np.ndarray, "N H W"], good: np.ndarray, half: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean products of pixels by their distance, over all images, and numbers of pairs.

    Parameters
    ----------
    images
        Noise of mean zero and variance one.
    good
        Mask ``[N, H, W]`` of pixels that count.
    half
        Largest distance along an axis.

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        Products and numbers ``[2 half + 1, 2 half + 1]``; the former in units of the mean square.
    """
    side = 2 * half + 1
    products, pairs = np.zeros((2, side, side))
    values = np.where(good, images, 0.0)
    height, width = values.shape[-2:]
    for down in range(half + 1):
        for right in range(-half, half + 1):
            if (down, right) < (0, 0) or down >= height or abs(right) >= width:
                continue
            first = slice(down, None), slice(max(right, 0), width + min(right, 0))
            second = slice(None, height - down), slice(max(-right, 0), width + min(-right, 0))
            number = float((good[:, *first] & good[:, *second]).sum())
            total = float((values[:, *first] * values[:, *second]).sum(dtype=float))
            for sign in (1, -1):
                at = half + sign * down, half + sign * right
                pairs[at], products[at] = number, total / max(number, 1.0)
    return products / max(products[half, half], 1e-30), pairs


def estimate(products: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return correlations from mean products: shrunk, and positive definite.

    What is no more than an accident goes to zero along the axes, to the product of those beside them,
    as resampling along both makes it, and from each band to the mean of all.

    Parameters
    ----------
    products, pairs
        Mean products of pixels by their distance, one for that of zero, and numbers of pairs,
        ``[B, k, k]``.
    """
    side = products.shape[-1]
    half = side // 2
    variance = (products**2).sum((1, 2))[:, None, None] / np.maximum(pairs, 1.0)
    share = pairs / np.maximum(pairs.sum(0), 1.0)
    pooled, error = (share * products).sum(0), (share**2 * variance).sum(0)
    rows, columns = np.abs(np.indices((side, side)) - half)
    ring = np.maximum(rows, columns) * side + np.minimum(rows, columns)
    on_axis, away = np.minimum(rows, columns) == 0, ring > 0
    found = _by_ring(pooled, error, ring, on_axis & away)
    found[half, half] = 1.0
    beside = np.outer(found[:, half], found[half])
    off = away & ~on_axis
    found = np.where(off, beside + _by_ring(pooled - beside, error, ring, off), found)
    counted = pairs[:, half, half] > 0
    own = (products - pooled)[counted]
    kept = 0.0
    if counted.sum() > 1:
        number = counted.sum() * away.sum() / 2
        kept = _kept(own[:, away], variance[counted][:, away], number)
    out = np.repeat(found[None], len(products), axis=0)
    out[counted] += kept * own * away
    return regularized(out)


def _by_ring(values: np.ndarray, variance: np.ndarray, ring: np.ndarray, which: np.ndarray):
    """Return values shrunk together where their distance is the same; zero elsewhere."""
    out = np.zeros(values.shape)
    for number in np.unique(ring[which]):
        here = which & (ring == number)
        # Opposite places are the same measurement.
        out[here] = values[here] * _kept(values[here], variance[here], here.sum() / 2)
    return out


def _kept(values: np.ndarray, variance: np.ndarray, number: float) -> float:
    """Return the share of measurements that stays, of a mean zero (James & Stein)."""
    expected = float(variance.mean()) * (1 + np.sqrt(2 / number))
    return max(1 - expected / max(float((values**2).mean()), 1e-30), 0.0)
