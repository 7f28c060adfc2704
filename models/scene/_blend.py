"""The ready-made NumPyro model of a blend; read it, copy it, change it."""

from collections.abc import Callable, Collection, Sequence

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.handlers import scope

from scorepriors._distribution import ScorePrior
from scorepriors._recovery import recovering
from scorepriors.models.rendering._rendering import ImageData
from scorepriors.models.sources._sources import (
    Morphologies,
    Sources,
    bulge_disk,
    free_form,
    point_sources,
)
from scorepriors.models.spectra._spectra import SpectrumPrior, spectrum_posterior

#: Mean, above the logarithm of the noise, and width of the logarithm of fluxes.  Number
#: counts are steep, but this is wide on purpose: four decades either way.
BRIGHTNESS, BRIGHTNESS_WIDTH = 4.0, 4.0

#: Names of the groups of sources, in the order in which K runs over them.
GROUPS = ("galaxies", "large", "stars", "profiles")


def site_name(groups: Collection[str], group: str, site: str) -> str:
    """Name of a group's site in a `blend` of some `GROUPS`: no prefix if it is the only one."""
    return site if len(groups) == 1 else f"{group}/{site}"


def blend(
    data: ImageData,
    prior: ScorePrior | None = None,
    galaxies: Sources | None = None,
    stars: Sources | None = None,
    profiles: Sources | None = None,
    large_prior: ScorePrior | None = None,
    large: Sources | None = None,
    *,
    spectra: str = "marginal",
    color_width: float = 1.0,
    box: int = 32,
    star_box: int = 15,
    psf_sigma: float = 0.7,
    center_error: float = 0.3,
) -> None:
    """Sources of up to four kinds in one multi-band image.

    Parameters
    ----------
    data
        From `image_data`.
    prior
        Of free-form morphologies; needed with `galaxies`.
    galaxies, stars, profiles
        Groups of free-form sources, point sources and bulge-plus-disk sources.
    large_prior, large
        A second group of free-form sources, with a prior of larger boxes (see `image_data`,
        `wide_box`).
    spectra
        ``"marginal"``: integrated out exactly (the default, for sampling and modes).
        ``"profiled"``: maximized exactly.  ``"sampled"``: a site like any other.
    color_width
        Widths of the prior on colors, in units of the usual ones; see `flux_prior`.
    box, star_box
        Sides of the boxes of `profiles` and `stars` (free-form sources have their prior's).
    psf_sigma
        Standard deviation in pixels of the model PSF, as given to `image_data`.
    center_error
        Standard deviation in pixels of the positions of stars and profiles.

    Notes
    -----
    Sites are those of the groups (``galaxies/morphology``, ``stars/offset``, ...; no
    prefix if there is one group), ``brightness [K]`` (log of the flux summed over the
    bands), ``spectrum [K, B]`` and the deterministic ``flux [K, B]`` with
    ``flux_error``.  K runs over the groups in the order of `GROUPS`.

    One color per source is the assumption behind "spectrum x morphology".
    """
    groups: dict[str, Callable] = {}
    if galaxies is not None:
        if prior is None:
            raise ValueError("free-form `galaxies` need a `prior`.")
        groups["galaxies"] = lambda: free_form(prior, galaxies)
    if large is not None:
        if large_prior is None:
            raise ValueError("free-form `large` sources need a `large_prior`.")
        groups["large"] = lambda: free_form(large_prior, large)
    if stars is not None:
        groups["stars"] = lambda: point_sources(
            stars, box=star_box, psf_sigma=psf_sigma, center_error=center_error
        )
    if profiles is not None:
        groups["profiles"] = lambda: bulge_disk(
            profiles, box=box, psf_sigma=psf_sigma, center_error=center_error
        )
    drawn = []
    for name, draw in groups.items():
        if len(groups) == 1:
            drawn.append(draw())
        else:
            with scope(prefix=name, divider="/"):
                drawn.append(draw())
    observe(data, drawn, spectra=spectra, color_width=color_width)


