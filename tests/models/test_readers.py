import gzip
import json
import pickle
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.psfs._read import read_psf
from scorepriors.models.data.readers._masks import masked_pixels
from scorepriors.models.data.readers._npz_files import plain_catalog
from scorepriors.models.rendering._psf import gaussian_psf

SHAPE = (2, 10, 14)
PSF = gaussian_psf(1.5, 15)
PSFS = np.stack([PSF, PSF])


def pixels(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def wcs_header(shift=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [7.0 + shift, 6.0]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    return wcs.to_header()


def write(path, image=None, cards=None, primary=None, **extensions):
    """Write a FITS file; `image` may be None; extensions by name."""
    hdus = fits.HDUList([fits.PrimaryHDU(header=fits.Header(primary or {}))])
    if image is not None:
        header = wcs_header()
        header.update(cards or {})
        hdus.append(fits.ImageHDU(image, header, name="IMAGE"))
    for name, data in extensions.items():
        make = fits.table_to_hdu if isinstance(data, Table) else fits.ImageHDU
        hdus.append(make(data))
        hdus[-1].name = name
    hdus.writeto(path)
    return path


def write_cube(path, **changes):
    values = {"image": pixels(), "VARIANCE": np.full(SHAPE, 4.0), "PSF": PSFS}
    values.update(changes)
    return write(path, **{k: v for k, v in values.items() if v is not None})


def write_bands(tmp_path, bands="gr", **changes):
    paths = []
    for number, band in enumerate(bands):
        values = {
            "image": pixels(SHAPE[1:], number),
            "cards": {"FILTER": band, "MAGZERO": 27.0 + number},
            "VARIANCE": np.ones(SHAPE[1:]),
            "PSF": PSF,
        }
        values.update(changes if number else {})
        values = {name: value for name, value in values.items() if value is not None}
        paths.append(write(tmp_path / f"field-{band}.fits", **values))
    return paths


# --- FITS -----------------------------------------------------------------------------------


def test_cube(tmp_path):
    catalog = Table({"x": [1.0], "y": [2.0]})
    mask = np.zeros(SHAPE[1:], np.int16)
    mask[1, 2] = 1
    path = write_cube(
        tmp_path / "a.fits",
        cards={"BANDS": "g, r", "BUNIT": "adu", "MAGZERO": 27.0},
        MASK=mask,
        CATALOG=catalog,
    )
    obs = Observation.read(path)
    assert obs.bands == ("g", "r")
    assert obs.zero_point == (27.0, 27.0)
    assert obs.unit.to_string() == "adu"
    assert obs.name == "a"
    assert obs.pixel_scale == pytest.approx(0.2)
    assert (obs.weights[:, 1, 2] == 0).all()
    assert obs.weights[0, 0, 0] == 0.25
    assert len(obs.catalog) == 1
    assert obs.psfs.shape == (2, 15, 15)


@pytest.mark.parametrize(
    ("name", "value"),
    [("VARIANCE", 4), ("STD", 2), ("ERR", 2), ("IVAR", 0.25), ("WEIGHT", 0.25), ("WHT", 0.25)],
)
def test_noise_extensions(tmp_path, name, value):
    changes = {"VARIANCE": None, name: np.full(SHAPE, value, np.float32)}
    obs = Observation.read(write_cube(tmp_path / "a.fits", **changes))
    np.testing.assert_allclose(obs.weights, 0.25)


def test_numbered_cards_and_the_primary_header(tmp_path):
    primary = {"BAND1": "g", "BAND2": "r", "MAGZERO1": 26.0, "MAGZERO2": 27.0}
    obs = Observation.read(write_cube(tmp_path / "a.fits", primary=primary))
    assert obs.bands == ("g", "r")
    assert obs.zero_point == (26.0, 27.0)
    obs = Observation.read(write_cube(tmp_path / "b.fits"))
    assert obs.bands == ("band0", "band1")


def test_nanomaggies(tmp_path):
    path = write_cube(tmp_path / "a.fits", cards={"BUNIT": "nanomaggy"})
    assert Observation.read(path).zero_point == (22.5, 22.5)


def test_primary_and_compressed_images(tmp_path):
    hdus = fits.HDUList([fits.PrimaryHDU(pixels(), wcs_header())])
    hdus.append(fits.ImageHDU(np.ones(SHAPE), name="VARIANCE"))
    hdus.append(fits.ImageHDU(PSFS, name="PSF"))
    hdus.writeto(tmp_path / "a.fits.gz")
    assert Observation.read(tmp_path / "a.fits.gz").wcs is not None
    hdus = fits.HDUList([fits.PrimaryHDU()])
    hdus.append(
        fits.CompImageHDU(pixels(), wcs_header(), compression_type="GZIP_2", quantize_level=0)
    )
    hdus.append(fits.ImageHDU(np.ones(SHAPE), name="VARIANCE"))
    hdus.append(fits.ImageHDU(PSFS, name="PSF"))
    hdus.writeto(tmp_path / "b.fits.fz")
    obs = Observation.read(tmp_path / "b.fits.fz")
    np.testing.assert_array_equal(obs.images, pixels())
    assert obs.name == "b"


def test_third_wcs_axis_is_left_out(tmp_path):
    cards = {"CTYPE3": "FREQ", "CRVAL3": 1.0, "CRPIX3": 1.0, "CDELT3": 1.0, "WCSAXES": 3}
    assert Observation.read(write_cube(tmp_path / "a.fits", cards=cards)).wcs.naxis == 2


def test_no_sky_no_wcs(tmp_path):
    hdus = fits.HDUList([fits.PrimaryHDU(pixels()), fits.ImageHDU(np.ones(SHAPE), name="IVAR")])
    hdus.writeto(tmp_path / "a.fits")
    assert Observation.read(tmp_path / "a.fits", psf=PSF).wcs is None


def test_one_file_per_band(tmp_path):
    paths = write_bands(tmp_path)
    obs = Observation.read(paths)
    assert obs.bands == ("g", "r")
    assert obs.zero_point == (27.0, 28.0)
    assert obs.name == "field"
    np.testing.assert_array_equal(obs.images[1], pixels(SHAPE[1:], 1))
    assert Observation.read(paths[:1]).bands == ("g",)
    assert Observation.read(paths[0]).name == "field-g"


def test_band_from_the_file_name_and_units_converted(tmp_path):
    write(tmp_path / "u.fits", pixels(SHAPE[1:]), {"BUNIT": "nJy"}, STD=np.ones(SHAPE[1:]), PSF=PSF)
    write(tmp_path / "v.fits", pixels(SHAPE[1:]), {"BUNIT": "uJy"}, STD=np.ones(SHAPE[1:]), PSF=PSF)
    obs = Observation.read([tmp_path / "u.fits", str(tmp_path / "v.fits")])
    assert obs.bands == ("u", "v")
    np.testing.assert_allclose(obs.images[1], 1000 * obs.images[0], rtol=1e-6)
    np.testing.assert_allclose(obs.weights[1], 1e-6, rtol=1e-6)


@pytest.mark.parametrize(("size", "expected"), [(21, 21), (16, 17), (20, 21), (14, 15)])
def test_psfs_of_different_sizes_are_padded(tmp_path, size, expected):
    obs = Observation.read(write_bands(tmp_path, PSF=gaussian_psf(1.5, size)))
    assert obs.psfs.shape == (2, expected, expected)
    center = expected // 2
    assert [np.unravel_index(p.argmax(), p.shape) for p in obs.psfs] == [(center, center)] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": pixels((9, 9)), "VARIANCE": np.ones((9, 9))}, r"field-r.fits has \(9, 9\)"),
        ({"image": pixels(), "VARIANCE": np.ones(SHAPE)}, "field-r.fits holds 2 bands"),
        ({"cards": {"CRPIX1": 9.0, "MAGZERO": 1.0}}, r"WCS of field-r.fits .* by 2 pixels"),
        ({"cards": {"FILTER": "r"}}, "field-r.fits has no MAGZERO card"),
        ({"cards": {"FILTER": "g", "MAGZERO": 1.0}}, r"field-g.fits ...: the band 'g' is named"),
        ({"PSF": None}, "field-r.fits has no PSF extension"),
        ({"PSF": np.ones((3, 8))}, "PSF images must be square"),
    ],
)
def test_errors_between_bands(tmp_path, changes, message):
    paths = write_bands(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        Observation.read(paths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, r"a.fits: no IMAGE extension .*; found PRIMARY, VARIANCE, PSF"),
        ({"VARIANCE": None}, r"a.fits: no noise extension \(one of VARIANCE, VAR"),
        ({"PSF": None}, "a.fits has no PSF extension; add one or give"),
        ({"image": np.ones(3)}, r"HDU IMAGE holds \(3,\)"),
        ({"VARIANCE": np.ones((2, 3, 3))}, r"VARIANCE has the shape \(2, 3, 3\) but"),
        ({"VARIANCE": np.zeros(SHAPE)}, r"a.fits: no pixel has data .*\(zero in VARIANCE 280\)"),
        ({"VARIANCE": None, "STD": -np.ones(SHAPE)}, "a.fits: STD is negative"),
        ({"MASK": np.zeros((3, 3), np.int16)}, r"mask has the shape \(3, 3\)"),
        ({"cards": {"BANDS": "g"}}, r"a.fits: 1 band name\(s\)"),
        ({"cards": {"MAGZERO": "high"}}, "card MAGZERO holds 'high'"),
        ({"image": np.full(SHAPE, np.nan)}, r"no pixel has data .*\(NaN or infinite in the image"),
    ],
)
def test_errors_in_a_cube(tmp_path, changes, message):
    path = write_cube(tmp_path / "a.fits", **changes)
    with pytest.raises(InputError, match=message):
        Observation.read(path)


