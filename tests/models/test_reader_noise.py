"""Noise and masks: in files of their own, pixels without data, and exposure times."""

import numpy as np
import pytest
from fits_files import SHAPE, SIGMA, field, hdu, noise, psf, write

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning

VALUES = {"variance": SIGMA**2, "deviation": SIGMA, "ivar": SIGMA**-2}


def image_file(path, cards=None):
    return write(path, hdu(noise(), "SCI", cards))


# --- files of their own --------------------------------------------------------------------


@pytest.mark.parametrize("kind", VALUES)
def test_noise_of_each_kind(tmp_path, kind):
    path = image_file(tmp_path / "a.fits")
    extra = write(tmp_path / "n.fits", primary=np.full(SHAPE, VALUES[kind]))
    obs = Observation.read(path, psf(), noise=extra, noise_kind=kind)
    np.testing.assert_allclose(obs.weights, SIGMA**-2, rtol=1e-6)
    obs = Observation.read([path], psf(), noise=[str(extra)], noise_kind=kind)
    np.testing.assert_allclose(obs.weights, SIGMA**-2, rtol=1e-6)


def test_noise_of_exposure_times_is_scaled_to_the_scatter(tmp_path):
    seconds = np.full(SHAPE, 100.0)
    seconds[:, 14:] = 400.0
    sigma = SIGMA * 10 / np.sqrt(seconds)
    pixels = np.random.default_rng(1).normal(0, sigma)
    path = write(tmp_path / "a.fits", hdu(pixels, "SCI"))
    extra = write(tmp_path / "n.fits", primary=seconds)
    obs = Observation.read(path, psf(), noise=extra, noise_kind="exposure")
    # The median absolute deviation of 672 Gaussian pixels is good to 5 %; 4 sigma.
    np.testing.assert_allclose(obs.weights[0] ** -0.5, sigma, rtol=0.2)
    assert obs.weights[0, 0, 20] / obs.weights[0, 0, 0] == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a_rms.fits", "deviation"),
        ("tile-RMS-1.fits", "deviation"),
        ("a.var.fits", "variance"),
        ("legacy-invvar-g.fits", "ivar"),
        ("a_wht.fits.gz", "ivar"),
        ("a.weight.fits", "ivar"),
    ],
)
def test_kind_by_the_name_of_the_file(tmp_path, name, kind):
    path = image_file(tmp_path / "x.fits")
    extra = write(tmp_path / name, primary=np.full(SHAPE, VALUES[kind]))
    np.testing.assert_allclose(Observation.read(path, psf(), noise=extra).weights, SIGMA**-2, 1e-5)


def test_an_hdu_of_a_noise_file(tmp_path):
    path = image_file(tmp_path / "a.fits")
    write(tmp_path / "n.fits", hdu(np.ones(SHAPE), "A"), hdu(np.full(SHAPE, 0.5), "B"))
    for name in ("n.fits[B]", "n.fits[2]"):
        obs = Observation.read(path, psf(), noise=f"{tmp_path / name}", noise_kind="deviation")
        np.testing.assert_allclose(obs.weights, 4)
    with pytest.raises(InputError, match=r"n.fits holds 2 images .*say which, as n.fits\[1\]"):
        Observation.read(path, psf(), noise=tmp_path / "n.fits", noise_kind="deviation")


