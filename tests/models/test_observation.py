import warnings

import numpy as np
import pytest
from astropy import units
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    NDDataRef,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data.psfs._checks import PSFWarning
from scorepriors.models.rendering._psf import gaussian_psf

SHAPE = (2, 12, 15)


def psf(size=11, shift=(0.0, 0.0)):
    image = gaussian_psf(1.5, size, shift)
    return image / image.sum()


def make_wcs(scale=0.2, naxis=2):
    wcs = WCS(naxis=naxis)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN", "FREQ"][:naxis]
    wcs.wcs.crval = [150.0, 2.0, 1.0][:naxis]
    wcs.wcs.crpix = [7.0, 6.0, 1.0][:naxis]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600, 1.0][:naxis]
    return wcs


def arguments(**changes):
    rng = np.random.default_rng(0)
    values = {
        "images": rng.normal(size=SHAPE),
        "variance": np.full(SHAPE, 4.0),
        "psfs": psf(),
        "bands": ("g", "r"),
    }
    values.update(changes)
    return {name: value for name, value in values.items() if value is not None}


def make(**changes):
    return Observation.from_arrays(**arguments(**changes))


def at(value, where=(1, 3, 4), shape=SHAPE, fill=1.0):
    array = np.full(shape, fill)
    array[where] = value
    return array


def test_fields_and_properties():
    obs = make(wcs=make_wcs(), unit="adu", name="field")
    assert obs.images.dtype == obs.weights.dtype == obs.psfs.dtype == np.float32
    assert obs.psfs.shape == (2, 11, 11)
    np.testing.assert_allclose(obs.weights, 0.25)
    np.testing.assert_allclose(obs.psfs.sum(axis=(1, 2)), 1, rtol=1e-6)
    assert (obs.num_bands, obs.shape, obs.num_pixels) == (2, (12, 15), 360)
    assert obs.pixel_scale == pytest.approx(0.2)
    assert obs.bands == ("g", "r")
    assert obs.name == "field"
    assert make().pixel_scale is None
    assert make(scale=0.17).pixel_scale == 0.17
    assert make(wcs=obs.wcs, scale=0.17).pixel_scale == pytest.approx(0.2)
    assert make(bands=None).bands == ("band0", "band1")


def test_arrays_are_read_only_copies():
    images = np.ones(SHAPE, np.float32)
    obs = make(images=images)
    images[:] = 5
    assert obs.images.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        obs.images[0, 0, 0] = 1


def test_masked_pixels_are_zero_and_may_be_anything():
    mask = np.zeros(SHAPE[1:], bool)
    mask[2, 3] = True
    obs = make(
        images=at(np.nan, (slice(None), 2, 3)), variance=at(np.nan, (slice(None), 2, 3)), mask=mask
    )
    assert (obs.weights[:, 2, 3] == 0).all()
    assert (obs.images[:, 2, 3] == 0).all()
    assert obs.num_pixels == 358
    weights = at(0.0)
    obs = make(images=at(np.inf), variance=None, weights=weights)
    assert obs.images[1, 3, 4] == 0
    obs = make(variance=at(np.inf))
    assert obs.weights[1, 3, 4] == 0
    obs = make(variance=None, weights=np.ones(SHAPE), mask=at(4, fill=0).astype(int))
    assert obs.weights[1, 3, 4] == 0


def test_numpy_masked_arrays_keep_their_masks():
    images = np.ma.masked_array(at(np.nan), at(1, fill=0).astype(bool))
    assert make(images=images).weights[1, 3, 4] == 0
    variance = np.ma.masked_array(np.ones(SHAPE), at(1, fill=0).astype(bool))
    assert make(variance=variance).weights[1, 3, 4] == 0


def test_one_band_may_be_masked_whole():
    obs = make(mask=np.broadcast_to(np.array([True, False])[:, None, None], SHAPE))
    assert obs.num_pixels == 180


def test_quantities_bring_their_units():
    obs = make(images=np.ones(SHAPE) * units.uJy, variance=np.ones(SHAPE) * units.nJy**2)
    assert obs.unit == units.uJy
    np.testing.assert_allclose(obs.weights, 1e6)
    obs = make(images=np.ones(SHAPE) * units.uJy, unit="nJy")
    np.testing.assert_allclose(obs.images, 1e3)
    with pytest.raises(InputError, match=r"variance has the unit s, .* convert it to Jy2"):
        make(images=np.ones(SHAPE) * units.Jy, variance=np.ones(SHAPE) * units.s)


