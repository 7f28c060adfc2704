"""Units and zero points as headers have them."""

import numpy as np
import pytest
from astropy.io import fits
from fits_files import SHAPE, field, hdu, noise, psf, wcs, write

from scorepriors._errors import InputError
from scorepriors.models.data._checks import parse_unit
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning

PIXAR_SR = 2.29e-14


@pytest.mark.parametrize(
    ("word", "unit"),
    [
        *((word, "adu") for word in ("ADU", "adu")),
        *((word, "ct") for word in ("counts", "COUNTS", "cts")),
        *((word, "ct / s") for word in ("counts/s", "COUNTS/SEC", "ct/s", "cps", "counts/second")),
        *((word, "electron") for word in ("ELECTRONS", "electron", "e-")),
        *(
            (word, "electron / s")
            for word in ("ELECTRONS/S", "electron/s", "e-/s", "e/s", "e-/sec")
        ),
        *((word, "nmgy") for word in ("nanomaggies", "nanomaggy", "nmgy", "NANOMAGGIES")),
        *((word, "uJy") for word in ("uJy", "microJy", "muJy", "ujy", "microJansky", "UJY")),
        *((word, "10 nJy") for word in ("10nJy", "10*nJy", "10.0*nanoJansky")),
        *((word, "nJy") for word in ("nJy", "nJy/pixel", "NJY", "nanojansky")),
        *((word, "MJy / sr") for word in ("MJy/sr", "MJY/SR", "MJy sr-1", "MJy.sr-1")),
        ("DN/s", "DN / s"),
        ("mJy", "mJy"),
        ("Jy/pix", "Jy"),
    ],
)
def test_spellings_of_units(word, unit):
    assert parse_unit(word).to_string() == unit


@pytest.mark.parametrize("word", ["MJY", "mjy", "flux", "NORMALIZED"])
def test_ambiguous_words_are_no_units(word):
    # All in small letters or capitals the m is milli or mega.
    assert type(parse_unit(word)).__name__ == "UnrecognizedUnit"


#: Cards, and nanojanskys of one unit of a pixel.
ROWS = [
    ({"BUNIT": "nJy"}, 1),
    ({"BUNIT": "nJy", "MAGZERO": 31.4}, 1),
    ({"BUNIT": "uJy"}, 1e3),
    ({"BUNIT": "10.0*nanoJansky"}, 10),
    ({"BUNIT": "nanomaggy"}, 3630.78),
    ({"BUNIT": "nanomaggies", "MAGZERO": 22.5}, 3630.78),
    ({"BUNIT": "MJy/sr", "PIXAR_SR": PIXAR_SR}, PIXAR_SR * 1e15),
    ({"BUNIT": "MJy/sr", "PIXAR_A2": PIXAR_SR / 2.350443e-11}, PIXAR_SR * 1e15),
    ({"BUNIT": "MJy/sr", "PIXSCALE": 0.2}, 0.04 * 2.350443e-11 * 1e15),
    ({"BUNIT": "MJy/sr", "MAGZERO": 28.0865}, 21.154),
    ({"BUNIT": "erg/s/cm2/Angstrom", "PHOTPLAM": 8000.0}, 8000**2 / 2.99792458e18 * 1e32),
    ({"BUNIT": "ADU", "MAGZERO": 27.0}, 57.544),
    ({"MAGZERO": "27.0"}, 57.544),
    ({"FLUXMAG0": 63095734448.0194}, 57.544),
    ({"ABZP": 27.0}, 57.544),
    ({"ZPAB": 27.0}, 57.544),
    ({"BUNIT": "ELECTRONS/S", "PHOTFLAM": 7e-20, "PHOTPLAM": 8000.0}, 149.4),
    ({"BUNIT": "e-/s", "PHOTFLAM": 7e-20, "PHOTPLAM": 8000.0}, 149.4),
    ({"BUNIT": "ELECTRONS", "PHOTFLAM": 7e-20, "PHOTPLAM": 8000.0, "EXPTIME": 100.0}, 1.494),
]


@pytest.mark.parametrize(("cards", "nanojansky"), ROWS)
def test_units_and_zero_points(tmp_path, cards, nanojansky):
    obs = Observation.read(field(tmp_path / "a.fits", cards=cards))
    unit, factor = obs.flux_unit
    assert unit == "nJy"
    np.testing.assert_allclose(factor, nanojansky, rtol=1e-3)
    magnitude = 31.4 - 2.5 * np.log10(1000 * nanojansky)
    assert obs.magnitudes([1000.0])[0] == pytest.approx(magnitude, abs=2e-3)


