"""Sersic profiles as mixtures of Gaussians, with PSF and pixel in closed form."""

import math
from functools import cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls
from scipy.special import gammainc, gammaincinv

from scorepriors._errors import InputError
from scorepriors._typing import Array

#: Smallest and largest Sersic index of the mixtures.
SMALLEST_INDEX, LARGEST_INDEX = 0.5, 6.0


#: Largest width of a component in pixels: wider ones are as flat, and as faint, on any image.
WIDEST = 1e6


@cache
def sersic_mixture(index: float, num_components: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Fit the Sersic profile of unit half-light radius by concentric Gaussians.

    Non-negative least squares on a fixed logarithmic ladder of widths, each radius
    weighted by the light in its ring, so that the fit is best at the brightest radii.

    Parameters
    ----------
    index
        Sersic index n, 0.5 to 6.
    num_components
        Size of the ladder; 0 for 6 to 11, depending on the index.  Steeper profiles need more.

    Returns
    -------
    weights, sigmas
        Fractions of the total flux, and widths in half-light radii.

    Raises
    ------
    InputError
        If the index is out of range.
    """
    if not SMALLEST_INDEX <= index <= LARGEST_INDEX:
        raise InputError(f"the Sersic index must lie in 0.5 to 6, got {index}.")
    size = num_components or int(np.clip(round(5 + index), 6, 11))
    # Ends of the ladder that minimize, for n = 0.7 to 4, the L2 error of images at 1 to 4 px
    # half-light radius (0.1 to 0.2 %).
    lowest, highest = min(0.849, 0.19 * index**-1.36), max(0.9, 1.75 * index**1.43)
    sigmas = np.geomspace(lowest, highest, size)
    # Weights between those of absolute and relative errors, so that faint wings count too.
    fit = _fit_rings(index, sigmas, -0.5 if index <= 2 else -0.7)
    keep = fit > 1e-6
    return fit[keep] / fit[keep].sum(), sigmas[keep]


def _fit_rings(index: float, sigmas: np.ndarray, power: float) -> np.ndarray:
    """Fit weights of given widths, with rings of the profile weighted by a power of their light."""
    scale = float(gammaincinv(2 * index, 0.5))
    # Light fractions of rings, from the cumulative profile, which is exact at the cusp.
    edges = np.geomspace(1e-4, 100.0, 800)
    rings = np.diff(gammainc(2 * index, scale * edges ** (1 / index)))
    gaussians = -np.diff(np.exp(-(edges[:, None] ** 2) / (2 * sigmas**2)), axis=0)
    weight = (rings + 1e-6) ** power
    fit, _ = nnls(gaussians * weight[:, None], rings * weight)
    return fit


def sersic_mixture_of(
    index: Float[Array, "..."] | float, xp=jnp
) -> tuple[Float[Array, "... J"], Float[Array, " J"]]:
    r"""Return the mixture of concentric Gaussians of a Sersic profile with a free index.

    The widths are the same for all indices and the weights are polynomials of
    :math:`\log n`, positive because their coefficients in Bernstein's basis are: smooth
    for gradients and Hessians, and nothing is fitted while a model runs.  Images differ
    from those of the profile by at most 0.4 % (L2, half-light radii of 1 to 6 pixels, PSF
    of 0.7 pixels); by 0.2 % above n = 0.9.

    Parameters
    ----------
    index
        Sersic index n, 0.5 to 6, of any shape, traced or not.  Values outside are clipped.
    xp
        Array module, `jax.numpy` or `numpy`.

    Returns
    -------
    weights
        Fractions of the total flux, ``[..., J]``.
    sigmas
        Widths in half-light radii, ``[J]``.
    """
    coefficients, sigmas = _free_index_table()
    index = 1.0 * xp.asarray(index)
    x = _unit_interval(xp.clip(index, SMALLEST_INDEX, LARGEST_INDEX), xp)
    basis = _bernstein(x, len(coefficients) - 1, xp)
    weights = basis @ xp.asarray(coefficients, basis.dtype)
    return weights / weights.sum(-1, keepdims=True), xp.asarray(sigmas, basis.dtype)


def _unit_interval(index, xp):
    return xp.log(index / SMALLEST_INDEX) / math.log(LARGEST_INDEX / SMALLEST_INDEX)


def _bernstein(x, degree: int, xp):
    """Return Bernstein's polynomials at x, ``[..., degree + 1]``."""
    # Integer powers one by one: the power function has no derivative at x = 0.
    terms = [math.comb(degree, k) * x**k * (1 - x) ** (degree - k) for k in range(degree + 1)]
    return xp.stack(terms, -1)


#: Ends and size of the ladder, degree of the polynomials, and number of indices in the fit:
#: the smallest that keep the error below 0.4 % at every index and radius.
_LADDER, _DEGREE, _FITTED = (0.04, 12.0, 16), 10, 24


@cache
def _free_index_table() -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients ``[degree + 1, J]`` and widths ``[J]`` of `sersic_mixture_of`.

    One non-negative least squares problem (0.2 s) for all indices at once, of radial profiles
    convolved with the model PSF at three half-light radii.
    """
    lowest, highest, size = _LADDER
    # One width of the ladder is that of n = 0.5, which is a Gaussian.
    gaussian = 1 / np.sqrt(2 * np.log(2))
    below = round((size - 1) * np.log(gaussian / lowest) / np.log(highest / lowest))
    sigmas = gaussian * (gaussian / lowest) ** (np.arange(-below, size - below) / below)
    # Chebyshev's points, dense at the ends, where the error of a polynomial is largest.
    x = (1 - np.cos(np.pi * (np.arange(_FITTED) + 0.5) / _FITTED)) / 2
    radii = np.geomspace(0.02, 40, 40)[:, None]
    rows, values = [], []
    for basis, index in zip(
        _bernstein(x, _DEGREE, np),
        SMALLEST_INDEX * (LARGEST_INDEX / SMALLEST_INDEX) ** x,
        strict=True,
    ):
        # The exact profile, by many more Gaussians.
        ends = min(gaussian, 0.1 * index**-1.6), max(0.9, 2.5 * index**1.5)
        dense = np.append(np.geomspace(*ends, 40), gaussian)
        exact = _fit_rings(index, dense, -0.5)
        for radius in (1.5, 3.0, 6.0):
            blur = (0.7**2 + 1 / 12) / radius**2
            # Rings of equal steps of log r have areas proportional to r squared.
            truth = _blurred(radii, dense, blur) @ (exact / exact.sum())
            norm = np.linalg.norm(truth)
            seen = _blurred(radii, sigmas, blur) / norm
            rows.append((basis[:, None] * seen[:, None, :]).reshape(len(radii), -1))
            values.append(truth / norm)
        # The total flux has a third of the weight of an image.
        rows.append(0.3 * np.repeat(basis, size)[None])
        values.append(np.array([0.3]))
    # Without a QR decomposition first, whose BLAS threads would wait for each other for seconds
    # on a busy machine.
    fit, _ = nnls(np.concatenate(rows), np.concatenate(values))
    return fit.reshape(-1, size), sigmas


def _blurred(radii, sigmas, blur):
    """Return the brightness of Gaussians of unit flux under a PSF, times the radius."""
    variance = sigmas**2 + blur
    return radii * np.exp(-(radii**2) / (2 * variance)) / variance


def ellipse(ellipticity: Float[Array, "... 2"], xp=jnp):
    r"""Return second moments (yy, xy, xx) of a unit circle under an unbounded ellipticity.

    The reduced shear is :math:`g = \tanh|e| \; e/|e|`, so every real pair is an
    ellipse; axis ratio :math:`(1-|g|)/(1+|g|)`, determinant one.  Component 0 stretches
    along columns (x), component 1 along the diagonal x = y.

    Parameters
    ----------
    ellipticity
        Ellipticities ``[..., 2]``.
    xp
        Array module, `jax.numpy` or `numpy`.
    """
    size = xp.sqrt(xp.sum(ellipticity**2, -1) + 1e-12)
    # (1 + |g|^2) / (1 - |g|^2) and 2 g / (1 - |g|^2) are hyperbolic functions of 2|e|.
    round_ = xp.cosh(2 * size)
    along = xp.sinh(2 * size) / size
    e1, e2 = ellipticity[..., 0], ellipticity[..., 1]
    return round_ - along * e1, along * e2, round_ + along * e1


def gaussian_mixture_image(
    weights: Float[Array, "... J"],
    sigmas: Float[Array, "... J"],
    moments: tuple,
    center: Float[Array, "... 2"],
    *,
    box: int,
    psf_sigma: float | Float[Array, ""],
    pixels: Int[Array, "... P 2"] | None = None,
    xp=jnp,
) -> Float[Array, "... box box"] | Float[Array, "... P"]:
    """Return the image of a mixture of ellipses, convolved with the model PSF and pixel.

    Parameters
    ----------
    weights, sigmas
        Fluxes, and widths in pixels for a circle, as of `sersic_mixture`.
    moments
        Second moments (yy, xy, xx) of each ellipse in units of its width squared, of
        determinant one, each broadcastable to the components: see `ellipse`.
    center
        Center (row, column) in the box, pixel centers at integers.
    box
        Side of the box in pixels.
    psf_sigma
        Standard deviation of the model PSF; the pixel adds a variance of 1/12.
    pixels
        Pixels (row, column) where the image is wanted; None for all.
    xp
        Array module, `jax.numpy` or, for single images, `numpy`.

    Returns
    -------
    Array
        Images ``[..., box, box]``, total flux that of the weights (less the part outside); or their
        values ``[..., P]`` at the pixels.
    """
    # Powers of widths far beyond any image would overflow in float32.
    squared, noise = xp.minimum(sigmas, WIDEST) ** 2, psf_sigma**2 + 1 / 12
    yy, xy, xx = squared * moments[0] + noise, squared * moments[1], squared * moments[2] + noise
    # As a sum: for long ellipses the difference yy xx - xy^2 is rounding error in float32.
    determinant = squared**2 + noise * squared * (moments[0] + moments[2]) + noise**2
    if pixels is None:
        rows = columns = xp.arange(box, dtype=squared.dtype)
    else:
        rows, columns = pixels[..., 0], pixels[..., 1]
    row = (rows - center[..., :1])[..., None, :]
    column = (columns - center[..., 1:])[..., None, :]
    inner = (-0.5 * xx / determinant)[..., None] * row**2
    outer = (-0.5 * yy / determinant)[..., None] * column**2
    cross = (xy / determinant)[..., None] * row
    amplitude = weights / (2 * np.pi * xp.sqrt(determinant))
    if pixels is not None:
        return (amplitude[..., None] * xp.exp(inner + outer + cross * column)).sum(-2)
    if xp is np:
        return _summed_on_host(amplitude, inner, outer, cross, column)
    exponent = inner[..., :, None] + outer[..., None, :] + cross[..., None] * column[..., None, :]
    return (amplitude[..., None, None] * xp.exp(exponent)).sum(-3)


def _summed_on_host(amplitude, inner, outer, cross, column) -> np.ndarray:
    """Return the sum of Gaussians, image by image: their components fit into the caches then."""
    each = (amplitude, inner, outer, cross, column)
    # Of JAX's arrays NumPy makes its own only when it must.
    amplitude, inner, outer, cross, column = (np.asarray(a) for a in each)
    kind = np.result_type(amplitude, inner, outer, cross, column)
    count, box = inner.shape[-2:]
    leading = np.broadcast_shapes(*(a.shape[:-2] for a in (inner, outer, cross, column)))
    amplitude = np.broadcast_to(amplitude, (*leading, count)).reshape(-1, count).astype(kind)
    inner, outer, cross, column = (
        np.broadcast_to(a, (*leading, *a.shape[-2:])).reshape(-1, *a.shape[-2:])
        for a in (inner, outer, cross, column)
    )
    out = np.empty((len(amplitude), box * box), kind)
    exponent = np.empty((count, box, box), kind)
    for k in range(len(out)):
        np.multiply(cross[k, :, :, None], column[k, :, None], out=exponent)
        exponent += inner[k, :, :, None]
        exponent += outer[k, :, None]
        np.exp(exponent, out=exponent)
        np.dot(amplitude[k], exponent.reshape(count, -1), out=out[k])
    return out.reshape(*leading, box, box)
