"""One test per convention of columns: surveys, programs, and objects of Python."""

import dataclasses

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.positions._columns import PIXEL_COLUMNS, SKY_COLUMNS, first_pixel
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.data.positions._reading import read_positions

XY = np.array([[25.25, 4.5], [3.0, 17.0], [12.0, 9.0]])
ROW_COLUMN = XY[:, ::-1]


def observation(center=(150.0, 2.0), images=None, scale=0.2):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = center
    wcs.wcs.crpix = [15.0, 10.0]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    images = np.ones((1, 20, 30)) if images is None else images
    return Observation.from_arrays(
        images, variance=np.ones_like(images), psfs=np.ones((1, 1)), wcs=wcs
    )


OBS = observation()
SKY = OBS.wcs.pixel_to_world(*XY.T)
RA, DEC = SKY.ra.deg, SKY.dec.deg
ELSEWHERE = {"x": [14025.0, 14003.0, 14012.0], "y": [8004.0, 8017.0, 8009.0]}


def check(source, obs=OBS, **options):
    found = read_positions(source, obs, **options)
    np.testing.assert_allclose(found.row_column, ROW_COLUMN, atol=1e-4)
    return found


@pytest.mark.parametrize(("x", "y", "first"), PIXEL_COLUMNS)
def test_pixel_columns(x, y, first):
    first = first_pixel(x.upper(), first)
    check(Table({x.upper(): XY[:, 0] + first, y: XY[:, 1] + first}))


def test_apertures_of_photutils():
    aperture = pytest.importorskip("photutils.aperture")
    table = aperture.aperture_photometry(OBS.images[0], aperture.CircularAperture(XY, 2.0))
    check(table)


@pytest.mark.parametrize(("lon", "lat", "frame"), SKY_COLUMNS)
def test_sky_columns(lon, lat, frame):
    sky = SKY.transform_to(frame).spherical
    check(Table({lon: sky.lon.deg, lat.upper(): sky.lat.deg}))


def regions_of(kind):
    regions = pytest.importorskip("regions")
    if kind == "sky":
        return regions.Regions([regions.CircleSkyRegion(one, 1 * units.arcsec) for one in SKY])
    return [regions.CirclePixelRegion(regions.PixCoord(x, y), 2) for x, y in XY]


def frame_of(package, columns):
    return pytest.importorskip(package).DataFrame(columns)


def named_frame():
    pandas = pytest.importorskip("pandas")
    index = pandas.Index(["a", "b", "c"], name="id")
    return pandas.DataFrame({"ra": RA, "dec": DEC}, index=index)


def photutils_catalog():
    detection = pytest.importorskip("photutils.segmentation")
    image = np.zeros((20, 30))
    segments = np.zeros(image.shape, int)
    for number, (row, column) in enumerate(np.round(ROW_COLUMN).astype(int), 1):
        image[row, column], segments[row, column] = 5.0, number
    return detection.SourceCatalog(image, detection.SegmentationImage(segments))


SOURCES = {
    "SkyCoord": lambda: SKY,
    "SkyCoord of another frame": lambda: SKY.galactic,
    "list of SkyCoord": lambda: list(SKY),
    "Table": lambda: Table({"ra": RA, "dec": DEC}),
    "QTable": lambda: QTable({"ra": SKY.ra, "dec": SKY.dec.to(units.rad)}),
    "QTable of hours": lambda: QTable({"ra": SKY.ra.to(units.hourangle), "dec": SKY.dec}),
    "dictionary": lambda: {"ra": RA, "dec": DEC},
    "dictionary of lists": lambda: {"y": XY[:, 1].tolist(), "x": XY[:, 0].tolist()},
    "dictionary of quantities": lambda: {"ra": SKY.ra, "dec": SKY.dec},
    "list of dictionaries": lambda: [{"y": y, "x": x} for x, y in XY],
    "DataFrame": lambda: frame_of("pandas", {"ra": RA, "dec": DEC}),
    "DataFrame of y, x": lambda: frame_of("pandas", {"y": XY[:, 1], "x": XY[:, 0]}),
    "DataFrame with more columns": lambda: frame_of(
        "pandas", {"name": list("abc"), "mag": [20.0, 21, 22], "DEC": DEC, "RA": RA}
    ),
    "DataFrame with a named index": named_frame,
    "DataFrame of objects": lambda: frame_of("pandas", {"x": XY[:, 0], "y": XY[:, 1]}).astype(
        object
    ),
    "structured array": lambda: np.array(Table({"dec": DEC, "ra": RA})),
    "record array": lambda: np.rec.fromarrays([XY[:, 1], XY[:, 0]], names=["y", "x"]),
    "regions": lambda: regions_of("sky"),
    "list of regions of pixels": lambda: regions_of("pixels"),
    "quantities of degrees": lambda: np.stack([RA, DEC], 1) * units.deg,
    "quantities of pixels": lambda: XY * units.pix,
    "positions": lambda: Positions(("a", "b", "c"), ROW_COLUMN, np.zeros(3, bool)),
    "list of pairs": lambda: XY.tolist(),
}


