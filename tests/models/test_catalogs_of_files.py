"""One test per kind of file that catalogs come in."""

import gzip

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.positions._reading import read_positions

XY = np.array([[25.25, 4.5], [3.0, 17.0], [12.0, 9.0]])


def sky_grid():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, -2.0]
    wcs.wcs.crpix = [15.0, 10.0]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    return wcs


PIXELS = np.ones((1, 20, 30))
OBS = Observation.from_arrays(PIXELS, variance=PIXELS, psfs=np.ones((1, 1)), wcs=sky_grid())
SKY = OBS.wcs.pixel_to_world(*XY.T)
RA, DEC = SKY.ra.deg, SKY.dec.deg


def rows(*columns, separator=","):
    return "\n".join(separator.join(map(str, row)) for row in zip(*columns, strict=True)) + "\n"


def sexagesimal(unit, separator=":"):
    return getattr(SKY, "ra" if unit == "hourangle" else "dec").to_string(
        unit=unit, sep=separator, precision=6, pad=True
    )


TEXTS = {
    "csv": "x,y\n" + rows(*XY.T),
    "csv with a byte order mark": "\ufeffx,y\n" + rows(*XY.T),
    "csv of Windows": ("x,y\n" + rows(*XY.T)).replace("\n", "\r\n"),
    "csv with quotes and blanks": '"x", "y", "comment"\n' + rows(*XY.T, ['"a, b"'] * 3),
    "csv with a comment before it": "#Table1\nobjID,ra,dec\n" + rows([7, 8, 9], RA, DEC),
    "tsv": "x\ty\n" + rows(*XY.T, separator="\t"),
    "semicolons": "x;y\n" + rows(*XY.T, separator=";"),
    "semicolons and decimal commas": "x;y\n" + rows(*XY.T, separator=";").replace(".", ","),
    "blanks": "x y\n" + rows(*XY.T, separator="   "),
    "bars": "x | y\n" + rows(*XY.T, separator=" | "),
    "names in a comment": "# x y\n" + rows(*XY.T, separator=" "),
    "names in a comment, commas": "# made by hand\n# x,y\n" + rows(*XY.T),
    "VizieR": "#RESOURCE=yCat\n\nRAJ2000\tDEJ2000\ndeg\tdeg\n"
    + "-" * 9
    + "\t"
    + "-" * 9
    + "\n"
    + rows(RA, DEC, separator="\t"),
    "VizieR, sexagesimal": '_RAJ2000;_DEJ2000\n"h:m:s";"d:m:s"\n--;--\n'
    + rows(sexagesimal("hourangle", " "), sexagesimal("deg", " "), separator=";"),
    "SExtractor": "#   1 NUMBER   Running object number\n#   2 X_IMAGE  along x  [pixel]\n"
    "#   3 Y_IMAGE  along y  [pixel]\n" + rows([1, 2, 3], *(XY.T + 1), separator=" "),
    "SourceXtractor++": "# Column: source_id long\n# Column: pixel_centroid_x double (pixel)\n"
    "# Column: pixel_centroid_y double (pixel)\n\n# source_id pixel_centroid_x pixel_centroid_y\n\n"
    + rows([1, 2, 3], *(XY.T + 1), separator=" "),
    "IPAC": "|ra         |dec        |\n|double     |double     |\n|deg        |deg        |\n"
    + "".join(f" {a:.7f} {d:.8f}\n" for a, d in zip(RA, DEC)),
    "hours": "ra,dec\n" + rows(sexagesimal("hourangle"), sexagesimal("deg")),
    "hours with blanks": "ra,dec\n" + rows(sexagesimal("hourangle", " "), sexagesimal("deg", " ")),
    "hours with letters": "ra,dec\n"
    + rows(sexagesimal("hourangle", "hms"), sexagesimal("deg", "dms")),
    "degrees, minutes and seconds": "ra,dec\n"
    + rows(SKY.ra.to_string(unit="deg", sep=":", precision=6), sexagesimal("deg")),
    "signs of typesetting": "ra,dec\n" + rows(RA, [f"\u2212{abs(d):.8f}" for d in DEC]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text(name, tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes(TEXTS[name].encode("utf-8"))
    np.testing.assert_allclose(read_positions(path, OBS).row_column, XY[:, ::-1], atol=2e-3)


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("utf-16", lambda text: text.encode("utf-16")),
        ("latin-1", lambda text: f"# \xe9toiles\n{text}".encode("latin-1")),
        ("gzip", lambda text: gzip.compress(text.encode())),
    ],
)
def test_encodings(name, encode, tmp_path):
    path = tmp_path / ("c.csv.gz" if name == "gzip" else "c.csv")
    path.write_bytes(encode(TEXTS["csv"]))
    np.testing.assert_allclose(read_positions(path, OBS).row_column, XY[:, ::-1])


def pixels(first=0, names=("x", "y")):
    return Table({"id": ["a", "b", "c"], **dict(zip(names, XY.T + first, strict=True))})


def sky(names=("ra", "dec")):
    return Table({"id": ["a", "b", "c"], **dict(zip(names, (RA, DEC), strict=True))})


def write_fits(path):
    pixels().write(path, format="fits")


def write_ldac(path):
    header = fits.table_to_hdu(Table({"Field Header Card": [b"SIMPLE  =  T"]}))
    objects = fits.table_to_hdu(pixels(1, ("X_IMAGE", "Y_IMAGE")))
    header.name, objects.name = "LDAC_IMHEAD", "LDAC_OBJECTS"
    fits.HDUList([fits.PrimaryHDU(), header, objects]).writeto(path)


def write_parquet(path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = {
        "id": ["a", "b", "c"],
        "coord_ra": RA,
        "coord_dec": DEC,
        "x": [9e3] * 3,
        "y": [8e3] * 3,
    }
    parquet.write_table(pyarrow.table(table), path)


def write_parquet_of_pandas(path):
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"ra": RA, "dec": DEC}, index=pandas.Index(list("abc"), name="id")).to_parquet(
        path
    )


