"""Files as archives have them: cards that are missing, say something else, or stand elsewhere."""

import gzip
import shutil
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS
from survey_products import scene
from survey_products.layouts import MAKERS, flux_of, gzipped
from survey_products.measure import measure

from scorepriors._errors import InputError
from scorepriors.models.data._field import Field
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.readers._product_rules import wise_band


def opened(made):
    """The observation of a product's files, and the sentences that were said."""
    files = made.files[0] if len(made.files) == 1 else made.files
    psf = None if made.has_psf else scene.psf_image()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        obs = Observation.read(files, psf, **made.arguments)
    return obs, [str(one.message) for one in caught]


def with_cards(path, cards, number=None):
    """Change cards of an image; None takes one out."""
    with fits.open(path, mode="update") as hdus:
        number = (
            next(i for i, h in enumerate(hdus) if h.data is not None) if number is None else number
        )
        for card, value in cards.items():
            if value is None:
                hdus[number].header.remove(card, ignore_missing=True)
            else:
                hdus[number].header[card] = value
    return path


def simple(path, image=None, cards=None, primary=None, noise=2.0, name="SCI", **others):
    """A file with an image, its variance and a PSF, without a row of its own."""
    rng = np.random.default_rng(5)
    image = rng.normal(size=(20, 24)) if image is None else image
    header = scene.wcs_cards(0.2)
    header.update(cards or {})
    hdus = [fits.PrimaryHDU(header=fits.Header(primary or {}))]
    hdus.append(fits.ImageHDU(np.asarray(image), header, name))
    hdus.append(fits.ImageHDU(np.full(np.shape(image), noise**2), name="VARIANCE"))
    hdus.append(fits.ImageHDU(scene.psf_image(), name="PSF"))
    hdus += [fits.ImageHDU(data, name=one) for one, data in others.items()]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


# --- bands ---


@pytest.mark.parametrize("filterx", [True, False])
def test_a_brick_has_the_band_of_its_image_and_not_of_all(filterx, tmp_path):
    made = MAKERS["Legacy Surveys brick"](tmp_path)
    if not filterx:
        for path in made.files:
            with_cards(path, {"FILTERX": None})
    assert opened(made)[0].bands == made.bands
    made.files, made.bands = made.files[1:2], made.bands[1:2]
    obs = opened(made)[0]
    assert obs.bands == ("r",)
    assert not (obs.weights > 0)[:, 40:42, 3:6].any()  # of the mask beside it


def test_a_brick_of_another_name_is_no_cutout_of_the_viewer(tmp_path):
    made = MAKERS["Legacy Surveys brick"](tmp_path)
    shutil.copy(made.files[1], tmp_path / "mine.fits.fz")
    noise = str(made.files[1]).replace("-image-", "-invvar-")
    obs = Observation.read(
        tmp_path / "mine.fits.fz", scene.psf_image(), noise=noise, noise_kind="ivar"
    )
    assert (obs.bands, obs.zero_point) == (("r",), (22.5,))


def test_the_viewer_may_write_commas_between_bands(tmp_path):
    made = MAKERS["Legacy Surveys viewer cutout"](tmp_path)
    for number in range(3):
        with_cards(made.files[0], {"BANDS": "g,r,i,z"}, number)
    obs = opened(made)[0]
    assert obs.bands == made.bands
    assert np.abs(measure(made, obs).ratio - 1).max() < 0.01


def test_names_of_bands_that_are_given_overrule_cards(tmp_path):
    made = MAKERS["unWISE coadd"](tmp_path)
    with_cards(made.files[0], {"BAND": 7})
    made.arguments = {"bands": "mine", "zero_point": 25.0}
    assert opened(made)[0].bands == ("mine",)


@pytest.mark.parametrize("name", ["unWISE coadd", "AllWISE atlas image"])
def test_wise_without_a_card_of_the_band(name, tmp_path):
    made = MAKERS[name](tmp_path)
    with_cards(made.files[0], {"BAND": None})
    obs = opened(made)[0]
    assert obs.bands == made.bands
    assert np.abs(measure(made, obs).ratio - 1).max() < 0.01
    with pytest.raises(InputError, match="the card BAND is None, but WISE has the bands 1 to 4"):
        wise_band(fits.Header())


def test_a_narrow_band_is_not_the_broad_one_of_its_letter(tmp_path):
    made = MAKERS["VISTA or UKIDSS image"](tmp_path)
    cards = {"INSTRUME": "WFCAM", "ESO INS FILT1 NAME": None, "FILTER": "H2"}
    with_cards(made.files[0], cards)
    obs, said = opened(made)
    assert (obs.bands, obs.zero_point) == (("H2",), None)
    assert any("in the narrow band H2 can't be converted" in one for one in said)
    assert not any("was converted" in one for one in said)
    with_cards(made.files[0], {"FILTER": "H"})
    assert opened(made)[0].bands == ("UKIDSS_H",)
    with_cards(made.files[0], {"FILTER": "Hello"})
    with pytest.raises(InputError, match=r"is 'Hello', but UKIDSS has Z, Y, J, H, K; .*--bands"):
        opened(made)


