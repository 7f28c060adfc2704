"""The WCS of files, and cuts about a position."""

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from fits_files import SHAPE, field, hdu, noise, psf, wcs, write

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning


def test_wcs_in_the_primary_header(tmp_path):
    path = write(
        tmp_path / "a.fits",
        hdu(noise(), "SCI"),
        hdu(np.ones(SHAPE), "ERR"),
        cards=wcs().to_header(),
    )
    assert Observation.read(path, psf()).pixel_scale == pytest.approx(0.2)


def test_wcs_of_another_primary_image_is_not_taken(tmp_path):
    hdus = [hdu(noise(), "SCI"), hdu(np.ones(SHAPE), "ERR")]
    path = tmp_path / "a.fits"
    write(path, *hdus, primary=np.ones((5, 5)), cards=wcs().to_header())
    assert Observation.read(path, psf()).wcs is None


@pytest.mark.parametrize(
    "cards",
    [
        {"CTYPE2": "GLAT-TAN"},
        {"CTYPE1": "RA---XYZ"},
        {"CUNIT1": "furlong"},
        {"CDELT1": 0.0},
        {"CRVAL1": "here"},
        {"RADESYS": "MARS"},
        {"CRVAL2": None},
        {"CRPIX1": None},
        {"CDELT2": None},
    ],
)
def test_wcs_that_can_not_be_read_is_said(tmp_path, cards):
    header = wcs().to_header()
    header.update({card: value for card, value in cards.items() if value is not None})
    for card in (card for card, value in cards.items() if value is None):
        del header[card]
    path = field(tmp_path / "a.fits", cards=header)
    with pytest.warns(FileWarning, match=r"a.fits: the WCS cannot be read \(.*positions in pixels"):
        assert Observation.read(path).wcs is None


@pytest.mark.parametrize("unit", ["degree", "degrees", "DEG", "Deg"])
def test_spellings_of_degrees(tmp_path, unit):
    header = wcs().to_header()
    header.update({"CUNIT1": unit, "CUNIT2": unit})
    assert Observation.read(field(tmp_path / "a.fits", cards=header)).pixel_scale == pytest.approx(
        0.2
    )


def with_lookup_tables(path, values):
    """Write a field whose pixels are moved by tables of 3 x 3 values along both axes."""
    header = wcs().to_header()
    header.update({"CPDIS1": "LOOKUP", "CPDIS2": "LOOKUP"})
    tables = []
    for axis in (1, 2):
        header[f"DP{axis}"] = f"EXTVER: {axis}"
        header[f"DP{axis}.EXTVER"] = float(axis)
        header[f"DP{axis}.NAXES"] = 2.0
        header[f"DP{axis}.AXIS.1"], header[f"DP{axis}.AXIS.2"] = 1.0, 2.0
        cards = {"CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": 1.0}
        cards |= {"CDELT1": 14.0, "CDELT2": 12.0}
        tables.append(hdu(values.astype(np.float32), "WCSDVARR", cards, axis))
    return field(path, *tables, cards=header)


def test_lookup_tables_of_distortions(tmp_path):
    path = with_lookup_tables(tmp_path / "a.fits", np.full((3, 3), 0.5))
    # All pixels are moved by half a pixel along both axes.
    moved = wcs().pixel_to_world(10.5, 10.5)
    assert Observation.read(path).wcs.pixel_to_world(10, 10).separation(moved).arcsec < 1e-3
    with fits.open(path) as hdus:
        del hdus[4:]
        hdus.writeto(tmp_path / "b.fits")
    with pytest.warns(FileWarning, match="WCS cannot be read"):
        assert Observation.read(tmp_path / "b.fits").wcs is None


def test_cuts_take_lookup_tables_along(tmp_path):
    path = with_lookup_tables(tmp_path / "a.fits", np.arange(9.0).reshape(3, 3))
    whole = Observation.read(path).wcs
    cut = Observation.read(path, position=whole.pixel_to_world(17, 14), size=1.6)
    row, column = cut.corner
    assert (row, column) != (0, 0)
    there = cut.wcs.pixel_to_world(5, 6)
    assert there.separation(whole.pixel_to_world(5 + column, 6 + row)).arcsec < 1e-4


def test_files_are_compared_where_both_have_a_wcs(tmp_path):
    paths = [
        field(tmp_path / "g.fits"),
        field(tmp_path / "r.fits", cards=wcs().to_header()),
        field(tmp_path / "i.fits", cards=wcs(shift=(0.0, 2.0)).to_header()),
    ]
    assert Observation.read(paths[:2]).wcs is not None
    with pytest.raises(InputError, match=r"WCS of i.fits differs from that of r.fits by 2 pixels"):
        Observation.read(paths)


def test_a_file_does_not_differ_from_itself(tmp_path):
    """The corners are off the projection: the whole sky does not fill a rectangle."""
    sky = wcs(scale=3600.0 * 15)
    sky.wcs.ctype = ["RA---AIT", "DEC--AIT"]
    sky.wcs.crval = [150.0, 0.0]
    paths = [field(tmp_path / f"{band}.fits", cards=sky.to_header()) for band in "gr"]
    assert Observation.read(paths).wcs is not None


# --- cuts -----------------------------------------------------------------------------------

LARGE = (200, 240)


