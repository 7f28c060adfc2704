"""Catalog, result files and report of a scene made without a fit."""

import json
import os
from dataclasses import replace

import equinox as eqx
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from made_scenes import made, photometry_of
from matplotlib.lines import Line2D
from matplotlib.text import Text
from scipy.ndimage import gaussian_filter

from scorepriors import InputError
from scorepriors.inference._status import FitStatus
from scorepriors.inference.cli._common import NOT_CONVERGED, NOT_TRUSTED
from scorepriors.inference.cli._deblending import _verdict
from scorepriors.inference.deblending._catalog import catalog
from scorepriors.inference.deblending._doubts import doubts, position_widths, said_once
from scorepriors.inference.deblending._flags import bands_of, bits_of
from scorepriors.inference.deblending._hdus import model_images
from scorepriors.inference.deblending._result import FittedScene
from scorepriors.inference.deblending._seen import SEEN, has_data, seen_share, total_seen
from scorepriors.inference.reports import _outputs
from scorepriors.inference.reports import _outputs as outputs
from scorepriors.inference.reports._figure import BAD, report_figure
from scorepriors.inference.reports._outputs import NAMES, summary, write_outputs


def moved_by(result, offset):
    """The same with centers elsewhere in the parametric scene, ``[K, 2]``."""
    fit = result.parametric.fit
    values = {**fit.values, "profiles/offset": offset}
    return replace(result, parametric=replace(result.parametric, fit=replace(fit, values=values)))


def test_catalog_has_units_and_the_shapes_of_the_scene():
    result = made(zero_point=30.4)
    table = catalog(result)
    np.testing.assert_allclose(table["x"], result.center[:, 1])
    # A zero point one magnitude below that of a nanojansky: a factor of 10^0.4.
    np.testing.assert_allclose(
        table["flux_r"].to_value(u.nJy), result.free_form.flux[:, 1] * 10**0.4
    )
    np.testing.assert_allclose(
        table["mag_r"].to_value(u.mag), 30.4 - 2.5 * np.log10(result.free_form.flux[:, 1])
    )
    there = result.observation.wcs.pixel_to_world(table["x"], table["y"])
    np.testing.assert_allclose(table["ra"].to_value(u.deg), there.ra.deg)
    np.testing.assert_allclose(table["size_arcsec"].value, 0.2 * table["size"].value, rtol=1e-6)
    np.testing.assert_allclose(table["profile_radius"].value, 1.05)
    np.testing.assert_allclose(table["profile_bulge_fraction"], 0.5)
    assert list(table["flags"]) == ["ok"] * 3
    assert all(table[name].info.description for name in table.colnames)
    assert "seed" not in table.meta


def test_without_light_there_is_no_magnitude_and_no_error_of_it():
    result = made(zero_point=30.4)
    flux = result.photometry.flux.copy()
    flux[0, 1], flux[1, 1] = -20.0, 0.0
    table = catalog(replace(result, photometry=photometry_of(flux, np.full_like(flux, 10.0))))
    for name in ("mag_r", "mag_err_r"):
        assert list(np.isnan(table[name].value)) == [True, True, False]
    relative = table["flux_err_g"] / table["flux_g"]
    np.testing.assert_allclose(table["mag_err_g"].value, 2.5 / np.log(10) * relative, rtol=1e-6)


def test_covariances_of_sources_and_bands_come_back_from_the_file(tmp_path):
    result = made(zero_point=30.4)
    num, bands = result.photometry.flux.shape
    half = np.random.default_rng(0).normal(size=(num * bands, num * bands))
    whole = (half @ half.T).reshape(num, bands, num, bands)
    whole[1, 2], whole[:, :, 1, 2] = np.nan, np.nan  # a band without data
    found = replace(result.photometry, covariance=whole, measured_covariance=4 * whole)
    result = replace(result, photometry=found)
    write_outputs(result, tmp_path / "r")
    with fits.open(tmp_path / "r" / "sources.fits") as hdus:
        names = ("FLUX_COVARIANCE", "MEASURED_FLUX_COVARIANCE")
        for name, factor in zip(names, (1, 4), strict=True):
            matrix, header = hdus[name].data, hdus[name].header
            assert u.Unit(header["BUNIT"]) == u.nJy**2
            assert header["BANDS"] == "g,r,i"
            # Bands run fastest; a zero point one magnitude below that of a nanojansky.
            wanted = factor * 10**0.8 * whole
            assert matrix.shape == (num * bands, num * bands)
            np.testing.assert_allclose(matrix[2 * bands + 1, 0], wanted[2, 1, 0, 0])
            np.testing.assert_allclose(matrix, wanted.reshape(matrix.shape))
    table = QTable.read(tmp_path / "r" / "catalog.ecsv")
    with fits.open(tmp_path / "r" / "sources.fits") as hdus:
        errors = np.sqrt(np.diag(hdus["FLUX_COVARIANCE"].data)).reshape(num, bands)
    np.testing.assert_allclose(errors[:, 0], table["flux_err_g"].value)