@pytest.mark.parametrize("name", SOURCES)
def test_objects_of_python(name):
    check(SOURCES[name]())


@pytest.mark.parametrize(("name", "unit"), [("ra", "Degrees"), ("x", "pixels")])
def test_words_for_units(name, unit):
    other, values = ("dec", (RA, DEC)) if name == "ra" else ("y", XY.T)
    unit = units.Unit(unit, parse_strict="silent")
    check(Table({n: Column(v, unit=unit) for n, v in zip((name, other), values, strict=True)}))


def test_frames_with_wrong_columns():
    with pytest.raises(InputError, match=r"no columns of positions; .* found 0, 1\."):
        read_positions(frame_of("pandas", XY), OBS)
    doubled = frame_of("pandas", {"x": XY[:, 0], "y": XY[:, 1], "z": XY[:, 0]})
    doubled.columns = ["x", "y", "x"]
    with pytest.raises(InputError, match="the DataFrame of positions is no table"):
        read_positions(doubled, OBS)


def test_names_of_an_index():
    assert check(named_frame()).ids == ("a", "b", "c")


def test_a_catalog_of_photutils():
    found = read_positions(photutils_catalog(), OBS)
    np.testing.assert_allclose(found.row_column, np.round(ROW_COLUMN))
    assert found.ids == ("1", "2", "3")


def test_one_source():
    assert len(read_positions({"x": 3.0, "y": 4.0}, OBS)) == 1
    assert len(read_positions(SKY[0], OBS)) == 1
    assert len(read_positions(Table({"x": [3.0], "y": [4.0]})[0], OBS)) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"x": [1.0, 2.0], "y": [1.0]}, r"dict of positions is no table: .* 1, 2 rows"),
        ({"a": [1.0]}, "no columns of positions"),
        (np.ones((2, 2)) * units.s, "column 'x' is in s; give it in pix"),
        (np.ones(3) * units.deg, r"shape \(3,\); give \[K, 2\]"),
        (object(), "array of positions has the type object"),
        ([["a", "b"]], "array of positions has the type"),
        ({"ra": ["10:00:00"], "dec": ["abc"]}, "column 'dec' holds 'abc', which is no angle"),
        ({"x": [None, 3.0], "y": [2.0, 3.0]}, r"1 position\(s\) are not finite"),
        ({"ra": np.array([1.0]) * units.m, "dec": [2.0]}, "column 'ra' is in m"),
        (None, "array of positions has the type object"),
        ([SkyCoord(1, 2, unit="deg"), 3], "the list of positions is no table"),
        (
            Table({"x": [1.0], "y": [2.0], "deblend_nChild": ["a"]}),
            "column 'deblend_nChild' does not hold numbers",
        ),
        (
            Table(
                {"ra": Column([1.0], unit=units.Unit("cubit", parse_strict="silent")), "dec": [2]}
            ),
            "column 'ra' is in cubit; give it in deg",
        ),
    ],
)
def test_wrong_objects(source, message):
    with pytest.raises(InputError, match=message):
        read_positions(source, OBS)


