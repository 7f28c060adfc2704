"""Lumps of bright galaxies are no sources; their neighbors are."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from scorepriors.models import Observation, detect, find_left_over, gaussian_psf
from scorepriors.models.data import _detection
from scorepriors.models.data._shreds import shreds

SHAPE, CENTER, PSF = (96, 96), (47.0, 48.0), 1.7
GALAXY, BLUE = np.array([0.7, 1.0, 1.4]), np.array([1.6, 1.0, 0.5])
LUMPS = [(2.2, 0.4), (2.6, 2.1), (1.9, 3.5), (2.4, 5.0), (3.0, 1.2), (2.8, 4.2)]
SCALE, AXIS_RATIO = 5.0, 0.6


def place(radius, angle):
    """A place in the disk, by its distance in scale lengths."""
    return np.array(CENTER) + SCALE * radius * np.array([AXIS_RATIO * np.sin(angle), np.cos(angle)])


def disk(flux=2e5):
    rows, columns = np.indices(SHAPE)
    radius = np.hypot((rows - CENTER[0]) / AXIS_RATIO, columns - CENTER[1]) / SCALE
    image = np.exp(-radius)
    return flux * image / image.sum()


def point(at, flux):
    rows, columns = np.indices(SHAPE)
    image = np.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / 2)
    return flux * image / image.sum()


def seen(light, seed=1):
    """Light ``[B, H, W]`` under the PSF and noise."""
    images = np.stack([gaussian_filter(image, PSF) for image in light])
    images += np.random.default_rng(seed).normal(size=images.shape)
    psf = gaussian_psf(PSF, 31)
    return Observation.from_arrays(images, variance=np.ones_like(images), psfs=psf)


def spiral(lump=4000.0):
    lumps = sum(point(place(*polar), lump) for polar in LUMPS)
    return GALAXY[:, None, None] * (disk() + lumps)


def distance(found, at):
    if not len(found):
        return np.inf
    return np.linalg.norm(found.row_column - np.asarray(at), axis=1).min()


def test_a_galaxy_with_lumps_is_one_source(monkeypatch):
    obs = seen(spiral())
    assert len(detect(obs)) == 1
    assert distance(detect(obs), CENTER) < 1
    nothing = lambda obs, places, model=None: np.zeros(len(places), bool)  # noqa: E731
    monkeypatch.setattr(_detection, "shreds", nothing)
    assert len(detect(obs)) > 4


def test_a_neighbor_of_another_color_is_kept():
    at = place(2.4, 5.6)
    obs = seen(spiral() + BLUE[:, None, None] * point(at, 4000.0))
    found = detect(obs)
    assert len(found) == 2
    assert distance(found, at) < 1.5


def test_a_neighbor_on_the_outskirts_is_kept():
    at = place(6.5, 0.3)
    found = detect(seen(spiral() + GALAXY[:, None, None] * point(at, 700.0)))
    assert len(found) == 2
    assert distance(found, at) < 1.5


def test_a_neighbor_as_bright_as_its_place_is_kept():
    at = place(2.4, 5.6)
    found = detect(seen(spiral() + GALAXY[:, None, None] * point(at, 60000.0)))
    assert distance(found, at) < 1


def test_close_galaxies_of_one_color_are_no_shreds():
    # Not resolved well enough for lumps.
    centers = [(40.0, 40.0), (40.0, 46.0), (46.0, 44.0)]
    light = sum(point(at, flux) for at, flux in zip(centers, (3e4, 9e3, 7e3)))
    found = detect(seen(GALAXY[:, None, None] * light))
    assert len(found) == 3


def test_lumps_that_a_model_lacks_are_no_sources():
    obs, at = seen(spiral()), place(2.4, 5.6)
    smooth = np.stack([gaussian_filter(image, PSF) for image in GALAXY[:, None, None] * disk()])
    galaxy = detect(obs)
    assert len(find_left_over(obs, smooth, galaxy)) == 0
    other = seen(spiral() + BLUE[:, None, None] * point(at, 8000.0))
    found = find_left_over(other, smooth, galaxy)
    assert len(found) == 1
    assert distance(found, at) < 1.5


@pytest.mark.parametrize("bands", [1, 3])
def test_bands_and_masked_pixels(bands):
    obs = seen(spiral()[:bands])
    weights = obs.weights.copy()
    weights[:, 60:63, 30:33] = 0
    weights[bands - 1] *= bands == 1  # one band without data
    hurt = Observation.from_arrays(obs.images, weights=weights, psfs=obs.psfs)
    assert len(detect(hurt)) == 1


def test_few_peaks_are_no_shreds():
    obs = seen(spiral())
    assert not shreds(obs, np.array([CENTER])).any()
    assert shreds(obs, np.zeros((0, 2))).shape == (0,)