def test_a_plain_image_has_neither_sky_nor_magnitudes():
    names = catalog(made(wcs=False)).colnames
    assert not {"ra", "dec", "size_arcsec", "mag_r"} & set(names)
    assert {"flux_r", "flux_err_r", "profile_flux_r"} <= set(names)


def test_images_have_the_zero_point_of_the_data(tmp_path):
    result = made(zero_point=30.4)
    hdus = model_images(result)
    for name in ("MODEL", "SOURCE", "RESIDUAL"):
        header = next(hdu.header for hdu in hdus if hdu.name.startswith(name))
        zeros = [header[f"MAGZERO{i}"] for i in range(1, len(result.observation.bands) + 1)]
        assert zeros == list(result.observation.zero_point)
    assert not any("MAGZERO1" in hdu.header for hdu in model_images(made()))


def test_catalog_round_trips(tmp_path):
    table = catalog(made(unit="nJy", bands=("g_err", "r")), seed=7)
    table.write(tmp_path / "t.ecsv", format="ascii.ecsv")
    back = QTable.read(tmp_path / "t.ecsv", format="ascii.ecsv")
    assert back.colnames == table.colnames
    assert back.meta == table.meta
    assert back.meta["seed"] == 7
    for name in table.colnames:
        assert getattr(back[name], "unit", None) == getattr(table[name], "unit", None)
        assert (back[name] == table[name]).all()
        assert back[name].info.description == table[name].info.description


def test_sources_that_are_outshone_or_not_explained_are_flagged():
    result = made(3)
    scene = result.free_form
    convolved = scene.convolved[0].copy()
    row, column = np.round(result.center[1]).astype(int)
    # Twice as much light of another as of its own, where it is brightest.
    convolved[0, :, row, column] = 2 * convolved[1, :, row, column]
    # Noise alone scatters by the root of two over the pixels in which a source is seen.
    light = scene.convolved[0][2]
    spread = np.sqrt(2 * (light**2).sum()) / light.sum()
    for deviation, flag in ((4, "ok"), (6, "residual")):
        chi2 = np.array([1.0, 1.0, 1 + deviation * spread])
        spoilt = replace(scene, convolved=(convolved,), source_chi2=chi2)
        assert list(catalog(replace(result, free_form=spoilt))["flags"]) == ["ok", "outshone", flag]


def test_a_flux_that_hangs_on_the_model_of_shapes_is_disputed():
    result = made(3)
    flux = result.free_form.flux.copy()
    for factor, words in ((0.72, ["ok"] * 3), (0.68, ["ok", "disputed", "ok"])):
        other = flux.copy()
        other[1] *= factor
        parametric = replace(result.parametric, flux=other)
        assert list(catalog(replace(result, parametric=parametric))["flags"]) == words


def test_light_that_negative_light_undoes_is_flagged():
    result = made(3)
    scene = result.free_form
    for share, word in ((0.08, "ok"), (0.12, "canceled")):
        # One source sits where another is, as a share of it, below zero.
        convolved = scene.convolved[0].copy()
        convolved[0] = -share * convolved[1]
        flux = scene.flux.copy()
        flux[0] = -share * flux[1]
        spoilt = replace(scene, convolved=(convolved,), flux=flux)
        words = [w.split(",") for w in catalog(replace(result, free_form=spoilt))["flags"]]
        assert "negative" in words[0]
        assert "canceled" not in words[0]
        assert words[1] == [word]
        assert words[2] == ["ok"]


