"""Weights of a blend's pixels after a fit: outliers lose theirs, and bright light has an error."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scorepriors.models.data._joint import JointObservation
from scorepriors.models.data._own_noise import own_noise
from scorepriors.models.data._warnings import said_before

from ._misfit import kept_weight, model_error, with_model_error
from ._options import Settings
from ._result import FittedScene
from ._stages import Blend, noises_with_sky
from ._trails import trails_of_one_band

#: Change of a share of a weight, and factor of the error of a model, that are worth another fit.
_CHANGED, _GROWN = 0.2, 1.2


def without_trails(blend: Blend, settings: Settings) -> Blend:
    """Return the blend without the weights of trails that are in one band alone, before any fit."""
    if not settings.options.outliers or blend.given is not None:
        return blend
    views = [view.observation for view in blend.obs.views]
    found = tuple(trails_of_one_band(one.images, one.weights) for one in views)
    if not any(one.any() for one in found):
        return blend
    kept = tuple(np.where(one, 0.0, 1.0) for one in found)
    weights = [one.weights for one in views]
    return _weighed(replace(blend, kept=kept, trails=found), weights, settings)


def without_outliers(blend: Blend, found: FittedScene, settings: Settings) -> Blend | None:
    """Return the blend with less weight where a fit does not explain the pixels.

    Parameters
    ----------
    blend, found
        The blend, and a parametric scene fitted to it.
    settings
        Options and priors.

    Returns
    -------
    Blend or None
        None if there is nothing to change.
    """
    kept = tuple(
        np.where(_is_noise(one), kept_weight(one.images - model, one.weights, model, one.psfs), 1.0)
        for one, model in _views(blend, found)
    )
    if blend.trails is not None:
        each = zip(kept, blend.trails, strict=True)
        kept = tuple(np.where(trail, 0.0, one) for one, trail in each)
    before = [np.ones(one.shape) for one in kept] if blend.kept is None else blend.kept
    if all((np.abs(new - old) < _CHANGED).all() for new, old in zip(kept, before, strict=True)):
        return None
    weights = [one.weights for one, _ in _views(blend, found)]
    return _weighed(replace(blend, kept=kept), weights, settings)


def with_error_of_model(blend: Blend, found: FittedScene, settings: Settings) -> Blend | None:
    """Return the blend with an error of the model that grows with its light.

    Parameters
    ----------
    blend, found
        The blend, and the scene of the result fitted to it.
    settings
        Options and priors.

    Returns
    -------
    Blend or None
        None if no error is needed, or none larger than that of the blend.
    """
    before = blend.model_error
    shares, weights = [], []
    for number, (one, model) in enumerate(_views(blend, found)):
        own = one.weights if blend.kept is None else one.weights * blend.kept[number]
        share = np.where(_is_noise(one)[:, 0, 0], model_error(one.images - model, own, model), 0.0)
        if before is not None:
            share = np.maximum(share, before[number])
        shares.append(share)
        weights.append(with_model_error(one.weights, model, share))
    known = [np.zeros(share.shape) for share in shares] if before is None else before
    if all((new <= _GROWN * old).all() for new, old in zip(shares, known, strict=True)):
        return None
    return _weighed(replace(blend, model_error=tuple(shares)), weights, settings)


def _is_noise(obs) -> np.ndarray:
    """Return whether the weights of a band know the noise of its pixels, ``[B, 1, 1]``.

    Where they follow the noise, all that is left over is biased by it.
    """
    return ~own_noise(obs.images, obs.weights).found[:, None, None]


def _views(blend: Blend, found: FittedScene):
    """Return the observations before any mending of weights, and the model of each."""
    obs = blend.obs if blend.unmended is None else blend.unmended
    models = (cube.sum(0) for cube in found.convolved)
    return list(zip((view.observation for view in obs.views), models, strict=True))


def _weighed(blend: Blend, weights: Sequence[np.ndarray], settings: Settings) -> Blend:
    """Return the blend with weights, times the shares of them that outliers keep."""
    first = blend.obs if blend.unmended is None else blend.unmended
    kept = [1.0] * len(weights) if blend.kept is None else blend.kept
    now = [weight * share for weight, share in zip(weights, kept, strict=True)]
    with said_before():
        obs = _with_weights(first, now)
    each = zip(blend.exposures, noises_with_sky(obs, settings, blend.sky), strict=True)
    seen = tuple(replace(exposure, noise=noise) for exposure, noise in each)
    return replace(blend, obs=obs, exposures=seen, unmended=first)


def _with_weights(obs, weights: Sequence[np.ndarray]):
    if isinstance(obs, JointObservation):
        each = zip(obs.views, weights, strict=True)
        views = tuple(replace(v, observation=_with_weights(v.observation, [w])) for v, w in each)
        return replace(obs, views=views)
    return replace(obs, weights=weights[0])
