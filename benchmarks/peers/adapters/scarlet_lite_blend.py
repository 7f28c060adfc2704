"""scarlet_lite as its page "Getting started" has it, by proximal Adam, which it says fits best."""

from importlib.metadata import version as installed

import lsst.scarlet.lite as lite
import numpy as np
from lsst.scarlet.lite.component import default_adaprox_parameterization


def version():
    return installed("lsst-scarlet-lite")


def deblend(blend, iterations=50):
    point = lite.utils.integrated_circular_gaussian(sigma=0.8).astype(blend.images.dtype)
    obs = lite.Observation(
        blend.images,
        1 / blend.weights,
        blend.weights,
        blend.psfs,
        point[None],
        bands=tuple(blend.bands),
    )
    start = lite.initialization.FactorizedInitialization(
        obs,
        [tuple(map(round, center)) for center in blend.centers],
        monotonicity=lite.operators.Monotonicity((51, 51)),
    )
    fit = lite.Blend(start.sources, obs).fit_spectra()
    fit.parameterize(default_adaprox_parameterization)
    fit.fit(iterations, e_rel=1e-4, min_iter=15, resize=10)
    models = np.zeros((len(blend.centers), *blend.images.shape))
    for k, source in enumerate(fit.sources):
        model = lite.Image.from_box(obs.bbox, bands=obs.bands, dtype=obs.dtype)
        for component in source.components:
            model.insert(component.get_model())
        models[k] = obs.convolve(model).data
    return models
