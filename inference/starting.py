"""Start values and widths, from a quick look at the data: what makes fits short."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scorepriors.distribution import ScorePrior
from scorepriors.models.rendering import ImageData
from scorepriors.models.sources import Sources
from scorepriors.models.spectra import SpectrumPrior, spectrum_posterior


def linear_fluxes(
    data: ImageData,
    morphology: Float[Array, "K n n"],
    corner: Int[Array, "K 2"],
    mask: Float[Array, " K"],
):
    """Fluxes ``[K, B]`` and errors by least squares for fixed morphologies.

    Regularised only by a Gaussian of a million times the noise, which matters to none
    but padding and sources without data.
    """
    num_bands = data.num_bands
    area = jnp.maximum(morphology.sum((-2, -1)), 1e-3)
    unit = morphology / area[:, None, None]
    renderings = data.render(unit, corner) * mask[:, None, None, None]
    wide = jnp.full((len(area), 1, 1), (1e3 * data.noise_flux) ** 2) * jnp.eye(num_bands)
    solved = spectrum_posterior(
        renderings, data.images, data.weights,
        SpectrumPrior(jnp.zeros((len(area), num_bands)), wide),
    )  # fmt: skip
    error = jnp.sqrt(jnp.einsum("kbkb->kb", solved.covariance()))
    return solved.mean, error


@eqx.filter_jit
def profile_start(data: ImageData, sources: Sources, *, box: int, psf_sigma: float = 0.7):
    """Start values and widths of a bulge-and-disk scene.

    Every source starts as a small round disk at its catalogue position with its
    least-squares flux, so faint and blended ones get a usable start as well.

    Returns
    -------
    init, scale
        For `fit_map` with the model `blend(..., profiles=sources)`.
    """
    count = len(sources.mask)
    row = jnp.arange(box)
    place = sources.center - sources.corner
    squared = (row[:, None] - place[:, 0, None, None]) ** 2 + (row - place[:, 1, None, None]) ** 2
    variance = psf_sigma**2 + 1.5**2
    blobs = jnp.exp(-squared / (2 * variance))
    flux, error = linear_fluxes(data, blobs, sources.corner, sources.mask)
    weight = jnp.where(error > 0, data.mean_spectrum / error**2, 0.0)
    noise = 1 / jnp.sqrt(jnp.sum(data.mean_spectrum * weight, -1))
    # Flat-spectrum flux by matched weights: one number with the best signal to noise.
    total = jnp.sum(flux * weight, -1) * noise**2
    total = jnp.where(sources.mask, jnp.maximum(total, noise), 10 * noise)
    snr = total / noise
    zeros = jnp.zeros(count)
    init = {
        "offset": jnp.zeros((count, 2)),
        "log_radius": zeros + jnp.log(1.5),
        "ellipticity": jnp.zeros((count, 2)),
        "bulge_logit": zeros - 2.0,
        "bulge_log_ratio": zeros + jnp.log(0.6),
        "bulge_ellipticity": jnp.zeros((count, 2)),
        "brightness": jnp.log(total),
    }
    # What the data leave of each prior width, by the usual 1/SNR scaling of shapes.
    widths = {
        "offset": (0.3, 0.7), "log_radius": (0.7, 0.5), "ellipticity": (0.3, 0.5),
        "bulge_logit": (1.5, 0.05), "bulge_log_ratio": (0.5, 0.02),
        "bulge_ellipticity": (0.15, 0.02), "brightness": (0.6, 0.5),
    }  # fmt: skip
    scale = {}
    for name, (prior, strength) in widths.items():
        width = 1 / jnp.sqrt(1 / prior**2 + jnp.minimum(strength * snr, 300.0) ** 2)
        if name == "brightness":  # the scatter of colours keeps it wide, however bright
            width = jnp.full(count, 0.3)
        scale[name] = width[:, None] * jnp.ones(2) if init[name].ndim == 2 else width
    return init, scale


@eqx.filter_jit
def free_form_start(
    data: ImageData,
    prior: ScorePrior,
    morphology: Float[Array, "K n n"],
    sources: Sources,
):
    """Start values and widths of free-form morphologies from other ones.

    Parameters
    ----------
    data
        The observation.
    prior
        Gives the scale (peak one), the support and the noise level.
    morphology
        ``[K, n, n]`` on the boxes of `sources`, any positive scale.
    sources
        Where the boxes are.

    Returns
    -------
    init, scale
        For `fit_map` with the model `blend(..., galaxies=sources)`.  The widths are
        those of a Gaussian with the curvature of the likelihood's diagonal plus the
        prior's noise floor, in the unconstrained space.
    """
    softening = prior.stretch.softening
    peak = morphology.max((-2, -1), keepdims=True)
    image = jnp.maximum(morphology / peak, -0.5 * softening)
    flux, _ = linear_fluxes(data, image, sources.corner, sources.mask)
    area = image.sum((-2, -1))
    total = jnp.maximum(flux.sum(-1), 0.5 * data.noise_flux)
    amplitude = jnp.where(sources.mask[:, None], flux / area[:, None], 0.0)
    information = pixel_information(data, amplitude, sources.corner, image.shape[-1])
    # u = log(x + s) = c z + log s, so du/dz = c and dx/du = x + s.
    curvature = information * (image + softening) ** 2 + 1 / (
        prior.stretch.scale * prior.sigma
    ) ** 2
    count = len(sources.mask)
    return (
        {"morphology": image, "brightness": jnp.log(total)},
        {"morphology": 1 / jnp.sqrt(curvature), "brightness": jnp.full(count, 0.3)},
    )


def pixel_information(
    data: ImageData,
    amplitude: Float[Array, "K B"],
    corner: Int[Array, "K 2"],
    box: int,
) -> Float[Array, "K n n"]:
    r"""Diagonal of the likelihood's Fisher information for morphology pixels.

    :math:`\sum_b A_{kb}^2 (K_b^2 \star W_b)`: the squared kernel correlated with the
    weights, closed form (the published code leaves the PSF out here).
    """
    grid = data.grid
    kernel = jnp.fft.irfft2(data.transforms, (grid, grid))
    squared = jnp.fft.rfft2(kernel**2)
    # Weights seen by a box that is convolved with the kernel: the transpose of `render`.
    height, width = data.images.shape[-2:]
    first = corner - data.kernel_size // 2
    pixels = jnp.arange(grid)
    rows = (first[:, :1, None] + pixels == jnp.arange(height)[:, None]).astype(kernel.dtype)
    columns = (first[:, 1:, None] + pixels == jnp.arange(width)[:, None]).astype(kernel.dtype)
    window = jnp.einsum("kyi,byx,kxj->kbij", rows, data.weights, columns)
    seen = jnp.fft.irfft2(jnp.fft.rfft2(window) * squared.conj(), (grid, grid))
    return jnp.einsum("kb,kbij->kij", amplitude**2, seen[..., :box, :box])