@pytest.mark.parametrize("which", ["free_form", "parametric"])
def test_both_fits_have_to_converge(which, tmp_path, capsys):
    result = made()
    assert result.converged
    scene = getattr(result, which)
    status = FitStatus.OUT_OF_ITERATIONS
    fit = replace(scene.fit, status=status, num_iterations=70, expected_gain=3.21)
    early = replace(result, **{which: replace(scene, fit=fit)})
    assert not early.converged
    assert all("not_converged" in words for words in catalog(early)["flags"])
    assert _verdict([early], [tmp_path]) == NOT_CONVERGED
    said = capsys.readouterr().err
    assert "70 iterations, about 3.2 nats to gain" in said
    assert ("profiles, 70" in said) == (which == "parametric")


def test_profiles_left_for_free_forms_have_converged(tmp_path, capsys):
    result = made()
    fit = replace(result.parametric.fit, status=FitStatus.LEFT)
    left = replace(result, parametric=replace(result.parametric, fit=fit))
    assert left.converged
    assert not any("not_converged" in words for words in catalog(left)["flags"])
    assert _verdict([left], [tmp_path]) == 0
    assert capsys.readouterr().err == ""


def test_nothing_speaks_against_a_good_scene(tmp_path, capsys):
    result = made()
    assert doubts(result) == {}
    assert summary(result)["doubts"] == {}
    assert _verdict([result], [tmp_path]) == 0
    assert capsys.readouterr().err == ""
    # A source in the noise may be below zero, and a position may be somewhat wrong.
    scene = result.free_form
    flux, error = scene.flux.copy(), scene.flux_error.copy()
    flux[0], error[0] = -1.0, 1.0
    offset = np.array([(1.4, 0.0), (0.0, 0.0), (0.0, 0.0)])
    faint = replace(moved_by(result, offset), free_form=replace(scene, flux=flux, flux_error=error))
    assert doubts(faint) == {}


def cancels(result):
    scene = result.free_form
    images, flux = scene.convolved[0].copy(), scene.flux.copy()
    # Two sources in one place, 66 times too bright and as much below zero.
    images[0] += 65 * scene.convolved[0][0]
    images[1] -= 65 * scene.convolved[0][0]
    flux[0], flux[1] = 66 * flux[0], flux[1] - 65 * flux[0]
    return replace(result, free_form=replace(scene, convolved=(images,), flux=flux))


def misfit(result):
    scene = result.free_form
    wider = np.stack([gaussian_filter(image, (0, 3, 3)) for image in scene.convolved[0]])
    return replace(
        result, free_form=replace(scene, convolved=(wider,), source_chi2=np.full(3, 50.0))
    )


BAD_SCENES = {
    "cancels": (cancels, {"cancels", "below_zero"}, "take away 9"),
    "one far off": (
        lambda r: moved_by(r, np.array([(3.2, 0), (0, 0), (0, 0)])),
        {"misplaced"},
        "source 0 moved by up to 3.2 px from the position given, 11 widths of its prior",
    ),
    "all off": (
        lambda r: moved_by(r, np.full((3, 2), 1.2)),
        {"misplaced"},
        "sources 0, 1, 2 moved",
    ),
    "wrong PSF": (misfit, {"misfit"}, "of the squared signal is left over"),
}


@pytest.mark.parametrize("name", BAD_SCENES)
def test_a_scene_that_is_not_to_be_believed_has_an_exit_code(name, tmp_path, capsys):
    spoil, codes, words = BAD_SCENES[name]
    result = spoil(made())
    assert set(doubts(result)) == codes
    assert summary(result)["doubts"] == doubts(result)
    assert _verdict([result], [tmp_path]) == NOT_TRUSTED == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(codes)
    assert words in lines[0]
    assert all(line.startswith("scorepriors: ") and line.endswith(".") for line in lines)
    # Of several blends it is said which one.
    assert _verdict([made(), result], ["good", "bad"]) == NOT_TRUSTED
    assert capsys.readouterr().err.startswith("scorepriors: bad: ")
    flags = [set(words.split(",")) for words in catalog(result)["flags"]]
    word = {"cancels": "canceled", "wrong PSF": "misfit"}.get(name, "moved")
    assert any(word in each for each in flags)