def test_errors_of_files(tmp_path):
    with pytest.raises(InputError, match=r"no image file at .*: the path does not exist"):
        Observation.read(tmp_path / "no.fits")
    with pytest.raises(InputError, match="is a folder; give the path of one image file"):
        Observation.read(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"no image file is named like a.png: its name must end in .fits or"
    ):
        Observation.read(tmp_path / "a.png")
    (tmp_path / "a.fits").touch()
    with pytest.raises(InputError, match=r"a.fits is empty \(0 bytes\)"):
        Observation.read(tmp_path / "a.fits")
    (tmp_path / "b.fits").write_bytes(b"not a FITS file at all" * 300)
    with pytest.raises(InputError, match=r"b\.fits is not a readable FITS file"):
        Observation.read(tmp_path / "b.fits")
    with pytest.raises(InputError, match="no files given"):
        Observation.read([])
    with pytest.raises(InputError, match="give one npz file, not a list"):
        Observation.read([tmp_path / "a.npz", tmp_path / "b.npz"])
    path = write_cube(tmp_path / "c.fits")
    with pytest.raises(InputError, match="FITS files hold one blend, not a set"):
        Observation.read(path, index=0)


@pytest.mark.parametrize("kept", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_truncated_fits_never_warns(tmp_path, kept):
    content = write_cube(tmp_path / "a.fits").read_bytes()
    (tmp_path / "b.fits").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=r"b.fits(:| is truncated| is not a readable| has no PSF)"):
        Observation.read(tmp_path / "b.fits")


