"""Sampled scenes: tables against numpy, files, the report, the command."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import warnings
from importlib.util import find_spec
from types import SimpleNamespace

import arviz as az
import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS
from click.testing import CliRunner
from conftest import gaussian_prior, small_observation
from html_pages import Page

from scorepriors import InputError
from scorepriors.inference import (
    MAPResult,
    Until,
    cli,
    deblend,
    flux_catalog,
    flux_covariance,
    load_tree,
    posterior,
    save_tree,
    source_images,
    source_moments,
)
from scorepriors.inference._status import Check, Finding, RunStatus, record
from scorepriors.inference.cli._common import BAD_INPUT, INTERRUPTED, NOT_TRUSTED
from scorepriors.inference.deblending._doubts import doubts
from scorepriors.inference.deblending._flags import FLAGS
from scorepriors.inference.deblending._notes import notes
from scorepriors.inference.deblending._quantities import FLOW_LOOKS
from scorepriors.inference.deblending._sampling import (
    BRIGHT_ALGORITHM,
    FAINT,
    FAINT_ALGORITHM,
    SCENE_ALGORITHMS,
    SCENE_WARMUP,
    default_algorithm,
    measured,
    unpadded,
)
from scorepriors.inference.deblending.reduced import Reduced
from scorepriors.inference.diagnosis._outputs import COLUMNS, DIAGNOSIS_NAMES
from scorepriors.inference.reports._numbers import in_digits, value_and_error
from scorepriors.inference.reports._page import report_page
from scorepriors.inference.reports._samples import SAMPLE_NAMES, diagnostics
from scorepriors.inference.sampling._tree import group, group_names, make_tree
from scorepriors.models import blend
from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._free_form import FreeForm
from scorepriors.models.sources._kinds import group_facts
from scorepriors.models.sources._placement import place_sources
from scorepriors.models.sources._point import PointSource

CENTERS = np.array([(8.0, 8.0), (9.5, 16.0), (16.0, 11.0)])


def fabricated(*, chains=2, draws=50, zero_point=31.4, wcs=True, found=()):
    """Two galaxies with a star between them in the catalog, and known draws."""
    rng = np.random.default_rng(3)
    rows, columns = np.indices((8, 8))
    blob = np.exp(-((rows - 3) ** 2 + (columns - 4) ** 2) / 4)
    images = blob * rng.uniform(0.9, 1.1, (chains, draws, 2, 1, 1))
    images += 0.01 * rng.normal(size=(*images.shape[:3], 8, 8))
    spectrum = rng.normal(100, 5, (chains, draws, 3, 2))
    spectrum[..., 2, :] += 200 - spectrum[..., 0, :]  # what one has the other lacks
    sky = WCS(naxis=2)
    sky.wcs.crpix, sky.wcs.cdelt, sky.wcs.crval = [12, 12], [-1e-4, 1e-4], [53, -28]
    sky.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    of_galaxies = FreeForm(None, place_sources(CENTERS[[0, 2]], box=8))
    of_stars = PointSource(place_sources(CENTERS[[1]], box=15))
    attrs = {
        "scene": json.dumps([group_facts(of_galaxies), group_facts(of_stars)]),
        "name": "made",
        "prior_name": "gaussian",
        "prior_sigma": 0.3,
        "height": 24,
        "width": 26,
        "flux_unit": "nJy",
        "image_unit": "nJy",
        **record(found),
        "interrupted": 0,
        "draws_kept": draws,
        "algorithm": "nuts",
    }
    if zero_point is not None:
        attrs["flux_zero_point"] = zero_point
    if wcs:
        attrs |= {"wcs": sky.to_header_string(relax=True).rstrip(), "pixel_scale": 0.36}
    groups = {
        "posterior": {
            "galaxies/morphology": images,
            "spectrum": spectrum,
            "flux": 2 * spectrum,
            "stars/offset": rng.normal(0, 0.05, (chains, draws, 1, 2)),
        },
        "sample_stats": {
            "energy": rng.normal(size=(chains, draws)),
            "diverging": np.zeros((chains, draws), bool),
            "acceptance_rate": np.full((chains, draws), 0.8),
        },
        "constant_data": {
            "center": CENTERS,
            "corner": np.array([(4, 5), (2, 9), (12, 8)]),
            "is_point": np.array([False, True, False]),
            "flux_factor": np.array([1.0, 2.0]),
        },
    }
    dims = {
        "galaxies/morphology": ["galaxies/source", "box_y", "box_x"],
        "stars/offset": ["stars/source", "axis"],
        "spectrum": ["source", "band"],
        "flux": ["source", "band"],
        "center": ["source", "axis"],
        "corner": ["source", "axis"],
        "is_point": ["source"],
        "flux_factor": ["band"],
    }
    coords = {
        "source": ["a", "star", "c"],
        "galaxies/source": ["a", "c"],
        "stars/source": ["star"],
        "band": ["g", "r"],
    }
    return make_tree(groups, dims=dims, coords=coords, attrs=attrs)


def draws_of(tree, name):
    values = np.asarray(group(tree, "posterior")[name], float)
    return values.reshape(-1, *values.shape[2:])


def test_a_band_without_data_has_no_flux_in_the_table_of_draws(tmp_path):
    tree = fabricated()
    share = np.array([[1.0, 0.05], [1.0, 1.0], [0.0, 0.02]])
    tree["constant_data"]["data_share"] = xarray.DataArray(share, dims=("source", "band"))
    table, usual = flux_catalog(tree), flux_catalog(fabricated())
    for name in ("flux", "flux_err", "flux_q16", "mag", "mag_err"):
        for band, missing in (("g", [False, False, True]), ("r", [True, False, True])):
            values, whole = (t[f"{name}_{band}"].value for t in (table, usual))
            np.testing.assert_allclose(values, np.where(missing, np.nan, whole))
    # The total is that of the bands with data, and of none where there is none.
    np.testing.assert_allclose(table["flux_total"][:1], usual["flux_g"][:1])
    np.testing.assert_allclose(table["flux_total"][1], usual["flux_total"][1])
    assert np.isnan(table["flux_total"][2])
    assert table.meta["no_data"] == "a: r; c: g, r"
    assert usual.meta["no_data"] == ""
    table.write(tmp_path / "t.ecsv")
    assert np.isnan(QTable.read(tmp_path / "t.ecsv")["flux_r"][0])
    assert value_and_error(np.nan, np.nan) == "no data"
    assert value_and_error(12.345, 0.2) == "12.35 ± 0.20"
    assert value_and_error(63187.4, 1523.0) == "63200 ± 1500"
    assert value_and_error(-30.0, 1523.0) == "0 ± 1500"


def test_catalog_holds_the_moments_of_the_draws():
    tree = fabricated()
    table = flux_catalog(tree)
    assert list(table["id"]) == ["a", "star", "c"]
    flux = draws_of(tree, "flux") * [1, 2]
    for b, band in enumerate("gr"):
        np.testing.assert_allclose(table[f"flux_{band}"].to_value(u.nJy), flux[..., b].mean(0))
        np.testing.assert_allclose(
            table[f"flux_err_{band}"].to_value(u.nJy), flux[..., b].std(0, ddof=1)
        )
        for q in (16, 50, 84):
            np.testing.assert_allclose(
                table[f"flux_q{q}_{band}"].value, np.percentile(flux[..., b], q, axis=0)
            )
        mean = flux[..., b].mean(0)
        np.testing.assert_allclose(table[f"mag_{band}"].value, 31.4 - 2.5 * np.log10(mean))
        np.testing.assert_allclose(
            table[f"mag_err_{band}"].value, 2.5 / np.log(10) * flux[..., b].std(0, ddof=1) / mean
        )
    np.testing.assert_allclose(table["flux_total"].value, flux.sum(2).mean(0))
    np.testing.assert_allclose(table["flux_err_total"].value, flux.sum(2).std(0, ddof=1))
    assert all(table[name].info.description for name in table.colnames)


def test_centroids_are_where_the_light_is():
    tree = fabricated()
    table = flux_catalog(tree)
    # Blobs at (3, 4) of boxes at (4, 5) and (12, 8); the noise pulls to the middle a bit.
    np.testing.assert_allclose(table["y"][[0, 2]], [7, 15], atol=0.15)
    np.testing.assert_allclose(table["x"][[0, 2]], [9, 12], atol=0.15)
    offset = draws_of(tree, "stars_offset")[:, 0]
    np.testing.assert_allclose(table["y"][1], 9.5 + offset[:, 0].mean(), atol=0.01)
    np.testing.assert_allclose(table["x_err"][1].value, offset[:, 1].std(ddof=1), rtol=0.05)
    sky = WCS(fits.Header.fromstring(tree.attrs["wcs"])).pixel_to_world(table["x"], table["y"])
    np.testing.assert_allclose(table["ra"].value, sky.ra.deg)
    # A pixel is 0.36 arcseconds on the sky.
    np.testing.assert_allclose(table["dec_err"].value, 0.36 * table["y_err"].value, rtol=1e-3)
    np.testing.assert_allclose(table["ra_err"].value, 0.36 * table["x_err"].value, rtol=1e-3)
    # A Gaussian of variance 2 along each axis, cut by the box and seen through 6 px.
    np.testing.assert_allclose(table["size"][0].value, 2.0, atol=0.25)
    assert (table["ellipticity"][[0, 2]] < 0.2).all()
    assert (table["e1_err"] > 0).all()


def test_covariance_between_neighbors_and_bands():
    tree = fabricated()
    covariance = flux_covariance(tree)
    assert covariance.dims == ("source", "band", "source2", "band2")
    assert covariance.attrs["unit"] == "nJy2"
    flux = draws_of(tree, "flux") * [1, 2]
    wanted = np.cov(flux.reshape(len(flux), -1), rowvar=False)
    np.testing.assert_allclose(covariance.values.reshape(6, 6), wanted)
    assert float(covariance.sel(source="a", source2="c", band="g", band2="g")) < 0
    table = flux_catalog(tree)
    assert table["neighbor"][0] == "c"
    assert table["neighbor"][2] == "a"
    total = flux.sum(2)
    np.testing.assert_allclose(
        table["neighbor_correlation"][0], np.corrcoef(total[:, 0], total[:, 2])[0, 1]
    )


def test_source_moments_are_those_of_the_images():
    tree = fabricated()
    found = source_moments(tree)
    assert found["mean"].dims == ("source", "band", "y", "x")
    image = (
        draws_of(tree, "galaxies_morphology")[:, 1]
        * draws_of(tree, "spectrum")[:, 2, 1, None, None]
    )
    mean, sd = found["mean"].values[2, 1], found["sd"].values[2, 1]
    np.testing.assert_allclose(mean[12:20, 8:16], image.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sd[12:20, 8:16], image.std(0, ddof=1), rtol=1e-4, atol=1e-5)
    assert mean[:12].sum() == 0
    with source_images(tree) as hdus:
        names = [hdu.name for hdu in hdus]
        assert names == [
            "PRIMARY",
            "MEAN_A",
            "SD_A",
            "MEAN_STAR",
            "SD_STAR",
            "MEAN_C",
            "SD_C",
            "FLUX_COVARIANCE",
        ]
        assert hdus["SD_C"].data.shape == (2, 24, 26)
        assert hdus["SD_C"].header["CTYPE1"] == "RA---TAN"
        assert hdus[0].header["TRUSTED"]


def test_without_a_wcs_or_a_zero_point():
    table = flux_catalog(fabricated(zero_point=None, wcs=False))
    assert not {"ra", "mag_g", "size_arcsec"} & set(table.colnames)


def test_draws_of_something_else_are_refused():
    tree = fabricated()
    del tree.attrs["scene"]
    with pytest.raises(InputError, match="not of a deblended scene"):
        flux_catalog(tree)


@pytest.mark.parametrize("chains", [1, 2])
def test_netcdf_and_back(tmp_path, chains):
    tree = fabricated(chains=chains)
    save_tree(tree, tmp_path / "draws.nc")
    back = load_tree(tmp_path / "draws.nc")
    for name in group_names(tree):
        xarray.testing.assert_equal(group(tree, name), group(back, name))
    assert {n: back.attrs[n] for n in tree.attrs} == dict(tree.attrs)
    table, again = flux_catalog(tree), flux_catalog(back)
    assert ("flux_rhat" in table.colnames) == (chains > 1)
    for name in table.colnames:
        assert (table[name] == again[name]).all()
    table.write(tmp_path / "t.ecsv")
    assert QTable.read(tmp_path / "t.ecsv")["flux_g"].unit == u.nJy


def test_zarr_and_back_or_a_word_on_what_is_missing(tmp_path):
    tree, path = fabricated(), tmp_path / "draws.zarr"
    if find_spec("zarr") is None:
        with pytest.raises(InputError, match="pip install zarr"):
            save_tree(tree, path)
        with pytest.raises(InputError, match="pip install zarr"):
            load_tree(path)
        return
    for _ in range(2):  # the second time in the place of the first
        save_tree(tree, path)
    assert [p.name for p in tmp_path.iterdir()] == ["draws.zarr"]
    back = load_tree(path)
    for name in group_names(tree):
        xarray.testing.assert_equal(group(tree, name), group(back, name))
    assert {n: back.attrs[n] for n in tree.attrs} == dict(tree.attrs)


@pytest.mark.parametrize("name", ["plot_trace", "plot_rank", "plot_energy"])
def test_plots_of_arviz_take_the_draws(name):
    tree = fabricated()
    which = {} if name == "plot_energy" else {"var_names": ["flux"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws
        assert getattr(az, name)(tree, **which) is not None
    plt.close("all")


def test_sources_go_back_to_the_order_of_the_catalog():
    # Small galaxies, large ones, then stars, with a slot of padding in each group.
    rows = {"galaxies": [1, 4], "large": [2], "stars": [0, 3]}
    groups = tuple(
        PointSource(place_sources(np.zeros((len(r), 2)), box=5, size=len(r) + 1, index=r), name)
        for name, r in rows.items()
    )
    scene = Scene((), groups, None)
    grouped = np.array([1, 4, -1, 2, -1, 0, 3, -1])
    np.testing.assert_array_equal(scene.index, grouped)
    np.testing.assert_array_equal(grouped[scene.order], np.arange(5))
    assert list(scene.kinds()) == ["stars", "galaxies", "large", "stars", "galaxies"]


def test_numbers_have_the_digits_of_their_errors():
    assert in_digits(123.456, 2.34) == "123.5"
    assert in_digits(123456.7, 2345.6) == "123500"
    assert in_digits(0.123456, 0.00123) == "0.1235"
    assert in_digits(1.5, 0.0) == "1.5"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Files of a small blend, and the blend."""
    folder = tmp_path_factory.mktemp("scene")
    obs = small_observation(CENTERS, shape=(24, 26), bands=2)
    obs.to_fits(folder / "blend.fits")
    Table(
        {
            "id": ["a", "star", "c"],
            "x": CENTERS[:, 1],
            "y": CENTERS[:, 0],
            "is_star": [False, True, False],
        }
    ).write(folder / "positions.ecsv")
    return folder, obs


