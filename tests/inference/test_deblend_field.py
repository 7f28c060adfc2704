"""Whole fields: many scenes with the result of one, runs that are cut short and go on."""

import json
import os
import re
import shutil
import signal
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from conftest import gaussian_prior
from fits_files import hdu, wcs, write

from scorepriors import InputError, ScorePrior
from scorepriors.inference import catalog as catalog_of
from scorepriors.inference import deblend, deblend_field, load_field_result
from scorepriors.inference.deblending._deblend import settings_of
from scorepriors.inference.deblending._priors import PriorWarning
from scorepriors.inference.fields import _engine, _executors
from scorepriors.inference.fields._again import settings_again
from scorepriors.inference.fields._parts import Place, Record, read_arrays_of, write_part
from scorepriors.inference.fields._plan import Window
from scorepriors.inference.fields._progress import FieldProgress
from scorepriors.inference.fields._psfs import psf_change
from scorepriors.inference.fields._stamps import source
from scorepriors.inference.fields._tasks import Work
from scorepriors.inference.fields._tile_mending import TileMending
from scorepriors.models import Field, FieldWarning, Observation, Positions, gaussian_psf
from scorepriors.models.data._tiles import tiles

BANDS, SIGMA = ("g", "i"), 0.4
FLUXES = np.array([90.0, 60.0, 200.0, 60.0, 120.0, 70.0, 150.0])
PLACES = np.array(
    [[20.0, 24.0], [26.0, 31.0], [70.0, 90.0], [76.0, 99.0], [30.0, 110.0], [88.0, 20.0], [62.0, 28.0]]
)  # fmt: skip


def blob(shape, place, sigma):
    rows, columns = np.indices(shape)
    r2 = (rows - place[0]) ** 2 + (columns - place[1]) ** 2
    return np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def observation(shape=(104, 136), places=PLACES, fluxes=FLUXES, seed=0):
    """Round galaxies under a Gaussian PSF, with white noise."""
    rng = np.random.default_rng(seed)
    widths = [2.4, 2.2, 3.0, 2.2, 2.6, 2.4, 2.0]
    image = np.zeros((2, *shape))
    for place, flux, width in zip(places, fluxes, widths):
        image += flux * np.array([0.6, 1.4])[:, None, None] * blob(shape, place, width)
    noisy = image + rng.normal(0, SIGMA, image.shape)
    psf = gaussian_psf(1.6, 25)
    return Observation.from_arrays(
        noisy,
        variance=np.full(image.shape, SIGMA**2),
        psfs=np.stack([psf, psf]),
        bands=BANDS,
        zero_point=31.4,
        scale=0.2,
    )


def positions(places=PLACES):
    ids = tuple("abcdefghij"[: len(places)])
    return Positions(ids, np.asarray(places), np.zeros(len(places), bool))


@pytest.fixture(scope="module")
def field():
    return observation()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("field")


@pytest.fixture(scope="module")
def result(field, folder):
    return deblend_field(field, positions(), free_form=False, output=folder)


def test_a_field_has_the_fluxes_of_its_sources(result):
    table = result.catalog
    assert list(table["id"]) == list("abcdefg")
    assert len(result.scenes) > 1
    for band, share in zip(BANDS, (0.6, 1.4)):
        pull = (table[f"flux_{band}"].value - share * FLUXES) / table[f"flux_err_{band}"].value
        assert np.abs(pull).max() < 4
    assert np.abs(table["x"] - PLACES[:, 1]).max() < 0.5
    assert np.abs(table["y"] - PLACES[:, 0]).max() < 0.5
    assert set(table["model"]) <= {"profile", "point"}


def test_the_light_of_all_sources_leaves_noise(result, field):
    residual = field.images - result.model(0, 0, *field.shape)
    chi2 = (residual**2 * field.weights).mean()
    assert 0.9 < chi2 < 1.1
    assert not result.model(200, 200, 10, 10).any()


def test_a_small_field_is_one_scene():
    places = np.array([[28.0, 27.0], [34.0, 36.0]])
    obs = observation((64, 64), places, FLUXES[:2])
    # The two have other numbers of slots, which change where a fit ends within its tolerance.
    options = {"free_form": False, "tolerance": 0.01}
    alone = catalog_of(deblend(obs, positions(places), **options))
    whole = deblend_field(obs, positions(places), **options).catalog
    for name in ("flux_g", "flux_i", "flux_err_g", "measured_flux_i", "x", "y", "size"):
        np.testing.assert_allclose(
            np.asarray(whole[name], float), np.asarray(alone[name], float), rtol=2e-3, err_msg=name
        )
    assert list(whole["flags"]) == list(alone["flags"])