def write_npy(path):
    np.save(path, np.array(pixels()))


FILES = {
    "c.fits": write_fits,
    "c.fits.gz": write_fits,
    "fits.cat": write_fits,
    "c.ldac": write_ldac,
    "ldac.cat": write_ldac,
    "c.ecsv": lambda path: sky().write(path, format="ascii.ecsv"),
    "c.xml": lambda path: sky().write(path, format="votable"),
    "c.vot": lambda path: sky(("RA_ICRS", "DE_ICRS")).write(path, format="votable"),
    "c.npy": write_npy,
    "pandas.parquet": write_parquet_of_pandas,
}


@pytest.mark.parametrize("name", FILES)
def test_files(name, tmp_path):
    FILES[name](tmp_path / name)
    found = read_positions(tmp_path / name, OBS)
    np.testing.assert_allclose(found.row_column, XY[:, ::-1], atol=1e-5)
    assert found.ids == ("a", "b", "c")


def test_sky_positions_of_parquet_are_preferred_to_pixels_of_a_tract(tmp_path):
    write_parquet(tmp_path / "objects.parq")
    with pytest.warns(FileWarning, match="x and y and coord_ra and coord_dec are apart"):
        found = read_positions(tmp_path / "objects.parq", OBS)
    np.testing.assert_allclose(found.row_column, XY[:, ::-1], atol=1e-5)


@pytest.mark.parametrize("package", ["pyarrow"])
def test_parquet_without_its_package_is_a_sentence(package, tmp_path, monkeypatch):
    (tmp_path / "c.parquet").write_bytes(b"PAR1" + b"\0" * 30)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(InputError, match=r"c\.parquet is Parquet, for which .* pyarrow is needed"):
        read_positions(tmp_path / "c.parquet", OBS)


def circles(places, template="circle({}, {}, 2)", more=("",) * 3):
    places = [one.split() if isinstance(one, str) else one for one in places]
    return "".join(template.format(*one) + m + "\n" for one, m in zip(places, more, strict=True))


REGIONS = {
    "image": "# Region file format: DS9 version 4.1\nglobal color=green dashlist=8 3\nimage\n"
    + circles(XY + 1),
    "icrs": "icrs\n" + circles(np.stack([RA, DEC], 1), 'circle({:.8f},{:.8f},1.2")'),
    "fk5 sexagesimal": "fk5\n"
    + circles(SKY.fk5.to_string("hmsdms", sep=":", precision=6), "ellipse({},{},1,2,30)"),
    "galactic": "galactic\n"
    + circles(np.stack([SKY.galactic.l.deg, SKY.galactic.b.deg], 1), "point({:.9f},{:.9f})"),
    "one line each": "".join(f"image;box({x},{y},3,4,20) # color=red\n" for x, y in XY + 1),
    "without brackets": "image\n" + circles(XY + 1, "circle {} {} 3"),
}


@pytest.mark.parametrize("name", REGIONS)
def test_regions(name, tmp_path):
    (tmp_path / "c.reg").write_text(REGIONS[name])
    found = read_positions(tmp_path / "c.reg", OBS)
    np.testing.assert_allclose(found.row_column, XY[:, ::-1], atol=2e-3)
    assert found.ids == ("0", "1", "2")


