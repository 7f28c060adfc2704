"""Forced photometry: closed forms, and errors that hold."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest
from astropy.table import Table
from conftest import gaussian_prior
from field_results import field_wcs
from scipy.stats import kstest
from turned_sky import CENTER, FLUX, WIDTH, camera, positions, view

from scorepriors._errors import InputError
from scorepriors.inference import (
    SamplingWarning,
    deblend,
    forced_catalog,
    forced_figure,
    forced_photometry,
    laplace_deblended,
    simplest,
)
from scorepriors.inference.forced._forced import forced_scene
from scorepriors.inference.forced._outputs import forced_images, forced_summary
from scorepriors.inference.forced._shear import slopes_of_errors
from scorepriors.inference.forced._solve import scatter_of
from scorepriors.inference.forced._sources import Boxes, Fixed, Slopes
from scorepriors.models import (
    Diagonal,
    Field,
    FieldWarning,
    NoiseWarning,
    Observation,
    Sky,
    join_observations,
)

#: Side of the boxes of the fixed sources, pixels.
BOX = 21


def box_of(place, corner, variance=WIDTH):
    """A round galaxy at the model's resolution, of a flux of 7: units must not matter."""
    rows, columns = np.indices((BOX, BOX))
    squared = (rows + corner[0] - place[0]) ** 2 + (columns + corner[1] - place[1]) ** 2
    variance += 0.7**2 + 1 / 12
    return 7 * np.exp(-squared / 2 / variance) / (2 * np.pi * variance)


def galaxies(variance=WIDTH, shift=(0.0, 0.0)):
    corners = np.round(CENTER).astype(int) - BOX // 2
    places = CENTER + np.asarray(shift)
    return Boxes([box_of(p, c, variance) for p, c in zip(places, corners, strict=True)], corners)


def fixed(**options):
    """The true galaxies, on the pixels of an observation whose content does not matter."""
    first = view(1.0, (22, 22), 1.8, ("r",), FLUX[:, :1])
    return Fixed(("a", "b"), first, galaxies(), CENTER, 0.7, **options)


def other(shape=(40, 42), **options):
    options = {"turn": 37.0, "mirror": True, **options}
    return view(0.7, shape, 1.5, ("J", "H"), FLUX[:, [2, 0]], **options)


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.0, 2.2])
def test_fluxes_without_noise_are_exact(scale):
    shape = (round(32 / scale), round(33 / scale))
    sigma = 1.8 if scale < 2 else 1.4
    image = view(scale, shape, sigma, ("J",), FLUX[:, 2:], turn=-63.0, noise=0.0)
    found = forced_scene(fixed(), image)
    np.testing.assert_allclose(found.flux, FLUX[:, 2:], rtol=1e-3)
    np.testing.assert_allclose(found.share, 1.0, atol=2e-3)
    assert (found.chi2 < 1e-2).all()
    # Errors of overlapping Gaussians of one width, in closed form.
    variance = WIDTH / scale**2 + sigma**2 + 1 / 12
    apart = np.linalg.norm(CENTER[0] - CENTER[1]) / scale
    overlap = np.exp(-(apart**2) / (4 * variance))
    alone = np.sqrt(4 * np.pi * variance)
    np.testing.assert_allclose(found.alone_error, alone, rtol=2e-3)
    np.testing.assert_allclose(found.noise_error, alone / np.sqrt(1 - overlap**2), rtol=2e-3)
    np.testing.assert_allclose(
        found.covariance[0][0, 1], -(alone**2) * overlap / (1 - overlap**2), rtol=5e-3
    )


def test_pulls_are_gaussian_and_there_is_no_bias():
    about = fixed()
    empty = np.zeros_like(FLUX)
    pulls = []
    for seed in range(30):
        image = view(0.7, (40, 42), 1.5, ("J", "H"), empty[:, :2], turn=37.0, seed=seed)
        pulls.append(forced_scene(about, image).snr)
    flat = np.ravel(pulls)
    assert (flat < 0).any()
    assert kstest(flat, "norm").pvalue > 0.01


def test_masked_pixels_and_sources_beyond_the_image():
    whole = other(noise=0.0)
    weights = np.array(whole.weights)
    weights[1, :, :] = 0
    weights[1, :3, :3] = 1  # a band needs some pixel
    weights[0, 15:18, :] = 0
    image = Observation.from_arrays(
        whole.images, weights=weights, psfs=whole.psfs, bands=("J", "H"), wcs=whole.wcs
    )
    found = forced_scene(fixed(), image)
    np.testing.assert_allclose(found.flux[:, 0], FLUX[:, 2], rtol=1e-3)
    assert np.isnan(found.flux[:, 1]).all()
    assert np.isnan(found.error[:, 1]).all()
    table = forced_catalog(found)
    assert all("no_data:H" in flags and "masked" in flags for flags in table["flags"])
    # An image that holds one of the galaxies alone.
    small = view(0.7, (11, 11), 1.5, ("J",), FLUX[:, 2:], noise=0.0)
    about = fixed()
    away = Boxes(about.boxes.images, np.add(about.boxes.corners, [[0, 0], [40, 40]]))
    outside = Fixed(about.ids, about.reference, away, CENTER, 0.7)
    flags = forced_catalog(forced_scene(outside, small))["flags"]
    assert "outside" in flags[1]
    assert "outside" not in flags[0]


