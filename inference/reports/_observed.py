"""Draws convolved and sampled as observed."""

from typing import Any

import numpy as np

from scorepriors.inference.deblending._draws import Draws, source_draws
from scorepriors.inference.deblending._result import Deblended
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
    mean = draws.mean()
    seen, first = [], 0
    for exposure in scene.exposures:
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
