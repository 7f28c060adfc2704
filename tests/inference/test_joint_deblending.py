"""Two observations of one sky, from the fit to the files."""

import dataclasses
import warnings

import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from click.testing import CliRunner
from conftest import gaussian_prior

from scorepriors.inference import SamplingWarning, deblend, laplace_deblended, report_figure
from scorepriors.inference.cli import main
from scorepriors.inference.cli._input import Input
from scorepriors.inference.deblending._draws import flux_draws
from scorepriors.inference.deblending._scene_file import load_scene
from scorepriors.inference.diagnosis._hallucination import hallucination_map
from scorepriors.inference.reports._outputs import write_outputs
from scorepriors.inference.reports._page import draws_figure, scene_figure
from scorepriors.inference.sampling._tree import group
from scorepriors.models import Observation, Positions, join_observations
from scorepriors.models.rendering._information import likelihood_diagonal
from scorepriors.models.rendering._psf import gaussian_psf

CENTER = np.array([[9.0, 9.5], [12.5, 13.0]])
FLUX = np.array([[300.0, 400.0, 500.0], [260.0, 200.0, 150.0]])
#: Variance of the galaxies' own light, in pixels of the first observation.
WIDTH = 1.5


def view(scale, shape, sigma, bands, flux, *, seed=0):
    """Two round galaxies through a Gaussian PSF of `sigma` pixels, noise of one."""
    images = np.random.default_rng(seed).normal(size=(len(bands), *shape))
    middle = (np.array([22, 22]) - 1) / 2
    rows, columns = np.indices(shape)
    for (row, column), each in zip(CENTER, flux, strict=True):
        y = (rows - (shape[0] - 1) / 2) * scale + middle[0] - row
        x = (columns - (shape[1] - 1) / 2) * scale + middle[1] - column
        variance = WIDTH + scale**2 * (sigma**2 + 1 / 12)
        blob = scale**2 * np.exp(-(y**2 + x**2) / 2 / variance) / (2 * np.pi * variance)
        images += each[:, None, None] * blob
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = (np.array(shape[::-1]) + 1) / 2
    wcs.wcs.cdelt = np.array([-1, 1]) * scale * 0.2 / 3600
    wcs.wcs.crval = [10.0, 2.0]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    return Observation.from_arrays(
        images,
        variance=np.ones_like(images),
        bands=bands,
        wcs=wcs,
        zero_point=31.4,
        psfs=np.stack([gaussian_psf(sigma, 17)] * len(bands)),
        name=f"{scale:g}",
    )


@pytest.fixture(scope="module")
def views():
    blurred = view(1.0, (22, 22), 1.8, ("r", "i"), FLUX[:, :2])
    return blurred, view(0.7, (32, 32), 1.4, ("J",), FLUX[:, 2:], seed=1)


@pytest.fixture(scope="module")
def where():
    return Positions(("a", "b"), CENTER, np.zeros(2, bool))


@pytest.fixture(scope="module")
def result(views, where):
    return deblend(join_observations(*views), where, prior=gaussian_prior(box=16), padding=2)


def draws(result, number=300):
    with warnings.catch_warnings():
        # That prior has no curvature of its own to speak of: errors are compared, not trusted.
        warnings.simplefilter("ignore", SamplingWarning)
        return laplace_deblended(result, key=jax.random.key(0), num_samples=number)


def without(joined, hidden):
    """The same with all pixels of one observation masked but those of a far corner."""
    views = list(joined.views)
    obs = views[hidden].observation
    weights = np.zeros_like(obs.weights)
    weights[:, 0, 0] = obs.weights[:, 0, 0]  # an observation without any pixel is none
    masked = dataclasses.replace(obs, weights=weights)
    views[hidden] = dataclasses.replace(views[hidden], observation=masked)
    return dataclasses.replace(joined, views=tuple(views))


def test_fluxes_in_the_bands_of_both(result):
    assert result.converged
    assert result.free_form.chi2 < 1.2
    np.testing.assert_allclose(result.parametric.flux, FLUX, rtol=0.2)
    np.testing.assert_allclose(result.free_form.flux, FLUX, rtol=0.25)


def test_errors_are_smaller_than_those_of_either_alone(views, where):
    joined = join_observations(*views)
    errors = []
    for hidden in (None, 1, 0):
        alone = joined if hidden is None else without(joined, hidden)
        tree = draws(deblend(alone, where, prior=gaussian_prior(box=16), padding=2))
        errors.append(np.asarray(flux_draws(tree).std(("chain", "draw"))))
    both, first, second = errors
    assert (both[:, :2] < first[:, :2]).all()
    assert (both[:, 2:] < second[:, 2:]).all()


def test_files(result, tmp_path):
    write_outputs(result, tmp_path)
    with fits.open(tmp_path / "sources.fits") as hdus:
        names = [hdu.name for hdu in hdus[1:]]
        assert names == [
            "MODEL_A",
            "SOURCE_A",
            "SOURCE2_A",
            "MODEL_B",
            "SOURCE_B",
            "SOURCE2_B",
            "RESIDUAL",
            "RESIDUAL2",
            "FLUX_COVARIANCE",
            "MEASURED_FLUX_COVARIANCE",
        ]
        assert hdus["SOURCE_A"].data.shape == (2, 22, 22)
        assert hdus["SOURCE2_A"].data.shape == (1, 32, 32)
        assert hdus["SOURCE2_A"].header["BANDS"] == "J"
        # The brightest pixels of one galaxy are at one place of the sky.
        places = []
        for name in ("SOURCE_A", "SOURCE2_A"):
            image = hdus[name].data.sum(0)
            row, column = np.unravel_index(image.argmax(), image.shape)
            places.append(WCS(hdus[name].header).celestial.pixel_to_world(column, row))
    assert places[0].separation(places[1]).arcsec < 0.3
    assert len(report_figure(result).axes) >= 6
    table = Table.read(tmp_path / "catalog.ecsv")
    assert {"flux_r", "flux_i", "flux_J"} <= set(table.colnames)
    # The page shows each observation, band by band, and each source in both.
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("Data minus model in each band") == 2
    for band in ("r", "i", "J"):
        assert page.count(f"Residual in band {band} in units of the noise") == 1
    assert page.count("Data about source a minus the light of its neighbors.") == 2


