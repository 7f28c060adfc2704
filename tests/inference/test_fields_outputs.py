"""Files of a field: they read back as they were, and a failure leaves those of before."""

import json
import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from field_results import stand_in, window_of
from html_pages import Page

from scorepriors import InputError
from scorepriors.inference.deblending._flags import FLAGS
from scorepriors.inference.fields import _outputs, _tables
from scorepriors.inference.fields._outputs import (
    FIELD_NAMES,
    write_field_outputs,
    write_field_report,
)
from scorepriors.inference.fields._strips import pixel_noise, write_images
from scorepriors.inference.reports._parquet import write_parquet
from scorepriors.models.data._warnings import FileWarning


@pytest.fixture(scope="module")
def result():
    return stand_in()


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    directory = tmp_path_factory.mktemp("field") / "results"
    command = "scorepriors deblend x.fits"
    files = ["a.fits", "b.fits"]
    paths = write_field_outputs(result, directory, command=command, files=files, extra={"seed": 3})
    assert [path.name for path in paths] == list(FIELD_NAMES)
    assert sorted(os.listdir(directory)) == sorted(FIELD_NAMES)
    return directory


@pytest.mark.parametrize("name", ["catalog.parquet", "catalog.fits"])
def test_catalogs_read_back_equal(result, folder, name):
    table = QTable.read(folder / name)
    assert table.colnames == result.catalog.colnames
    for column in table.colnames:
        then, now = result.catalog[column], table[column]
        assert getattr(now, "unit", None) == getattr(then, "unit", None), column
        np.testing.assert_array_equal(now, then, err_msg=column)
    description = "mean squared residual over noise where the source is seen"
    assert table["chi2"].info.description == description
    assert table["flux_r"].unit == u.nJy


def test_parquet_has_units_for_readers_without_astropy(folder):
    schema = pytest.importorskip("pyarrow.parquet").read_schema(folder / "catalog.parquet")
    assert schema.field("flux_g").metadata == {
        b"unit": b"nJy",
        b"description": b"posterior mean of the flux, band g",
    }
    assert b"edge: closer than" in schema.field("flags").metadata[b"description"]


def test_the_header_of_the_catalog_explains_columns_and_flags(folder):
    header = fits.getheader(folder / "catalog.fits", "CATALOG")
    names = {header[f"TTYPE{n}"]: n for n in range(1, header["TFIELDS"] + 1)}
    assert header[f"TCOMM{names['flux_r']}"] == "posterior mean of the flux, band r"
    assert header[f"TUNIT{names['flux_r']}"] == "nJy"
    for flag in FLAGS.values():
        assert header[f"FLAG{flag.bit}"].startswith(f"{flag.word}: ")
    assert (header["PRIOR"], header["CONVERGED"]) == ("lsst-32", True)


def test_names_beyond_ascii_are_written(result, tmp_path):
    odd = result.catalog.copy()
    odd["id"] = [f"NGC {k} β" for k in range(len(odd))]
    _tables.write_fits_table(odd, tmp_path / "c.fits")
    assert QTable.read(tmp_path / "c.fits")["id"][1] == "NGC 1 ?"
    write_parquet(odd, tmp_path / "c.parquet")
    assert QTable.read(tmp_path / "c.parquet")["id"][1] == "NGC 1 β"


def test_images_read_back_within_the_rounding(result, folder):
    field, noise = result.field, pixel_noise(result.field)
    np.testing.assert_allclose(noise, 1)
    seen = field.window(0, 0, *field.shape)
    residual = np.where(seen.weights > 0, seen.images - result.light, np.nan)
    for name, truth, steps in (("model", result.light, 64), ("residual", residual, 16)):
        with fits.open(folder / f"{name}.fits") as hdus:
            hdus.verify("exception")
            assert [hdu.name for hdu in hdus[1:]] == ["g", "r", "i"]
            for hdu, image in zip(hdus[1:], truth, strict=True):
                assert isinstance(hdu, fits.CompImageHDU)
                assert hdu.header["QSTEP"] == 1 / steps
                np.testing.assert_array_equal(np.isnan(hdu.data), np.isnan(image))
                assert np.nanmax(np.abs(hdu.data - image)) <= 0.5001 / steps
                # The dither leaves sums as they are: no more than chance, of many pixels.
                off = np.nanmean(hdu.data - image) * np.sqrt(np.isfinite(image).sum())
                assert abs(off) < 6 / steps / np.sqrt(12)
                there, here = WCS(hdu.header), field.wcs
                np.testing.assert_allclose(
                    there.pixel_to_world_values(7, 9), here.pixel_to_world_values(7, 9), atol=1e-9
                )


