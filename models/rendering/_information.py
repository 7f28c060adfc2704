r"""Information of the data about every pixel of a source, in closed form.

The pixels of a morphology enter a blend linearly, so with the spectra given minus the
second derivative of the log-likelihood is

.. math:: F_{ki,lj} = \sum_b A_{kb} A_{lb}\, (K_b^\top N_b^{-1} K_b)_{ij},

with the precision :math:`N_b^{-1}` of the pixels.  For white noise of weights W its diagonal is
:math:`\sum_b A_{kb}^2\, (K_b^2 \star W_b)_i`, the squared kernel correlated with the weights.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.fft import irfft2, rfft2

from scorepriors._typing import Array
from scorepriors.models.noise._abstract import AbstractNoise
from scorepriors.models.noise._correlated import Correlated
from scorepriors.models.noise._correlation import of_filtered
from scorepriors.models.noise._diagonal import Diagonal
from scorepriors.models.noise._sky import Sky

from ._exposure import Exposure
from ._grids import gather_regridded, squared_regridded
from ._placing import overlap, place


def by_exposure(spectra, exposures: Sequence[Exposure]) -> list:
    """Split spectra ``[..., B]`` of all bands into one array ``[..., B]`` per exposure."""
    ends = np.cumsum([one.num_bands for one in exposures])
    return [spectra[..., e - one.num_bands : e] for e, one in zip(ends, exposures, strict=True)]


def gather(
    exposure: Exposure, images: Float[Array, "K B H W"], corner: Int[Array, "K 2"], box: int
) -> Float[Array, "K B n n"]:
    """Apply the transpose of rendering, band by band: correlate images with the kernels.

    Parameters
    ----------
    exposure
        Exposure with the kernels.
    images
        Images ``[K, B, H, W]``, one cube per box.
    corner
        First pixels of the boxes, ``[K, 2]``.
    box
        Side n of the boxes.
    """
    transforms, size = exposure.kernels.of_box(box), exposure.kernels.size
    if exposure.grid is None:
        return _correlated(images, corner - size // 2, box, jnp.conj(transforms))
    support = box + size - 1
    return gather_regridded(images, transforms, exposure.grid, corner - size // 2, support, box)


def likelihood_diagonal(
    exposures: Sequence[Exposure],
    spectrum: Float[Array, "K B"],
    corner: Int[Array, "K 2"],
    box: int,
) -> Float[Array, "K n n"]:
    """Return the diagonal of F for given spectra, PSF included.

    Parameters
    ----------
    exposures
        Noise and kernels.
    spectrum
        Amplitudes ``[K, B]``.
    corner, box
        First pixels and side of the boxes.

    Returns
    -------
    Array
        Diagonal ``[K, n, n]``, inverse intensity squared; zero where there are no data.

    Notes
    -----
    White noise has a closed form, correlated noise is a sum of 58 of them, over the distances of
    its pixels, and a sky takes a matrix of low rank off that of its noise.  For other noise every
    pixel is rendered, n^2 renderings.
    """
    return jnp.einsum("kb,kbyx->kyx", spectrum**2, unit_diagonal(exposures, corner, box))


def unit_diagonal(
    exposures: Sequence[Exposure], corner: Int[Array, "K 2"], box: int
) -> Float[Array, "K B n n"]:
    """Return `likelihood_diagonal` for amplitudes of one, band by band."""
    return jnp.concatenate([_seen(one, corner, box) for one in exposures], 1)


def likelihood_block(
    exposures: Sequence[Exposure],
    products: Float[Array, " B"],
    corner: Int[Array, " 2"],
    other: Int[Array, " 2"],
    box: int,
) -> Float[Array, "N N"]:
    """Return the block of F between the pixels of two boxes (or of one with itself).

    Parameters
    ----------
    exposures
        Noise and kernels.
    products
        Products of the two amplitudes per band, ``[B]``.
    corner, other
        First pixels of the two boxes.
    box
        Side n of the boxes.

    Returns
    -------
    Array
        Block ``[n n, n n]``, rows of the first box, inverse intensity squared.
    """
    each = zip(by_exposure(products, exposures), exposures, strict=True)
    return sum(_block(one, own, corner, other, box) for own, one in each)


def _block(exposure: Exposure, products, corner, other, box: int):
    if isinstance(exposure.noise, Sky):
        noise = exposure.noise
        rest = _block(replace(exposure, noise=noise.noise), products, corner, other, box)
        both = _of_sky(exposure, jnp.stack([corner, other]), box)
        first, second = both.reshape(*both.shape[:3], -1)
        return rest - jnp.einsum("b,bkp,bkl,blq->pq", products, first, noise.inverse, second)
    if exposure.grid is not None or not isinstance(exposure.noise, Diagonal):
        return _block_by_rendering(exposure, products, corner, other, box)
    transforms, size = exposure.kernels.of_box(box), exposure.kernels.size
    grid, bands = transforms.shape[-2], exposure.num_bands
    kernels = jnp.fft.irfft2(transforms, (grid, grid))[:, :size, :size]
    first = jnp.broadcast_to(corner - size // 2, (bands, 2))
    weights = place(exposure.noise.weights, -first, (grid, grid)) * products[:, None, None]
    mirrored = jnp.conj(transforms)

    def column(pixel):
        at = other - corner + jnp.stack([pixel // box, pixel % box])
        # A unit pixel is rendered as the kernel itself, in the window of the first box.
        seen = place(kernels, jnp.broadcast_to(at, (bands, 2)), (grid, grid))
        spectrum = (jnp.fft.rfft2(seen * weights) * mirrored).sum(0)
        return jnp.fft.irfft2(spectrum, (grid, grid))[:box, :box].ravel()

    return jax.lax.map(column, jnp.arange(box * box), batch_size=32).T


def _block_by_rendering(exposure, products, corner, other, box):
    """Return `_block` by rendering every pixel, for other grids and other noise."""

    def column(pixel):
        seen = _unit_pixel(exposure, pixel, other, box)
        weighed = exposure.noise.precision(seen) * products[:, None, None]
        return gather(exposure, weighed, corner[None], box)[0].sum(0).ravel()

    return jax.lax.map(column, jnp.arange(box * box), batch_size=32).T


def _unit_pixel(exposure, pixel, corner, box):
    """Render one pixel of a box in an exposure, ``[1, B, H, W]``."""
    unit = (jnp.arange(box * box) == pixel).astype(exposure.images.dtype).reshape(1, box, box)
    return exposure.render(unit, corner[None])


def likelihood_diagonal_on_host(
    exposures: Sequence[Exposure], spectrum: np.ndarray, corner: np.ndarray, box: int
) -> np.ndarray:
    """Return `likelihood_diagonal`, in NumPy: one call does not repay a compilation.

    Of `Correlated` it is that of noise with the same kernel everywhere, right except beside masks;
    of a sky that of its noise; of other noise only the diagonal of its precision is used.
    """
    out = np.zeros((len(spectrum), box, box), np.float32)
    for own, one in zip(by_exposure(np.asarray(spectrum), exposures), exposures, strict=True):
        out += _diagonal_on_host(one, own, np.asarray(corner), box)
    # Rounding of the transforms must not make an information negative.
    return np.maximum(out, 0.0)


def _diagonal_on_host(exposure: Exposure, spectrum, corner, box: int) -> np.ndarray:
    transforms, size = np.asarray(exposure.kernels.of_box(box)), exposure.kernels.size
    noise: Any = exposure.noise.noise if isinstance(exposure.noise, Sky) else exposure.noise
    grid, shares = transforms.shape[-2], _shares(noise)
    weights = np.asarray(noise.diagonal() if shares is None else noise.weights)
    kernel = irfft2(transforms, (grid, grid))
    if exposure.grid is not None:
        at, support = jax.tree.map(np.asarray, exposure.grid), box + size - 1
        weights = weights if shares is None else weights * shares.sum((1, 2))[:, None, None]
        seen = squared_regridded(weights, kernel, at, corner - size // 2, support, box, np)
        return np.einsum("kb,kbyx->kyx", spectrum**2, seen)
    if shares is None:
        power = kernel**2
    else:
        kernel[:, size:], kernel[:, :, size:] = 0, 0
        power = np.stack([of_filtered(k, s) for k, s in zip(kernel, shares, strict=True)])
    squared = rfft2(power).conj()
    # Weights correlated with the squared kernel: the transpose of `render`.
    out = np.zeros((len(spectrum), box, box), np.float32)
    window = np.zeros((len(weights), grid, grid), np.float32)
    for target, share, at in zip(out, spectrum, corner - size // 2, strict=True):
        inside = overlap(at, grid, weights.shape[-2:])
        if inside is None or not share.any():
            continue
        window[:] = 0
        window[:, *inside[1]] = weights[:, *inside[0]]
        # Bands are summed before the inverse transform.
        total = np.einsum("b,bij->ij", share**2, rfft2(window) * squared)
        target[:] = irfft2(total, (grid, grid))[:box, :box]
    return out


def _shares(noise: AbstractNoise) -> np.ndarray | None:
    """Return the usual precision between pixels by their distance, ``[B, k, k]``, weights of one.

    None for noise that is not `Correlated`.
    """
    if not isinstance(noise, Correlated):
        return None
    distances, between = noise.stencil()
    half = int(np.abs(distances).max())
    root = np.sqrt(np.asarray(noise.weights, float))
    height, width = root.shape[1:]
    out = np.zeros((len(root), 2 * half + 1, 2 * half + 1))
    for (down, right), image in zip(distances, between, strict=True):
        # In units of the weights of both, where there are both.
        first, last = max(-right, 0), width - max(right, 0)
        one = root[:, : height - down, first:last]
        other = root[:, down:, first + right : last + right]
        total = np.maximum((one * other).sum((1, 2)), np.finfo(np.float32).tiny)
        share = np.asarray(image, float).sum((1, 2)) / total
        out[:, half + down, half + right] = out[:, half - down, half - right] = share
    return out


def _seen(exposure: Exposure, corner, box: int) -> Float[Array, "K B n n"]:
    """Return the diagonal of F for unit spectra, at every pixel of the boxes."""
    if isinstance(exposure.noise, Sky):
        noise = exposure.noise
        rest = _seen(replace(exposure, noise=noise.noise), corner, box)
        of_sky = _of_sky(exposure, corner, box)
        explained = jnp.einsum("nbkyx,bkl,nblyx->nbyx", of_sky, noise.inverse, of_sky)
        return jnp.maximum(rest - explained, 0.0)
    if isinstance(exposure.noise, Correlated):
        return _seen_by_distance(exposure, corner, box)
    if not isinstance(exposure.noise, Diagonal):
        return _seen_by_rendering(exposure, corner, box)
    transforms, size = exposure.kernels.of_box(box), exposure.kernels.size
    grid, weights = transforms.shape[-2], exposure.noise.weights
    kernels = jnp.fft.irfft2(transforms, (grid, grid))
    # Beyond the kernel's own support there is only rounding error.
    inside = jnp.arange(grid) < size
    kernels *= inside[:, None] & inside
    first = corner - size // 2
    if exposure.grid is not None:
        support = box + size - 1
        out = squared_regridded(weights, kernels, exposure.grid, first, support, box)
    else:
        everywhere = jnp.broadcast_to(weights, (len(corner), *weights.shape))
        out = _correlated(everywhere, first, box, jnp.conj(jnp.fft.rfft2(kernels**2)))
    return jnp.maximum(out, 0.0)


def _of_sky(exposure: Exposure, corner, box: int) -> Float[Array, "N B K n n"]:
    """Return the products of unit pixels of N boxes with the K weighed templates of a sky."""
    noise: Any = exposure.noise
    each = jnp.swapaxes(noise.weighed, 0, 1)
    alike = (len(corner), *exposure.images.shape)
    seen = [gather(exposure, jnp.broadcast_to(one, alike), corner, box) for one in each]
    return jnp.stack(seen, 2)


def _seen_by_distance(exposure: Exposure, corner, box: int) -> Float[Array, "K B n n"]:
    """Return `_seen` of correlated noise, by the distances of pixels.

    The part of pixels p and p + d is the precision between them, an image, correlated with the
    product of the kernel and the kernel moved by d.
    """
    transforms, size = exposure.kernels.of_box(box), exposure.kernels.size
    grid, first = transforms.shape[-2], corner - size // 2
    kernels = jnp.fft.irfft2(transforms, (grid, grid))
    inside = jnp.arange(grid) < size
    kernels *= inside[:, None] & inside
    noise: Any = exposure.noise
    distances, between = noise.stencil()
    # Every distance stands for its opposite as well.
    twice = (1.0 if apart == (0, 0) else 2.0 for apart in distances)
    images = jnp.stack([jnp.asarray(t * one) for t, one in zip(twice, between, strict=True)])
    apart, images = jnp.asarray(distances), images.astype(kernels.dtype)
    if exposure.grid is not None:
        at, support = exposure.grid, box + size - 1

        def regridded(total, item):
            seen = squared_regridded(item[1], kernels, at, first, support, box, apart=item[0])
            return total + seen, None

        start = jnp.zeros((len(corner), len(kernels), box, box), kernels.dtype)
        return jnp.maximum(jax.lax.scan(regridded, start, (apart, images))[0], 0.0)
    border = int(np.abs(distances).max())
    padded = jnp.pad(kernels, ((0, 0), (border, border), (border, border)))
    places = jnp.broadcast_to(first[:, None], (len(first), len(kernels), 2))

    def add(total, item):
        (down, right), image = item
        moved = jax.lax.dynamic_slice(padded, (0, border + down, border + right), kernels.shape)
        everywhere = jnp.broadcast_to(image, (len(corner), *image.shape))
        windows = jnp.fft.rfft2(place(everywhere, -places, (grid, grid)))
        return total + windows * jnp.conj(jnp.fft.rfft2(kernels * moved)), None

    start = jnp.zeros((len(corner), *transforms.shape), transforms.dtype)
    total, _ = jax.lax.scan(add, start, (apart, images))
    return jnp.maximum(jnp.fft.irfft2(total, (grid, grid))[..., :box, :box], 0.0)


def _seen_by_rendering(exposure, corner, box):
    def pixel(at, number):
        seen = _unit_pixel(exposure, number, at, box)
        return exposure.noise.inner(seen, seen)[0]

    def source(at):
        each = jax.lax.map(lambda i: pixel(at, i), jnp.arange(box * box), batch_size=32)
        return each.T.reshape(-1, box, box)

    return jax.lax.map(source, corner)


def _correlated(images, first, box, transforms):
    grid, bands = transforms.shape[-2], images.shape[1]
    first = jnp.broadcast_to(first[:, None], (len(first), bands, 2))
    # Reading a window is placing the image at minus the window's corner.
    windows = place(images, -first, (grid, grid))
    out = jnp.fft.irfft2(jnp.fft.rfft2(windows) * transforms, (grid, grid))
    return out[..., :box, :box]