# Surveys: the columns that bear on positions, as their tables have them.
SURVEYS = {
    "Rubin Object": {"objectId": [11, 12, 13], "coord_ra": RA, "coord_dec": DEC, **ELSEWHERE},
    "Euclid MER": {"OBJECT_ID": [11, 12, 13], "RIGHT_ASCENSION": RA, "DECLINATION": DEC},
    "Tractor": {
        "objid": [11, 12, 13],
        "brickid": [5, 5, 5],
        "ra": RA,
        "dec": DEC,
        "bx": ELSEWHERE["x"],
        "by": ELSEWHERE["y"],
        "type": ["PSF", "REX", "SER"],
    },
    "Gaia": {"source_id": [11, 12, 13], "ra": RA, "dec": DEC, "phot_g_mean_mag": [20.0, 21, 22]},
    "DES": {"COADD_OBJECT_ID": [11, 12, 13], "RA": RA, "DEC": DEC},
    "SExtractor": {
        "NUMBER": [11, 12, 13],
        "X_IMAGE": XY[:, 0] + 1,
        "Y_IMAGE": XY[:, 1] + 1,
        "ALPHA_J2000": RA,
        "DELTA_J2000": DEC,
    },
    "SourceXtractor++": {
        "source_id": [11, 12, 13],
        "pixel_centroid_x": XY[:, 0] + 1,
        "pixel_centroid_y": XY[:, 1] + 1,
        "world_centroid_alpha": RA,
        "world_centroid_delta": DEC,
    },
    "Pan-STARRS": {"objID": [11, 12, 13], "raMean": RA, "decMean": DEC},
}
SAID = {"Rubin Object": "coord_ra and coord_dec were taken", "Tractor": "ra and dec were taken"}


@pytest.mark.parametrize("name", SURVEYS)
def test_surveys(name):
    if name in SAID:
        with pytest.warns(FileWarning, match=SAID[name]):
            found = check(Table(SURVEYS[name]))
    else:
        found = check(Table(SURVEYS[name]))
    assert found.ids == ("11", "12", "13")
    assert found.is_point.tolist() == [name == "Tractor", False, False]


@pytest.mark.parametrize(
    ("ra", "dec", "center", "how"),
    [
        (np.radians(RA), np.radians(DEC), (150.0, 2.0), "were read as radians"),
        (RA / 15, DEC, (150.0, 2.0), "were read as hours and degrees"),
    ],
)
def test_numbers_without_a_unit_are_what_puts_sources_into_the_image(ra, dec, center, how):
    with pytest.warns(FileWarning, match=f"coord_ra and coord_dec {how}: in degrees no source"):
        check(Table({"coord_ra": ra, "coord_dec": dec}), observation(center))


def test_sexagesimal_degrees_below_24():
    obs = observation((15.2, 2.0))
    sky = obs.wcs.pixel_to_world(*XY.T)
    ra = sky.ra.to_string(unit="deg", sep=":", precision=6)
    dec = sky.dec.to_string(unit="deg", sep=":", precision=6)
    with pytest.warns(FileWarning, match="ra and dec were read as degrees: in hours no source"):
        check(Table({"ra": ra, "dec": dec}), obs)


def test_a_unit_is_not_doubted():
    table = QTable({"coord_ra": RA * units.rad, "coord_dec": np.radians(DEC) * units.rad})
    with pytest.raises(InputError, match="outside the image"):
        read_positions(table, OBS)


def test_pixels_counted_from_one_are_named():
    table = Table({"x": XY[:, 0] + 1, "y": XY[:, 1] + 1, "ra": RA, "dec": DEC})
    with pytest.warns(
        FileWarning, match=r"\(\+1\.0, \+1\.0\) px, as if they counted pixels from 1"
    ):
        check(table)


def test_columns_of_pixels_that_differ_are_said():
    table = Table({"XWIN_IMAGE": XY[:, 0] + 1, "YWIN_IMAGE": XY[:, 1] + 1})
    table["X_IMAGE"], table["Y_IMAGE"] = XY[:, 0] + 1.2, XY[:, 1] + 1
    check(table)
    table["X_IMAGE"][1] += 2
    with pytest.warns(
        FileWarning, match=r"XWIN_IMAGE and .* X_IMAGE and Y_IMAGE differ .* 2\.2 px"
    ):
        check(table)