@pytest.mark.parametrize("sky", [None, "constant"])
def test_variances_from_the_pixels_do_not_bias_fluxes(sky):
    about, clean = fixed(), other(noise=0.0)
    level = 4.0
    errors, biases = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        counts = rng.poisson(np.maximum(clean.images, 0) + level) - level
        with pytest.warns(NoiseWarning, match="follows the noise of its own pixels"):
            image = Observation.from_arrays(
                counts,
                variance=np.maximum(counts + level, 1.0),
                psfs=clean.psfs,
                bands=("J", "H"),
                wcs=clean.wcs,
            )
        found = forced_scene(about, image, sky=sky)
        assert found.noise_from_model == ("J", "H")
        errors.append((found.flux - FLUX[:, [2, 0]]) / found.error)
        kept = forced_scene(about, image, sky=sky, variances="file")
        assert kept.noise_from_model == ()
        biases.append((kept.flux - FLUX[:, [2, 0]]) / kept.error)
    # A fitted sky is biased as the sources are, and takes most of it from them.
    assert sky or np.mean(biases) < -1
    # 32 fluxes: four standard deviations of their mean.
    assert abs(np.mean(errors)) < 0.7


def test_a_sky_is_fitted_with_the_sources():
    clean = other(noise=0.0)
    rows = np.linspace(-1, 1, clean.shape[0])[:, None]
    image = dataclasses.replace(clean, images=clean.images + np.float32(0.5) + 0.3 * rows)
    plain = forced_scene(fixed(), image)
    assert (plain.flux > FLUX[:, [2, 0]] + 10).all()
    found = forced_scene(fixed(), image, sky="plane")
    np.testing.assert_allclose(found.flux, FLUX[:, [2, 0]], rtol=2e-3, atol=0.3)
    assert (found.noise_error > plain.noise_error).all()
    np.testing.assert_allclose(found.background[0, 20, 0], 0.5 + 0.3 * rows[20, 0], atol=0.02)
    assert np.abs(found.residual).max() < 0.2


def test_errors_of_shapes_follow_the_draws():
    rng = np.random.default_rng(0)
    widths = WIDTH * np.exp(0.1 * rng.normal(size=60))
    image = other(noise=0.0)
    found = forced_scene(fixed(draws=tuple(galaxies(v) for v in widths)), image)
    fluxes = [with_boxes(galaxies(v), image).flux for v in widths]
    np.testing.assert_allclose(found.shape_error, np.std(fluxes, axis=0, ddof=1), rtol=1e-3)
    assert found.shapes == "draws"
    np.testing.assert_allclose(found.error, np.hypot(found.noise_error, found.shape_error))


def with_boxes(boxes, image):
    about = fixed()
    return forced_scene(Fixed(about.ids, about.reference, boxes, CENTER, 0.7), image)


def test_errors_of_shapes_follow_the_slopes():
    step = 1e-2
    up, down = (galaxies(WIDTH + s) for s in (step, -step))
    images = [(a - b) / (2 * step) for a, b in zip(up.images, down.images, strict=True)]
    variances = np.array([0.2, 0.1]) ** 2
    slopes = Slopes(galaxies(), np.arange(2), images, np.diag(variances))
    image = other(noise=0.0)
    found = forced_scene(fixed(slopes=slopes), image)
    expected = np.zeros((2, 2))
    for k in range(2):
        ends = []
        for sign in (1, -1):
            each = galaxies()
            each.images[k] = galaxies(WIDTH + sign * step).images[k]
            ends.append(with_boxes(each, image).flux)
        expected += variances[k] * ((ends[0] - ends[1]) / (2 * step)) ** 2
    np.testing.assert_allclose(found.shape_error, np.sqrt(expected), rtol=1e-2)
    assert found.shapes == "curvature"


def test_slopes_of_a_catalog_move_and_stretch():
    table = {"y_err": [0.2, 0.2], "size": [2.0, 2.0], "size_err": [0.4, 0.0], "e2_err": [0.1, 0.1]}
    slopes = slopes_of_errors(galaxies(), Table(table))
    assert list(slopes.owner) == [0, 0, 0, 1, 1]
    np.testing.assert_allclose(np.diag(slopes.covariance), [0.04, 0.04, 0.0025, 0.04, 0.0025])
    moved = galaxies(shift=(0.05, 0.0)).images[0] - galaxies(shift=(-0.05, 0.0)).images[0]
    expected = moved / 0.1
    np.testing.assert_allclose(slopes.images[0], expected, atol=0.03 * np.abs(expected).max())
    # Growing leaves the light and makes it wider.
    assert abs(slopes.images[1].sum()) < 1e-3
    assert slopes.images[1].min() < 0 < slopes.images[1].max()


