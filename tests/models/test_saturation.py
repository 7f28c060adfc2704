"""Detections about the masked cores of saturated stars."""

import numpy as np
from scipy.ndimage import gaussian_filter

from scorepriors.models import Observation
from scorepriors.models.data._detection import find_left_over, find_sources
from scorepriors.models.data._saturation import about_cores


def star(core=3.2, trail=14, bad_column=False):
    """A bright star in two bands, of which the second is saturated, with a bleeding column."""
    image = np.zeros((2, 64, 80))
    image[:, 30, 40] = 1e6
    image = gaussian_filter(image, (0, 2.5, 2.5))
    row, column = np.mgrid[:64, :80]
    dark = np.hypot(row - 30, column - 40) < core
    dark |= (abs(row - 30) < trail) & (abs(column - 40.5) < 1)
    if bad_column:
        dark[:, 10] = True
    weights = np.ones_like(image)
    weights[1, dark] = 0
    images = np.where(weights > 0, image, 0) + np.random.default_rng(0).normal(size=image.shape)
    psf = np.zeros((2, 31, 31))
    psf[:, 15, 15] = 1
    psf = gaussian_filter(psf, (0, 2.5, 2.5))
    return Observation(
        images, weights, psf / psf.sum((1, 2), keepdims=True), bands=("g", "r")
    ), image


def test_a_saturated_star_is_one_source_at_its_middle():
    obs, _ = star()
    found = find_sources(obs)
    near = np.hypot(*(np.array(found.row_column) - (30, 40)).T) < 12
    assert near.sum() == 1
    assert np.hypot(*(np.array(found.row_column)[near][0] - (30, 40))) < 1.0


def test_nothing_is_found_about_the_core_of_a_known_star():
    obs, image = star()
    found = find_sources(obs)
    wrong = image * 1.02
    more = find_left_over(obs, wrong, found)
    assert not len(more) or np.hypot(*(np.array(more.row_column) - (30, 40)).T).min() > 5


def test_bad_columns_and_cosmic_rays_join_nothing():
    mask = np.zeros((40, 40), bool)
    mask[:, 20] = True
    mask[10:12, 8:12] = True
    places = np.array([[15.0, 18.0], [15.0, 22.0], [9.0, 8.0], [12.0, 12.0]])
    np.testing.assert_array_equal(about_cores(places, mask), places)


def test_the_end_of_the_image_is_no_core():
    mask = np.zeros((40, 40), bool)
    mask[:, 30:] = True
    places = np.array([[15.0, 29.0], [25.0, 29.0]])
    np.testing.assert_array_equal(about_cores(places, mask), places)


def test_a_core_without_a_peak_adds_nothing():
    mask = np.zeros((40, 40), bool)
    mask[10:17, 10:17] = True
    places = np.array([[30.0, 30.0]])
    np.testing.assert_array_equal(about_cores(places, mask), places)
    middle = about_cores(np.array([[9.0, 12.0], [17.0, 13.0], [30.0, 30.0]]), mask)
    np.testing.assert_allclose(middle, [[30, 30], [13, 13]])
