"""Deblending of the embedded example, and no recompilation for other blends."""

import dataclasses
import os
import signal
import warnings
from functools import partial

import jax
import jax.monitoring
import numpy as np
import pytest
from conftest import gaussian_prior, small_observation

from scorepriors import InputError, ScorePrior
from scorepriors._stretch import LogStretch
from scorepriors._surveys import SURVEYS
from scorepriors._zoo import list_priors, priors_for
from scorepriors.inference._status import FitStatus
from scorepriors.inference.deblending import _deblend
from scorepriors.inference.deblending._deblend import Run, deblend, deblend_many, settings_of
from scorepriors.inference.deblending._priors import PriorWarning
from scorepriors.inference.deblending._stages import padded_sizes, prepare
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.data.positions._reading import read_positions
from scorepriors.models.simulation._example import load_example


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
    for image, true in zip(scene.convolved[0], truth.convolved, strict=True):
        cosine = np.vdot(image, true) / np.linalg.norm(image) / np.linalg.norm(true)
        assert cosine > 0.98
    np.testing.assert_allclose(deblended.center, truth.center, atol=0.3)


def test_a_fit_that_goes_on_keeps_its_fluxes(result):
    # Convergence of scenes is judged by what the last iterations gained: the claim is this.
    ended, _ = result
    obs = ended.observation
    longer = deblend(obs, read_positions(obs.catalog, obs), tolerance=0.01, max_iterations=1000)
    assert longer.converged
    more = longer.free_form.fit.num_iterations - ended.free_form.fit.num_iterations
    assert more > 10
    moved = np.abs(longer.photometry.flux - ended.photometry.flux) / ended.photometry.error
    assert np.median(moved) < 0.4
    assert moved.max() < 1.5


def blends(counts, seed=0, stars=()):
    """Observations of so many sources each, and where they are."""
    rng = np.random.default_rng(seed)
    grid = np.array([(r, c) for r in (6.0, 12.0, 18.0) for c in (6.0, 12.0, 18.0)])
    observations, where = [], []
    for count in counts:
        centers = grid[rng.permutation(9)[:count]] + rng.uniform(-0.4, 0.4, (count, 2))
        observations.append(small_observation(centers, seed=int(rng.integers(1000))))
        where.append(positions(centers, stars))
    return observations, where


def test_a_batch_equals_one_by_one():
    prior = gaussian_prior(box=16)
    observations, where = blends((3, 1, 4, 2, 3), stars=(0,))
    options = {"prior": prior, "max_iterations": 80, "tolerance": 0.01}
    # Two at a time and chunks of three: fits take the places of others, and one chunk ends
    # with an idle place.
    batch = deblend_many(observations, where, side_by_side=2, chunk=3, **options)
    for obs, at, many in zip(observations, where, batch, strict=True):
        one = deblend(obs, at, **options)
        assert many.positions is at
        for scene, other in ((many.free_form, one.free_form), (many.parametric, one.parametric)):
            error = np.maximum(one.free_form.flux_error, 1e-3)
            assert (np.abs(scene.flux - other.flux) / error).max() < 0.05
            np.testing.assert_allclose(scene.chi2, other.chi2, rtol=1e-3)
            assert abs(float(scene.fit.potential) - float(other.fit.potential)) < 0.1
        np.testing.assert_allclose(many.center, one.center, atol=0.02)
        assert len(many.free_form.fit.loss_history) == many.free_form.fit.num_iterations


def test_as_many_side_by_side_as_on_an_accelerator(monkeypatch):
    # Profiles too, and more places than fits; `test_lanes.py` has the numbers.
    options = {"prior": gaussian_prior(box=16), "max_iterations": 80, "tolerance": 0.01}
    observations, where = blends((3, 1, 4))
    usual = deblend_many(observations, where, side_by_side=2, **options)
    seen = []

    def lanes(scenes, **_):
        seen.append(len(scenes))
        return 4

    monkeypatch.setattr(_deblend, "profile_lanes", lanes)
    monkeypatch.setattr(_deblend, "free_form_lanes", lanes)
    at_once = deblend_many(observations, where, **options)
    assert seen == [3, 3]
    for one, other in zip(at_once, usual, strict=True):
        error = np.maximum(other.free_form.flux_error, 1e-3)
        pairs = (one.free_form, other.free_form), (one.parametric, other.parametric)
        for scene, known in pairs:
            assert (np.abs(scene.flux - known.flux) / error).max() < 0.05
            assert abs(float(scene.fit.potential) - float(known.fit.potential)) < 0.1


def test_profiles_left_early_for_free_forms_are_no_failure():
    (obs,), (at,) = blends((3,))
    settings = settings_of({"max_iterations": 80}, gaussian_prior(box=16), obs.pixel_scale)
    one = prepare(obs, at, settings)
    found = Run(settings, padded_sizes([one], 4), profile_iterations=2).all([one])[0]
    assert found.parametric.fit.num_iterations == 2
    assert found.parametric.fit.status is FitStatus.LEFT
    assert found.free_form.fit.converged
    assert found.converged
    # Without free forms after them they go on to their end.
    settings = settings_of({"free_form": False}, gaussian_prior(box=16), obs.pixel_scale)
    alone = Run(settings, padded_sizes([one], 4), profile_iterations=2).all([one])[0]
    assert alone.parametric.fit.num_iterations > 2
    assert alone.converged


