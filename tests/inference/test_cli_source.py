"""`scorepriors source`: one source of a finished field, in text, FITS and a picture."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from click.testing import CliRunner
from field_results import stand_in
from PIL import Image

from scorepriors import InputError
from scorepriors.inference.cli import main
from scorepriors.inference.deblending._flags import FLAGS
from scorepriors.inference.fields import _deblend_field
from scorepriors.inference.fields._source_figure import source_figure
from scorepriors.inference.fields._source_text import source_text
from scorepriors.inference.fields._stamps import source
from scorepriors.models.data._field import Field


@pytest.fixture(scope="module")
def result():
    return stand_in()


@pytest.fixture
def folder(result, tmp_path, monkeypatch):
    """A folder that is opened as the field of `result`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deblended").mkdir()
    monkeypatch.setattr(_deblend_field, "load_field_result", lambda directory: result)
    return "deblended"


def run(*arguments):
    return CliRunner().invoke(main, ["source", *arguments])


def refused(*arguments):
    """The one sentence with which a command is refused."""
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    (line,) = done.output.splitlines()
    return line


def test_a_stamp_holds_what_belongs_together(result):
    stamp = source(result, "source-3")
    seen = stamp.weights > 0
    np.testing.assert_allclose(
        (stamp.others + stamp.observed + stamp.residual)[seen], stamp.data[seen], atol=1e-3
    )
    np.testing.assert_allclose(stamp.alone[seen], (stamp.data - stamp.others)[seen])
    assert np.isnan(stamp.residual[~seen]).all()
    # What is left is the noise, of one.
    assert 0.9 < np.nanstd(stamp.residual) < 1.1
    flux = result.catalog["flux_r"][3].value / result.field.flux_unit[1][1]
    np.testing.assert_allclose(stamp.model[1].sum(), flux, rtol=1e-3)
    assert stamp.row["id"][0] == "source-3"
    assert stamp.bands == ("g", "r", "i")


def test_images_have_the_place_of_the_source_on_the_sky(result):
    stamp = source(result, "source-3")
    row = stamp.row
    for cube, wcs, corner in (
        (stamp.model, stamp.wcs, stamp.corner),
        (stamp.observed, stamp.observed_wcs, stamp.observed_corner),
    ):
        light = cube.sum(0)
        rows, columns = np.indices(light.shape)
        at = [(light * index).sum() / light.sum() for index in (rows, columns)]
        sky = wcs.pixel_to_world(at[1], at[0])
        assert sky.separation(SkyCoord(row["ra"][0], row["dec"][0])) < 0.02 * u.arcsec
        np.testing.assert_allclose(at[0] + corner[0], row["y"][0], atol=0.05)


def test_text(result):
    text = source_text(source(result, "source-0"))
    lines = text.splitlines()
    assert lines[0] == "source-0: point"
    assert max(map(len, lines)) <= 80
    for word in ("edge", "residual"):
        assert FLAGS[word].sentence[:40] in text
    row = result.catalog[0]
    flux = row["flux_r"].value
    assert f"{flux:.0f} ± 12" in text or f"{flux:.1f} ± 12.5" in text
    assert f"RA {row['ra'].value:.7f}" in text
    assert "P(star)           0.98" in text
    assert f"{row['mag_i'].value:.3f} ± 0.020" in text


def test_text_names_bands_without_data_and_columns_of_its_own(result):
    odd = stand_in()
    odd.catalog["profile_radius"] = np.full(12, 3.25) * u.pix
    odd.catalog["flux_g"][1] = np.nan
    text = source_text(source(odd, "source-1"))
    assert "no_data (g): in the band named" in text.replace("\n    ", " ")
    assert "no data" in text
    assert "profile_radius              3.25 pix" in text
    assert source_text(source(result, "source-4")).splitlines()[1] == "no flags"


def test_the_command_prints_and_writes(folder, result):
    done = run(folder, "source-5", "--output", "s.fits", "--picture", "s.png")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("source-5: free-form\n")
    assert done.output.splitlines()[-2:] == ["s.fits", "s.png"]
    stamp = source(result, "source-5")
    with fits.open("s.fits") as hdus:
        names = ["PRIMARY", "MODEL", "OBSERVED", "DATA", "ALONE", "RESIDUAL", "CATALOG"]
        assert [hdu.name for hdu in hdus] == names
        np.testing.assert_allclose(hdus["RESIDUAL"].data, stamp.residual, atol=1e-5)
        np.testing.assert_allclose(hdus["MODEL"].data, stamp.model, atol=1e-5)
        header = hdus["ALONE"].header
        assert (header["BANDS"], header["ROW0"]) == ("g,r,i", stamp.observed_corner[0])
        there = WCS(header).celestial.pixel_to_world_values(3, 4)
        np.testing.assert_allclose(there, stamp.observed_wcs.pixel_to_world_values(3, 4))
    assert QTable.read("s.fits", hdu="CATALOG")["id"][0] == "source-5"
    with Image.open("s.png") as picture:
        assert min(picture.size) > 500
    assert sorted(os.listdir()) == ["deblended", "s.fits", "s.png"]