def large(path, compressed=False, **cards):
    """A large image whose pixels tell their place, with mask and noise."""
    rows, columns = np.indices(LARGE)
    image = (rows + columns / 1000).astype(np.float32)
    header = wcs(shape=LARGE).to_header()
    header.update({"FILTER": "r", "BUNIT": "nJy"} | cards)
    mask = np.zeros(LARGE, np.uint8)
    mask[100, 120] = 1
    if compressed:
        make = lambda data, name, header=None: fits.CompImageHDU(  # noqa: E731
            data, header, name=name, compression_type="GZIP_2", quantize_level=0
        )
    else:
        make = lambda data, name, header=None: fits.ImageHDU(data, header, name=name)  # noqa: E731
    hdus = [make(image, "IMAGE", header), make(np.ones(LARGE, np.float32), "VARIANCE")]
    return write(path, *hdus, make(mask, "MASK"), hdu(psf(), "PSF"))


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "c.fits.fz"])
def test_cut(tmp_path, name):
    path = large(tmp_path / name, compressed=name.endswith("fz"))
    whole = Observation.read(path)
    assert whole.corner == (0, 0)
    position = whole.wcs.pixel_to_world(123.0, 98.0)
    for at in ((position.ra.deg, position.dec.deg), position, position.galactic):
        obs = Observation.read(path, position=at, size=4.2)
        assert obs.shape == (21, 21)
        assert obs.corner == (88, 113)
        np.testing.assert_array_equal(obs.images, whole.images[:, 88:109, 113:134])
        assert np.argwhere(obs.weights == 0).tolist() == [[0, 12, 7]]
        x, y = obs.wcs.world_to_pixel(position)
        assert (x, y) == (pytest.approx(10, abs=1e-6), pytest.approx(10, abs=1e-6))
    assert Observation.read(path, position=position, size=4.2 * units.arcsec).shape == (21, 21)
    for at in (("150.0", "2.0"), ("10:00:00", "+02:00:00"), ("10h00m00s", "2d00m00s")):
        assert Observation.read(path, position=at, size=4.0).corner == (90, 110)


def test_cut_takes_noise_and_mask_of_their_own_files(tmp_path):
    path = large(tmp_path / "a.fits")
    variance = np.arange(np.prod(LARGE), dtype=np.float32).reshape(LARGE) + 1
    extra = write(tmp_path / "n.fits", primary=variance)
    obs = Observation.read(
        path, noise=extra, noise_kind="variance", position=(150.0, 2.0), size=2.0
    )
    row, column = obs.corner
    expected = variance[row : row + 10, column : column + 10]
    expected = np.where(obs.weights[0] == 0, np.inf, expected)
    np.testing.assert_allclose(obs.weights[0], 1 / expected, rtol=1e-6)


def test_cut_of_a_cube_and_of_several_files(tmp_path):
    paths = [large(tmp_path / f"{b}.fits", FILTER=b) for b in "gr"]
    obs = Observation.read(paths, position=(150.0, 2.0), size=2.0)
    assert obs.images.shape == (2, 10, 10)
    cube = np.stack([noise(0), noise(1)])
    path = field(tmp_path / "c.fits", image=cube, cards=wcs().to_header())
    obs = Observation.read(path, position=(150.0, 2.0), size=2.0)
    row, column = obs.corner
    np.testing.assert_array_equal(obs.images, cube[:, row : row + 10, column : column + 10])


def test_cut_at_the_border_is_said(tmp_path):
    path = large(tmp_path / "a.fits")
    sky = wcs(shape=LARGE).pixel_to_world(2.0, 3.0)
    with pytest.warns(FileWarning, match=r"which is 14 x 13 instead of 20 x 20 pixels"):
        obs = Observation.read(path, position=sky, size=4.0)
    assert obs.corner == (0, 0)
    assert obs.wcs.world_to_pixel(sky)[0] == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": (150.0, 2.0)}, "give both"),
        ({"size": 3.0}, "give both"),
        ({"position": (150.0, 3.0), "size": 3.0}, "position 150, 3 is outside a.fits"),
        ({"position": (330.0, -2.0), "size": 3.0}, "position 330, -2 is outside a.fits"),
        ({"position": ("10:00:00", "x"), "size": 3.0}, "position is .*; give"),
        ({"position": 150.0, "size": 3.0}, r"position is 150.0; give \(RA, Dec\)"),
        ({"position": ("a", "b"), "size": 3.0}, "position is .*; give"),
        ({"position": (np.nan, 2.0), "size": 3.0}, "give finite degrees"),
        ({"position": (150.0, 200.0), "size": 3.0}, "position is"),
        ({"position": (150.0, 2.0), "size": -3.0}, "size is -3 arcsec"),
        ({"position": (150.0, 2.0), "size": 0.01}, r"size is 0.01 arcsec, less than a pixel of a"),
        ({"position": (150.0, 2.0), "size": "big"}, "size is 'big'; give arcseconds"),
        ({"position": (150.0, 2.0), "size": 3 * units.m}, "size is .* m.*; give arcseconds"),
        ({"position": SkyCoord([1, 2], [1, 2], unit="deg"), "size": 3.0}, "several places"),
    ],
)
def test_errors_of_cuts(tmp_path, options, message):
    path = large(tmp_path / "a.fits")
    with pytest.raises(InputError, match=message):
        Observation.read(path, **options)


def test_no_cut_without_a_wcs(tmp_path):
    with pytest.raises(InputError, match=r"a\.fits has no WCS to cut by"):
        Observation.read(field(tmp_path / "a.fits"), position=(150.0, 2.0), size=2.0)