def test_flux_unit_and_magnitudes():
    unit, factor = make(zero_point=31.4).flux_unit
    assert unit == units.nJy
    np.testing.assert_allclose(factor, 1)
    obs = make(zero_point=(27.0, 28.9))
    np.testing.assert_allclose(obs.flux_unit[1], [10**1.76, 10.0])
    magnitudes = obs.magnitudes([[1.0, 100.0], [0.0, -1.0]])
    np.testing.assert_allclose(magnitudes, [[27.0, 23.9], [np.nan, np.nan]])
    obs = make(unit="uJy")
    np.testing.assert_allclose(obs.flux_unit[1], 1000)
    # One microjansky is AB 23.9 by definition, 2.5 log10(3631e6) = 23.90006.
    np.testing.assert_allclose(obs.magnitudes([1.0, 10.0]), [23.90006, 21.40006], atol=1e-5)
    for unit, expected in (("adu", units.adu), (None, units.dimensionless_unscaled)):
        obs = make(unit=unit)
        assert obs.flux_unit[0] == expected
        np.testing.assert_array_equal(obs.flux_unit[1], [1, 1])
        assert obs.magnitudes([1.0, 1.0]) is None
    assert make(unit="nJy", zero_point=31.4).flux_unit[0] == units.nJy
    with pytest.raises(InputError, match=r"flux has the shape \(3,\); its last axis .* 2 band"):
        make(unit="nJy").magnitudes(np.ones(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.ones((12, 15)), "variance": np.ones((12, 15))}, r"shape \(12, 15\); give"),
        ({"images": np.ones((2, 0, 3)), "variance": np.ones((2, 0, 3))}, "no pixel in them"),
        ({"variance": np.ones((2, 12, 14))}, r"variance has .*\(2, 12, 14\).*\(2, 12, 15\)"),
        ({"variance": None, "weights": np.ones((2, 12, 14))}, r"weights have .*14\).*15\)"),
        ({"mask": np.zeros((3, 3))}, r"mask has the shape \(3, 3\) but .*\(2, 12, 15\)"),
        ({"weights": np.ones(SHAPE)}, "exactly one of them, not both"),
        ({"variance": None}, "exactly one of them, not neither"),
        ({"images": np.full(SHAPE, "a")}, "images has the type <U1; give"),
        ({"images": [[[1.0, 2.0], [1.0]]]}, "images is ragged"),
        ({"bands": ("g",)}, r"1 band name\(s\) \('g',\) for 2 image\(s\)"),
        ({"bands": ("g", "g")}, "band 'g' is named twice"),
        ({"psfs": np.stack([psf()] * 3)}, r"3 PSFs for 2 band\(s\)"),
        ({"zero_point": (27.0, 27.0, 27.0)}, r"3 zero point\(s\) for 2 band\(s\)"),
        ({"scale": 0.0}, "scale is 0; give arcseconds per pixel, a positive number"),
        ({"scale": "small"}, "scale is 'small'; give arcseconds per pixel, or None"),
        ({"zero_point": (27.0, np.nan)}, r"zero_point is \[27.0, nan\]; give finite"),
        ({"zero_point": 27.0, "unit": "nJy"}, "unit nJy means a zero point of 31.40"),
        ({"images": at(np.nan)}, r"1 pixel\(s\) are NaN .*\(band 'r', row 3, column 4\); set"),
        ({"images": at(np.inf)}, "set their weight to 0"),
        ({"variance": at(np.nan)}, r"variance is NaN at 1 unmasked .*row 3, column 4\); mask"),
        ({"variance": at(-1.0)}, "variance is negative at 1"),
        ({"variance": at(0.0)}, "variance is zero at 1"),
        ({"variance": None, "weights": at(np.nan)}, r"1 weight\(s\) are NaN or infinite"),
        ({"variance": None, "weights": at(-1.0)}, r"1 weight\(s\) are negative, first at"),
        ({"mask": np.ones(SHAPE)}, "all pixels of all bands are masked"),
        ({"variance": np.full(SHAPE, 1e-60)}, "do not fit single precision"),
        ({"variance": np.full(SHAPE, 1e60)}, "do not fit single precision"),
        ({"images": np.full(SHAPE, 1e60)}, "do not fit single precision"),
        ({"unit": object()}, "is not a unit; give an astropy unit such as 'nJy'"),
        ({"wcs": "here"}, "wcs is of the type str"),
        ({"wcs": WCS(naxis=2)}, "not a position on the sky"),
        ({"psfs": np.ones(5)}, r"psfs have the shape \(5,\); give \[B, P, P\]"),
        ({"psfs": np.ones((5, 8))}, "must be square"),
        ({"psfs": at(np.nan, (1, 1), (5, 5))}, r"PSF of band 'g' has 1 NaN"),
        ({"psfs": np.zeros((5, 5))}, "PSF of band 'g' has the sum 0; it must be positive"),
        ({"psfs": psf(21, (3.0, 0.0))}, r"band 'g' peaks at \(row 13, column 10\), far from"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_unknown_units_are_kept():
    # Images must not be refused for a strange BUNIT, nor calculated with in it.
    obs = make(unit="counts per blink")
    assert obs.unit.to_string() == "counts per blink"
    assert (np.ones(3) * obs.flux_unit[0]).unit == units.dimensionless_unscaled


@pytest.mark.parametrize(
    ("spelt", "meant"),
    [("ADU", "adu"), ("counts", "ct"), ("ELECTRONS/S", "electron / s"), ("10^-9 maggies", "nmgy")],
)
def test_units_as_headers_spell_them(spelt, meant):
    assert make(unit=spelt).unit == units.Unit(meant)


def test_direct_construction_validates():
    with pytest.raises(InputError, match=r"1 band name"):
        Observation(np.ones(SHAPE), np.ones(SHAPE), psf(), ("g",))


def test_psf_sum_is_normalized_with_a_warning():
    with pytest.warns(PSFWarning, match=r"do not sum to one.*: g 2, r 2\."):
        obs = make(psfs=2 * psf())
    np.testing.assert_allclose(obs.psfs.sum(axis=(1, 2)), 1, rtol=1e-6)
    make(psfs=1.005 * psf())


def test_psf_off_center_warns():
    shifted = np.stack([psf(), psf(shift=(0.3, 0.0))])
    with pytest.warns(PSFWarning, match=r"not centered .*: r \(\+0\.(29|3.), \+0\.00\)"):
        make(psfs=shifted)
    make(psfs=psf(shift=(0.05, 0.0)))


@pytest.mark.parametrize("corner", [(0, 0), (1, 1), (0, 1)])
def test_even_psf_is_padded_to_its_center(corner):
    # Cut an even stamp out of an odd one, so that the peak is at P/2 or P/2 - 1.
    row, column = corner
    stamp = psf(13)[row : row + 12, column : column + 12]
    obs = make(psfs=stamp / stamp.sum())
    assert obs.psfs.shape == (2, 13, 13)
    assert np.unravel_index(obs.psfs[0].argmax(), (13, 13)) == (6, 6)


def test_even_psf_between_pixels_warns():
    with pytest.warns(PSFWarning, match=r"\(-0\.50, -0\.50\)"):
        make(psfs=psf(12, (-0.5, -0.5)))


def test_wcs_with_more_axes_is_cut_to_the_sky():
    assert make(wcs=make_wcs(naxis=3)).wcs.naxis == 2


def nddata(kind=StdDevUncertainty, value=2.0, cls=CCDData, unit="adu", **changes):
    mask = np.zeros(SHAPE[1:], bool)
    mask[0, 0] = True
    values = {"uncertainty": kind(np.full(SHAPE[1:], value)), "mask": mask, "unit": unit}
    values.update(changes)
    return cls(np.ones(SHAPE[1:]), **values)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(StdDevUncertainty, 2.0), (VarianceUncertainty, 4.0), (InverseVariance, 0.25)],
)
def test_nddata(kind, value):
    wcs = make_wcs()
    images = [nddata(kind, value, wcs=wcs, meta={"FILTER": band}) for band in "gr"]
    obs = Observation.from_nddata(images, psf())
    assert obs.bands == ("g", "r")
    assert obs.unit == units.adu
    assert obs.wcs is not None
    assert (obs.weights[:, 0, 0] == 0).all()
    np.testing.assert_allclose(obs.weights[:, 1:], 0.25)
    assert Observation.from_nddata(images, psf(), bands=["a", "b"]).bands == ("a", "b")
    assert Observation.from_nddata(images[0], psf()).num_bands == 1
    cut = Observation.from_nddata([image[2:10, 3:11] for image in images], psf())
    assert cut.shape == (8, 8)