def test_surface_brightness_by_the_wcs(tmp_path):
    header = wcs(scale=0.1).to_header()
    header["BUNIT"] = "MJy/sr"
    obs = Observation.read(field(tmp_path / "a.fits", cards=header))
    np.testing.assert_allclose(obs.flux_unit[1], 0.01 * 2.350443e-11 * 1e15, rtol=1e-3)


def test_the_area_on_a_camera_is_not_that_of_a_mosaic(tmp_path):
    header = wcs(scale=0.03).to_header()
    header["BUNIT"], header["PIXAR_SR"] = "nJy", 9.3e-14  # of the pixels of NIRCam's long waves
    assert Observation.read(field(tmp_path / "a.fits", cards=header)).flux_unit == ("nJy", 1.0)


def test_maggies_of_vega_are_not_of_ab(tmp_path):
    path = field(tmp_path / "a.fits", cards={"BUNIT": "nanomaggy", "MAGSYS": "Vega"})
    with pytest.raises(InputError, match="MAGSYS says 'Vega', so maggies are not those of AB"):
        Observation.read(path)
    with pytest.warns(FileWarning, match="contradicts the unit nmgy, which was left out"):
        assert Observation.read(path, zero_point=25.2).zero_point == (25.2,)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"CTYPE3": "VELO"}, r"third axis of the image is VELO \(card CTYPE3\), no bands"),
        ({"CTYPE3": "STOKES"}, r"third axis of the image is STOKES \(card CTYPE3\), no bands"),
        (
            {"TELESCOP": "JWST", "FILTER": "F444W"},
            "the 5 planes of this JWST image are integrations",
        ),
    ],
)
def test_planes_that_are_no_bands(tmp_path, cards, message):
    path = field(tmp_path / "a.fits", cards=cards)
    with fits.open(path, mode="update") as hdus:
        for hdu in hdus:
            if isinstance(hdu.data, np.ndarray) and hdu.data.ndim >= 2 and hdu.name != "PSF":
                hdu.data = np.stack([hdu.data.reshape(hdu.data.shape[-2:])] * 5)
    with pytest.raises(InputError, match=message):
        Observation.read(path)
    with pytest.warns(FileWarning, match="one PSF for all of the bands a, b, c, d, e"):
        named = Observation.read(path, bands=tuple("abcde"))
    assert named.num_bands == 5  # who names them knows


@pytest.mark.parametrize(
    "card", ["MAGZP", "MAGZPT", "MAG_ZP", "PHOTZP", "ZP", "ZEROPT", "SEXMGZPT"]
)
def test_other_cards_are_taken_and_said(tmp_path, card):
    path = field(tmp_path / "a.fits", cards={card: 27.0, "BUNIT": "DN"})
    with pytest.warns(FileWarning, match=f"zero point 27 of the card {card} was taken as the AB"):
        assert Observation.read(path).zero_point == (27.0,)
    assert Observation.read(path, zero_point=25.0).zero_point == (25.0,)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"BUNIT": "nanomaggy", "MAGZERO": 30.0}, "nmgy means a zero point of 22.50, but the card"),
        (
            {"BUNIT": "uJy", "MAGZERO": 27.0},
            "uJy means a zero point of 23.90, but the card MAGZERO",
        ),
        ({"BUNIT": "nJy", "ZP": 27.0}, "nJy means a zero point of 31.40, but the card ZP is 27"),
        ({"BUNIT": "nJy", "MAGZERO1": 27.0}, "nJy means a zero point of 31.40, but the card"),
        ({"BUNIT": "MJy/sr", "PIXAR_SR": 1e-14, "MAGZERO": 27.0}, "MJy / sr means a zero point"),
        (
            {"MAGZERO": 27.0, "FLUXMAG0": 1e9},
            "cards MAGZERO and FLUXMAG0 mean zero points of 27.000",
        ),
        ({"ZP": 27.0, "MAGZP": 26.0}, r"several zero points \(MAGZP 26, ZP 27\); say which"),
        ({"MAGZERO": "high"}, "card MAGZERO holds 'high'; give a number"),
        ({"MAGZERO": True}, "card MAGZERO holds True; give a number"),
        ({"FLUXMAG0": -1.0}, "card FLUXMAG0 holds -1"),
        ({"BUNIT": "mag"}, "pixels are in mag, a logarithm"),
        ({"BUNIT": "mag(AB)"}, r"pixels are in mag\(AB\), a logarithm"),
        ({"BUNIT": "ELECTRONS", "PHOTFLAM": 1e-20, "PHOTPLAM": 8000.0}, "EXPTIME is missing"),
        ({"PIXSCALE": "small"}, "card PIXSCALE holds 'small'"),
        ({"PIXSCALE": -0.2}, "PIXSCALE holds -0.2"),
    ],
)
def test_contradictions_are_refused(tmp_path, cards, message):
    path = field(tmp_path / "a.fits", cards=cards)
    with pytest.raises(InputError, match=f"^a.fits: .*{message}"):
        Observation.read(path)


