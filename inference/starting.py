"""Start values and widths, from a quick look at the data: what makes fits short."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scorepriors.distribution import ScorePrior
from scorepriors.models.rendering import ImageData
from scorepriors.models.sources import Morphologies, Sources
from scorepriors.models.spectra import SpectrumPrior, spectrum_posterior


def linear_fluxes(data: ImageData, groups: Sequence[Morphologies]):
    """Fluxes ``[K, B]`` and errors by least squares for fixed morphologies.

    Regularised only by a Gaussian of 100,000 times the noise, which matters to none
    but padding and sources without data.
    """
    num_bands = data.num_bands
    unit = [m.image / jnp.maximum(m.image.sum((-2, -1), keepdims=True), 1e-3) for m in groups]
    mask = jnp.concatenate([m.mask for m in groups])
    renderings = jnp.concatenate([data.render(i, m.corner) for i, m in zip(unit, groups)])
    renderings *= mask[:, None, None, None]
    wide = jnp.full((len(mask), 1, 1), (1e5 * data.noise_flux) ** 2) * jnp.eye(num_bands)
    solved = spectrum_posterior(
        renderings, data.images, data.weights,
        SpectrumPrior(jnp.zeros((len(mask), num_bands)), wide),
    )  # fmt: skip
    error = jnp.sqrt(jnp.einsum("kbkb->kb", solved.covariance()))
    return solved.mean, error


@eqx.filter_jit
def profile_start(
    data: ImageData,
    stars: Sources | None,
    profiles: Sources | None,
    *,
    box: int = 32,
    star_box: int = 15,
    psf_sigma: float = 0.7,
):
    """Start values and widths of a scene of stars and bulge-and-disk galaxies.

    Every source starts at its catalogue position, galaxies as small round disks, with
    its least-squares flux: faint and blended ones get a usable start as well.

    Returns
    -------
    init, scale
        For `fit_map` with ``blend(data, None, None, stars, profiles)``.
    """
    groups = []
    if stars is not None:
        groups.append(Morphologies(_blobs(stars, star_box, psf_sigma), stars.corner, stars.mask))
    if profiles is not None:
        width = (psf_sigma**2 + 1.5**2) ** 0.5
        groups.append(Morphologies(_blobs(profiles, box, width), profiles.corner, profiles.mask))
    mask = jnp.concatenate([m.mask for m in groups])
    flux, error = linear_fluxes(data, groups)
    total, snr = _flat_spectrum_flux(data, flux, error, mask)
    several = len(groups) > 1
    init = {"brightness": jnp.log(total)}
    # The scatter of colours keeps the brightness wide, however bright the source.
    scale = {"brightness": jnp.full(len(total), 0.3)}
    first = 0
    if stars is not None:
        prefix, count = "stars/" if several else "", len(stars.mask)
        init[prefix + "offset"] = jnp.zeros((count, 2))
        scale[prefix + "offset"] = _width(snr[:count], 0.3, 0.7)[:, None]
        first = count
    if profiles is not None:
        prefix, count = "profiles/" if several else "", len(profiles.mask)
        for name, (start, size, prior, strength) in _PROFILE_SITES.items():
            width = _width(snr[first:], prior, strength)
            shape = (count, 2)[:size]
            init[prefix + name] = jnp.full(shape, start)
            scale[prefix + name] = width[:, None] if size == 2 else width
    return init, scale


# Site: start value, number of axes, prior width, and information per unit of SNR; the
# last are rough (shapes are known to about 1/SNR, bulges far less).
_PROFILE_SITES = {
    "offset": (0.0, 2, 0.3, 0.7),
    "log_radius": (math.log(1.5), 1, 0.7, 0.5),
    "ellipticity": (0.0, 2, 0.3, 0.5),
    "bulge_logit": (-2.0, 1, 1.5, 0.05),
    "bulge_log_ratio": (math.log(0.6), 1, 0.5, 0.02),
    "bulge_ellipticity": (0.0, 2, 0.15, 0.02),
}


def _width(snr, prior, strength):
    # Capped: positions may be off by far more than a bright source's error, and steps of
    # a hundred widths are a worse search than a somewhat ill-conditioned one.
    return 1 / jnp.sqrt(1 / prior**2 + jnp.minimum(strength * snr, 30.0) ** 2)


def _blobs(sources: Sources, box: int, sigma: float):
    """Round Gaussians ``[K, box, box]`` at the positions of sources."""
    pixels = jnp.arange(box)
    place = sources.center - sources.corner
    rows = (pixels - place[:, 0, None]) ** 2
    columns = (pixels - place[:, 1, None]) ** 2
    return jnp.exp(-(rows[:, :, None] + columns[:, None, :]) / (2 * sigma**2))


def _flat_spectrum_flux(data: ImageData, flux, error, mask):
    """Band-summed flux ``[K]`` by matched weights, at least its noise, and its SNR."""
    weight = data.mean_spectrum / error**2
    noise = 1 / jnp.sqrt(jnp.sum(data.mean_spectrum * weight, -1))
    total = jnp.sum(flux * weight, -1) * noise**2
    total = jnp.where(mask, jnp.maximum(total, noise), 10 * data.noise_flux)
    return total, jnp.where(mask, total / noise, 10.0)


@eqx.filter_jit
def free_form_start(
    data: ImageData,
    prior: ScorePrior,
    galaxies: Morphologies,
    stars: Morphologies | None = None,
):
    """Start values and widths of free-form morphologies from other ones.

    Parameters
    ----------
    data
        The observation.
    prior
        Gives the scale (peak one), the support and the noise level.
    galaxies
        Morphologies on the boxes where the free-form ones will be, any positive scale.
    stars
        Other sources of the scene.

    Returns
    -------
    init, scale
        For `fit_map` with ``blend(data, prior, galaxies, stars)``, without the sites of
        the stars.  The widths are those of a Gaussian with the curvature of the
        likelihood's diagonal plus the prior's noise floor, in the unconstrained space.
    """
    softening = prior.stretch.softening
    peak = galaxies.image.max((-2, -1), keepdims=True)
    image = jnp.maximum(galaxies.image / peak, -0.5 * softening)
    groups = [Morphologies(image, galaxies.corner, galaxies.mask)]
    groups += [] if stars is None else [stars]
    flux, error = linear_fluxes(data, groups)
    count = len(galaxies.mask)
    mask = jnp.concatenate([m.mask for m in groups])
    total, _ = _flat_spectrum_flux(data, flux, error, mask)
    amplitude = flux[:count] / image.sum((-2, -1))[:, None]
    amplitude = jnp.where(galaxies.mask[:, None], amplitude, 0.0)
    information = pixel_information(data, amplitude, galaxies.corner, image.shape[-1])
    # u = log(x + s) = c z + log s, so du/dz = c and dx/du = x + s.
    floor = 1 / (prior.stretch.scale * prior.sigma) ** 2
    curvature = information * (image + softening) ** 2 + floor
    prefix = "" if stars is None else "galaxies/"
    return (
        {prefix + "morphology": image, "brightness": jnp.log(total)},
        {prefix + "morphology": 1 / jnp.sqrt(curvature), "brightness": jnp.full(len(total), 0.3)},
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