def test_noise_of_several_files(tmp_path):
    paths, extras, masks = [], [], []
    for order, band in enumerate("gr"):
        paths.append(image_file(tmp_path / f"{band}.fits", {"FILTER": band}))
        extras.append(write(tmp_path / f"{band}_rms.fits", primary=np.full(SHAPE, 1.0 + order)))
        mask = np.zeros(SHAPE, np.uint8)
        mask[order] = 1
        masks.append(write(tmp_path / f"{band}_flag.fits", primary=mask))
    obs = Observation.read(paths, psf(), noise=extras, mask=masks)
    np.testing.assert_allclose(obs.weights[:, 5, 0], [1, 1 / 4])
    assert np.argwhere((obs.weights == 0).all(2)).tolist() == [[0, 0], [1, 1]]
    with pytest.raises(InputError, match=r"1 file\(s\) with the noise for 2 image file\(s\)"):
        Observation.read(paths, psf(), noise=extras[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "n.fits"}, "n.fits does not say what kind of noise it holds; say noise_kind="),
        ({"noise": "n.fits", "noise_kind": "rms"}, "noise_kind is 'rms'; choose from variance"),
        ({"noise": "small_rms.fits"}, r"small_rms.fits \[PRIMARY\] has the shape \(1, 3, 3\)"),
        ({"noise": "no.fits"}, "no FITS file at"),
        ({"noise_kind": "ivar"}, "no noise extension"),
        ({"noise": np.ones(SHAPE)}, "noise is of the type ndarray; give a FITS file, or arrays to"),
        ({"noise": "a_rms.fits", "mask": [3]}, "mask is of the type int; give a FITS file"),
        ({"noise": "a_rms.fits", "good": 1}, "there is no mask for good= or bad_planes="),
        ({"noise": "a_rms.fits", "good": 1, "bad_planes": "SAT"}, "give good= or bad_planes="),
        ({"noise": "a_rms.fits", "mask": "small_rms.fits"}, r"mask has the shape \(3, 3\)"),
    ],
)
def test_errors_of_options(tmp_path, options, message):
    path = image_file(tmp_path / "a.fits")
    write(tmp_path / "n.fits", primary=np.ones(SHAPE))
    write(tmp_path / "a_rms.fits", primary=np.ones(SHAPE))
    write(tmp_path / "small_rms.fits", primary=np.ones((3, 3)))
    given = {k: tmp_path / v if str(v).endswith("fits") else v for k, v in options.items()}
    with pytest.raises(InputError, match=message):
        Observation.read(path, psf(), **given)


# --- no data --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "name", "value", "reason"),
    [
        ("image", "VARIANCE", np.nan, "NaN or infinite in the image"),
        ("image", "VARIANCE", np.inf, "NaN or infinite in the image"),
        ("image", "VARIANCE", -1e31, "NaN or infinite in the image"),
        ("noise", "VARIANCE", np.nan, "NaN in VARIANCE"),
        ("noise", "VARIANCE", 0, "zero in VARIANCE"),
        ("noise", "VARIANCE", np.inf, "infinite or 1e30 in VARIANCE"),
        ("noise", "VARIANCE", 1e30, "infinite or 1e30 in VARIANCE"),
        ("noise", "VARIANCE", -1, "negative in VARIANCE"),
        ("noise", "ERR", 0, "zero in ERR"),
        ("noise", "ERR", 1e30, "infinite or 1e30 in ERR"),
        ("noise", "ERR", 1e20, "a million times the usual noise"),
        ("noise", "IVAR", np.nan, "NaN in IVAR"),
        ("noise", "WHT", np.nan, "NaN in WHT"),
        ("noise", "IVAR", np.inf, "infinite in IVAR"),
    ],
)
def test_no_data_is_masked_and_counted(tmp_path, where, name, value, reason):
    values = {"image": noise(), "noise": np.ones(SHAPE)}
    values[where][:2] = value
    path = write(tmp_path / "a.fits", hdu(values["image"], "SCI"), hdu(values["noise"], name))
    sentence = rf"a.fits: 56 of 672 pixels have no data \({reason} 56\) and were masked"
    with pytest.warns(FileWarning, match=sentence) as caught:
        obs = Observation.read(path, psf())
    assert len(caught) == 1
    assert (obs.weights[0, :2] == 0).all()
    assert (obs.weights[0, 2:] > 0).all()


def test_zero_weights_are_masked_without_a_word(tmp_path):
    weights = np.ones(SHAPE)
    weights[0] = 0
    image = noise()
    image[0] = np.nan
    path = write(tmp_path / "a.fits", hdu(image, "SCI"), hdu(weights, "IVAR"))
    with pytest.warns(FileWarning, match=r"28 of 672 .*NaN or infinite in the image 28"):
        assert (Observation.read(path, psf()).weights[0, 0] == 0).all()
    path = write(tmp_path / "b.fits", hdu(noise(), "SCI"), hdu(weights, "IVAR"))
    assert (Observation.read(path, psf()).weights[0, 0] == 0).all()


def test_blank_integers_are_no_data(tmp_path):
    image = np.round(10 * noise()).astype(np.int16)
    image[0, 0] = -32768
    path = write(
        tmp_path / "a.fits", hdu(image, "SCI", {"BLANK": -32768}), hdu(np.full(SHAPE, 20.0), "ERR")
    )
    with pytest.warns(FileWarning, match="1 of 672 pixels have no data"):
        obs = Observation.read(path, psf())
    assert obs.weights[0, 0, 0] == 0


def test_both_nan_outside_of_the_footprint(tmp_path):
    image, error = noise(), np.ones(SHAPE)
    image[:5], error[:5] = np.nan, np.nan
    path = write(tmp_path / "a.fits", hdu(image, "SCI"), hdu(error, "ERR"))
    with pytest.warns(FileWarning, match=r"140 of 672 .*\(NaN or infinite in the image 140\)"):
        Observation.read(path, psf())


