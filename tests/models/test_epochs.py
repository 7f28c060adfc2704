"""Spectra of constant and variable sources at several times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models import (
    EpochSpectra,
    Observation,
    PointSource,
    Scene,
    epoch_spectra,
    exposures,
    join_observations,
    place_sources,
    spectrum_posterior,
)
from scorepriors.models.rendering._psf import gaussian_psf

FILTERS = ("g", "r")


def sky(step=0.2):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crpix, wcs.wcs.crval = (16.0, 16.0), (150.0, 2.0)
    wcs.wcs.cdelt = -step / 3600, step / 3600
    return wcs


def epochs(count=3, rng=None, image=None, zero_points=(27.0,)):
    """Observations of one place at several times, seeing and zero points changing."""
    found = []
    for number in range(count):
        psf = np.stack([gaussian_psf(1.6 + 0.2 * number, size=21)] * 2)
        pixels = np.zeros((2, 32, 32)) if image is None else image(number)
        noise = 0.0 if rng is None else rng.normal(size=pixels.shape)
        found.append(
            Observation.from_arrays(
                pixels + noise,
                variance=np.ones(pixels.shape),
                psfs=psf,
                bands=FILTERS,
                wcs=sky(),
                zero_point=zero_points[number % len(zero_points)],
                time=60000.0 + 5 * number,
            )
        )
    return found


def prior_of(obs, variable, **options) -> EpochSpectra:
    return epoch_spectra(obs, exposures(obs, boxes=(15,), psf_sigma=0.7), variable, **options)


def test_constant_sources_have_one_flux_per_filter():
    obs = join_observations(*epochs(zero_points=(27.0, 29.5)))
    spectra = prior_of(obs, [False])
    given = spectra.given(jnp.array([8.0]))
    # In nanojanskys the zero points are gone.
    factor = np.asarray(obs.flux_unit[1])
    mean = np.asarray(given.mean[0]) * factor
    np.testing.assert_allclose(mean[0::2], mean[0], rtol=1e-5)
    np.testing.assert_allclose(mean[1::2], mean[1], rtol=1e-5)
    draws = np.random.default_rng(0).multivariate_normal(
        mean, np.asarray(given.covariance[0], float) * factor * factor[:, None], 200
    )
    assert np.abs(draws[:, 2] / draws[:, 0] - 1).max() < 0.05
    assert np.abs(draws[:, 1] / draws[:, 0] - mean[1] / mean[0]).max() > 0.2


def test_the_posterior_is_that_of_a_regression():
    """A variable star in a constant one whose place and shape are known: ordinary least squares."""
    rng = np.random.default_rng(1)
    obs = join_observations(*epochs(4, rng))
    seen = exposures(obs, boxes=(15,), psf_sigma=0.7)
    at = place_sources([[15.3, 15.1], [16.4, 17.0]], box=15)
    boxes = PointSource(at).boxes({"offset": np.zeros((2, 2), np.float32)})
    drawn = [jnp.asarray(e.render_on_host(boxes.image, boxes.corner)) for e in seen]
    spectra = prior_of(obs, [False, True])
    found = spectrum_posterior(
        drawn,
        [e.images for e in seen],
        [e.noise for e in seen],
        spectra.given(jnp.array([12.0, 0])),
    )
    errors = np.sqrt(np.asarray(jnp.einsum("kbkb->kb", found.covariance())))
    design = [np.asarray(d, float).reshape(2, 2, -1) for d in drawn]
    for band in range(2):
        # Columns: the constant flux, and one for every epoch.
        columns = np.zeros((4, design[0].shape[-1], 5))
        for k, one in enumerate(design):
            columns[k, :, 0], columns[k, :, 1 + k] = one[0, band], one[1, band]
        columns = columns.reshape(-1, 5)
        exact = np.sqrt(np.diag(np.linalg.inv(columns.T @ columns)))
        np.testing.assert_allclose(errors[1, band::2], exact[1:], rtol=0.01)
        np.testing.assert_allclose(errors[0, band], exact[0], rtol=0.01)
        pixels = np.concatenate([np.asarray(e.images[band], float).ravel() for e in seen])
        fitted = np.linalg.lstsq(columns, pixels, rcond=None)[0]
        away = np.asarray(found.mean)[1, band::2] - fitted[1:]
        assert np.abs(away / exact[1:]).max() < 0.02


@pytest.mark.parametrize("which", ["log_profiled", "log_marginal"])
def test_gradients_are_those_of_differences(which):
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        obs = join_observations(*epochs(2, rng, lambda number: np.full((2, 32, 32), 0.3)))
        seen = exposures(obs, boxes=(15,), psf_sigma=0.7)
        at = place_sources([[15.3, 15.1], [16.4, 17.0]], box=15)
        boxes = PointSource(at).boxes({"offset": np.zeros((2, 2), np.float32)})
        spectra = prior_of(obs, [False, True])
        drawn = [jnp.asarray(e.render_on_host(boxes.image, boxes.corner), float) for e in seen]

        def density(brightness, change):
            moved = [one.at[:, :, 15, 15].add(change) for one in drawn]
            images, noise = [jnp.asarray(e.images, float) for e in seen], [e.noise for e in seen]
            prior = spectra.given(jnp.stack([brightness, 0.0])).of_amplitudes(jnp.ones(2) * 1.1)
            return getattr(spectrum_posterior(moved, images, noise, prior), which)

        at, step = (jnp.array(5.0), jnp.array(0.01)), 1e-4
        slopes = jax.grad(density, (0, 1))(*at)
        for k, slope in enumerate(slopes):
            ends = [density(*(a + s * step * (i == k) for i, a in enumerate(at))) for s in (1, -1)]
            assert float(slope) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-3)


def test_a_timescale_correlates_the_fluxes_of_one_filter():
    obs = join_observations(*epochs(3))
    correlation = np.asarray(prior_of(obs, [True], timescale=10.0).correlation)
    assert correlation[0, 0] == pytest.approx(1)
    root = np.sqrt(3) * 5.0 / 10.0
    assert correlation[0, 2] == pytest.approx((1 + root) * np.exp(-root), rel=2e-3)
    assert correlation[0, 1] == 0
    assert np.linalg.eigvalsh(correlation).min() > 0


def test_slots_follow_the_catalog_and_share_programs():
    obs = join_observations(*epochs(2))
    spectra = prior_of(obs, [False, True, False])
    assert spectra.on(np.array([2, 1, -1, 0])).variable.tolist() == [False, True, False, False]
    one, other = (spectra.on(np.array(index)) for index in ([0, 1], [1, 0]))
    calls = []

    @jax.jit
    def mean(prior):
        calls.append(1)
        return prior.given(jnp.zeros(2)).mean

    assert not np.allclose(mean(one), mean(other))
    assert len(calls) == 1


def test_the_time_is_that_of_the_header():
    wcs = sky()
    wcs.wcs.mjdobs = 59000.25
    pixels = {"variance": np.ones((1, 9, 9)), "psfs": np.ones((1, 1))}
    obs = Observation.from_arrays(np.ones((1, 9, 9)), wcs=wcs, **pixels)
    assert obs.time == 59000.25
    assert Observation.from_arrays(np.ones((1, 9, 9)), wcs=wcs, time=1.0, **pixels).time == 1.0
    assert Observation.from_arrays(np.ones((1, 9, 9)), **pixels).time is None
    with pytest.raises(InputError, match="`time` must be an MJD"):
        Observation.from_arrays(np.ones((1, 9, 9)), time="yesterday", **pixels)


def test_wrong_arguments_are_named():
    early, late = epochs(2)
    obs = join_observations(early, late)
    with pytest.raises(InputError, match="timescale must be positive"):
        prior_of(obs, [True], timescale=0.0)
    bare = {"images": early.images, "variance": np.ones(early.images.shape), "psfs": early.psfs}
    untimed = Observation.from_arrays(**bare, bands=FILTERS, wcs=sky(), zero_point=27.0)
    with pytest.raises(InputError, match="time of every observation"):
        prior_of(join_observations(untimed, late), [True], timescale=3.0)


def test_a_scene_of_a_variable_star_has_its_own_fluxes():
    obs = join_observations(*epochs(2))
    stars = PointSource(place_sources([[15.0, 15.0]], box=15))
    scene = Scene.build(obs, spectra=prior_of(obs, [True]), stars=stars)
    assert scene.num_bands == 4


def light_curves(spectra, amplitude, count, rng):
    """Fluxes of sources that vary as the prior says, noise of one, and its covariance."""
    unit = np.asarray(spectra.mean, float)
    own = (
        amplitude**2 * np.asarray(spectra.correlation, float) * np.outer(unit, unit) / unit[0] ** 2
    )
    true = rng.multivariate_normal(np.zeros(len(unit)), own, size=count)
    measured = true + rng.normal(size=true.shape)
    return true, measured, np.broadcast_to(np.eye(len(unit)), (count, *own.shape))


@pytest.mark.parametrize("amplitude", [0.5, 2.0, 300.0])
def test_a_timescale_lowers_errors_that_still_hold(amplitude):
    """Thirty epochs of a source, three of them within the timescale at a time."""
    count, number = 30, 300
    options = {
        "wave": [480.0] * count,
        "weights": [np.full((4, 4), 1 / 0.2**2)] * count,
        "filters": ["g"] * count,
        "variable": np.ones(number, bool),
        "times": 5.0 * np.arange(count),
    }
    spectra = EpochSpectra.of_epochs(timescale=30.0, **options)
    rng = np.random.default_rng(0)
    true, measured, covariance = light_curves(spectra, amplitude, number, rng)
    mean, spread = spectra.moments(measured, covariance, {}, np.full(number, count**0.5))
    error = np.sqrt(np.einsum("kbb->kb", spread))
    pull = (mean - true) / error
    assert 0.95 < pull.std() < 1.05
    assert 0.66 < (np.abs(pull) < 1).mean() < 0.71
    if amplitude < 100:
        assert error.mean() < 0.6
    # Far above the noise the data decide alone; and each epoch without a timescale.
    else:
        assert error.mean() > 0.9
    alone = EpochSpectra.of_epochs(**options).moments(measured, covariance, {}, np.ones(number))
    np.testing.assert_allclose(alone[0], measured, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.einsum("kbb->kb", alone[1]), 1.0, rtol=1e-3)


def test_the_amplitude_of_a_light_curve_is_found():
    count = 20
    spectra = EpochSpectra.of_epochs(
        [480.0, 620.0] * count,
        [np.full((4, 4), 25.0)] * (2 * count),
        filters=["g", "r"] * count,
        variable=[True, False],
        times=np.repeat(5.0 * np.arange(count), 2),
        timescale=15.0,
    ).on(np.array([0, 1]))
    rng = np.random.default_rng(3)
    _, flux, _ = light_curves(spectra, 20.0, 2, rng)
    flux[1] = 100.0
    settled = spectra.start(flux, np.ones(flux.shape), np.ones(2, bool))
    found = np.exp(settled.values["brightness"][0]) * float(spectra.mean[0])
    assert 12 < found < 33
    # The Gaussian of the fluxes has that amplitude, and its factors are those of its covariance.
    prior = spectra.given(jnp.asarray(settled.values["brightness"]))
    assert float(prior.covariance[0, 0, 0]) == pytest.approx(found**2, rel=1e-3)
    assert np.asarray(prior.mean)[0].max() == 0
    correlation = np.asarray(prior.covariance[0]) / found**2
    assert correlation[0, 2] > 0.8
