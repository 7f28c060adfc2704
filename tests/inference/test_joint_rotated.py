"""A joint fit of two observations that are turned against each other, up to the files."""

import warnings

import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner
from conftest import gaussian_prior
from turned_sky import FLUX, positions, view

from scorepriors.inference import (
    SamplingWarning,
    deblend,
    diagnose,
    hallucination_map,
    laplace_deblended,
    report_figure,
    sample_deblended,
)
from scorepriors.inference.cli import main
from scorepriors.inference.cli._input import Input
from scorepriors.inference.deblending._draws import flux_draws
from scorepriors.inference.deblending._local import cut_exposure
from scorepriors.inference.deblending._scene_file import load_scene
from scorepriors.inference.reports._outputs import write_outputs
from scorepriors.inference.reports._page import draws_figure, scene_figure
from scorepriors.models import join_observations
from scorepriors.models.rendering._information import likelihood_diagonal

TURN = 37.0


@pytest.fixture(scope="module")
def views():
    blurred = view(1.0, (22, 22), 1.8, ("r", "i"), FLUX[:, :2])
    sharp = view(0.7, (32, 34), 1.4, ("J",), FLUX[:, 2:], turn=TURN, mirror=True, seed=1)
    return blurred, sharp


@pytest.fixture(scope="module")
def result(views):
    return deblend(join_observations(*views), positions(), prior=gaussian_prior(box=16), padding=2)


def test_fluxes_in_the_bands_of_both(result):
    assert result.converged
    assert result.free_form.chi2 < 1.2
    assert result.observation.views[1].turned is not None
    np.testing.assert_allclose(result.parametric.flux, FLUX, rtol=0.2)
    np.testing.assert_allclose(result.photometry.flux, FLUX, rtol=0.25)


def test_a_turned_observation_says_what_a_parallel_one_does(views, result):
    parallel = view(0.7, (32, 34), 1.4, ("J",), FLUX[:, 2:], seed=1)
    joined = join_observations(views[0], parallel)
    same = deblend(joined, positions(), prior=gaussian_prior(box=16), padding=2)
    assert same.observation.views[1].turned is None
    np.testing.assert_allclose(result.parametric.flux_error, same.parametric.flux_error, rtol=0.2)


def test_files(result, tmp_path):
    write_outputs(result, tmp_path)
    with fits.open(tmp_path / "sources.fits") as hdus:
        assert hdus["SOURCE2_A"].data.shape == (1, 32, 34)
        # The brightest pixels of one galaxy are at one place of the sky.
        places = []
        for name in ("SOURCE_A", "SOURCE2_A"):
            image = hdus[name].data.sum(0)
            row, column = np.unravel_index(image.argmax(), image.shape)
            places.append(WCS(hdus[name].header).celestial.pixel_to_world(column, row))
    assert places[0].separation(places[1]).arcsec < 0.3
    # Marks of the sources are where they are seen in both.
    figure = report_figure(result)
    for axis, obs in zip((figure.axes[0], figure.axes[3]), result.observation.views, strict=True):
        marked = [line.get_xydata()[0][::-1] for line in axis.lines[:2]]
        for mark, image in zip(marked, result.free_form.convolved[obs.first > 0], strict=True):
            peak = np.unravel_index(image.sum(0).argmax(), image.shape[-2:])
            np.testing.assert_allclose(mark, peak, atol=1.6)


def test_a_saved_scene_comes_back(result, tmp_path):
    write_outputs(result, tmp_path)
    again = load_scene(tmp_path, prior=tuple(result.priors().values()))
    density = jax.jit(lambda bound, u: bound.log_density(u))
    first, second = (
        density(scene.fit.posterior, scene.fit.params)
        for scene in (result.free_form, again.free_form)
    )
    np.testing.assert_allclose(second, first, rtol=1e-5)


def test_draws_and_maps(result):
    with warnings.catch_warnings():
        # That prior has no curvature of its own to speak of: errors are not trusted here.
        warnings.simplefilter("ignore", SamplingWarning)
        tree = laplace_deblended(result, key=jax.random.key(0), num_samples=64)
        found = diagnose(result, tree, key=jax.random.key(0))
        chains = sample_deblended(
            result,
            key=jax.random.key(1),
            models="given",
            algorithm="nuts",
            num_chains=2,
            num_warmup=20,
            num_samples=4,
        )
    assert found.maps["gamma"].shape == (2,)
    assert flux_draws(chains).shape == (2, 4, 2, 3)
    assert len(scene_figure(result, tree).axes) >= 6
    assert draws_figure(result, tree).axes
    share = np.asarray(hallucination_map(result)["data_share"])
    assert ((share >= 0) & (share <= 1)).all()


def test_the_information_is_that_of_automatic_differentiation(result):
    fit, exposures = result.free_form.fit, result.scene.exposures
    corner = result.scene["galaxies"].at.corner
    image = jax.numpy.asarray(fit.values["galaxies/morphology"])
    spectrum = jax.numpy.asarray(fit.values["spectrum"])

    def minus(x):
        total = 0.0
        for exposure, one in zip(exposures, result.observation.views, strict=True):
            seen = exposure.render(x, corner)
            model = jax.numpy.einsum("kb,kbyx->byx", spectrum[:, one.which], seen)
            total += 0.5 * jax.numpy.sum(one.observation.weights * (model - exposure.images) ** 2)
        return total

    pixel = (0, 7, 8)
    unit = jax.numpy.zeros_like(image).at[pixel].set(1.0)
    expected = jax.jit(lambda x, u: jax.jvp(jax.grad(minus), (x,), (u,))[1])(image, unit)[pixel]
    found = likelihood_diagonal(exposures, spectrum, corner, image.shape[-1])[pixel]
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_a_stamp_of_a_turned_exposure_is_where_it_was(result):
    exposure = result.scene.exposures[1]
    corner = np.array([1, 2])
    stamp, _ = cut_exposure(exposure, np.asarray(exposure.images), corner, 21)
    box = np.asarray(result.scene.morphologies(result.free_form.fit.values)[0].image)[:1]
    at = np.asarray(result.scene["galaxies"].at.corner)[:1]
    whole = exposure.render_on_host(box, at)[0, 0]
    part = stamp.render_on_host(box, at - corner)[0, 0]
    assert stamp.images.shape[-1] > 21
    # Where the stamp has data, it sees what the exposure did.
    kept = np.asarray(stamp.noise.diagonal())[0] > 0
    expected = np.sort(whole.ravel())[-20:]
    np.testing.assert_allclose(np.sort(part[kept])[-20:], expected, rtol=1e-3)


def test_the_command_joins_turned_files(views, tmp_path):
    paths = []
    for obs in views:
        paths.append(str(tmp_path / f"{obs.name}.fits"))
        obs.to_fits(paths[-1])
    (joined,), _, _ = Input(paths[:1], others=paths[1:]).read()
    assert joined.views[1].turned is not None
    with fits.open(paths[1], mode="update") as hdus:
        hdus["IMAGE"].header["CRVAL2"] = 2.1
    refused = CliRunner().invoke(
        main, ["deblend", paths[0], "--with", paths[1], "--output", str(tmp_path / "o")]
    )
    assert refused.exit_code == 2
    assert "does not overlap" in refused.output
