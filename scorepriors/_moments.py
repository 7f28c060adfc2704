"""Shapes of galaxies and PSFs, measured on images."""

import numpy as np

from ._errors import InputError

#: Names of the statistics that `image_moments` returns, in its order.
MOMENTS = (
    "flux",
    "size",
    "ellipticity",
    "concentration",
    "centroid_offset",
    "peak_over_flux",
    "border_over_peak",
    "num_maxima",
)

#: Standard deviation in pixels of the window under which `shapes` measures.
SHAPE_WINDOW = 6.0

#: A local maximum below this share of the peak is not counted.
MAXIMUM_THRESHOLD = 0.1


def image_moments(images: np.ndarray) -> dict[str, np.ndarray]:
    r"""Measure flux, shape, profile and structure of every image.

    Parameters
    ----------
    images
        Images ``[N, n, n]``, one galaxy each, near the center; any unit of intensity.

    Returns
    -------
    dict
        Arrays ``[N]``, float64, under the names of `MOMENTS`:

        ``flux``
            Sum of the pixels.
        ``size``
            Root of half the trace of the second moments Q, in pixels: the standard
            deviation of a round Gaussian.
        ``ellipticity``
            :math:`|e| = |Q_{xx} - Q_{yy} + 2 i Q_{xy}| / (Q_{xx} + Q_{yy})`.
        ``concentration``
            Flux within n/16 of the center of the box over flux within n/4.
        ``centroid_offset``
            Distance of the centroid from the center of the box, in pixels.
        ``peak_over_flux``
            Brightest pixel over the flux.
        ``border_over_peak``
            Mean of the outermost ring of pixels over the brightest pixel.
        ``num_maxima``
            Local maxima, see `count_maxima`.

        A ratio whose denominator is not positive is zero.

    Raises
    ------
    InputError
        If `images` is not a stack of square images.

    Notes
    -----
    Plain second moments are dominated by the noise in the outskirts, whose weight grows
    as the radius squared.  Centroid and Q are therefore taken under a round Gaussian
    window of standard deviation n/6 about the centroid, found by iteration.  The window
    makes a round Gaussian of standard deviation s appear as
    :math:`s w / \sqrt{s^2 + w^2}` with w = n/6; nothing is corrected for that, since
    both sides of a comparison see the same window.

    Examples
    --------
    >>> y, x = np.mgrid[:32, :32] - 15.5
    >>> moments = image_moments(np.exp(-(x**2 + y**2) / 2 / 2.0**2)[None])
    >>> round(float(moments["flux"][0]) / (2 * np.pi * 2.0**2), 4)
    1.0
    """
    images = _stack(images)
    size = images.shape[-1]
    flux, peak = images.sum((1, 2)), images.max((1, 2))
    row, column, second = _windowed_moments(images)
    trace = second[0] + second[1]
    center = (size - 1) / 2
    ring = np.ones((size, size), bool)
    ring[1:-1, 1:-1] = False
    values = (
        flux,
        np.sqrt(np.maximum(trace, 0) / 2),
        _ratio(np.hypot(second[0] - second[1], 2 * second[2]), trace),
        _ratio(_aperture(images, size / 16), _aperture(images, size / 4)),
        np.hypot(row - center, column - center),
        _ratio(peak, flux),
        _ratio(images[:, ring].mean(1), peak),
        count_maxima(images).astype(float),
    )
    return dict(zip(MOMENTS, values, strict=True))


def centroids(images: np.ndarray) -> np.ndarray:
    """Return flux-weighted (row, column) ``[N, 2]`` of images ``[N, H, W]``, without window.

    Negative pixels count as none; an image without any light has a centroid of zero.
    """
    light = np.maximum(images, 0.0).astype(float)
    total = np.maximum(light.sum((1, 2)), 1e-30)
    height, width = light.shape[1:]
    row = (light.sum(2) * np.arange(height)).sum(1) / total
    column = (light.sum(1) * np.arange(width)).sum(1) / total
    return np.stack([row, column], axis=1)