def test_too_few_zero_points(tmp_path):
    cube = np.stack([noise()] * 3)
    path = field(tmp_path / "a.fits", image=cube, cards={"MAGZERO1": 27.0, "MAGZERO2": 27.1})
    with pytest.raises(InputError, match=r"2 card\(s\) MAGZERO1 to MAGZERO2 for 3 band"):
        Observation.read(path)
    obs = Observation.read(path, zero_point=[25, 26, 27])
    assert obs.zero_point == (25.0, 26.0, 27.0)


def test_zero_points_counted_from_nought(tmp_path):
    cube = np.stack([noise()] * 2)
    path = field(tmp_path / "a.fits", image=cube, cards={"MAGZERO0": 27.0, "MAGZERO1": 27.1})
    assert Observation.read(path).zero_point == (27.0, 27.1)


def test_a_given_zero_point_overrules_the_unit_and_says_so(tmp_path):
    path = field(tmp_path / "a.fits", cards={"BUNIT": "nanomaggy", "MAGZERO": 30.0})
    with pytest.warns(FileWarning, match="zero point 30 that was given contradicts the unit nmgy"):
        obs = Observation.read(path, zero_point=30)
    assert (obs.unit, obs.zero_point) == (None, (30.0,))


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"BUNIT": "flux"}, "unit 'flux' is not known"),
        ({"BUNIT": "MJy/sr"}, "MJy / sr is no flux of a pixel without the area of a pixel"),
        ({"BUNIT": "Jy/beam"}, "Jy / beam is no flux of a pixel without the area of the beam"),
        ({"BUNIT": "erg/s/cm2/Angstrom"}, "without the pivot wavelength"),
        ({"MAGZERO": "INDEF"}, "no zero point comes from the card MAGZERO, which is 'INDEF'"),
        ({"MAGZP": "none"}, "no zero point comes from the card MAGZP, which is 'none'"),
        ({"PHOTFLAM": -1.0, "PHOTPLAM": 8000.0}, "no zero point comes from the card PHOTFLAM"),
        ({"PHOTFLAM": 1e-20}, "no zero point comes from the card PHOTFLAM"),
        ({"BUNIT": "-1"}, "unit '-1' is not known"),
    ],
)
def test_what_lacks_for_magnitudes_is_said(tmp_path, cards, message):
    path = field(tmp_path / "a.fits", cards=cards)
    with pytest.warns(FileWarning, match=message):
        obs = Observation.read(path)
    assert obs.magnitudes([1.0]) is None


@pytest.mark.parametrize("word", ["ADU", "DN/s", "cps", "ELECTRONS", "none", "1"])
def test_counts_have_no_magnitudes(tmp_path, word):
    obs = Observation.read(field(tmp_path / "a.fits", cards={"BUNIT": word}))
    assert obs.magnitudes([1.0]) is None


@pytest.mark.parametrize(
    ("unit", "factor"), [("uJy", 1e3), ("nJy", 1.0), ("flux", 1.0), (None, 1.0)]
)
def test_units_of_the_noise(tmp_path, unit, factor):
    error = hdu(np.ones(SHAPE), "ERR", {} if unit is None else {"BUNIT": unit})
    path = write(tmp_path / "a.fits", hdu(noise(), "SCI", {"BUNIT": "nJy"}), error)
    np.testing.assert_allclose(Observation.read(path, psf()).weights, factor**-2, rtol=1e-6)


