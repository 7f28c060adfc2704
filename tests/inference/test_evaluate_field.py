"""Measures of fields on catalogs made by hand, whose answers are known; and the commands."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import QTable, Table
from click.testing import CliRunner

from scorepriors import InputError
from scorepriors.inference import evaluate_directory, evaluate_field
from scorepriors.inference.cli import main
from scorepriors.inference.cli._common import BAD_INPUT
from scorepriors.inference.evaluation._fields_figure import field_figure
from scorepriors.inference.evaluation._fields_matching import match_sources, sort_detections
from scorepriors.inference.evaluation._fields_run import open_field, truth_beside
from scorepriors.inference.evaluation._peers import FieldImages, photutils_catalog, sep_catalog
from scorepriors.inference.fields._result import FieldResult, save

pytest.importorskip("galsim")

FWHM = 4.0


def truth_of(rows):
    """Return a truth of rows (x, y, flux, snr, blendedness), alone in their bands."""
    x, y, flux, snr, beta = np.array(rows, float).T
    table = Table({"id": np.arange(1, len(x) + 1), "x": x, "y": y})
    for band, share in (("g", 0.25), ("r", 0.75)):
        table[f"flux_{band}"] = share * flux * units.nJy
    table["magnitude"] = 31.4 - 2.5 * np.log10(flux)
    table["snr"], table["blendedness"] = snr, beta
    table["extent"] = np.where(snr >= 50, 15.0, 3.0)
    table["size"] = 2.0
    for name in ("is_star", "has_structure", "saturated"):
        table[name] = np.zeros(len(x), bool)
    return table


def catalog_of(truth, error=0.1):
    """Return the catalog of one who sees the truth, and knows his errors to be larger."""
    table = truth["x", "y", "flux_g", "flux_r"].copy()
    for band in "gr":
        table[f"flux_err_{band}"] = error * truth[f"flux_{band}"]
    return table


GRID = [
    (30.0 * column + 10, 30.0 * row + 10, 100.0 * (1 + row), 20.0, 0.1)
    for row in range(4)
    for column in range(5)
]


def test_a_perfect_catalog_scores_perfectly():
    truth = truth_of(GRID)
    found = evaluate_field(truth, catalog_of(truth), psf_fwhm=FWHM)
    assert found["num_true"] == found["num_found"] == found["num_detections"] == 20
    assert (found["completeness"], found["purity"]) == (1.0, 1.0)
    assert found["all"]["median_abs_flux_error"] == pytest.approx(0, abs=1e-12)
    assert found["all"]["coverage_68"] == 1.0
    assert found["shreds_per_bright"] is None
    assert found["stars"] is None
    assert found["seams"] is None
    json.dumps(found, allow_nan=False)


def test_a_missing_source_and_a_spurious_one_are_counted():
    truth = truth_of(GRID)
    catalog = catalog_of(truth)
    catalog.remove_row(7)
    catalog.add_row(
        [75.0, 75.0, 1.0 * units.nJy, 1.0 * units.nJy, 1.0 * units.nJy, 1.0 * units.nJy]
    )
    found = evaluate_field(truth, catalog, psf_fwhm=FWHM)
    assert found["num_found"] == 19
    assert found["completeness"] == pytest.approx(19 / 20)
    assert (found["num_spurious"], found["num_shreds"]) == (1, 0)
    assert found["purity"] == pytest.approx(19 / 20)
    assert [b["all"]["number"] for b in found["by_snr"]] == [0, 0, 0, 20, 0, 0]
    assert found["by_snr"][3]["isolated"]["completeness"] == pytest.approx(19 / 20)
    assert found["by_snr"][3]["blended"]["completeness"] is None
    assert sum(b["all"]["number"] for b in found["by_magnitude"]) == 20
    assert found["sources"]["detection"][7] == -1
    assert found["sources"]["e_F"][7] is None
    assert found["detections"]["kind"].count("spurious") == 1


def test_pieces_of_a_bright_galaxy_are_shreds():
    truth = truth_of([*GRID, (70.0, 140.0, 1e4, 900.0, 0.0)])
    truth["has_structure"][-1] = True
    catalog = catalog_of(truth)
    for dx in (6.0, -8.0, 12.0):
        piece = [70.0 + dx, 141.0] + [50.0 * units.nJy] * 4
        catalog.add_row(piece)
    found = evaluate_field(truth, catalog, psf_fwhm=FWHM)
    assert (found["num_shreds"], found["num_spurious"]) == (3, 0)
    assert found["shreds_per_bright"] == found["shreds_per_bright_structured"] == 3.0
    assert (found["num_bright"], found["num_bright_stars"]) == (1, 0)
    assert found["purity"] == pytest.approx(21 / 24)
    # Beyond its light they are of nothing; and of a star they are counted by themselves.
    truth["extent"][-1] = 7.0
    found = evaluate_field(truth, catalog, psf_fwhm=FWHM)
    assert (found["num_shreds"], found["num_spurious"]) == (1, 2)
    truth["is_star"][-1] = True
    found = evaluate_field(truth, catalog, psf_fwhm=FWHM)
    assert found["shreds_per_bright"] is None
    assert found["shreds_per_bright_stars"] == 1.0


def test_a_piece_does_not_stand_for_a_faint_neighbor_that_was_not_found():
    """The second detection on a galaxy is nearest to a neighbor, but of other brightness."""
    places = np.array([[20.0, 20.0], [20.0, 23.0]])
    flux = np.array([1000.0, 10.0])
    detections, measured = np.array([[20.0, 20.1], [20.0, 22.0]]), np.array([600.0, 400.0])
    found = match_sources(places, flux, detections, measured, np.full(2, FWHM))
    np.testing.assert_array_equal(found, [0, -1])
    sorted_ = sort_detections(found, detections, places, np.array([15.0, 0.0]))
    np.testing.assert_array_equal(sorted_.parent, [-1, 0])
    # As bright as the neighbor it is the neighbor.
    found = match_sources(places, flux, detections, np.array([990.0, 14.0]), np.full(2, FWHM))
    np.testing.assert_array_equal(found, [0, 1])


def test_a_pair_is_told_apart_by_brightness():
    """Two detections between two sources, each a little nearer to the wrong one."""
    places = np.array([[20.0, 20.0], [20.0, 23.0]])
    flux = np.array([500.0, 50.0])
    detections = np.array([[20.0, 21.6], [20.0, 21.4]])
    found = match_sources(places, flux, detections, np.array([480.0, 60.0]), np.full(2, FWHM))
    np.testing.assert_array_equal(found, [0, 1])
    # At the sources' very places fluxes that are swapped are errors of fluxes, no other pairs.
    swapped = match_sources(places, flux, places, np.array([50.0, 60.0]), np.full(2, FWHM))
    np.testing.assert_array_equal(swapped, [0, 1])


def test_one_detection_of_two_sources_is_that_of_the_brighter():
    places = np.array([[20.0, 20.0], [20.0, 23.0]])
    one = np.array([[20.0, 21.5]])
    for flux in ([10.0, 90.0], [90.0, 10.0]):
        found = match_sources(places, np.array(flux), one, np.array([100.0]), np.full(2, FWHM))
        assert found[np.argmax(flux)] == 0
        assert found[np.argmin(flux)] == -1


def test_matches_do_not_depend_on_the_order():
    rng = np.random.default_rng(3)
    places = rng.uniform(0, 60, (80, 2))
    flux = 10 ** rng.uniform(1, 3, 80)
    noisy, measured = places + rng.normal(0, 1, (80, 2)), flux * rng.lognormal(0, 0.2, 80)
    first = match_sources(places, flux, noisy, measured, np.full(80, FWHM))
    shuffled, order = rng.permutation(80), rng.permutation(80)
    again = match_sources(
        places[order], flux[order], noisy[shuffled], measured[shuffled], np.full(80, FWHM)
    )
    expected = np.full(80, -1)
    expected[:] = [np.flatnonzero(shuffled == m)[0] if m >= 0 else -1 for m in first[order]]
    np.testing.assert_array_equal(again, expected)
    assert len(set(first[first >= 0])) == np.sum(first >= 0) > 60


def test_errors_of_fluxes_are_measured():
    truth = truth_of(GRID)
    truth["blendedness"][:5] = 0.7
    catalog = catalog_of(truth, error=0.1)
    for band in "gr":
        catalog[f"flux_{band}"][:5] *= 1.6
        catalog[f"flux_{band}"][5:] *= 0.95
    found = evaluate_field(truth, catalog, psf_fwhm=FWHM)
    assert found["blended"]["median_abs_flux_error"] == pytest.approx(0.6)
    assert found["isolated"]["median_flux_error"] == pytest.approx(-0.05)
    assert found["all"]["share_flux_error_above_half"] == pytest.approx(5 / 20)
    assert (found["blended"]["coverage_68"], found["isolated"]["coverage_68"]) == (0.0, 1.0)
    # Errors of bands are added in squares: 0.079 of the flux.
    assert found["sources"]["pull"][19] == pytest.approx(-0.05 / np.hypot(0.025, 0.075), rel=1e-4)


def test_honest_errors_cover_and_others_do_not():
    rng = np.random.default_rng(1)
    truth = truth_of([(20.0 * (i % 40), 20.0 * (i // 40), 100.0, 20.0, 0.1) for i in range(1600)])
    catalog = catalog_of(truth)
    for band in "gr":
        catalog[f"flux_{band}"] += rng.normal(size=1600) * catalog[f"flux_err_{band}"]
    found = evaluate_field(truth, catalog, psf_fwhm=FWHM)
    assert found["all"]["coverage_68"] == pytest.approx(0.68, abs=5 * np.sqrt(0.68 * 0.32 / 1600))
    for band in "gr":
        catalog[f"flux_err_{band}"] *= 0.5
    wrong = evaluate_field(truth, catalog, psf_fwhm=FWHM)
    assert wrong["all"]["coverage_68"] == pytest.approx(0.38, abs=0.06)


def test_the_total_of_the_catalog_and_its_error_come_first():
    truth = truth_of(GRID)
    catalog = catalog_of(truth)
    total = truth["flux_g"] + truth["flux_r"]
    catalog["flux_total"] = (1.2 * np.asarray(total) / 1000) * units.uJy
    catalog["flux_err_total"] = (0.3 * np.asarray(total) / 1000) * units.uJy
    found = evaluate_field(truth, catalog, psf_fwhm=FWHM)
    assert found["all"]["median_flux_error"] == pytest.approx(0.2)
    assert found["sources"]["pull"][0] == pytest.approx(2 / 3, rel=1e-4)


def test_fluxes_that_are_no_numbers_are_found_but_not_measured():
    truth = truth_of(GRID)
    catalog = catalog_of(truth)
    catalog["flux_g"][3] = np.nan
    found = evaluate_field(truth, catalog, psf_fwhm=FWHM)
    assert (found["num_found"], found["all"]["num_measured"]) == (20, 19)
    assert found["all"]["num_with_error"] == 19


def test_what_is_saturated_or_masked_does_not_count():
    truth = truth_of([*GRID, (75.0, 130.0, 1e6, 9000.0, 0.0)])
    truth["saturated"][-1] = True
    mask = np.zeros((160, 160), bool)
    mask[8:12, 8:12] = True  # the first source
    catalog = catalog_of(truth)
    piece = [1.0 * units.nJy] * 4
    catalog.add_row([80.0, 131.0, *piece])  # in the light of the star
    catalog.add_row([13.2, 10.0, *piece])  # beside the mask
    catalog.add_row([55.0, 25.0, *piece])  # of nothing
    found = evaluate_field(truth, catalog, psf_fwhm=FWHM, mask=mask)
    assert (found["num_true"], found["num_ignored_true"]) == (19, 2)
    assert (found["num_spurious"], found["num_shreds"], found["num_ignored"]) == (1, 0, 4)
    assert found["purity"] == pytest.approx(19 / 20)


def test_stars_and_galaxies_are_told_apart_by_p_star():
    truth = truth_of(GRID)
    truth["is_star"][:4] = True
    truth["snr"][10:] = 100.0
    catalog = catalog_of(truth)
    catalog["p_star"] = np.where(truth["is_star"], 0.9, 0.2)
    catalog["p_star"][0] = 0.4  # a star taken for a galaxy
    catalog["p_star"][12] = 0.7  # and the other way round
    catalog["p_star"][15] = np.nan
    catalog.remove_row(3)
    stars = evaluate_field(truth, catalog, psf_fwhm=FWHM)["stars"]
    assert (stars["stars_as_stars"], stars["stars_as_galaxies"]) == (2, 1)
    assert (stars["galaxies_as_galaxies"], stars["galaxies_as_stars"]) == (14, 1)
    assert stars["num_unknown"] == 1
    squares = 2 * 0.1**2 + 0.6**2 + 14 * 0.2**2 + 0.7**2
    assert stars["brier"] == pytest.approx(squares / 18)
    assert [b["galaxies_as_stars"] for b in stars["by_snr"]] == [0, 0, 1]


def test_seams_are_between_scenes_and_not_at_the_border_of_the_field():
    truth = truth_of(
        [
            (5.0, 30.0, 100.0, 20.0, 0.1),  # at the border of the field
            (61.0, 30.0, 100.0, 20.0, 0.1),  # at the seam, its neighbor beyond
            (67.0, 30.0, 100.0, 20.0, 0.1),
            (100.0, 30.0, 100.0, 20.0, 0.1),  # neighbors in one scene
            (105.0, 30.0, 100.0, 20.0, 0.1),
        ]
    )
    catalog = catalog_of(truth)
    catalog["scene"] = [0, 0, 1, 1, 1]
    for band in "gr":
        catalog[f"flux_{band}"][1:3] *= 1.5
    scenes = Table({"scene": [0, 1], "row": [0, 0], "column": [0, 64], "size": [64, 64]})
    mask = np.zeros((64, 128), bool)
    seams = evaluate_field(truth, catalog, psf_fwhm=FWHM, scenes=scenes, mask=mask)["seams"]
    assert {name: one["number"] for name, one in seams.items()} == {
        "other_scene": 2,
        "same_scene": 2,
        "near_border": 2,
        "inside": 3,
    }
    assert seams["other_scene"]["median_abs_flux_error"] == pytest.approx(0.5)
    assert seams["inside"]["median_abs_flux_error"] == pytest.approx(0, abs=1e-12)
    alone = evaluate_field(truth, catalog, psf_fwhm=FWHM)["seams"]
    assert set(alone) == {"other_scene", "same_scene"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, c: c.remove_column("x"), "the catalog has no column x"),
        (lambda t, c: t.remove_column("snr"), "the truth has no column snr"),
        (lambda t, c: c.remove_columns(["flux_g", "flux_r"]), "no flux of a band of the truth"),
        (lambda t, c: setattr(c["flux_g"], "unit", "s"), "`flux_g` is in s in the catalog"),
        (
            lambda t, c: c["x"].__setitem__(3, np.nan),
            "1 row\\(s\\) of the catalog have no position",
        ),
        (lambda t, c: c.replace_column("x", c["x"] + 500), "none of 20 detections lies within"),
    ],
)
def test_tables_that_do_not_go_together_are_said(change, message):
    truth = truth_of(GRID)
    catalog = catalog_of(truth)
    change(truth, catalog)
    with pytest.raises(InputError, match=message):
        evaluate_field(truth, catalog, psf_fwhm=FWHM)


def test_an_empty_catalog_finds_nothing():
    truth = truth_of(GRID)
    found = evaluate_field(truth, catalog_of(truth)[:0], psf_fwhm=FWHM)
    assert (found["completeness"], found["purity"], found["num_detections"]) == (0.0, None, 0)


def test_false_detections_are_counted_by_measured_magnitude():
    """Of detections of sources it is the true one here; of others that of their own flux."""
    truth = truth_of([*GRID, (70.0, 140.0, 1e4, 900.0, 0.0)])
    catalog = catalog_of(truth)

    def add(x, y, flux):
        catalog.add_row([x, y, *[0.5 * flux * units.nJy] * 2, *[1.0 * units.nJy] * 2])

    # 1e4 nJy are magnitude 21.4; sources of the grid have 26.4 to 24.9.
    add(76.0, 141.0, 10 ** (0.4 * (31.4 - 22.5)))  # a piece of the bright galaxy
    add(75.0, 75.0, 10 ** (0.4 * (31.4 - 26.6)))  # of nothing, fainter than all sources but one bin
    add(105.0, 75.0, 10 ** (0.4 * (31.4 - 29.5)))  # fainter than all
    add(45.0, 75.0, -3.0)  # without a magnitude
    add(15.0, 75.0, 10 ** (0.4 * (31.4 - 20.5)))  # brighter than all
    found = evaluate_field(truth, catalog, psf_fwhm=FWHM)
    bins = found["detections_by_magnitude"]
    assert [(one["low"], one["high"]) for one in bins] == [
        (None, 21.0), *((float(m), float(m + 1)) for m in range(21, 27)), (27.0, None),
    ]  # fmt: skip
    counts = [(one["num_detections"], one["num_shreds"], one["num_spurious"]) for one in bins]
    assert counts == [
        (1, 0, 1), (1, 0, 0), (1, 1, 0), (0, 0, 0), (5, 0, 0), (10, 0, 0), (6, 0, 1), (2, 0, 2),
    ]  # fmt: skip
    assert [one["purity"] for one in bins] == [0, 1, 0, None, 1, 1, pytest.approx(5 / 6), 0]
    for number, name in enumerate(("num_detections", "num_shreds", "num_spurious")):
        assert sum(one[number] for one in counts) == found[name]
    # The zero point is that of the truth, whose magnitudes are of one band.
    truth["magnitude"] += 0.3
    shifted = evaluate_field(truth, catalog, psf_fwhm=FWHM)["detections_by_magnitude"]
    assert [one["num_detections"] for one in shifted] == [1, 1, 1, 0, 0, 15, 6, 2]
    assert [one["num_spurious"] for one in shifted] == [1, 0, 0, 0, 0, 0, 1, 2]


def test_magnitudes_need_a_truth_with_some():
    truth = truth_of(GRID)
    truth.remove_column("magnitude")
    found = evaluate_field(truth, catalog_of(truth), psf_fwhm=FWHM)
    assert found["detections_by_magnitude"] == []


# --- Folders and other programs ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fields") / "field"
    found = CliRunner().invoke(
        main,
        [
            *("simulate", "--field", "--survey", "lsst", "--bands", "g,r,i", "--size", "192"),
            *("--structured", "1", "--stars", "20", "--gaps", "--seed", "3", "--output", str(path)),
        ],
    )
    assert found.exit_code == 0, found.output
    assert found.output.strip() == str(path)
    truth = Table.read(path / "truth.fits")
    catalog = truth["x", "y", "flux_g", "flux_r", "flux_i"][: len(truth) * 9 // 10].copy()
    for band in "gri":
        catalog[f"flux_err_{band}"] = 0.1 * truth[f"flux_{band}"][: len(catalog)]
    catalog["p_star"] = truth["is_star"][: len(catalog)].astype(float)
    catalog["scene"] = 0
    (path / "deblended").mkdir()
    catalog.write(path / "deblended" / "catalog.fits")
    return path


def evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_the_command_prints_tables_and_writes_json_and_a_figure(folder):
    done = evaluate(folder)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert "purity" in done.output
    assert "measured magnitude" in done.output
    assert lines[-2:] == [str(folder / "evaluation.json"), str(folder / "evaluation.png")]
    result = json.loads((folder / "evaluation.json").read_text())
    assert list(result["codes"])[:2] == ["scorepriors", "sep"]
    ours, sep = result["codes"]["scorepriors"], result["codes"]["sep"]
    assert ours["purity"] == 1.0
    assert 0.8 < ours["completeness"] <= 1.0
    assert ours["stars"]["stars_as_galaxies"] == 0
    # SExtractor's algorithm finds what is bright and alone.
    bright = sep["by_snr"][-1]["isolated"]
    assert bright["found"] >= 0.7 * bright["number"] > 0
    assert sep["isolated"]["median_abs_flux_error"] < 0.4
    assert (folder / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    again = evaluate(folder)
    assert again.exit_code == BAD_INPUT
    assert "evaluation.json exists; use --force" in again.output
    ours = evaluate(folder, "--force", "--no-peers", "--json")
    assert ours.exit_code == 0
    written = json.loads((folder / "evaluation.json").read_text())
    assert list(written["codes"]) == ["scorepriors"]
    assert json.loads(ours.stdout) == written
    assert "purity" in ours.stderr


def test_the_truth_beside_a_field_for_its_report(folder, tmp_path):
    catalog = Table.read(folder / "deblended" / "catalog.fits")
    found = truth_beside(folder / "field.fits", catalog, (192, 192))
    assert found["completeness"] == found["num_found"] / found["num_true"] > 0.8
    assert truth_beside(tmp_path / "field.fits", catalog, (192, 192)) is None
    assert truth_beside(folder / "field.fits", catalog, (96, 192)) is None
    # A catalog of another image: its results are written, without a comparison.
    catalog["x"] += 5000.0
    assert truth_beside(folder / "field.fits", catalog, (192, 192)) is None


def test_parquet_is_read_and_scenes_of_the_run(folder, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    catalog = Table.read(folder / "deblended" / "catalog.fits")
    columns = {name: np.asarray(catalog[name]).astype(float) for name in catalog.colnames}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "catalog.parquet")
    result = evaluate_directory(folder, results=tmp_path, peers=False)
    assert "near_border" not in result["codes"]["scorepriors"]["seams"]
    (tmp_path / "run").mkdir()
    scenes = Table({"scene": [0.0], "row": [10], "column": [0], "size": [96]})
    run = FieldResult(
        SimpleNamespace(correlation=None),
        QTable(catalog),
        scenes,
        {},
        SimpleNamespace(path=tmp_path / "light.dat"),
        (),
    )
    save(tmp_path / "run", run)
    result = evaluate_directory(folder, results=tmp_path, peers=False)
    assert result["catalog"] == "catalog.parquet"
    assert {"near_border", "inside"} <= set(result["codes"]["scorepriors"]["seams"])


def test_the_figure_is_drawn_of_an_empty_catalog_as_well(folder, tmp_path):
    catalog = Table.read(folder / "deblended" / "catalog.fits")[:0]
    catalog.remove_columns(["p_star", "scene"])
    catalog.write(tmp_path / "catalog.fits")
    result = evaluate_directory(folder, results=tmp_path, peers=False)
    with open_field(folder) as field:
        figure = field_figure(result, field)
    figure.savefig(tmp_path / "empty.png")
    assert result["codes"]["scorepriors"]["purity"] is None


def test_what_is_missing_is_said_with_the_command_that_makes_it(folder, tmp_path):
    missing = evaluate(folder, "--force", "--results", tmp_path)
    assert missing.exit_code == BAD_INPUT
    said = re.sub(r"\s+", " ", missing.output)
    assert f"`scorepriors deblend {folder / 'field.fits'} --output {tmp_path}`" in said
    assert "Traceback" not in said
    empty = evaluate(tmp_path)
    assert empty.exit_code == BAD_INPUT
    assert "has no truth.fits" in empty.output
    (tmp_path / "truth.fits").write_bytes((folder / "truth.fits").read_bytes())
    (tmp_path / "deblended").mkdir()
    catalog = (folder / "deblended" / "catalog.fits").read_bytes()
    (tmp_path / "deblended" / "catalog.fits").write_bytes(catalog)
    assert "has no field.fits" in evaluate(tmp_path).output
    (tmp_path / "field.fits").write_text("nothing")
    assert "is no readable FITS file" in evaluate(tmp_path).output
    fits.PrimaryHDU().writeto(tmp_path / "field.fits", overwrite=True)
    assert "has no HDU IMAGE, VARIANCE, MASK" in evaluate(tmp_path).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "map"], "--method is for sets of blends"),
        (["--json", "x.json"], "--json FILE is for sets of blends"),
    ],
)
def test_options_of_sets_are_refused_for_folders(folder, arguments, message):
    refused = evaluate(folder, *arguments)
    assert refused.exit_code == BAD_INPUT
    assert message in refused.output


def test_options_of_folders_are_refused_for_sets(tmp_path):
    refused = evaluate(tmp_path / "set.npz", "--no-peers")
    assert refused.exit_code == BAD_INPUT
    assert "--no-peers is for folders of fields" in refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--field"], "--field needs --size"),
        (["--field", "--size", "64", "--num-blends", "3"], "--num-blends is for sets of blends"),
        (["--field", "--size", "64", "--sources", "2:3"], "--sources is for sets of blends"),
        (["--num-blends", "3", "--size", "64"], "--size is for fields"),
        (["--num-blends", "3", "--gaps"], "--gaps is for fields"),
        ([], "give --num-blends, how many blends, or --field"),
    ],
)
def test_options_of_simulations_that_do_not_go_together_are_refused(tmp_path, arguments, message):
    output = tmp_path / ("out" if "--field" in arguments else "set.npz")
    refused = CliRunner().invoke(main, ["simulate", *arguments, "--output", str(output)])
    assert refused.exit_code == BAD_INPUT
    assert message in refused.output
    assert not output.exists()


def two_stars():
    """Return images of two Gaussian stars, 1000 and 400 in each band, and noise of 1."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((96, 96))
    image = sum(
        flux * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 2 / 1.7**2) / (2 * np.pi * 1.7**2)
        for x, y, flux in ((30.3, 40.0, 1000.0), (70.0, 60.6, 400.0))
    )
    images = np.stack([image, image]) + rng.normal(size=(2, 96, 96))
    images[:, :5] = np.nan
    return FieldImages(
        images.astype(np.float32), np.ones_like(images), np.isnan(images), ("g", "r"), FWHM
    )


