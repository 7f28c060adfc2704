"""Level and slopes of the sky in the empty pixels of an observation."""

import numpy as np

from scorepriors.models.noise._sky import sky_templates

from ._field_checks import _CLIP, _FEWEST, _ROUNDS, SIGNIFICANT, _empty, _plane, measure_field
from ._observation import Observation
from .positions._positions import Positions


def sky_level(obs: Observation, positions: Positions | None, kind: str) -> np.ndarray:
    """Return what the sky is where no source is, a start for a fit of it.

    Parameters
    ----------
    obs
        The observation.
    positions
        Positions of its sources; those that stand out are found by themselves.
    kind
        ``"constant"`` or ``"plane"``.

    Returns
    -------
    numpy.ndarray
        Coefficients ``[B, K]`` of the templates of `scorepriors.models.Sky`, image units; zero for
        bands with too few empty pixels.
    """
    level = np.nan_to_num(measure_field(obs, positions).sky)
    if kind == "constant":
        return level[:, None]
    templates = np.asarray(sky_templates(obs.shape, kind), float)
    places = np.zeros((0, 2)) if positions is None else positions.row_column
    empty, _ = _empty(obs, places)
    out = np.zeros((len(level), len(templates)))
    for found, image, weight in zip(out, obs.images, obs.weights, strict=True):
        good = empty & (weight > 0)
        if good.sum() < _FEWEST:
            continue
        values, noise = image[good].astype(float), np.median(weight[good]) ** -0.5
        design = templates[:, good].T
        found[0] = np.median(values)
        for _ in range(_ROUNDS):
            # Faint light is above the sky, not below.
            near = np.abs(values - design @ found) < _CLIP * noise
            if near.sum() < _FEWEST:
                break
            found[:] = np.linalg.lstsq(design[near], values[near], rcond=None)[0]
    return out


def has_slope(obs: Observation, positions: Positions | None) -> bool:
    """Return whether empty pixels of a band change across the image, by more than an accident.

    Parameters
    ----------
    obs, positions
        The observation, and positions of its sources.
    """
    places = np.zeros((0, 2)) if positions is None else positions.row_column
    empty, _ = _empty(obs, places)
    correlation = measure_field(obs, positions).correlation
    for image, weight, factor in zip(obs.images, obs.weights, correlation, strict=True):
        good = empty & (weight > 0)
        if good.sum() < _FEWEST:
            continue
        in_noise = image * np.median(weight[good]) ** 0.5
        middle = np.median(in_noise[good])
        _, slopes, errors = _plane(in_noise - middle, good)
        if (np.abs(slopes) > SIGNIFICANT * factor * errors).any():
            return True
    return False
