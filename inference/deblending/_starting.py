"""Start values and widths, from a quick look at the data: what makes fits short.

All in NumPy: each blend is looked at once or twice, which no compilation repays.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors._stretch import LogStretch
from scorepriors.models.rendering._rendering import ImageData
from scorepriors.models.scene._blend import BRIGHTNESS, BRIGHTNESS_WIDTH, site_name
from scorepriors.models.scene._information import likelihood_diagonal_on_host
from scorepriors.models.sources._sources import Morphologies, Sources

#: Where a fit may start: from the fitted profiles, or badly on purpose (see `deblend`).
STARTS = ("profiles", "sed20", "flat", "gaussian", "blobs")

#: Standard deviation of Gaussian starts as a share of the side of the box: a fifth of it
#: at half maximum.
GAUSSIAN_WIDTH = 0.2 / 2.355


def linear_fluxes(data: ImageData, groups: Sequence[Morphologies]):
    """Fluxes ``[K, B]`` and errors by least squares for fixed morphologies.

    Regularized only by a Gaussian of 100,000 times the noise, which matters to none
    but padding and sources without data.
    """
    wide = 1e5 * float(data.noise_flux)
    mask = np.concatenate([np.asarray(m.mask) for m in groups])
    flux = np.zeros((len(mask), data.num_bands))
    error = np.full_like(flux, wide)
    pixels = flux.shape[1], -1
    images, weights = (np.asarray(a).reshape(pixels) for a in (data.images, data.weights))
    seen = []
    for group in groups:
        real = np.asarray(group.mask)
        image = np.asarray(group.image)[real]
        unit = image / np.maximum(image.sum((-2, -1), keepdims=True), 1e-3)
        seen.append(data.render_on_host(unit, np.asarray(group.corner)[real]))
    drawn = np.concatenate(seen).swapaxes(0, 1).reshape(data.num_bands, mask.sum(), -1)
    weighted = drawn * weights[:, None]
    normal = (weighted @ drawn.swapaxes(1, 2)).astype(float)
    normal += np.eye(mask.sum()) / wide**2
    inverse = np.linalg.inv(normal)
    right = (weighted @ images[:, :, None]).astype(float)
    flux[mask] = (inverse @ right)[..., 0].T
    error[mask] = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2)).T
    return flux, error


def profile_start(
    data: ImageData,
    stars: Sources | None,
    profiles: Sources | None,
    *,
    box: int = 32,
    star_box: int = 15,
    psf_sigma: float = 0.7,
    start: str = "profiles",
):
    """Start values and widths of a scene of stars and bulge-and-disk galaxies.

    Every source starts at its catalog position, galaxies as small round disks, with
    its least-squares flux: faint and blended ones get a usable start as well.  Other
    values of `start` than the default spoil fluxes or shapes: see `deblend`.

    Returns
    -------
    init, scale
        For `fit_map` with ``blend(data, None, None, stars, profiles)``.
    """
    groups = []
    if stars is not None:
        groups.append(Morphologies(blobs(stars, star_box, psf_sigma), stars.corner, stars.mask))
    if profiles is not None:
        width = (psf_sigma**2 + 1.5**2) ** 0.5 if start != "gaussian" else GAUSSIAN_WIDTH * box
        groups.append(Morphologies(blobs(profiles, box, width), profiles.corner, profiles.mask))
    flux, error = linear_fluxes(data, groups)
    total, snr, _ = _settled(data, groups, flux, error, start)
    several = len(groups) > 1
    init = {"brightness": np.log(total)}
    # The scatter of colors keeps the brightness wide, however bright the source.
    scale = {"brightness": np.full(len(total), 0.3)}
    first = 0
    if stars is not None:
        prefix, count = "stars/" if several else "", len(stars.mask)
        init[prefix + "offset"] = np.zeros((count, 2))
        scale[prefix + "offset"] = _width(snr[:count], 0.3, 0.7)[:, None]
        first = count
    if profiles is not None:
        prefix, count = "profiles/" if several else "", len(profiles.mask)
        for name, (value, size, prior, strength) in _PROFILE_SITES.items():
            width = _width(snr[first:], prior, strength)
            shape = (count, 2)[:size]
            init[prefix + name] = np.full(shape, value)
            if name == "log_radius" and start == "gaussian":
                # Half the light of a Gaussian is within 1.18 standard deviations.
                init[prefix + name] = np.full(shape, math.log(1.18 * GAUSSIAN_WIDTH * box))
            scale[prefix + name] = width[:, None] if size == 2 else width
    return _float32(init), _float32(scale)


def _spoiled(flux: np.ndarray, groups: Sequence[Morphologies], start: str) -> np.ndarray:
    """Fluxes ``[K, B]`` to start from: as they are, or badly wrong."""
    if start == "sed20":
        return 20 * flux
    if start == "flat":
        # Amplitudes of one, in the units of the image, whatever the band.
        area = np.concatenate([np.asarray(m.image).sum((-2, -1)) for m in groups])
        return np.broadcast_to(area[:, None], flux.shape)
    return flux


def _settled(data: ImageData, groups: Sequence[Morphologies], flux, error, start: str):
    """Brightness, SNR and spectra of the sources before any shape moves.

    Spectra are integrated out and have no start; what a wrong guess of theirs would touch
    is the brightness, the one number per source that their prior hangs on.  Uphill
    from there, with the shapes at hand held fixed, is its right value: otherwise shapes
    would bend to a wrong brightness first and be caught there.

    Returns
    -------
    total, snr
        ``[K]``: flux of all bands, and its ratio to the noise.
    spectra
        ``[K, B]``: the mean fluxes given that.
    """
    mask = np.concatenate([np.asarray(m.mask) for m in groups])
    total, snr = _matched_flux(data, _spoiled(flux, groups, start), error, mask)
    noise = np.where(mask, total / snr, 1.0)
    mean, floor = np.asarray(data.mean_spectrum, float), math.log(float(data.noise_flux))
    relative = np.asarray(data.color_covariance, float) * mean[:, None] * mean
    identity = np.eye(data.num_bands)

    def solve(brightness):
        expected = np.exp(brightness)[:, None] * mean
        prior = np.exp(2 * brightness)[:, None, None] * relative
        covariance = prior + error[:, :, None] ** 2 * identity
        step = np.linalg.solve(covariance, (flux - expected)[..., None])[..., 0]
        return expected, prior, covariance, step

    def log_density(brightness):
        expected, _, covariance, step = solve(brightness)
        usual = (brightness - floor - BRIGHTNESS) / BRIGHTNESS_WIDTH
        chi2 = np.sum((flux - expected) * step, -1) + np.linalg.slogdet(covariance)[1]
        return -0.5 * (chi2 + usual**2)

    brightness = np.where(mask, _climb(log_density, np.log(total)), np.log(total))
    expected, prior, _, step = solve(brightness)
    spectra = expected + np.einsum("kbc,kc->kb", prior, step)
    settled = np.exp(brightness)
    return settled, np.where(mask, settled / noise, 10.0), spectra


def _climb(function, at: np.ndarray, *, smallest: float = 1e-5) -> np.ndarray:
    """Maxima of functions of one number each, uphill from `at`, side by side."""
    at, value = np.array(at), function(at)
    step = np.ones_like(at)
    # Each halving comes after few moves: 100 rounds are far more than ever needed.
    for _ in range(100):
        ahead, behind = function(at + step), function(at - step)
        better = np.maximum(ahead, behind) > value
        move = np.where(better, np.where(ahead > behind, step, -step), 0.0)
        at, value = at + move, np.where(better, np.maximum(ahead, behind), value)
        step = np.where(better, step, step / 2)
        if step.max() < smallest:
            break
    return at


def _float32(values: dict) -> dict:
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


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
    return 1 / np.sqrt(1 / prior**2 + np.minimum(strength * snr, 30.0) ** 2)


def blobs(sources: Sources, box: int, sigma: float):
    """Round Gaussians ``[K, box, box]`` at the positions of sources."""
    pixels = np.arange(box)
    place = np.asarray(sources.center) - np.asarray(sources.corner)
    rows = (pixels - place[:, 0, None]) ** 2
    columns = (pixels - place[:, 1, None]) ** 2
    return np.exp(-(rows[:, :, None] + columns[:, None, :]) / (2 * sigma**2))


def _matched_flux(data: ImageData, flux, error, mask):
    """Band-summed flux ``[K]`` by matched weights, at least its noise, and its SNR."""
    mean = np.asarray(data.mean_spectrum, float)
    weight = mean / error**2
    noise = 1 / np.sqrt(np.sum(mean * weight, -1))
    total = np.sum(flux * weight, -1) * noise**2
    total = np.where(mask, np.maximum(total, noise), 10 * float(data.noise_flux))
    return total, np.where(mask, total / noise, 10.0)


def free_form_start(
    data: ImageData,
    prior: ScorePrior | None,
    galaxies: Morphologies | None,
    stars: Morphologies | None = None,
    large_prior: ScorePrior | None = None,
    large: Morphologies | None = None,
    *,
    start: str = "profiles",
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
    large_prior, large
        The second group of free-form sources, if there is one.
    start
        See `deblend`.

    Returns
    -------
    init, scale
        For `fit_map` with ``blend(data, prior, galaxies, stars, None, large_prior, large)``,
        without the sites of the stars.  The widths are those of a Gaussian with the
        curvature of the likelihood's diagonal plus the prior's noise floor, in the
        unconstrained space.
    """
    priors: dict[str, Any] = {"galaxies": prior, "large": large_prior}
    groups = {}
    for name, group in (("galaxies", galaxies), ("large", large), ("stars", stars)):
        if group is not None:
            groups[name] = group if name == "stars" else _peak_one(group, priors[name])
    flux, error = linear_fluxes(data, list(groups.values()))
    total, _, flux = _settled(data, list(groups.values()), flux, error, start)
    init, scale = {"brightness": np.log(total)}, {"brightness": np.full(len(total), 0.3)}
    first = 0
    for name, group in groups.items():
        own = flux[first : first + len(group.mask)]
        first += len(group.mask)
        if name != "stars":
            site = site_name(groups, name, "morphology")
            init[site] = group.image
            scale[site] = _pixel_widths(data, priors[name], group, own)
    return _float32(init), _float32(scale)


def _peak_one(group: Morphologies, prior: ScorePrior) -> Morphologies:
    image, stretch = np.asarray(group.image), cast(LogStretch, prior.stretch)
    scaled = image / image.max((-2, -1), keepdims=True)
    return group._replace(image=np.maximum(scaled, -0.5 * float(stretch.softening)))


def _pixel_widths(data: ImageData, prior: ScorePrior, group: Morphologies, flux) -> np.ndarray:
    """Widths of the pixels in the unconstrained space ``[K, n, n]``, given fluxes ``[K, B]``."""
    image, stretch = np.asarray(group.image), cast(LogStretch, prior.stretch)
    softening, compression = float(stretch.softening), float(stretch.scale)
    real = np.asarray(group.mask)[:, None]
    amplitude = np.where(real, flux / image.sum((-2, -1))[:, None], 0.0)
    information = likelihood_diagonal_on_host(
        data, amplitude, np.asarray(group.corner), image.shape[-1]
    )
    # u = log(x + s) = c z + log s, so du/dz = c and dx/du = x + s.
    floor = 1 / (compression * float(prior.sigma)) ** 2
    return 1 / np.sqrt(information * (image + softening) ** 2 + floor)