def observe(
    data: ImageData,
    morphologies: Sequence[Morphologies],
    *,
    spectra: str = "marginal",
    color_width: float = 1.0,
) -> None:
    """Give sources spectra, render them, and compare with the data.

    The second half of every blend model: what comes before is how the morphologies
    were drawn.  Sites: see `blend`.

    Parameters
    ----------
    data
        From `image_data`.
    morphologies
        One entry per group of sources.
    spectra
        ``"marginal"``, ``"profiled"`` or ``"sampled"``.
    color_width
        See `flux_prior`.

    Raises
    ------
    ValueError
        For another value of `spectra`.
    """
    renderings = jnp.concatenate([data.render(m.image, m.corner, m.mask) for m in morphologies])
    area = jnp.concatenate([m.image.sum((-2, -1)) for m in morphologies])
    # An image whose pixels sum to nothing has no flux to speak of; it stays finite.
    area = jnp.maximum(area, 1e-3)
    prior = flux_prior(data, area, color_width=color_width)
    if spectra == "sampled":
        with numpyro.plate("spectra", len(area)):
            spectrum = numpyro.sample(
                "spectrum", dist.MultivariateNormal(prior.mean, prior.covariance)
            )
        model = jnp.einsum("kb,kbyx->byx", spectrum, renderings)
        _pixels(data, model)
        numpyro.deterministic("flux", spectrum * area[:, None])
        return
    if spectra not in ("marginal", "profiled"):
        raise ValueError(f"`spectra` must be 'marginal', 'profiled' or 'sampled', got {spectra!r}.")
    solved = spectrum_posterior(renderings, data.images, data.weights, prior)
    if recovering():
        key = numpyro.prng_key()
        spectrum = solved.mean if spectra == "profiled" else solved.sample(key)
        _pixels(data, jnp.einsum("kb,kbyx->byx", spectrum, renderings))
        numpyro.deterministic("spectrum", spectrum)
        numpyro.deterministic("flux", spectrum * area[:, None])
        return
    log_density = solved.log_marginal if spectra == "marginal" else solved.log_profiled
    numpyro.factor("pixels", log_density)
    numpyro.deterministic("spectrum", solved.mean)
    numpyro.deterministic("flux", solved.mean * area[:, None])
    variance = jnp.einsum("kbkb->kb", solved.covariance())
    numpyro.deterministic("flux_error", jnp.sqrt(variance) * area[:, None])


def _pixels(data: ImageData, model) -> None:
    """The observed site, in plates of its own: leave-one-out works pixel by pixel."""
    bands, height, width = data.images.shape
    with (
        numpyro.plate("band", bands, dim=-3),
        numpyro.plate("y", height, dim=-2),
        numpyro.plate("x", width, dim=-1),
    ):
        numpyro.sample("pixels", data.likelihood(model), obs=data.images)


def flux_prior(
    data: ImageData, area: Float[Array, " K"], *, color_width: float = 1.0
) -> SpectrumPrior:
    r"""A proper prior on spectra: one flux per source, colors Gaussian given the flux.

    A flat prior is not neutral with many bands: marginalized, flat in amplitude favors
    compact shapes and flat in flux extended ones, to the power of the number of bands.
    Here a site ``brightness`` holds :math:`\log F_k`, and given it the flux in band b
    is Gaussian about the spectrum of galaxies, with the scatter of single ones
    (`scorepriors.models.colors`).

    Parameters
    ----------
    data
        For the bands, their colors and the noise level.
    area
        ``[K]``, sums of the morphologies, which turn fluxes into amplitudes.
    color_width
        Widths of the scatter, in units of those.
    """
    with numpyro.plate("fluxes", len(area)):
        usual = dist.Normal(jnp.log(data.noise_flux) + BRIGHTNESS, BRIGHTNESS_WIDTH)
        brightness = numpyro.sample("brightness", usual)
    return flux_given_brightness(data, brightness, color_width=color_width).of_amplitudes(area)


def flux_given_brightness(
    data: ImageData, brightness: Float[Array, " K"], *, color_width: float | Array = 1.0
) -> SpectrumPrior:
    """Fluxes of sources of known brightness: the Gaussian part of `flux_prior`.

    Parameters
    ----------
    data, color_width
        See `flux_prior`.
    brightness
        ``[K]``, logarithms of the fluxes summed over the bands.
    """
    flux = jnp.exp(brightness)[:, None] * data.mean_spectrum
    relative = color_width**2 * data.color_covariance
    return SpectrumPrior(flux, flux[:, :, None] * flux[:, None, :] * relative)
