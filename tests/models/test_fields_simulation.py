"""Simulated fields: light, noise, PSFs and masks are what the truth and the file say."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.spatial.distance import pdist

from scorepriors import InputError
from scorepriors._surveys import survey
from scorepriors.models import (
    Observation,
    drizzle_correlation,
    read_positions,
    read_psf,
    simulate_field,
    write_field,
)
from scorepriors.models.simulation._blend_sets import MIN_SNR, blendedness
from scorepriors.models.simulation._fields_bodies import draw_galaxy, draw_star, draw_structured
from scorepriors.models.simulation._fields_pixels import add_noise, add_sky, saturate
from scorepriors.models.simulation._fields_psf import VaryingPsf
from scorepriors.models.simulation._fields_stamps import draw_stamp

galsim = pytest.importorskip("galsim")


@pytest.fixture(scope="module")
def field():
    return simulate_field(
        "lsst", 256, density=60, stars=20, clusters=1, structured=1, gaps=True, bands="gri", seed=5
    )


@pytest.fixture(scope="module")
def folder(field, tmp_path_factory):
    return write_field(field, tmp_path_factory.mktemp("field"))


def test_the_file_reads_as_an_observation(field, folder):
    obs = Observation.read(folder / "field.fits")
    assert obs.bands == ("g", "r", "i")
    assert str(obs.unit) == "nJy"
    assert obs.pixel_scale == pytest.approx(0.2)
    good = field.mask == 0
    np.testing.assert_array_equal(obs.weights > 0, good)
    np.testing.assert_allclose(obs.weights[good], 1 / field.variance[good], rtol=1e-5)
    np.testing.assert_array_equal(obs.images[good], field.images[good])


def test_the_truth_is_a_catalog_of_the_image(field, folder):
    obs = Observation.read(folder / "field.fits")
    truth = Table.read(folder / "truth.fits")
    positions = read_positions(folder / "truth.fits", obs)
    np.testing.assert_allclose(positions.row_column, np.stack([truth["y"], truth["x"]], -1))
    sky = obs.wcs.pixel_to_world(truth["x"], truth["y"])
    np.testing.assert_allclose(sky.ra.deg, truth["ra"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(sky.dec.deg, truth["dec"], rtol=0, atol=1e-9)
    assert len(truth) == json.loads((folder / "summary.json").read_text())["num_sources"]


def test_light_in_the_image_adds_up_to_the_truth():
    field = simulate_field("lsst", 192, density=150, stars=0, bands="ri", seed=1)
    truth = field.truth
    # Wings of sources at the border lie outside.
    x, y = truth["x"], truth["y"]
    far = np.minimum.reduce([x, y, 191 - x, 191 - y])
    share = truth["flux_r"][far < 12].sum() / truth["flux_r"].sum()
    noise = np.sqrt(field.variance.sum((1, 2)))
    for order, band in enumerate("ri"):
        total, true = field.images[order].sum(dtype=float), truth[f"flux_{band}"].sum()
        assert noise[order] < 0.02 * true
        assert -4 * noise[order] - (0.005 + 0.5 * share) * true < total - true < 4 * noise[order]


@pytest.mark.parametrize("make", [draw_galaxy, draw_star, draw_structured])
def test_a_stamp_holds_the_light_of_its_source(make):
    facts = survey("hsc")
    camera = facts.camera()
    rng = np.random.default_rng(3)
    psf = VaryingPsf(galsim, rng, camera, 500)
    for _ in range(3):
        body = make(galsim, rng, facts, camera.bands)
        center = rng.uniform(200, 300, 2)
        stamp = draw_stamp(galsim, body, center, psf, camera)
        total = stamp.light.sum((1, 2))
        np.testing.assert_allclose(total, body.flux, rtol=0.01)
        # Center of light: that of the stars of a spiral's arms is anywhere near it.
        light = stamp.light.sum(0)
        rows, columns = np.indices(light.shape)
        found = np.array([(light * rows).sum(), (light * columns).sum()]) / light.sum()
        off = np.abs(found + stamp.corner - center).max()
        assert off < (3 if make is draw_structured else 0.05)


def test_the_psf_varies_and_is_what_the_reader_evaluates(folder):
    obs = Observation.read(folder / "field.fits")
    psf = VaryingPsf(galsim, np.random.default_rng((5, 7)), _camera("gri"), 256)
    corners = []
    for place in [(3.0, 5.0), (250.0, 5.0), (127.5, 127.5), (180.0, 240.0)]:
        read = read_psf(
            folder / "field.fits", bands=obs.bands, place=place, pixel_scale=obs.pixel_scale
        )
        true = psf.images(*place)
        assert np.abs(read - true).max() < 2e-3 * true.max()
        corners.append(read)
    assert np.abs(corners[0] - corners[1]).max() > 0.01 * corners[0].max()
    # The file's own, at the middle of the image.
    np.testing.assert_allclose(obs.psfs, corners[2], atol=1e-6)


def _camera(bands):
    facts = survey("lsst")
    camera = facts.camera()
    picks = [camera.bands.index(band) for band in bands]
    arrays = (camera.seeing, camera.gain, camera.sky_variance)
    return type(camera)(bands, camera.scale, *(array[picks] for array in arrays))


def test_noise_is_that_of_the_variance():
    camera = _camera("gri")
    rng = np.random.default_rng(0)
    level = 400 * np.sqrt(camera.sky_variance).astype(np.float32)[:, None, None]
    light = level * np.linspace(0, 1, 200, dtype=np.float32) * np.ones((3, 200, 1), np.float32)
    image, variance = add_noise(rng, light.copy(), camera)
    assert (variance[..., -1] > 1.5 * variance[..., 0]).all()  # sources have noise as well
    for columns in (slice(0, 100), slice(100, 200)):
        chi2 = ((image - light) ** 2 / variance)[..., columns]
        # 3 x 20,000 pixels; five standard deviations of a chi2.
        np.testing.assert_allclose(chi2.mean((1, 2)), 1, atol=5 * np.sqrt(2 / 20_000))


def test_an_empty_field_is_noise_alone():
    field = simulate_field("ztf", 128, density=0, stars=0, seed=2)
    assert len(field.truth) == 0
    assert not field.mask.any()
    scaled = field.images / np.sqrt(field.variance)
    assert abs(scaled.mean()) < 5 / np.sqrt(scaled.size)
    assert abs(scaled.std() - 1) < 5 / np.sqrt(2 * scaled.size)


def test_the_same_seed_gives_the_same_field(field):
    again = simulate_field(
        "lsst", 256, density=60, stars=20, clusters=1, structured=1, gaps=True, bands="gri", seed=5
    )
    np.testing.assert_array_equal(again.images, field.images)
    np.testing.assert_array_equal(again.mask, field.mask)
    assert (again.truth == field.truth).all()
    other = simulate_field("lsst", 64, density=60, bands="g", seed=6)
    third = simulate_field("lsst", 64, density=60, bands="g", seed=7)
    assert np.abs(other.images - third.images).max() > 0


def test_full_pixels_are_masked_and_their_light_runs_along_columns():
    light = np.zeros((2, 21, 5), np.float32)
    light[0, 10, 2], light[0, 9, 2], light[1, 3, 3] = 55.0, 12.0, 8.0
    full = saturate(light, np.array([10.0, 10.0]))
    assert light[0].sum() == pytest.approx(67)
    assert light.max() <= 10
    assert light[1, 3, 3] == 8
    assert not full[1].any()
    assert full[0][light[0] > 0].all()
    assert full[0, :, [0, 1, 3, 4]].sum() == 0
    # 67 units fill seven pixels in part.
    assert full[0].sum() == np.ptp(np.flatnonzero(light[0, :, 2])) + 1 == 7


def test_light_that_reaches_the_border_is_lost():
    light = np.zeros((1, 4, 1), np.float32)
    light[0, 1] = 1000.0
    assert saturate(light, np.array([10.0])).all()
    np.testing.assert_array_equal(light, 10.0)


def test_bright_stars_are_saturated_and_masked(field, folder):
    truth = field.truth
    with fits.open(folder / "field.fits") as hdus:
        assert hdus["MASK"].header["MP_SAT"] == 1
        assert hdus["MASK"].header["MP_NO_DATA"] == 8
    bright = truth[truth["is_star"] & (truth["magnitude"] < 17.5)]
    faint = truth[truth["magnitude"] > 20]
    assert len(bright)
    assert bright["saturated"].all()
    assert not faint["saturated"].all()
    for row in bright:
        assert (field.mask[:, round(row["y"]), round(row["x"])] & 2).any()
    full = (field.mask & 2) > 0
    # No good pixel is brighter than full ones, but for noise.
    for image, variance, one, missing in zip(
        field.images, field.variance, full, field.mask & 256, strict=True
    ):
        if not one.any():
            continue
        level = image[one].max()
        good = ~one & (missing == 0)
        assert (image[good] < level + 6 * np.sqrt(variance[good])).all()


def test_gaps_have_no_data_and_no_sources(field):
    missing = (field.mask[0] & 256) > 0
    assert 0.02 < missing.mean() < 0.3
    assert np.isnan(field.images[:, missing]).all()
    assert np.isnan(field.variance[:, missing]).all()
    assert np.isfinite(field.images[:, ~missing]).all()
    row, column = (np.round(field.truth[name]).astype(int) for name in ("y", "x"))
    assert not missing[row, column].any()


def test_a_sky_changes_smoothly_by_the_wanted_amount():
    camera = _camera("gr")
    images = np.zeros((2, 50, 60), np.float32)
    add_sky(np.random.default_rng(0), images, 1.5, camera)
    np.testing.assert_allclose(
        np.ptp(images, (1, 2)), 1.5 * np.sqrt(camera.sky_variance), rtol=1e-4
    )
    step = np.abs(np.diff(images, axis=2)).max((1, 2)) / np.ptp(images, (1, 2))
    assert (step < 0.1).all()
    assert np.abs(images.mean((1, 2))).max() < 1e-2


def test_no_two_sources_are_closer_than_in_blends(field):
    places = np.stack([field.truth["y"], field.truth["x"]], -1)
    assert pdist(places).min() > 0.6 * _camera("gri").seeing.min() / 0.2
    assert (field.truth["snr"] >= MIN_SNR).all()


def test_members_of_a_cluster_are_close_and_of_one_color(field):
    truth = field.truth
    inside = truth["cluster"] == 1
    assert 26 <= inside.sum() <= 61
    color = np.log(truth["flux_i"] / truth["flux_g"])
    assert np.std(color[inside]) < 0.5 * np.std(color[~inside & ~truth["is_star"]])
    assert np.std(truth["x"][inside]) < 0.8 * np.std(truth["x"][~inside])


def test_a_galaxy_with_structure_has_one_row_and_blue_arms(field):
    row = field.truth[field.truth["has_structure"]]
    assert len(row) == 1
    assert row["snr"][0] > 500
    assert not row["is_star"][0]
    facts = survey("lsst")
    body = draw_structured(galsim, np.random.default_rng(4), facts, "gi")
    (_, bulge), _, (_, arms) = body.parts
    assert arms[0] / arms[1] > 1.5 * bulge[0] / bulge[1]
    assert body.flux == pytest.approx(bulge + body.parts[1][1] + arms)


def test_blendedness_is_that_of_blends():
    field = simulate_field("lsst", 64, density=400, stars=10, bands="gi", seed=8)
    camera = _camera("gi")
    rng = np.random.default_rng((8, 7))
    psf = VaryingPsf(galsim, rng, camera, 64)
    images = np.zeros((len(field.truth), 2, 64, 64))
    for index, row in enumerate(field.truth):
        make = draw_star if row["is_star"] else draw_galaxy
        own = np.random.default_rng((8, index, 7))
        while True:  # the first that is bright enough
            body = make(galsim, own, survey("lsst"), "gi")
            stamp = draw_stamp(galsim, body, np.array([row["y"], row["x"]]), psf, camera)
            if np.sqrt((stamp.light**2 / camera.sky_variance[:, None, None]).sum()) >= MIN_SNR:
                break
        there, inside = stamp.inside((64, 64))
        images[index][:, *there] = stamp.light[:, *inside]
    np.testing.assert_allclose(field.truth["blendedness"], blendedness(images), atol=1e-4)
    assert field.truth["blendedness"].max() > 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 10}, "64 to 20000 pixels"),
        ({"density": -1.0}, "`density` must be a number of at least 0, got -1"),
        ({"stars": np.nan}, "`stars` must be"),
        ({"clusters": -1}, "`clusters` must not be negative"),
        ({"bands": "gx"}, "'gx' are not some of lsst's ugrizy"),
        ({"bands": "gg"}, "each once"),
        ({"seed": -2}, "`seed` must not be negative"),
        ({"density": 1e12}, "do not fit into the field"),
        ({"density": 8_000.0}, "do not fit into the field"),
        ({"clusters": 10**9}, "do not fit into the field"),
        ({"name": "sdss"}, "unknown survey 'sdss'"),
    ],
)
def test_what_can_not_be_simulated_is_said(wrong, message):
    arguments = {"name": "lsst", "size": 64, "bands": "g", **wrong}
    with pytest.raises(InputError, match=message):
        simulate_field(arguments.pop("name"), arguments.pop("size"), **arguments)


def test_a_folder_is_not_overwritten_unasked(field, folder, tmp_path):
    with pytest.raises(InputError, match=r"field\.fits exists"):
        write_field(field, folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; a field needs a folder"):
        write_field(field, tmp_path / "file")
    write_field(field, folder, overwrite=True)


def test_noise_of_resampled_images():
    camera = survey("lsst").camera()
    light = np.zeros((len(camera.bands), 100, 120), np.float32)
    light[:, 40:, :] = 50
    before = light.copy()
    kernel = drizzle_correlation(1.0)
    images, variance = add_noise(np.random.default_rng(0), light, camera, kernel)
    plain = add_noise(np.random.default_rng(0), before.copy(), camera)[1]
    np.testing.assert_allclose(variance, plain, rtol=1e-5)
    noise = (images - before) / np.sqrt(variance)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert (noise[:, 1:] * noise[:, :-1]).mean() == pytest.approx(0.25, abs=0.02)
    field = simulate_field("lsst", 64, density=30, bands="r", noise_correlation="lanczos3")
    assert field.facts["noise_correlation"] == "lanczos3"
    with pytest.raises(InputError, match="unknown correlation"):
        simulate_field("lsst", 64, noise_correlation="bicubic")