def test_pixels_of_the_whole_file_are_moved_to_a_cut():
    cut = dataclasses.replace(OBS, corner=(100, 200))
    with pytest.warns(FileWarning, match=r"pixels of the whole file, .* \(x, y\) = \(200, 100\)"):
        check(XY + np.array([200, 100]), cut)
    with pytest.warns(FileWarning, match="taken as pixels of the cut"):
        check(XY, cut)
    both = Table({"x": XY[:, 0] + 200, "y": XY[:, 1] + 100, "ra": RA, "dec": DEC})
    check(both, cut)


WORDS = {
    "true": (["true", "false", "false"], "is_star"),
    "TRUE": (["TRUE", "FALSE", "FALSE"], "is_star"),
    "T": (["T", "F", "F"], "is_star"),
    "yes": (["yes", "no", "No"], "is_star"),
    "numbers": ([1, 0, 0], "is_star"),
    "floats": ([1.0, 0.0, np.nan], "is_star"),
    "words": (["star", "galaxy", "galaxy"], "is_point"),
    "missing": (MaskedColumn([True, True, False], mask=[False, True, False]), "is_star"),
    "star": (["Star", "galaxy", "extended"], "type"),
    "PSF": (["PSF ", "EXP ", "DEV "], "type"),
    "Tractor": ([b"PSF", b"REX", b"SER"], "type"),
    "NED": (["*", "G", "G"], "type"),
    "SDSS": ([6, 3, 3], "type"),
    "class": (["STAR", "GALAXY", "GALAXY"], "class"),
}


@pytest.mark.parametrize("name", WORDS)
def test_stars(name):
    values, column = WORDS[name]
    found = check(Table({"x": XY[:, 0], "y": XY[:, 1], column: values}))
    assert found.is_point.tolist() == [True, False, False]


@pytest.mark.parametrize("column", ["CLASS_STAR", "refExtendedness", "POINT_LIKE_PROB"])
def test_degrees_of_being_a_star_are_not_used_in_silence(column):
    with pytest.warns(FileWarning, match=f"the column {column} is a degree, not a decision"):
        found = check(Table({"x": XY[:, 0], "y": XY[:, 1], column: [0.9, 0.1, 0.2]}))
    assert not found.is_point.any()


def test_a_class_of_something_else_is_said():
    with pytest.warns(FileWarning, match="'class' holds 'b', which is neither star nor galaxy"):
        check(Table({"x": XY[:, 0], "y": XY[:, 1], "class": [["a", "b", "c"][1]] * 3}))


def test_entries_that_are_no_sources_are_left_out():
    one = np.array([0, 1, 2, 2])
    table = Table({"ra": RA[one], "dec": DEC[one], "detect_isPrimary": [True, True, True, False]})
    with pytest.warns(FileWarning, match=r"1 of 4 rows of the catalog are not primary"):
        check(table)
    table = Table({"ra": RA[one], "dec": DEC[one], "deblend_nChild": [0, 0, 0, 3]})
    with pytest.warns(FileWarning, match=r"1 of 4 rows of the catalog are blends"):
        check(table)
    table = Table({"ra": RA[one], "dec": DEC[one], "type": ["PSF", "REX", "EXP", "DUP"]})
    with pytest.warns(FileWarning, match=r"1 of 4 rows of the catalog are duplicates"):
        check(table)
    with (
        pytest.warns(FileWarning, match="not primary"),
        pytest.raises(InputError, match="no rows of sources"),
    ):
        read_positions(Table({"x": [1.0], "y": [2.0], "brick_primary": [False]}), OBS)


def test_numbers_that_are_counted_anew_in_each_brick():
    table = Table({"ra": RA, "dec": DEC, "objid": [1, 2, 1], "brickid": [7, 7, 8]})
    assert check(table).ids == ("7-1", "7-2", "8-1")
    table["brickid"] = [7, 7, 7]
    with pytest.raises(InputError, match=r"the id '7-1' stands twice .* \(column 'objid'\)"):
        check(table)


def gaussian(places, flux, shape=(40, 60), width=1.7):
    rows, columns = np.indices(shape)
    squared = [(rows - r) ** 2 + (columns - c) ** 2 for c, r in places]
    return sum(
        f * np.exp(-s / 2 / width**2) / (2 * np.pi * width**2) for f, s in zip(flux, squared)
    )


