"""A bright star in single precision: the posterior is a ten-thousandth of a pixel wide."""

import warnings

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np

from scorepriors.inference import SamplingWarning, fit_map, sample
from scorepriors.inference.sampling._tree import effective_sizes, group
from scorepriors.models import (
    Observation,
    PointSource,
    Scene,
    blend,
    exposures,
    gaussian_psf,
    place_sources,
)
from scorepriors.models.sources._point import point_image

CENTER = np.array([[20.0, 21.0]])
OFFSET = np.array([-0.085, 0.312])


def scene(treatment):
    """Star in five bands, beside a galaxy that no source accounts for."""
    psfs = np.stack([gaussian_psf(1.3 + 0.1 * b, 21) for b in range(5)])
    empty = np.zeros((5, 44, 44))
    obs = Observation.from_arrays(empty, variance=np.ones_like(empty), psfs=psfs)
    (data,), stars = exposures(obs, boxes=(15,)), place_sources(CENTER, box=15)
    place = CENTER + OFFSET - np.asarray(stars.corner)
    point = point_image(place, box=15, psf_sigma=0.7, xp=np)
    shown = data.render_on_host(point, np.asarray(stars.corner))[0].astype(float)
    rows, columns = np.indices(empty.shape[1:])
    galaxy = 90.0 * np.exp(-((rows - 34) ** 2 + (columns - 36) ** 2) / 8)
    spectrum = np.array([4e4, 6e4, 8e4, 9e4, 1e5])
    images = spectrum[:, None, None] * shown + galaxy
    images += np.random.default_rng(0).normal(size=images.shape)
    obs = Observation.from_arrays(images, variance=np.ones_like(images), psfs=psfs)
    return Scene.build(obs, stars=PointSource(stars), treatment=treatment)


def in_double_precision(tree):
    wider = {"f": jnp.float64, "c": jnp.complex128}
    return jax.tree.map(lambda a: jnp.asarray(a, wider.get(a.dtype.kind, a.dtype)), tree)


def run(scene, init):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return sample(
            blend,
            scene,
            key=jax.random.key(0),
            init=init,
            algorithm="dynamic_hmc",
            num_warmup=250,
            num_samples=400,
        )


def test_a_bright_star_in_single_precision_is_as_in_double():
    star = scene("sampled")
    # With exact spectra the way to the mode is short.
    mode = fit_map(blend, scene("marginal"), key=jax.random.key(0)).values
    start = {name: mode[name] for name in ("stars/offset", "brightness", "spectrum")}
    single = run(star, start)
    with jax.enable_x64(True):
        double = run(*in_double_precision((star, start)))
    found, wanted = group(single, "posterior"), group(double, "posterior")
    assert found["stars_offset"].dtype == np.float32
    assert wanted["stars_offset"].dtype == np.float64
    assert min(v.min() for v in effective_sizes(found).values()) > 400
    for name in ("stars_offset", "flux"):
        a, b = np.asarray(found[name], float), np.asarray(wanted[name])
        for index in np.ndindex(a.shape[2:]):
            for what in (np.mean, np.std):
                one, other = a[(..., *index)], b[(..., *index)]
                kind = "mean" if what is np.mean else "sd"
                error = np.hypot(
                    *(float(np.asarray(az.mcse(v, method=kind))) for v in (one, other))
                )
                assert abs(what(one) - what(other)) < 3.5 * error
    width = found["stars_offset"].astype(float).std(("chain", "draw"))
    assert 2e-5 < float(width.min()) < float(width.max()) < 1e-4
