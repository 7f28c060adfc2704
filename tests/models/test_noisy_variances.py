"""Variances that follow the noise of their own pixels: found, never in honest files, and mended."""

import warnings

import numpy as np
import pytest
from astropy.wcs import WCS

from scorepriors import InputError
from scorepriors.models import NoiseWarning, Observation, join_observations, noise_from_model
from scorepriors.models.data._model_noise import bands_with_own_noise
from scorepriors.models.data._own_noise import own_noise

SHAPE = (48, 48)


def star(center, width):
    rows, columns = np.indices(SHAPE)
    squared = (rows - center[0]) ** 2 + (columns - center[1]) ** 2
    return np.exp(-squared / (2 * width**2)) / (2 * np.pi * width**2)


def stars(rng, sky, width, number, snr):
    """Stars with signal to noise about `snr` each, electrons."""
    flux = snr * np.sqrt(sky * 4 * np.pi * width**2)
    places = rng.uniform(6, 42, (number, 2))
    return sum(flux * rng.uniform(0.2, 2) * star(place, width) for place in places)


def seen(rng, light, sky):
    """Counts above the sky, with the noise of photons."""
    return (rng.poisson(light + sky) - sky).astype(float)


def scenes():
    """Random fields in electrons above the sky: sharp and smooth, empty and crowded."""
    for seed in range(108):
        rng = np.random.default_rng(seed)
        sky, width = (4.0, 100.0, 25000.0)[seed % 3], (0.6, 1.7)[seed // 3 % 2]
        snr = (10, 100, 1000)[seed // 6 % 3]
        light = stars(rng, sky, width, (4, 30)[seed // 18 % 2], snr)
        yield rng, light, seen(rng, light, sky), sky


def test_honest_variances_give_no_alarm_and_noisy_ones_always():
    alarms, missed = [], []
    for rng, light, images, sky in scenes():
        flat = 1 + 0.1 * rng.normal(size=SHAPE)
        honest = (np.full(SHAPE, sky), sky + light, (sky + light) * flat)
        noisy = (np.maximum(sky + images, 1), sky + np.maximum(images, 0))
        # With the roughness of a flat field as large as the noise of pixels is at most.
        noisy += (noisy[0] * (1 + 0.005 * rng.normal(size=SHAPE)),)
        for found, variances in ((alarms, honest), (missed, noisy)):
            weights = (1 / np.array(variances)).astype(np.float32)
            own = own_noise(np.broadcast_to(images, weights.shape), weights)
            found.append(own.found)
    assert not np.any(alarms)
    assert np.all(missed)


def test_pixels_that_changed_in_place_are_looked_at_anew():
    rng = np.random.default_rng(0)
    images = seen(rng, stars(rng, 100.0, 1.7, 4, 30), 100.0)[None]
    weights = 1 / (100.0 + images)
    assert own_noise(images, weights).found.all()
    weights[:] = 0.01
    assert not own_noise(images, weights).found.any()


def test_slopes_are_the_gain_where_pixels_are_masked_and_variances_are_cut_at_zero():
    rng = np.random.default_rng(3)
    light = stars(rng, 100.0, 1.7, 5, 40)
    images = seen(rng, light, 100.0) / 2.5  # electrons per unit
    sky = 40.0 + np.linspace(0, 20, 48)  # an exposure map
    variance = np.stack([sky + images / 2.5, sky + np.maximum(images, 0) / 2.5, sky + 0 * images])
    weights = 1 / variance
    weights[:, rng.random(SHAPE) < 0.02] = 0
    weights[:, :, :7] = 0
    own = own_noise(np.stack([images] * 3), weights)
    assert own.found.tolist() == [True, True, False]
    np.testing.assert_allclose(own.above, [0.4, 0.4, 0], rtol=1e-5)
    np.testing.assert_allclose(own.below, [0.4, 0, 0], atol=1e-5)
    # Where nearly nothing is seen, or nothing varies, nothing is said.
    weights[:, :45] = 0
    assert not own_noise(np.stack([images] * 3), weights).found.any()
    assert not own_noise(np.zeros((1, *SHAPE)), np.ones((1, *SHAPE))).found.any()


def observed(rng, light, sky, noise, **more):
    """An observation in bands with variances from pixels (True) and from the truth (False)."""
    images = np.stack([seen(rng, light, sky) for _ in noise])
    pairs = zip(images, noise, strict=True)
    variance = np.stack([np.maximum(sky + (i if own else light), 1) for i, own in pairs])
    return Observation.from_arrays(images, variance=variance, psfs=np.ones((1, 1)), **more)


def test_fluxes_are_biased_before_and_not_after():
    shape, sky, flux = star((24.3, 23.6), 1.7), 4.0, 600.0
    pulls: dict[str, list] = {"file": [], "neighbors": [], "model": []}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        with pytest.warns(NoiseWarning, match="in band r follows the noise of its own pixels"):
            obs = observed(rng, flux * shape, sky, (True,), bands=("r",))
        fitted = np.nan
        for name, model in (("file", obs), ("neighbors", None), ("model", None)):
            if name == "neighbors":
                model = noise_from_model(obs)
            elif name == "model":
                model = noise_from_model(obs, (fitted * shape)[None])
            weights = model.weights[0].astype(float)
            fitted = float((weights * shape * obs.images[0]).sum() / (weights * shape**2).sum())
            pulls[name].append((fitted - flux) * np.sqrt((weights * shape**2).sum()))
    # A tenth is the standard error of the mean of a hundred.
    assert np.mean(pulls["file"]) < -1
    assert abs(np.mean(pulls["neighbors"])) < 0.4
    assert abs(np.mean(pulls["model"])) < 0.3
    assert 0.8 < np.std(pulls["model"]) < 1.2


def test_only_bands_that_need_it_change_and_masked_pixels_stay_masked():
    rng = np.random.default_rng(5)
    light = stars(rng, 50.0, 1.7, 3, 60)
    mask = rng.random(SHAPE) < 0.03
    with pytest.warns(NoiseWarning, match="in band g follows"):
        obs = observed(
            rng, light, 50.0, (True, False), bands=("g", "r"), mask=mask, zero_point=27.0
        )
    assert bands_with_own_noise(obs) == ("g",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mended = noise_from_model(obs, np.stack([light, light]))
    np.testing.assert_array_equal(mended.weights > 0, obs.weights > 0)
    np.testing.assert_array_equal(mended.weights[1], obs.weights[1])
    np.testing.assert_array_equal(mended.images, obs.images)
    assert mended.zero_point == obs.zero_point
    used = ~mask
    np.testing.assert_allclose(1 / mended.weights[0][used], (50 + light)[used], atol=1.5)
    # Now that it is honest, there is nothing to do.
    assert bands_with_own_noise(mended) == ()
    assert noise_from_model(mended) is mended
    with pytest.raises(InputError, match="the model has the shape"):
        noise_from_model(obs, light[None])


def test_a_sky_that_was_left_in_stays_in_the_variance():
    rng = np.random.default_rng(7)
    light = stars(rng, 200.0, 1.7, 3, 60)
    counts = rng.poisson(light + 200.0).astype(float)
    with pytest.warns(NoiseWarning):
        obs = Observation.from_arrays(
            counts[None], variance=counts[None], psfs=np.ones((1, 1)), bands=("r",)
        )
    mended = noise_from_model(obs, light[None])
    np.testing.assert_allclose(1 / mended.weights[0], 200 + light, rtol=0.02)


def test_joined_observations_are_mended_one_by_one():
    rng = np.random.default_rng(9)
    light = stars(rng, 50.0, 1.7, 3, 60)
    wcs = WCS(naxis=2)
    wcs.wcs.crpix, wcs.wcs.crval, wcs.wcs.cdelt = [24, 24], [10, 10], [-5e-5, 5e-5]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = (
            observed(rng, light, 50.0, (own,), bands=(band,), wcs=wcs, unit="nJy")
            for own, band in ((False, "r"), (True, "i"))
        )
    joint = join_observations(one, two)
    assert bands_with_own_noise(joint) == ("i",)
    mended = noise_from_model(joint, [light[None], light[None]])
    assert mended.views[0].observation is one
    assert bands_with_own_noise(mended) == ()
    assert mended.bands == joint.bands
    assert noise_from_model(mended) is mended
    with pytest.raises(InputError, match="1 models for 2 observations"):
        noise_from_model(joint, [light[None]])
