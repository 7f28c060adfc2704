"""Draws convolved and sampled as observed, and the sky beside them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scorepriors.inference.deblending._draws import Draws, source_draws
from scorepriors.inference.deblending._result import Deblended
from scorepriors.inference.deblending._sky import FittedSky, left_of_sky, without
from scorepriors.models.scene._scene import Scene


def observed_mean(scene: Scene, draws: Draws) -> list[np.ndarray]:
    """Return the posterior mean of one source as observed, ``[B, H, W]`` of every exposure.

    Parameters
    ----------
    scene
        Scene that was sampled.
    draws
        Draws of the source.
    """
    # Rendering is linear: the mean of the renderings is the rendering of each band's mean.
    still = draws.mean() if draws.image_in is None else None
    seen, first = [], 0
    for number, exposure in enumerate(scene.exposures):
        mean = draws.mean(number) if still is None else still
        own = mean[first : first + exposure.num_bands]
        first += exposure.num_bands
        corner = np.repeat(np.asarray(draws.corner)[None], len(own), axis=0)
        bands = np.arange(len(own))
        seen.append(exposure.render_on_host(own, corner)[bands, bands])
    return seen


def mean_as_observed(result: Deblended, tree: Any) -> tuple[np.ndarray, ...]:
    """Return posterior means of all sources as observed, ``[K, B, H, W]`` of every exposure."""
    found = [observed_mean(result.scene, draws) for draws in source_draws(tree)]
    return tuple(np.stack(cubes) for cubes in zip(*found, strict=True))


def sky_beside(result: Deblended, convolved: Sequence[np.ndarray]) -> tuple[Any, FittedSky | None]:
    """Return the observation without the posterior mean of the sky, and that sky; None for none.

    Parameters
    ----------
    result
        Scene that was sampled.
    convolved
        Posterior means of the sources as observed, ``[K, B, H, W]`` of every exposure.
    """
    if result.sky is None:
        return result.observation, None
    # The sky of a draw is linear in its sources: the mean of the skies is that beside the mean sources.
    level, error = left_of_sky(result.scene.exposures, convolved)
    more = replace(result.sky, level=tuple(level))
    return without(result.observation, more.images), result.sky.plus(level, error)
