"""Names of HDUs and of bands as files have them."""

import numpy as np
import pytest
from astropy.io import fits
from fits_files import SHAPE, SIGMA, field, hdu, noise, psf, wcs, write

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.readers._cards import clean_band, header_bands

NOISES = {
    "variance": ("VARIANCE", "VAR", "STAT"),
    "deviation": (
        "STD",
        "RMS_MAP",
        "ERROR MAP",
        "ERR",
        "ERROR",
        "SIGMA",
        "RMS",
        "UNC",
        "UNCERTAINTY",
    ),
    "ivar": ("IVAR", "INVVAR", "IVM", "WEIGHT", "WGT", "WHT"),
}
VALUES = {"variance": SIGMA**2, "deviation": SIGMA, "ivar": SIGMA**-2}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for kind, names in NOISES.items() for name in names]
)
def test_names_of_noise(tmp_path, name, kind):
    path = write(
        tmp_path / "a.fits",
        hdu(noise(), "SCI"),
        hdu(np.full(SHAPE, VALUES[kind]), name),
        hdu(psf(), "PSF"),
    )
    np.testing.assert_allclose(Observation.read(path).weights, SIGMA**-2, rtol=1e-6)


@pytest.mark.parametrize(
    ("utype", "kind"),
    [
        ("StdDevUncertainty", "deviation"),
        ("VarianceUncertainty", "variance"),
        ("InverseVariance", "ivar"),
    ],
)
def test_uncertainty_by_its_type(tmp_path, utype, kind):
    uncertainty = hdu(np.full(SHAPE, VALUES[kind]), "UNCERT", {"UTYPE": utype})
    path = write(tmp_path / "a.fits", uncertainty, primary=noise())
    np.testing.assert_allclose(Observation.read(path, psf()).weights, SIGMA**-2, rtol=1e-6)
    uncertainty.header["UTYPE"] = "UnknownUncertainty"
    write(path, uncertainty, primary=noise())
    with pytest.raises(
        InputError, match="type 'UnknownUncertainty'; say what it is with noise_kin"
    ):
        Observation.read(path, psf())


def test_uncertainty_of_a_type_that_is_not_said(tmp_path):
    uncertainty = hdu(np.full(SHAPE, SIGMA), "UNCERT")
    path = write(tmp_path / "a.fits", uncertainty, primary=noise())
    with pytest.warns(FileWarning, match=r"UNCERT does not say what kind .* standard deviations"):
        obs = Observation.read(path, psf())
    np.testing.assert_allclose(obs.weights, SIGMA**-2, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["MASK", "DQ", "MSK", "FLAGS", "FLAG", "MASKBITS", "BPM", "BADPIX", "QUALITY"]
)
def test_names_of_masks(tmp_path, name):
    mask = np.zeros(SHAPE, np.uint8)
    mask[3, 4] = 1
    obs = Observation.read(field(tmp_path / "a.fits", hdu(mask, name)))
    assert np.argwhere(obs.weights == 0).tolist() == [[0, 3, 4]]


@pytest.mark.parametrize(
    ("cards", "count", "expected"),
    [
        ({"BANDS": "g, r"}, 2, ("g", "r")),
        ({"BANDS": "griz"}, 4, ("g", "r", "i", "z")),
        ({"BANDS": "F606W F814W"}, 2, ("F606W", "F814W")),
        ({"BANDS": "VIS"}, 1, ("VIS",)),
        ({"BAND0": "g", "BAND1": "r"}, 2, ("g", "r")),
        ({"BAND1": "g", "BAND2": "r"}, 2, ("g", "r")),
        ({"BAND": "r"}, 1, ("r",)),
        ({"FILTER": "r DECam SDSS c0002 6415.0 1480.0"}, 1, ("r",)),
        ({"FILTER1": "CLEAR1L", "FILTER2": "F814W"}, 1, ("F814W",)),
        ({"FILTER1": "F606W", "FILTER2": "CLEAR2L"}, 1, ("F606W",)),
        ({"FILTER": "CLEAR", "PUPIL": "F115W"}, 1, ("F115W",)),
        ({"FILTER": "F444W", "PUPIL": "CLEAR"}, 1, ("F444W",)),
        ({"FILTER": "F444W", "PUPIL": "F405N"}, 1, ("F405N",)),
        ({"INSFLNAM": "Ks"}, 1, ("Ks",)),
        ({"FILTER01": "HSC-I2"}, 1, ("HSC-I2",)),
        ({"FILTER": "i.MP9703"}, 1, ("i",)),
        ({"FILTER": "g_G0301"}, 1, ("g",)),
        ({"FILTER": "r_SDSS"}, 1, ("r",)),
        ({"FILTER": "none"}, 1, None),
        ({"FILTER": "r"}, 2, None),
        ({"FILTER": "gri"}, 3, ("g", "r", "i")),
        ({"FILTERS": "F606W,F814W"}, 2, ("F606W", "F814W")),
        ({"CTYPE3": "FILTER", "FILTER1": "g", "FILTER2": "r"}, 2, ("g", "r")),
        ({"FILTER1": "CLEAR1L", "FILTER2": "F814W"}, 2, None),
    ],
)
def test_names_of_bands(cards, count, expected):
    assert header_bands(fits.Header(cards), count) == expected