def test_neither_batches_nor_the_order_of_sources_matter(result, field, monkeypatch):
    monkeypatch.setattr(_engine, "SCENES", 1)
    order = np.array([3, 1, 6, 0, 2, 5, 4])
    given = positions()
    other = Positions(
        tuple(given.ids[k] for k in order), given.row_column[order], given.is_point[order]
    )
    found = deblend_field(field, other, free_form=False).catalog
    assert list(found["id"]) == [given.ids[k] for k in order]
    for name in ("flux_g", "flux_err_i", "x"):
        ours, theirs = (np.asarray(t[name], float) for t in (result.catalog[order], found))
        np.testing.assert_allclose(theirs, ours, rtol=2e-3)


class Killed(BaseException):
    """What ends a process in the middle of a run."""


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_killed_run_goes_on_to_the_same_catalog(result, field, tmp_path, monkeypatch, after):
    done = []

    def dying(self, function, tasks, shared=None):
        for number, task in enumerate(tasks):
            if len(done) == after:
                raise Killed
            done.append(task)
            yield number, function(shared, task)

    monkeypatch.setattr(_engine, "SCENES", 2)
    with monkeypatch.context() as patch:
        patch.setattr(_executors.Serial, "map", dying)
        with pytest.raises(Killed):
            deblend_field(field, positions(), free_form=False, output=tmp_path)
    with pytest.raises(InputError, match="an unfinished run"):
        deblend_field(field, positions(), free_form=False, output=tmp_path)
    with pytest.raises(InputError, match="not finished"):
        load_field_result(tmp_path, field=None)
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(parts) >= after
    again = deblend_field(field, positions(), free_form=False, output=tmp_path, resume=True)
    for name in ("flux_g", "flux_err_i", "x"):
        ours, theirs = (np.asarray(r.catalog[name], float) for r in (result, again))
        np.testing.assert_allclose(theirs, ours, rtol=2e-3)
    kept = [path for path, when in parts.items() if path.stat().st_mtime_ns == when]
    assert kept == list(parts)


def test_a_run_belongs_to_its_input(result, folder, field):
    del result
    with pytest.raises(InputError, match="a finished run"):
        deblend_field(field, positions(), free_form=False, output=folder)
    with pytest.raises(InputError, match="another image"):
        deblend_field(
            field, positions(), free_form=False, tolerance=0.1, output=folder, resume=True
        )
    with pytest.raises(InputError, match="another image"):
        deblend_field(observation(seed=3), positions(), free_form=False, output=folder, resume=True)
    with pytest.raises(InputError, match="needs the folder"):
        deblend_field(field, positions(), resume=True)


def test_a_finished_field_opens_again(result, folder, field):
    with pytest.raises(InputError, match="not read from files"):
        load_field_result(folder)
    again = load_field_result(folder, field=Fieldlike(field))
    assert list(again.catalog["id"]) == list(result.catalog["id"])
    np.testing.assert_array_equal(again.catalog["flux_g"], result.catalog["flux_g"])
    assert again.catalog["flux_g"].unit == result.catalog["flux_g"].unit
    np.testing.assert_array_equal(again.model(0, 0, 50, 50), result.model(0, 0, 50, 50))
    assert again.facts == result.facts


def Fieldlike(obs):
    from scorepriors.models import Field

    return Field.of(obs)


def test_a_prior_for_other_pixels_is_said_before_anything_is_done(result, folder, field):
    one = gaussian_prior(16)
    wide = ScorePrior(
        one.energy, one.stretch, float(one.sigma), sigma_max=5.0, name="wide", pixel_scale=1.01
    )
    again = partial(deblend_field, field, positions(), prior=wide, output=folder)
    said = "wide learned galaxies in pixels of 1.01 arcsec"
    with pytest.warns(PriorWarning, match=said), pytest.raises(InputError):
        again()
    with warnings.catch_warnings():
        warnings.simplefilter("error", PriorWarning)
        with pytest.raises(InputError, match="force"):
            again(models="profiles")