def test_shares_of_weights_are_exact_where_nothing_is_lost(result, folder, tmp_path):
    share = np.ones_like(result.light)
    share[1, 20:23, 30] = 0, 0.25, 0.3
    share[2, 140, 139] = 0.9
    spoilt = replace(result, share=share)
    write_field_outputs(spoilt, tmp_path)
    sizes = []
    for name in ("kept.fits", "residual.fits"):
        with fits.open(tmp_path / name, disable_image_compression=True) as hdus:
            sizes.append(hdus[1].header["PCOUNT"])
    assert sizes[0] < 0.1 * sizes[1]
    with fits.open(tmp_path / "kept.fits") as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus[1:]] == ["g", "r", "i"]
        for hdu, image in zip(hdus[1:], share, strict=True):
            assert "BUNIT" not in hdu.header
            exact = np.isin(image, (0, 0.25, 1))
            np.testing.assert_array_equal(hdu.data[exact], image[exact])
            assert np.abs(hdu.data - image).max() <= 0.5 / 128 + 1e-6
            there = WCS(hdu.header).pixel_to_world_values(7, 9)
            np.testing.assert_allclose(there, result.field.wcs.pixel_to_world_values(7, 9))
    with fits.open(folder / "kept.fits") as hdus:
        assert all((hdu.data == 1).all() for hdu in hdus[1:])


def test_model_and_residual_make_the_data(result, folder):
    seen = result.field.window(0, 0, *result.field.shape)
    parts = [fits.getdata(folder / f"{name}.fits", "R") for name in ("model", "residual")]
    used = seen.weights[1] > 0
    assert np.abs(sum(parts) - seen.images[1])[used].max() < 0.04
    assert np.isfinite(parts[0]).all()


def cube_result(cube, weights=None):
    """A result whose model is a cube; data are zero."""
    weights = np.ones_like(cube) if weights is None else weights

    def window(*box):
        return SimpleNamespace(
            images=np.zeros_like(window_of(cube, *box)), weights=window_of(weights, *box)
        )

    bands = tuple("gri"[: len(cube)])
    field = SimpleNamespace(
        shape=cube.shape[1:],
        bands=bands,
        wcs=None,
        unit=None,
        zero_point=tuple(22.0 + b for b in range(len(bands))),
        name="",
        window=window,
    )
    return SimpleNamespace(field=field, model=lambda *box: window_of(cube, *box))


@pytest.mark.parametrize("shape", [(129, 40), (300, 260), (1, 5), (128, 128)])
def test_strips_and_tiles_of_any_size(tmp_path, shape):
    cube = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    cube[:, :, 1] = 0
    write_images(tmp_path / "m.fits", cube_result(cube), lambda s: s.model, steps=16, title="")
    with fits.open(tmp_path / "m.fits") as hdus:
        # Each band is an image of its own, with its own zero point.
        assert [hdu.header["MAGZERO1"] for hdu in hdus[1:]] == [22.0, 23.0]
        for hdu, image in zip(hdus[1:], cube, strict=True):
            assert np.abs(hdu.data - image).max() <= 0.5001 / 16
            assert (hdu.data[:, 1] == 0).all()


def test_values_that_cannot_be_rounded_are_kept(tmp_path):
    """Tiles without any number, and tiles whose range is more than integers hold."""
    cube = np.random.default_rng(1).normal(size=(1, 260, 130)).astype(np.float32)
    cube[0, :128] = np.nan
    cube[0, 130, 5] = 1e12
    write_images(tmp_path / "m.fits", cube_result(cube), lambda s: s.model, steps=16, title="")
    found = fits.getdata(tmp_path / "m.fits", 1)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(cube[0]))
    assert found[130, 5] == np.float32(1e12)
    assert np.nanmax(np.abs(np.delete(found - cube[0], 130, 0))) <= 0.5001 / 16


def test_noise_of_bands_without_data():
    weights = np.full((2, 60, 60), 0.25, np.float32)
    weights[1] = 0
    cube = np.zeros_like(weights)
    np.testing.assert_allclose(pixel_noise(cube_result(cube, weights).field), [2, 2])
    np.testing.assert_allclose(pixel_noise(cube_result(cube, 0 * weights).field), [1, 1])


