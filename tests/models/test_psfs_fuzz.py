"""Cards of PSFs that are missing, wrong or contradict each other: the right PSF, or a sentence."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scorepriors._errors import InputError
from scorepriors.models.data.psfs._read import read_psf
from scorepriors.models.rendering._psf import gaussian_psf

#: The PSF in pixels of the image, and its samples four times finer.
SIGMA, SCALE = 1.6, 0.2
TRUTH = gaussian_psf(SIGMA, 25)
FINE = gaussian_psf(4 * SIGMA, 101)
#: With the response of a whole pixel (variance 1/12) in each sample.
EFFECTIVE = gaussian_psf(4 * np.sqrt(SIGMA**2 + 1 / 12 - 1 / 192), 101)


def psfex():
    size = len(EFFECTIVE)
    masks = np.stack([EFFECTIVE, 0 * EFFECTIVE, 0 * EFFECTIVE]).astype(np.float32)
    column = fits.Column("PSF_MASK", f"{masks.size}E", dim=f"({size},{size},3)", array=masks[None])
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    cards = {"POLNAXIS": 2, "POLGRP1": 1, "POLNAME1": "X_IMAGE", "POLZERO1": 5.0, "POLSCAL1": 9.0}
    cards |= {"POLGRP2": 1, "POLNAME2": "Y_IMAGE", "POLZERO2": 5.0, "POLSCAL2": 9.0}
    cards |= {"POLNGRP": 1, "POLDEG1": 1, "PSF_SAMP": 0.25}
    hdu.header.update(cards)
    return hdu, tuple(cards)


def oversampled():
    hdu = fits.ImageHDU(FINE, name="OVERDIST")
    cards = {"PIXELSCL": SCALE / 4, "OVERSAMP": 4, "FILTER": "r"}
    hdu.header.update(cards)
    return hdu, tuple(cards)


def plain():
    hdu = fits.ImageHDU(TRUTH, name="PSF")
    cards = {"BAND": "r", "PIXSCALE": SCALE, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
    cards |= {"CDELT1": -SCALE / 3600, "CDELT2": SCALE / 3600, "CRVAL1": 150.0, "CRVAL2": 2.0}
    hdu.header.update(cards)
    return hdu, tuple(cards)


def grid():
    hdu = fits.ImageHDU(np.stack([EFFECTIVE] * 4), name="GRID")
    cards = {f"DET_YX{i}": f"({y}.0, {x}.0)" for i, (y, x) in enumerate(np.ndindex(2, 2))}
    cards |= {"OVERSAMP": 4, "FILTER": "r"}
    hdu.header.update(cards)
    return hdu, tuple(cards)


WRONG = st.one_of(
    st.none(),
    st.sampled_from(["", "x", "NaN", "4 px", "(1, 2", "r", "-", "RA---XYZ"]),
    st.integers(-3, 3),
    st.sampled_from([0.0, -1.0, 1e-30, 1e30, 0.25, 1.0, 3.0]),
    st.booleans(),
)

#: Cards whose wrong values are as good as right ones.
PLAUSIBLE = {"PSF_SAMP", "POLZERO1", "POLZERO2", "POLSCAL1", "POLSCAL2", "OVERSAMP"}


@pytest.mark.parametrize("make", [psfex, oversampled, plain, grid])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_cards_of_psfs(make, data):
    hdu, cards = make()
    changed = data.draw(st.dictionaries(st.sampled_from(cards), WRONG, min_size=0, max_size=2))
    for card, value in changed.items():
        if value is None:
            del hdu.header[card]
        else:
            hdu.header[card] = value
    found, said = read(hdu)
    if isinstance(found, InputError):
        assert str(found).endswith(".")
        return
    assert np.isfinite(found).all()
    size = min(len(found), len(TRUTH))
    found, truth = (
        image[(edge := (len(image) - size) // 2) : edge + size, edge : edge + size]
        for image in (found, TRUTH / TRUTH.sum())
    )
    if np.abs(found - truth).max() > 0.01 * truth.max():
        # A number that is plausible by itself can't be known to be wrong.
        assert said or PLAUSIBLE & set(changed), changed


def read(hdu):
    """The PSF, or the error, and what was said."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        path = Path(folder) / "p.fits"
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
        said.clear()
        try:
            return read_psf(path, bands=("r",), place=(0.5, 0.5), pixel_scale=SCALE)[0], said
        except InputError as error:
            return error, said


def test_the_unchanged_ones_are_right():
    for make in (psfex, oversampled, plain, grid):
        found, _ = read(make()[0])
        edge = (len(found) - 25) // 2
        found = found[edge : edge + 25, edge : edge + 25]
        np.testing.assert_allclose(found, TRUTH, atol=0.01 * TRUTH.max())
