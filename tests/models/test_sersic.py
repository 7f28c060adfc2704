"""Sersic sources: of a given index, and of a free one that a fit finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorepriors.inference import fit_map
from scorepriors.models import (
    Observation,
    Scene,
    Sersic,
    blend,
    exposures,
    gaussian_psf,
    place_sources,
    start_values,
)
from scorepriors.models.sources._bulge_disk import SMALLEST_RADIUS
from scorepriors.models.sources._profiles import ellipse, gaussian_mixture_image, sersic_mixture
from scorepriors.models.sources._sersic import HIGHEST, LOWEST

CENTER = np.array([[23.3, 24.1]])
VALUES = {
    "offset": np.array([[0.1, -0.2]]),
    "log_radius": np.log([4.0]),
    "ellipticity": np.array([[0.2, 0.1]]),
}


def logit(index):
    share = (np.asarray(index) - LOWEST) / (HIGHEST - LOWEST)
    return np.log(share / (1 - share))


def mixture_image(index, *, box=32, psf_sigma=0.7):
    """The source of `VALUES` as a fixed mixture of Gaussians."""
    weights, sigmas = sersic_mixture(index)
    at = place_sources(CENTER, box=box)
    return gaussian_mixture_image(
        weights,
        sigmas * (np.exp(VALUES["log_radius"][:, None]) + SMALLEST_RADIUS),
        ellipse(VALUES["ellipticity"][:, None], np),
        at.center + VALUES["offset"] - at.corner,
        box=box,
        psf_sigma=psf_sigma,
        xp=np,
    )


@pytest.mark.parametrize("index", [1.0, 4.0])
def test_a_given_index_is_the_fixed_mixture(index):
    group = Sersic(place_sources(CENTER, box=32), index=index)
    assert "index_logit" not in group.sites
    expected = mixture_image(index)
    atol = 1e-5 * expected.max()
    np.testing.assert_allclose(group.image(VALUES, np), expected, atol=atol)
    compiled = jax.jit(lambda values: group.image(values))(VALUES)
    np.testing.assert_allclose(compiled, expected, atol=atol)
    assert [c.name for c in group.columns(VALUES)][-1] != "profile_index"


@pytest.mark.parametrize("index", [1.0, 2.5, 4.0])
def test_a_free_index_of_that_value_is_nearly_the_same(index):
    group = Sersic(place_sources(CENTER, box=32))
    values = {**VALUES, "index_logit": logit([index])}
    image, expected = group.image(values, np), mixture_image(index)
    assert np.linalg.norm(image - expected) < 5e-3 * np.linalg.norm(expected)
    column = group.columns(values)[-1]
    assert column.name == "profile_index"
    np.testing.assert_allclose(column.values, index)


def test_every_source_has_an_index_of_its_own():
    group = Sersic(place_sources(np.repeat(CENTER, 2, 0), box=32))
    two = {name: np.repeat(value, 2, 0) for name, value in VALUES.items()}
    both = group.image({**two, "index_logit": logit([1.0, 4.0])}, np)
    for image, index in zip(both, (1.0, 4.0), strict=True):
        expected = mixture_image(index)[0]
        assert np.linalg.norm(image - expected) < 5e-3 * np.linalg.norm(expected)


def test_a_fit_finds_the_index():
    bands, shape = 2, (48, 48)
    psfs = np.stack([gaussian_psf(sigma, 21) for sigma in (1.3, 1.6)])
    empty = Observation.from_arrays(
        np.ones((bands, *shape)), variance=np.ones((bands, *shape)), psfs=psfs
    )
    (one,) = exposures(empty, boxes=(48,))
    box = mixture_image(2.5, box=48)
    flux = np.array([30_000.0, 50_000.0])
    corner = np.asarray(place_sources(CENTER, box=48).corner)
    images = flux[:, None, None] * one.render_on_host(box, corner)[0]
    images += np.random.default_rng(0).normal(size=images.shape)
    obs = Observation.from_arrays(images, variance=np.ones_like(images), psfs=psfs)
    # Positions that are off by a fifth of a pixel.
    galaxy = Sersic(place_sources(CENTER + VALUES["offset"] + 0.2, box=48))
    scene = Scene.build(obs, galaxy=galaxy)
    init, scale = start_values(scene)
    fit = fit_map(blend, scene, key=jax.random.key(0), init=init, scale=scale)
    assert fit.converged
    columns = {c.name: c for c in galaxy.columns(scene.values_of("galaxy", fit.values))}
    np.testing.assert_allclose(columns["profile_index"].values, 2.5, rtol=0.03)
    np.testing.assert_allclose(columns["profile_radius"].values, 4 + SMALLEST_RADIUS, rtol=0.03)
    np.testing.assert_allclose(fit.values["flux"], flux[None] * box.sum(), rtol=0.02)
    # The start was far off.
    start = galaxy.columns(scene.values_of("galaxy", init))[-1].values
    assert abs(jnp.log(start[0] / 2.5)) > 0.3