def test_clean_band_leaves_other_names_alone():
    assert [clean_band(name) for name in ("ZTF_g", "HSC-Y", "NISP-H")] == [
        "ZTF_g",
        "HSC-Y",
        "NISP-H",
    ]


def test_bands_by_version(tmp_path):
    hdus = []
    for order, band in enumerate("gri"):
        hdus += [
            hdu(noise(order), "SCI", {"FILTER": band}, order + 1),
            hdu(np.full(SHAPE, 1.0 + order), "ERR", ver=order + 1),
            hdu(psf(), "PSF", ver=order + 1),
        ]
    mask = np.zeros(SHAPE, np.int16)
    mask[0, 0] = 1
    obs = Observation.read(write(tmp_path / "a.fits", *hdus, hdu(mask, "DQ")))
    assert obs.bands == ("g", "r", "i")
    np.testing.assert_array_equal(obs.images[2, 1:], noise(2)[1:])
    np.testing.assert_allclose(obs.weights[:, 1, 1], [1, 1 / 4, 1 / 9], rtol=1e-6)
    assert (obs.weights[:, 0, 0] == 0).all()
    one = Observation.read(tmp_path / "a.fits", hdu="SCI,2")
    assert one.bands == ("r",)
    np.testing.assert_allclose(one.weights[0, 1, 1], 1 / 4, rtol=1e-6)


@pytest.mark.parametrize("pattern", ["{band}_{name}", "{name}_{band}", "{name}-{band}"])
def test_bands_by_names_of_extensions(tmp_path, pattern):
    hdus = []
    for order, band in enumerate(("F606W", "F814W")):
        hdus += [
            hdu(noise(order), pattern.format(name="SCI", band=band)),
            hdu(np.full(SHAPE, 1.0 + order), pattern.format(name="ERR", band=band)),
        ]
    obs = Observation.read(write(tmp_path / "a.fits", *hdus), psf())
    assert obs.bands == ("F606W", "F814W")
    np.testing.assert_allclose(obs.weights[:, 0, 0], [1, 1 / 4], rtol=1e-6)


def test_bands_as_extensions(tmp_path):
    hdus = [hdu(noise(order), band) for order, band in enumerate("GR")]
    hdus += [hdu(np.full(SHAPE, 4.0), f"{band}_VAR") for band in "GR"]
    assert Observation.read(write(tmp_path / "a.fits", *hdus), psf()).bands == ("g", "r")


def test_unnamed_bands_are_said(tmp_path):
    hdus = [hdu(noise(v), "SCI", ver=v) for v in (1, 2)]
    hdus += [hdu(np.ones(SHAPE), "ERR", ver=v) for v in (1, 2)]
    path = write(tmp_path / "a.fits", *hdus)
    with pytest.warns(FileWarning, match="2 images SCI, which were taken as bands band0, band1"):
        assert Observation.read(path, psf()).bands == ("band0", "band1")
    psfs = np.stack([psf()] * 2)
    assert Observation.read(path, psfs, bands="g,r").bands == ("g", "r")