def test_nddata_units_are_converted():
    images = [nddata(unit="nJy"), nddata(unit="uJy", value=0.002)]
    obs = Observation.from_nddata(images, psf())
    assert obs.unit == units.nJy
    assert obs.bands == ("band0", "band1")
    np.testing.assert_allclose(obs.images[1, 1:], 1000)
    np.testing.assert_allclose(obs.weights[:, 1:], 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images given"),
        ([np.ones((3, 3))], "image 0 is of the type ndarray"),
        ([NDData(np.ones((3, 3)))], "image 0 has no uncertainty"),
        (
            [NDData(np.ones((3, 3)), uncertainty=UnknownUncertainty(np.ones((3, 3))))],
            "unknown kind of uncertainty",
        ),
        ([NDData(np.ones(3))], r"image 0 has the shape \(3,\)"),
        ([nddata(), nddata(unit="Jy")], "image 1 has the unit Jy but image 0 has adu"),
        ([nddata(), nddata(value=-1.0)], "uncertainty of image 1 is negative"),
        (
            [nddata(wcs=make_wcs()), nddata(wcs=make_wcs(0.3))],
            "WCS of image 1 differs from that of image 0 by",
        ),
        ([nddata(cls=NDDataRef, wcs=make_wcs())[1:, 1:]], "WCS of the type HighLevelWCSWrapper"),
    ],
)
def test_nddata_errors(images, message):
    with pytest.raises(InputError, match=message):
        Observation.from_nddata(images, psf())


