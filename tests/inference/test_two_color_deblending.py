"""Bulges and disks with spectra of their own in `deblend`, tables, files and draws."""

import numpy as np
import pytest
from conftest import gaussian_prior

from scorepriors.inference import catalog, deblend
from scorepriors.inference.deblending._draws import Draws
from scorepriors.inference.deblending._scene_file import load_scene, save_scene
from scorepriors.inference.deblending.flow._scene import refusal
from scorepriors.models import Observation, Positions, TwoColor, TwoPart, gaussian_psf
from scorepriors.models.sources._profiles import ellipse, gaussian_mixture_image, sersic_mixture

SEEING = (1.2, 1.3, 1.4)
CENTERS = np.array([(15.2, 14.8), (22.0, 24.1)])
DISK = np.array([[3000.0, 3000.0, 3000.0], [900.0, 900.0, 900.0]])
BULGE = np.array([[200.0, 1000.0, 2500.0], [100.0, 200.0, 300.0]])
NOISE = 1.0


def part(index, radius, center, seeing, side=40):
    """A round Sersic profile of flux one through a Gaussian PSF, and pixels of its own."""
    weights, sigmas = sersic_mixture(index)
    moments = ellipse(np.zeros((1, 2)), np)
    center = np.asarray(center)
    given = {"box": side, "psf_sigma": seeing, "xp": np}
    return gaussian_mixture_image(weights, sigmas * radius, moments, center, **given)


@pytest.fixture(scope="module")
def obs():
    images = np.random.default_rng(5).normal(0, NOISE, (3, 40, 40))
    for band, seeing in enumerate(SEEING):
        for center, disk, bulge in zip(CENTERS, DISK, BULGE, strict=True):
            images[band] += disk[band] * part(1.0, 3.0, center, seeing)
            images[band] += bulge[band] * part(4.0, 1.5, center, seeing)
    psfs = np.stack([gaussian_psf(seeing, 21) for seeing in SEEING])
    return Observation.from_arrays(images, variance=np.full_like(images, NOISE**2), psfs=psfs)


@pytest.fixture(scope="module")
def positions():
    return Positions(("a", "b"), CENTERS, np.zeros(2, bool))


def fit(obs, positions, **options):
    given = {"prior": gaussian_prior(32), "model_error": False, "outliers": False, "sky": "none"}
    return deblend(obs, positions, **(given | options))


@pytest.fixture(scope="module")
def result(obs, positions):
    return fit(obs, positions, free_form=False, profile="two-color")


def test_the_bulge_is_redder_than_the_disk(result):
    assert result.converged
    assert isinstance(result.scene["profiles"], TwoColor)
    table = catalog(result)
    found = np.array([table[f"bulge_fraction_{b}"] for b in ("band0", "band1", "band2")]).T
    wanted = BULGE / (BULGE + DISK)
    np.testing.assert_allclose(found[0], wanted[0], atol=0.05)
    pull = (result.photometry.flux - DISK - BULGE) / result.photometry.error
    assert abs(pull).max() < 4
    # What a box cuts off of the wings of the bright one is left over.
    assert result.free_form.source_chi2.max() < 1.25
    text = table["bulge_fraction_band1"].info.description
    assert "share of the bulge in the flux of the parametric scene" in text
    # The parts in every band are the source as observed, up to what lies outside of its box.
    np.testing.assert_allclose(
        result.free_form.convolved[0].sum((2, 3)), result.free_form.flux, rtol=0.03
    )
    assert result.free_form.model(0).shape == (3, 40, 40)


def test_one_color_is_refused_by_such_data(obs, positions, result):
    one = fit(obs, positions, free_form=False)
    assert one.free_form.source_chi2.max() > 2 * result.free_form.source_chi2.max()
    assert one.free_form.bulge_fraction is None
    assert not any(name.startswith("bulge_fraction") for name in catalog(one).colnames)


def test_it_is_written_and_read_again(result, tmp_path):
    save_scene(result, tmp_path / "scene.npz", prior="lsst-32")
    again = load_scene(tmp_path / "scene.npz")
    np.testing.assert_allclose(again.free_form.bulge_fraction, result.free_form.bulge_fraction)
    np.testing.assert_allclose(again.photometry.flux, result.photometry.flux, rtol=1e-4)
    np.testing.assert_allclose(
        again.free_form.convolved[0], result.free_form.convolved[0], atol=1e-4
    )


@pytest.fixture(scope="module")
def free(obs, positions):
    return fit(obs, positions, profile="two-color")


def test_free_forms_have_a_bulge_of_another_color(free):
    assert free.converged
    assert isinstance(free.scene["galaxies"], TwoPart)
    fraction = free.free_form.bulge_fraction
    assert (np.diff(fraction[0]) > 0.1).all()


def test_the_flow_says_that_it_has_no_color_gradients(free):
    assert "'flow' samples free-form galaxies" in refusal(free.free_form.fit.posterior)


def test_draws_are_those_of_both_parts():
    rng = np.random.default_rng(0)
    image, moved = rng.normal(size=(2, 50, 6, 6))
    spectrum, gradient = rng.normal(size=(2, 50, 3))
    draws = Draws(image, np.zeros(2, int), spectrum, moved, gradient)
    whole = np.einsum("nb,nij->nbij", spectrum, image) + np.einsum("nb,nij->nbij", gradient, moved)
    mean, deviation = draws.moments()
    np.testing.assert_allclose(mean, whole.mean(0), atol=1e-12)
    np.testing.assert_allclose(deviation, whole.std(0, ddof=1), rtol=1e-9)
    picks = np.array([3, 7])
    np.testing.assert_allclose(draws.in_bands(picks), whole[picks])
    np.testing.assert_allclose(draws.mean(), mean)
