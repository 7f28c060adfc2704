r"""Priors on the spectra of a scene's sources: Gaussian, given what they sample."""

import abc
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro import handlers

from scorepriors._typing import Array

from ._colors import bulge_tilt, color_prior
from ._spectra import SpectrumPrior

#: Mean, above the logarithm of the noise, and width of the logarithm of fluxes.  Number
#: counts are steep, but this is wide on purpose: four decades either way.
BRIGHTNESS, BRIGHTNESS_WIDTH = 4.0, 4.0

#: Grid of brightnesses over which they are integrated out: number of points, lower end in units
#: of the noise of a flux, upper end that many times the noise above the measured flux.
GRID, FAINTEST, GRID_REACH = 64, 0.01, 8.0

#: Flux in units of its noise below which the prior of a source in a catalog is flat in the flux.
LISTED = 10.0


class Settled(NamedTuple):
    """Start values of the sites of a prior on spectra, and the fluxes that follow from them.

    Attributes
    ----------
    values, widths
        Values by site, and their widths in the unconstrained space.
    flux
        Mean of the fluxes given these values and the data, ``[K, B]``.
    snr
        Ratio of the flux of all bands to its noise, ``[K]``.
    """

    values: dict
    widths: dict
    flux: np.ndarray
    snr: np.ndarray


class AbstractSpectra(eqx.Module):
    """Prior on the fluxes of a scene's sources, in the unit of the image.

    Fluxes must be Gaussian given the sites that `sample` draws, so that spectra can be solved
    for exactly.
    """

    @abc.abstractmethod
    def sample(self, num_sources: int) -> SpectrumPrior:
        """Draw the sites of the prior in a NumPyro model; return the Gaussian of the *fluxes*.

        Parameters
        ----------
        num_sources
            Number of sources K.
        """

    @abc.abstractmethod
    def start(
        self, flux: np.ndarray, error: np.ndarray, mask: np.ndarray, begin: np.ndarray | None = None
    ) -> Settled:
        """Return start values of the sites.

        Parameters
        ----------
        flux, error
            Least-squares fluxes and errors for the current shapes, ``[K, B]``.
        mask
            Mask ``[K]``, False for padding.
        begin
            Fluxes ``[K, B]`` at which a search for the values begins; `flux` if not given.
        """

    def on(self, index: np.ndarray) -> "AbstractSpectra":
        """Return the prior for the slots of a scene, the prior itself where sources are alike.

        Parameters
        ----------
        index
            Row of the catalog of each slot, ``[K]``; -1 for padding.
        """
        return self

    def moments(
        self,
        flux: Float[np.ndarray, "K B"],
        covariance: Float[np.ndarray, "K B B"],
        values: dict[str, np.ndarray],
        noise: Float[np.ndarray, " K"],
    ) -> tuple[Float[np.ndarray, "K B"], Float[np.ndarray, "K B B"]]:
        """Return mean and covariance of each source's fluxes under this prior and a measurement.

        Here the sites of the prior are held at fitted values, given which the prior is Gaussian;
        a prior that can do better overrides this.

        Parameters
        ----------
        flux, covariance
            Measured fluxes ``[K, B]``, and their covariances ``[K, B, B]``.
        values
            Fitted values of the sites of the prior, by name, ``[K, ...]``.
        noise
            Errors of the measured fluxes of all bands together, ``[K]``.
        """
        with handlers.substitute(data=values), handlers.seed(rng_seed=0):
            prior = self.sample(len(flux))
        own = np.asarray(prior.covariance, float)
        return _product(np.asarray(prior.mean, float), own, flux, covariance)


