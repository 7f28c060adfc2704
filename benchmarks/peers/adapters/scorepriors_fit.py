"""This package, as `scorepriors evaluate` runs it: profiles first, then free forms."""

import jax
import numpy as np
from astropy.table import Table

import scorepriors
from scorepriors._programs import keep_programs
from scorepriors.inference import deblend_many
from scorepriors.models import read_positions
from scorepriors.models.simulation._blend_sets import BlendSet


def version():
    return scorepriors.__version__


def deblend_all(blends, free_form=True):
    keep_programs()
    # The set itself: what the reader knows of the noise is part of the observation.
    held = BlendSet(blends[0].path)
    observations = [held.observation(blend.index) for blend in blends]
    positions = [
        read_positions(Table({"x": b.centers[:, 1], "y": b.centers[:, 0]}), obs)
        for b, obs in zip(blends, observations, strict=True)
    ]
    results = deblend_many(
        observations,
        positions,
        key=jax.random.key(0),
        center_error=0.05,
        padding=8,
        free_form=free_form,
    )
    scenes = [result.free_form if free_form else result.parametric for result in results]
    return [np.asarray(scene.convolved[0]) for scene in scenes]
