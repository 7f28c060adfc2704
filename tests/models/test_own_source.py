"""A user-defined kind of source in everything that the shipped ones support."""

import warnings

import jax
import numpy as np
import pytest
from astropy import units
from conftest import gaussian_prior, small_observation
from own_source import GaussianGalaxies

from scorepriors.inference import SamplingWarning, catalog, deblend, posterior, sample
from scorepriors.inference.deblending._scene_file import load_scene, save_scene
from scorepriors.models import Positions, Scene, blend, place_sources, start_values

CENTERS = np.array([(8.3, 7.8), (15.2, 14.4), (17.0, 5.0)])
#: That of the galaxies of `small_observation`.
SIGMA = np.sqrt(1.5)


@pytest.fixture(scope="module")
def obs():
    return small_observation(CENTERS, flux=2000.0)


@pytest.fixture(scope="module")
def positions():
    # Given off by a fifth of a pixel; the last is said to be a star.
    return Positions(
        ("a", "b", "c"), CENTERS + np.array([0.2, -0.2]), np.array([False, False, True])
    )


@pytest.fixture(scope="module")
def parametric(obs, positions):
    options = {"profile": GaussianGalaxies, "model_error": False}
    return deblend(obs, positions, prior=gaussian_prior(16), free_form=False, **options)


@pytest.fixture(scope="module")
def result(obs, positions):
    # A term for the model's error would be another for each.
    options = {"profile": GaussianGalaxies, "model_error": False}
    return deblend(obs, positions, prior=gaussian_prior(16), **options)


def test_images_are_the_same_in_jax_and_on_the_host():
    group = GaussianGalaxies(place_sources(CENTERS, box=31))
    values = {
        "shift": np.array([[0.1, 0.2], [0, 0], [-0.3, 0.1]]),
        "log_sigma": np.array([0.3, 0.5, 0.1]),
        "stretch": np.array([[0, 0], [0.3, 0.2], [-0.2, 0.1]]),
    }
    image = jax.jit(lambda values: group.image(values))(values)
    np.testing.assert_allclose(image, group.image(values, np), atol=1e-6)
    np.testing.assert_allclose(image.sum((1, 2)), 1, atol=2e-3)


def test_it_is_found_by_its_sites_and_starts_where_it_says(obs):
    scene = Scene.build(obs, blobs=GaussianGalaxies(place_sources(CENTERS[:2], box=16)))
    bound = posterior(blend, scene)
    assert set(bound.sites()) == {"blobs/shift", "blobs/log_sigma", "blobs/stretch", "brightness"}
    init, scale = start_values(scene)
    np.testing.assert_allclose(init["blobs/log_sigma"], 0.3)
    assert scale["blobs/shift"].shape == (2, 1)
    assert np.isfinite(bound.log_density(bound.unconstrain(init)))


def test_the_parametric_scene_has_its_shapes(parametric, positions):
    assert parametric.parametric.fit.converged
    assert parametric.scene.names == ("stars", "profiles")
    assert list(parametric.kinds) == ["profiles", "profiles", "stars"]
    assert isinstance(parametric.scene["profiles"], GaussianGalaxies)
    # Within five errors of some hundredths of a pixel.
    np.testing.assert_allclose(parametric.center[:2], CENTERS[:2], atol=0.1)
    table = catalog(parametric)
    np.testing.assert_allclose(table["gaussian_sigma"][:2].value, SIGMA, rtol=0.1)
    np.testing.assert_allclose(table["gaussian_axes"][:2], 1, atol=0.1)
    assert np.isnan(table["gaussian_axes"][2])
    np.testing.assert_allclose(table["flux_band1"][:2].value, 2000, rtol=0.05)


@pytest.mark.parametrize("which", ["parametric", "result"])
def test_its_columns_are_in_the_catalog(which, request):
    table = catalog(request.getfixturevalue(which))
    assert table["gaussian_sigma"].unit == units.pix
    assert table["gaussian_sigma"].info.description == "standard deviation of the Gaussian"
    assert table["gaussian_axes"].unit is None
    assert "ratio of the axes" in table["gaussian_axes"].info.description
    assert not any(name.startswith("profile_radius") for name in table.colnames)


def test_the_free_form_scene_starts_from_it(result, parametric):
    assert result.scene.names == ("galaxies", "stars")
    assert result.free_form.fit.converged
    np.testing.assert_allclose(result.center, parametric.center, atol=1e-3)
    np.testing.assert_allclose(result.parametric.flux, parametric.parametric.flux, rtol=1e-4)
    np.testing.assert_allclose(result.free_form.morphology.sum((1, 2)), 1, atol=0.01)


def test_it_is_written_and_read_again(parametric, tmp_path):
    save_scene(parametric, tmp_path / "scene.npz", prior="lsst-32")
    again = load_scene(tmp_path / "scene.npz")
    group = again.scene["profiles"]
    assert isinstance(group, GaussianGalaxies)
    assert group.center_error == parametric.scene["profiles"].center_error
    ours, theirs = catalog(parametric), catalog(again)
    np.testing.assert_allclose(theirs["gaussian_sigma"].value, ours["gaussian_sigma"].value)


def test_draws_have_named_axes(parametric):
    run = {"key": jax.random.key(0), "num_warmup": 20, "num_samples": 10, "num_chains": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        tree = sample(blend, parametric.scene, init=parametric.free_form.fit, **run)
    dims = {name: array.dims[2:] for name, array in tree["posterior"].data_vars.items()}
    source = "profiles_source"
    assert dims["profiles_shift"] == (source, "direction")
    assert dims["profiles_log_sigma"] == (source,)
    assert dims["profiles_stretch"] == (source, "component")
    assert dims["stars_offset"] == ("stars_source", "axis")
    assert dims["flux"] == ("source", "band")
    shift = tree["posterior"]["profiles_shift"].values
    assert np.isfinite(shift).all()
    assert shift.std() > 0