def test_names_of_regions(tmp_path):
    text = "image\n" + circles(XY + 1, more=(" # text={a}", ' # color=red text="b"', " # text={c}"))
    (tmp_path / "c.reg").write_text(text)
    assert read_positions(tmp_path / "c.reg", OBS).ids == ("a", "b", "c")


def test_regions_without_a_center_are_counted(tmp_path):
    text = "image\n-circle(3,3,2)\npolygon(1,1,5,1,5,5)\n" + circles(XY + 1)
    (tmp_path / "c.reg").write_text(text)
    with pytest.warns(FileWarning, match=r"2 region\(s\) without a center \(excluded, polygon\)"):
        assert len(read_positions(tmp_path / "c.reg", OBS)) == 3


def test_physical_regions_are_said(tmp_path):
    (tmp_path / "c.reg").write_text("physical\n" + circles(XY + 1))
    with pytest.warns(FileWarning, match="physical coordinates, which were taken as those of the"):
        found = read_positions(tmp_path / "c.reg", OBS)
    np.testing.assert_allclose(found.row_column, XY[:, ::-1])


WRONG = {
    "a web page": ("c.csv", b"<!DOCTYPE html><html>Log in</html>", "is a web page, not a catalog"),
    "an image": ("c.jpg", b"\xff\xd8\xff\xe0" + bytes(99), "neither text nor a table"),
    "cut gzip": ("c.csv.gz", gzip.compress(b"x,y\n1,2\n" * 99)[:20], "truncated"),
    "rows of other lengths": ("c.csv", b"x,y\n1,2\n3,4,5,6\n", "is not a readable table"),
    "numbers only": ("c.txt", b"1 2\n3 4\n", "the columns have no names"),
    "a comment only": ("c.txt", b"# x y\n", "there are no rows"),
    "a line of names only": ("c.csv", b"x,y\n", "has no rows"),
    "words in a column": ("c.csv", b"x,y\n1,2\none,3\n", "column 'x' does not hold numbers"),
    "no angle": (
        "c.csv",
        b"ra,dec\n10:xx:00,2\n",
        "column 'ra' holds '10:xx:00', which is no angle",
    ),
    "broken VOTable": ("c.xml", b"<VOTABLE><TABLE>", "not a readable VOTable"),
    "broken Parquet": ("c.parquet", b"PAR1" + bytes(30), "not a readable Parquet file"),
    "pickled npy": ("c.npy", b"\x93NUMPY" + bytes(30), "not a readable npy file"),
    "region in words": ("c.reg", b"image\nhello world\n", "the system or shape 'hello'"),
    "unknown system": ("c.reg", b"wcsq\ncircle(1,2,3)\n", "the line 'wcsq', which is no region"),
    "no numbers": ("c.reg", b"image\ncircle(a,b,3)\n", "'a b' is no position in image"),
    "mixed systems": ("c.reg", b"image;circle(1,2,3)\nfk5;circle(1,2,3)\n", "mixes the systems"),
    "polygons only": ("c.reg", b"image\n", "no region with a center"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(case, tmp_path):
    name, content, message = WRONG[case]
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_positions(tmp_path / name, OBS)


def test_several_tables_are_said(tmp_path):
    hdus = [fits.table_to_hdu(pixels()), fits.table_to_hdu(pixels()[:1])]
    hdus[0].name, hdus[1].name = "LEFT", "RIGHT"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "c.fits")
    with pytest.warns(FileWarning, match=r"2 tables with positions \(LEFT, RIGHT\); the first was"):
        assert len(read_positions(tmp_path / "c.fits", OBS)) == 3


def test_units_of_tables(tmp_path):
    table = QTable({"ra": SKY.ra.to(units.rad), "dec": SKY.dec.to(units.rad)})
    for name in ("c.fits", "c.vot", "c.ecsv"):
        kind = {"c.fits": "fits", "c.vot": "votable", "c.ecsv": "ascii.ecsv"}[name]
        table.write(tmp_path / name, format=kind)
        found = read_positions(tmp_path / name, OBS)
        np.testing.assert_allclose(found.row_column, XY[:, ::-1], atol=1e-5)


def test_a_coordinate_column_survives_a_file(tmp_path):
    Table({"sky": SkyCoord(RA, DEC, unit="deg")}).write(tmp_path / "c.ecsv")
    found = read_positions(tmp_path / "c.ecsv", OBS)
    np.testing.assert_allclose(found.row_column, XY[:, ::-1], atol=1e-5)
