"""The report of a field: one page that holds all it shows, of bounded size."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from field_results import stand_in
from html_pages import Page
from PIL import Image

from scorepriors.inference.deblending._flags import FLAGS, SEVERITY, write_flags
from scorepriors.inference.fields import _report
from scorepriors.inference.fields._layers import (
    Mosaic,
    block_mean,
    kept_colors,
    significance_colors,
)
from scorepriors.inference.fields._report import field_page
from scorepriors.inference.fields._strips import Strip, strips
from scorepriors.inference.fields._worst import brightness_counts, worst_rows
from scorepriors.inference.reports._charts import bars, curves
from scorepriors.models.data._field import Field


def measures(found, number):
    return {"number": number, "found": found, "median_abs_flux_error": 0.0321, "coverage_68": None}


def a_bin(low, found, number):
    whole, none = measures(found, number), measures(0, 0)
    return {"low": low, "high": low + 1, "all": whole, "isolated": whole, "blended": none}


#: As of `evaluate_field`.
TRUTH = {
    "num_true": 1200,
    "purity": 0.9912,
    "all": measures(1100, 1200),
    "sources": {
        "x": [10.0, 20.0, 30.0, None],
        "y": [1.0, 2.0, 3.004, 4.0],
        "snr": [50.0, 4.0, 50.0, 50.0],
        "detection": [-1, -1, 3, -1],
        "saturated": [False, False, False, True],
    },
    "detections": {
        "x": [1.0, 2.0, 3.0],
        "y": [4.0, 5.0, 6.0],
        "kind": ["source", "shred", "ignored"],
    },
    "by_magnitude": [a_bin(20.0, 40, 40), a_bin(21.0, 90, 100), a_bin(22.0, 30, 60)],
}


def data_of(page):
    pattern = r'<script type="application/json" id="field-data">(.*?)</script>'
    return json.loads(re.search(pattern, page, re.S)[1])


def picture_of(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


@pytest.fixture(scope="module")
def result():
    return stand_in()


@pytest.fixture(scope="module")
def page(result):
    return field_page(result, evaluation=TRUTH, command="scorepriors deblend x", folder="out")


def test_the_page_is_whole_and_needs_no_network(page):
    found = Page(page)
    assert not found.bad
    assert not found.open
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http" not in page
    assert all(image["alt"] for image in found.each("img"))
    assert all(chart["aria-label"] for chart in found.each("svg"))
    assert found.each("canvas")[0]["aria-label"]


def test_what_is_said(page):
    assert "12 sources in 2 scenes" in page
    assert "nothing speaks against the whole" in page
    assert "1 of 12 sources" in page
    assert FLAGS["residual"].sentence in page
    assert "scorepriors deblend x" in page
    assert "1.5 s" in page
    assert "from 1.00 down to 0.50" in page
    assert "all at 21.5: 0.900" in page
    facts = re.sub(r"\s+", " ", page[page.index("Compared with the truth") :])
    assert "true sources</th><td>1,200" in facts
    assert "median flux error</th><td>0.032" in facts
    assert "68 % interval" not in facts  # it was not measured


def test_weights_that_were_lost_are_a_layer(result, page):
    assert "kept" not in data_of(page)["layers"]
    assert "weight kept" not in page
    share = np.ones_like(result.light)
    share[1, 64:72, 16:24] = 0
    scenes = result.scenes.copy()
    scenes["down_weighted"] = [64, 0]
    spoilt = replace(result, scenes=scenes, share=share)
    found = field_page(spoilt)
    assert "4 weight kept" in found
    layers = [one["value"] for one in Page(found).each("input") if one.get("name") == "layer"]
    assert layers == ["data", "model", "residual", "kept"]
    (level,) = data_of(found)["layers"]["kept"]
    image = picture_of(level["tiles"][0][0])[::-1].astype(int)
    lost, whole = image[66:70, 18:22].mean((0, 1)), image[80:90, 18:22].mean((0, 1))
    assert lost[0] - lost[1] > 60
    assert whole.min() > 220
    # A single pixel is seen where blocks are shown.
    strip = Strip(0, result.field.window(0, 0, 64, 64), result.model(0, 0, 64, 64))
    one = np.ones((3, 64, 64))
    one[2, 33, 41] = 0
    colors = kept_colors(strip, one, 8).astype(int)
    assert colors[4, 5, 1] < 50
    assert (np.delete(colors[..., 1].ravel()[1:], 4 * 8 + 5 - 1)[8:] > 200).mean() > 0.8


def test_sources_on_pixels_that_lost_weight_call_for_a_look(result):
    catalog = result.catalog.copy()
    bits = np.zeros(len(catalog), int)
    bits[3] = FLAGS["down_weighted"].value
    write_flags(catalog, bits)
    assert worst_rows(catalog, 5).tolist() == [3]


def test_missed_sources_and_wrong_detections_are_marked(page):
    assert data_of(page)["truth"] == {"missed": [[10.0, 1.0]], "shred": [[2.0, 5.0]]}
    boxes = [one["value"] for one in Page(page).each("input") if one.get("name") == "truth"]
    assert boxes == ["missed", "shred"]


def test_without_truth_nothing_is_compared(result):
    page = field_page(result)
    assert "Compared with the truth" not in page
    assert data_of(page)["truth"] == {}


def test_rows_of_the_page_are_those_of_the_catalog(page, result):
    columns = data_of(page)["columns"]
    assert columns["id"] == list(result.catalog["id"])
    np.testing.assert_allclose(columns["x"], result.catalog["x"], atol=0.006)
    np.testing.assert_allclose(columns["flux_r"], result.catalog["flux_r"].value, rtol=1e-4)
    assert columns["flag_bits"] == result.catalog["flag_bits"].tolist()
    assert data_of(page)["units"]["flux_r"] == "nJy"


def test_the_image_stands_upright(page, result):
    """The brightest source is where its row says, counted from the lower edge."""
    layers = data_of(page)["layers"]
    assert {name: levels[0]["scale"] for name, levels in layers.items()} == {
        "data": 1, "model": 1, "residual": 1,
    }  # fmt: skip
    level = layers["model"][0]
    assert (level["width"], level["height"]) == (140, 150)
    image = picture_of(level["tiles"][0][0]).astype(float).sum(2)[::-1]
    brightest = result.light.sum(0)
    row, column = np.unravel_index(brightest.argmax(), brightest.shape)
    assert image[row, column] > 0.9 * image.max()
    assert image[149 - row, column] < 0.5 * image.max()


def test_names_cannot_break_the_page(result):
    odd = stand_in(number=2)
    odd.catalog["id"] = ["</script><b>", "'\"&"]
    odd.catalog["flag_bits"] = [64, 64]
    page = field_page(odd)
    assert data_of(page)["columns"]["id"] == ["</script><b>", "'\"&"]
    assert not Page(page).bad


def test_numbers_that_are_not_finite(result):
    odd = stand_in(number=3)
    odd.catalog["flux_g"][1] = np.nan
    odd.catalog["chi2"][0] = np.inf
    columns = data_of(field_page(odd))["columns"]
    assert columns["flux_g"][1] is None
    assert columns["chi2"][0] is None


@pytest.mark.parametrize("change", ["wcs", "zero_point"])
def test_fields_without_sky_or_zero_point(change):
    page = field_page(stand_in(**{change: None}))
    assert ("ra" in data_of(page)["columns"]) == (change != "wcs")
    assert ("magnitude without zero point" in page) == (change == "zero_point")


def test_a_field_of_one_band():
    whole = stand_in()
    obs = whole.field.window(0, 0, 150, 140)
    one = replace(
        obs, images=obs.images[1:2], weights=obs.weights[1:2], psfs=obs.psfs[1:2], bands=("r",),
        zero_point=obs.zero_point[:1],
    )  # fmt: skip
    page = field_page(replace(whole, field=Field.of(one), light=whole.light[1:2]))
    image = picture_of(data_of(page)["layers"]["model"][0]["tiles"][0][0]).astype(int)
    assert np.ptp(image, axis=2).max() < 12  # gray, up to the compression of colors


def test_rows_name_the_worst_flag_first():
    assert list(data_of(field_page(stand_in()))["flags"]) == list(SEVERITY)


def test_doubts_and_scenes_that_failed_are_said():
    doubted = stand_in()
    doubted.facts["doubts"] = {"sky": "the sky is not zero < 0."}
    page = field_page(doubted)
    assert "should not be trusted" in page
    assert "the sky is not zero &lt; 0." in page
    failed = stand_in()
    failed.scenes["converged"] = [True, False]
    assert "1 of 2 scenes did not converge" in field_page(failed)


def test_a_page_of_many_sources_holds_the_brightest(monkeypatch, result):
    monkeypatch.setattr(_report, "SHOWN", 5)
    page = field_page(result)
    shown = data_of(page)["columns"]["id"]
    order = np.argsort(-result.catalog["snr"])[:5]
    assert shown == [result.catalog["id"][k] for k in sorted(order)]
    assert "The 5 sources with the" in re.sub(r"\s+", " ", page)


def mosaic(result, **options):
    made = Mosaic(result, **options)
    for strip in strips(result):
        made.add(strip)
    return made


def test_tiles_fit_into_the_bytes_that_they_may_take(result):
    large = stand_in(shape=(700, 650), number=30)
    made = mosaic(large)
    whole = made.pyramids()
    assert {name: [one.scale for one in levels] for name, levels in whole.items()} == {
        "data": [1, 2], "model": [1, 2], "residual": [1, 2],
    }  # fmt: skip
    assert [(len(one.tiles), len(one.tiles[0])) for one in whole["data"]] == [(2, 2), (1, 1)]
    limit = sum(one.bytes for levels in whole.values() for one in levels) - 1
    less = made.pyramids(largest_bytes=limit)
    assert sum(one.bytes for levels in less.values() for one in levels) <= limit
    assert sum(len(levels) for levels in less.values()) == 5
    # What cannot be left out stays: one level each.
    assert all(len(levels) == 1 for levels in made.pyramids(largest_bytes=1).values())


def test_pixels_without_data_are_gray_and_single_bands_are_filled(result):
    """Columns below 5 have no data in one band, a block of 20 x 20 pixels in none."""
    image = mosaic(result).images["data"]
    assert (image[40:60, 100:120] == (52, 52, 60)).all()
    brighter = replace(result, light=result.light + np.float32(200))
    blue = [mosaic(one).images["data"][:, :5, 2].mean() for one in (result, brighter)]
    assert blue[1] > blue[0] + 50  # the band without data is drawn blue


def test_large_fields_are_averaged(result):
    made = mosaic(result, largest=80)
    assert made.images["data"].shape == (75, 70, 3)
    whole = mosaic(result).images["model"].astype(float).sum(2)
    small = made.images["model"].astype(float).sum(2)
    row, column = np.unravel_index(whole.argmax(), whole.shape)
    assert small[row // 2, column // 2] > 0.7 * small.max()


def test_the_residual_of_blocks_has_noise_one(result):
    """Colors are those of the significance: as far from white for blocks as for pixels."""
    obs = result.field.window(0, 0, 128, 128)
    strip = Strip(0, obs, result.model(0, 0, 128, 128))
    spread = [significance_colors(strip, block)[..., 0].std() for block in (1, 2, 4)]
    np.testing.assert_allclose(spread, spread[0], rtol=0.15)
    masked = significance_colors(strip)[45, 105]
    assert masked.tolist() == [52, 52, 60]
    excess = Strip(0, obs, strip.model - 3)
    red, _, blue = significance_colors(excess).mean((0, 1))
    assert red > blue + 50


def test_block_means_of_odd_sizes():
    cube = np.arange(15.0).reshape(1, 3, 5)
    found = block_mean(cube, 2)[0]
    np.testing.assert_allclose(found, [[3, 5, 6.5], [10.5, 12.5, 14]])


def test_the_worst_have_serious_flags_and_large_chi2(result):
    catalog = result.catalog.copy()
    flag = {word: FLAGS[word].value for word in FLAGS}
    bits = np.zeros(12, np.int64)
    bits[3] = flag["residual"] + flag["misfit"]
    bits[4], bits[5] = flag["residual"], flag["disputed"]
    bits[6] = flag["faint"] + flag["edge"] + flag["point"]
    catalog["chi2"][[3, 4, 5, 6]] = [1.5, 2.0, np.nan, 90.0]
    write_flags(catalog, bits)
    assert worst_rows(catalog, 10).tolist() == [3, 4, 5]
    assert worst_rows(catalog, 1).tolist() == [3]


def test_the_worst_are_shown_with_pictures(page, result):
    found = Page(page)
    (button,) = [one for one in found.each("button") if "data-go" in one]
    assert button["data-go"] == "source-0"
    (image,) = [one for one in found.each("img") if "source source-0" in one["alt"]]
    assert picture_of(image["src"]).shape == (48, 148, 3)


def test_counts_by_magnitude():
    kinds = np.array(["point", "profile", "profile", "profile"])
    edges, counts = brightness_counts(np.array([20.1, 20.6, np.nan, 60.0]), kinds)
    assert (edges[0], edges[-1]) == (20.0, 35.0)
    assert counts["point"].tolist()[:2] == [1, 0]
    assert counts["profile"].tolist()[:2] == [0, 1]
    assert counts["profile"][-1] == 1
    assert brightness_counts(np.array([np.nan]), kinds[:1])[1] == {}


def test_charts_say_what_they_show():
    chart = bars(
        np.array([20.0, 21.0, 22.0]), {"point": np.array([1, 0])}, x="<x>", y="n", label='"all"'
    )
    assert "point, 20 to 21: 1" in chart
    assert "&lt;x&gt;" in chart
    assert 'aria-label="&quot;all&quot;"' in chart
    line = curves(np.array([20.0]), {"purity": np.array([0.5])}, x="m", y="p", label="one")
    assert "purity at 20: 0.500" in line
