r"""Variances from a model, where those of a file follow the noise of its pixels.

Of a variance :math:`V = S + g\,d` that was made from the noisy pixel d, the part of the source is
replaced: :math:`V - g\,(d - m) = S + g\,m` with a model m of the image.  Its weights don't know the
noise, so they bias nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from scorepriors._errors import InputError

from ._joint import JointObservation
from ._observation import Observation
from ._own_noise import mean_of_nine, own_noise

#: Smallest variance from a model, in medians of the band: a floor against rounding.
_FLOOR = 0.05


def noise_from_model(
    obs: Observation | JointObservation, model: np.ndarray | Sequence[np.ndarray] | None = None
) -> Observation | JointObservation:
    """Take the noise of sources from a model where the variance follows the noise of the pixels.

    Parameters
    ----------
    obs
        Observation with the weights of its file.
    model
        Model of the image, ``[B, H, W]``; of joined observations one for each.  If not given,
        each pixel's expectation is the mean of its neighbors: rough where stars are sharp, but it
        does not know the pixel's own noise.

    Returns
    -------
    Observation or JointObservation
        The observation with weights from the model in such bands; itself where there are none.

    Raises
    ------
    InputError
        For a model of another shape.

    Notes
    -----
    `scorepriors.inference.deblend` does it by itself: the first fit has the means of neighbors,
    all others the model of that fit.  In a model of your own do the same: fit, call this with the
    fitted image, and fit again.
    """
    if not isinstance(obs, JointObservation):
        alone: Any = model if model is None or np.ndim(model) == 3 else model[0]
        return _mended(obs, alone)
    each = [None] * len(obs.views) if model is None else list(model)
    if len(each) != len(obs.views):
        raise InputError(f"there are {len(each)} models for {len(obs.views)} observations.")
    views = tuple(
        dataclasses.replace(view, observation=_mended(view.observation, one))
        for view, one in zip(obs.views, each, strict=True)
    )
    if all(a.observation is b.observation for a, b in zip(views, obs.views, strict=True)):
        return obs
    return dataclasses.replace(obs, views=views)


def bands_with_own_noise(obs: Observation | JointObservation) -> tuple[str, ...]:
    """Return the names of the bands whose variances follow the noise of their own pixels."""
    found = [own_noise(v.observation.images, v.observation.weights).found for v in obs.views]
    return tuple(band for band, one in zip(obs.bands, np.concatenate(found), strict=True) if one)


def _mended(obs: Observation, model: np.ndarray | None) -> Observation:
    slopes = own_noise(obs.images, obs.weights)
    if not slopes.found.any():
        return obs
    if model is None:
        model = np.stack([_neighbors(*band) for band in zip(obs.images, obs.weights, strict=True)])
    model = np.asarray(model, float)
    if model.shape != obs.images.shape:
        raise InputError(
            f"the model has the shape {model.shape} but the images have {obs.images.shape}; they "
            "must agree."
        )
    above, below = (slope[:, None, None] for slope in slopes)
    images, good = obs.images.astype(float), obs.weights > 0
    # What no source accounts for, such as a sky that was left in, is part of the variance as well.
    model = model + _by_band(images - model, good)
    variance = 1 / np.where(good, obs.weights, 1.0).astype(float)
    instead = variance - above * (np.maximum(images, 0) - np.maximum(model, 0))
    instead -= below * (np.minimum(images, 0) - np.minimum(model, 0))
    instead = np.maximum(instead, _FLOOR * _by_band(variance, good))
    chosen = good & slopes.found[:, None, None]
    return dataclasses.replace(obs, weights=np.where(chosen, 1 / instead, obs.weights))


def _by_band(values: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return the medians of unmasked pixels, ``[B, 1, 1]``; one for a band without any."""
    medians = [np.median(v[g]) if g.any() else 1.0 for v, g in zip(values, good, strict=True)]
    return np.array(medians)[:, None, None]


def _neighbors(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of the unmasked ones of the eight neighbors of every pixel."""
    good = (weights > 0).astype(float)
    light, count = (9 * mean_of_nine(a) - a for a in (good * image, good))
    return np.where(count > 0.5, light / np.maximum(count, 1), 0.0)