@pytest.mark.parametrize("ending", [".fits", ".fit", ".fits.gz"])
def test_fits_round_trip(tmp_path, ending):
    catalog = Table({"id": ["a", "b"], "x": [1.0, 2.0], "y": [3.0, 4.0]})
    obs = make(
        mask=at(1, fill=0),
        wcs=make_wcs(),
        unit="adu",
        zero_point=(27.0, 28.0),
        name="scene",
        catalog=catalog,
    )
    path = tmp_path / f"scene{ending}"
    obs.to_fits(path)
    again = Observation.from_fits(path)
    for field in ("images", "weights"):
        np.testing.assert_array_equal(getattr(again, field), getattr(obs, field))
    np.testing.assert_allclose(again.psfs, obs.psfs, rtol=1e-6)
    for field in ("bands", "unit", "zero_point", "name", "num_pixels"):
        assert getattr(again, field) == getattr(obs, field)
    assert again.pixel_scale == pytest.approx(0.2)
    np.testing.assert_allclose(
        again.wcs.all_pix2world([[3, 4]], 0), obs.wcs.all_pix2world([[3, 4]], 0), rtol=1e-12
    )
    assert list(again.catalog["id"]) == ["a", "b"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_fits_round_trip_of_the_least(tmp_path):
    make(bands=("a,b", "c"), name="Süd", scale=0.17).to_fits(tmp_path / "x.fits")
    again = Observation.read(tmp_path / "x.fits")
    assert again.bands == ("a,b", "c")
    assert again.pixel_scale == 0.17
    assert again.wcs is again.unit is again.zero_point is again.catalog is None


def test_sky_column_survives_fits(tmp_path):
    from astropy.coordinates import SkyCoord

    catalog = Table({"sky": SkyCoord([1.0, 2.0], [3.0, 4.0], unit="deg")})
    make(catalog=catalog).to_fits(tmp_path / "x.fits")
    again = Observation.read(tmp_path / "x.fits").catalog
    np.testing.assert_allclose(again["sky"].ra.deg, [1, 2])


def test_to_fits_errors(tmp_path):
    obs = make()
    path = tmp_path / "x.fits"
    obs.to_fits(path)
    with pytest.raises(InputError, match="exists; choose another name or overwrite=True"):
        obs.to_fits(path)
    obs.to_fits(path, overwrite=True)
    with pytest.raises(InputError, match=r"cannot write 'x\.png'"):
        obs.to_fits(tmp_path / "x.png")
    with pytest.raises(InputError, match="does not exist; make it first"):
        obs.to_fits(tmp_path / "no" / "x.fits")
    with pytest.raises(InputError, match="plain ASCII only; rename the bands"):
        make(bands=("Hä", "r")).to_fits(tmp_path / "y.fits")
    assert [file.name for file in tmp_path.iterdir()] == ["x.fits"]


def test_no_warning_without_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(wcs=make_wcs(), unit="nJy", zero_point=31.4)