def test_positions_without_a_prior_move_freely():
    result = moved_by(made(), np.full((3, 2), 9.0))
    scene = eqx.tree_at(
        lambda s: s.sources[0].sites["offset"].width, result.parametric.scene, np.float32(50)
    )
    wide = replace(result, parametric=replace(result.parametric, scene=scene))
    np.testing.assert_array_equal(position_widths(wide.parametric), 50)
    assert doubts(wide) == {}
    assert np.isinf(position_widths(result.free_form)).all()


def without_data(result, *bands, where=...):
    """The same with masked pixels in some bands."""
    weights = result.observation.weights.copy()
    for band in bands:
        weights[band][where] = 0
    seen = has_data(seen_share(result.free_form.convolved, [weights]))
    flux = result.free_form.flux
    return replace(
        result,
        observation=replace(result.observation, weights=weights),
        photometry=photometry_of(flux, 0.05 * flux, seen),
    )


def test_a_band_without_data_has_no_flux_and_is_named(tmp_path):
    result = without_data(made(unit="nJy"), 0)
    table = catalog(result)
    for name in ("flux_g", "flux_err_g", "mag_g", "profile_flux_g"):
        assert np.isnan(table[name].value).all()
    np.testing.assert_allclose(table["flux_r"].value, result.free_form.flux[:, 1])
    assert list(table["flags"]) == ["masked,no_data:g"] * 3
    assert table["flag_bits"].tolist() == [bits_of("masked,no_data")] * 3
    # What the model says of that band, here that it is far below zero, flags nothing.
    flux, first = result.free_form.flux.copy(), np.arange(3) == 0
    flux[:, first] = -1e6
    spoilt = replace(result, free_form=replace(result.free_form, flux=flux))
    assert list(catalog(spoilt)["flags"]) == list(table["flags"])
    paths = write_outputs(result, tmp_path)
    back = QTable.read(paths[0])
    assert np.isnan(back["flux_g"].value).all()
    assert np.isnan(back["mag_g"].value).all()
    table.meta.clear()  # long keywords
    table.write(tmp_path / "table.fits")
    assert np.isnan(QTable.read(tmp_path / "table.fits")["flux_err_g"].value).all()


def test_a_gap_between_chips_takes_the_flux_of_the_sources_in_it():
    result = made()
    column = result.center[:, 1]
    left = np.abs(np.arange(40) - column[0]) < 7  # nearly all of the first source
    gap = without_data(result, 1, 2, where=np.broadcast_to(left, (32, 40)))
    light = result.free_form.convolved[0][:, 1]
    share = (light * ~left).sum((1, 2)) / light.sum((1, 2))
    assert share[0] < SEEN < share[1:].max()
    found = seen_share(gap.free_form.convolved, [gap.observation.weights])
    np.testing.assert_allclose(found[:, 0], 1)
    np.testing.assert_allclose(found[:, 1], share, rtol=1e-6)
    table = catalog(gap)
    for b, band in enumerate(gap.observation.bands):
        missing = (share < SEEN) & (b > 0)
        np.testing.assert_array_equal(np.isnan(table[f"flux_{band}"].value), missing)
    for words, out in zip(table["flags"], share < SEEN, strict=True):
        assert bands_of(words) == (("r", "i") if out else ())


def test_a_source_without_data_in_any_band_has_no_flux_and_breaks_nothing(tmp_path):
    result = without_data(made(2), 0, 1, 2, where=(slice(0, 30), slice(0, 40)))
    table = catalog(result)
    assert list(table["flags"]) == ["masked,faint,no_data:g,no_data:r,no_data:i"] * 2
    assert not any("negative" in words or "disputed" in words for words in table["flags"])
    write_outputs(result, tmp_path)
    np.testing.assert_array_equal(
        total_seen(np.array([[1.0, np.nan], [np.nan, np.nan], [1.0, 2.0]])), [1, np.nan, 3]
    )


