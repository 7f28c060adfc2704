r"""What the data know of every pixel of a source: second derivatives in closed form.

The pixels of a morphology enter a blend linearly, so with the spectra given minus the
second derivative of the log-likelihood is

.. math:: F_{ki,lj} = \sum_b A_{kb} A_{lb}\, (K_b^\top W_b K_b)_{ij},

whose diagonal is :math:`\sum_b A_{kb}^2\, (K_b^2 \star W_b)_i`, the squared kernel
correlated with the weights.  With the spectra maximized or integrated out, Louis'
identity [1]_ gives what is to be added: for an expectation over the spectra A given the
morphologies,

.. math:: \partial^2 \log m = E[\partial^2 \ell] + \mathrm{Cov}[\partial \ell],

in which :math:`\ell(x, A)` is quadratic in A and A is Gaussian, so both terms are finite
sums.  (Maximized spectra have the same with the covariance to leading order alone.)

References
----------
.. [1] Louis (1982), Journal of the Royal Statistical Society B 44.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.fft import irfft2, rfft2

from scorepriors.models.rendering._grids import gather_regridded, squared_regridded
from scorepriors.models.rendering._rendering import ImageData, overlap, place
from scorepriors.models.spectra._spectra import SpectrumPosterior, SpectrumPrior


def gather(
    data: ImageData, images: Float[Array, "K B H W"], corner: Int[Array, "K 2"], box: int
) -> Float[Array, "K B n n"]:
    """Transpose of rendering, band by band: images seen through the kernels from boxes.

    Parameters
    ----------
    data
        For kernels.
    images
        ``[K, B, H, W]``, one cube per box.
    corner
        ``[K, 2]``, first pixels of the boxes.
    box
        Their side n.
    """
    data = data.for_box(box)
    own = data.num_own
    out = _correlated(data, images[:, :own], corner, box, jnp.conj(data.transforms[:own]))
    if data.grids is None:
        return out
    first, support = corner - data.kernel_size // 2, box + data.kernel_size - 1
    other = gather_regridded(
        images[:, own:], data.transforms[own:], data.grids, first, support, box
    )
    return jnp.concatenate([out, other], 1)


def likelihood_diagonal(
    data: ImageData, spectrum: Float[Array, "K B"], corner: Int[Array, "K 2"], box: int
) -> Float[Array, "K n n"]:
    """Diagonal of F for given spectra: with the PSF, without derivatives.

    Parameters
    ----------
    data
        Weights and kernels.
    spectrum
        ``[K, B]``, amplitudes.
    corner, box
        First pixels and side of the boxes.

    Returns
    -------
    Array
        ``[K, n, n]``, inverse intensity squared; zero where nothing is seen.
    """
    return jnp.einsum("kb,kbyx->kyx", spectrum**2, _seen(data, corner, box))


def likelihood_block(
    data: ImageData,
    products: Float[Array, " B"],
    corner: Int[Array, " 2"],
    other: Int[Array, " 2"],
    box: int,
) -> Float[Array, "N N"]:
    """Block of F between the pixels of two boxes (or of one with itself).

    Parameters
    ----------
    data
        Weights and kernels.
    products
        ``[B]``, products of the two amplitudes per band.
    corner, other
        First pixels of the two boxes.
    box
        Their side n.

    Returns
    -------
    Array
        ``[n n, n n]``, rows of the first box, inverse intensity squared.
    """
    data = data.for_box(box)
    if data.grids is not None:
        return _block_by_rendering(data, products, corner, other, box)
    grid, size = data.grid, data.kernel_size
    kernels = jnp.fft.irfft2(data.transforms, (grid, grid))[:, :size, :size]
    first = jnp.broadcast_to(corner - size // 2, (data.num_bands, 2))
    weights = place(data.weights, -first, (grid, grid)) * products[:, None, None]
    transforms = jnp.conj(data.transforms)

    def column(pixel):
        at = other - corner + jnp.stack([pixel // box, pixel % box])
        # A unit pixel is rendered as the kernel itself, in the window of the first box.
        seen = place(kernels, jnp.broadcast_to(at, (data.num_bands, 2)), (grid, grid))
        spectrum = (jnp.fft.rfft2(seen * weights) * transforms).sum(0)
        return jnp.fft.irfft2(spectrum, (grid, grid))[:box, :box].ravel()

    return jax.lax.map(column, jnp.arange(box * box), batch_size=32).T


def _block_by_rendering(data, products, corner, other, box):
    """As `likelihood_block`, pixel by pixel: for bands on other grids, which have no shortcut."""

    def column(pixel):
        unit = (jnp.arange(box * box) == pixel).astype(data.images.dtype).reshape(1, box, box)
        weighed = data.render(unit, other[None]) * data.weights * products[:, None, None]
        return gather(data, weighed, corner[None], box)[0].sum(0).ravel()

    return jax.lax.map(column, jnp.arange(box * box), batch_size=32).T


def likelihood_diagonal_on_host(
    data: ImageData, spectrum: np.ndarray, corner: np.ndarray, box: int
) -> np.ndarray:
    """As `likelihood_diagonal`, in NumPy: a single look is not worth a compilation."""
    data = data.for_box(box)
    grid, own = data.grid, data.num_own
    kernel = irfft2(np.asarray(data.transforms), (grid, grid))
    squared = rfft2(kernel[:own] ** 2).conj()
    weights = np.asarray(data.weights)
    # Weights seen by a box that is convolved with the kernel: the transpose of `render`.
    out = np.zeros((len(spectrum), box, box), np.float32)
    window = np.zeros((own, grid, grid), np.float32)
    for target, share, at in zip(out, spectrum, corner - data.kernel_size // 2, strict=True):
        inside = overlap(at, grid, weights.shape[-2:])
        if inside is None or not share.any():
            continue
        window[:] = 0
        window[:, *inside[1]] = weights[:own, *inside[0]]
        # Bands add up before the transform back.
        total = np.einsum("b,bij->ij", share[:own] ** 2, rfft2(window) * squared)
        target[:] = irfft2(total, (grid, grid))[:box, :box]
    if data.grids is not None:
        other = _seen_on_other_grids(data, weights, kernel, np.asarray(corner), box, np)
        out += np.einsum("kb,kbyx->kyx", np.asarray(spectrum)[:, own:] ** 2, other)
    # Rounding of the transforms must not make an information negative.
    return np.maximum(out, 0.0)


def _seen(data: ImageData, corner, box: int) -> Float[Array, "K B n n"]:
    """The squared kernel correlated with the weights, at every pixel of the boxes."""
    data = data.for_box(box)
    kernels = jnp.fft.irfft2(data.transforms, (data.grid, data.grid))
    # Beyond the kernel's own support there is rounding alone.
    inside = jnp.arange(data.grid) < data.kernel_size
    kernels *= inside[:, None] & inside
    own = data.num_own
    squared = jnp.conj(jnp.fft.rfft2(kernels[:own] ** 2))
    weights = jnp.broadcast_to(data.weights[:own], (len(corner), own, *data.weights.shape[1:]))
    out = _correlated(data, weights, corner, box, squared)
    if data.grids is not None:
        other = _seen_on_other_grids(data, data.weights, kernels, corner, box, jnp)
        out = jnp.concatenate([out, other], 1)
    return jnp.maximum(out, 0.0)


def _seen_on_other_grids(data, weights, kernels, corner, box, xp):
    own, first = data.num_own, corner - data.kernel_size // 2
    support, grids = box + data.kernel_size - 1, xp.asarray(data.grids)
    return squared_regridded(weights[own:], kernels[own:], grids, first, support, box, xp)


def _correlated(data, images, corner, box, transforms):
    bands = images.shape[1]
    first = jnp.broadcast_to((corner - data.kernel_size // 2)[:, None], (len(corner), bands, 2))
    # Reading a window is placing the image at minus the window's corner.
    windows = place(images, -first, (data.grid, data.grid))
    out = jnp.fft.irfft2(jnp.fft.rfft2(windows) * transforms, (data.grid, data.grid))
    return out[..., :box, :box]


class SceneCurvature(NamedTuple):
    """Second derivatives of a blend's log-likelihood with respect to its morphologies.

    Attributes
    ----------
    products
        ``[K, B, K, B]``, expectations of the products of two spectra.
    slope
        ``[K, n, n, K, B]``, derivative of each pixel's gradient by the spectra.
    shape
        ``[K, n, n, K, B]``, the sources seen from each pixel: with it the gradient is
        quadratic in the spectra.
    own
        ``[K, B, B]``, what the spectra's prior adds to that, for all pixels alike.
    constant
        ``[K]``, what it adds to the second derivative.
    covariance
        ``[K, B, K, B]``, of the spectra.
    marginal
        Whether the spectra are integrated out (else maximized).
    """

    products: Float[Array, "K B K B"]
    slope: Float[Array, "K n n K B"]
    shape: Float[Array, "K n n K B"]
    own: Float[Array, "K B B"]
    constant: Float[Array, " K"]
    covariance: Float[Array, "K B K B"]
    marginal: Array


def scene_curvature(
    data: ImageData,
    morphology: Float[Array, "K n n"],
    corner: Int[Array, "K 2"],
    flux_prior: SpectrumPrior,
    solved: SpectrumPosterior,
    *,
    marginal: bool = True,
) -> SceneCurvature:
    """Collect what second derivatives are made of, at given morphologies.

    Parameters
    ----------
    data, morphology, corner
        The scene.
    flux_prior
        Of the *fluxes* (amplitudes times pixel sums), which does not depend on the
        morphologies.
    solved
        Spectra for these morphologies, from `spectrum_posterior` with the prior that
        `flux_prior` implies for the amplitudes.
    marginal
        Spectra integrated out, else maximized.
    """
    box = morphology.shape[-1]
    mean, covariance = solved.mean, solved.covariance()
    unit = data.render(morphology, corner)
    residual = data.images - jnp.einsum("kb,kbyx->byx", mean, unit)
    count = len(corner)
    sources = jnp.arange(count)
    seen = jnp.stack(
        [
            gather(data, jnp.broadcast_to(data.weights * one, unit.shape), corner, box)
            for one in unit
        ],
        axis=-1,
    )
    shape = jnp.moveaxis(seen, 1, -1)
    left = gather(data, jnp.broadcast_to(data.weights * residual, unit.shape), corner, box)
    area = morphology.sum((-2, -1))
    precision = jnp.linalg.inv(flux_prior.covariance)
    own = area[:, None, None] * precision
    pull = jnp.einsum("kbc,kc->kb", precision, area[:, None] * mean - flux_prior.mean)
    pull += area[:, None] * jnp.einsum("kbc,kc->kb", precision, mean)
    slope = -mean[:, None, None, None, :] * shape
    slope = slope.at[sources, :, :, sources].add(jnp.moveaxis(left, 1, -1) - pull[:, None, None, :])
    products = mean[:, :, None, None] * mean
    own_products = jnp.einsum("kb,kc->kbc", mean, mean)
    if marginal:
        products += covariance
        own_products += jnp.einsum("kbkc->kbc", covariance)
    constant = jnp.einsum("kbc,kbc->k", precision, own_products) + mean.shape[1] / area**2
    return SceneCurvature(products, slope, shape, own, constant, covariance, jnp.asarray(marginal))


def scene_diagonal(
    data: ImageData, curvature: SceneCurvature, corner: Int[Array, "K 2"]
) -> Float[Array, "K n n"]:
    """Diagonal of minus the second derivative, ``[K, n, n]``, in inverse intensity squared.

    Parameters
    ----------
    data, corner
        The scene.
    curvature
        From `scene_curvature`.
    """
    count, box = curvature.shape.shape[:2]
    squares = jnp.einsum("kbkb->kb", curvature.products)
    given = jnp.einsum("kb,kbyx->kyx", squares, _seen(data, corner, box))
    given += curvature.constant[:, None, None]
    size = curvature.covariance.shape[0] * curvature.covariance.shape[1]
    covariance = curvature.covariance.reshape(size, size)
    slope = curvature.slope.reshape(count, box * box, size)
    linear = jnp.einsum("kic,cd,kid->ki", slope, covariance, slope)
    bands = curvature.own.shape[-1]

    def spread(source, shape):
        """2 tr(Q S Q S) of one pixel, Q the matrix of its gradient's quadratic form."""
        form = jnp.zeros((count, bands, count, bands), shape.dtype)
        each = jnp.arange(bands)
        form = form.at[source, each, :, each].add(-0.5 * shape.T)
        form = form.at[:, each, source, each].add(-0.5 * shape)
        form = form.at[source, :, source, :].add(-curvature.own[source])
        product = form.reshape(size, size) @ covariance
        return 2 * jnp.sum(product * product.T)

    shape = curvature.shape.reshape(count, box * box, count, bands)
    scatter = jax.lax.map(
        lambda k: jax.lax.map(lambda one: spread(k, one), shape[k], batch_size=64),
        jnp.arange(count),
    )
    explained = linear + jnp.where(curvature.marginal, scatter, 0.0)
    return given - explained.reshape(given.shape)
