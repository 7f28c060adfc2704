r"""Correlations of resampled pixels: closed forms, checks, draws, and what they do to errors.

A correlation is a small image ``[k, k]``, k odd: entry (i, j) is the correlation of pixels that are
(i, j) minus the center apart.  The noise of an aperture much larger than it is

.. math:: R = \Bigl(\sum_{ij} \rho_{ij}\Bigr)^{1/2}

times that of independent pixels.
"""

import numpy as np
from jaxtyping import Float
from scipy.fft import irfft2, next_fast_len, rfft2

from scorepriors._errors import InputError

#: Largest side of a correlation, pixels.
LARGEST = 25

#: Smallest power at any frequency, in units of white noise: less is no noise that was ever seen, and
#: single precision would not stand it.
LEAST_POWER = 2e-3

#: Share of the largest correlation that is not worth its pixels.
NEGLIGIBLE = 1e-3

#: Samples per pixel in the integral over Lanczos kernels: exact to five digits.
_SAMPLES = 200


def drizzle_correlation(pixfrac: float, scale: float = 1.0) -> Float[np.ndarray, "k k"]:
    r"""Return the correlation of the pixels of a drizzled image of many dithers.

    An input pixel shrunk by `pixfrac` falls on output pixels by their overlap, along each axis the
    convolution of two boxes; averaged over where it falls, correlations are the convolution of that
    with itself, a cubic spline, at whole pixels.  The noise of a large area is then
    :math:`R = r / (1 - 1/(3 r))` times that of independent pixels, with the ratio
    :math:`r \ge 1` of both sides, and :math:`1 / (1 - r / 3)` below one [1]_ [2]_.

    Parameters
    ----------
    pixfrac
        Side of the shrunk input pixels in units of input pixels (``final_pixfrac``).
    scale
        Side of the output pixels in the same units; with the default, `pixfrac` is the ratio of both.

    Returns
    -------
    numpy.ndarray
        Correlation ``[k, k]``, one in the center.

    Raises
    ------
    InputError
        Unless 0 < pixfrac / scale <= 3.

    References
    ----------
    .. [1] Fruchter & Hook (2002), PASP 114, 144.
    .. [2] Casertano et al. (2000), AJ 120, 2747.

    Examples
    --------
    >>> drizzle_correlation(1.0).round(4).tolist()
    [[0.0625, 0.25, 0.0625], [0.25, 1.0, 0.25], [0.0625, 0.25, 0.0625]]
    """
    ratio = float(pixfrac) / float(scale) if scale else np.nan
    if not 0 < ratio <= 3:
        raise InputError(
            f"a drizzle with pixfrac {pixfrac:g} and scale {scale:g} has a ratio of {ratio:.3g}; it must be "
            "above 0 and at most 3."
        )
    half = int(np.ceil(1 + ratio)) - 1
    lags = np.arange(-half, half + 1.0)

    def bend(values, step):
        return lambda x: values(x - step) - 2 * values(x) + values(x + step)

    # Four boxes, two of either side, are the second differences of |x|^3 / 12 by both.
    along = bend(bend(lambda x: np.abs(x) ** 3, 1.0), ratio)(lags)
    along /= along[half]
    return np.outer(along, along)


def lanczos_correlation(order: int = 3) -> Float[np.ndarray, "k k"]:
    r"""Return the correlation of the pixels of a coadd of images resampled by Lanczos kernels.

    That is :math:`\int L(x) L(x + d) \, dx` along each axis, the average over many images with
    other shifts by fractions of a pixel.

    Parameters
    ----------
    order
        Half-width of the kernel in pixels: 3 for Rubin, HSC and Legacy coadds.

    Returns
    -------
    numpy.ndarray
        Correlation ``[k, k]``, one in the center.

    Raises
    ------
    InputError
        Unless `order` is from 1 to 6.
    """
    if not (order == int(order) and 1 <= order <= 6):
        raise InputError(f"Lanczos kernels have orders from 1 to 6, got {order}.")
    order = int(order)
    x = np.arange(-order * _SAMPLES, order * _SAMPLES) / _SAMPLES
    kernel = np.sinc(x) * np.sinc(x / order)
    half = 2 * order - 1
    whole = np.correlate(kernel, kernel, "full")[len(x) - 1 :: _SAMPLES][: half + 1]
    along = np.concatenate([whole[:0:-1], whole]) / whole[0]
    return np.outer(along, along)