def test_many_negative_variances_are_refused(tmp_path):
    with pytest.raises(InputError, match="VARIANCE is negative at 672"):
        Observation.read(field(tmp_path / "a.fits", variance=-np.ones(SHAPE)))


def test_one_band_may_be_empty(tmp_path):
    paths = []
    for band in "gr":
        image = noise() if band == "g" else np.full(SHAPE, np.nan)
        paths.append(field(tmp_path / f"{band}.fits", image=image))
    with (
        pytest.warns(FileWarning, match=r"r\.fits: 672 of 672 pixels"),
        pytest.warns(FileWarning, match=r"g\.fits \.\.\.: 100% of band r are masked"),
    ):
        obs = Observation.read(paths)
    assert (obs.weights[1] == 0).all()


# --- exposure times -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "sigma", "cards"),
    [
        (2000.0, 0.002, {"EXPTIME": 2000.0}),
        (1800.0, 0.002, {"EXPTIME": 4000.0}),
        # By chance of the right size for an inverse variance.
        (2000.0, 0.03, {"EXPTIME": 2000.0}),
    ],
)
def test_weights_that_are_exposure_times(tmp_path, seconds, sigma, cards):
    path = write(
        tmp_path / "a.fits",
        hdu(noise(sigma=sigma), "SCI"),
        hdu(np.full(SHAPE, seconds), "WHT"),
        cards=cards,
    )
    with pytest.warns(FileWarning, match=r"a.fits: WHT \(median .*\) is exposure time and no inv"):
        obs = Observation.read(path, psf())
    np.testing.assert_allclose(obs.weights**-0.5, sigma, rtol=0.2)
    obs = Observation.read(path, psf(), noise_kind="ivar")
    np.testing.assert_allclose(obs.weights, seconds)


def test_weights_that_can_not_be_inverse_variances_are_refused(tmp_path):
    path = write(
        tmp_path / "a.fits", hdu(noise(sigma=0.002), "SCI"), hdu(np.full(SHAPE, 2000.0), "WHT")
    )
    with pytest.raises(InputError, match="WHT can be no inverse variance, since it means a deviat"):
        Observation.read(path, psf())
    obs = Observation.read(path, psf(), noise_kind="exposure")
    np.testing.assert_allclose(obs.weights**-0.5, 0.002, rtol=0.2)


def test_weights_in_a_file_of_their_own_are_compared_too(tmp_path):
    path = image_file(tmp_path / "a.fits")
    for name, match in (("n_wht.fits", "can be no inverse variance"), ("n_weight.fits", None)):
        extra = write(tmp_path / name, primary=np.full(SHAPE, 1e4))
        if match is None:
            np.testing.assert_allclose(Observation.read(path, psf(), noise=extra).weights, 1e4)
        else:
            with pytest.raises(InputError, match=match):
                Observation.read(path, psf(), noise=extra)


def test_all_pixels_masked(tmp_path):
    path = field(tmp_path / "a.fits", hdu(np.ones(SHAPE, np.uint8), "MASK"))
    with pytest.raises(
        InputError, match=r"^a.fits: all pixels of all bands are masked; .*--good 1"
    ):
        Observation.read(path)


def test_noise_in_another_hdu_of_the_same_file(tmp_path):
    path = write(tmp_path / "a.fits", hdu(np.full(SHAPE, 4.0)), primary=noise())
    obs = Observation.read(path, psf(), noise=f"{path}[1]", noise_kind="variance")
    np.testing.assert_allclose(obs.weights, 1 / 4)


def test_errors_come_before_weights(tmp_path):
    path = write(
        tmp_path / "a.fits",
        hdu(noise(), "SCI"),
        hdu(np.full(SHAPE, 2000.0), "WHT"),
        hdu(np.full(SHAPE, SIGMA), "ERR"),
    )
    np.testing.assert_allclose(Observation.read(path, psf()).weights, SIGMA**-2)


# --- masks ----------------------------------------------------------------------------------


def bits():
    mask = np.zeros(SHAPE, np.int32)
    mask[:, :4] |= 1 << 5
    mask[0] |= 1 << 1
    mask[1, 1] |= 1 << 12
    return mask


NAMES = {"MP_SAT": 1, "HIERARCH MP_DETECTED": 5, "MP_ODD": 12}
NUMBERED = {"MSKN0000": "SATURATED", "MSKM0000": 2, "MSKN0001": "DETECTED", "MSKM0001": 32}


