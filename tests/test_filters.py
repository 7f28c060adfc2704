"""Wavelengths of filters by the names that headers and file names give them."""

import pytest

from scorepriors._filters import WAVELENGTHS, wavelength


@pytest.mark.parametrize(
    ("band", "found"),
    [
        # Letters alone, as in the LSST and in Euclid.
        ("u", 367),
        ("R", 622),
        ("Y", 1081),
        ("y", 971),
        ("VIS", 715),
        ("Ks", 2150),
        ("LSST_r", 622),
        ("lsst-y", 971),
        # Letters of a survey.
        ("HSC-G", 479),
        ("HSC-R2", 621),
        ("HSC-I2", 770),
        ("HSC-Y", 976),
        ("ZTF_g", 477),
        ("ztf.zr", 640),
        ("r DECam SDSS c0002 6415.0 1480.0", 642),
        ("DES Y", 988),
        ("SDSS_u", 359),
        ("r_SDSS", 618),
        ("g.00000 PS1", 485),
        ("PS1 y", 963),
        ("i.MP9702", 755),
        ("CFHT i", 768),
        ("2MASS J", 1235),
        ("VISTA_Y", 1021),
        ("UKIDSS-K", 2206),
        ("NIR_H", 1771),
        ("Euclid VIS", 715),
        ("GALEX NUV", 230),
        # WISE and Spitzer.
        ("W1", 3368),
        ("W4", 22194),
        ("unWISE w2", 4618),
        ("IRAC1", 3551),
        ("IRAC 3", 5725),
        ("ch2", 4496),
        ("rp", 622),
        ("SkyMapper v", 384),
        ("ACS_WFC_F814W", 806),
        # Johnson and Cousins.
        ("V", 548),
        ("Bessell B", 437),
        # Hubble.
        ("F225W", 237),
        ("F435W", 433),
        ("F606W", 592),
        ("F814W", 806),
        ("F850LP", 904),
        ("F098M", 986),
        ("F105W", 1050),
        ("F126N", 1260),
        ("F160W", 1537),
        ("F502N", 502),
        ("F763M", 763),
        ("F814W;CLEAR2L", 806),
        ("WFC3/UVIS F410M", 410),
        # Webb and Roman.
        ("F070W", 700),
        ("F200W", 1988),
        ("f444w-clear", 4402),
        ("F410M", 4100),
        ("F470N", 4700),
        ("F150W2-F162M", 1620),
        ("F322W2/F323N", 3230),
        ("F560W", 5635),
        ("F1130W", 11300),
        ("F2550W", 25364),
        ("F158", 1580),
        # Narrow and medium filters.
        ("N921", 921),
        ("NB0387", 387),
        ("NB1010", 1010),
        ("HSC NB921", 921),
        ("NB118", 1180),
        ("N419", 419),
        ("M464", 464),
        ("IA527", 527),
        ("IB0945", 945),
        ("J0660", 660),
    ],
)
def test_names_of_filters(band, found):
    assert wavelength(band) == found


@pytest.mark.parametrize(
    "band", ["", "a", "narrow", "band0", "CLEAR", "M101", "N5128", "F12", "FX814W"]
)
def test_unknown_names_have_no_wavelength(band):
    assert wavelength(band) is None


def test_letters_rise_from_blue_to_red():
    assert list(WAVELENGTHS.values()) == sorted(WAVELENGTHS.values())
