"""Scenes with galaxies in boxes of two sizes, from the choice of boxes to the files."""

import warnings

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import gaussian_prior, small_observation

from scorepriors import InputError, ScorePrior
from scorepriors.energies._gaussian import GaussianEnergy
from scorepriors.inference import (
    SamplingWarning,
    catalog,
    deblend,
    deblend_many,
    flux_catalog,
    laplace_deblended,
    sample_deblended,
    source_moments,
)
from scorepriors.inference.deblending._sampling import unpadded
from scorepriors.inference.deblending._scene_file import load_scene, save_scene
from scorepriors.inference.diagnosis._diagnose import diagnose
from scorepriors.inference.diagnosis._figures import diagnosis_figure
from scorepriors.inference.diagnosis._hallucination import pixels
from scorepriors.inference.diagnosis._outputs import hallucination_images
from scorepriors.inference.sampling._tree import group
from scorepriors.models import Observation, Positions

SMALL, LARGE = 12, 20

#: A large galaxy, a star and a small galaxy.
POSITIONS = Positions(
    ("wide", "star", "dwarf"),
    np.array([[20.0, 20.0], [7.0, 26.0], [9.0, 9.0]]),
    np.array([False, True, False]),
)
SIGMAS, FLUXES = (4.0, 0.0, 0.5), (6000.0, 900.0, 700.0)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        yield


def wide_prior():
    """Gaussian galaxies of some four pixels."""
    row = np.arange(LARGE) - (LARGE - 1) / 2
    blob = np.exp(-(row[:, None] ** 2 + row**2) / 2 / 4**2)
    mean = jnp.asarray(np.log1p(blob / 0.05) / 0.44, jnp.float32)
    return ScorePrior(GaussianEnergy(mean, jnp.asarray(0.2)), sigma=0.3, sigma_max=5.0, name="wide")


def observation(seed=0, sigmas=SIGMAS, fluxes=FLUXES):
    """Round Gaussians in noise of one; their second moments add up with that of the PSF."""
    plain = small_observation([], shape=(32, 32), seed=seed)
    rows, columns = np.indices(plain.shape)
    images = np.array(plain.images)
    for (row, column), sigma, flux in zip(POSITIONS.row_column, sigmas, fluxes, strict=True):
        squared = (rows - row) ** 2 + (columns - column) ** 2
        for b in range(len(images)):
            variance = (1.3 + 0.15 * b) ** 2 + sigma**2
            images[b] += flux * np.exp(-squared / 2 / variance) / (2 * np.pi * variance)
    return Observation.from_arrays(images, weights=plain.weights, psfs=plain.psfs)


PRIORS = wide_prior(), gaussian_prior(SMALL)


@pytest.fixture(scope="module")
def result():
    return deblend(observation(), POSITIONS, prior=PRIORS)


def test_a_galaxy_that_the_small_box_cuts_off_gets_the_large_one(result):
    assert list(result.kinds) == ["large", "stars", "galaxies"]
    assert result.converged
    priors = result.priors()
    assert priors["galaxies"].event_shape == (SMALL, SMALL)
    assert priors["large"].event_shape == (LARGE, LARGE)
    assert result.prior_name == "gaussian and wide"
    found = result.free_form.flux.sum(1) / 3 / FLUXES
    assert 0.9 < found[0] < 1.1
    alone = deblend(observation(), POSITIONS, prior=PRIORS[1], outliers=False, model_error=False)
    assert set(alone.priors()) == {"galaxies"}
    # No box holds it, so its profile does.
    assert list(alone.kinds) == ["wide", "stars", "galaxies"]
    assert alone.free_form.flux.sum(1)[0] / 3 / FLUXES[0] > 0.9
    assert result.free_form.chi2 < 1.2 < alone.free_form.chi2


def test_many_blends_with_and_without_large_galaxies(result):
    # Blends of a kind run side by side, whatever lies between them.
    small = observation(1, (1.0, 0.0, 0.5))
    both = deblend_many([observation(), small, observation()], [POSITIONS] * 3, prior=PRIORS)
    assert [list(r.kinds).count("large") for r in both] == [1, 0, 1]
    for one in (both[0], both[2]):
        np.testing.assert_allclose(one.free_form.flux, result.free_form.flux, rtol=0.02)
    alone = deblend(small, POSITIONS, prior=PRIORS[1])
    np.testing.assert_allclose(both[1].free_form.flux, alone.free_form.flux, rtol=0.02, atol=2)


def test_another_blend_compiles_nothing(result):
    first = deblend(observation(2), POSITIONS, prior=PRIORS)
    compiled = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        another = deblend(observation(6), POSITIONS, prior=PRIORS)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert (another.kinds == "large").any()
    # Of the same groups: others are another program.
    assert list(another.kinds) == list(first.kinds)
    assert not compiled


