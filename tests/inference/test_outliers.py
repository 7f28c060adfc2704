"""Pixels that no source explains, and the error of a model that is slightly wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from scorepriors.inference import deblend, deblend_many, load_scene
from scorepriors.inference.cli import main
from scorepriors.inference.deblending._catalog import catalog
from scorepriors.inference.deblending._misfit import (
    kept_weight,
    model_error,
    smooth_light,
    with_model_error,
)
from scorepriors.inference.deblending._scene_file import save_scene
from scorepriors.inference.deblending._unexplained import unexplained, unexplained_words
from scorepriors.inference.reports._figure import report_figure
from scorepriors.inference.reports._outputs import summary
from scorepriors.models import Observation, Positions
from scorepriors.models.rendering._psf import gaussian_psf

SHAPE, WIDTH, NUMBER = (40, 36), 1.6, 6
CENTERS = np.array([[17.2, 15.6], [21.9, 20.4]])
STARS = Positions(("a", "b"), CENTERS, np.array([True, True]))
PSF = gaussian_psf(WIDTH, 25)
OPTIONS = {"free_form": False, "center_error": 0.05}


def star(place, flux=1.0, width=WIDTH):
    rows, columns = np.indices(SHAPE)
    squared = (rows - place[0]) ** 2 + (columns - place[1]) ** 2
    return flux * np.exp(-squared / 2 / width**2) / (2 * np.pi * width**2)


def observation(seed, flux=(400.0, 250.0)):
    light = sum(star(c, f) for c, f in zip(CENTERS, flux, strict=True))
    images = light + np.random.default_rng(seed).normal(size=(2, *SHAPE))
    return Observation.from_arrays(images, variance=np.ones_like(images), psfs=PSF)


def with_light(obs, light):
    return replace(obs, images=obs.images + np.asarray(light, np.float32))


def hot(at, height):
    out = np.zeros((2, *SHAPE))
    for (row, column), value in zip(at, height, strict=True):
        out[0, row, column] = value
    return out


#: A hot pixel beside the core of a source, a cosmic ray's track, and a neighbor nobody knows of.
PIXELS = hot([(18, 16), (25, 17), (25, 18), (26, 19)], [60, 90, 40, 25])
NEIGHBOR = np.stack([star((21.4, 12.2), 150.0)] * 2)


@pytest.fixture(scope="module")
def clean():
    files = [observation(seed) for seed in range(NUMBER)]
    plain = {"outliers": False, "model_error": False}
    return files, deblend_many(files, [STARS] * NUMBER, **plain, **OPTIONS)


def moved(found, clean):
    error = clean[1][0].photometry.measured_error
    before = np.array([r.photometry.measured for r in clean[1]])
    return (np.array([r.photometry.measured for r in found]) - before) / error


def test_clean_pixels_keep_their_weight():
    rng = np.random.default_rng(0)
    for width in (0.9, 1.6, 2.5):
        psf = np.repeat(gaussian_psf(width, 25)[None], 4, 0)
        noise = rng.normal(size=(4, 200, 200))
        kept = kept_weight(noise, np.ones_like(noise), np.zeros_like(noise), psf)
        assert (kept == 1).all()
        # Nor does a sky take it.
        kept = kept_weight(noise + 3.0, np.ones_like(noise), np.zeros_like(noise), psf)
        assert (kept == 1).all()
        # Nor noise that neighbors share, or that is larger than the weights say.
        for sigma in (1.2, 0.01):
            shared = gaussian_filter(noise, (0, sigma, sigma), mode="wrap")
            shared *= 2 / shared.std()
            kept = kept_weight(shared, np.ones_like(noise), np.zeros_like(noise), psf)
            assert (kept == 1).all()


def test_outliers_lose_it():
    rng = np.random.default_rng(1)
    left = rng.normal(size=(1, *SHAPE))
    spoilt = left + PIXELS[:1]
    kept = kept_weight(spoilt, np.ones_like(left), np.zeros_like(left), PSF[None])
    np.testing.assert_array_equal(kept == 0, PIXELS[:1] > 0)
    assert (kept[PIXELS[:1] == 0] == 1).all()
    # A point loses it in proportion to its light; a masked pixel is no reason for anything.
    mask = np.ones_like(left)
    mask[0, 5, 5] = 0
    left[0, 5, 5] = 1e4
    kept = kept_weight(left + NEIGHBOR[:1], mask, np.zeros_like(left), PSF[None])
    assert kept[0, 21, 12] < 0.05
    assert (kept[0][NEIGHBOR[0] < 0.02] == 1).all()
    # Structure of galaxies, a third of their light, does not.
    galaxy = star((20, 18), 3e4, 4.0)
    knots = 0.3 * galaxy * np.sin(np.indices(SHAPE).sum(0) / 2.5)
    kept = kept_weight(left + knots, mask, galaxy[None], PSF[None])
    assert (kept == 1).all()


def test_error_of_a_model_is_found_where_there_is_one():
    rng = np.random.default_rng(2)
    light = np.stack([star((20, 18), 8000.0)] * 3)
    weights = np.ones_like(light)
    for true in (0.0, 0.02, 0.1):
        noise = rng.normal(size=light.shape) * np.sqrt(
            1 / with_model_error(weights, light, np.full(3, true))
        )
        found = model_error(noise, weights, light)
        if true == 0:
            assert (found == 0).all()
        else:
            np.testing.assert_allclose(found, true, rtol=0.5)


def test_clean_data_lose_nothing(clean):
    found = deblend_many(clean[0], [STARS] * NUMBER, **OPTIONS)
    assert (moved(found, clean) == 0).all()
    assert all(r.kept is None and r.model_error is None for r in found)
    assert summary(found[0])["down_weighted"] == {"band0": 0, "band1": 0}


def test_where_pixels_lost_their_weight_is_told(clean):
    """A source that the catalog lacks is seen in both bands, a cosmic ray in one."""
    files = [with_light(obs, light) for obs in clean[0][:1] for light in (NEIGHBOR, PIXELS)]
    lacking, spoilt = deblend_many(files, [STARS] * 2, **OPTIONS)
    first = unexplained(lacking)[0]
    assert first.is_like_a_source
    assert np.hypot(first.x - 12.2, first.y - 21.4) < 1
    assert first.bands == ("band0", "band1")
    said = unexplained_words(unexplained(lacking))
    assert f"at (x, y) = ({first.x:.1f}, {first.y:.1f}) in band0, band1" in said
    groups = unexplained(spoilt)
    assert {one.bands for one in groups} == {("band0",)}
    assert sorted(one.pixels for one in groups) == [1, 3]
    assert unexplained_words(groups) is None
    assert summary(spoilt)["unexplained"][0] == {
        "image": "", "x": pytest.approx(17.7, abs=0.5), "y": pytest.approx(25.3, abs=0.5),
        "ra": None, "dec": None, "bands": ["band0"], "pixels": 3,
    }  # fmt: skip


@pytest.mark.parametrize("light", [PIXELS, NEIGHBOR], ids=["pixels", "neighbor"])
def test_outliers_cost_little(clean, light):
    spoilt = [with_light(obs, light) for obs in clean[0]]
    found = deblend_many(spoilt, [STARS] * NUMBER, **OPTIONS)
    shift = moved(found, clean)
    left_out = moved(
        deblend_many(spoilt, [STARS] * NUMBER, outliers=False, model_error=False, **OPTIONS), clean
    )
    rms = np.sqrt((shift**2).mean((0, 2)))
    assert (rms < 0.8).all()
    assert rms[0] < 0.4 * np.sqrt((left_out[:, 0] ** 2).mean())


def test_files_and_flags_know_of_them(clean, tmp_path):
    spoilt = with_light(clean[0][0], PIXELS + NEIGHBOR)
    found = deblend(spoilt, STARS, **OPTIONS)
    assert (found.kept[0][PIXELS > 0] < 0.2).all()
    assert all(number > 5 for number in found.num_down_weighted.values())
    core = hot([(21, 20), (22, 21), (22, 20)], [500, 400, 300])
    on_source = deblend(with_light(clean[0][0], core + core[::-1]), STARS, **OPTIONS)
    flags = catalog(on_source)["flags"]
    assert "down_weighted" not in flags[0]
    assert "down_weighted" in flags[1]
    save_scene(found, tmp_path / "scene.npz")
    back = load_scene(tmp_path / "scene.npz")
    np.testing.assert_allclose(back.kept[0], found.kept[0], atol=1e-6)
    np.testing.assert_allclose(back.photometry.measured, found.photometry.measured, rtol=1e-3)
    assert report_figure(found).axes[2].collections
    spoilt.to_fits(tmp_path / "blend.fits")
    (tmp_path / "stars.csv").write_text("x,y,is_star\n15.6,17.2,1\n20.4,21.9,1\n")
    for option, number in (("--outliers", found.num_down_weighted["band0"]), ("--no-outliers", 0)):
        arguments = ["deblend", tmp_path / "blend.fits", "--catalog", tmp_path / "stars.csv"]
        arguments += [
            option,
            "--no-model-error",
            "--output",
            tmp_path / "out",
            "--quiet",
            "--force",
        ]
        outcome = CliRunner().invoke(main, [str(one) for one in arguments])
        assert outcome.exit_code in (0, 3), outcome.output
        facts = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert abs(facts["down_weighted"]["band0"] - number) <= 0.2 * number
        with fits.open(tmp_path / "out" / "sources.fits") as hdus:
            assert ("KEPT" in hdus) == (number > 0)


def test_a_psf_that_is_too_wide(clean):
    """Its error is in the errors of bright sources, and not in faint neighbors."""
    files = [observation(seed, (20000.0, 60.0)) for seed in range(NUMBER)]
    wide = [replace(obs, psfs=np.stack([gaussian_psf(1.05 * WIDTH, 25)] * 2)) for obs in files]
    left_out, found = (
        deblend_many(wide, [STARS] * NUMBER, outliers=False, model_error=on, **OPTIONS)
        for on in (False, True)
    )
    before, after = (np.array([r.free_form.source_chi2[0] for r in x]) for x in (left_out, found))
    assert before.mean() > 5
    assert 0.5 < after.mean() < 1.3
    true = np.array([20000.0, 60.0])[:, None]
    pulls = [
        np.array([(r.photometry.measured - true) / r.photometry.measured_error for r in x])
        for x in (left_out, found)
    ]
    rms = [np.sqrt((p**2).mean((0, 2))) for p in pulls]
    assert (rms[1] < rms[0]).all()
    assert rms[1][1] < 2
    assert 0.005 < found[0].error_of_model["band0"] < 0.2


@pytest.mark.parametrize("true", [0.0, 0.08])
def test_errors_that_are_too_small_are_no_error_of_the_model(true):
    """The scatter of pixels without light tells the noise, not the file alone."""
    rng = np.random.default_rng(4)
    rows, columns = np.indices((60, 60)) - 29.5
    light = (400 * np.exp(-(rows**2 + columns**2) / 2 / 6.0**2))[None]
    found = {}
    for factor in (1.0, 1.3):
        noise = factor * rng.normal(size=light.shape)
        wrong = true * smooth_light(light[0]) * rng.normal(size=light.shape)
        (found[factor],) = model_error(noise + wrong, np.ones(light.shape), light)
    if true == 0:
        assert found == {1.0: 0.0, 1.3: 0.0}
    else:
        assert found[1.3] == pytest.approx(found[1.0], rel=0.15)
        assert found[1.0] == pytest.approx(true, rel=0.25)
