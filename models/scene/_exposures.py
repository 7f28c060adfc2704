"""Exposures of a scene from observations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scorepriors._aside import Aside
from scorepriors._errors import InputError
from scorepriors._filters import wavelength
from scorepriors.models.data._joint import JointObservation
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._views import View
from scorepriors.models.noise._abstract import AbstractNoise
from scorepriors.models.noise._correlated import Correlated
from scorepriors.models.noise._diagonal import Diagonal
from scorepriors.models.rendering._exposure import Band, Exposure
from scorepriors.models.rendering._kernels import kernels_of
from scorepriors.models.spectra._epochs import EpochSpectra
from scorepriors.models.spectra._priors import GalaxySpectra

#: Distance in pixels up to which pixels of two observations are the same.
SAME = 1e-3


def exposures(
    obs: Observation | JointObservation,
    *,
    boxes: Sequence[int] = (32,),
    psf_sigma: float | None = 0.7,
    noise: Sequence[AbstractNoise] | None = None,
) -> tuple[Exposure, ...]:
    """Prepare an observation for a model: one exposure, or one for each that was joined.

    Parameters
    ----------
    obs
        Pixels, weights and PSFs.
    boxes
        Sides of the source boxes in pixels; boxes of very different sizes are convolved on
        grids of their own.
    psf_sigma
        Standard deviation in pixels of the PSF in the morphologies, that of the prior,
        `ScorePrior.model_psf_sigma`; None for morphologies without PSF.
    noise
        One model of the noise per exposure; that of `noise_of` if not given.

    Returns
    -------
    tuple of Exposure
        Exposures whose arrays are NumPy's until a model is bound to them.  Everything that
        varies between blends is an array: equal shapes share compiled programs.
    """
    return tuple(
        exposure_of(
            view,
            boxes=boxes,
            psf_sigma=psf_sigma,
            noise=None if noise is None else noise[number],
            on_model=number == 0,
        )
        for number, view in enumerate(obs.views)
    )


def exposure_of(
    view: View,
    *,
    boxes: Sequence[int],
    psf_sigma: float | None,
    noise: AbstractNoise | None = None,
    on_model: bool,
) -> Exposure:
    """Prepare one of the observations that are fitted together.

    Parameters
    ----------
    view
        The observation, and the place of its pixels.
    boxes, psf_sigma
        Arguments of `exposures`.
    noise
        Model of the noise; that of `noise_of` if not given.
    on_model
        Whether its pixels are those of the model.
    """
    one, scale = view.observation, view.scale
    # The flux in a pixel grows with its area, of which turned pixels know the local one.
    gain = scale**2 if view.turned is None else 1.0
    kernels = kernels_of(view.psfs, boxes, psf_sigma, gain=gain)
    grid: Any = view.turned
    if grid is None and not on_model and not _same_pixels(view):
        grid = np.asarray([*view.origin, scale], np.float32)
    own = noise_of(one) if noise is None else noise
    # Observations without a zero point are joined only if all have one unit, whose factor is one.
    bands = tuple(
        Band(name, wavelength(name), one.time, float(factor))
        for name, factor in zip(view.bands, one.flux_unit[1], strict=True)
    )
    return Exposure(one.images, own, kernels, grid, Aside(bands))


def _same_pixels(view: View) -> bool:
    """Return whether the pixels are those of the model, as of epochs on one grid."""
    return (
        abs(view.scale - 1) * max(view.observation.shape) < SAME
        and max(map(abs, view.origin)) < SAME
    )


def epoch_spectra(
    obs: Observation | JointObservation,
    found: Sequence[Exposure],
    variable: Sequence[bool] | np.ndarray,
    *,
    timescale: float | None = None,
    **options: Any,
) -> EpochSpectra:
    """Return the prior on spectra where some sources vary and the others are constant.

    Bands of one name in several observations are one filter at several times.

    Parameters
    ----------
    obs
        Observations joined by `join_observations`, with their `time` if there is a `timescale`.
    found
        Exposures of the observation.
    variable
        Whether each source varies, ``[N]``, in the order of the catalog; of a scene made by hand,
        that of its slots.
    timescale
        Days over which fluxes change; fluxes at different times are independent if not given.
    **options
        Fields ``color_width``, ``brightness``, ``brightness_width`` of `GalaxySpectra`.

    Raises
    ------
    InputError
        If there is a timescale but an observation has no time.
    """
    times: Any = [band.time for one in found for band in one.bands]
    if timescale is not None and any(time is None for time in times):
        raise InputError("a timescale needs the time of every observation; give time=MJD to each.")
    return EpochSpectra.of_epochs(
        [band.wavelength for one in found for band in one.bands],
        [band for view in obs.views for band in view.observation.weights],
        filters=[name for view in obs.views for name in view.observation.bands],
        variable=variable,
        times=times,
        timescale=timescale,
        flat=1 / np.asarray(obs.flux_unit[1]),
        **options,
    )


def noise_of(obs: Observation) -> AbstractNoise:
    """Return the model of an observation's noise.

    `Correlated` with its weights if its `correlation` is known, `Diagonal` with them if not.
    """
    known = obs.correlation
    if known is None or known.shape[-1] == 1:
        return Diagonal(obs.weights)
    return Correlated(obs.weights, known)


def galaxy_spectra(
    obs: Observation | JointObservation, found: Sequence[Exposure], **options: Any
) -> GalaxySpectra:
    """Return the prior on the spectra of galaxies in the bands of an observation.

    Parameters
    ----------
    obs
        Observation, which gives the unit of the fluxes.
    found
        Exposures of the observation.
    **options
        Fields ``color_width``, ``brightness``, ``brightness_width`` of `GalaxySpectra`.
    """
    wave = [band.wavelength for one in found for band in one.bands]
    weights = [band for view in obs.views for band in view.observation.weights]
    return GalaxySpectra.of_bands(wave, weights, flat=1 / np.asarray(obs.flux_unit[1]), **options)
