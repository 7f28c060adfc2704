r"""Rendering on other pixels than the model's: other observations of the same sky.

Such a band has its own pixel side and first pixel, in pixels of the model; where it is turned or
distorted as well, `scorepriors.models.rendering._turned` takes over.  An image on the model's grid is band-limited, so between its pixels it is its own Fourier
series, and the series is evaluated where the band's pixels are:

.. math:: y_{ij} = \frac{1}{N^2} \sum_{uv} e^{2 \pi i\, u p_i / N}\, \hat m_{uv}\,
          e^{2 \pi i\, v q_j / N},

two matrix products for rows and columns.  First pixels of source boxes enter only the places p
and q, which are arrays: another blend runs the same program.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Int

from scorepriors._typing import Array

from ._turned import Turned, evaluate_turned, spread_turned


def regrid(transforms, grid, first, support: int, shape: Sequence[int], xp=jnp) -> Any:
    """Evaluate images, given as Fourier transforms, at the pixels of another grid.

    Parameters
    ----------
    transforms
        Real transforms ``[B, K, N, N // 2 + 1]`` of images on N x N pixels of the model.
    grid
        Row and column of the first pixel, and the side of pixels, ``[3]``, in pixels of the
        model; or a map of turned pixels.
    first
        First pixel (row, column) of each image on the model's grid, ``[K, 2]``.
    support
        Side of the images without their padding, beyond which they are zero.
    shape
        Shape (H, W) of the result.
    xp
        Array module, `jax.numpy` or `numpy`.

    Returns
    -------
    Array
        Images ``[B, K, H, W]`` on the other grid.
    """
    if isinstance(grid, Turned):
        return evaluate_turned(transforms, grid, first, support, shape, xp)
    size = transforms.shape[-2]
    rows, columns = _places(grid, first, shape, xp)
    left = _waves(rows, size, support, _all_frequencies(size), size / 2, xp)
    half = np.arange(size // 2 + 1)
    right = _waves(columns, size, support, half, size / 2, xp) * _doubled(size)
    part = xp.einsum("khu,bkuv->bkhv", left, transforms)
    return xp.einsum("bkhv,kwv->bkhw", part, right).real / size**2


def gather_regridded(
    images: Float[Array, "K B H W"],
    kernels: Complex[Array, "B N M"],
    grid: Float[Array, " 3"] | Turned,
    first: Int[Array, "K 2"],
    support: int,
    box: int,
) -> Float[Array, "K B n n"]:
    """Apply the transpose of convolving boxes of n pixels and of `regrid`, band by band.

    Parameters
    ----------
    images
        One cube per box.
    kernels
        Transforms of the kernels.
    grid, first, support
        Arguments of `regrid`.
    box
        Side n.
    """
    size, shape = kernels.shape[-2], images.shape[-2:]

    def seen(boxes):
        transforms = jnp.fft.rfft2(boxes, (size, size)) * kernels[:, None]
        return regrid(transforms, grid, first, support, shape)

    zeros = jax.ShapeDtypeStruct((len(kernels), len(first), box, box), images.dtype)
    (out,) = jax.linear_transpose(seen, zeros)(jnp.swapaxes(images, 0, 1))
    return jnp.swapaxes(out, 0, 1)


def squared_regridded(
    weights, kernels, grid, first, support: int, box: int, xp=jnp, apart=None
) -> Any:
    """Sum over pixels of weights times the squared response to each pixel of the boxes.

    A squared kernel has frequencies up to twice those of the kernel: it is computed on half
    pixels, so that the result is exact.

    Parameters
    ----------
    weights
        Inverse variances ``[B, H, W]``.
    kernels
        Kernels ``[B, N, N]``, padded, with their first pixel first.
    grid, first, support, box, xp
        Arguments of `regrid` and `gather_regridded`.
    apart
        Distance (down, right) of two pixels whose responses are multiplied instead; None for the
        square.

    Returns
    -------
    Array
        Sums ``[K, B, n, n]``.
    """
    size, shape = kernels.shape[-1], weights.shape[1:]
    # Interpolation to half pixels: the spectrum is the middle of one twice as wide.
    half = size // 2
    wide = xp.fft.fftshift(xp.fft.fft2(kernels), axes=(-2, -1))
    wide = xp.pad(wide, ((0, 0), (size - half, half), (size - half, half)))
    wide = xp.fft.ifftshift(wide, axes=(-2, -1))
    frequencies = _all_frequencies(2 * size)
    fine = other = 4 * xp.fft.ifft2(wide).real
    turned = isinstance(grid, Turned)
    if apart is not None:
        step = grid.coefficients[:, 1:3] / grid.frame[2] if turned else grid[2] * xp.eye(2)
        phase = 2j * np.pi / size * frequencies.astype(np.float32)
        down, right = (xp.exp(phase * one) for one in step @ xp.asarray(apart))
        other = 4 * xp.fft.ifft2(wide * down[:, None] * right).real
    squared = xp.fft.fft2(fine * other)
    if turned:
        seen = spread_turned(weights, grid, first, support, 2 * size, 2, shape, xp)
    else:
        rows, columns = _places(grid, first, shape, xp)
        left = _waves(rows, size, support, frequencies, size, xp)
        right = _waves(columns, size, support, frequencies, size, xp)
        seen = xp.einsum("khu,bhw,kwv->bkuv", left, weights.astype(left.dtype), right)
    # At whole pixels, frequencies that differ by N are equal.
    folded = (squared[:, None] * seen).reshape(*seen.shape[:2], 2, size, 2, size).sum((2, 4))
    out = xp.fft.fft2(folded).real[..., :box, :box] / (2 * size) ** 2
    return xp.swapaxes(out, 0, 1)


def _places(grid, first, shape, xp):
    """Return rows ``[K, H]`` and columns ``[K, W]`` of pixels in the frames of the images."""
    return (
        grid[axis] + grid[2] * xp.arange(number) - first[:, axis, None]
        for axis, number in enumerate(shape)
    )


def _all_frequencies(size: int) -> np.ndarray:
    return np.fft.fftfreq(size, 1 / size)


def _doubled(size: int) -> np.ndarray:
    """Return the multiplicity of each column of a real transform: a frequency and its mirror."""
    twice = np.full(size // 2 + 1, 2.0, np.float32)
    twice[0] = 1.0
    if size % 2 == 0:
        twice[-1] = 1.0
    return twice


def _waves(places, size: int, support: int, frequencies, top: int | float, xp):
    """Return waves ``[..., places, frequencies]`` of the period `size`, zero beyond `support`.

    The highest frequency, `top` if the grid is even, is its own mirror, and so a cosine.
    """
    inside = (places > -0.5) & (places < support - 0.5)
    phase = (2 * np.pi / size) * places[..., None] * frequencies.astype(np.float32)
    waves = xp.cos(phase) + 1j * xp.where(abs(frequencies) == top, 0.0, xp.sin(phase))
    return xp.where(inside[..., None], waves, 0.0)