def test_the_summary_counts(folder):
    found = json.loads((folder / "summary.json").read_text())
    assert found["num_sources"] == 12
    assert found["num_scenes_not_converged"] == 0
    assert found["num_scenes_down_weighted"] == 0
    assert found["flags"] == {"edge": 1, "residual": 1, "no_data": 1}
    assert found["models"] == {"point": 4, "profile": 4, "free-form": 4}
    assert found["shape"] == [150, 140]
    assert (found["seed"], found["command"]) == (3, "scorepriors deblend x.fits")
    assert found["seconds"]["final"] == 3.1
    assert found["input"] == ["a.fits", "b.fits"]
    written = datetime.fromisoformat(found["date"])
    assert 0 <= (datetime.now(UTC) - written).total_seconds() < 3600
    page = Page((folder / "report.html").read_text()).said
    assert re.search(rf"input ?a.fits, b.fits ?date ?{re.escape(found['date'])}", page)


def test_numbers_that_json_does_not_know(result):
    odd = replace(result, facts=result.facts | {"chi2": np.nan, "limits": (0.5, np.inf)})
    found = _tables.field_summary(odd)
    assert (found["chi2"], found["limits"]) == (None, [0.5, None])


def test_existing_results_are_kept_without_force(result, folder):
    before = {name: (folder / name).stat().st_mtime_ns for name in FIELD_NAMES}
    with pytest.raises(InputError, match=r"catalog.parquet exists; use --force"):
        write_field_outputs(result, folder)
    assert before == {name: (folder / name).stat().st_mtime_ns for name in FIELD_NAMES}


def test_the_target_is_a_file(result, tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InputError, match="is a file; give a folder"):
        write_field_outputs(result, tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_the_target_is_not_writable(result, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args, **named: False)
    with pytest.raises(InputError, match="is not a writable folder"):
        write_field_outputs(result, tmp_path / "new" / "results")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left on device. What was there is as"),
        (OSError("16 requested and 4 written"), "16 requested and 4 written. What was there is as"),
        (KeyboardInterrupt(), None),
    ],
)
def test_a_failure_leaves_the_files_of_before(result, tmp_path, monkeypatch, error, said):
    (tmp_path / "run").mkdir()
    (tmp_path / "catalog.fits").write_text("old")
    (tmp_path / ".partial-of-a-killed-run").mkdir()

    def fail(*args, **named):
        raise error

    monkeypatch.setattr(_outputs, "field_page", fail)
    with pytest.raises(InputError if said else KeyboardInterrupt, match=said):
        write_field_outputs(result, tmp_path, force=True)
    assert sorted(os.listdir(tmp_path)) == ["catalog.fits", "run"]
    assert (tmp_path / "catalog.fits").read_text() == "old"


def test_without_pyarrow_the_other_files_are_written(result, tmp_path, monkeypatch):
    (tmp_path / "catalog.parquet").write_text("of another run")
    monkeypatch.setattr(_outputs, "can_write_parquet", lambda: False)
    with pytest.warns(FileWarning, match="pyarrow is not installed"):
        write_field_outputs(result, tmp_path, force=True)
    assert sorted(os.listdir(tmp_path)) == sorted(set(FIELD_NAMES) - {"catalog.parquet"})


def test_a_field_without_sources(result, tmp_path):
    light = np.zeros_like(result.light)
    empty = replace(result, catalog=result.catalog[:0], scenes=result.scenes[:0], light=light)
    write_field_outputs(empty, tmp_path)
    for name in ("catalog.parquet", "catalog.fits"):
        table = QTable.read(tmp_path / name)
        assert len(table) == 0
        assert table.colnames == result.catalog.colnames
    assert "No source was found" in (tmp_path / "report.html").read_text()
    assert not fits.getdata(tmp_path / "model.fits", 1).any()


def test_the_report_is_written_again_with_the_truth(result, tmp_path):
    write_field_outputs(result, tmp_path, command="scorepriors deblend x.fits")
    others = {name: (tmp_path / name).stat().st_mtime_ns for name in FIELD_NAMES[:-1]}
    path = write_field_report(result, tmp_path, evaluation={"purity": 0.93})
    text = path.read_text()
    date = json.loads((tmp_path / "summary.json").read_text())["date"]
    assert date in text
    assert "Compared with the truth" in text
    assert "scorepriors deblend x.fits" in text
    assert others == {name: (tmp_path / name).stat().st_mtime_ns for name in others}
    (tmp_path / "summary.json").write_text("[]")
    assert "scorepriors deblend" not in write_field_report(result, tmp_path).read_text()