def test_every_flag_is_raised_by_its_cause():
    result = made(6)
    scene, obs = result.free_form, result.observation
    offset, flux, error = np.zeros((6, 2)), scene.flux.copy(), 0.05 * scene.flux
    morphology = scene.morphology.copy()
    offset[0] = (3, 20) - result.center[0]
    morphology[1] *= 0.9  # a tenth of the light fell off the image
    error[2] = flux[2]
    flux[3] *= -1
    offset[4] += (1.5, 0)
    light = scene.convolved[0][5]
    weights = np.where(light > 0.05 * light.max(), 0, obs.weights)
    point = np.arange(6) == 5
    result = replace(
        moved_by(result, offset),
        observation=replace(obs, weights=weights),
        positions=replace(result.positions, is_point=point),
        photometry=photometry_of(flux, error),
        free_form=replace(
            scene,
            flux=flux,
            morphology=morphology,
            fit=replace(scene.fit, status=FitStatus.OUT_OF_ITERATIONS),
        ),
    )
    found = [set(words.split(",")) for words in catalog(result)["flags"]]
    expected = ["edge", "edge", "faint", "negative", "moved", "masked"]
    for words, word in zip(found, expected, strict=True):
        assert {word, "not_converged"} <= words
    assert ["point" in words for words in found] == point.tolist()


