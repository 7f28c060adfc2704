"""Noise and sky of empty pixels: what is said, what is mended, and what raises no alarm."""

import dataclasses
import warnings

import numpy as np
import pytest
from astropy.wcs import WCS
from scipy.ndimage import gaussian_filter

from scorepriors._errors import InputError
from scorepriors.models import (
    NoiseWarning,
    join_observations,
    load_example,
    rescale_noise,
    subtract_sky,
)
from scorepriors.models.data._field_checks import (
    FieldWarning,
    check_field,
    measure_field,
    warn_of_field,
)
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.positions._positions import Positions

NOISE = 2.0
FWHM = 4.0
PSF = np.exp(-(np.arange(-9, 10)[:, None] ** 2 + np.arange(-9, 10) ** 2) / 2 / (FWHM / 2.355) ** 2)
PSF /= PSF.sum()


def light(places, fluxes, shape=(64, 64), width=2.2):
    rows, columns = np.indices(shape)
    squared = [(rows - row) ** 2 + (columns - column) ** 2 for row, column in places]
    return sum(
        flux * np.exp(-one / 2 / width**2) / (2 * np.pi * width**2)
        for flux, one in zip(fluxes, squared, strict=True)
    )


PLACES = np.array([[20.0, 22.0], [26.0, 30.0], [47.0, 41.0]])
AT = Positions(("a", "b", "c"), PLACES, np.zeros(3, bool))


def field(sky=0.0, claimed=1.0, *, seed=0, noise=None, shape=(64, 64), bands="gr", **more):
    """A scene whose file claims `claimed` times its true noise."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, NOISE, (len(bands), *shape)) if noise is None else noise
    pixels = light(PLACES, [1500, 900, 3000], shape) + noise + np.reshape(sky, (-1, 1, 1))
    variance = np.full(pixels.shape, (claimed * NOISE) ** 2)
    psfs = np.broadcast_to(PSF, (len(bands), *PSF.shape))
    return Observation.from_arrays(pixels, variance=variance, psfs=psfs, bands=list(bands), **more)


def test_what_is_right_is_measured_as_such():
    found = measure_field(field(), AT)
    np.testing.assert_allclose(found.scatter, 1, atol=0.08)
    np.testing.assert_allclose(found.noise, NOISE, atol=0.16)
    assert (np.abs(found.sky) < 4 * found.sky_error).all()
    assert check_field(field(), AT) == {}


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm(seed):
    """Crowded fields of 64 x 64 pixels, with and without positions."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 64, (12, 2))
    noise = light(places, 10 ** rng.uniform(1.8, 3.5, 12)) + rng.normal(0, NOISE, (2, 64, 64))
    obs = field(noise=noise)
    names = tuple(map(str, range(15)))
    assert check_field(obs, Positions(names, np.vstack([PLACES, places]), np.zeros(15, bool))) == {}
    assert check_field(obs) == {}


def test_the_example_raises_no_alarm():
    obs, truth = load_example()
    names = tuple(map(str, range(len(truth.center))))
    assert check_field(obs, Positions(names, truth.center, np.zeros(len(names), bool))) == {}


@pytest.mark.parametrize(
    ("claimed", "word"), [(8.0, "large"), (2.0, "large"), (0.5, "small"), (0.1, "small")]
)
def test_noise_that_is_not_what_the_file_says(claimed, word):
    obs = field(claimed=claimed)
    said = check_field(obs, AT)
    assert list(said) == ["noise"]
    assert said["noise"].count(f"times too {word} in band") == 2
    found = measure_field(obs, AT)
    np.testing.assert_allclose(found.noise_factor, 1 / claimed, rtol=0.08)
    with pytest.warns(FieldWarning, match="do not scatter by the noise in the file"):
        warn_of_field(obs, AT)
    with pytest.warns(FileWarning, match=r"errors were multiplied by .* \(band g\), .* \(band r\)"):
        mended = rescale_noise(obs, AT)
    np.testing.assert_allclose(mended.weights, NOISE**-2, rtol=0.16)
    assert check_field(mended, AT) == {}


@pytest.mark.parametrize("claimed", [0.8, 1.0, 1.25])
def test_noise_that_is_usual_is_left_alone(claimed):
    obs = field(claimed=claimed)
    assert check_field(obs, AT) == {}
    assert rescale_noise(obs, AT) is obs


