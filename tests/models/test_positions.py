import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.positions._reading import read_positions

#: Height 20, width 30; x of the first source would be a row outside.
XY = np.array([[25.25, 4.5], [3.0, 17.0], [12.0, 9.0]])
ROW_COLUMN = XY[:, ::-1]


def make_obs(wcs=True):
    header = WCS(naxis=2)
    header.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    header.wcs.crval = [150.0, 2.0]
    header.wcs.crpix = [15.0, 10.0]
    header.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    pixels = np.ones((1, 20, 30))
    return Observation.from_arrays(
        pixels, variance=pixels, psfs=np.ones((1, 1)), wcs=header if wcs else None
    )


OBS = make_obs()
SKY = OBS.wcs.pixel_to_world(*XY.T)


def table(**columns):
    return Table({"x": XY[:, 0], "y": XY[:, 1], **columns})


def test_arrays_are_x_y():
    positions = read_positions(XY, OBS)
    assert positions.row_column.dtype == np.float64
    np.testing.assert_array_equal(positions.row_column, ROW_COLUMN)
    assert positions.ids == ("0", "1", "2")
    assert positions.is_point.dtype == bool
    assert not positions.is_point.any()
    assert len(positions) == 3
    np.testing.assert_array_equal(read_positions(XY.tolist(), OBS).row_column, ROW_COLUMN)


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (("x", "y"), 0),
        (("X", "Y"), 0),
        (("xcentroid", "ycentroid"), 0),
        (("x_centroid", "y_centroid"), 0),
        (("x_pixel", "y_pixel"), 0),
        (("x_center", "y_center"), 0),
        (("xcenter", "ycenter"), 0),
        (("XCENTER", "YCENTER"), 1),
        (("X_IMAGE", "Y_IMAGE"), 1),
        (("XWIN_IMAGE", "YWIN_IMAGE"), 1),
    ],
)
def test_pixel_columns(names, first):
    source = Table(dict(zip(names, XY.T + first)))
    np.testing.assert_allclose(read_positions(source, OBS).row_column, ROW_COLUMN)
    source = QTable(dict(zip(names, (XY.T + first) * units.pix)))
    np.testing.assert_allclose(read_positions(source, OBS).row_column, ROW_COLUMN)


@pytest.mark.parametrize("names", [("ra", "dec"), ("RA", "DEC"), ("ALPHA_J2000", "DELTA_J2000")])
@pytest.mark.parametrize("kind", [Table, QTable])
def test_sky_columns(names, kind):
    ra, dec = SKY.ra.to(units.rad), SKY.dec.to(units.rad)
    if kind is Table:
        ra, dec = ra.to_value("deg"), dec.to_value("deg")
    source = kind(dict(zip(names, (ra, dec))))
    np.testing.assert_allclose(read_positions(source, OBS).row_column, ROW_COLUMN, atol=1e-5)


@pytest.mark.parametrize("name", ["sky", "coord"])
def test_skycoord_columns(name):
    source = Table({name: SKY.galactic})
    np.testing.assert_allclose(read_positions(source, OBS).row_column, ROW_COLUMN, atol=1e-5)


@pytest.mark.parametrize("ending", [".ecsv", ".csv", ".txt", ".dat", ".fits"])
def test_files(tmp_path, ending):
    source = table(id=["a", "b", "c"], is_star=[True, False, True])
    path = tmp_path / f"c{ending}"
    formats = {".txt": "ascii", ".dat": "ascii.commented_header"}
    source.write(path, format=formats.get(ending))
    for given in (path, str(path)):
        positions = read_positions(given, OBS)
        np.testing.assert_allclose(positions.row_column, ROW_COLUMN)
        assert positions.ids == ("a", "b", "c")
        assert positions.is_point.tolist() == [True, False, True]


def test_skycoord_in_ecsv(tmp_path):
    Table({"id": [7, 8, 9], "sky": SKY}).write(tmp_path / "c.ecsv")
    positions = read_positions(tmp_path / "c.ecsv", OBS)
    np.testing.assert_allclose(positions.row_column, ROW_COLUMN, atol=1e-5)
    assert positions.ids == ("7", "8", "9")


def test_npz(tmp_path):
    catalog = np.zeros(3, [("x", float), ("y", float), ("is_star", bool), ("sed", float, 4)])
    catalog["x"], catalog["y"], catalog["is_star"] = *XY.T, [0, 1, 0]
    np.savez(tmp_path / "c.npz", catalog=catalog)
    positions = read_positions(tmp_path / "c.npz", OBS)
    np.testing.assert_array_equal(positions.row_column, ROW_COLUMN)
    assert positions.is_point.tolist() == [False, True, False]
    np.savez(tmp_path / "d.npz", other=catalog)
    with pytest.raises(InputError, match=r"d\.npz holds no array `catalog`; found other"):
        read_positions(tmp_path / "d.npz", OBS)


def test_fits_prefers_the_catalog_extension(tmp_path):
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(Table({"a": [1]}))]
    hdus.append(fits.table_to_hdu(table()))
    hdus[-1].name = "CATALOG"
    fits.HDUList(hdus).writeto(tmp_path / "c.fits")
    assert len(read_positions(tmp_path / "c.fits", OBS)) == 3
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "d.fits")
    with pytest.raises(InputError, match=r"d\.fits holds no table"):
        read_positions(tmp_path / "d.fits", OBS)


