"""Files of surveys beside options and other files, and layouts that few of their files have."""

import re
import warnings

import numpy as np
import pytest
from astropy.io import fits
from survey_products import scene
from survey_products.layouts import MAKERS, compressed, flux_of, legacy_viewer
from survey_products.measure import measure

from scorepriors._errors import InputError
from scorepriors.models.data._field import Field
from scorepriors.models.data._observation import Observation


def opened(made, psf=None):
    """The observation of a product's files, and the sentences that were said."""
    files = made.files[0] if len(made.files) == 1 else made.files
    if psf is None and not made.has_psf:
        psf = scene.psf_image()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        obs = Observation.read(files, psf, **made.arguments)
    return obs, [str(one.message) for one in caught]


def check(made):
    """Check fluxes, noise and masks, and return what was said."""
    obs, said = opened(made)
    found = measure(made, obs)
    assert np.abs(found.ratio - 1).max() < 0.01
    assert found.noise == pytest.approx(1, abs=0.02)
    assert found.noise_error < made.noise_error
    assert (found.wrongly_masked, found.wrongly_used) == (0, 0)
    return said


def first_band(made):
    made.files, made.bands = made.files[:1], made.bands[:1]
    made.fluxes, made.sigma, made.masked = made.fluxes[:, :1], made.sigma[:1], made.masked[:1]
    return made


# --- noise ---


@pytest.mark.parametrize(
    ("name", "zero_point"),
    [
        ("Legacy Surveys brick", 22.5),
        ("CFHT stack", 30.0),
        ("DECam image", 29.9),
        ("unWISE coadd", 22.5 + 2.699),
    ],
)
def test_a_given_noise_is_what_it_says_and_not_what_the_survey_has(name, zero_point, tmp_path):
    made = first_band(MAKERS[name](tmp_path))
    sigma = np.where(made.masked, np.inf, made.sigma)[0] / flux_of(zero_point)
    path = tmp_path / "my_rms.fits"
    fits.PrimaryHDU(sigma.astype(np.float32)).writeto(path)
    made.arguments = {"noise": path}
    check(made)


def test_the_noise_beside_an_image_may_be_given_without_its_kind(tmp_path):
    made = MAKERS["Pan-STARRS stack"](tmp_path)
    made.arguments = {"noise": next(tmp_path.glob("*.wt.fits"))}
    check(made)
    other = tmp_path / "other.wt.fits"
    other.write_bytes(next(tmp_path.glob("rings*.wt.fits")).read_bytes())
    made.arguments = {"noise": other}
    with pytest.raises(InputError, match=r"other.wt.fits does not say what kind of noise it holds"):
        opened(made)


def test_relative_weights_beside_a_drizzle_are_compared_with_its_pixels(tmp_path):
    made = MAKERS["HST drizzle (CANDELS)"](tmp_path)
    check(made)
    path = next(tmp_path.glob("*_wht.fits"))
    with fits.open(path) as hdus:
        hdus[0].data *= 1e-4
        hdus.writeto(path, overwrite=True)
    with pytest.raises(InputError, match=r"_wht.fits .*can be no inverse variance"):
        opened(made)
    made.arguments = {"noise_kind": "exposure"}
    assert measure(made, opened(made)[0]).noise == pytest.approx(1, abs=0.1)


def test_errors_of_hubble_come_before_exposure_times(tmp_path):
    made = MAKERS["HST drizzle (HAP)"](tmp_path)
    (path,) = made.files
    with fits.open(path) as hdus:
        header = hdus["SCI"].header
        unit = flux_of(
            -2.5 * np.log10(header["PHOTFLAM"]) - 5 * np.log10(header["PHOTPLAM"]) - 2.408
        )
        errors = np.where(made.masked, 0, made.sigma)[0] / unit
        # Not those that the exposure times would tell.
        errors[:10] *= 3
        made.sigma[0, :10] *= 3
        hdus.append(fits.ImageHDU(errors.astype(np.float32), name="ERR"))
        hdus.writeto(path, overwrite=True)
    made.noise_error = 0.01
    assert check(made) == [
        "hst_12440_01_acs_wfc_f814w_jbo801_drc.fits: 12 of 2688 pixels have no data (zero in ERR 12) and were masked."
    ]


