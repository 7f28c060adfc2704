"""Headers and pixels that are wrong: a right result or one sentence, never another number."""

import io
import warnings

import numpy as np
import pytest
from astropy.io import fits
from fits_files import SHAPE, SIGMA, hdu, noise, psf, wcs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning

#: Nanojanskys of one unit of a pixel, pixels of the WCS and bands of the files below.
NANOJANSKY, SCALE, BAND = 57.544, 0.2, "r"

#: Cards of a right header.
CARDS = {
    **{card: value for card, value in wcs().to_header().items() if card != "WCSAXES"},
    "BUNIT": "adu",
    "MAGZERO": 27.0,
    "FILTER": BAND,
    "EXPTIME": 100.0,
}

#: Texts of cards that say nothing: no numbers, NaN, infinities and damaged ones.
WRONG = [
    "'INDEF'",
    "'none'",
    "''",
    "'see log'",
    "NaN",
    "T",
    "1E999",
    "(1.0, 2.0)",
    "'a",
    "1.2.3",
    "",
]

FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def card_text(card, value):
    """The 80 characters of a card with a text in place of its value."""
    return f"{card:8s}= {value:>20s}".ljust(80)


def write(path, cards, raw=(), image=None, error=None, **more):
    """Write a file; `raw` has cards whose text is `raw`'s, whatever FITS allows."""
    header = fits.Header({**cards, **{card: 1.0 for card, _ in raw}})
    image = noise() if image is None else image
    error = np.full(SHAPE, SIGMA) if error is None else error
    hdus = [fits.PrimaryHDU(), hdu(image, "SCI", header), hdu(error, "ERR"), hdu(psf(), "PSF")]
    hdus += [hdu(data, name) for name, data in more.items()]
    stream = io.BytesIO()
    fits.HDUList(hdus).writeto(stream)
    content = stream.getvalue()
    for card, value in raw:
        at = content.index(f"{card:8s}=".encode(), 2880)
        content = content[:at] + card_text(card, value).encode() + content[at + 80 :]
    path.write_bytes(content)
    return path