def test_catalogs_of_this_package_remember_points():
    assert read_positions(
        table(model=["point", "profile", "free-form"]), OBS
    ).is_point.tolist() == [True, False, False]
    # Another program's column of that name says nothing of stars.
    assert not read_positions(table(model=["point", "a", "b"]), OBS).is_point.any()


def test_types_of_ned():
    source = table(type=["*", "QSO", "G"])
    with pytest.warns(
        FileWarning, match="of the types qso in the column 'type' are modeled as gal"
    ):
        assert read_positions(source, OBS).is_point.tolist() == [True, False, False]


def test_types():
    for words, expected in (
        (["star", "galaxy", "Point"], [True, False, True]),
        ([b"psf", b"extended", b"galaxy"], [True, False, False]),
    ):
        assert read_positions(table(type=words), OBS).is_point.tolist() == expected
    assert read_positions(table(is_star=[1, 0, 0]), OBS).is_point.tolist() == [True, False, False]
    words = ["True", "False", "True"]
    assert read_positions(table(is_star=words), OBS).is_point.tolist() == [True, False, True]


def test_edges_and_margin():
    edge = [[-0.5, -0.5], [29.49, 19.49]]
    assert len(read_positions(edge, OBS)) == 2
    for outside in ([29.5, 3.0], [3.0, 19.5], [-0.51, 3.0]):
        with pytest.raises(InputError, match="outside the image"):
            read_positions([outside], OBS)
        with pytest.warns(FileWarning, match=r"^1 just outside was kept \(margin 1 px\)\.$"):
            assert len(read_positions([outside], OBS, margin=1.0)) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Table(), "no rows"),
        (np.zeros((0, 2)), "no rows"),
        (table()[:0], "no rows"),
        (np.ones((2, 3)), r"positions have the shape \(2, 3\); give \[K, 2\]"),
        (Table({"a": [1], "b": [2]}), r"no columns of positions; .* found a, b\."),
        (Table({"x": [1.0]}), r"found x\."),
        (Table({"x": ["one"], "y": [2.0]}), "column 'x' does not hold numbers"),
        (QTable({"x": [1.0] * units.s, "y": [2.0] * units.pix}), "column 'x' is in s; give it in"),
        ([[np.nan, 1.0], [2.0, 2.0]], r"1 position\(s\) are not finite or missing, .* '0'"),
        (
            Table({"x": MaskedColumn([1, 5], mask=[False, True]), "y": [1, 2]}),
            "not finite or missing, first of source '1'",
        ),
        (Table({"ra": [np.nan], "dec": [0.0]}), "not finite"),
        (Table({"ra": [150.0], "dec": [91.0]}), "row 0 has the declination 91 degrees in 'dec'"),
        (
            [[1.0, 41.0], [4.5, 25.25]],
            r"2 of 2 source\(s\) are outside the image of 30 x 20 pixels, first source '0' at "
            r"\(x = 1\.00, y = 41\.00\); .* columns \(x and y were taken\)",
        ),
        (Table({"ra": [150.1], "dec": [2.0]}), "outside the image of 30 x 20"),
        (
            Table({"ra": [330.0], "dec": [-2.0]}),
            "outside the image of 30 x 20 .* a place far from it on the sky",
        ),
        (
            [[1.0, 1.0], [9.0, 9.0], [9.3, 9.3]],
            r"1 pair\(s\) of sources are at the same place .* first '1' and '2'",
        ),
        (table(id=["a", "b", "a"]), "id 'a' stands twice"),
        (table(type=["star", "galaxy", "quasar"]), "source '2' has the type 'quasar'; give star"),
        (table(is_star=[0, 1, 2]), "'is_star' must hold true or false"),
        (table(is_star=["y", "n", "so so"]), "must hold true or false .* source '2' has 'so so'"),
    ],
)
def test_errors(source, message):
    with pytest.raises(InputError, match=message):
        read_positions(source, OBS)


def test_sky_needs_a_wcs():
    source = Table({"ra": SKY.ra.deg, "dec": SKY.dec.deg})
    with pytest.raises(InputError, match="positions on the sky but the observation has no WCS"):
        read_positions(source, make_obs(wcs=False))
    with pytest.raises(InputError, match="has no WCS"):
        read_positions(Table({"sky": SkyCoord(SKY)}), make_obs(wcs=False))


def test_pixels_are_taken_where_none_is_in_the_image_by_the_sky():
    source = table(ra=[0.0, 0.0, 0.0], dec=[0.0, 0.0, 0.0])
    with pytest.warns(FileWarning, match="by ra and dec no source .* x and y were taken"):
        found = read_positions(source, OBS)
    np.testing.assert_array_equal(found.row_column, ROW_COLUMN)


def test_errors_of_files(tmp_path):
    with pytest.raises(InputError, match="no catalog at"):
        read_positions(tmp_path / "no.csv", OBS)
    with pytest.raises(InputError, match="is a folder"):
        read_positions(tmp_path, OBS)
    (tmp_path / "a.csv").touch()
    with pytest.raises(InputError, match=r"a\.csv is empty"):
        read_positions(tmp_path / "a.csv", OBS)
    (tmp_path / "b.ecsv").write_text("# %ECSV 1.0\nx,y\n1,2\n")
    with pytest.raises(InputError, match=r"b\.ecsv is not a readable table"):
        read_positions(tmp_path / "b.ecsv", OBS)
    (tmp_path / "c.txt").write_text("1.0 2.0\n3.0 4.0\n")
    with pytest.raises(InputError, match=r"c\.txt: the columns have no names .* '1\.0 2\.0'"):
        read_positions(tmp_path / "c.txt", OBS)