def test_chips_are_no_bands(tmp_path):
    hdus = []
    for version in (1, 2):
        header = wcs(shift=(30.0 * version, 0)).to_header()
        hdus += [hdu(noise(), "SCI", header, version), hdu(np.ones(SHAPE), "ERR", ver=version)]
    path = write(tmp_path / "a.fits", *hdus, cards={"FILTER": "F606W"})
    with pytest.raises(
        InputError, match=r"different parts of the sky.*choose one with hdu='SCI,1'"
    ):
        Observation.read(path, psf())
    assert Observation.read(path, psf(), hdu="SCI,2").bands == ("F606W",)


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"CTYPE3": "WAVE", "CUNIT3": "um"}, ("500nm", "750nm")),
        ({"CTYPE3": "WAVE", "CUNIT3": "um", "CRVAL3": 20.0}, ("20.0um", "20.2um")),
        ({"CTYPE3": "FREQ", "CRVAL3": 6e14, "CDELT3": -1e14}, ("500nm", "600nm")),
        (
            {"CTYPE3": "AWAV", "CUNIT3": "Angstrom", "CRVAL3": 5000.0, "CDELT3": 1.0},
            ("500.0nm", "500.1nm"),
        ),
        ({"CTYPE3": "PLANE"}, ("band0", "band1")),
    ],
)
def test_cube_with_a_wavelength_axis(tmp_path, cards, expected):
    header = wcs().to_header()
    header.update({"CRPIX3": 1.0, "CRVAL3": 0.5, "CDELT3": 0.25, "WCSAXES": 3} | cards)
    cube = np.stack([noise(0), noise(1)])
    assert Observation.read(field(tmp_path / "a.fits", image=cube, cards=header)).bands == expected


def test_degenerate_axes_are_dropped(tmp_path):
    image = noise()[None, None]
    obs = Observation.read(field(tmp_path / "a.fits", image=image))
    np.testing.assert_array_equal(obs.images[0], image[0, 0])


def test_other_images_are_said(tmp_path):
    path = field(tmp_path / "a.fits", hdu(noise(), "EPOCH2"))
    with pytest.warns(FileWarning, match="a.fits: EPOCH2 of the size of the image passed over"):
        Observation.read(path)


@pytest.mark.parametrize("pointed", [2, "2", "other", "OTHER,1"])
def test_hdu_points_at_the_image(tmp_path, pointed):
    path = write(
        tmp_path / "a.fits",
        hdu(noise(1), "IMAGE"),
        hdu(noise(2), "OTHER"),
        hdu(np.ones(SHAPE), "ERR"),
    )
    obs = Observation.read(path, psf(), hdu=pointed)
    np.testing.assert_array_equal(obs.images[0], noise(2))


def test_each_image_needs_its_own_noise(tmp_path):
    hdus = [hdu(noise(v), "SCI", {"FILTER": "gr"[v - 1]}, v) for v in (1, 2)]
    path = write(tmp_path / "a.fits", *hdus, hdu(np.ones(SHAPE), "ERR"))
    for pointed in (None, "SCI,2"):
        with pytest.raises(InputError, match=r"a\.fits: SCI,2 has no noise extension of its own"):
            Observation.read(path, psf(), hdu=pointed)
    assert Observation.read(path, psf(), hdu="SCI,1").bands == ("g",)


def test_images_of_other_sizes(tmp_path):
    hdus = []
    for version, shape in ((1, SHAPE), (2, (5, 5))):
        hdus.append(hdu(noise(shape=shape), "SCI", {"FILTER": "gr"[version - 1]}, version))
        hdus.append(hdu(np.ones(shape), "ERR", ver=version))
    path = write(tmp_path / "a.fits", *hdus)
    sentence = r"a.fits \[SCI,2\] has \(5, 5\) pixels but a.fits \[SCI,1\] has \(24, 28\)"
    with pytest.raises(InputError, match=sentence):
        Observation.read(path, psf())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((24, 28, 3), r"the HDU IMAGE is \(24, 28, 3\), with the bands last"),
        ((0, 5), "the HDU IMAGE holds no pixels"),
        ((2, 2, 24, 28), r"the HDU IMAGE holds \(2, 2, 24, 28\)"),
    ],
)
def test_shapes_of_images(tmp_path, shape, message):
    path = write(tmp_path / "a.fits", hdu(np.ones(shape), "IMAGE"), hdu(np.ones(shape), "ERR"))
    with pytest.raises(InputError, match=message):
        Observation.read(path, psf())


def test_hdu_errors(tmp_path):
    path = field(tmp_path / "a.fits")
    with pytest.raises(InputError, match="no HDU 'SCI'; found PRIMARY, IMAGE, VARIANCE, PSF"):
        Observation.read(path, hdu="SCI")
    with pytest.raises(InputError, match="the HDU 0 holds no image"):
        Observation.read(path, hdu=0)
