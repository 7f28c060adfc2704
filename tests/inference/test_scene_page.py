"""The page and the regions of a deblended scene."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import regions
from astropy.wcs import WCS
from html_pages import Page
from made_scenes import made, sky
from PIL import Image

from scorepriors.inference._status import FitStatus
from scorepriors.inference.deblending._catalog import catalog
from scorepriors.inference.deblending._flags import FLAGS, write_flags
from scorepriors.inference.reports._charts import spectrum
from scorepriors.inference.reports._marks import compass, scale_bar, scene_marks
from scorepriors.inference.reports._outputs import recorded, summary, write_outputs
from scorepriors.inference.reports._pictures import NO_DATA, exact, exact_pulls
from scorepriors.inference.reports._regions import ds9_regions
from scorepriors.inference.reports._scene_page import scene_page
from scorepriors.models import read_positions

FACTS = {"command": "scorepriors deblend 'a b.fits'", "files": ["a b.fits"]}


def page_of(result, flags=None, **changes):
    table = catalog(result)
    if flags is not None:
        write_flags(table, np.array([sum(FLAGS[w].value for w in each) for each in flags]))
    facts = summary(result, **FACTS) | {"date": "2026-01-02T03:04:05+00:00"} | changes
    return Page(scene_page(result, table, facts))


def pixels(address):
    image = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
    return np.asarray(image.convert("RGB")).astype(int)


def test_a_page_is_whole_and_needs_no_network():
    result = made(3, unit="nJy", ids=("<a>", "b", "c"))
    text = scene_page(result, catalog(result), summary(result, **FACTS))
    page = Page(text)
    assert page.bad == page.open == []
    # Nothing but data and places of the page itself.
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "http" not in text
    pictures = page.each("img")
    # Data, model, a residual for each band, and five of each source.
    assert len(pictures) == 2 + 3 + 5 * 3
    assert all(one["alt"] for one in pictures)
    assert len({one["alt"] for one in pictures}) == len(pictures)
    assert all(chart["aria-label"] for chart in page.each("svg"))
    assert not page.each("link")
    targets = {one["href"][1:] for one in page.each("a")}
    assert targets == {one["id"] for one in page.each("article")}
    assert "prefers-color-scheme: dark" in text


def test_what_a_page_says():
    result = made(3, unit="nJy")
    page = page_of(result)
    said = page.said
    for part in (
        "The fits converged, and nothing speaks against the scene as a whole.",
        "3 sources; none carries a flag that calls for a look.",
        "No source has a flag.",
        "Fluxes in nJy",
        "scorepriors deblend 'a b.fits'",
        "500 ± 25",
        "700 ± 35",
        "data minus neighbors",
    ):
        assert part in said, part
    assert re.search(r"date ?20\d\d-\d\d-\d\dT", said)
    assert re.search(r"numpyro ?\d", said)
    scatters = re.findall(r"([gri]): scatter (\d\.\d\d)", said)
    assert [band for band, _ in scatters] == ["g", "r", "i"]
    assert all(0.9 < float(value) < 1.1 for _, value in scatters)
    labels = [one["aria-label"] for one in page.each("svg")]
    assert "Flux of source 0 by band in nJy: g 500 ± 25, r 700 ± 35, i 900 ± 45." in labels


def test_flags_come_with_their_sentences_the_worst_first():
    page = page_of(made(3), [(), ("edge", "faint", "misfit"), ("edge",)])
    said = page.said
    assert "3 sources; 1 carries a flag that calls for a look: 1." in said
    assert "misfit, edge, faint" in said
    flags = said[said.index(" Flags ") : said.index(" Sources ")]
    places = [flags.index(FLAGS[word].sentence) for word in ("misfit", "edge", "faint")]
    assert places == sorted(places)
    assert all(FLAGS[word].sentence in said.split(" Sources ")[1] for word in ("misfit", "edge"))
    marks = [one["class"] for one in page.each("a") if "class" in one]
    assert marks == ["mark", "mark serious", "mark"]


def test_a_scene_that_is_not_to_be_trusted_says_so_first():
    result = made(2)
    page = page_of(result, doubts={"misfit": "half of the light is left over."})
    assert "should not be trusted as it is. half of the light is left over." in page.said
    assert "fits converged" not in page.said
    assert [one["role"] for one in page.each("div") if one.get("class") == "bad"] == ["alert"]
    fit = replace(result.parametric.fit, status=FitStatus.OUT_OF_ITERATIONS)
    early = replace(result, parametric=replace(result.parametric, fit=fit))
    said = page_of(early).said
    assert f"Not converged (profiles, {FitStatus.OUT_OF_ITERATIONS.sentence})." in said
    assert "2 carry a flag that calls for a look: 0, 1." in said


def test_many_sources_are_folded_and_those_to_look_at_are_open():
    flags = [("misfit",) if k == 4 else () for k in range(13)]
    page = page_of(made(13, ("r",)), flags)
    folded = page.each("details")
    assert len(folded) == 13
    assert [k for k, one in enumerate(folded) if "open" in one] == [4]
    assert not page_of(made(12, ("r",))).each("details")


def test_residuals_are_in_units_of_the_noise_of_each_band():
    """Light that one band lacks and another has too much is seen, though their sum is zero."""
    result = made(1)
    images = result.free_form.convolved[0].sum(0)
    images[0, 4, 5] += 4.0
    images[2, 4, 5] -= 4.0
    images[1, 6, 7] += 2.0
    weights = np.ones_like(images)
    weights[1, 0, 0] = 0
    obs = replace(result.observation, images=images, weights=weights)
    page = page_of(replace(result, observation=obs))
    shown = {
        one["alt"][17]: pixels(one["src"])
        for one in page.each("img")
        if one["alt"].startswith("Residual in band")
    }
    # Rows are counted from the bottom.
    red, white, blue = ([one[-1 - 4, 5, c] for one in shown.values()] for c in range(3))
    assert list(shown) == ["g", "r", "i"]
    assert red[0] > blue[0] + 50
    assert blue[2] > red[2] + 50
    assert min(red[1], white[1], blue[1]) > 240
    half = shown["r"][-1 - 6, 7]
    assert 50 < half[0] - half[2] < 200
    assert tuple(shown["r"][-1, 0]) == NO_DATA
    assert tuple(shown["g"][-1, 0]) != NO_DATA


def test_pictures_stand_upright():
    colors = np.zeros((3, 2, 3), np.uint8)
    colors[0, 1] = 200
    assert pixels(exact(colors))[-1, 1].tolist() == [200] * 3
    seen = np.ones((3, 2), bool)
    seen[2, 0] = False
    shown = pixels(exact_pulls(np.zeros((3, 2)), seen))
    assert tuple(shown[0, 0]) == NO_DATA
    assert (shown[1:] > 240).all()


def test_data_minus_neighbors_is_the_source_alone():
    result = made(2)
    result = replace(
        result, observation=replace(result.observation, images=result.free_form.convolved[0].sum(0))
    )
    shown = {one["alt"]: pixels(one["src"]) for one in page_of(result).each("img")}
    alone = shown["Data about source 0 minus the light of its neighbors."]
    # The data are the model exactly, up to float32 in the subtraction.
    assert np.abs(alone - shown["Model of source 0 as observed."]).max() <= 2
    assert np.abs(shown["Data about source 0."] - alone).max() > 20


def turned(angle, mirror=1):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [53, -28], [20, 15]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = 0.2 / 3600 * np.array([[-mirror * c, mirror * s], [s, c]])
    return wcs


@pytest.mark.parametrize(
    ("wcs", "words"),
    [
        (turned(0), "north is up, east is left"),
        (turned(0, -1), "north is up, east is right"),
        (turned(180), "north is down, east is right"),
        (turned(30), "north is 330° counterclockwise from up, east is 60°"),
    ],
)
def test_north_and_east(wcs, words):
    obs = replace(made(1).observation, wcs=wcs)
    (view,) = obs.views
    north, east = compass(view)
    middle = np.array([19.5, 15.5])
    here = wcs.pixel_to_world(*middle)
    there = wcs.pixel_to_world(*(middle + 5 * north)), wcs.pixel_to_world(*(middle + 5 * east))
    assert there[0].dec > here.dec
    assert there[1].ra > here.ra
    assert abs((there[0].ra - here.ra).arcsec) < 0.01
    marks = scene_marks(view, np.zeros((0, 2)), [], [])
    assert words in marks.words
    assert ">N</text>" in marks.svg


def test_a_scale_bar_is_round_on_the_sky():
    (view,) = made(1).observation.views
    length, label, words = scale_bar(view)  # 40 pixels of .2 arcsec
    assert (round(length, 3), label, words) == (10.0, "2″", "2 arcsec")
    (plain,) = made(1, wcs=False).observation.views
    assert scale_bar(plain) == (10.0, "10 px", "10 pixels")
    assert compass(plain) is None
    said = page_of(made(1, wcs=False)).said
    assert "The scale bar is 10 pixels long." in said
    assert "in the unit of the image" in said


def test_a_source_outside_of_the_image_has_no_mark():
    (view,) = made(1).observation.views
    marks = scene_marks(view, np.array([[-3.0, 5.0], [5.0, 5.0]]), ["out", "in"], [False, True])
    assert "out" not in marks.svg
    assert 'href="#source-2" class="mark serious"' in marks.svg
    assert 'cx="55" cy="265"' in marks.svg  # tenths of pixels, of 32 rows


def test_a_spectrum_has_gaps_where_there_are_no_data():
    flux, error = np.array([1.0, np.nan, 3.0]), np.array([0.1, np.nan, 0.2])
    drawn = spectrum("gri", flux, error, np.array([1.0, 2.0, np.nan]), y="flux", label="words")
    assert drawn.count("<circle") == 2
    assert drawn.count('class="mode"') == 2
    assert "i: 3.00 ± 0.20" in drawn
    assert "nan" not in drawn


def test_sources_without_any_data_are_shown():
    result = made(2)
    weights = np.zeros_like(result.observation.images)
    weights[:, :, :20] = 1
    nothing = np.full_like(result.free_form.flux, np.nan)
    photometry = replace(result.photometry, flux=nothing)
    spoilt = replace(
        result, observation=replace(result.observation, weights=weights), photometry=photometry
    )
    assert "no data" in page_of(spoilt).said


def test_regions_are_read_by_other_programs_and_by_this_one(tmp_path):
    result = made(3, ids=("a", "b } c", "Ω"))
    table = catalog(result)
    write_flags(table, np.array([0, FLAGS["misfit"].value + FLAGS["edge"].value, 0]))
    path = tmp_path / "sources.reg"
    path.write_text(ds9_regions(result, table), encoding="utf-8")
    read = regions.Regions.read(path, format="ds9")
    assert [one.meta["text"] for one in read] == ["a", "b } c", "Ω"]
    for one, x, y, size in zip(read, table["x"], table["y"], table["size"].value, strict=True):
        at = one.center.to_pixel(sky())
        np.testing.assert_allclose(at, (x, y), atol=1e-3)
        assert one.radius.to_value("arcsec") == pytest.approx(0.2 * max(2 * size, 2), abs=1e-3)
    assert read[1].meta["tag"] == ["misfit", "edge"]
    again = read_positions(path, result.observation)
    assert again.ids == result.positions.ids
    np.testing.assert_allclose(again.row_column, result.center, atol=1e-3)


def test_regions_of_a_plain_image_are_in_pixels(tmp_path):
    result = made(2, wcs=False)
    path = tmp_path / "sources.reg"
    path.write_text(ds9_regions(result, catalog(result)))
    for one, (row, column) in zip(regions.Regions.read(path), result.center, strict=True):
        np.testing.assert_allclose((one.center.x, one.center.y), (column, row), atol=2e-3)
    np.testing.assert_allclose(
        read_positions(path, result.observation).row_column, result.center, atol=2e-3
    )


def test_the_writer_records_command_input_and_date(tmp_path):
    result = made(2)
    write_outputs(result, tmp_path, command="scorepriors x", files=["one.fits", "two.fits"])
    facts = json.loads((tmp_path / "summary.json").read_text())
    assert facts["command"] == "scorepriors x"
    assert facts["input"] == ["one.fits", "two.fits"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", facts["date"])
    assert set(facts["versions"]) >= {"scorepriors", "jax", "numpyro", "python"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert facts["date"] in page
    assert "one.fits, two.fits" in page
    assert recorded(tmp_path, result) == facts
    # A summary of an earlier version lacks what was not known then.
    old = {name: facts[name] for name in ("chi2", "seed")}
    (tmp_path / "summary.json").write_text(json.dumps(old))
    completed = recorded(tmp_path, result)
    assert "date" not in completed
    assert Page(scene_page(result, catalog(result), completed)).bad == []
    assert completed["iterations"] == 40
