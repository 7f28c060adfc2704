"""Exposures of a scene from observations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scorepriors._aside import Aside
from scorepriors._filters import wavelength
from scorepriors.models.data._joint import JointObservation
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._views import View
from scorepriors.models.noise._abstract import AbstractNoise
from scorepriors.models.noise._diagonal import Diagonal
from scorepriors.models.rendering._exposure import Band, Exposure
from scorepriors.models.rendering._kernels import kernels_of
from scorepriors.models.spectra._priors import GalaxySpectra


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
        One model of the noise per exposure; `Diagonal` with the weights of the observation if
        not given.

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
        Model of the noise; `Diagonal` with the weights of the observation if not given.
    on_model
        Whether its pixels are those of the model.
    """
    one, scale = view.observation, view.scale
    # The flux in a pixel grows with its area, of which turned pixels know the local one.
    gain = scale**2 if view.turned is None else 1.0
    kernels = kernels_of(view.psfs, boxes, psf_sigma, gain=gain)
    grid: Any = view.turned
    if grid is None and not on_model:
        grid = np.asarray([*view.origin, scale], np.float32)
    white = Diagonal(one.weights) if noise is None else noise
    bands = tuple(Band(name, wavelength(name)) for name in view.bands)
    return Exposure(one.images, white, kernels, grid, Aside(bands))


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
