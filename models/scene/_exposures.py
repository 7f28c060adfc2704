"""Exposures of a scene from observations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scorepriors._aside import Aside
from scorepriors._filters import wavelength
from scorepriors.models.data._joint import JointObservation
from scorepriors.models.data._observation import Observation
from scorepriors.models.noise._abstract import AbstractNoise
from scorepriors.models.noise._correlated import Correlated
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
        One model of the noise per exposure; that of `noise_of` if not given.

    Returns
    -------
    tuple of Exposure
        Exposures whose arrays are NumPy's until a model is bound to them.  Everything that
        varies between blends is an array: equal shapes share compiled programs.
    """
    found = []
    for number, view in enumerate(obs.views):
        one, scale = view.observation, view.scale
        # The flux in a pixel grows with its area.
        kernels = kernels_of(view.psfs, boxes, psf_sigma, gain=scale**2)
        grid = None if number == 0 else np.asarray([*view.origin, scale], np.float32)
        own = noise_of(one) if noise is None else noise[number]
        bands = tuple(Band(name, wavelength(name)) for name in view.bands)
        found.append(Exposure(one.images, own, kernels, grid, Aside(bands)))
    return tuple(found)


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