@pytest.mark.parametrize(
    ("image", "name", "unit"),
    [
        ("ELECTRONS/S", "ERR", "ELECTRONS"),
        ("ELECTRONS", "ERR", "ADU"),
        ("nJy", "VAR", "K"),
        ("nJy", "ERR", "1/nJy"),
    ],
)
def test_noise_of_another_unit_is_refused(tmp_path, image, name, unit):
    error = hdu(np.ones(SHAPE), name, {"BUNIT": unit})
    path = write(tmp_path / "a.fits", hdu(noise(), "SCI", {"BUNIT": image}), error)
    with pytest.raises(InputError, match=rf"a.fits: {name} is in .* and the image in .*BUNIT"):
        Observation.read(path, psf())


@pytest.mark.parametrize(
    ("image", "name", "unit"),
    [
        ("counts", "ERR", "ADU"),
        ("DN/s", "VAR", "counts2/s2"),
        ("DN", "VAR", "adu"),
        ("nJy", "IVAR", "1/nJy"),
        ("nJy", "ERR", "UNITLESS"),
    ],
)
def test_loose_units_of_the_noise_go(tmp_path, image, name, unit):
    error = hdu(np.full(SHAPE, 1.0), name, {"BUNIT": unit})
    path = write(tmp_path / "a.fits", hdu(noise(), "SCI", {"BUNIT": image}), error)
    np.testing.assert_allclose(Observation.read(path, psf()).weights, 1.0)


def test_noise_with_a_unit_and_an_image_without(tmp_path):
    error = hdu(np.ones(SHAPE), "ERR", {"BUNIT": "uJy"})
    path = write(tmp_path / "a.fits", hdu(noise(), "SCI"), error)
    with pytest.raises(InputError, match=r"a.fits: ERR is in uJy, but the image has no unit"):
        Observation.read(path, psf())
    variance = hdu(np.ones(SHAPE), "VAR", {"BUNIT": "uJy"})
    write(path, hdu(noise(), "SCI", {"BUNIT": "nJy"}), variance)
    with pytest.raises(InputError, match="VAR is in uJy and the image in nJy: bring both to one"):
        Observation.read(path, psf())


def test_bands_of_other_units(tmp_path):
    values = {"a": ("nJy", 31.4), "b": ("uJy", 23.9), "c": ("ADU", 27.0)}
    for name, (unit, zero) in values.items():
        field(tmp_path / f"{name}.fits", cards={"BUNIT": unit, "MAGZERO": zero})
    paths = [tmp_path / f"{name}.fits" for name in values]
    obs = Observation.read(paths[:2])
    assert obs.unit == "nJy"
    np.testing.assert_allclose(obs.flux_unit[1], 1, rtol=1e-3)
    np.testing.assert_allclose(obs.images[1], 1000 * obs.images[0], rtol=1e-3)
    mixed = Observation.read(paths)
    assert mixed.unit is None
    np.testing.assert_allclose(mixed.flux_unit[1], [1, 1000, 57.544], rtol=1e-3)


def test_texts_of_loose_cards_are_said(tmp_path):
    path = field(tmp_path / "a.fits", cards={"ZP": "see paper"})
    with (
        pytest.warns(FileWarning, match="card ZP holds 'see paper', which is no zero point"),
        pytest.warns(FileWarning, match="no zero point comes from the card ZP"),
    ):
        assert Observation.read(path).zero_point is None


@pytest.mark.parametrize("system", ["MAGSYS", "PHOTSYS", "ZPSYS"])
@pytest.mark.parametrize("card", ["MAGZP", "MAGZERO"])
def test_vega_magnitudes_are_no_zero_point(tmp_path, system, card):
    path = field(tmp_path / "a.fits", cards={"BUNIT": "adu", card: 25.0, system: "VEGAMAG"})
    with pytest.warns(FileWarning, match=rf"{system} says 'VEGAMAG', so {card} was not used"):
        assert Observation.read(path).zero_point is None
    assert Observation.read(path, zero_point=25.9).zero_point == (25.9,)


def test_a_zero_point_in_ab_beside_one_of_vega(tmp_path):
    cards = {"BUNIT": "adu", "MAGZERO": 25.0, "ABZP": 25.9, "MAGSYS": "Vega"}
    path = field(tmp_path / "a.fits", cards=cards)
    with pytest.warns(FileWarning, match="so MAGZERO was not used"):
        assert Observation.read(path).zero_point == (25.9,)