def test_a_row_for_programs(folder, result):
    done = run(folder, "source-5", "--output", "s.fits", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    row = source(result, "source-5").row
    assert found.keys() == {*row.colnames, "units"}
    assert found["id"] == "source-5"
    assert found["flux_g"] == pytest.approx(row["flux_g"][0].value)
    assert found["units"]["flux_g"] == str(row["flux_g"].unit)
    assert isinstance(found["flags"], list)
    # What is there to be read is on stderr then.
    assert done.stderr.startswith("source-5: free-form\n")
    assert done.stderr.endswith("s.fits\n")
    quiet = run(folder, "source-5", "--output", "t.fits", "--quiet")
    assert quiet.output == "t.fits\n"


@pytest.mark.parametrize("spelling", ["degrees", "sexagesimal"])
def test_the_source_nearest_to_a_position(folder, result, spelling):
    place = SkyCoord(result.catalog["ra"][7], result.catalog["dec"][7])
    place = place.directional_offset_by(0 * u.deg, 0.3 * u.arcsec)
    given = f"{place.ra.deg:.8f}", f"{place.dec.deg:.8f}"
    if spelling == "sexagesimal":
        given = tuple(place.to_string("hmsdms", sep=":", precision=4).split())
    done = run(folder, "--position", *given)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == "the nearest source is 0.30 arcsec from the position"
    assert lines[1].startswith("source-7: ")


def test_what_is_not_known_is_refused_in_one_sentence(folder):
    assert refused(folder, "source-99") == (
        "scorepriors: there is no source 'source-99'; the nearest ids are source-9, source-8, "
        "source-7."
    )
    assert "give the id of a source or --position" in refused(folder)
    assert "not both" in refused(folder, "source-1", "--position", "1", "2")
    assert "as 10:00:24 +02:12:00" in refused(folder, "--position", "north", "2")


def test_folders_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "there is no folder 'nowhere'" in refused("nowhere", "1")
    (tmp_path / "file").write_text("")
    assert "'file' is a file; give the folder" in refused("file", "1")
    (tmp_path / "mine").mkdir()
    assert "holds no results of a field" in refused("mine", "1")


def test_files_are_kept_without_force(folder, tmp_path):
    (tmp_path / "s.fits").write_text("mine")
    assert "'s.fits' exists; --force" in refused(folder, "source-1", "--output", "s.fits")
    assert (tmp_path / "s.fits").read_text() == "mine"
    assert run(folder, "source-1", "--output", "s.fits", "--force").exit_code == 0
    assert "SOURCEID" in fits.getheader("s.fits")
    assert "name it .fits" in refused(folder, "source-1", "--output", "s.txt")
    assert "name it .png" in refused(folder, "source-1", "--picture", "s")
    (tmp_path / "d.fits").mkdir()
    assert "is a folder" in refused(folder, "source-1", "--output", "d.fits")
    assert "is not a writable folder" in refused(folder, "source-1", "--output", "no/s.fits")


def test_a_band_without_data(result, tmp_path):
    obs = result.field.window(0, 0, 150, 140)
    weights = obs.weights.copy()
    weights[0] = 0
    images = np.where(weights > 0, obs.images, np.float32(0))
    catalog = result.catalog.copy()
    catalog["flux_g"][3] = np.nan
    field = Field.of(replace(obs, images=images, weights=weights))
    dark = replace(result, field=field, catalog=catalog)
    stamp = source(dark, "source-3")
    assert np.isnan(stamp.alone[0]).all()
    assert "no data" in source_text(stamp)
    figure = source_figure(stamp)
    figure.savefig(tmp_path / "s.png")
    stamp.write(tmp_path / "s.fits")
    assert np.isnan(fits.getdata(tmp_path / "s.fits", "RESIDUAL")[0]).all()


def test_the_picture_names_the_worst_flag_first(result):
    stamp = source(result, "source-3")
    stamp.row["flags"] = ["edge,faint,residual"]
    assert source_figure(stamp).get_suptitle() == "source source-3: residual, edge, faint"
    stamp.row["flags"] = ["ok"]
    assert source_figure(stamp).get_suptitle() == "source source-3"


def test_a_field_without_wcs():
    plain = stand_in(wcs=None)
    with pytest.raises(InputError, match="has no WCS"):
        source(plain, position=(150.0, 2.0))
    stamp = source(plain, "source-1")
    assert stamp.wcs is None
    assert "sky" not in source_text(stamp)


def test_fields_without_sources(result):
    empty = stand_in(number=1)
    empty.catalog.remove_rows([0])
    with pytest.raises(InputError, match="the field has none"):
        source(empty, "1")
    with pytest.raises(InputError, match="has no source"):
        source(empty, position=(150.0, 2.0))
    with pytest.raises(InputError, match="exactly one of them, not neither"):
        source(result)
