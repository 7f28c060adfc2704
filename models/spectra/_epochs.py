r"""Spectra at several times: constant sources have one flux per filter, variable ones any.

With the bands of all epochs in one list, a constant source's fluxes in one filter are one number:
exact spectra are solved for one number per filter.  As a covariance, which must not be singular, every
epoch has a small scatter of its own (`CONSTANT`).  Fluxes of a variable source are Gaussian about zero,
so that they may be negative: independent and of a width far beyond the data, which know nothing of the
colors of galaxies; or, with a timescale, a Gaussian process of an amplitude that is found for each source,
in the ratio of a usual galaxy's fluxes between filters.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from scorepriors._errors import InputError
from scorepriors._typing import Array

from ._colors import bulge_tilt, color_prior
from ._priors import FAINTEST, GRID, LISTED, GalaxySpectra, Settled, _climb, _product, pixel_noise
from ._spectra import SpectrumPrior

#: Scatter of a constant source between epochs as a share of its flux, in covariances.
CONSTANT = 1e-3

#: Width of the fluxes of variable sources in units of the noise of a pixel.
FREE = 1e4

#: Share of the variance of a Gaussian process that each epoch has alone, for single precision.
ALONE = 1e-3

#: Largest amplitude of a light curve that is tried, in units of its root mean square.
_ABOVE = 10.0


class EpochSpectra(GalaxySpectra):
    """Prior on the fluxes of constant and of variable sources at several times.

    The site ``brightness [K]`` is that of constant sources.  Of variable ones it is, with a
    `timescale`, the logarithm of the sum over the bands of the standard deviations of the fluxes, so that
    each source has an amplitude of its own; without, it stands for nothing.

    Attributes
    ----------
    rows
        Whether each of the N sources of the catalog varies, ``[N]``.
    variable
        The same for the K slots of a scene: see `on`.
    width
        Standard deviation of the fluxes of variable sources in each band, ``[B]``, without a
        timescale: far more than any flux.
    correlation
        Correlation of the fluxes of a variable source between bands and times, ``[B, B]``.
    tie
        What relative changes of the flux in each filter, in units of their scatter, do to the fluxes
        relative to their means, ``[B, B]``, the filters first.
    known
        Precision of these, and of the fluxes of variable sources in units of their standard
        deviations, ``[2, B, B]``.
    timescale
        Days over which these change; None where those of different times are independent.
    """

    rows: Bool[Array, " N"]
    variable: Bool[Array, " K"]
    width: Float[Array, " B"]
    correlation: Float[Array, "B B"]
    tie: Float[Array, "B B"]
    known: Float[Array, "2 B B"]
    timescale: float | None = eqx.field(static=True)

    def __init__(
        self,
        mean,
        covariance,
        noise_flux,
        *,
        variable,
        width,
        correlation,
        tie,
        known,
        timescale: float | None = None,
        **options,
    ):
        super().__init__(mean, covariance, noise_flux, **options)
        self.rows = self.variable = np.asarray(variable, bool)
        self.width = np.asarray(width, np.float32)
        self.correlation = np.asarray(correlation, np.float32)
        self.tie, self.known = (np.asarray(a, np.float32) for a in (tie, known))
        self.timescale = timescale

    @classmethod
    def of_epochs(
        cls,
        wave: Sequence[float | None],
        weights: Sequence[np.ndarray],
        *,
        filters: Sequence[str],
        variable: Sequence[bool] | np.ndarray,
        times: Sequence[float] | None = None,
        timescale: float | None = None,
        flat: np.ndarray | None = None,
        **options,
    ) -> "EpochSpectra":
        """Return the prior for bands of all epochs.

        Parameters
        ----------
        wave
            Effective wavelengths in nm of the B bands, None for unknown ones.
        weights
            Inverse variances ``[H, W]`` of each band, from which the noise is taken.
        filters
            Filter of each band: a constant source has one flux in all bands of a filter.
        variable
            Whether each source varies, ``[N]``, in the order of the catalog; or of the slots of
            the scene, where it is made by hand.
        times, timescale
            Times of the bands, days, and the length (of a Matern process of order 3/2) over which
            the flux of a variable source in one filter changes, by an amplitude that its fluxes tell;
            independent fluxes if not given.
        flat
            Spectrum ``[B]`` flat in f_nu, in the units of the image; ones by default.
        **options
            Fields ``color_width``, ``brightness``, ``brightness_width``.

        Raises
        ------
        InputError
            If lengths differ, or a timescale has no times or is not positive.
        """
        flat = np.ones(len(wave)) if flat is None else np.asarray(flat, float)
        if len(filters) != len(wave):
            raise InputError(f"there are {len(wave)} bands but {len(filters)} names of filters.")
        names = list(dict.fromkeys(filters))
        which = np.array([names.index(name) for name in filters])
        first = [list(filters).index(name) for name in names]
        mean, covariance = color_prior([wave[k] for k in first], flat[first])
        # The same flux is another number in the units of another epoch.
        share = (mean / flat[first])[which] * flat
        tied = covariance[np.ix_(which, which)] + CONSTANT**2 * np.eye(len(wave))
        scatter = np.sqrt(np.diag(covariance))
        tie, of_filters = np.zeros((len(wave), len(wave))), np.eye(len(wave))
        tie[np.arange(len(wave)), which] = scatter[which]
        of_filters[: len(names), : len(names)] = covariance / scatter[:, None] / scatter
        correlation = _correlation(which, times, timescale)
        return cls(
            share / share.sum(),
            tied,
            pixel_noise(weights),
            variable=variable,
            width=[FREE * pixel_noise([one]) for one in weights],
            correlation=correlation,
            tie=tie,
            known=np.linalg.inv([of_filters, correlation]),
            timescale=timescale,
            tilt=bulge_tilt(wave, share / share.sum()),
            **options,
        )

    def on(self, index: Int[np.ndarray, " K"]) -> "EpochSpectra":
        """Return the prior for slots that hold these rows of the catalog; -1 for padding."""
        index = np.asarray(index)
        slots = np.where(index < 0, False, self.rows[index])
        return eqx.tree_at(lambda s: s.variable, self, slots)

    def given(self, brightness: Float[Array, " K"]) -> SpectrumPrior:
        """Return the Gaussian of the fluxes of sources of given brightness."""
        constant = super().given(brightness)
        if self.timescale is None:
            width = self.width[None]
        else:
            width = jnp.exp(brightness)[:, None] * self.mean
        free = width[:, :, None] * width[:, None, :] * self.correlation
        varies = self.variable[:, None, None]
        tied = self.color_width * constant.mean[:, :, None] * self.tie
        return SpectrumPrior(
            jnp.where(varies[..., 0], 0.0, constant.mean),
            jnp.where(varies, free, constant.covariance),
            jnp.where(varies, width[:, :, None] * jnp.eye(len(self.width)), tied),
            jnp.where(varies, self.known[1], self.known[0]),
            jnp.where(varies[..., 0], 0.0, constant.mean * self.tilt),
        )

    def moments(
        self,
        flux: Float[np.ndarray, "N B"],
        covariance: Float[np.ndarray, "N B B"],
        values: dict[str, np.ndarray],
        noise: Float[np.ndarray, " N"],
    ) -> tuple[Float[np.ndarray, "N B"], Float[np.ndarray, "N B B"]]:
        """Return mean and covariance of the fluxes of the sources of the catalog."""
        mean, spread = super().moments(flux, covariance, values, noise)
        rows = np.asarray(self.rows)
        if rows.any() and self.timescale is None:
            width = np.asarray(self.width, float)
            own = np.broadcast_to(
                width[:, None] * width * np.asarray(self.correlation, float),
                (int(rows.sum()), *covariance.shape[1:]),
            )
            mean[rows], spread[rows] = _product(0.0, own, flux[rows], covariance[rows])
        elif rows.any():
            mean[rows], spread[rows] = self._of_process(flux[rows], covariance[rows])
        return mean, spread

    def _of_process(self, flux: np.ndarray, covariance: np.ndarray):
        """Return mean and covariance of light curves, their amplitudes integrated out on a grid.

        As in `GalaxySpectra.moments`, the prior of the amplitude is flat below the noise.
        """
        unit = np.asarray(self.mean, float)
        own = unit[:, None] * unit * np.asarray(self.correlation, float)
        variance = np.maximum(np.einsum("kbb->kb", covariance), np.finfo(float).tiny)
        noise = 1 / np.sqrt(np.sum(unit**2 / variance, 1))
        top = _ABOVE * np.sqrt(np.mean((flux**2 + variance) / unit**2, 1))
        grid = np.linspace(np.log(FAINTEST * noise), np.log(top), GRID, axis=1)
        prior = np.exp(2 * grid)[..., None, None] * own
        log_weight = self._log_amplitude(grid, prior + covariance[:, None], flux[:, None])
        log_weight -= np.log1p(LISTED * noise[:, None] * np.exp(-grid))
        weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        given, spread = _product(0.0, prior, flux[:, None], covariance[:, None])
        found = np.einsum("kg,kgb->kb", weight, given)
        about = given - found[:, None]
        scatter = np.einsum("kg,kgb,kgc->kbc", weight, about, about)
        return found, np.einsum("kg,kgbc->kbc", weight, spread) + scatter

    def _log_amplitude(self, brightness, total, flux) -> np.ndarray:
        """Return log-densities of logarithms of amplitudes, given covariances of the fluxes."""
        solved = np.linalg.solve(total, flux[..., None])[..., 0]
        usual = np.log(float(self.noise_flux)) + float(self.brightness)
        chi2 = np.sum(flux * solved, -1) + np.linalg.slogdet(total)[1]
        return -0.5 * (chi2 + ((brightness - usual) / float(self.brightness_width)) ** 2)

    def _amplitude(self, flux: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Return the logarithms of the amplitudes that light curves ``[K, B]`` have, ``[K]``."""
        unit = np.asarray(self.mean, float)
        own = unit[:, None] * unit * np.asarray(self.correlation, float)
        noise = error[:, :, None] ** 2 * np.eye(len(unit))
        weight = unit**2 / error**2
        at = 0.5 * np.log(np.sum((flux**2 + error**2) / error**2, 1) / weight.sum(1))
        return _climb(
            lambda bright: self._log_amplitude(
                bright, np.exp(2 * bright)[:, None, None] * own + noise, flux
            ),
            at,
        )

    def start(
        self, flux: np.ndarray, error: np.ndarray, mask: np.ndarray, begin: np.ndarray | None = None
    ) -> Settled:
        """Return brightnesses of constant sources, and the fluxes of all."""
        settled = super().start(flux, error, mask, begin)
        varies = np.asarray(self.variable)
        usual = np.log(float(self.noise_flux)) + float(self.brightness)
        own, open_ = (usual, float(self.brightness_width))
        if self.timescale is not None and varies.any():
            own, open_ = np.where(varies & mask, self._amplitude(flux, error), usual), 0.3
        bright = np.where(varies, own, settled.values["brightness"])
        width = np.where(varies, open_, settled.widths["brightness"])
        significance = np.sqrt(np.sum((flux / error) ** 2, 1))
        return Settled(
            settled.values | {"brightness": bright},
            settled.widths | {"brightness": width},
            np.where(varies[:, None], flux, settled.flux),
            np.where(varies & mask, np.maximum(significance, 1.0), settled.snr),
        )


def _correlation(which, times, timescale) -> np.ndarray:
    """Return the correlation of a variable source's fluxes between bands."""
    if timescale is None:
        return np.eye(len(which))
    if times is None or len(times) != len(which):
        raise InputError("a timescale needs the time of every band; give times in days.")
    if not timescale > 0:
        raise InputError(f"the timescale must be positive, got {timescale}.")
    apart = np.sqrt(3) * np.abs(np.subtract.outer(np.asarray(times, float), times)) / timescale
    same = which[:, None] == which
    return np.where(same, (1 - ALONE) * (1 + apart) * np.exp(-apart), 0.0) + ALONE * np.eye(
        len(which)
    )