@pytest.mark.parametrize(
    ("cards", "options", "count"),
    [
        ({}, {"bad_planes": "1"}, 28),
        ({}, {"bad_planes": [1, 12]}, 29),
        ({}, {"bad_planes": 12}, 1),
        ({}, {"good": 0}, 28 + 23 * 4),
        (NAMES, {"bad_planes": "SAT"}, 28),
        (NAMES, {"bad_planes": "sat, odd"}, 29),
        (NAMES, {"bad_planes": ["DETECTED"]}, 96),
        (NUMBERED, {}, 28),
        (NUMBERED, {"bad_planes": "DETECTED"}, 96),
    ],
)
def test_planes_of_masks(tmp_path, cards, options, count):
    path = field(tmp_path / "a.fits", hdu(bits(), "MASK", cards))
    assert np.count_nonzero(Observation.read(path, **options).weights == 0) == count


def test_planes_of_unknown_meaning_are_said(tmp_path):
    path = field(tmp_path / "a.fits", hdu(bits(), "MASK", NAMES))
    sentence = (
        r"MASK\] these were masked: SAT \(28 pixels\); these were not: DETECTED \(96\), ODD \(1\)"
    )
    with pytest.warns(FileWarning, match=sentence):
        obs = Observation.read(path)
    assert np.count_nonzero(obs.weights == 0) == 28


def test_bits_without_names_are_masked_and_said(tmp_path):
    path = field(tmp_path / "a.fits", hdu(bits(), "DQ"))
    sentence = (
        r"all its 120 nonzero pixels were masked \(bit 1 in 28 pixels, bit 5 in 96 .*bad_plan"
    )
    with pytest.warns(FileWarning, match=sentence):
        obs = Observation.read(path)
    assert np.count_nonzero(obs.weights == 0) == 120


@pytest.mark.parametrize(
    ("name", "mask", "said"),
    [
        ("DQ", np.full(SHAPE, 32), r"100% of its pixels are not zero \(bit 5 in 672 pixels\)"),
        ("DQ", np.arange(672).reshape(SHAPE) % 9 * 32, "of its pixels are not zero"),
        ("MASK", np.full(SHAPE, 128), r"100% .* \(bit 7 in 672 pixels\)"),
    ],
)
def test_bits_without_names_over_most_pixels_are_refused(tmp_path, name, mask, said):
    path = field(tmp_path / "a.fits", hdu(mask, name))
    with pytest.raises(InputError, match=said):
        Observation.read(path)


@pytest.mark.parametrize(
    ("cards", "options", "message"),
    [
        (NAMES, {"bad_planes": "CR"}, r"has no plane 'CR'; it has SAT, DETECTED, ODD"),
        ({}, {"bad_planes": "CR"}, r"no plane 'CR'; it has none by name, so give numbers of bits"),
        ({}, {"bad_planes": 64}, "bad_planes has the bit 64; bits go from 0 to 63"),
        ({"MP_SAT": "one"}, {}, "card MP_SAT holds 'one'; give the number of a bit"),
        ({"MSKN0000": "SAT"}, {}, "card MSKM0000 holds None; give the value of one bit"),
        ({"MSKN0000": "SAT", "MSKM0000": 3}, {}, "card MSKM0000 holds 3"),
    ],
)
def test_errors_of_planes(tmp_path, cards, options, message):
    path = field(tmp_path / "a.fits", hdu(bits(), "MASK", cards))
    with pytest.raises(InputError, match=message):
        Observation.read(path, **options)


@pytest.mark.parametrize(
    ("planes", "count"),
    [
        ({"HIERARCH MP_INTRP": 1, "HIERARCH MP_DETECTED": 5}, 28),
        ({"HIERARCH MP_INTRP": 1, "HIERARCH MP_DETECTED": 5, "HIERARCH MP_CLIPPED": 9}, 0),
    ],
)
def test_interpolated_pixels_count_on_single_visits_alone(tmp_path, planes, count):
    mask = bits() & ~(1 << 12)
    obs = Observation.read(field(tmp_path / "a.fits", hdu(mask, "MASK", planes)))
    assert np.count_nonzero(obs.weights == 0) == count


def test_inverted_masks_are_said(tmp_path):
    good = np.ones(SHAPE, np.uint8)
    good[0] = 0
    path = field(tmp_path / "a.fits", hdu(good, "MASK"))
    with pytest.warns(
        FileWarning, match=r"96% of the pixels are masked \(--good 1 if the mask is 1"
    ):
        assert Observation.read(path).num_pixels == 28
    assert Observation.read(path, good=1).num_pixels == 672 - 28