class TestMargins:
    """Rows outside of the image, and those just outside that shine into it."""

    places = np.array([[30.0, 20.0], [12.0, 12.0], [-3.0, 30.0], [66.0, 8.0], [300.0, 8.0]])

    def observation(self):
        pixels = gaussian(self.places[:4], [900, 500, 5000, 20])
        pixels = pixels + np.random.default_rng(0).normal(size=pixels.shape)
        psf = gaussian([(7, 7)], [1.0], (15, 15))
        return Observation.from_arrays(pixels[None], variance=np.ones((1, 40, 60)), psfs=psf)

    def table(self, **columns):
        return Table({"x": self.places[:, 0], "y": self.places[:, 1], **columns})

    def test_without_brightness_a_few_pixels_count(self):
        with pytest.warns(
            FileWarning, match=r"2 of 5 sources .* left out; 1 just outside was kept \(their light"
        ):
            found = read_positions(self.table(), self.observation())
        assert found.ids == ("0", "1", "2")

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("FLUX_AUTO", np.array([900.0, 500, 9000, 20, 1e3])),
            ("MAG_AUTO", 25 - 2.5 * np.log10([900.0, 500, 9000, 20, 1e3])),
            ("flux_r", np.array([9.0, 5.0, 90, 0.2, 10]) * 1e-3),
        ],
    )
    def test_the_bright_ones_are_kept(self, name, values):
        obs, table = self.observation(), self.table(**{name: values})
        table["y"][3], table["x"][2] = 20.0, -9.0
        with pytest.warns(FileWarning, match="2 of 5 sources .*; 1 just outside"):
            assert read_positions(table, obs).ids == ("0", "1", "2")
        table[name][2] = 25 - 2.5 * np.log10(2) if "MAG" in name else values[3]
        with pytest.warns(FileWarning, match="^3 of 5 sources of the catalog are outside of the"):
            assert read_positions(table, obs).ids == ("0", "1")

    def test_a_margin_that_is_given(self):
        obs = self.observation()
        with pytest.warns(
            FileWarning, match=r"1 of 5 .*; 2 just outside were kept \(margin 8 px\)"
        ):
            assert read_positions(self.table(), obs, margin=8).ids == ("0", "1", "2", "3")
        with pytest.warns(FileWarning, match=r"^3 of 5 sources of the catalog are outside"):
            assert read_positions(self.table(), obs, margin=0).ids == ("0", "1")

    @pytest.mark.parametrize("margin", [-1, np.nan, "wide", [1, 2]])
    def test_no_margin(self, margin):
        with pytest.raises(InputError, match="margin"):
            read_positions(self.table(), self.observation(), margin=margin)


def test_survey_rows_far_from_the_image_do_not_trouble_its_wcs():
    ra = np.append(RA, [330.0, 10.0, 150.0])
    dec = np.append(DEC, [-2.0, 80.0, -89.0])
    with pytest.warns(FileWarning, match="^3 of 6 sources of the catalog are outside"):
        check(Table({"ra": ra, "dec": dec}))


class TestProperMotions:
    """Positions of a catalog are those of its epoch."""

    gaia = SURVEYS["Gaia"] | {"ref_epoch": [2016.0] * 3, "pmdec": [3.0, -4.0, 0.0]}

    @pytest.mark.parametrize("unit", ["mas / yr", "mas.yr**-1", None])
    def test_those_that_matter_are_said(self, unit):
        table = Table(self.gaia | {"pmra": [0.0, 120.0, np.nan]})
        table["pmra"].unit = unit
        said = r"1 of 3 sources move .* up to 120 mas a year.*\(ref_epoch 2016.0\): take them"
        with pytest.warns(FileWarning, match=said):
            check(table)

    def test_small_ones_are_not(self):
        check(Table(self.gaia | {"pmra": [0.0, 4.0, np.nan]}))

    def test_other_units_are_converted(self):
        table = Table(self.gaia | {"pmra": np.array([0.0, 120.0, 0.0]) / 3.6e6})
        table["pmra"].unit = "deg / yr"
        with pytest.warns(FileWarning, match="up to 120 mas a year"):
            check(table)
