"""Simulated sets of blends: reproducible, extensible, and readable."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from scipy import stats

from scorepriors import InputError
from scorepriors._surveys import SURVEYS, flux_of, survey
from scorepriors.models import PSFWarning
from scorepriors.models.data._observation import Observation
from scorepriors.models.simulation._blend_sets import (
    BlendSet,
    blendedness,
    draw_magnitude,
    parse_sources,
    simulate_set,
    write_set,
)
from scorepriors.models.simulation._simulation import photon_variance


@pytest.fixture(scope="module")
def galsim():
    return pytest.importorskip("galsim")


@pytest.fixture(scope="module")
def three(galsim):
    return simulate_set("lsst", 3, seed=5, sources=(2, 4))


@pytest.fixture(scope="module")
def path(three, tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("sets") / "three.npz", three)


def test_a_set_begins_with_the_shorter_one(three):
    one = simulate_set("lsst", 1, seed=5, sources=(2, 4))
    count = one["src_start"][1]
    assert count == three["src_start"][1]
    for name in ("images", "psfs", "skyvar"):
        np.testing.assert_array_equal(one[name][0], three[name][0])
    for name in ("centers", "conv", "morph", "flux_total", "flux_stamp", "mags", "snr", "beta"):
        np.testing.assert_array_equal(one[name], three[name][:count])
    other = simulate_set("lsst", 1, seed=6, sources=(2, 4))
    assert (other["images"][0] != three["images"][0]).all()


def test_images_are_their_sources_and_the_stated_noise(three):
    start = three["src_start"]
    pulls = []
    for i, image in enumerate(three["images"]):
        total = three["conv"][start[i] : start[i + 1]].astype(float).sum(0)
        sky = three["skyvar"][i] / three["gain"]
        pulls.append((image - total) / np.sqrt(photon_variance(total, sky, three["gain"])))
    pulls = np.stack(pulls)
    # Chi squared of so many pixels, and their mean; 1e-6 on each side.
    limit = stats.norm.isf(1e-6)
    assert abs(np.mean(pulls**2) - 1) < limit * np.sqrt(2 / pulls.size)
    assert abs(pulls.mean()) < limit / np.sqrt(pulls.size)


def test_a_sky_is_added_to_the_same_blends(three, tmp_path):
    made = simulate_set("lsst", 2, seed=5, sources=(2, 4), sky=0.5, gradient=0.8)
    added = (made["images"] - three["images"][:2]) / np.sqrt(made["skyvar"])[:, :, None, None]
    np.testing.assert_allclose(added.mean((2, 3)), 0.5, rtol=1e-3)
    np.testing.assert_allclose(np.ptp(added, axis=(2, 3)), 0.8, rtol=1e-3)
    np.testing.assert_allclose(made["sky"][..., 0], 0.5 * np.sqrt(made["skyvar"]))
    assert np.unique(np.sign(made["sky"][..., 1:])).size == 2
    assert "sky" not in three
    one = BlendSet(write_set(tmp_path / "sky.npz", made)).observation(1)
    np.testing.assert_array_equal(one.images, made["images"][1])


def test_truth_is_consistent(three):
    np.testing.assert_allclose(three["flux_total"], flux_of(three["mags"]), rtol=1e-12)
    np.testing.assert_allclose(three["conv"].sum((2, 3)), three["flux_stamp"], rtol=1e-4)
    assert (three["flux_stamp"] < three["flux_total"] * 1.001).all()
    np.testing.assert_allclose(three["morph"].sum((1, 2)), 1, atol=0.1)
    assert (three["snr"] >= 5).all()
    assert three["mags"][:, 3].max() < 27.5  # i <= 27, and the scatter of colors
    widths = [(psf > psf.max() / 2).sum() for psf in three["psfs"][0]]
    assert widths[0] > widths[-1]  # u is seen through more air turbulence than y


@pytest.mark.parametrize("name", [one.name for one in SURVEYS if one.galaxies])
def test_surveys_have_their_bands_and_pixels(galsim, name, tmp_path):
    bands, scale = {
        "lsst": ("ugrizy", 0.2),
        "hsc": ("grizy", 0.168),
        "ztf": ("gri", 1.01),
        "euclid": (("VIS",), 0.1),
        "hst": ("YJ", 0.08),
    }[name]
    facts = survey(name)
    assert (facts.bands, facts.scale) == (bands, scale)
    made = write_set(tmp_path / "set.npz", simulate_set(name, 1, seed=2, sources=(2, 2)))
    # Telescopes in space are limited by their pixels.
    coarse = pytest.warns(PSFWarning, match="less than two pixels")
    with coarse if facts.aperture else nullcontext():
        obs = Observation.read(made, index=0)
    assert obs.bands == tuple(bands)
    assert obs.shape == (64, 64)
    assert len(obs.catalog) == 2
    assert obs.pixel_scale == pytest.approx(scale)
    meta = BlendSet(made).meta
    assert (meta["survey"], meta["seed"], meta["n"]) == (name, 2, 1)


def test_depth_of_lsst_is_that_of_ten_years():
    facts = survey("lsst").camera()
    noise = np.sqrt(facts.sky_variance * 2.266) * facts.seeing / facts.scale
    depth = 31.4 - 2.5 * np.log10(5 * noise)
    # Ivezic et al. 2019, table 1, but for u: its sky is so dark that the read noise, which
    # surveycodex does not count, takes half a magnitude.
    np.testing.assert_allclose(depth[1:], [27.4, 27.5, 26.8, 26.1, 24.9], atol=0.5)


def test_magnitudes_follow_number_counts():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_magnitude(rng, 20.0, 27.0) for _ in range(4000)])
    scale = 1 / (0.3 * np.log(10))
    expected = stats.truncexpon(b=7.0 / scale, loc=-27.0, scale=scale)
    assert stats.kstest(-drawn, expected.cdf).pvalue > 1e-6


def test_blendedness_in_closed_form():
    """Two flat sources, one of which lies under half of the other."""
    images = np.zeros((2, 1, 1, 4))
    images[0, 0, 0] = 1
    images[1, 0, 0, :2] = 3
    np.testing.assert_allclose(blendedness(images), [1 - 4 / 10, 1 - 18 / 24])
    assert blendedness(images[:1]) == pytest.approx(0)


def test_the_truth_gives_back_what_was_drawn(path, three):
    blends = BlendSet(path)
    assert len(blends) == 3
    start = three["src_start"]
    truth = blends.truth(1)
    np.testing.assert_array_equal(truth.convolved, three["conv"][start[1] : start[2]])
    np.testing.assert_array_equal(truth.center, three["centers"][start[1] : start[2]])
    obs = blends.observation(1)
    np.testing.assert_array_equal(obs.images, three["images"][1])
    # What a user knows of the noise is close to the truth, and is not the truth.
    ratio = obs.weights / truth.weights
    assert 0.9 < np.median(ratio) < 1.1
    assert (ratio != 1).mean() > 0.9


MISTAKES = {
    "survey": (lambda: simulate_set("sdss", 1), "unknown survey 'sdss'; there are lsst, hsc, ztf"),
    "number": (lambda: simulate_set("ztf", 0), "at least 1, got 0"),
    "seed": (lambda: simulate_set("ztf", 1, seed=-1), "not be negative, got -1"),
    "sources": (lambda: simulate_set("ztf", 1, sources=(4, 2)), "4:2"),
    "sky": (lambda: simulate_set("ztf", 1, sky=np.nan), "must be finite numbers, got nan and 0.0"),
    "crowd": (lambda: simulate_set("ztf", 1, sources=(300, 300)), "300 sources do not fit"),
    "range": (lambda: parse_sources("2-8"), "MIN:MAX"),
    "long range": (lambda: parse_sources("2:4:8"), "MIN:MAX"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name, galsim):
    function, message = MISTAKES[name]
    with pytest.raises(InputError, match=message):
        function()


def test_ranges_of_sources():
    assert parse_sources("2:8") == (2, 8)
    assert parse_sources("3") == (3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("conv"), "no truth to compare with: conv missing"),
        (lambda a: a.update(images=a["images"][0]), "no set of blends"),
        (lambda a: a.update(src_start=a["src_start"][:-1]), "src_start"),
        (lambda a: a.update(src_start=a["src_start"].astype(float)), "src_start"),
        (lambda a: a.update(flux_stamp=a["flux_stamp"][:-1]), "`flux_stamp` has the shape"),
        (lambda a: a.update(flux_total=a["flux_total"][:, :2]), "`flux_total` has the shape"),
        (lambda a: a.update(conv=a["conv"][..., :-1]), "`conv` has the shape"),
        (lambda a: a.update(centers=a["centers"][:, :1]), "`centers` has the shape"),
        (lambda a: a.update(gain=a["gain"][:-1]), "`gain` has the shape"),
        (lambda a: a.update(skyvar=a["skyvar"][:-1]), "`skyvar` has the shape"),
        (lambda a: a.update(beta=a["beta"][:-1]), "`beta` has the shape"),
        (lambda a: a.update(psfs=a["psfs"][:-1]), "2 sets of `psfs` for 3 blends"),
        (lambda a: a.update(meta=np.array("{")), r"\[meta\] is not a JSON object"),
        (lambda a: a.update(meta=np.array("[1]")), r"\[meta\] is not a JSON object"),
    ],
)
def test_sets_without_truth_are_refused(three, tmp_path, change, message):
    arrays = dict(three)
    change(arrays)
    with pytest.raises(InputError, match=message):
        BlendSet(write_set(tmp_path / "broken.npz", arrays))


def test_meta_and_bands_are_plain(path):
    with np.load(path, allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"]))
        assert "".join(archive["bands"]) == meta["bands"] == "ugrizy"
    assert meta["zp"] == 31.4


def test_noise_of_resampled_images(three):
    made = simulate_set("lsst", 3, seed=5, sources=(2, 4), noise_correlation="drizzle:1.0")
    assert json.loads(str(made["meta"]))["noise_correlation"] == "drizzle:1.0"
    # Galaxies are those of the set with independent pixels.
    np.testing.assert_array_equal(made["centers"][:2], three["centers"][:2])
    noise = []
    for index in range(3):
        mine = slice(*made["src_start"][index : index + 2])
        light = made["conv"][mine].sum(0).astype(float)
        variance = photon_variance(light, made["skyvar"][index] / made["gain"], made["gain"])
        noise.append((made["images"][index] - light) / np.sqrt(variance))
    noise = np.concatenate(noise)
    assert noise.std() == pytest.approx(1, abs=0.02)
    beside = (noise[:, :, 1:] * noise[:, :, :-1]).mean()
    assert beside == pytest.approx(0.25, abs=0.02)
    with pytest.raises(InputError, match="unknown correlation 'drizzle'"):
        simulate_set("lsst", 1, noise_correlation="drizzle")