def own_noise(made, sigma):
    path = made.files[0].parent / "own.fits"
    fits.PrimaryHDU(sigma.astype(np.float32)).writeto(path)
    return {"noise": path, "noise_kind": "deviation"}


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("HST drizzle (HAP)", {"noise_kind": "ivar"}, "WHT was taken as exposure time"),
        ("HST drizzle (HAP)", None, "WHT was taken as exposure time"),
        ("ZTF exposure", None, "its noise was calculated"),
        ("SDSS frame", None, "its noise was calculated"),
        ("VISTA or UKIDSS image", {"zero_point": 28.26}, "its zero point of Vega"),
    ],
)
def test_what_a_row_would_do_is_said_only_where_it_does_it(name, options, sentence, tmp_path):
    made = MAKERS[name](tmp_path)
    assert sum(sentence in one for one in opened(made)[1]) == 1
    made.arguments |= own_noise(made, made.sigma[0]) if options is None else options
    assert not [one for one in opened(made)[1] if sentence in one]


# --- layouts ---


def test_a_cutout_with_averaged_pixels_is_refused(tmp_path):
    made = legacy_viewer(tmp_path, scale=0.524)
    message = "pixels of 0.524 arcsec were averaged from the survey's of 0.262, so sums of them would be 0.25"
    with pytest.raises(InputError, match=message):
        opened(made)
    made.arguments = {"zero_point": 22.5 - 2.5 * np.log10(4)}
    obs, said = opened(made)
    assert measure(made, obs).ratio == pytest.approx(4, rel=0.01)
    assert [one for one in said if "check its noise, and give a PSF on the same pixels" in one]


def quadrants(path):
    """Two quadrants of an exposure of Euclid's VIS, whose HDUs begin with a name of theirs."""
    images, sigma, flux = scene.draw(sigma=5.0, seed=31)
    unit, spot = flux_of(24.6), np.zeros(scene.SHAPE, np.int32)
    spot[scene.BAD] = 4
    hdus = [fits.PrimaryHDU(header=fits.Header({"FILTER": "VIS", "MAGZERO": 24.6}))]
    for name, factor in (("3-4.E", 1.0), ("3-4.F", 7.0)):
        header = scene.wcs(0.1).to_header()
        pixels = (factor * images[0] / unit).astype(np.float32)
        hdus.append(fits.ImageHDU(pixels, header, name=f"{name}.SCI"))
        deviation = (factor * sigma[0] / unit).astype(np.float32)
        hdus.append(fits.ImageHDU(deviation, header, name=f"{name}.RMS"))
        hdus.append(fits.ImageHDU(spot, header, name=f"{name}.FLG"))
        hdus.append(fits.ImageHDU(pixels, header, name=f"{name}.ODD"))
    fits.HDUList(hdus).writeto(path)
    made = scene.Made([path], ("VIS",), (715,), flux, sigma, scene.bad_pixels(), pixel_scale=0.1)
    made.arguments = {"hdu": "3-4.E.SCI"}
    return made


def test_a_quadrant_has_its_mask(tmp_path):
    made = quadrants(tmp_path / "EUC_VIS_SWL-DET-002703.fits")
    said = check(made)
    assert opened(made)[0].bands == ("VIS",)
    assert sum("3-4.E.ODD of the size of the image passed over" in one for one in said) == 1
    assert sum("all its 12 nonzero pixels were masked" in one for one in said) == 1
    assert len(said) == 2


@pytest.mark.parametrize("bad_planes", [None, "SATURATED,COSMIC_RAY"])
def test_a_mask_of_more_planes_than_bits(bad_planes, tmp_path):
    made = MAKERS["Rubin DP2 visit image"](tmp_path)
    (path,) = made.files
    with fits.open(path) as hdus:
        mask, header = hdus["MASK"].data.copy(), hdus["MASK"].header.copy()
        number = hdus.index_of("MASK")
        saturated = (mask >> 1) & 1
        for card in ("MSKN0001", "MSKM0001"):
            del header[card]
        first = fits.CompImageHDU(mask & ~2, header, name="MASK")
        more = fits.Header({"MSKN0000": "SATURATED", "MSKM0000": 1, "MSKN0001": "X", "MSKM0001": 2})
        second = fits.CompImageHDU(saturated.astype(np.int32), more, name="MASK")
        second.ver = 2
        kept = [hdu for order, hdu in enumerate(hdus) if order != number]
        fits.HDUList([*kept[:number], first, second, *kept[number:]]).writeto(tmp_path / "a.fits")
    made.files = [path.with_name("visit_image_two.fits")]
    (tmp_path / "a.fits").rename(made.files[0])
    if bad_planes:
        made.arguments = {"bad_planes": bad_planes}
    assert check(made) == []
    window = Field.open(made.files[0], scene.psf_image(), **made.arguments).window(0, 40, 10, 12)
    np.testing.assert_array_equal(window.weights[0] == 0, made.masked[0, :10, 40:52])
    made.arguments = {"bad_planes": "NOTHING"}
    with pytest.raises(InputError, match="has no plane 'NOTHING'"):
        opened(made)


