"""Sums over bands do not depend on the units in which the images of the bands are."""

import dataclasses

import numpy as np
import pytest
from conftest import gaussian_prior
from turned_sky import CENTER, FLUX, view

from scorepriors.inference import catalog, deblend, doubts
from scorepriors.inference.deblending._catalog import _share_on, flag_words
from scorepriors.inference.deblending._choice import explained
from scorepriors.inference.deblending._doubts import left_over
from scorepriors.models import Observation, Positions, join_observations

#: Zero points of Rubin's nanojanskys and of counts of a camera in space.
NANOJANSKYS, COUNTS = 31.4, 24.6


def in_counts(obs):
    """The same image in units that are larger by a factor of five hundred."""
    factor = 10 ** (0.4 * (COUNTS - NANOJANSKYS))
    return dataclasses.replace(
        obs,
        images=obs.images * np.float32(factor),
        weights=obs.weights / np.float32(factor) ** 2,
        zero_point=COUNTS,
    )


@pytest.fixture(scope="module")
def results():
    """A scene whose second camera disagrees, with one unit and with two."""
    first = view(1.0, (22, 22), 1.8, ("r", "i"), FLUX[:, :2])
    second = view(0.7, (40, 42), 1.5, ("J",), FLUX[:, 2:], seed=1)
    images = np.array(second.images)
    rng = np.random.default_rng(5)
    # About the first galaxy pixels scatter by far more than their errors say.
    images[:, 10:22, 10:24] += 3 * rng.normal(size=(1, 12, 14)).astype(np.float32)
    weights = np.array(second.weights)
    weights[:, 22:30, :] = 0
    second = dataclasses.replace(second, images=images, weights=weights)
    places = Positions(("a", "b"), CENTER, np.zeros(2, bool))
    options = {
        "prior": gaussian_prior(box=16),
        "free_form": False,
        "outliers": False,
        "model_error": False,
        "tolerance": 1e-5,
        "max_iterations": 2000,
    }
    each = (second, in_counts(second))
    return [deblend(join_observations(first, one), places, **options) for one in each]


def test_chi2_and_flags_are_the_same(results):
    one, two = results
    assert two.photometry.flux[0, 2] < 0.01 * one.photometry.flux[0, 2]
    found, expected = two.parametric.source_chi2, one.parametric.source_chi2
    # The galaxy in the scatter has a chi2 to which the last band adds a third.
    assert expected[0] > 2.5
    np.testing.assert_allclose(found, expected, rtol=0.01)
    assert flag_words(two) == flag_words(one)
    assert "residual" in flag_words(one)[0]
    masked = [
        _share_on(
            each.parametric.light, [v.observation.weights <= 0 for v in each.observation.views]
        )
        for each in results
    ]
    assert masked[0][1] > 0.05
    # The prior on brightness is one of sums in image units, which moves faint bands a little.
    np.testing.assert_allclose(masked[1], masked[0], rtol=0.03)
    np.testing.assert_array_equal(explained(two.parametric), explained(one.parametric))
    assert doubts(two).keys() == doubts(one).keys()
    for a, b in zip(
        left_over(two.parametric, two.observation), left_over(one.parametric, one.observation)
    ):
        np.testing.assert_allclose(a, b, rtol=0.03, atol=2e-3)


def test_totals_are_the_same(results):
    one, two = results
    for name in ("total", "measured_total"):
        found, expected = getattr(two.photometry, name), getattr(one.photometry, name)
        np.testing.assert_allclose(found, expected, rtol=0.01)
        # In the unit of the first band, which is that of tables here.
        table = catalog(two)
        column = "flux" if name == "total" else "measured_flux"
        np.testing.assert_allclose(table[f"{column}_total"].value, found[0], rtol=1e-6)
    np.testing.assert_allclose(two.photometry.snr, one.photometry.snr, rtol=0.01)
    scaled = two.photometry.scaled(two.observation.flux_unit[1])
    np.testing.assert_allclose(scaled.total, two.photometry.total, rtol=1e-6)
    np.testing.assert_allclose(scaled.total[0], np.nansum(scaled.flux, 1), rtol=1e-6)


def test_bands_of_one_unit_are_summed_as_they_are(results):
    one = results[0]
    assert one.photometry.unit is None
    assert one.parametric.light[0] is one.parametric.convolved[0]
    np.testing.assert_array_equal(one.photometry.total[0], np.nansum(one.photometry.flux, 1))


def test_one_observation_with_two_zero_points():
    """`outshone` weighs the bands of one camera, whose zero points may differ as well."""
    obs = view(1.0, (22, 22), 1.8, ("r", "i"), FLUX[:, :2])
    factor = np.array([1.0, 1e-3], np.float32)[:, None, None]
    other = Observation.from_arrays(
        obs.images * factor,
        weights=obs.weights / factor**2,
        psfs=obs.psfs,
        bands=obs.bands,
        wcs=obs.wcs,
        zero_point=(31.4, 31.4 - 7.5),
    )
    places = Positions(("a", "b"), CENTER, np.zeros(2, bool))
    options = {"free_form": False, "outliers": False, "model_error": False, "tolerance": 1e-5}
    found, expected = (deblend(one, places, **options) for one in (other, obs))
    np.testing.assert_allclose(
        found.parametric.source_chi2, expected.parametric.source_chi2, rtol=0.01
    )
    np.testing.assert_allclose(found.photometry.total, expected.photometry.total, rtol=0.01)
    assert flag_words(found) == flag_words(expected)