# --- pixels ---


def test_a_small_field_of_scaled_integers(tmp_path):
    image = 1184 + 1.236 * np.random.default_rng(0).integers(0, 20, (40, 50))
    path = simple(tmp_path / "a.fits", image)
    with fits.open(path) as hdus:
        hdus[1].scale("int16", "", bscale=1.236, bzero=39500.0)
        hdus.writeto(tmp_path / "b.fits")
    with fits.open(tmp_path / "b.fits") as hdus:
        assert hdus[1].header["BITPIX"] == 16
        expected = np.asarray(hdus[1].data, np.float32)
    window = Field.open(tmp_path / "b.fits").window(5, 6, 20, 20)
    np.testing.assert_allclose(window.images[0], expected[5:25, 6:26], rtol=1e-6)


# --- times ---

#: Cards of an exposure of a minute whose middle is noon of 2019-04-27 (MJD 58600.5).
NOON = 58600.5
HALF = 30 / 86400
TIMES = [
    ({"MJD-AVG": NOON, "MJD-OBS": 58600.0}, {}),
    ({"MJD-OBS": NOON - HALF, "EXPTIME": 60.0}, {}),
    ({"MJD-OBS": NOON}, {}),
    ({}, {"MJD-OBS": NOON - HALF, "EXPTIME": 60.0}),
    ({"EXPTIME": 60.0}, {"OBSMJD": NOON - HALF}),
    ({"MJD-BEG": NOON - 1, "MJD-END": NOON + 1}, {"MJD-OBS": 58600.0}),
    ({}, {"EXPSTART": NOON - 1, "EXPEND": NOON + 1, "DATE-OBS": "2019-04-26", "EXPTIME": 9.0}),
    ({"DATE-OBS": "2019-04-27", "TIME-OBS": "11:59:30"}, {"EXPTIME": 60.0}),
    ({"DATE-OBS": "2019-04-27T11:59:30.000"}, {"EXPTIME": 60.0}),
    ({"DATE-AVG": "2019-04-27T12:00:37", "TIMESYS": "TAI", "DATE-OBS": "2019-04-27"}, {}),
    ({"DATE-OBS": "2019-04-27", "TAIHMS": "12:00:07.00", "EXPTIME": "60"}, {}),
    ({"DATE-OBS": "2019-04-27", "TAI": 58600.5 * 86400 + 7, "EXPTIME": 60.0}, {}),
]


@pytest.mark.parametrize(("cards", "primary"), TIMES)
def test_the_time_is_the_middle_of_the_exposure(cards, primary, tmp_path):
    path = simple(tmp_path / "a.fits", cards=cards, primary=primary)
    obs = Observation.read(path)
    assert obs.time == pytest.approx(NOON, abs=1e-6)
    assert Field.open(path).time == pytest.approx(NOON, abs=1e-6)
    obs.to_fits(tmp_path / "b.fits")
    assert Observation.read(tmp_path / "b.fits").time == pytest.approx(NOON, abs=1e-6)


@pytest.mark.parametrize(
    "cards",
    [{"DATE-OBS": "2019-04-27"}, {"DATE-OBS": "27/04/99"}, {"MJD-OBS": 0.0}, {"DATE-OBS": "soon"}],
)
def test_a_day_is_no_time(cards, tmp_path):
    path = simple(tmp_path / "a.fits", cards=cards)
    assert Observation.read(path).time is None
    assert Observation.read(path, time=NOON).time == NOON
    assert Field.open(path, time=NOON).window(2, 2, 9, 9).time == NOON
    with pytest.raises(InputError, match="`time` must be an MJD"):
        Observation.read(path, time="soon")


