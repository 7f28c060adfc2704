"""`scorepriors forced`: a finished run, of a scene or a field, in another image."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from click.testing import CliRunner
from conftest import gaussian_prior
from turned_sky import FLUX, camera, positions, view

from scorepriors.inference import deblend, deblend_field, forced_photometry
from scorepriors.inference.cli import main
from scorepriors.inference.deblending import _scene_file
from scorepriors.inference.forced import _table
from scorepriors.inference.forced._table import FORCED_FLAGS, FORCED_SENTENCES
from scorepriors.inference.reports._outputs import write_outputs
from scorepriors.models import FieldWarning, Observation, Positions, gaussian_psf
from scorepriors.models.data._field import Field

FILES = ("catalog.ecsv", "images.fits", "report.png", "summary.json")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The folder of a deblended scene."""
    folder = tmp_path_factory.mktemp("scene")
    first = view(1.0, (22, 22), 1.8, ("r", "i"), FLUX[:, :2])
    write_outputs(deblend(first, positions(), prior=gaussian_prior(box=16), padding=2), folder)
    return folder


@pytest.fixture
def folder(scene, monkeypatch):
    monkeypatch.setattr(_scene_file, "load_priors", lambda *_, **__: (gaussian_prior(box=16),))
    return scene


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "epoch2.fits"
    view(0.8, (36, 34), 1.6, ("J", "H"), FLUX[:, [2, 0]], turn=20.0).to_fits(path)
    return path


def run(*arguments):
    return CliRunner().invoke(main, ["forced", *map(str, arguments)])


def refused(*arguments):
    """The one sentence with which a command is refused."""
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    (line,) = done.output.splitlines()
    return line