def run(*arguments):
    return CliRunner().invoke(cli.main, ["sample", *map(str, arguments)])


@pytest.fixture(scope="module")
def sampled(scene, tmp_path_factory):
    """One run of the command, with a prior known in closed form; and what it sampled."""
    folder, _ = scene
    target = tmp_path_factory.mktemp("sampled") / "out"
    found = []

    def padded(obs, positions, *, padding, **options):
        assert padding == 1
        found.append(deblend(obs, positions, padding=3, **options | {"max_iterations": 40}))
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "scorepriors.inference.deblending._deblend.load_priors",
            lambda prior, **_: (gaussian_prior(8),),
        )
        patch.setattr("scorepriors.inference.deblending._deblend.deblend", padded)
        # Boxes of 8 pixels hold none of these galaxies: they are to be free forms all the same.
        patch.setattr("scorepriors.inference.deblending._stages.CUT_OFF_WIDE", 1.0)
        outcome = run(
            folder / "blend.fits",
            "--catalog",
            folder / "positions.ecsv",
            "--algorithm",
            "hmc",
            "--num-chains",
            2,
            "--num-warmup",
            20,
            "--num-samples",
            8,
            "--output",
            target,
            "--diagnose",
        )
    return outcome, target, found[0]


def test_the_command_writes_everything_and_says_what_is_wrong(sampled):
    outcome, target, _ = sampled
    assert outcome.exit_code == NOT_TRUSTED, outcome.output
    assert {path.name for path in target.iterdir()} == {*SAMPLE_NAMES, *DIAGNOSIS_NAMES}
    # Sixteen draws are never enough, and every place says so.
    assert "effective draws" in outcome.stderr
    assert "raise --num-samples" in outcome.stderr
    text = (target / "diagnostics.txt").read_text()
    assert "should not be trusted" in text
    assert "effective draws" in text
    # Files speak of the command's options, not of Python's arguments.
    page = (target / "report.html").read_text()
    for written in (text, page, *QTable.read(target / "catalog.ecsv").meta["warnings"]):
        assert "num_samples" not in written
        assert "num_warmup" not in written
    assert "raise --num-samples" in text
    assert "raise --num-samples" in page
    assert "±" in outcome.stdout
    # Flags of the fit and of the diagnosis, in table, page and terminal.
    assert max(map(len, outcome.stdout.split(str(target))[0].splitlines())) <= 80
    words = [set(each.split(",")) for each in QTable.read(target / "catalog.ecsv")["flags"]]
    assert "point" in words[1]
    assert "point" not in words[0] | words[2]
    assert FLAGS["point"].sentence in outcome.stdout
    assert FLAGS["point"].sentence in page
    tree = load_tree(target / "posterior.nc")
    posterior = group(tree, "posterior")
    assert posterior["flux"].dims == ("chain", "draw", "source", "band")
    assert list(posterior["source"].values) == ["a", "star", "c"]
    assert list(posterior["galaxies_source"].values) == ["a", "c"]
    assert posterior["galaxies_morphology"].shape == (2, 8, 2, 8, 8)
    assert posterior["galaxies_morphology"].dims[-2:] == ("box_y", "box_x")
    constant = group(tree, "constant_data")
    assert list(constant["is_point"].values) == [False, True, False]
    np.testing.assert_allclose(constant["center"], CENTERS, atol=1)
    table = QTable.read(target / "catalog.ecsv")
    np.testing.assert_allclose(table["x"], CENTERS[:, 1], atol=1)
    assert table.meta["warnings"]
    # What draws under a prior can't say is that of the fit.
    assert (table["measured_flux_err_band1"] > 0).all()
    assert "point" in table["flags"][1]
    np.testing.assert_array_equal(
        (table["snr"] < 5).astype(int), table["flag_bits"] >> FLAGS["faint"].bit & 1
    )
    assert "The draws were not compared with the density" in text
    # What `diagnose` adds, from the draws themselves: the star has no image of its own.
    assert set(COLUMNS) <= set(table.colnames)
    assert [bool(np.isfinite(g)) for g in table["gamma"]] == [True, False, True]
    assert "held by the data alone" in page
    with fits.open(target / "hallucination.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["DIAGNOSIS_A", "DIAGNOSIS_C"]
    with fits.open(target / "sources.fits") as hdus:
        names = {hdu.name for hdu in hdus}
        assert {"MEAN_A", "SD_STAR", "SOURCE_C", "RESIDUAL", "FLUX_COVARIANCE"} <= names
        # Convolution keeps the light: fluxes of the mean image are those of the table.
        np.testing.assert_allclose(
            hdus["SOURCE_STAR"].data.sum((1, 2)),
            [table["flux_band0"][1].value, table["flux_band1"][1].value],
            rtol=0.05,
        )


def test_draws_of_a_scene_in_doubt_say_so_in_every_file(sampled):
    _, target, result = sampled
    tree = load_tree(target / "posterior.nc")
    # The command has asked the scene that it sampled.
    assert json.loads(tree.attrs["doubts"]) == doubts(result)
    assert json.loads(tree.attrs["notes"]) == notes(result)
    tree.attrs |= {"warnings": "[]", "doubts": "{}", "notes": "[]"}
    table = flux_catalog(tree)
    assert diagnostics(tree, table).endswith("\nNo check of the draws failed.\n")
    assert source_images(tree)[0].header["TRUSTED"]
    page = Page(report_page(result, tree, table=table)).said
    assert "No check of the draws failed." in page
    tree.attrs["notes"] = json.dumps(["a note < 1."])
    assert "  - a note < 1.\n" in diagnostics(tree, table)
    page = Page(report_page(result, tree, table=table)).said
    assert "No check of the draws failed, but what follows bears on them." in page
    assert "a note < 1." in page
    tree.attrs["doubts"] = json.dumps({"cancels": "negative sources take away light."})
    text = diagnostics(tree, table)
    assert "No check of the draws failed, but the scene itself is in doubt.\n" in text
    assert "should not be trusted as they are:\n  - negative sources take away light.\n" in text
    page = Page(report_page(result, tree, table=table)).said
    assert "should not be trusted" in page
    assert "negative sources take away light." in page
    assert not source_images(tree)[0].header["TRUSTED"]
    assert flux_catalog(tree).meta["doubts"] == ["negative sources take away light."]


def test_the_report_needs_nothing_but_itself(sampled):
    text = (sampled[1] / "report.html").read_text()
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "link", "iframe", "object"} & set(tags)
    for _, attrs in page.elements:
        for name in ("src", "href", "srcset", "data"):
            assert attrs.get(name, "data:").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text
    pictures = [attrs for tag, attrs in page.elements if tag == "img"]
    assert len(pictures) == 8
    assert all(len(p["alt"]) > 30 for p in pictures)
    # The corner of the fluxes, and the map of what the prior made up.
    for words in ("Histograms of the total flux of each source", "excess of the prior's curvature"):
        assert sum(words in p["alt"] for p in pictures) == 1
    assert 'lang="en"' in text
    assert 'role="alert"' in text
    assert re.search(r"few effective draws", text)


_BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.mark.skipif(_BROWSER is None, reason="there is no Chromium here")
def test_a_browser_shows_every_picture(sampled, tmp_path):
    # The page has no script of its own; this one reports what the browser made of it.
    script = """<script>onload = () => document.title =
    [...document.images].every(i => i.complete && i.naturalWidth > 300) + "," +
    (document.documentElement.scrollWidth <= innerWidth)</script></body>"""
    page = tmp_path / "page.html"
    page.write_text((sampled[1] / "report.html").read_text().replace("</body>", script))
    shown = subprocess.run(
        [
            _BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1100,900",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert re.search("<title>(.*)</title>", shown)[1] == "true,true"


def test_what_sources_were_sampled_as_is_said():
    from scorepriors.inference.cli._sampling import models_sentence

    tree = fabricated()
    assert not models_sentence(tree, "simplest")
    assert "model" not in flux_catalog(tree).colnames
    known = ["profile", "point", "free-form"]
    tree.attrs["models"] = json.dumps(known)
    assert models_sentence(tree, "simplest").startswith(
        "source a is sampled as the profile that explains it"
    )
    assert list(flux_catalog(tree)["model"]) == known
    tree.attrs["models"] = json.dumps(["profile", "point", "profile"])
    said = models_sentence(tree, "simplest")
    assert said.startswith("sources a, c are sampled as the profiles")
    assert "--models free-form" in said
    # Asked for all free forms, the rest are those that no box holds.
    assert models_sentence(tree, "free-form").endswith("no box of a learned prior holds the light.")
    # Who asks for profiles knows.
    assert not models_sentence(tree, "profiles")


def test_python_and_the_command_line_have_the_same_defaults():
    from scorepriors.inference.cli._sampling import sample as command

    helps = {option.name: option.help for option in command.params if hasattr(option, "help")}
    rule = f"{FAINT_ALGORITHM} if a source is faint (S/N below {FAINT:g}), else {BRIGHT_ALGORITHM}"
    rule = f"{Reduced.name} without free forms; else {rule}"
    assert f"[default: {rule}]" in helps["algorithm"]
    for name in SCENE_ALGORITHMS:
        assert name in helps["algorithm"]
    names = Reduced.name, FAINT_ALGORITHM, BRIGHT_ALGORITHM
    profiles, faint, bright = (SCENE_ALGORITHMS[name]().usual.num_chains for name in names)
    assert profiles == bright
    assert f"[default: {faint} of {FAINT_ALGORITHM}, else {bright}]" in helps["num_chains"]
    warmup = SCENE_ALGORITHMS[Reduced.name]().usual.num_warmup
    assert f"[default: {warmup} of reduced, else {SCENE_WARMUP}]" in helps["num_warmup"]
    assert {Until().at_most, FLOW_LOOKS.at_most} == {2000}
    assert "[default: until the chains agree, up to 2,000]" in helps["num_samples"]


def test_what_is_judged_is_what_is_measured():
    tree = fabricated()
    found = measured(tree)
    assert found["flux"].shape == (2, 50, 3, 2)
    assert found["centroid"].shape == (2, 50, 3, 2)
    assert found["size"].shape == (2, 50, 2)  # a star has no extent
    table = flux_catalog(tree)
    place = np.asarray(found["centroid"].mean(("chain", "draw")))
    corner = np.asarray(group(tree, "constant_data")["corner"])
    np.testing.assert_allclose(place + corner, np.stack([table["y"], table["x"]], 1), rtol=1e-6)
    sizes = np.asarray(found["size"].mean(("chain", "draw")))
    np.testing.assert_allclose(sizes, table["size"].value[[0, 2]], rtol=1e-6)


@pytest.mark.parametrize(
    ("snr", "treatment", "expected"),
    [
        (50, "marginal", BRIGHT_ALGORITHM),
        (30, "marginal", FAINT_ALGORITHM),
        (30, "sampled", BRIGHT_ALGORITHM),  # which flow does not sample
    ],
)
def test_default_depends_on_the_faintest_source(scene, snr, treatment, expected):
    galaxies = FreeForm(gaussian_prior(8), place_sources(CENTERS, box=8))
    whole = Scene.build(scene[1], galaxies=galaxies, treatment=treatment)
    flux = np.full((3, 2), 100.0)
    error = np.full((3, 2), 1.0)
    error[1] = 200 / snr / np.sqrt(2)
    bound = posterior(blend, whole)
    values = bound.constrain(bound.start(key=jax.random.key(0)), deterministics=False)
    mode = MAPResult(**{f.name: None for f in dataclasses.fields(MAPResult)})
    mode = dataclasses.replace(mode, posterior=bound, values=values)
    fit = SimpleNamespace(scene=whole, fit=mode, flux=flux, flux_error=error)
    result = SimpleNamespace(free_form=fit, observation=scene[1])
    assert default_algorithm(result) == expected


def test_commands_have_words_of_their_own_for_every_check_of_draws():
    from scorepriors.inference.cli._common import FIT_REMEDIES, REMEDIES

    python = ("num_", "max_iterations", "acceptance_rate", "rank", "`")
    for check in Check:
        if check.status is not RunStatus.NO_MODE and check is not Check.FEW_DIRECTIONS:
            words = REMEDIES.get(check, check.remedy)
            assert not any(word in words for word in python)
    for words in FIT_REMEDIES.values():
        assert not any(word in words for word in python)


def test_results_are_not_replaced_unless_told_to(sampled, scene):
    before = {p.name: p.read_bytes() for p in sampled[1].iterdir()}
    outcome = run(scene[0] / "blend.fits", "--output", sampled[1])
    assert outcome.exit_code == BAD_INPUT
    assert "--force" in outcome.stderr
    assert {p.name: p.read_bytes() for p in sampled[1].iterdir()} == before


def test_padding_is_gone_before_the_first_draw(sampled):
    fit = sampled[2].free_form.fit
    assert fit.values["galaxies/morphology"].shape == (3, 8, 8)
    scene, trimmed = unpadded(sampled[2].scene, fit)
    assert trimmed.posterior.sites() == {
        "galaxies/morphology": (2, 8, 8),
        "stars/offset": (1, 2),
        "brightness": (3,),
    }
    # Two galaxies and one of padding, a star and two: 0, 1, 3 of the whole.
    np.testing.assert_array_equal(
        trimmed.values["brightness"], np.asarray(fit.values["brightness"])[[0, 1, 3]]
    )
    np.testing.assert_array_equal(
        trimmed.values["galaxies/morphology"], fit.values["galaxies/morphology"][:2]
    )
    assert list(scene.names) == ["galaxies", "stars"]
    assert scene.mask.all()


MISTAKES = {
    "no file": lambda b, t: [],
    "file and example": lambda b, t: [b, "--example"],
    "missing file": lambda b, t: [t / "nothing.fits"],
    "unknown algorithm": lambda b, t: [b, "--algorithm", "gibbs"],
    "no chain": lambda b, t: [b, "--num-chains", 0],
    "no draws": lambda b, t: [b, "--num-samples", 0],
    "no thinning": lambda b, t: [b, "--thinning", 0],
    "acceptance of one": lambda b, t: [b, "--target-acceptance-rate", 1],
    "no warm-up": lambda b, t: [b, "--num-warmup", 0],
    "unknown prior": lambda b, t: [b, "--prior", "hubble-512"],
    "catalog outside": lambda b, t: [b, "--catalog", far_away(t)],
    "force and resume": lambda b, t: [b, "--resume", "--force"],
}


def far_away(folder):
    Table({"x": [500.0], "y": [3.0]}).write(folder / "positions.csv")
    return folder / "positions.csv"


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_sentence_and_leave_nothing(name, scene, tmp_path):
    target = tmp_path / "results"
    outcome = run(*MISTAKES[name](scene[0] / "blend.fits", tmp_path), "--output", target)
    assert outcome.exit_code == BAD_INPUT, outcome.output
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("scorepriors: ")
    assert lines[0].endswith(".")
    assert not target.exists()


def test_a_run_that_was_cut_short_is_not_lost(scene, tmp_path):
    (tmp_path / "checkpoint.npz").write_bytes(b"x")
    outcome = run(scene[0] / "blend.fits", "--output", tmp_path)
    assert outcome.exit_code == BAD_INPUT
    assert "--resume" in outcome.stderr
    assert os.listdir(tmp_path) == ["checkpoint.npz"]


def test_sample_takes_what_is_fitted_as_deblend_does(scene, tmp_path, monkeypatch):
    names = {"profile", "max_iterations", "noise", "variable", "timescale", "moving"}
    for command in ("deblend", "sample"):
        assert names <= {one.name for one in cli.main.commands[command].params}
    seen = {}

    def told(given, prior_names, **options):
        seen.update(options)
        raise InputError("enough.")

    monkeypatch.setattr("scorepriors.inference.cli._sampling._deblend_one", told)
    options = "--profile", "sersic", "--max-iterations", "7", "--variances", "file"
    options += "--variable", "a", "--variable", "b", "--timescale", "3", "--moving", "c"
    outcome = run(scene[0] / "blend.fits", *options, "--sky", "none", "--output", tmp_path / "out")
    assert outcome.exit_code == BAD_INPUT
    wanted = {"profile": "sersic", "max_iterations": 7, "noise": "file", "variable": ("a", "b")}
    wanted |= {"timescale": 3.0, "moving": ("c",), "sky": "none", "models": "simplest"}
    assert {name: seen[name] for name in wanted} == wanted
    assert not {"num_chains", "num_warmup", "num_samples"} & seen.keys()


@pytest.mark.parametrize(
    ("trusted", "said", "code"),
    [
        (True, {}, 0),
        (False, {}, NOT_TRUSTED),
        (None, {}, INTERRUPTED),
        (True, {"cancels": "negative sources take away light."}, NOT_TRUSTED),
    ],
)
def test_exit_codes_and_going_on(trusted, said, code, scene, tmp_path, monkeypatch):
    """The command around a fabricated run."""
    tree = fabricated(found=[Finding(Check.ONE_CHAIN)] if trusted is False else ())
    tree.attrs["interrupted"] = int(trusted is None)

    def fake(result, *, checkpoint, progress, **options):
        assert progress is True  # a line a minute, where there is no terminal
        checkpoint.write_bytes(b"state")
        return tree

    def written(result, tree, folder, force, prior):
        assert force == (folder / "posterior.nc").exists()
        (folder / "posterior.nc").write_text("x")
        return [folder / "posterior.nc"]

    monkeypatch.setattr("scorepriors.inference.cli._sampling._deblend_one", lambda *_, **__: None)
    tree.attrs |= {"doubts": json.dumps(said), "notes": json.dumps(["a note."])}
    monkeypatch.setattr(
        "scorepriors.inference.deblending._catalog.flag_words", lambda _: ["ok"] * 3
    )
    monkeypatch.setattr("scorepriors.inference.deblending._sampling.sample_deblended", fake)
    monkeypatch.setattr("scorepriors.inference.reports._samples.write_samples", written)
    options = "--algorithm", "hmc", "--output", tmp_path / "out", "--resume", "--json"
    outcome = run(scene[0] / "blend.fits", *options)
    assert outcome.exit_code == code, outcome.output
    # Batch systems restart a job with the command it began with.
    path = tmp_path / "out" / "checkpoint.npz"
    assert outcome.stderr.count(f"there is no {path} to go on with; the run starts.") == 1
    # Nothing but the summary is on stdout.
    found = json.loads(outcome.stdout)
    assert found["interrupted"] == (trusted is None)
    assert found["status"] == tree.attrs["status"]
    assert len(found["warnings"]) == (trusted is False)
    assert found["doubts"] == said
    assert found["notes"] == ["a note."]
    assert outcome.stderr.count("scorepriors: a note.") == 1
    assert (found["num_chains"], found["num_sources"], found["bands"]) == (2, 3, ["g", "r"])
    assert (found["draws_kept"], found["output"]) == (50, str(tmp_path / "out"))
    assert "3 sources, flux in nJy" in outcome.stderr
    # The state is kept for as long as there is something to go on with.
    assert (tmp_path / "out" / "checkpoint.npz").exists() == (trusted is None)
    assert ("use --num-chains 4" in outcome.stderr) == (trusted is False)
    assert ("--resume goes on" in outcome.stderr) == (trusted is None)
    assert all(sentence in outcome.stderr for sentence in said.values())
    again = run(scene[0] / "blend.fits", *options)
    assert "the run starts" not in again.stderr
    # Results of a run that is finished are not for --resume to replace.
    assert again.exit_code == (INTERRUPTED if trusted is None else BAD_INPUT), again.output