def test_nothing_compiles_from_the_second_batch_on():
    prior = gaussian_prior(box=16)
    run = partial(deblend_many, prior=prior, max_iterations=20, padding=8, side_by_side=3)
    run(*blends((5, 2, 3, 4)))
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fitted = run(*blends((8, 2, 7, 1, 4, 6, 3), seed=1))
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled
    assert [len(f.free_form.flux) for f in fitted] == [8, 2, 7, 1, 4, 6, 3]


def test_blends_of_several_shapes_and_mistakes():
    prior = gaussian_prior(box=16)
    observations, where = blends((2, 2))
    observations.append(small_observation([(8.0, 9.0)], shape=(20, 24), seed=4))
    where.append(None)  # detected
    found = deblend_many(observations, where, prior=prior, max_iterations=5)
    assert [f.observation for f in found] == observations
    assert deblend_many([], prior=prior) == []
    with pytest.raises(InputError, match="3 observations but 2"):
        deblend_many(observations, where[:2], prior=prior)
    with pytest.raises(InputError, match="side_by_side"):
        deblend_many(observations, where, prior=prior, side_by_side=0)


def test_interruption_keeps_the_blends_that_are_done():
    seen = []

    def progress(done, total, text):
        seen.append(done)
        # Of the first chunk: one report per parametric fit and one for both free-form
        # fits; the next comes from the second chunk.
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    found = deblend_many(
        *blends((2, 2, 2, 2)),
        prior=gaussian_prior(box=16),
        max_iterations=10,
        chunk=2,
        side_by_side=2,
        progress=progress,
    )
    assert [f is None for f in found] == [False, False, True, True]


def test_nothing_compiles_from_the_second_blend_on():
    wide = gaussian_prior(box=16)
    prior = ScorePrior(wide.energy, LogStretch(), 0.3, sigma_max=5.0)
    rng = np.random.default_rng(5)
    compiled = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def fit(count):
        (obs,), (where,) = blends((count,), seed=int(rng.integers(1000)))
        return deblend(obs, where, prior=prior, max_iterations=20, padding=8)

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


def test_stars_beside_galaxies_keep_the_order_of_the_catalog():
    centers = [(7.0, 7.2), (15.8, 16.1), (8.0, 17.0)]
    obs = small_observation(centers, flux=500.0)
    prior = gaussian_prior(box=16)
    found = deblend(obs, positions(centers, stars=(1,)), prior=prior, max_iterations=60)
    for image, center in zip(found.free_form.convolved[0], centers, strict=True):
        peak = np.unravel_index(image.sum(0).argmax(), image.shape[1:])
        assert np.abs(np.array(peak) - center).max() <= 1
    columns = {column.name: column.values for column in found.parametric.columns}
    assert np.isnan(columns["profile_radius"]).tolist() == [False, True, False]


def test_a_prior_of_other_pixels_is_said_to_be(result):
    obs = result[0].observation  # pixels of 0.2 arcsec
    prior = ScorePrior(
        gaussian_prior(box=16).energy,
        LogStretch(),
        0.3,
        sigma_max=5.0,
        name="wide",
        pixel_scale=1.01,
    )
    with pytest.warns(
        PriorWarning, match="learned galaxies in pixels of 1.01 arcsec; use lsst-32 and lsst-64"
    ):
        deblend(obs, read_positions(obs.catalog, obs), prior=prior, max_iterations=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PriorWarning)
        # Profiles alone do not ask what the prior has learned.
        alone = deblend(obs, read_positions(obs.catalog, obs), prior=prior, models="profiles")
    assert alone.free_form is alone.parametric
    assert not alone.prior_name
    assert set(alone.free_form.models) <= {"profile", "point"}


def test_no_prior_of_the_same_pixels_is_recommended(result):
    obs = result[0].observation
    wcs = obs.wcs.deepcopy()
    wcs.wcs.cdelt *= 1.2
    coarse = dataclasses.replace(obs, wcs=wcs)
    where = read_positions(obs.catalog, obs)
    with pytest.warns(PriorWarning, match="pixels of 0.2 arcsec; no shipped prior is"):
        deblend(coarse, where, prior="lsst-irregular-32", max_iterations=1)


def test_pixels_choose_the_prior(result):
    obs = result[0].observation
    wcs = obs.wcs.deepcopy()
    wcs.wcs.cdelt *= 5
    coarse = dataclasses.replace(obs, wcs=wcs)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PriorWarning)
        found = deblend(coarse, read_positions(obs.catalog, obs), max_iterations=1)
    assert found.prior_name == "ztf-32"
    assert priors_for(0.2) == priors_for(None) == ("lsst-32", "lsst-64")
    assert priors_for(0.168) == ("hsc-32",)
    named = {name for one in SURVEYS for name in one.named_priors}
    assert named <= {info.name for info in list_priors()}
    assert priors_for(0.9) == ("ztf-32",)