def spectrum_correlation(
    power_spectrum: Float[np.ndarray, "*B n m"], *, reach: int | None = None
) -> Float[np.ndarray, "*B k k"]:
    """Return the correlation of noise of a given power spectrum.

    Parameters
    ----------
    power_spectrum
        Power ``[n, m]`` of an image of noise on a periodic grid, `|numpy.fft.fft2(noise)|^2` or its
        average, the mean in the first pixel (or ``[B, n, m]`` for bands); of any scale.
    reach
        Largest distance of pixels along an axis; by default that beyond which no correlation is
        above a thousandth of the largest between neighbors, at most 12.

    Returns
    -------
    numpy.ndarray
        Correlation ``[k, k]`` with k = 2 `reach` + 1, one in the center: the Fourier transform of the
        power (Wiener and Khinchin), for `with_correlation` and `Correlated`.

    Raises
    ------
    InputError
        If the power is not that of any noise: negative, not finite, zero everywhere, or different at
        opposite frequencies, as the half spectrum of `rfft2` is; or if `reach` is too large.

    Examples
    --------
    >>> spectrum_correlation(np.ones((8, 8)), reach=1).tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    found = np.asarray(power_spectrum)
    if found.dtype.kind not in "fiu" or found.ndim not in (2, 3) or min(found.shape[-2:]) < 3:
        raise InputError(
            f"a power spectrum is an array [n, m], or [bands, n, m], of real numbers; got {found.dtype} "
            f"with the shape {found.shape}."
        )
    found = found.astype(float)
    if not np.isfinite(found).all() or (found < 0).any() or not found.any((-2, -1)).all():
        raise InputError("a power spectrum must be finite, not negative, and not zero everywhere.")
    opposite = np.roll(found[..., ::-1, ::-1], (1, 1), (-2, -1))
    if not np.allclose(found, opposite, rtol=1e-3, atol=1e-6 * found.max()):
        raise InputError(
            "a power spectrum must be the same at opposite frequencies, in the order of numpy.fft.fft2; "
            "undo an fftshift, and give the whole of it, not the half of rfft2."
        )
    whole = np.fft.ifft2(found).real
    whole /= whole[..., :1, :1]
    most = min((min(found.shape[-2:]) - 1) // 2, LARGEST // 2)
    if reach is None:
        near = np.fft.fftshift(whole, (-2, -1))
        rows, columns = (np.abs(np.arange(n) - n // 2) for n in found.shape[-2:])
        distance = np.maximum(rows[:, None], columns)
        size = np.abs(near).max(0) if near.ndim == 3 else np.abs(near)
        large = size > NEGLIGIBLE * size[distance > 0].max()
        reach = int(np.clip(distance[large & (distance <= most)].max(), 1, most))
        # Of white noise all that is beside the center is rounding.
        reach = reach if size[distance > 0].max() > NEGLIGIBLE else 1
    if not 1 <= reach <= most:
        raise InputError(f"`reach` must be from 1 to {most} pixels for this spectrum, got {reach}.")
    lags = np.arange(-reach, reach + 1)
    return whole[..., lags[:, None], lags]


def error_factor(correlation: Float[np.ndarray, "*B k k"]) -> Float[np.ndarray, "*B"]:
    """Return the noise of a large area in units of that of independent pixels, R."""
    return np.asarray(np.sqrt(np.maximum(np.sum(correlation, (-2, -1)), 0.0)))


def by_band(correlation: np.ndarray, bands: int) -> Float[np.ndarray, "B k k"]:
    """Return a correlation for every band, checked.

    Raises
    ------
    InputError
        If it has another shape, is not that of any noise, or contains no numbers.
    """
    found = np.asarray(correlation)
    if found.dtype.kind not in "fiu" or found.ndim not in (2, 3):
        raise InputError(
            f"a correlation is an array [k, k], or [bands, k, k], of numbers; got {found.dtype} with "
            f"the shape {found.shape}."
        )
    found = found.astype(float) if found.dtype.kind != "f" else found
    found = np.broadcast_to(found, (bands, *found.shape)) if found.ndim == 2 else found
    side = found.shape[-1]
    if found.shape != (bands, side, side) or side % 2 == 0 or side > LARGEST:
        raise InputError(
            f"the correlation has the shape {np.shape(correlation)}; give [k, k] or [{bands}, k, k] with "
            f"k odd and at most {LARGEST}."
        )
    middle = found[:, side // 2, side // 2]
    if not (np.isfinite(found).all() and np.allclose(middle, 1, atol=1e-5)):
        raise InputError("the correlation of a pixel with itself, in its center, must be one.")
    if not np.allclose(found, found[:, ::-1, ::-1], atol=1e-5):
        raise InputError("a correlation must be the same in opposite directions, and this is not.")
    least = power(found).min()
    if least < LEAST_POWER / 2:
        raise InputError(
            f"the correlation is not that of any noise: its power spectrum falls to {least:.2g}; make it "
            "positive, for example with a little more white noise in it."
        )
    return found


def power(correlation: Float[np.ndarray, "*B k k"], size: int = 64) -> np.ndarray:
    """Return the power spectrum on a grid, one for white noise."""
    return rfft2(_rolled(correlation, (size, size))).real


def regularized(
    correlation: Float[np.ndarray, "*B k k"], least: float = 0.02
) -> Float[np.ndarray, "*B k k"]:
    """Return a correlation with as much white noise added as a positive spectrum needs.

    Parameters
    ----------
    correlation
        Correlation, perhaps with errors of a measurement.
    least
        Smallest power.
    """
    lowest = power(correlation).min((-2, -1))
    # Of (1 - share) rho + share delta the power is (1 - share) P + share.
    share = np.clip((least - lowest) / np.maximum(1 - lowest, 1e-12), 0.0, 1.0)[..., None, None]
    half = correlation.shape[-1] // 2
    out = (1 - share) * correlation
    out[..., half, half] = 1.0
    return out


def draw_correlated(
    rng: np.random.Generator, shape: tuple[int, ...], correlation: Float[np.ndarray, "k k"]
) -> Float[np.ndarray, "*N H W"]:
    """Draw stationary noise with variance one.

    Parameters
    ----------
    rng
        Random number generator.
    shape
        Shape ``(..., H, W)``; images are independent of each other.
    correlation
        Correlation of all of them.

    Notes
    -----
    Exact: on a periodic grid larger by the correlation, of which a part is kept.
    """
    side = correlation.shape[-1]
    grid = tuple(next_fast_len(n + side, real=True) for n in shape[-2:])
    root = np.sqrt(np.maximum(rfft2(_rolled(correlation, grid)).real, 0.0)).astype(np.float32)
    out = np.empty(shape, np.float32)
    for index in np.ndindex(*shape[:-2]):
        white = rfft2(rng.standard_normal(grid, np.float32))
        out[index] = irfft2(white * root, grid)[: shape[-2], : shape[-1]]
    return out


def of_filtered(kernel: np.ndarray, correlation: np.ndarray | None) -> np.ndarray:
    r"""Return the kernel by which variances are convolved for that of filtered noise.

    It is the squared kernel for independent pixels, and :math:`k \, (\rho * k)` for correlated ones,
    whose variances vary slowly.
    """
    if correlation is None:
        return kernel**2
    half = correlation.shape[-1] // 2
    wide = np.pad(kernel, half)
    total = np.zeros(kernel.shape)
    for down, right in np.ndindex(correlation.shape):
        window = wide[down : down + kernel.shape[0], right : right + kernel.shape[1]]
        total += correlation[down, right] * window
    return kernel * total


def _rolled(correlation, grid: tuple[int, int]) -> np.ndarray:
    """Place a correlation on a periodic grid with its center at the first pixel."""
    half = correlation.shape[-1] // 2
    out = np.zeros((*correlation.shape[:-2], *grid))
    for down, right in np.ndindex(correlation.shape[-2:]):
        at = (down - half) % grid[0], (right - half) % grid[1]
        out[..., *at] += correlation[..., down, right]
    return out