def test_truncated_in_the_data(tmp_path):
    content = write_cube(tmp_path / "a.fits").read_bytes()
    (tmp_path / "b.fits").write_bytes(content[:-2880])
    with pytest.raises(InputError, match=r"b\.fits is truncated; copy or download it again"):
        Observation.read(tmp_path / "b.fits")
    packed = gzip.compress(content)
    (tmp_path / "c.fits.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=r"c\.fits\.gz is truncated"):
        Observation.read(tmp_path / "c.fits.gz")


# --- masks ----------------------------------------------------------------------------------


def test_masks():
    np.testing.assert_array_equal(masked_pixels(np.array([True, False])), [True, False])
    np.testing.assert_array_equal(masked_pixels(np.array([0.0, 0.5])), [False, True])
    header = fits.Header({"MP_BAD": 3, "HIERARCH MP_DETECTED": 5, "MP_SAT": 1})
    mask = np.array([0, 8, 32, 40, 2, 1])
    expected = [False, True, False, True, True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(masked_pixels(mask, header), expected)


def test_fits_bit_mask(tmp_path):
    path = write_cube(tmp_path / "a.fits")
    mask = np.full(SHAPE, 32, np.int32)
    mask[0, 1, 2] = 33
    with fits.open(path, mode="append") as hdus:
        hdus.append(fits.ImageHDU(mask, fits.Header({"MP_BAD": 0}), name="MASK"))
    obs = Observation.read(path)
    assert obs.num_pixels == 279


# --- PSF files ------------------------------------------------------------------------------


def test_psf_files(tmp_path):
    path = write_cube(tmp_path / "a.fits", PSF=None)
    fits.PrimaryHDU(PSF).writeto(tmp_path / "p.fits")
    write(tmp_path / "q.fits", np.ones((3, 3)), PSF=PSF)
    np.savez(tmp_path / "p.npz", psf=PSF)
    np.savez(tmp_path / "q.npz", psfs=np.stack([PSF, PSF]))
    np.save(tmp_path / "p.npy", PSF)
    for name in ("p.fits", "q.fits", "p.npz", "q.npz", "p.npy"):
        if name == "q.npz":
            obs = Observation.read(path, psf=tmp_path / name)
        else:
            with pytest.warns(FileWarning, match=f"{name}.* one PSF for all of the bands"):
                obs = Observation.read(path, psf=tmp_path / name)
        np.testing.assert_allclose(obs.psfs[1], PSF / PSF.sum(), rtol=1e-5)
    obs = Observation.read(path, psf=[tmp_path / "p.fits", tmp_path / "p.npy"])
    assert obs.psfs.shape == (2, 15, 15)


def test_psf_file_errors(tmp_path):
    np.savez(tmp_path / "a.npz", other=PSF)
    with pytest.raises(InputError, match=r"a.npz holds neither psfs nor psf; found other"):
        read_psf(tmp_path / "a.npz", bands=("g",))
    fits.PrimaryHDU().writeto(tmp_path / "a.fits")
    with pytest.raises(InputError, match=r"a.fits holds no PSF image"):
        read_psf(tmp_path / "a.fits", bands=("g",))
    (tmp_path / "a.npy").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"a.npy is not a readable npy file"):
        read_psf(tmp_path / "a.npy", bands=("g",))
    with pytest.raises(InputError, match="no PSF file at"):
        read_psf(tmp_path / "no.fits", bands=("g",))


# --- npz ------------------------------------------------------------------------------------


def save(path, **changes):
    values = {
        "images": pixels(),
        "variance": np.full(SHAPE, 4.0),
        "psfs": np.stack([PSF, PSF]),
        "filters": np.array(["g", "r"]),
    }
    values.update(changes)
    np.savez(path, **{name: value for name, value in values.items() if value is not None})
    return path


def test_npz(tmp_path):
    catalog = np.zeros(
        2, [("x", float), ("y", float), ("is_star", bool), ("sed", float, 3), ("kind", "S5")]
    )
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, 0] = True
    path = save(tmp_path / "a.npz", catalog=catalog, mask=mask, zero_point=27.0, unit="adu")
    obs = Observation.read(path)
    assert obs.bands == ("g", "r")
    assert obs.name == "a"
    assert obs.zero_point == (27.0, 27.0)
    assert obs.num_pixels == 279
    assert obs.catalog.colnames == ["x", "y", "is_star"]
    path = save(tmp_path / "b.npz", variance=None, weights=np.ones(SHAPE), filters=None)
    obs = Observation.read(path)
    assert obs.bands == ("band0", "band1")
    np.testing.assert_array_equal(obs.weights, 1)
    fits.PrimaryHDU(PSFS).writeto(tmp_path / "p.fits")
    path = save(tmp_path / "c.npz", psfs=None)
    assert Observation.read(path, psf=tmp_path / "p.fits").psfs.shape == (2, 15, 15)