class GalaxySpectra(AbstractSpectra):
    r"""One flux per source, and colors Gaussian given the flux.

    A flat prior is not neutral with many bands: marginalized, flat in amplitude favors
    compact shapes and flat in flux extended ones, to the power of the number of bands.
    Here a site ``brightness [K]`` holds :math:`\log F_k`, the logarithm of the flux summed over
    the bands, and given it the flux in band b is Gaussian about the mean spectrum of galaxies,
    with the scatter of single galaxies (`scorepriors.models.spectra._colors`).

    Attributes
    ----------
    mean
        Mean spectrum of galaxies ``[B]`` in the units of the image, sum 1.
    covariance
        Covariance ``[B, B]`` of single galaxies' fluxes relative to it.
    noise_flux
        Band-summed noise of a pixel, the unit of the brightness.
    color_width
        Factor of the scatter of colors.
    tilt
        Mean difference of bulges from disks in each band relative to the flux, ``[B]``.
    brightness, brightness_width
        Mean of the brightness above the logarithm of `noise_flux`, and its standard deviation.
    """

    mean: Float[Array, " B"]
    covariance: Float[Array, "B B"]
    noise_flux: Float[Array, ""]
    color_width: Float[Array, ""]
    brightness: Float[Array, ""]
    brightness_width: Float[Array, ""]
    tilt: Float[Array, " B"]

    def __init__(
        self,
        mean,
        covariance,
        noise_flux,
        *,
        tilt=None,
        color_width: float = 1.0,
        brightness: float = BRIGHTNESS,
        brightness_width: float = BRIGHTNESS_WIDTH,
    ):
        put = [
            np.asarray(a, np.float32)
            for a in (mean, covariance, noise_flux, color_width, brightness, brightness_width)
        ]
        self.mean, self.covariance, self.noise_flux = put[:3]
        self.color_width, self.brightness, self.brightness_width = put[3:]
        self.tilt = np.zeros_like(self.mean) if tilt is None else np.asarray(tilt, np.float32)

    @classmethod
    def of_bands(
        cls,
        wave: Sequence[float | None],
        weights: Sequence[np.ndarray],
        *,
        flat: np.ndarray | None = None,
        **options,
    ) -> "GalaxySpectra":
        """Return the prior for bands of known wavelengths.

        Parameters
        ----------
        wave
            Effective wavelengths in nm, None for unknown ones.
        weights
            Inverse variances ``[H, W]`` of each band, from which the noise is taken.
        flat
            Spectrum ``[B]`` flat in f_nu, in the units of the image; ones by default.
        **options
            Fields ``color_width``, ``brightness``, ``brightness_width``.
        """
        flat = np.ones(len(wave)) if flat is None else np.asarray(flat, float)
        mean, covariance = color_prior(wave, flat)
        tilt = bulge_tilt(wave, mean)
        return cls(mean, covariance, pixel_noise(weights), tilt=tilt, **options)

    def sample(self, num_sources: int) -> SpectrumPrior:
        """Draw ``brightness [K]``."""
        with numpyro.plate("source", num_sources):
            return self.given(numpyro.sample("brightness", self.usual()))

    def usual(self) -> dist.Normal:
        """Return the prior of the brightness of a source."""
        return dist.Normal(jnp.log(self.noise_flux) + self.brightness, self.brightness_width)

    def given(self, brightness: Float[Array, " K"]) -> SpectrumPrior:
        """Return the Gaussian of the fluxes of sources of given brightness."""
        flux = jnp.exp(brightness)[:, None] * self.mean
        relative = self.color_width**2 * self.covariance
        covariance = flux[:, :, None] * flux[:, None, :] * relative
        return SpectrumPrior(flux, covariance, tilt=flux * self.tilt)

    def moments(
        self,
        flux: Float[np.ndarray, "K B"],
        covariance: Float[np.ndarray, "K B B"],
        values: dict[str, np.ndarray],
        noise: Float[np.ndarray, " K"],
    ) -> tuple[Float[np.ndarray, "K B"], Float[np.ndarray, "K B B"]]:
        """Return mean and covariance of the fluxes, the brightness integrated out on a grid.

        Where there is no light the density of the brightness is nothing like a Gaussian: the
        logarithm of the flux has no lower end.  Below some times the `noise` (`LISTED`) the
        prior is flat in the flux: sources are in a catalog because somebody saw them, and a
        prior flat in the logarithm would have most of them far below the noise.  `values` are
        not needed.
        """
        # Where rounding has left no error, as for a galaxy without end, that of a pixel.
        noise = np.where(noise > 0, noise, float(self.noise_flux))
        top = np.maximum(flux.sum(1), 0) + GRID_REACH * np.sqrt(
            np.maximum(covariance.sum((1, 2)), 0)
        )
        top = np.maximum(top, noise)
        # The same share of the noise at the lower end for all; the upper end far above the data.
        grid = np.linspace(np.log(FAINTEST * noise), np.log(top), GRID, axis=1)
        mean, relative = np.asarray(self.mean, float), np.asarray(self.covariance, float)
        relative = float(self.color_width) ** 2 * relative * mean[:, None] * mean
        bright = np.exp(grid)
        expected = bright[..., None] * mean
        own = bright[..., None, None] ** 2 * relative
        away = flux[:, None] - expected
        total = own + covariance[:, None]
        solved = np.linalg.solve(total, away[..., None])[..., 0]
        usual = np.log(float(self.noise_flux)) + float(self.brightness)
        log_weight = -0.5 * (
            np.sum(away * solved, -1)
            + np.linalg.slogdet(total)[1]
            + ((grid - usual) / float(self.brightness_width)) ** 2
        )
        log_weight += np.log(bright / (bright + LISTED * noise[:, None]))
        weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        given, spread = _product(expected, own, flux[:, None], covariance[:, None])
        found = np.einsum("kg,kgb->kb", weight, given)
        about = given - found[:, None]
        return found, np.einsum("kg,kgbc->kbc", weight, spread) + np.einsum(
            "kg,kgb,kgc->kbc", weight, about, about
        )

    def start(
        self, flux: np.ndarray, error: np.ndarray, mask: np.ndarray, begin: np.ndarray | None = None
    ) -> Settled:
        """Return brightnesses that maximize the density for the current shapes.

        Spectra are integrated out and have no start value; a wrong guess of them affects only
        the brightness, the one number per source on which their prior depends.  The brightness
        is maximized first with the shapes fixed: otherwise shapes would adapt to a wrong
        brightness and stay in a local maximum.
        """
        mean, floor = np.asarray(self.mean, float), math.log(float(self.noise_flux))
        total, snr = self._matched(flux if begin is None else begin, error, mask)
        noise = np.where(mask, total / snr, 1.0)
        # The default scatter of colors, for any `color_width`.
        relative = np.asarray(self.covariance, float) * mean[:, None] * mean
        identity = np.eye(len(mean))
        center, width = float(self.brightness), float(self.brightness_width)

        def solve(brightness):
            expected = np.exp(brightness)[:, None] * mean
            prior = np.exp(2 * brightness)[:, None, None] * relative
            covariance = prior + error[:, :, None] ** 2 * identity
            step = np.linalg.solve(covariance, (flux - expected)[..., None])[..., 0]
            return expected, prior, covariance, step

        def log_density(brightness):
            expected, _, covariance, step = solve(brightness)
            usual = (brightness - floor - center) / width
            chi2 = np.sum((flux - expected) * step, -1) + np.linalg.slogdet(covariance)[1]
            return -0.5 * (chi2 + usual**2)

        brightness = np.where(mask, _climb(log_density, np.log(total)), np.log(total))
        expected, prior, _, step = solve(brightness)
        spectra = expected + np.einsum("kbc,kc->kb", prior, step)
        snr = np.where(mask, np.exp(brightness) / noise, 10.0)
        # The scatter of colors keeps the brightness uncertain even for bright sources.
        widths = {"brightness": np.full(len(mask), 0.3)}
        return Settled({"brightness": brightness}, widths, spectra, snr)

    def _matched(self, flux, error, mask):
        """Return band-summed flux ``[K]`` by matched weights, at least its noise, and its SNR."""
        mean = np.asarray(self.mean, float)
        weight = mean / error**2
        noise = 1 / np.sqrt(np.sum(mean * weight, -1))
        total = np.sum(flux * weight, -1) * noise**2
        total = np.where(mask, np.maximum(total, noise), 10 * float(self.noise_flux))
        return total, np.where(mask, total / noise, 10.0)