def test_only_a_large_galaxy():
    where = Positions(("wide",), POSITIONS.row_column[:1], np.array([False]))
    obs = observation(fluxes=(FLUXES[0], 0.0, 0.0))
    found = deblend(obs, where, prior=PRIORS, max_iterations=60)
    assert list(found.kinds) == ["large"]
    assert set(found.free_form.fit.params) == {"large/morphology", "brightness"}
    tree = laplace_deblended(found, key=jax.random.key(0), num_samples=20)
    assert group(tree, "posterior")["large_morphology"].shape[2:] == (1, LARGE, LARGE)


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ([], "give one prior or two"),
        ([gaussian_prior(8)] * 2, "boxes of the same size; give one of them"),
        ([gaussian_prior(8), "lsst-32"], "differ in their pixel scale, None and 0.2"),
    ],
)
def test_priors_that_do_not_go_together(priors, message):
    with pytest.raises(InputError, match=message):
        deblend(observation(), POSITIONS, prior=priors)


def test_the_scene_comes_back_from_its_file(result, tmp_path):
    save_scene(result, tmp_path / "scene.npz")
    again = load_scene(tmp_path / "scene.npz", prior=PRIORS)
    assert list(again.kinds) == list(result.kinds)
    assert again.prior_name == result.prior_name
    scene, fit = unpadded(again.scene, again.free_form.fit)
    assert list(scene.names) == ["galaxies", "large", "stars"]
    _, before = unpadded(result.scene, result.free_form.fit)
    assert set(fit.values) == set(before.values)
    for name, value in before.values.items():
        np.testing.assert_array_equal(fit.values[name], value)
    with pytest.raises(
        InputError, match=r"in boxes of 20 pixels, .* boxes of 12; give the priors of the scene"
    ):
        load_scene(tmp_path / "scene.npz", prior=PRIORS[1])


@pytest.mark.parametrize("kind", ["laplace", "flow"])
def test_draws_know_both_kinds(result, kind):
    key = jax.random.key(1)
    if kind == "laplace":
        tree = laplace_deblended(result, key=key, num_samples=100)
    else:
        options = {"num_warmup": 20, "num_samples": 20, "num_chains": 2}
        tree = sample_deblended(result, key=key, models="given", algorithm="flow", **options)
    held = group(tree, "posterior")
    assert held["large_morphology"].shape[2:] == (1, LARGE, LARGE)
    assert held["galaxies_morphology"].shape[2:] == (1, SMALL, SMALL)
    assert held["large_morphology"].dims[3:] == ("large_box_y", "large_box_x")
    assert [str(i) for i in held["source"].values] == ["wide", "star", "dwarf"]
    table = flux_catalog(tree)
    ratio = np.asarray(table["flux_total"].value) / result.free_form.flux.sum(1)
    assert ((ratio > 0.8) & (ratio < 1.2)).all()
    # Images are in their places: as bright there as in the catalog.
    images = source_moments(tree)["mean"].values[:, 0]
    peaks = [np.unravel_index(one.argmax(), one.shape) for one in images]
    assert np.abs(np.array(peaks) - POSITIONS.row_column).max() <= 1


def test_maps_of_both_kinds_in_the_order_of_the_catalog(result):
    found = diagnose(result, key=jax.random.key(0))
    maps = found.maps
    assert [str(i) for i in maps["source"].values] == ["wide", "dwarf"]
    assert maps["box"].values.tolist() == [LARGE, SMALL]
    assert pixels(maps, "sd", 0).shape == (LARGE, LARGE)
    assert pixels(maps, "sd", 1).shape == (SMALL, SMALL)
    for name in ("delta_f", "data_share", "sd", "mean_delta_f"):
        assert np.isfinite(pixels(maps, name, 1)).all()
        assert np.isnan(maps[name].values[1, 0]).all()
    assert set(found.typicality) == {"wide", "dwarf"}
    assert len(diagnosis_figure(found).axes) > 8
    # Boxes lie where the image has them.
    for hdu, k in zip(hallucination_images(found)[1:], (0, 2), strict=True):
        n = hdu.data.shape[-1]
        row, column = hdu.header["CORNERY"], hdu.header["CORNERX"]
        own = result.free_form.morphology[k][row : row + n, column : column + n]
        image = pixels(maps, "morphology", 0 if k == 0 else 1)
        np.testing.assert_allclose(own / own.max(), image / image.max(), atol=1e-5)
        assert f"{catalog(result)['id'][k]}" in hdu.header["SOURCEID"]