def test_masks_of_floats_and_blank_pixels(tmp_path):
    mask = np.zeros(SHAPE, np.float32)
    mask[0, 0], mask[0, 1] = np.nan, 1
    obs = Observation.read(field(tmp_path / "a.fits", hdu(mask, "MASK")))
    assert np.argwhere(obs.weights[0] == 0).tolist() == [[0, 0], [0, 1]]


def test_highest_bits(tmp_path):
    mask = np.zeros(SHAPE, np.uint32)
    mask[0] = 1 << 31
    path = field(tmp_path / "a.fits", hdu(mask, "MASK"))
    assert Observation.read(path, bad_planes=31).num_pixels == 672 - 28
    assert Observation.read(path, bad_planes=30).num_pixels == 672


def test_command_line_options_of_files(tmp_path):
    from scorepriors.inference.cli._input import READING, take_reading

    empty = dict.fromkeys(READING)
    options = empty | {"noise_files": ("a", "b"), "masks": (), "zero_point": "27,27.5", "other": 1}
    assert take_reading(options) == {"noise": ["a", "b"], "zero_point": [27.0, 27.5]}
    assert options == {"other": 1}
    wrong = empty | {"noise_files": (), "masks": (), "zero_point": "high"}
    with pytest.raises(InputError, match="--zero-point is 'high'; give numbers"):
        take_reading(wrong)


# --- two kinds of noise --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("ERR", SIGMA), ("RMS", SIGMA), ("IVAR", SIGMA**-2)])
def test_another_noise_is_said_where_it_means_something_else(tmp_path, name, value):
    same = field(tmp_path / "a.fits", hdu(np.full(SHAPE, value, np.float32), name))
    np.testing.assert_allclose(Observation.read(same).weights, SIGMA**-2)
    half = value / 2 if name != "IVAR" else value * 4
    other = field(tmp_path / "b.fits", hdu(np.full(SHAPE, half, np.float32), name))
    said = rf"noise is from VARIANCE; {name} beside it means 0.5 times as much"
    with pytest.warns(FileWarning, match=said):
        np.testing.assert_allclose(Observation.read(other).weights, SIGMA**-2)
    chosen = Observation.read(other, noise=f"{other}[{name}]")
    np.testing.assert_allclose(chosen.weights, 4 * SIGMA**-2)


# --- masks that look like those of a pipeline, and masks of npz files ------------------------


def pipeline_mask(high=0):
    """A mask in which most pixels are detected, some saturated, and some from a cosmic ray."""
    mask = np.full(SHAPE, 1 << 5)
    mask[:, 0] |= 1 << 1
    mask[:, 1] |= 1 << 3
    mask[:, 2] |= high
    mask[:, -1] = 0
    return mask


@pytest.mark.parametrize(("high", "masked"), [(0, 48), (1 << 14, 24)], ids=["visit", "coadd"])
def test_a_mask_in_which_most_is_detected(tmp_path, high, masked):
    path = field(tmp_path / "a.fits", hdu(pipeline_mask(high), "MASK"))
    with pytest.warns(FileWarning, match=rf"bit 5, .* is DETECTED .* \({masked} pixels\)"):
        obs = Observation.read(path)
    assert (obs.weights == 0).sum() == masked


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(
        path,
        images=noise()[None],
        variance=np.full((1, *SHAPE), SIGMA**2),
        psfs=psf()[None],
        mask=pipeline_mask(),
    )
    return path


@pytest.mark.parametrize(
    ("options", "masked"),
    [({"bad_planes": "3"}, 24), ({"bad_planes": [1, 3]}, 48), ({"good": 1 << 5}, 72)],
)
def test_options_of_masks_in_npz(archive, options, masked):
    obs = Observation.read(archive, **options)
    assert (obs.weights == 0).sum() == masked


def test_bands_and_zero_point_of_npz(archive):
    obs = Observation.read(archive, bands="r", zero_point=27.0, bad_planes=1)
    assert (obs.bands, obs.zero_point) == (("r",), (27.0,))


def test_options_that_npz_does_not_take(archive):
    with pytest.raises(InputError, match="hdu: options of FITS files"):
        Observation.read(archive, hdu=1)
    arrays = dict(np.load(archive))
    del arrays["mask"]
    np.savez(archive, **arrays)
    with pytest.raises(InputError, match="no array `mask` for good= or bad_planes="):
        Observation.read(archive, good=0)