def _product(mean, own, flux, covariance):
    """Return mean and covariance of the product of two Gaussians, over leading axes."""
    gain = np.swapaxes(np.linalg.solve(own + covariance, own), -1, -2)
    found = mean + np.einsum("...bc,...c->...b", gain, flux - mean)
    return found, own - gain @ own


def pixel_noise(weights: Sequence[np.ndarray]) -> float:
    """Return the quadratic sum over bands of the median noise of a pixel.

    Parameters
    ----------
    weights
        Inverse variances ``[H, W]`` of each band; a band without data does not count.
    """
    seen = (np.asarray(band)[np.asarray(band) > 0] for band in weights)
    return float(np.sqrt(sum(1 / np.median(band) for band in seen if band.size)))


def _climb(function: Callable, at: np.ndarray, *, smallest: float = 1e-5) -> np.ndarray:
    """Find maxima of functions of one number each, uphill from `at`, all at once."""
    at, value = np.array(at), function(at)
    step = np.ones_like(at)
    # Steps are halved after a few moves: 100 rounds are far more than ever needed.
    for _ in range(100):
        ahead, behind = function(at + step), function(at - step)
        better = np.maximum(ahead, behind) > value
        move = np.where(better, np.where(ahead > behind, step, -step), 0.0)
        at, value = at + move, np.where(better, np.maximum(ahead, behind), value)
        step = np.where(better, step, step / 2)
        if step.max() < smallest:
            break
    return at