def test_catalogs_in_parquet_are_read_by_others(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    result = made(unit="nJy", ids=("a", "b", "é"))
    write_outputs(result, tmp_path / "out")
    path = tmp_path / "out" / "catalog.parquet"
    plain, table = pq.read_table(path), QTable.read(tmp_path / "out" / "catalog.ecsv")
    assert plain.column_names == table.colnames
    assert plain["id"].to_pylist() == ["a", "b", "é"]
    name = next(n for n in table.colnames if n.startswith("flux_"))
    np.testing.assert_allclose(plain[name].to_numpy(), table[name].value, rtol=1e-6)
    assert plain.schema.field(name).metadata[b"unit"] == b"nJy"
    again = QTable.read(path)
    assert again[name].unit == table[name].unit
    assert again.meta["prior"] == table.meta["prior"]
    # Without pyarrow there is none, and none of another run.
    monkeypatch.setattr(_outputs, "can_write_parquet", lambda: False)
    paths = write_outputs(result, tmp_path / "out", force=True)
    assert [p.name for p in paths] == [name for name in NAMES if name != "catalog.parquet"]
    assert not path.exists()


def test_all_files_are_written_and_readable(tmp_path):
    result = made(unit="nJy", ids=("a", "b", "é"))
    paths = write_outputs(result, tmp_path / "new" / "out", seed=5, extra={"note": "x"})
    assert [p.name for p in paths] == list(NAMES)
    assert sorted(p.name for p in paths[0].parent.iterdir()) == sorted(NAMES)
    with fits.open(paths[1]) as hdus:
        assert hdus[0].header["PRIOR"] == "lsst-32"
        assert hdus[0].header["SIGMA0"] == float(np.float32(0.1))
        assert hdus[0].header["CONVERGD"] is True
        assert hdus[0].header["CHI2"] == 1.01
        names = [hdu.name for hdu in hdus[1:]]
        images = [f"{k}_{i}" for i in "AB?" for k in ("MODEL", "SOURCE")] + ["RESIDUAL"]
        assert names == [*images, "FLUX_COVARIANCE", "MEASURED_FLUX_COVARIANCE"]
        for name in ("FLUX_COVARIANCE", "MEASURED_FLUX_COVARIANCE"):
            assert hdus[name].data.shape == (9, 9)
            assert hdus[name].header["BUNIT"] == "nJy2"
        for hdu in (hdus[name] for name in images):
            assert hdu.data.shape == (3, 32, 40)
            assert hdu.header["BUNIT"] == "nJy"
            assert hdu.header["BANDS"] == "g,r,i"
            assert WCS(hdu.header, naxis=2).celestial.pixel_to_world(0, 0).ra.deg > 53
        np.testing.assert_allclose(
            hdus["MODEL_A"].data.sum((1, 2)), result.free_form.flux[0], rtol=1e-3
        )
        total = sum(hdus[f"SOURCE_{i}"].data for i in "AB?") + hdus["RESIDUAL"].data
        np.testing.assert_allclose(total, result.observation.images, atol=1e-3)

    def refuse(name):
        raise AssertionError(name)

    facts = json.loads(paths[3].read_text(), parse_constant=refuse)
    assert facts["note"] == "x"
    assert facts["seed"] == 5
    assert facts["expected_gain"] is None
    assert facts["kernel_error"] == pytest.approx(3e-4)
    assert facts["seconds"] == {"free_form": 2.0, "total": 2.0}
    assert facts["parametric"] == {"converged": True, "iterations": 40, "chi2": 1.01}


def test_nothing_is_replaced_without_force(tmp_path):
    (tmp_path / "report.png").write_text("mine")
    with pytest.raises(InputError, match=r"report\.png exists; use --force"):
        write_outputs(made(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.png"]
    write_outputs(made(), tmp_path, force=True)
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list(tmp_path.iterdir())) == len(NAMES)


def test_pictures_say_what_each_source_was_fitted_as(monkeypatch):
    result = made(3)
    models = np.array(["free-form", "point", "profile"])
    monkeypatch.setattr(FittedScene, "models", property(lambda scene: models))
    titles = [a.get_title(loc="left") for a in report_figure(result, flags=["ok"] * 3).axes]
    assert [one for one in titles if one] == ["learned prior", "star", "bulge + disk"]
    legends = [a.get_legend() for a in report_figure(result).axes if a.get_legend()]
    (said,) = ([one.get_text() for one in legend.get_texts()] for legend in legends)
    assert said == ["fit by profiles", "catalog"]


@pytest.mark.parametrize("stage", ["report_figure", "summary"])
def test_a_failure_leaves_nothing(stage, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("broken")

    monkeypatch.setattr(outputs, stage, fail)
    with pytest.raises(RuntimeError, match="broken"):
        write_outputs(made(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_move_puts_the_old_files_back(tmp_path, monkeypatch):
    for name in NAMES[:3]:
        (tmp_path / name).write_text("old")
    move = os.replace

    def fail(source, target):
        if source.name == "report.png" and source.parent.name.startswith(".partial-"):
            raise OSError("disk")
        move(source, target)

    monkeypatch.setattr(outputs.os, "replace", fail)
    with pytest.raises(OSError, match="disk"):
        write_outputs(made(), tmp_path, force=True)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(NAMES[:3], "old")


def test_results_of_an_earlier_version_are_noticed_and_replaced(tmp_path):
    (tmp_path / "catalogue.ecsv").write_text("old")
    with pytest.raises(InputError, match=r"catalogue\.ecsv exists; use --force"):
        write_outputs(made(), tmp_path)
    write_outputs(made(), tmp_path, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(NAMES)
    # Beside results of this version it is some other file.
    (tmp_path / "catalogue.ecsv").write_text("another")
    write_outputs(made(), tmp_path, force=True)
    assert (tmp_path / "catalogue.ecsv").read_text() == "another"


def test_a_failing_move_puts_a_catalog_of_an_earlier_version_back(tmp_path, monkeypatch):
    (tmp_path / "catalogue.ecsv").write_text("old")
    move = os.replace

    def fail(source, target):
        if source.name == "report.png":
            raise OSError("disk")
        move(source, target)

    monkeypatch.setattr(outputs.os, "replace", fail)
    with pytest.raises(OSError, match="disk"):
        write_outputs(made(), tmp_path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["catalogue.ecsv"]


def test_targets_that_cannot_be_folders(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_outputs(made(), file)
    with pytest.raises(InputError, match="cannot write"):
        write_outputs(made(), file / "below")
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_outputs(made(), tmp_path, force=True)


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="not a writable folder"):
        write_outputs(made(), tmp_path / "out")


@pytest.mark.parametrize(("num", "bands"), [(1, "r"), (2, "gr"), (3, "gri"), (12, "ugrizy")])
def test_report_draws_any_number_of_sources(num, bands):
    figure = report_figure(made(num, tuple(bands), ids=[f"long-{k}" for k in range(num)]))
    figure.canvas.draw()
    assert len(figure.subfigs[1].axes) >= 3 * num


def test_a_report_names_flags_and_rings_sources_to_look_at():
    words = ["ok", "edge,misfit", "faint"]
    figure = report_figure(made(3), flags=words)
    said = [text.get_text() for text in figure.findobj(Text)]
    assert "misfit, edge" in said
    assert "faint" in said
    rings = [line for line in figure.findobj(Line2D) if line.get_markeredgecolor() == BAD]
    rings = [line for line in rings if line.get_marker() == "o" and line.get_markersize() == 11]
    assert len(rings) == 1
    np.testing.assert_allclose(rings[0].get_xydata()[0], made(3).center[1, ::-1])


def test_chi2_is_not_doubted_beside_the_noise():
    each = {"noise": "a", "sky": "b", "chi2": "c"}
    assert said_once(each) == {"noise": "a", "sky": "b"}
    assert said_once({"chi2": "c"}) == {"chi2": "c"}
