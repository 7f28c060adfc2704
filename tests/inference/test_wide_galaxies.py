"""Galaxies that no box of a learned prior holds keep their profile, with its wings."""

import numpy as np
import pytest
from conftest import gaussian_prior
from scipy.signal import fftconvolve

from scorepriors.inference import catalog, deblend
from scorepriors.inference.deblending._scene_file import load_scene, save_scene
from scorepriors.models import Observation, Positions, gaussian_psf

SHAPE, PLACES = (80, 80), np.array([(39.0, 40.0), (12.0, 66.0)])
OPTIONS = {"prior": gaussian_prior(box=16), "max_iterations": 120, "padding": 2}
AT = Positions(("wide", "dwarf"), PLACES, np.zeros(2, bool))


def disk(place, radius, flux):
    """An exponential disk of a half-light radius in pixels."""
    rows, columns = np.indices(SHAPE)
    distance = np.hypot(rows - place[0], columns - place[1])
    image = np.exp(-1.678 * distance / radius)
    # The part beyond the image is missing, so the flux is that of the formula.
    return flux * image * 1.678**2 / (2 * np.pi * radius**2)


def observation(radius, seed=0):
    light = disk(PLACES[0], radius, 2000.0 * radius**2) + disk(PLACES[1], 1.2, 800.0)
    psf = gaussian_psf(1.5, 25)
    image = fftconvolve(light, psf, mode="same")
    images = image * np.array([0.7, 1.0, 1.3])[:, None, None]
    images += np.random.default_rng(seed).normal(size=images.shape)
    return Observation.from_arrays(images, variance=np.ones_like(images), psfs=psf)


@pytest.fixture(scope="module")
def wide():
    return deblend(observation(7.0), AT, **OPTIONS)


def test_a_galaxy_beyond_the_box_is_wide(wide):
    assert wide.kinds.tolist() == ["wide", "galaxies"]
    assert wide.free_form.models.tolist() == ["profile", "free-form"]
    truth = 2000.0 * 7.0**2 * np.array([0.7, 1.0, 1.3])
    np.testing.assert_allclose(wide.free_form.flux[0], truth, rtol=0.03)
    flags = catalog(wide)["flags"].tolist()
    assert not any("cut_off" in one for one in flags)


def test_light_outside_of_the_boxes_is_flagged():
    found = deblend(observation(7.0), AT, start="blobs", **OPTIONS)
    assert found.kinds.tolist() == ["galaxies", "galaxies"]
    flags = catalog(found)["flags"].tolist()
    assert "cut_off" in flags[0]
    assert "cut_off" not in flags[1]


def test_small_galaxies_stay_in_their_boxes():
    found = deblend(observation(1.5), AT, **OPTIONS)
    assert found.kinds.tolist() == ["galaxies", "galaxies"]
    assert not any("cut_off" in one for one in catalog(found)["flags"])


def test_a_wide_scene_comes_back_from_its_file(wide, tmp_path):
    save_scene(wide, tmp_path / "scene.npz")
    back = load_scene(tmp_path / "scene.npz", prior=OPTIONS["prior"])
    assert back.kinds.tolist() == wide.kinds.tolist()
    np.testing.assert_allclose(back.free_form.flux, wide.free_form.flux, rtol=1e-5)