def test_a_wcs_of_a_day_has_no_time(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = scene.wcs_cards(0.2)
        header["DATE-OBS"] = "2019-04-27"
        wcs = WCS(header)
        header["DATE-OBS"] = "2019-04-27T12:00:00"
        full = WCS(header)
    pixels = {"variance": np.ones((1, 9, 9)), "psfs": np.ones((1, 1))}
    assert Observation.from_arrays(np.ones((1, 9, 9)), wcs=wcs, **pixels).time is None
    obs = Observation.from_arrays(np.ones((1, 9, 9)), wcs=full, **pixels)
    assert obs.time == pytest.approx(NOON)


def test_times_of_ccddata_and_archives(tmp_path):
    rng = np.random.default_rng(0)
    meta = {"MJD-OBS": NOON - HALF, "EXPTIME": 60.0}
    ccd = CCDData(
        rng.normal(size=(9, 9)),
        uncertainty=StdDevUncertainty(np.ones((9, 9))),
        unit="nJy",
        meta=meta,
    )
    psf = np.ones((1, 1))
    assert Observation.from_nddata(ccd, psf).time == pytest.approx(NOON)
    assert Observation.from_nddata(ccd, psf, time=5e4).time == 5e4
    np.savez(tmp_path / "a.npz", images=rng.normal(size=(1, 9, 9)), psfs=np.ones((1, 1, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Observation.read(tmp_path / "a.npz", time=NOON).time == NOON


def test_the_shell_has_an_option_for_the_time():
    from scorepriors.inference.cli._input import READING, take_reading

    options = dict.fromkeys(READING) | {"noise_files": (), "masks": (), "time": NOON}
    assert take_reading(options) == {"time": NOON}


# --- mosaics from space ---


@pytest.mark.parametrize("kind", ["wht", "err"])
@pytest.mark.parametrize(
    ("stem", "band"),
    [("hlsp_hlf_hst_acs-30mas_goodss_f160w_v2.0", "f160w"), ("abell-f160w", "F160W")],
)
def test_noise_beside_an_image_that_is_named_sci(stem, band, kind, tmp_path):
    made = MAKERS["HST drizzle (CANDELS)"](tmp_path)
    wht = tmp_path / made.files[0].name.replace("_drz", "_wht")
    image = gzipped(made.files[0].rename(tmp_path / f"{stem}_sci.fits"))
    if stem.startswith("hlsp"):
        image = tmp_path / f"{stem}_sci.fits"
        image.write_bytes(gzip.decompress((tmp_path / f"{stem}_sci.fits.gz").read_bytes()))
        with_cards(image, {"FILTER": None})
        (tmp_path / f"{stem}_sci.fits.gz").unlink()
        image = gzipped(image)
    wht = wht.rename(tmp_path / f"{stem}_wht.fits")
    if kind == "err":
        with fits.open(wht) as hdus, np.errstate(divide="ignore"):
            fits.writeto(tmp_path / f"{stem}_err.fits", hdus[0].data ** -0.5)
        fits.writeto(wht, np.full(scene.SHAPE, 7.0), overwrite=True)
    gzipped(wht)
    made.files = [image]
    obs, _ = opened(made)
    found = measure(made, obs)
    assert obs.bands == (band,)
    assert np.abs(found.ratio - 1).max() < 0.01
    assert found.noise == pytest.approx(1, abs=0.02)


def test_an_rms_comes_before_weights(tmp_path):
    made = MAKERS["HST drizzle (HAP)"](tmp_path)
    zero = opened(made)[0].zero_point[0]
    with fits.open(made.files[0]) as hdus:
        rms = fits.ImageHDU((made.sigma[0] / flux_of(zero)).astype(np.float32), name="RMS")
        fits.HDUList([*hdus, rms]).writeto(tmp_path / "egs_f814w_mef.fits")
    made.files = [tmp_path / "egs_f814w_mef.fits"]
    obs, said = opened(made)
    used = obs.weights > 0
    noise = obs.weights[used] ** -0.5 * flux_of(zero) / made.sigma[used]
    assert np.abs(noise - 1).max() < 1e-3
    assert not any("exposure time" in one for one in said)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["JWST i2d", "HST drizzle (HAP)", None])
def test_the_image_without_its_background_is_taken_and_said(name, tmp_path):
    if name is None:
        path = simple(tmp_path / "a.fits")
    else:
        path = MAKERS[name](tmp_path).files[0]
    before = Observation.read(path, scene.psf_image())
    with fits.open(path) as hdus:
        sci = hdus["SCI"]
        other = fits.ImageHDU(sci.data - 0.25, sci.header, "SCI_BKSUB")
        fits.HDUList([*hdus, other]).writeto(tmp_path / "two.fits")
    with pytest.warns(FileWarning, match=r"SCI_BKSUB, .* was read and SCI passed over; hdu='SCI'"):
        obs = Observation.read(tmp_path / "two.fits", scene.psf_image())
    assert obs.bands == tuple("two" if b == "a" else b for b in before.bands)
    seen = obs.weights > 0
    np.testing.assert_allclose(obs.images[seen], before.images[seen] - 0.25, atol=1e-4)
    whole = Observation.read(tmp_path / "two.fits", scene.psf_image(), hdu="SCI")
    np.testing.assert_array_equal(whole.images, before.images)
    one = Observation.read(tmp_path / "two.fits", scene.psf_image(), hdu="SCI_BKSUB")
    np.testing.assert_array_equal(one.images, obs.images)
    assert one.bands == obs.bands