def test_a_saved_scene_comes_back(result, tmp_path):
    write_outputs(result, tmp_path)
    again = load_scene(tmp_path, prior=tuple(result.priors().values()))
    one, same = result.observation.views[1], again.observation.views[1]
    shapes = one.observation.shape, same.observation.shape
    assert (one.first, shapes[0], one.scale) == (same.first, shapes[1], same.scale)
    density = jax.jit(lambda bound, u: bound.log_density(u))
    first, second = (
        density(scene.fit.posterior, scene.fit.params)
        for scene in (result.free_form, again.free_form)
    )
    np.testing.assert_allclose(second, first, rtol=1e-5)


def test_draws_and_maps(result):
    tree = draws(result, 64)
    assert list(np.asarray(group(tree, "posterior")["band"])) == ["r", "i", "J"]
    assert len(scene_figure(result, tree).axes) >= 6
    assert draws_figure(result, tree).axes
    maps = hallucination_map(result)
    share = np.asarray(maps["data_share"])
    assert ((share >= 0) & (share <= 1)).all()
    # A closed form beside automatic differentiation, on both grids at once.
    fit, exposures = result.free_form.fit, result.scene.exposures
    corner = result.scene["galaxies"].at.corner
    image = jax.numpy.asarray(fit.values["galaxies/morphology"])
    spectrum = jax.numpy.asarray(fit.values["spectrum"])

    def minus(x):
        total = 0.0
        for exposure, view in zip(exposures, result.observation.views, strict=True):
            weights, seen = view.observation.weights, exposure.render(x, corner)
            model = jax.numpy.einsum("kb,kbyx->byx", spectrum[:, view.which], seen)
            total += 0.5 * jax.numpy.sum(weights * (model - exposure.images) ** 2)
        return total

    pixel = (0, 7, 8)
    unit = jax.numpy.zeros_like(image).at[pixel].set(1.0)
    expected = jax.jvp(jax.grad(minus), (image,), (unit,))[1][pixel]
    found = likelihood_diagonal(exposures, spectrum, corner, image.shape[-1])[pixel]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_command(views, tmp_path):
    paths = []
    for obs in views:
        paths.append(str(tmp_path / f"{obs.name}.fits"))
        obs.to_fits(paths[-1])
    run = CliRunner().invoke
    refused = run(main, ["deblend", "--each", *paths, "--with", paths[1]])
    assert refused.exit_code == 2
    assert "--each" in refused.output
    (joined,), (places,), _ = Input(paths[:1], others=paths[1:]).read()
    assert joined.bands == ("r", "i", "J")
    assert places is None
    # A PSF of its own for each image that lacks one.
    with fits.open(paths[1]) as hdus:
        psf = np.array(hdus["PSF"].data[:1])
        alone = tmp_path / "alone.fits"
        fits.HDUList([hdu for hdu in hdus if hdu.name != "PSF"]).writeto(alone)
    fits.PrimaryHDU(psf[0]).writeto(tmp_path / "psf.fits")
    fresh = ["--output", str(tmp_path / "fresh")]  # not what another command left in this folder
    lacking = run(main, ["deblend", paths[0], "--with", str(alone), *fresh])
    assert lacking.exit_code == 2
    assert "(--with-psf)" in lacking.output
    given = ["--with-psf", str(tmp_path / "psf.fits")]
    for command in ("deblend", "sample"):
        odd = run(
            main, [command, paths[0], "--with", str(alone), "--with", paths[1], *given, *fresh]
        )
        assert odd.exit_code == 2
        assert "there is 1 --with-psf for 2 --with; give one for each" in odd.output
        assert run(main, [command, paths[0], *given, *fresh]).exit_code == 2
    (again,), _, _ = Input(paths[:1], others=(str(alone),), other_psfs=tuple(given[1:])).read()
    for one, other in zip(again.views, joined.views, strict=True):
        np.testing.assert_allclose(one.psfs, other.psfs, atol=1e-6)
    # A part of the first is a part of the others, whichever way they are turned.
    at = joined.wcs.pixel_to_world(*(np.array(joined.shape[::-1]) / 2 - 0.5))
    size = joined.pixel_scale * min(joined.shape) / 2
    place = {"position": (at.ra.deg, at.dec.deg), "size": size}
    (part,), _, _ = Input(paths[:1], others=paths[1:], reading=place).read()
    assert part.shape == (min(joined.shape) // 2,) * 2
    assert 0 < part.views[1].observation.num_pixels < joined.views[1].observation.num_pixels
    with fits.open(paths[1], mode="update") as hdus:
        hdus["IMAGE"].header["CRVAL1"] = 200.0
    refused = run(main, ["deblend", paths[0], "--with", paths[1], "--output", str(tmp_path / "o")])
    assert refused.exit_code == 2
    assert "scorepriors: 0.7" in refused.output