def shapes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Return size and ellipticities of images, as in catalogs.

    Weighted by a Gaussian of 6 px about the centroid, so that noise far out does not
    dominate; negative pixels count as zero.

    Parameters
    ----------
    images
        Images ``[N, H, W]``.

    Returns
    -------
    size
        Second-moment radius :math:`\sqrt{Q_{xx} + Q_{yy}}` ``[N]``, pixels.
    e1, e2
        Ellipticities :math:`(Q_{xx} - Q_{yy}, 2 Q_{xy}) / (Q_{xx} + Q_{yy})` ``[N]``.

        All are NaN for an image without any light.
    """
    light = np.maximum(images, 0.0).astype(float)
    row, column = centroids(light).T
    total, _, (yy, xx, xy) = _under_window(light, row, column, SHAPE_WINDOW)
    with np.errstate(invalid="ignore", divide="ignore"):
        yy, xx, xy = (np.where(total > 0, q / total, np.nan) for q in (yy, xx, xy))
        return np.sqrt(xx + yy), (xx - yy) / (xx + yy), 2 * xy / (xx + yy)


def count_maxima(images: np.ndarray) -> np.ndarray:
    """Count the local maxima of every image, ``[N]`` integers.

    A maximum is a pixel above its eight neighbors and above a tenth of the brightest
    pixel (`MAXIMUM_THRESHOLD`), both after smoothing with the 3 x 3 binomial kernel
    (1, 2, 1)/4 along each axis.  Without smoothing the noise of sigma0 makes spurious maxima
    on the flat core of a large galaxy.  Equal neighbors count once.

    Parameters
    ----------
    images
        Images ``[N, n, n]``.
    """
    images = _stack(images)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    smooth = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    size = images.shape[-1]
    around = np.pad(smooth, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    is_maximum = smooth > MAXIMUM_THRESHOLD * smooth.max((1, 2), keepdims=True)
    for down in range(3):
        for right in range(3):
            neighbor = around[:, down : down + size, right : right + size]
            if (down, right) < (1, 1):
                is_maximum &= smooth > neighbor
            elif (down, right) > (1, 1):
                # Of equal pixels the first counts, so a plateau counts once.
                is_maximum &= smooth >= neighbor
    return is_maximum.sum((1, 2))


def _windowed_moments(images: np.ndarray, num_iterations: int = 5):
    """Return centroid row and column ``[N]`` and (Qyy, Qxx, Qxy) under the Gaussian window."""
    size = images.shape[-1]
    start = np.full(len(images), (size - 1) / 2)
    row, column = start, start
    for _ in range(num_iterations):
        total, first, _ = _under_window(images, row, column, size / 6)
        inside = total > 0
        new_row, new_column = (_ratio(moment, total) for moment in first)
        # An image without flux keeps the center; noise must not move the window outside.
        row = np.where(inside, np.clip(new_row, 0, size - 1), start)
        column = np.where(inside, np.clip(new_column, 0, size - 1), start)
    total, _, second = _under_window(images, row, column, size / 6)
    return row, column, tuple(_ratio(q, total) for q in second)


def _under_window(images: np.ndarray, row: np.ndarray, column: np.ndarray, width: float):
    """Return sums under a round Gaussian window about ``row``, ``column [N]``.

    Returns
    -------
    total
        Sums of the light, ``[N]``.
    first
        Sums of light times row and times column.
    second
        Sums of light times the squares and the product of distances from the middle of the
        window, in the order yy, xx, xy.
    """
    height, length = images.shape[1:]
    y, x = np.arange(height, dtype=float), np.arange(length, dtype=float)
    d_y, d_x = y - row[:, None], x - column[:, None]
    w_y, w_x = np.exp(-0.5 * (d_y / width) ** 2), np.exp(-0.5 * (d_x / width) ** 2)

    def contract(weight_y, weight_x):
        # Windows and monomials factorize, so each moment is two thin contractions.
        return np.einsum("iy,iyx,ix->i", weight_y, images, weight_x, optimize=True)

    first = contract(w_y * y, w_x), contract(w_y, w_x * x)
    second = (
        contract(w_y * d_y**2, w_x),
        contract(w_y, w_x * d_x**2),
        contract(w_y * d_y, w_x * d_x),
    )
    return contract(w_y, w_x), first, second


def _aperture(images: np.ndarray, radius: float) -> np.ndarray:
    y, x = np.mgrid[: images.shape[-1], : images.shape[-1]] - (images.shape[-1] - 1) / 2
    return images[:, np.hypot(y, x) <= radius].sum(1)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _stack(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, np.float64)
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise InputError(f"expected a stack of square images [N, n, n], got {images.shape}.")
    return images