def test_npz_without_variance(tmp_path):
    images = pixels((2, 60, 60)) * np.array([1.0, 3.0])[:, None, None]
    images[:, 30, 30] = 1e4
    path = save(tmp_path / "a.npz", images=images, variance=None)
    with pytest.warns(UserWarning, match=r"a.npz holds neither .*median absolute deviation"):
        obs = Observation.read(path)
    # The median absolute deviation of 3600 Gaussian pixels is good to 2 %; 5 sigma.
    np.testing.assert_allclose(obs.weights[:, 0, 0] ** -0.5, [1, 3], rtol=0.1)
    path = save(tmp_path / "b.npz", images=np.ones(SHAPE), variance=None)
    with pytest.raises(InputError, match=r"scatter of band 0 is zero; add an array `variance`"):
        Observation.read(path)


def save_set(path, **changes):
    images = np.zeros((3, 2, 20, 24), np.float32)
    images[1, :, 8, 5] = 90.0
    values = {
        "images": images,
        "psfs": np.broadcast_to(PSF, (3, 2, 15, 15)),
        "skyvar": np.array([[1.0, 2.0]] * 3),
        "gain": np.array([0.1, 0.2]),
        "src_start": np.array([0, 1, 3, 3]),
        "centers": np.array([[1.0, 2.0], [8.0, 5.0], [3.0, 4.0]]),
        "bands": np.array(["g", "r"]),
        "meta": np.array(json.dumps({"zp": 27.0, "scale": 0.2})),
    }
    values.update(changes)
    np.savez(path, **{name: value for name, value in values.items() if value is not None})
    return path