@pytest.mark.parametrize("run", [sep_catalog, photutils_catalog])
def test_peers_measure_two_stars(run):
    if run is photutils_catalog:
        pytest.importorskip("photutils")
        pytest.importorskip("skimage")
    found = run(two_stars())
    assert len(found) == 2
    found.sort("flux_g", reverse=True)
    np.testing.assert_allclose(found["x"], [30.3, 70.0], atol=0.3)
    np.testing.assert_allclose(found["y"], [40.0, 60.6], atol=0.3)
    for band in "gr":
        np.testing.assert_allclose(found[f"flux_{band}"], [1000, 400], rtol=0.1)
        assert ((found[f"flux_err_{band}"] > 5) & (found[f"flux_err_{band}"] < 60)).all()


@pytest.mark.parametrize("run", [sep_catalog, photutils_catalog])
def test_peers_find_nothing_in_noise(run):
    if run is photutils_catalog:
        pytest.importorskip("photutils")
        pytest.importorskip("skimage")
    noise = np.random.default_rng(2).normal(size=(1, 96, 96)).astype(np.float32)
    field = FieldImages(noise, np.ones_like(noise), np.zeros(noise.shape, bool), ("r",), FWHM)
    found = run(field)
    assert len(found) == 0
    assert {"x", "y", "flux_r", "flux_err_r"} <= set(found.colnames)


def test_a_program_that_is_not_installed_is_left_out(folder, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("scorepriors.inference.evaluation._peers.import_module", missing)
    result = evaluate_directory(folder)
    assert list(result["codes"]) == ["scorepriors", "sep"]
    assert "pip install" in result["left_out"]["photutils"]