def test_one_band_of_two():
    obs = field()
    obs = dataclasses.replace(obs, weights=obs.weights * np.reshape([1, 0.01], (2, 1, 1)))
    sentence = check_field(obs, AT)["noise"]
    assert "in band r:" in sentence
    assert "band g" not in sentence
    with pytest.warns(FileWarning, match=r"multiplied by 0\.\d+ \(band r\)\.$"):
        mended = rescale_noise(obs, AT)
    np.testing.assert_array_equal(mended.weights[0], obs.weights[0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length", [0.6, 0.8, 1.0])
def test_resampled_pixels_scatter_less_and_that_is_no_error(length, seed):
    """Weights that mean the noise of independent pixels, as of drizzled images."""
    independent = np.random.default_rng(seed).normal(0, NOISE, (2, 64, 64))
    noise = np.stack([gaussian_filter(one, length, mode="wrap") for one in independent])
    assert noise.std() < 0.6 * NOISE
    assert check_field(field(noise=noise), AT) == {}


@pytest.mark.parametrize("sky", [-1.0, 1.0, 4.0, 1000.0])
def test_sky_that_is_left_in(sky):
    obs = field(sky=sky)
    said = check_field(obs, AT)
    assert list(said) == ["sky"]
    assert said["sky"].count("per pixel in band") == 2
    found = measure_field(obs, AT)
    np.testing.assert_allclose(found.sky, sky, atol=0.25)
    with pytest.warns(FileWarning, match=r"a sky per pixel was subtracted: .* \(band g\), "):
        mended = subtract_sky(obs, AT)
    np.testing.assert_allclose(mended.images, field().images, atol=0.3)
    assert check_field(mended, AT) == {}


def test_a_sky_that_no_fit_survives_is_refused():
    with pytest.raises(
        InputError, match=r"1e\+03 \(band g\).* per pixel, more than 20 times the noise"
    ):
        warn_of_field(field(sky=1000.0), AT)


def test_a_gradient_is_said():
    obs = field()
    images = obs.images + np.linspace(-3, 3, 64)
    said = check_field(dataclasses.replace(obs, images=images), AT)
    assert list(said) == ["gradient"]
    assert "sky changes across the image" in said["gradient"]


@pytest.mark.parametrize("lowest", [0.0, 0.3])
def test_a_gradient_is_said_though_no_side_is_below_zero(lowest):
    """Light that falls off away from a galaxy makes slopes as well, and is no sky."""
    bright = field()
    wings = 2e4 / (9 + ((np.indices((64, 64)) - PLACES[0][:, None, None]) ** 2).sum(0)) ** 1.5
    one = dataclasses.replace(bright, images=bright.images + wings.astype(np.float32))
    assert "gradient" not in check_field(one, AT)
    slope = lowest + np.linspace(0, 1.2, 64)
    said = check_field(dataclasses.replace(one, images=one.images + slope * NOISE), AT)
    assert "sky changes across the image, by 1" in said["gradient"]
    assert "--sky constant" not in "".join(said.values())


def test_the_bias_that_a_sky_makes():
    obs = field(sky=[1.0, 0.0], zero_point=31.4 - 2.5 * np.log10(2))
    sentence = check_field(obs, AT)["sky"]
    # Fitting a point source to a constant c gives c over the sum of the squares of the PSF.
    sky = measure_field(obs, AT).sky[0]
    assert f"{sky * 2 / (PSF**2).sum():+.3g} nJy of flux for a point source" in sentence
    assert "band r" not in sentence


def test_light_of_a_large_galaxy_is_no_sky():
    rows, columns = np.indices((100, 100))
    for scale in (7.0, 10.0, 12.0):
        profile = np.exp(-np.hypot(rows - 50, columns - 49) / scale)
        pixels = 60 * profile + np.random.default_rng(0).normal(0, NOISE, (1, 100, 100))
        obs = Observation.from_arrays(pixels, variance=np.full(pixels.shape, NOISE**2), psfs=PSF)
        at = Positions(("a",), np.array([[50.0, 49.0]]), np.zeros(1, bool))
        assert check_field(obs, at) == {}
        assert check_field(obs) == {}


def test_masked_pixels_and_empty_bands_say_nothing():
    obs = field()
    weights, images = obs.weights.copy(), obs.images.copy()
    images[0, :20], weights[0, :20], weights[1] = 1e6, 0, 0
    obs = Observation.from_arrays(images, weights=weights, psfs=obs.psfs, bands=obs.bands)
    found = measure_field(obs, AT)
    assert np.isnan(found.scatter[1])
    assert check_field(obs, AT) == {}
    assert rescale_noise(obs, AT) is obs
    assert subtract_sky(obs, AT) is obs


@pytest.mark.parametrize("counts", [1.0, 4.0, 30.0])
@pytest.mark.parametrize("own", [False, True])
def test_whole_numbers_of_few_counts_raise_no_alarm(counts, own):
    """The median of a Poisson distribution is not its mean; variances may follow the pixels."""
    rng = np.random.default_rng(0)
    mean = light(PLACES, [150 * counts, 90 * counts, 300 * counts]) + counts
    counted = rng.poisson(mean, (2, 64, 64))
    variance = np.maximum(counted, 1) if own else np.broadcast_to(mean, counted.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        obs = Observation.from_arrays(counted - counts, variance=variance, psfs=PSF)
    assert check_field(obs, AT) == {}


def test_pixels_without_noise_say_nothing():
    obs = field(noise=np.zeros((2, 64, 64)))
    assert check_field(obs, AT) == {}


def test_masked_pixels_stay_zero():
    obs = field(sky=5.0)
    weights = obs.weights.copy()
    weights[:, :4] = 0
    obs = dataclasses.replace(obs, weights=weights)
    with pytest.warns(FileWarning, match="subtracted"):
        mended = subtract_sky(obs, AT)
    assert not mended.images[:, :4].any()


def test_joined_observations_are_mended_one_by_one():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [32, 32]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    first, second = field(wcs=wcs), field(sky=3.0, claimed=4.0, wcs=wcs, bands="iz", seed=1)
    joint = join_observations(first, second)
    said = check_field(joint, AT)
    assert set(said) == {"noise", "sky"}
    assert "too large in band i, " in said["noise"]
    assert "band g" not in said["noise"] + said["sky"]
    with pytest.warns(FileWarning, match=r"subtracted: .*\(band i\), .*\(band z\)"):
        joint = subtract_sky(joint, AT)
    with pytest.warns(FileWarning, match=r"multiplied by .*\(band i\), .*\(band z\)"):
        joint = rescale_noise(joint, AT)
    assert check_field(joint, AT) == {}
    assert joint.views[0].observation is first