def test_files_of_a_scene(folder, image, tmp_path):
    done = run(folder, "--on", image, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "curvature" in " ".join(done.output.split())
    # The tables of `deblend`, with the sentences of these flags.
    lines = done.stdout.split(str(tmp_path))[0].splitlines()
    assert lines[0] == "2 sources, flux in nJy, in epoch2"
    assert max(map(len, lines)) <= 80
    (head,) = (line for line in lines if "chi2" in line)
    assert head.split() == ["id", "chi2", "flags"]
    assert "±" in done.stdout
    assert [p for p in FILES if not (tmp_path / "out" / p).exists()] == []
    table = QTable.read(tmp_path / "out" / "catalog.ecsv")
    assert list(table["id"]) == ["a", "b"]
    assert {"flux_J", "flux_err_H", "flux_err_noise_J", "snr_H", "mag_J"} <= set(table.colnames)
    assert str(table["flux_J"].unit) == "nJy"
    with fits.open(tmp_path / "out" / "images.fits") as hdus:
        assert hdus["MODEL"].data.shape == hdus["RESIDUAL"].data.shape
        assert hdus["COVARIANCE"].data.shape == (2, 2, 2)
    facts = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert facts["measured"] == {"J": 2, "H": 2}
    again = refused(folder, "--on", image, "--output", tmp_path / "out")
    assert "--force" in again
    over = run(folder, "--on", image, "--output", tmp_path / "out", "--force", "--json")
    assert over.exit_code == 0
    facts["output"] = str(tmp_path / "out")
    assert json.loads(over.stdout).items() >= {n: facts[n] for n in ("output", "measured")}.items()


def test_every_flag_of_forced_photometry_has_a_sentence():
    assert set(FORCED_SENTENCES) == {flag.word for flag in FORCED_FLAGS}


def test_flags_of_forced_photometry_have_their_sentences(folder, image, monkeypatch):
    """The words of `deblend` have other meanings here, and some are not known there."""
    monkeypatch.setattr(_table, "_BLENDED", 0.5)
    monkeypatch.setattr(_table, "_MISFIT", 0.0)
    done = run(folder, "--on", image, "--output", folder / "flagged")
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "misfit, blended" in said
    assert f"misfit: {FORCED_SENTENCES['misfit']} blended: {FORCED_SENTENCES['blended']}" in said


def test_the_folder_beside_the_run_is_the_default(folder, image):
    done = run(folder, "--on", image, "--quiet")
    assert done.exit_code == 0
    # Names of files are all that is printed.
    assert {Path(line).parent for line in done.stdout.splitlines()} == {folder / "forced-epoch2"}
    assert (folder / "forced-epoch2" / "catalog.ecsv").exists()


def test_bad_input_is_one_sentence(folder, image, tmp_path):
    assert "there is no folder" in refused(tmp_path / "none", "--on", image)
    (tmp_path / "empty").mkdir()
    assert "holds no result" in refused(
        tmp_path / "empty", "--on", image, "--output", tmp_path / "o"
    )
    assert "missing.fits" in refused(folder, "--on", tmp_path / "missing.fits")
    with fits.open(image) as hdus:
        for card in ("CRVAL1", "CRVAL2"):
            hdus["IMAGE"].header[card] += 1.0
        hdus.writeto(tmp_path / "away.fits")
        del hdus["PSF"]
        hdus.writeto(tmp_path / "no-psf.fits")
    assert "does not overlap" in refused(folder, "--on", tmp_path / "away.fits")
    assert "PSF" in refused(folder, "--on", tmp_path / "no-psf.fits")
    with fits.open(image) as hdus:
        for card in ("CTYPE1", "CTYPE2"):
            hdus["IMAGE"].header[card] = ""
        hdus.writeto(tmp_path / "no-wcs.fits")
    assert "no WCS" in refused(folder, "--on", tmp_path / "no-wcs.fits")


#: Galaxies of a field, in the pixels of its image.
PLACES = np.array([[20.0, 24.0], [26.0, 31.0], [70.0, 90.0], [76.0, 99.0], [30.0, 110.0]])
LIGHT = np.array([900.0, 600.0, 2000.0, 600.0, 1200.0])


def large(scale, shape, turn, seed):
    """The galaxies of a field in a camera, noise of one."""
    wcs, first = camera(scale, shape, turn), camera(1.0, (104, 136))
    rows, columns = np.indices(shape)
    images = np.random.default_rng(seed).normal(size=(1, *shape))
    seen = wcs.world_to_pixel(first.pixel_to_world(PLACES[:, 1], PLACES[:, 0]))
    for column, row, light in zip(*seen, LIGHT, strict=True):
        variance = 1.5 / scale**2 + 1.6**2 + 1 / 12
        squared = (rows - row) ** 2 + (columns - column) ** 2
        images += light * np.exp(-squared / 2 / variance) / (2 * np.pi * variance)
    return Observation.from_arrays(
        images,
        variance=np.ones_like(images),
        psfs=gaussian_psf(1.6, 21)[None],
        bands=("i",),
        zero_point=31.4,
        wcs=wcs,
        name=f"turned by {turn:g}",
    )


def test_a_field_in_a_turned_image(tmp_path):
    places = Positions(tuple("abcde"), PLACES, np.zeros(5, bool))
    large(1.0, (104, 136), 0.0, 0).to_fits(tmp_path / "field.fits")
    image = Field.open(tmp_path / "field.fits")
    field = deblend_field(image, places, free_form=False, output=tmp_path / "field")
    assert len(field.scenes) > 1
    other = large(0.9, (160, 170), 25.0, 1)
    found = forced_photometry(field, other)
    assert found.shapes == "catalog"
    assert (found.shape_error > 0).all()
    pull = (found.flux[:, 0] - LIGHT) / found.error[:, 0]
    assert np.abs(pull).max() < 4
    np.testing.assert_allclose(found.flux[:, 0], LIGHT, rtol=0.1)
    assert found.model.shape == (1, 160, 170)
    assert np.std(found.residual) < 1.1
    lifted = dataclasses.replace(other, images=other.images + np.float32(0.6))
    with pytest.warns(UserWarning, match="a sky is left in . of . windows, and is fitted there"):
        mended = forced_photometry(field, lifted)
    assert (np.abs(mended.flux - found.flux) < mended.error).all()
    assert found.background is None
    assert not mended.doubts
    with pytest.warns(
        FieldWarning, match="in . of . windows, of which in the first: a sky is left"
    ):
        left = forced_photometry(field, lifted, sky="none")
    assert (left.flux > found.flux + left.error).any()
    path = tmp_path / "turned.fits"
    other.to_fits(path)
    done = run(tmp_path / "field", "--on", path, "--quiet")
    assert done.exit_code == 0, done.output
    table = QTable.read(tmp_path / "field" / "forced-turned" / "catalog.ecsv")
    np.testing.assert_allclose(table["flux_i"].value, found.flux[:, 0], rtol=1e-4)


def test_correlated_noise(folder, image, tmp_path):
    errors = {}
    for word in ("white", "drizzle:1.0"):
        given = ("--on", image, "--output", tmp_path / word[:5], "--correlation", word, "--quiet")
        done = run(folder, *given)
        assert done.exit_code == 0, done.output
        assert ("taken as correlated" in done.output) == (word != "white")
        table = QTable.read(tmp_path / word[:5] / "catalog.ecsv")
        errors[word] = np.asarray([table[f"flux_err_{band}"].value for band in ("J", "H")])
    assert (errors["drizzle:1.0"] > 1.05 * errors["white"]).all()
    facts = json.loads((tmp_path / "drizz" / "summary.json").read_text())
    assert facts["noise_correlation"]["J"] == pytest.approx(1.5, abs=0.01)
    assert "unknown correlation" in refused(
        folder, "--on", image, "--output", tmp_path / "bad", "--correlation", "nearest"
    )