@pytest.fixture(scope="module")
def result():
    first = view(1.0, (22, 22), 1.8, ("r", "i"), FLUX[:, :2])
    return deblend(first, positions(), prior=gaussian_prior(box=16), padding=2)


def test_a_deblended_scene_in_another_image(result):
    image = other(seed=3)
    by_curvature = forced_photometry(result, image)
    assert by_curvature.shapes == "curvature"
    assert (by_curvature.shape_error > 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        tree = laplace_deblended(result, key=jax.random.key(0), num_samples=40)
    by_draws = forced_photometry(result, image, draws=tree)
    np.testing.assert_allclose(by_draws.flux, by_curvature.flux)
    assert by_draws.shapes == "draws"
    # That prior has a shape of its own; with a dozen sigma all the same.
    pull = (by_curvature.flux - FLUX[:, [2, 0]]) / by_curvature.error
    assert np.abs(pull).max() < 6
    assert forced_figure(by_draws).axes
    hdus = forced_images(by_draws)
    assert [hdu.name for hdu in hdus[1:]] == ["MODEL", "RESIDUAL", "COVARIANCE"]
    assert forced_summary(by_draws)["detected"] == {"J": 2, "H": 2}


def test_fluxes_and_errors_are_of_the_models_that_were_sampled(result):
    """By default draws are of `simplest(result)`: here of profiles, the result of free forms."""
    image, simple = other(seed=3), simplest(result)
    assert set(result.free_form.models) == {"free-form"}
    assert set(simple.free_form.models) == {"profile"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        tree = laplace_deblended(simple, key=jax.random.key(0), num_samples=20)
    found = forced_photometry(result, image, draws=tree)
    expected = forced_photometry(simple, image, draws=tree)
    np.testing.assert_allclose(found.flux, expected.flux, rtol=1e-6)
    np.testing.assert_allclose(found.error, expected.error, rtol=1e-6)
    assert (np.abs(found.flux / forced_photometry(result, image).flux - 1) > 1e-4).any()
    tree.attrs["models"] = json.dumps(["point", "profile"])
    with pytest.raises(InputError, match="give the result that was sampled"):
        forced_photometry(result, image, draws=tree)


def test_fluxes_in_the_image_of_the_run_are_those_of_the_run(result):
    same = result.observation
    found = forced_photometry(result, same)
    np.testing.assert_allclose(found.flux, result.free_form.least_squares, rtol=2e-3)


def test_what_is_refused(result):
    image = other()
    plain = Observation.from_arrays(
        image.images, weights=image.weights, psfs=image.psfs, bands=("J", "H"), name="plain"
    )
    with pytest.raises(InputError, match=r"plain has no WCS"):
        forced_photometry(result, plain)
    away = Observation.from_arrays(
        image.images,
        weights=image.weights,
        psfs=image.psfs,
        bands=("J", "H"),
        wcs=field_wcs((40, 42)),
        name="away",
    )
    with pytest.raises(InputError, match=r"away (does not overlap|is on another side)"):
        forced_photometry(result, away)
    with pytest.raises(InputError, match="give each by itself"):
        forced_photometry(result, join_observations(result.observation, image))
    with pytest.raises(InputError, match="give an Observation"):
        forced_photometry(result, np.zeros((3, 3)))


def test_places_in_the_catalog_are_those_of_the_image_given(result):
    image = large_image()
    found = forced_photometry(result, image)
    assert found.first != (0, 0)
    world = result.observation.wcs.pixel_to_world(result.center[:, 1], result.center[:, 0])
    column, row = image.wcs.world_to_pixel(world)
    for one in (image, Field.of(image)):
        table = forced_catalog(forced_photometry(result, one))
        np.testing.assert_allclose(table["x"], column, atol=0.02)
        np.testing.assert_allclose(table["y"], row, atol=0.02)
    # In figures they are those of the part that is drawn.
    np.testing.assert_allclose(found.pixel[:, 1] + found.first[1], column, atol=0.02)
    hdus = forced_images(found)
    assert (hdus["MODEL"].header["ROW0"], hdus["MODEL"].header["COLUMN0"]) == found.first
    # An image that was cut out of a file before.
    cut = dataclasses.replace(image, corner=(1000, 2000))
    again = forced_photometry(result, cut)
    np.testing.assert_allclose(forced_catalog(again)["x"], column, atol=0.02)
    assert forced_images(again)["MODEL"].header["ROW0"] == 1000 + found.first[0]


def with_sky(image, level, slope=0.0):
    rows = np.linspace(-1, 1, image.shape[0])[:, None]
    more = np.float32(level) + np.float32(slope) * rows.astype(np.float32)
    return dataclasses.replace(image, images=image.images + more)


@pytest.mark.parametrize("kind", ["constant", "plane"])
def test_a_sky_that_is_left_in_is_found_and_fitted(result, kind):
    clean = other(shape=(60, 62), seed=4)
    image = with_sky(clean, 0.5, 0.0 if kind == "constant" else 1.0)
    expected = forced_photometry(result, clean)
    assert expected.background is None
    with pytest.warns(UserWarning, match="a sky is left in"):
        found = forced_photometry(result, image)
    bias = (found.flux - expected.flux) / found.error
    assert np.abs(bias).max() < 1
    assert not found.doubts
    np.testing.assert_allclose(found.background.mean((1, 2)), 0.5, atol=0.2)
    assert forced_summary(found)["sky"].keys() == {"J", "H"}
    asked = forced_photometry(result, image, sky=kind)
    np.testing.assert_allclose(asked.flux, found.flux, rtol=1e-5)
    with pytest.warns(FieldWarning, match="a sky is left in that biases fluxes|sky changes across"):
        left = forced_photometry(result, image, sky="none")
    assert left.doubts
    if kind == "constant":
        assert ((left.flux - expected.flux) / left.error > 1).any()


def test_noise_and_sky_that_the_empty_pixels_deny(result):
    clean = other(shape=(60, 62), seed=4)
    small = dataclasses.replace(clean, weights=clean.weights * np.float32(9))
    with pytest.warns(FieldWarning, match="too small in band J"):
        found = forced_photometry(result, small)
    assert "noise" in forced_summary(found)["doubts"]
    with pytest.warns(UserWarning, match="errors were multiplied by"):
        mended = forced_photometry(result, small, rescale_noise=True)
    usual = forced_photometry(result, clean)
    np.testing.assert_allclose(mended.noise_error, usual.noise_error, rtol=0.1)
    np.testing.assert_allclose(found.noise_error, usual.noise_error / 3, rtol=1e-3)
    for sky in ("auto", "none"):
        with pytest.raises(InputError, match="the sky is left in"):
            forced_photometry(result, with_sky(clean, 50.0), sky=sky)
    bright = forced_photometry(result, with_sky(clean, 50.0), sky="constant")
    assert (np.abs(bright.flux - usual.flux) < bright.error).all()
    with pytest.raises(InputError, match="`sky` must be one of auto"):
        forced_photometry(result, clean, sky="cubic")


def test_a_sky_of_a_model_of_the_noise_keeps_its_kind(result):
    image = large_image()
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape)
    plane = 60 * rows[:, None] - 40 * columns
    sloped = dataclasses.replace(image, images=image.images + plane)
    noise = Sky.about(Diagonal(image.weights), np.array([50.0]), "plane")
    expected = forced_photometry(result, image, noise=noise)
    found = forced_photometry(result, sloped, noise=noise)
    assert max(found.observation.shape) < 100
    assert (np.abs(found.flux - expected.flux) < 0.1 * found.error).all()


def test_draws_in_which_a_source_has_no_flux():
    rng = np.random.default_rng(0)
    fluxes = rng.normal(size=(200, 2, 1)) * np.array([1.0, 3.0])[:, None]
    whole = scatter_of(fluxes)
    fluxes[7, 0, 0] = np.nan
    found = scatter_of(fluxes)
    np.testing.assert_allclose(found, whole, rtol=0.1, atol=0.1)
    assert found[0, 0, 0] > 0.8
    kept = np.delete(fluxes, 7, 0)[:, :, 0]
    np.testing.assert_allclose(found[0, 0, 1], np.cov(kept.T)[0, 1], rtol=0.1, atol=5e-3)
    fluxes[1:, 0, 0] = np.nan
    alone = scatter_of(fluxes)
    assert np.isnan(alone[0, 0, 0])
    np.testing.assert_allclose(alone[0, 1, 1], whole[0, 1, 1])


def large_image():
    wcs = camera(0.7, (300, 310), 20.0)
    images = np.random.default_rng(0).normal(size=(1, 300, 310))
    return Observation.from_arrays(
        images, variance=np.ones_like(images), psfs=other().psfs[:1], bands=("J",), wcs=wcs
    )


def test_a_camera_far_larger_than_the_scene(result):
    image = large_image()
    found = forced_photometry(result, image)
    assert max(found.observation.shape) < 100
    # Of a field the same part is read.
    again = forced_photometry(result, Field.of(image))
    assert again.observation.shape == found.observation.shape
    np.testing.assert_allclose(again.flux, found.flux, rtol=1e-5)
