"""NDData and CCDData follow the rules of files."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    Cutout2D,
    InverseVariance,
    NDData,
    NDDataRef,
    StdDevUncertainty,
    VarianceUncertainty,
)
from fits_files import SHAPE, SIGMA, noise, psf, wcs

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning


def error(value=SIGMA, **options):
    return StdDevUncertainty(np.full(SHAPE, value), **options)


def read(images, **options):
    count = len(images) if isinstance(images, list) else 1
    return Observation.from_nddata(images, np.stack([psf()] * count), **options)


@pytest.mark.parametrize(
    ("uncertainty", "unit"),
    [
        (error(), "nJy"),
        (error(SIGMA / 1e3, unit="uJy"), "nJy"),
        (VarianceUncertainty(np.full(SHAPE, SIGMA**2)), "nJy"),
        (VarianceUncertainty(np.full(SHAPE, SIGMA**2), unit="nJy2"), "nJy"),
        (InverseVariance(np.full(SHAPE, SIGMA**-2)), "nJy"),
        (StdDevUncertainty(SIGMA), "nJy"),
    ],
)
def test_uncertainties(uncertainty, unit):
    obs = read(NDData(noise(), unit=unit, uncertainty=uncertainty))
    np.testing.assert_allclose(obs.weights, SIGMA**-2, rtol=1e-6)
    assert obs.unit == unit


@pytest.mark.parametrize(
    ("meta", "band", "nanojansky"),
    [
        ({"FILTER": "r", "MAGZERO": 27.0}, "r", 57.544),
        ({"BAND": "r", "FLUXMAG0": 63095734448.0194}, "r", 57.544),
        (fits.Header({"FILTER1": "CLEAR1L", "FILTER2": "F814W", "MAGZERO": 27.0}), "F814W", 57.544),
        ({"FILTER": "CLEAR", "PUPIL": "F115W", "MAGZERO": 31.4, "x": [1]}, "F115W", 1),
        (
            {"FILTER": "g DECam SDSS c0001 4720.0 1520.0", "long name": 1, "MAGZERO": 30},
            "g",
            3.6308,
        ),
    ],
)
def test_metadata(meta, band, nanojansky):
    obs = read(CCDData(noise(), unit="adu", uncertainty=error(), meta=meta))
    assert obs.bands == (band,)
    np.testing.assert_allclose(obs.flux_unit[1], nanojansky, rtol=1e-3)


def test_surface_brightness():
    ccd = CCDData(noise(), unit="MJy/sr", uncertainty=error(), wcs=wcs(0.1))
    obs = read(ccd)
    np.testing.assert_allclose(obs.flux_unit[1], 0.01 * 2.350443e-11 * 1e15, rtol=1e-3)


def test_no_data_is_masked_and_said():
    image = noise()
    image[0] = np.nan
    with pytest.warns(FileWarning, match=r"image 0: 28 of 672 pixels have no data"):
        obs = read(CCDData(image, unit="nJy", uncertainty=error()))
    assert (obs.weights[0, 0] == 0).all()
    mask = np.isnan(image)
    obs = read(CCDData(image, unit="nJy", uncertainty=error(), mask=mask))
    assert obs.num_pixels == 672 - 28


def test_masks_of_bits():
    mask = np.zeros(SHAPE, int)
    mask[0], mask[1] = 32, 2
    with pytest.warns(FileWarning, match="the mask of image 0 is a bit mask without names"):
        assert read(NDData(noise(), uncertainty=error(), mask=mask)).num_pixels == 672 - 56
    obs = read(NDData(noise(), uncertainty=error(), mask=np.ma.nomask))
    assert obs.num_pixels == 672


def test_cubes_and_units_of_bands():
    cube = np.stack([noise(0), noise(1)])
    one = CCDData(cube, unit="nJy", uncertainty=StdDevUncertainty(np.full(cube.shape, SIGMA)))
    obs = Observation.from_nddata(one, np.stack([psf()] * 2), bands=("g", "r"))
    np.testing.assert_array_equal(obs.images, cube)
    bands = [
        CCDData(noise(), unit="nJy", uncertainty=error(), meta={"FILTER": "g"}),
        CCDData(noise() / 1e3, unit="uJy", uncertainty=error(SIGMA / 1e3), meta={"FILTER": "r"}),
    ]
    obs = read(bands)
    np.testing.assert_allclose(obs.images[0], obs.images[1], rtol=1e-5)
    np.testing.assert_allclose(obs.weights, SIGMA**-2, rtol=1e-5)


def test_slices_keep_the_place():
    ccd = CCDData(noise(), unit="nJy", uncertainty=error(), wcs=wcs())
    obs = read(ccd[4:20, 6:26])
    sky = wcs().pixel_to_world(10, 10)
    assert obs.wcs.world_to_pixel(sky) == (pytest.approx(4), pytest.approx(6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NDData(noise()), "image 0 has no uncertainty; give"),
        (lambda: Cutout2D(noise(), (9, 9), 5), "image 0 is a Cutout2D, which keeps neither noise"),
        (lambda: noise(), "image 0 is of the type ndarray"),
        (lambda: NDData(noise()[0], uncertainty=error()), r"image 0 has the shape \(28,\)"),
        (
            lambda: NDData(noise(), uncertainty=StdDevUncertainty(np.ones(3))),
            r"has the shape \(3,\)",
        ),
        (
            lambda: NDDataRef(noise(), uncertainty=error(), wcs=wcs())[2:9],
            "WCS of the type HighLevelWCSWrapper.*slices of CCDData keep it",
        ),
        (
            lambda: CCDData(noise(), unit="nJy", uncertainty=error(), meta={"MAGZERO": 27.0}),
            "unit nJy means a zero point of 31.40, but the card MAGZERO is 27",
        ),
        (
            lambda: CCDData(noise(), unit="adu", uncertainty=error(), meta={"MAGZERO": "x"}),
            "card MAGZERO holds 'x'",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(InputError, match=message):
        read([make()])


def test_what_ccddata_writes(tmp_path):
    paths = []
    mask = np.zeros(SHAPE, bool)
    mask[:2] = True
    for band in "gr":
        ccd = CCDData(
            noise(), unit="nJy", uncertainty=error(), mask=mask, wcs=wcs(), meta={"FILTER": band}
        )
        paths.append(tmp_path / f"{band}.fits")
        ccd.write(paths[-1])
    obs = Observation.read(paths, np.stack([psf()] * 2))
    assert (obs.bands, obs.unit, obs.pixel_scale) == (("g", "r"), "nJy", pytest.approx(0.2))
    assert obs.num_pixels == 2 * (672 - 56)
    np.testing.assert_allclose(obs.weights[:, 2:], SIGMA**-2, rtol=1e-6)
