"""scarlet2 as its example with an image of HSC has it, without the neural prior."""

from functools import partial
from importlib.metadata import version as installed

import jax.numpy as jnp
import scarlet2
from numpyro.distributions import constraints

# Tests and prints of its own are no part of a fit.
scarlet2.set_validation(False)


def version():
    return installed("scarlet2")


def deblend(blend, iterations=1000):
    obs = scarlet2.Observation(
        jnp.asarray(blend.images),
        weights=jnp.asarray(blend.weights),
        psf=jnp.asarray(blend.psfs),
        channels=blend.bands,
    )
    frame = scarlet2.Frame.from_observations(obs)
    obs.match(frame)
    with scarlet2.Scene(frame) as scene:
        for center in jnp.asarray(blend.centers, jnp.float32):
            try:
                spectrum, morphology = scarlet2.init.from_gaussian_moments(obs, center)
            except ValueError:
                spectrum = scarlet2.init.pixel_spectrum(obs, center)
                morphology = scarlet2.init.compact_morphology()
            # A spectrum below zero is outside of its constraint, and every value would be NaN.
            scarlet2.Source(center, jnp.maximum(spectrum, 1e-3), morphology)
    spectrum_step = partial(scarlet2.relative_step, factor=0.05)
    morphology_step = partial(scarlet2.relative_step, factor=1e-3)
    with scarlet2.Parameters(scene):
        for i, source in enumerate(scene.sources):
            scarlet2.Parameter(
                source.spectrum,
                name=f"spectrum:{i}",
                constraint=constraints.positive,
                stepsize=spectrum_step,
            )
            scarlet2.Parameter(
                source.morphology,
                name=f"morph:{i}",
                constraint=constraints.unit_interval,
                stepsize=morphology_step,
            )
    fitted = scene.fit(obs, max_iter=iterations, e_rel=1e-4, progress_bar=False)
    return [obs.render(fitted.evaluate_source(one)) for one in fitted.sources]