def read(path, damaged=False, **options):
    """Return the observation and the sentences; an error that is no sentence fails.

    That a file cannot be read, whatever the reason, is a sentence for damaged ones alone.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            obs = Observation.read(path, **options)
        except InputError as error:
            obs, sentence = None, str(error)
    if obs is None:
        assert_sentence(sentence)
        assert damaged or f"{path.name} cannot be read" not in sentence
        return None, []
    for warning in caught:
        assert issubclass(warning.category, FileWarning), warning.message
        assert_sentence(str(warning.message))
    return obs, [str(warning.message) for warning in caught]


def assert_sentence(text):
    assert "\n" not in text
    assert text.endswith(".")


def assert_right(obs, said):
    """What is known is right; what is not known any more is not made up."""
    unit, factor = obs.flux_unit
    if unit == "nJy":
        np.testing.assert_allclose(factor, NANOJANSKY, rtol=1e-3)
    else:
        assert obs.magnitudes([1.0]) is None
    if obs.wcs is not None:
        assert obs.pixel_scale == pytest.approx(SCALE, rel=1e-6)
        place = obs.wcs.pixel_to_world(13.5, 11.5)
        assert (place.ra.deg, place.dec.deg) == (pytest.approx(150), pytest.approx(2))
    assert obs.bands in ((BAND,), ("a",), ("see log",))
    used = obs.weights > 0
    np.testing.assert_array_equal(obs.images[used], noise()[None][used])
    np.testing.assert_allclose(obs.weights[used], SIGMA**-2, rtol=1e-6)


@FUZZ
@given(st.sets(st.sampled_from(sorted(CARDS)), min_size=1, max_size=4))
def test_cards_missing(tmp_path, missing):
    cards = {card: value for card, value in CARDS.items() if card not in missing}
    obs, said = read(write(tmp_path / "a.fits", cards))
    if obs is not None:
        assert_right(obs, said)


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from(sorted({*CARDS, "PIXAR_SR", "PHOTFLAM", "PHOTPLAM", "PIXSCALE", "ZP"})),
        st.sampled_from(WRONG),
        min_size=1,
        max_size=3,
    )
)
def test_cards_of_a_wrong_type(tmp_path, wrong):
    obs, said = read(write(tmp_path / "a.fits", CARDS, tuple(wrong.items())))
    if obs is None:
        return
    assert_right(obs, said)
    # A number that is lost is never lost without a word.
    lost = {"MAGZERO", "CRVAL1", "CRVAL2", "CRPIX1", "CDELT2"} & set(wrong)
    assert said or not lost


@FUZZ
@given(
    st.sampled_from(["nJy", "uJy", "Jy", "nanomaggy", "10 nJy", "mJy", "maggy"]),
    st.sampled_from(["MAGZERO", "MAGZERO1", "MAGZP", "ZP", "ABZP", "PHOTZP", "MAGZPT"]),
    st.floats(15, 35).filter(lambda zero: abs(zero - 31.4) > 0.02),
)
def test_units_that_contradict_a_zero_point(tmp_path, unit, card, zero):
    cards = {k: v for k, v in CARDS.items() if k != "MAGZERO"} | {"BUNIT": unit, card: zero}
    path = write(tmp_path / "a.fits", cards)
    meant = {"nJy": 31.4, "uJy": 23.9, "Jy": 8.9, "nanomaggy": 22.5, "10 nJy": 28.9, "mJy": 16.4}
    away = abs(zero - meant.get(unit, 0.0))
    if away > 0.02:
        with pytest.raises(InputError, match="means a zero point of"):
            Observation.read(path)
    elif away < 0.005:
        assert read(path)[0] is not None


@FUZZ
@given(
    st.lists(
        st.tuples(st.sampled_from(["MAGZERO", "ABZP", "MAGZP", "ZP"]), st.floats(20, 30)),
        min_size=2,
        max_size=3,
        unique_by=lambda pair: pair[0],
    )
)
def test_zero_points_that_contradict_each_other(tmp_path, pairs):
    cards = {k: v for k, v in CARDS.items() if k != "MAGZERO"} | dict(pairs)
    obs, _ = read(write(tmp_path / "a.fits", cards))
    values = [zero for _, zero in pairs]
    if max(values) - min(values) > 0.03:
        assert obs is None
    elif obs is not None:
        assert values[0] == pytest.approx(obs.zero_point[0], abs=0.03)


SPECIAL = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30, 1e38, -1e30])


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, 23), st.integers(0, 27), SPECIAL), max_size=6),
    st.lists(st.tuples(st.integers(0, 23), st.integers(0, 27), SPECIAL), max_size=6),
)
def test_pixels_without_data(tmp_path, in_image, in_noise):
    image, error = noise(), np.full(SHAPE, SIGMA)
    bad = set()
    for row, column, value in in_image:
        if not np.isfinite(value) or abs(value) >= 1e30:
            image[row, column] = value
            bad.add((row, column))
    for row, column, value in in_noise:
        error[row, column] = value
        bad.add((row, column))
    obs, said = read(write(tmp_path / "a.fits", CARDS, image=image, error=error))
    assert {(row, column) for _, row, column in np.argwhere(obs.weights == 0)} == bad
    assert bool(said) == bool(bad)
    assert_right(obs, said)


@FUZZ
@given(
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5),
    st.dictionaries(st.sampled_from(["MP_BAD", "MP_SAT", "MP_X"]), st.integers(-2, 70), max_size=3),
)
def test_masks_of_any_bits(tmp_path, values, planes):
    mask = np.zeros(SHAPE, np.int32)
    mask.flat[: len(values)] = values
    path = write(tmp_path / "a.fits", CARDS, MASK=mask)
    with fits.open(path, mode="update") as hdus:
        hdus["MASK"].header.update(planes)
    obs, said = read(path)
    if obs is None:
        assert any(not 0 <= bit < 64 for bit in planes.values())
        return
    assert_right(obs, said)
    bits = [bit for plane, bit in planes.items() if plane != "MP_X"]
    expected = mask != 0
    if planes:
        expected = np.any([(mask.astype(np.int64) >> bit) & 1 for bit in [*bits, 63]], axis=0)
    np.testing.assert_array_equal(obs.weights[0] == 0, expected)


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from(["MAGZERO", "FLUXMAG0", "MAGZP", "BUNIT", "BSOFTEN", "BOFFSET", "EXPTIME"]),
        st.sampled_from([*WRONG, "0", "-3"]),
        max_size=3,
    ),
    st.sampled_from(
        [
            {"BSOFTEN": 1.0, "BOFFSET": 0.0, "HIERARCH FPA.FILTERID": "r.00000"},
            {"TELESCOP": "JWST", "BUNIT": "MJy/sr", "PIXAR_SR": 1e-14},
            {"TELESCOP": "HST", "PHOTFLAM": 1e-20, "PHOTPLAM": 8000.0, "BUNIT": "ELECTRONS/S"},
            {"INSTRUME": "HSC", "FLUXMAG0": 63095734448.0194},
            {"PROGRAM": "ZTF", "FILTER": "ZTF_r", "MAGZP": 26.0},
            {"NMGY": 0.005, "SURVEY": "ugriz", "CAMCOL": 3},
        ]
    ),
)
def test_headers_of_products(tmp_path, wrong, product):
    cards = {k: v for k, v in CARDS.items() if k not in product and k not in wrong}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)
        path = write(tmp_path / "a.fits", {**cards, **product}, tuple(wrong.items()))
    read(path)


@FUZZ
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "zero_point": st.sampled_from([27, "27", np.nan, [1, 2], None, "x"]),
            "bands": st.sampled_from(["g", ["g"], "g,r", ""]),
            "hdu": st.sampled_from(["SCI", 1, "1", 99, "ERR,7", "", "SCI,1"]),
            "good": st.sampled_from([0, 1, -1]),
            "bad_planes": st.sampled_from(["", "SAT", 3, -1, [70]]),
            "position": st.sampled_from([(150.0, 2.0), (0, 0), "x", (1, 2, 3), (np.inf, 2)]),
            "size": st.sampled_from([2.0, 0, "x", 1e9]),
            "noise_kind": st.sampled_from(["variance", "ivar", "exposure", "x"]),
        },
    )
)
def test_any_options(tmp_path, options):
    path = write(tmp_path / "a.fits", CARDS, MASK=np.zeros(SHAPE, np.uint8))
    obs, _ = read(path, **options)
    if obs is not None:
        row, column = obs.corner
        height, width = obs.shape
        part = noise()[row : row + height, column : column + width]
        used = obs.weights[0] > 0
        np.testing.assert_array_equal(obs.images[0][used], part[used])


@settings(FUZZ, max_examples=40)
@given(st.integers(0, 100000), st.binary(min_size=1, max_size=8))
def test_bytes_overwritten_in_headers(tmp_path, at, content):
    path = write(tmp_path / "a.fits", CARDS)
    whole = bytearray(path.read_bytes())
    at = 2880 + at % (2 * 2880)  # of the image's header
    whole[at : at + len(content)] = content
    path.write_bytes(bytes(whole))
    read(path, damaged=True)
