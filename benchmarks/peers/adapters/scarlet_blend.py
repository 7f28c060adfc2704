"""scarlet as its quick start has it."""

import numpy as np
import scarlet


def version():
    return scarlet.__version__


def deblend(blend, iterations=100):
    frame = scarlet.Frame(
        blend.images.shape,
        psf=scarlet.GaussianPSF(sigma=(0.8,) * len(blend.bands)),
        channels=blend.bands,
    )
    obs = scarlet.Observation(
        blend.images, psf=scarlet.ImagePSF(blend.psfs), weights=blend.weights, channels=blend.bands
    ).match(frame)
    sources, skipped = scarlet.initialization.init_all_sources(
        frame,
        [tuple(center) for center in blend.centers],
        obs,
        max_components=2,
        min_snr=50,
        thresh=1,
        fallback=True,
        silent=True,
        set_spectra=True,
    )
    scarlet.Blend(sources, obs).fit(iterations, e_rel=1e-4)
    models = np.zeros((len(blend.centers), *blend.images.shape))
    kept = [k for k in range(len(models)) if k not in skipped]
    for k, source in zip(kept, sources, strict=True):
        models[k] = obs.render(source.get_model(frame=frame))
    return models