def test_a_source_by_its_name(result, field):
    found = result.source("c")
    assert found.morphology.sum() == pytest.approx(1, abs=1e-3)
    row, column = found.observed_corner
    side = found.observed.shape[-1]
    whole = result.model(row, column, side, side)
    np.testing.assert_allclose(found.observed + found.others, whole, atol=1e-4)
    # The light of the others is that of their own scenes: none of it at the source's own place.
    assert found.others[:, side // 2, side // 2].max() < 0.2 * whole[:, side // 2, side // 2].max()
    np.testing.assert_allclose(found.observed.sum((1, 2)), found.flux, rtol=0.1)
    with pytest.raises(InputError, match="no source 'z'"):
        result.source("z")


def test_sources_are_found_and_none_that_are_not_there(field):
    found = deblend_field(field, free_form=False)
    table = found.catalog
    place = np.stack([np.asarray(table["y"]), np.asarray(table["x"])], 1)
    distance = np.hypot(*(place[:, None] - PLACES[None]).transpose(2, 0, 1))
    assert (distance.min(0) < 1.5).all()
    assert len(table) == len(PLACES)
    assert (np.asarray(table["evidence"]) > 4.5).all()
    assert not found.facts["doubts"]


def test_an_uncataloged_source_is_added(field):
    without = [k for k in range(len(PLACES)) if k != 4]
    found = deblend_field(field, positions(PLACES[without]), free_form=False)
    new = found.catalog[np.asarray(found.catalog["added"])]
    assert len(new) == 1
    assert np.hypot(new["y"][0] - PLACES[4, 0], new["x"][0] - PLACES[4, 1]) < 1
    assert abs(new["flux_i"].value[0] - 1.4 * FLUXES[4]) < 5 * new["flux_err_i"].value[0]
    assert found.facts["num_added"] == 1


def test_a_sky_is_said_and_subtracted(field):
    with_sky = replace(field, images=field.images + 0.2)
    with pytest.warns(FieldWarning, match="a sky was left in 1 of 1 tiles .*, and was subtracted"):
        by_itself = deblend_field(with_sky, positions(), free_form=False)
    asked = deblend_field(with_sky, positions(), free_form=False, subtract_sky=True)
    (sentence,) = by_itself.facts["notes"]
    assert "a sky was left in 1 of 1 tiles" in sentence
    for mended in (by_itself, asked):
        assert "sky" not in mended.facts["doubts"]
        table = mended.catalog
        pull = (table["flux_i"].value - 1.4 * FLUXES) / table["flux_err_i"].value
        assert np.abs(pull).max() < 4


def test_a_sky_that_is_to_stay_is_a_doubt(field, tmp_path):
    with_sky = replace(field, images=field.images + 0.2)
    settings = settings_of({"sky": "none", "free_form": False}, None, field.pixel_scale)
    with _executors.executor() as run, FieldProgress(False) as shown:
        run.folder = tmp_path
        work = Work(Field.of(with_sky), settings)
        survey = _engine.Engine(work, tmp_path, run, shown).survey(positions())
    assert "sky" in survey.doubts
    assert not survey.sky.any()


def test_a_sky_far_above_the_noise_is_refused_before_any_fit(field):
    bright = replace(field, images=field.images + 20)
    with pytest.raises(InputError, match="the sky is left in band g, i"):
        deblend_field(bright, positions(), free_form=False)


def test_a_scene_that_cannot_be_fitted_ends_nothing(field, monkeypatch):
    from scorepriors.inference.fields import _tasks

    usual = _tasks._final_record

    def broken(scene, *rest):
        if "c" in scene.own.ids:
            raise np.linalg.LinAlgError("Singular matrix")
        return usual(scene, *rest)

    monkeypatch.setattr(_tasks, "_final_record", broken)
    found = deblend_field(field, positions(), free_form=False)
    table = found.catalog
    lost = np.isnan(table["flux_i"].value)
    assert lost[2]
    assert not lost.all()
    assert all(words == "not_converged" for words in table["flags"][lost])
    assert "Singular matrix" in found.facts["doubts"]["failed"]
    pull = ((table["flux_i"].value - 1.4 * FLUXES) / table["flux_err_i"].value)[~lost]
    assert np.abs(pull).max() < 4
    # The light that its first fit found stays, so that no neighbor is fitted to it.
    row, column = np.round(PLACES[2]).astype(int)
    light = found.model(row - 12, column - 12, 25, 25).sum((1, 2))
    assert (light > 0.7 * np.array([0.6, 1.4]) * FLUXES[2]).all()


def test_a_part_that_another_run_writes_again_is_read_again(tmp_path):
    """As a run of other options does in the folder of the first (``force=True``), in one process."""
    place = Place(tmp_path / "part.npz", 1)
    for value in (1.0, 2.0):
        place.part.unlink(missing_ok=True)
        write_part(place.part, [Record({"light": np.full(3, value + k)}) for k in (0, 1)])
        (light,) = read_arrays_of(place, "light")
        np.testing.assert_array_equal(light, value + 1)


def test_scenes_that_are_not_settled_say_so(field, monkeypatch):
    monkeypatch.setattr(_engine, "FINALS", 1)
    seen = []

    def first_one(scene, light, fwhm):
        seen.append(scene.own.ids)
        return len(seen) == 1

    monkeypatch.setattr(_engine, "changed", first_one)
    found = deblend_field(field, positions(), free_form=False)
    flagged = {str(row["id"]) for row in found.catalog if "unsettled" in row["flags"].split(",")}
    assert flagged == set(seen[0])
    assert len(flagged) < len(found.catalog)
    assert (np.asarray(found.catalog["flag_bits"]) >> 15 & 1).sum() == len(flagged)
    assert np.count_nonzero(~np.asarray(found.scenes["settled"])) == 1
    assert "in 1 of" in found.facts["doubts"]["unsettled"]


def test_what_was_subtracted_is_in_the_result(field, folder, tmp_path):
    with_sky = replace(field, images=field.images + np.array([0.2, 0.0])[:, None, None])
    found = deblend_field(
        with_sky, positions(), free_form=False, subtract_sky=True, output=tmp_path
    )
    (tile,) = found.facts["mended_tiles"]
    assert tile["sky"]["g"] == pytest.approx(0.2, abs=0.03)
    assert tile["noise_factor"] == {"g": 1.0, "i": 1.0}
    assert (tile["row"], tile["column"], tile["height"], tile["width"]) == (0, 0, *field.shape)
    again = load_field_result(tmp_path, field=Field.of(with_sky))
    for one in (found, again):
        window = one.field.window(-3, 10, 40, 50)
        fitted = one.as_fitted(window, -3, 10)
        seen = fitted.weights > 0
        changed = (window.images - fitted.images)[seen]
        np.testing.assert_allclose(
            np.unique(np.round(changed, 3)).max(), tile["sky"]["g"], atol=1e-3
        )
    stamp = source(found, "e")
    assert abs(np.nanmean(stamp.residual[0])) < 0.03
    assert np.nanmean(stamp.data[0] - stamp.alone[0] - stamp.others[0]) == pytest.approx(
        tile["sky"]["g"], abs=1e-3
    )


def test_a_window_without_data_is_as_it_was(field):
    """As the first rows of a mosaic, whose strips the report reads one by one."""
    mending = TileMending(np.full((1, 2), 0.3), np.full((1, 2), 2.0))
    beyond = Field.of(field).window(-50, 0, 30, 40)
    assert not beyond.num_pixels
    found = mending.of(beyond, -50, 0, field.shape)
    np.testing.assert_array_equal(found.weights, 0)
    inside = mending.of(Field.of(field).window(5, 6, 30, 40), 5, 6, field.shape)
    np.testing.assert_allclose(inside.images, field.images[:, 5:35, 6:46] - 0.3, rtol=1e-5)
    np.testing.assert_allclose(inside.weights, field.weights[:, 5:35, 6:46] / 4, rtol=1e-5)


def test_a_source_of_two_colors_has_both(tmp_path):
    place = np.array([[40.0, 42.0]])
    rows, columns = np.indices((80, 84))
    r2 = (rows - 40.0) ** 2 + (columns - 42.0) ** 2
    parts = [np.exp(-r2 / (2 * s**2)) / (2 * np.pi * s**2) for s in (2.0, 5.0)]
    # The middle is in one band, the rest in the other.
    image = 900 * np.stack([0.9 * parts[0] + 0.1 * parts[1], 0.1 * parts[0] + 0.9 * parts[1]])
    obs = replace(
        observation((80, 84), place, [1.0]),
        images=(image + np.random.default_rng(0).normal(0, SIGMA, image.shape)).astype(np.float32),
    )
    found = deblend_field(obs, positions(place), free_form=False, profile="two-color")
    one = found.source("a")
    assert np.abs(one.others).max() < 1e-3 * one.observed.max()
    shape = one.model / one.model.sum((1, 2), keepdims=True)
    assert np.abs(shape[0] - shape[1]).sum() > 0.3
    np.testing.assert_allclose(one.model.sum((1, 2)), one.flux, rtol=0.02)


def test_pixels_that_lost_weight_are_kept_in_a_map(result, field, tmp_path):
    assert not result.scenes["down_weighted"].any()
    assert (result.kept(0, 0, *field.shape) == 1).all()
    images = field.images.copy()
    rays = [(0, 24, 20), (1, 66, 95), (1, 67, 95), (0, 100, 3)]
    # Too sharp for light, but in both bands.
    rays += [(band, row, column) for band in (0, 1) for row in (36, 37) for column in (112, 113)]
    for band, row, column in rays:
        images[band, row, column] += 60
    folder = tmp_path / "run"
    spoilt = replace(field, images=images)
    found = deblend_field(spoilt, positions(), free_form=False, output=folder)
    kept = found.kept(0, 0, *field.shape)
    assert kept.shape == field.images.shape
    for ray in rays[:3]:
        assert kept[ray] < 0.1
    (said,) = (one for one in found.facts["notes"] if "no source explains" in one)
    x, y = map(float, re.search(r"at \(x, y\) = \(([\d.]+), ([\d.]+)\) in g, i", said).groups())
    assert np.hypot(x - 112.5, y - 36.5) < 1
    # Nothing far from the rays lost any.
    lost = np.argwhere(kept < 0.5)
    away = np.linalg.norm(lost[:, None, 1:] - np.array(rays)[:, 1:], axis=-1).min(1)
    assert away.max() < 8
    assert (np.asarray(found.scenes["down_weighted"]) > 0).sum() >= 2
    np.testing.assert_array_equal(found.kept(20, 10, 60, 100), kept[:, 20:80, 10:110])
    beyond = found.kept(-5, -7, 40, 40)
    np.testing.assert_array_equal(beyond[:, 5:, 7:], kept[:, :35, :33])
    assert (beyond[:, :5] == 1).all()
    again = load_field_result(folder, field=Fieldlike(spoilt))
    np.testing.assert_array_equal(again.kept(0, 0, *field.shape), kept)


class Widening:
    """Windows of an image whose PSF grows along the columns."""

    varies = True

    def __init__(self, obs, slope):
        self.obs, self.slope = obs, slope

    def pixels(self, box):
        return self.obs.images[:, *box], self.obs.weights[:, *box]

    def psfs(self, row, column):
        width = 1.6 * (1 + self.slope * (column - 68))
        return np.stack([gaussian_psf(1.6, 25), gaussian_psf(width, 25)]), None


def test_the_change_of_a_psf_is_the_error_of_a_flux(field):
    wide = replace(Fieldlike(field), _source=Widening(field, 1e-3))
    g, i = psf_change(wide, Window(10, 30, 64))
    middle, last = (1.6 * (1 + 1e-3 * (at - 68)) for at in (30 + 31.5, 30.0))
    # Of Gaussians of widths s and t the product is 2 s² / (s² + t²) of the square.
    assert i == pytest.approx(2 * middle**2 / (middle**2 + last**2) - 1, rel=0.05)
    assert g == 0
    assert psf_change(Fieldlike(field), Window(10, 30, 64)).max() < 1e-6


def test_a_psf_that_changes_within_scenes_is_said_once(result, field):
    assert result.facts["psf_change"] == {
        "largest": {"g": 0.0, "i": 0.0}, "limit": 0.01, "scenes": 0,
    }  # fmt: skip
    wide = replace(Fieldlike(field), _source=Widening(field, 1e-3))
    with pytest.warns(FieldWarning, match=r"that of a corner differs by more than 1 %") as said:
        found = deblend_field(wide, positions(), free_form=False)
    assert sum("one PSF in each band" in str(one.message) for one in said) == 1
    assert sum("one PSF in each band" in one for one in found.facts["notes"]) == 1
    assert result.facts["notes"] == []
    facts = found.facts["psf_change"]
    assert facts["largest"]["g"] < 1e-6
    assert 0.01 < facts["largest"]["i"] < 0.1
    assert 0 < facts["scenes"] <= len(found.scenes)
    assert not found.facts["doubts"]


def test_nothing_to_fit():
    empty = observation((80, 80), PLACES[:0], FLUXES[:0])
    with pytest.raises(InputError, match="no source"):
        deblend_field(empty, free_form=False)
    none = Table({"x": [], "y": []})
    with pytest.raises(InputError, match="no rows"):
        deblend_field(empty, none, free_form=False)


@pytest.mark.slow
def test_workers_find_the_same(result, field):
    found = deblend_field(field, positions(), free_form=False, workers=2).catalog
    for name in ("flux_g", "flux_err_i", "x"):
        ours, theirs = (np.asarray(t[name], float) for t in (result.catalog, found))
        np.testing.assert_allclose(theirs, ours, rtol=2e-3)


@pytest.mark.slow
def test_learned_priors_in_a_field(field):
    found = deblend_field(field, positions())
    table = found.catalog
    assert set(table["model"]) <= {"free-form", "profile", "point"}
    pull = (table["flux_i"].value - 1.4 * FLUXES) / table["flux_err_i"].value
    assert np.abs(pull).max() < 5


def with_hole(obs, rows, columns):
    weights = obs.weights.copy()
    weights[:, rows, columns] = 0
    return Observation.from_arrays(
        obs.images, weights=weights, psfs=obs.psfs, bands=BANDS, zero_point=31.4, scale=0.2
    )


def test_a_source_without_data_has_no_flux_and_ends_nothing():
    places = np.array([[40.0, 40.0], [50.0, 160.0], [190.0, 120.0]])
    obs = observation((200, 240), places, FLUXES[[2, 4, 6]])
    holed = with_hole(obs, slice(0, 110), slice(110, 240))
    found = deblend_field(holed, positions(places), free_form=False)
    table = found.catalog
    assert list(table["id"]) == ["a", "b", "c"]
    assert np.isnan(table["flux_i"][1])
    assert table["flags"][1] == "no_data:g,no_data:i"
    assert table["model"][1] == "none"
    pull = (table["flux_i"].value - 1.4 * FLUXES[[2, 4, 6]]) / table["flux_err_i"].value
    assert np.abs(pull[[0, 2]]).max() < 4
    with pytest.raises(InputError, match="no data"):
        found.source("b")


def test_a_field_without_any_data_is_said():
    place = np.array([[50.0, 60.0]])
    holed = with_hole(observation(places=place, fluxes=[90.0]), slice(0, 104), slice(10, 110))
    with pytest.raises(InputError, match="no source of the field has any data"):
        deblend_field(holed, positions(place), free_form=False)


def test_a_file_that_was_written_again_is_said(tmp_path):
    path = varying_field(tmp_path / "field.fits")
    given = Positions(("a",), ROW_OF_FIVE[:1], ARE_STARS[:1])
    with quietly():
        deblend_field(Field.open(path), given, free_form=False, output=tmp_path / "out")
        load_field_result(tmp_path / "out")
    os.utime(path, ns=(1, 1))
    with pytest.warns(FieldWarning, match="field.fits was written again since the run"):
        load_field_result(tmp_path / "out")
    with pytest.warns(FieldWarning, match="field.fits was written again since the run"):
        deblend_field(
            Field.open(path), given, free_form=False, output=tmp_path / "out", resume=True
        )


@contextmanager
def quietly():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a scene has one PSF in each band")
        yield


def test_a_catalog_may_reach_far_beyond_the_field(field):
    places = np.concatenate([PLACES, [[-60.0, 20.0]]])
    found = deblend_field(field, positions(places), free_form=False)
    assert list(found.catalog["id"]) == list("abcdefgh")
    assert "edge" in found.catalog["flags"][-1]


@contextmanager
def two_workers():
    """Yield the address of a scheduler with two processes, and a client."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield cluster.scheduler_address, client


def killer(client, step, killed):
    """Return a progress function that kills a worker with work in a step; once, as `killed` tells."""
    pids = client.run(os.getpid)

    def progress(done, total, text):
        busy = [address for address, tasks in client.processing().items() if tasks]
        if not killed and 0 < done < total and text.startswith(step) and busy:
            killed.append(pids[busy[0]])
            os.kill(pids[busy[0]], signal.SIGKILL)

    return progress


def test_a_killed_worker_changes_no_survey(field, tmp_path, monkeypatch):
    """The reduced form of the next test: no worker compiles anything."""
    monkeypatch.setattr(_engine, "tiles", partial(tiles, core=32, margin=16))
    settings = settings_of({"free_form": False}, None, field.pixel_scale)
    work, found, killed = Work(Field.of(field), settings), [], []
    with two_workers() as (scheduler, client):
        for given in ({}, {"scheduler": scheduler}):
            progress = killer(client, "survey", killed) if given else False
            with _executors.executor(**given) as run, FieldProgress(progress) as shown:
                run.folder = tmp_path / str(len(given))
                run.folder.mkdir()
                engine = _engine.Engine(work, run.folder, run, shown)
                found.append(engine.survey(None))
        client.wait_for_workers(2)
        left = client.run(os.getpid)
    assert len(killed) == 1
    assert killed[0] not in left.values()
    one, other = found
    assert one.census.ids == other.census.ids
    np.testing.assert_array_equal(one.census.places, other.census.places)
    np.testing.assert_allclose(other.census.significance, one.census.significance, rtol=1e-5)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(result, field, tmp_path, monkeypatch):
    monkeypatch.setattr(_engine, "SCENES", 1)
    killed = []
    with two_workers() as (scheduler, client):
        found = deblend_field(
            field,
            positions(),
            free_form=False,
            output=tmp_path,
            scheduler=scheduler,
            progress=killer(client, "final", killed),
        ).catalog
        client.wait_for_workers(2)
        left = client.run(os.getpid)
    assert len(killed) == 1
    # Another one took its place.
    assert killed[0] not in left.values()
    for name in ("id", "flags", "model"):
        assert list(found[name]) == list(result.catalog[name])
    for name in ("flux_g", "flux_err_i", "x"):
        ours, theirs = (np.asarray(t[name], float) for t in (result.catalog, found))
        np.testing.assert_allclose(theirs, ours, rtol=2e-3)


# --- PSFs that vary over the field ---

#: Standard deviations of the PSF at the left and at the right border.
NARROW, WIDE = 1.3, 2.1
LONG = (72, 328)
ROW_OF_FIVE = np.array([[36.0, 36.3], [35.7, 100.0], [36.2, 164.4], [36.0, 227.6], [36.4, 292.0]])
ARE_STARS = np.array([True, False, True, False, True])
BRIGHT = np.array([150.0, 200.0, 150.0, 200.0, 150.0])


def share_of_wide(column):
    return column / (LONG[1] - 1)


def varying_field(path):
    """Write stars and round galaxies under a PSF that grows from left to right, and the PSF as PSFEx does."""
    image = np.zeros((2, *LONG))
    for place, flux, is_star in zip(ROW_OF_FIVE, BRIGHT, ARE_STARS, strict=True):
        share, own = share_of_wide(place[1]), 0.0 if is_star else 1.6
        seen = (1 - share) * blob(LONG, place, np.hypot(NARROW, own))
        seen += share * blob(LONG, place, np.hypot(WIDE, own))
        image += flux * np.array([0.6, 1.4])[:, None, None] * seen
    image += np.random.default_rng(5).normal(0, SIGMA, image.shape)
    cards = wcs(shape=LONG).to_header()
    cards["BANDS"], cards["MAGZERO1"], cards["MAGZERO2"] = "g,i", 31.4, 31.4
    narrow, wide = (gaussian_psf(sigma, 25) for sigma in (NARROW, WIDE))
    mask = np.stack([narrow + wide, 2 * (wide - narrow), 0 * wide])[None] / 2
    tables = []
    for band in BANDS:
        column = fits.Column("PSF_MASK", f"{mask.size}E", dim="(25,25,3)", array=mask)
        table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
        table.header.update({"BAND": band, "POLNAXIS": 2, "POLNGRP": 1, "POLDEG1": 1})
        table.header["PSF_SAMP"] = 1.0
        for axis, name in enumerate(("X_IMAGE", "Y_IMAGE"), 1):
            table.header[f"POLNAME{axis}"], table.header[f"POLGRP{axis}"] = name, 1
            # PSFEx counts from 1.
            table.header[f"POLZERO{axis}"] = (LONG[2 - axis] + 1) / 2
            table.header[f"POLSCAL{axis}"] = float(LONG[2 - axis] - 1)
        tables.append(table)
    variance = np.full(image.shape, SIGMA**2)
    return write(path, hdu(image, "IMAGE", cards), hdu(variance, "VARIANCE"), *tables)


def test_each_scene_has_the_psf_of_its_place(tmp_path):
    varying = Field.open(varying_field(tmp_path / "field.fits"))
    share = share_of_wide(164.0)
    narrow, wide = (gaussian_psf(sigma, varying.psf_size) for sigma in (NARROW, WIDE))
    np.testing.assert_allclose(
        varying.psfs_at(36, 164)[0], (1 - share) * narrow + share * wide, atol=1e-5
    )
    given = Positions(tuple("abcde"), ROW_OF_FIVE, ARE_STARS)
    with pytest.warns(
        FieldWarning, match="in 5 of 5 scenes that of a corner differs by more than 1 %"
    ):
        table = deblend_field(varying, given, free_form=False).catalog
    assert list(table["id"]) == list("abcde")
    assert (np.asarray(table["model"]) == np.where(ARE_STARS, "point", "profile")).all()
    off = table["flux_i"].to_value("nJy") - 1.4 * BRIGHT
    assert np.abs(off / table["flux_err_i"].to_value("nJy")).max() < 4
    assert np.abs(off / (1.4 * BRIGHT)).max() < 0.06
    # With the PSF of the middle for all, stars leave rests that are taken for sources.
    one = replace(varying.whole(), psfs=varying.psfs_at(36, 164))
    assert deblend_field(one, given, free_form=False).catalog["added"].any()


# --- Single scenes of a field ---


def test_the_scene_of_a_source_is_a_result_of_its_own(result, field, folder):
    found = result.scene("c")
    number = result.catalog["scene"][list(result.catalog["id"]).index("c")]
    mine = result.catalog[result.catalog["scene"] == number]
    assert list(found.positions.ids) == list(mine["id"])
    assert {"c", "d"} <= set(found.positions.ids)
    again = catalog_of(found)
    for name in ("flux_g", "flux_i"):
        ours, theirs = (t[name].value for t in (mine, again))
        assert (
            np.abs((theirs - ours) / mine[f"{name.replace('flux', 'flux_err')}"].value).max() < 0.1
        )
    row, column, size = (int(result.scenes[n][number]) for n in ("row", "column", "size"))
    np.testing.assert_allclose(again["x"].value + column, mine["x"].value, atol=0.02)
    # The pixels are those of the field without the light of the others.
    own = found.parametric.convolved[0].sum(0)
    others = result.model(row, column, size, size) - own
    seen = found.observation.weights > 0
    whole = field.images[:, row : row + size, column : column + size]
    np.testing.assert_allclose((found.observation.images + others)[seen], whole[seen], atol=0.05)
    assert 0.8 < found.free_form.chi2 < 1.2
    # A field that is opened later knows its options.
    later = load_field_result(folder, field=Field.of(field)).scene("c")
    np.testing.assert_array_equal(later.free_form.flux, found.free_form.flux)


def test_scenes_of_other_options(result):
    facts = json.loads(json.dumps(result.facts["settings"]))
    for known in (result._settings, facts):
        options = settings_again(known, 0.2, None, {"models": "free-form"}).options
        assert options == replace(result._settings.options, models="free-form", padding=1)
        other = settings_again(known, 0.2, gaussian_prior(box=16), {"padding": 3})
        assert other.boxes == (16,)
        assert other.options.padding == 3
    names = [prior.name for prior in settings_again(facts, 0.2, None, {}).priors]
    assert names == [prior.name for prior in result._settings.priors]
    with pytest.raises(InputError, match="a profile of its own, 'wisps'; give profile="):
        settings_again(facts | {"profile": "wisps"}, 0.2, None, {})
    with pytest.raises(InputError, match="the prior of the field, my-own, is not found"):
        settings_again(facts | {"priors": ["my-own"]}, 0.2, None, {})
    with pytest.raises(InputError, match="but had other weights than what is found by that name"):
        settings_again(facts | {"weights": "of another prior"}, 0.2, None, {})
    for name in ("subtract_sky", "rescale_noise", "correlation"):
        with pytest.raises(InputError, match=f"`{name}` is that of the whole field"):
            result.scene("g", **{name: None})
    with pytest.raises(TypeError, match="unknown option"):
        result.scene("g", colour="red")
    with pytest.raises(InputError, match="no source 'z'"):
        result.scene("z")


def test_scenes_need_the_files_of_the_field(result, folder, field, tmp_path):
    del result
    copy = shutil.copytree(folder, tmp_path / "copy")
    later = load_field_result(copy, field=Field.of(field))
    shutil.rmtree(copy)
    for look in (later.scene, later.source):
        with pytest.raises(InputError, match=r"the files of the field are gone: there is no .*npz"):
            look("c")


@pytest.mark.parametrize(
    "options", [{"variable": "a"}, {"moving": ("a",)}, {"variable": ["a"], "timescale": 3.0}]
)
def test_what_varies_or_moves_is_for_scenes(options):
    with pytest.raises(
        InputError, match=f"`{next(iter(options))}`.*: what varies or moves is seen"
    ):
        deblend_field(observation(), positions(), free_form=False, **options)
