"""The main job on the embedded example, and that no blend compiles anew."""

import jax
import jax.monitoring
import numpy as np
import pytest
from conftest import small_observation

from scorepriors import ScorePrior
from scorepriors.inference.deblending import deblend
from scorepriors.models.detection import detect
from scorepriors.models.example import load_example
from scorepriors.models.positions import Positions, read_positions
from scorepriors.stretch import LogStretch


def positions(centers, stars=()):
    ids = tuple(str(i) for i in range(len(centers)))
    point = np.array([i in stars for i in range(len(centers))])
    return Positions(ids, np.asarray(centers, float), point)


@pytest.fixture(scope="module")
def result():
    obs, truth = load_example()
    return deblend(obs, read_positions(obs.catalog, obs)), truth


def test_the_example_is_taken_apart(result):
    deblended, truth = result
    assert deblended.converged
    scene = deblended.free_form
    assert 0.9 < scene.chi2 < 1.1
    ratio = scene.flux.sum(1) / truth.flux.sum(1)
    assert np.abs(ratio - 1).max() < 0.15
    for image, true in zip(scene.convolved, truth.convolved, strict=True):
        cosine = np.vdot(image, true) / np.linalg.norm(image) / np.linalg.norm(true)
        assert cosine > 0.98
    np.testing.assert_allclose(deblended.center, truth.center, atol=0.3)


def test_nothing_compiles_from_the_second_blend_on():
    from conftest import gaussian_prior

    wide = gaussian_prior(box=16)
    prior = ScorePrior(wide.energy, LogStretch(), 0.3, sigma_max=5.0)
    rng = np.random.default_rng(5)
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def fit(count):
        grid = np.array([(r, c) for r in (6.0, 12.0, 18.0) for c in (6.0, 12.0, 18.0)])
        centers = grid[rng.permutation(9)[:count]] + rng.uniform(-0.4, 0.4, (count, 2))
        obs = small_observation(centers, seed=int(rng.integers(1000)))
        return deblend(obs, positions(centers), prior=prior, max_iterations=20, padding=8)

    fit(5)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fitted = [fit(count) for count in (2, 3, 4, 5, 6, 7, 8, 2, 6)]
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled
    assert [len(f.free_form.flux) for f in fitted] == [2, 3, 4, 5, 6, 7, 8, 2, 6]
    # The listener does hear compilations: a new shape makes some.
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x * 3 + 1)(np.ones(17))
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled


def test_stars_beside_galaxies_keep_the_order_of_the_catalogue():
    from conftest import gaussian_prior

    centers = [(7.0, 7.2), (15.8, 16.1), (8.0, 17.0)]
    obs = small_observation(centers, flux=500.0)
    prior = gaussian_prior(box=16)
    found = deblend(obs, positions(centers, stars=(1,)), prior=prior, max_iterations=60)
    for image, center in zip(found.free_form.convolved, centers, strict=True):
        peak = np.unravel_index(image.sum(0).argmax(), image.shape[1:])
        assert np.abs(np.array(peak) - center).max() <= 1
    assert np.isnan(found.profile["log_radius"]).tolist() == [False, True, False]


def test_detection_finds_the_sources_of_an_easy_image():
    centers = [(6.0, 6.0), (17.0, 16.0)]
    found = detect(small_observation(centers, flux=2000.0))
    assert len(found.ids) == 2
    distances = np.linalg.norm(found.row_column[:, None] - np.array(centers), axis=-1)
    assert distances.min(0).max() < 0.7