def test_set_of_blends(tmp_path):
    obs = Observation.read(save_set(tmp_path / "a.npz"), index=1)
    assert obs.shape == (20, 24)
    assert obs.name == "a-1"
    assert obs.zero_point == (27.0, 27.0)
    # Sky plus gain times the mean of 3 x 3 pixels around a single one of 90.
    np.testing.assert_allclose(1 / obs.weights[:, 7, 4], [1 + 0.1 * 10, 2 + 0.2 * 10])
    np.testing.assert_allclose(1 / obs.weights[:, 0, 0], [1, 2])
    # Centers are (row, column): the bright pixel is at row 8, column 5.
    assert (obs.catalog["x"][0], obs.catalog["y"][0]) == (5.0, 8.0)
    assert len(obs.catalog) == 2


def test_set_errors(tmp_path):
    path = save_set(tmp_path / "a.npz")
    with pytest.raises(InputError, match="a set of 3 blends; choose one with index=0 to 2"):
        Observation.read(path)
    for index in (3, -1):
        with pytest.raises(InputError, match=rf"index={index} is not in a.npz"):
            Observation.read(path, index=index)
    with pytest.raises(InputError, match="set without gain"):
        Observation.read(save_set(tmp_path / "b.npz", gain=None), index=0)
    with pytest.raises(InputError, match="is not a JSON object"):
        Observation.read(save_set(tmp_path / "c.npz", meta=np.array("{")), index=0)
    with pytest.raises(InputError, match="one blend, not a set; leave out index=1"):
        Observation.read(save(tmp_path / "d.npz"), index=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "a.npz holds no array `images`; found variance"),
        ({"psfs": None}, "a.npz holds no array `psfs`"),
        ({"images": np.ones((3, 3))}, r"images have the shape \(3, 3\)"),
        ({"images": np.array([object()])}, "a.npz holds pickled objects"),
        ({"variance": np.ones((3, 3))}, r"\[variance\] has the shape \(3, 3\)"),
        ({"variance": -np.ones(SHAPE)}, r"\[variance\] is negative"),
        ({"catalog": np.ones((2, 2))}, "`catalog` has no named columns"),
        ({"filters": np.array(["g"])}, r"a.npz: 1 band name\(s\)"),
    ],
)
def test_npz_errors(tmp_path, changes, message):
    path = save(tmp_path / "a.npz", **changes)
    with pytest.raises(InputError, match=message):
        Observation.read(path)


def test_bad_archives(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(pickle.dumps({"images": 1}))
    with pytest.raises(InputError, match=r"a\.npz holds pickled objects, which are never loaded"):
        Observation.read(path)
    content = save(tmp_path / "b.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"c\.npz is not a readable npz archive"):
        Observation.read(tmp_path / "c.npz")
    np.save(tmp_path / "d.npy", pixels())
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(InputError, match=r"d\.npz is not a readable npz archive"):
        Observation.read(tmp_path / "d.npz")


def test_plain_catalog_of_one_row():
    catalog = np.array((1.0, 2.0), [("x", float), ("y", float)])
    assert len(plain_catalog(catalog)) == 1