def test_exposure_times_of_ukidss(tmp_path):
    made = MAKERS["VISTA or UKIDSS image"](tmp_path)
    (path,) = made.files
    with fits.open(path) as hdus:
        header = hdus[1].header
        header["INSTRUME"], header["EXP_TIME"], header["FILTER"] = "WFCAM", 50.0, "J"
        header["MAGZPT"] += 0.916 - 0.938
        del header["EXPTIME"]
        hdus.writeto(path, overwrite=True)
    check(made)
    assert opened(made)[0].bands == ("UKIDSS_J",)


def test_cutouts_of_panstarrs_are_linear(tmp_path):
    images, sigma, flux = scene.draw(sigma=150.0, seed=32)
    masked = scene.bad_pixels()
    exposure = 900.0
    unit = flux_of(25.0) / exposure
    header = scene.wcs_cards(0.25)
    header.update({"EXPTIME": exposure, "HIERARCH FPA.FILTERID": "i.00000"})
    stem = "cutout_rings.v3.skycell.1266.071.stk.i.unconv"
    variance = np.where(masked, np.nan, (sigma / unit) ** 2)[0]
    for ending, pixels in (("", images[0] / unit), (".wt", variance)):
        fits.PrimaryHDU(pixels.astype(np.float32), header).writeto(
            tmp_path / f"{stem}{ending}.fits"
        )
    path = tmp_path / f"{stem}.fits"
    made = scene.Made([path], ("PS1_i",), (754,), flux, sigma, masked, pixel_scale=0.25)
    check(made)


def test_a_chip_of_decam_has_its_own_weights_and_flags(tmp_path):
    made = MAKERS["DECam image"](tmp_path)
    for path in list(tmp_path.iterdir()):
        with fits.open(path) as hdus:
            data, header = hdus[1].data, hdus[1].header
            chips = [
                compressed(factor * data, header, name)
                for name, factor in (("N3", 0), ("N4", 1), ("N5", 0))
            ]
            other = path.name.replace("_os", "_oo")
            fits.HDUList([fits.PrimaryHDU(), *chips]).writeto(tmp_path / other)
        path.unlink()
    made.files, made.arguments = [next(tmp_path.glob("*_ooi_*"))], {"hdu": "N4"}
    made.noise_error = 0.02
    check(made)


# --- PSFs ---


def grid(path):
    """A grid of PSFs of a detector, as STPSF writes them."""
    psf = scene.psf_image()
    header = fits.Header({"OVERSAMP": 1})
    for number, point in enumerate(((0, 0), (0, 2000), (1000, 0), (1000, 2000))):
        header[f"DET_YX{number}"] = str(point)
    fits.PrimaryHDU(np.stack([psf] * 4), header).writeto(path)
    return path


@pytest.mark.parametrize(
    ("name", "count"), [("JWST i2d", 1), ("HST drizzle (CANDELS)", 1), ("KiDS coadd", 0)]
)
def test_psfs_of_a_detector_on_a_mosaic_are_said(name, count, tmp_path):
    made = MAKERS[name](tmp_path)
    path = grid(tmp_path / "grid.fits")
    for psf in (path, [path], {made.bands[0]: str(path)}):
        said = [one for one in opened(made, psf)[1] if "PSFs of a detector" in one]
        assert len(said) == count, said
        assert all(
            re.match(r"grid.fits is a grid of PSFs of a detector, and .* is a ", one)
            for one in said
        )


@pytest.mark.parametrize("shape", [(41, 43), (43, 41), (31, 45)])
def test_psfs_that_are_not_square_get_zeros(shape):
    whole = scene.blob((shape[1] - 1) / 2, (shape[0] - 1) / 2, 1.5, shape)
    obs = Observation.from_arrays(np.ones((1, 8, 8)), weights=np.ones((1, 8, 8)), psfs=[whole])
    side = max(shape)
    assert obs.psfs.shape == (1, side, side)
    square = scene.blob(side // 2, side // 2, 1.5, (side, side))
    np.testing.assert_allclose(obs.psfs[0], square / square.sum(), atol=1e-6)


@pytest.mark.parametrize("shape", [(41, 42), (11, 43)])
def test_psfs_far_from_square_are_refused(shape):
    whole = scene.blob((shape[1] - 1) / 2, (shape[0] - 1) / 2, 1.5, shape)
    with pytest.raises(InputError, match="must be square"):
        Observation.from_arrays(np.ones((1, 8, 8)), weights=np.ones((1, 8, 8)), psfs=[whole])
