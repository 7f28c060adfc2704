"""PSFs in the formats of their makers, written here after their documentation."""

import json
import sys

import galsim
import galsim.des
import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.psfs._piff import import_piff
from scorepriors.models.data.psfs._psfex import exponents
from scorepriors.models.data.psfs._read import read_psf
from scorepriors.models.data.psfs._resampling import center_of

SCALE = 0.2


def moffat(width):
    """A Moffat of a FWHM in pixels."""
    return galsim.Moffat(beta=3.5, fwhm=width)


def on_pixels(profile, size=25):
    image = profile.drawImage(nx=size, ny=size, scale=1, dtype=float).array
    return image / image.sum()


def effective(profile, size, step):
    """Samples of the profile with the response of a pixel, `step` pixels apart."""
    whole = galsim.Convolve(profile, galsim.Pixel(1.0))
    return whole.drawImage(nx=size, ny=size, scale=step, method="no_pixel", dtype=float).array


def close_to(found, truth, tolerance=0.01):
    size = min(len(found), len(truth))
    found, truth = (
        image[(edge := (len(image) - size) // 2) : edge + size, edge : edge + size]
        for image in (found, truth)
    )
    assert np.abs(found - truth).max() < tolerance * truth.max()
    np.testing.assert_allclose(center_of(found), [size // 2, size // 2], atol=0.01)


def tan_wcs(ra=150.0, dec=2.0, pixel=(500.5, 500.5), scale=SCALE):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [ra, dec], list(pixel)
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    return wcs


# --- STPSF ----------------------------------------------------------------------------------


def write_stpsf(
    path, width=4.0, oversampling=4, names=("OVERSAMP", "DET_SAMP", "OVERDIST", "DET_DIST")
):
    """Four HDUs; those with DIST hold the PSF, the others a sharper one without distortion."""
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for name in names:
        over = oversampling if name.startswith("OVER") else 1
        profile = moffat(width if "DIST" in name else 0.9 * width)
        # Of an even number of pixels, as STPSF makes them.
        image = profile.drawImage(nx=26 * over, ny=26 * over, scale=1 / over, dtype=float).array
        header = fits.Header({"PIXELSCL": SCALE / over, "OVERSAMP": 4, "DET_SAMP": over})
        header["FILTER"] = "F444W"
        hdus.append(fits.ImageHDU(image, header, name=name))
    hdus.writeto(path)
    return path


@pytest.mark.parametrize("scale", [SCALE, None])
def test_stpsf_is_taken_oversampled_with_distortion(tmp_path, scale):
    path = write_stpsf(tmp_path / "p.fits")
    if scale is None:
        found = read_psf(path, bands=("f444w",))
    else:
        with pytest.warns(
            FileWarning, match=r"OVERDIST\] has samples of 0.05 arcsec and the image"
        ):
            found = read_psf(path, bands=("f444w",), pixel_scale=scale)
    close_to(found[0], on_pixels(moffat(4.0)))


def test_stpsf_goes_to_drizzled_pixels(tmp_path):
    path = write_stpsf(tmp_path / "p.fits")
    with pytest.warns(FileWarning, match="summed over the image's pixels"):
        found = read_psf(path, bands=("f444w",), pixel_scale=SCALE / 2)
    close_to(found[0], on_pixels(moffat(8.0), 49))


def test_stpsf_of_another_filter_is_said_to_be(tmp_path):
    path = write_stpsf(tmp_path / "p.fits", names=("DET_DIST",))
    with (
        pytest.warns(FileWarning, match="says that its PSF is of F444W, but the band is f200w"),
        pytest.warns(UserWarning, match="not centered"),
    ):
        found = read_psf(path, bands=("f200w",), pixel_scale=SCALE)
    close_to(found[0], on_pixels(moffat(4.0)))


def test_stpsf_in_memory(tmp_path):
    with fits.open(write_stpsf(tmp_path / "p.fits"), memmap=False) as hdus:
        found = read_psf(hdus, bands=("f444w",))
        one = read_psf([hdus["OVERDIST"]], bands=("f444w",))
    close_to(found[0], on_pixels(moffat(4.0)))
    np.testing.assert_allclose(one, found, atol=1e-6)


# --- objects of GalSim ----------------------------------------------------------------------


def test_profiles_of_galsim_are_drawn():
    profile = moffat(4.0).dilate(SCALE)
    found = read_psf({"r": profile}, bands=("r",), pixel_scale=SCALE)
    close_to(found[0], on_pixels(moffat(4.0)))
    with pytest.raises(InputError, match="the Transformation has lengths in arcseconds, but the"):
        read_psf(profile, bands=("r",))


# --- PSFEx ----------------------------------------------------------------------------------


def write_psfex(path, step=0.5, size=61, **cards):
    """A PSF that is wider to the right and more elongated upwards."""
    base, wide = effective(moffat(3.0), size, step), effective(moffat(4.0), size, step)
    long = effective(moffat(3.0).shear(g1=0.1), size, step)
    zero = np.zeros_like(base)
    # 1, x, x^2, y, x y, y^2
    masks = np.stack([base, wide - base, zero, 2 * (long - base), zero, zero])
    column = fits.Column("PSF_MASK", f"{masks.size}E", dim=f"({size},{size},6)", array=masks[None])
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    values = {
        "POLNAXIS": 2,
        "POLGRP1": 1,
        "POLNAME1": "X_IMAGE",
        "POLZERO1": 501.0,
        "POLSCAL1": 1000.0,
        "POLGRP2": 1,
        "POLNAME2": "Y_IMAGE",
        "POLZERO2": 501.0,
        "POLSCAL2": 1000.0,
        "POLNGRP": 1,
        "POLDEG1": 2,
        "PSF_SAMP": step,
        "PSFNAXIS": 3,
        "PSFAXIS1": size,
        "PSFAXIS2": size,
        "PSFAXIS3": 6,
        "PSF_FWHM": 3.0,
        "LOADED": 100,
        "ACCEPTED": 90,
        "CHI2": 1.0,
    }
    hdu.header.update(values | cards)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return path


@pytest.mark.parametrize("name", ["p.psf", "p.fits"])
@pytest.mark.parametrize("step", [0.5, 0.7, 1.0])
def test_psfex_is_evaluated_at_the_place(tmp_path, name, step):
    path = write_psfex(tmp_path / name, step=step)
    close_to(read_psf(path, bands=("r",), place=(500, 500))[0], on_pixels(moffat(3.0)))
    right = read_psf(path, bands=("r",), place=(500, 1000))[0]
    truth = (on_pixels(moffat(3.0)) + on_pixels(moffat(4.0))) / 2
    close_to(right, truth)
    above = read_psf(path, bands=("r",), place=(1000, 500))[0]
    close_to(above, on_pixels(moffat(3.0).shear(g1=0.1)))


def test_psfex_agrees_with_galsim(tmp_path):
    path = write_psfex(tmp_path / "p.psf", step=0.6)
    there = galsim.des.DES_PSFEx(str(path)).getPSF(galsim.PositionD(301, 701))
    truth = there.drawImage(nx=25, ny=25, scale=1, method="no_pixel", dtype=float).array
    close_to(read_psf(path, bands=("r",), place=(700, 300))[0], truth / truth.sum(), 0.005)


def test_psfex_counts_from_the_corner_of_a_cut(tmp_path):
    path = write_psfex(tmp_path / "p.psf")
    images = np.ones((1, 11, 11))
    obs = Observation.from_arrays(
        images, variance=images, psfs=path, bands=("r",), corner=(995, 495)
    )
    close_to(obs.psfs[0], on_pixels(moffat(3.0).shear(g1=0.1)))


def test_psfex_of_a_field_that_an_image_is_a_part_of(tmp_path):
    path = write_psfex(tmp_path / "p.psf")
    images = np.ones((1, 11, 13))
    with pytest.warns(FileWarning, match=r"over a field of 1000 pixels, but the image has 13 x 11"):
        Observation.from_arrays(images, variance=images, psfs=path, bands=("r",))
    with pytest.warns(
        FileWarning, match=r"made for X_IMAGE from 1 to 1001, but the scene lies at 1400"
    ):
        read_psf(path, bands=("r",), place=(500, 1399))


def test_powers_are_in_the_order_of_psfex():
    assert exponents(2, 2) == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2)]
    assert exponents(1, 3) == [(0,), (1,), (2,), (3,)]
    assert exponents(0, 0) == [()]
    assert len(exponents(3, 2)) == 10


def test_psfex_that_varies_with_something_else(tmp_path):
    path = write_psfex(tmp_path / "p.psf", POLNAME1="MAG_AUTO")
    with pytest.warns(
        FileWarning, match="varies with MAG_AUTO, which is not known here; its mean 501"
    ):
        found = read_psf(path, bands=("r",), place=(500, 1000))
    close_to(found[0], on_pixels(moffat(3.0)))


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"POLDEG1": 3}, "6 images for a polynomial of 10 terms"),
        ({"POLNGRP": 2}, "several groups of variables"),
        ({"PSF_SAMP": 0.0}, "PSF_SAMP = 0; it must be positive"),
        ({"PSF_SAMP": "half"}, "the card PSF_SAMP holds 'half'; give a number"),
        ({"POLDEG1": "two"}, "the card POLDEG1 holds 'two'; give a number"),
        ({"POLDEG1": 1e30}, r"the card POLDEG1 holds 1e\+30; give 0 to 12"),
        ({"POLNAXIS": -1}, "the card POLNAXIS holds -1; give 0 to 12"),
    ],
)
def test_psfex_errors(tmp_path, cards, message):
    path = write_psfex(tmp_path / "p.psf", **cards)
    with pytest.raises(InputError, match=message):
        read_psf(path, bands=("r",), place=(1, 1))


# --- Piff -----------------------------------------------------------------------------------


def test_piff_does_not_change_the_precision(tmp_path, monkeypatch):
    (tmp_path / "piff.py").write_text("import jax\njax.config.update('jax_enable_x64', True)\n")
    monkeypatch.syspath_prepend(tmp_path)
    real = sys.modules.pop("piff", None)
    before = jax.config.jax_enable_x64
    try:
        assert import_piff().__file__ == str(tmp_path / "piff.py")
        assert jax.config.jax_enable_x64 == before
    finally:
        del sys.modules["piff"]
        if real is not None:
            sys.modules["piff"] = real


@pytest.fixture(scope="module")
def piff_psf():
    try:
        piff = import_piff()
    except ImportError:
        pytest.skip("Piff is not installed")
    sky = galsim.CelestialCoord(150 * galsim.degrees, 2 * galsim.degrees)
    affine = galsim.AffineTransform(SCALE, 0, 0, SCALE, origin=galsim.PositionD(500.5, 500.5))
    wcs = galsim.TanWCS(affine, sky, units=galsim.arcsec)
    rng = np.random.default_rng(0)
    stars = []
    for x, y in rng.uniform(50, 950, (12, 2)):
        place = galsim.PositionD(x, y)
        profile = galsim.Moffat(beta=3.5, fwhm=SCALE * (3 + x / 1000))
        image = profile.drawImage(nx=25, ny=25, wcs=wcs.local(place))
        image.setCenter(round(x), round(y))
        offset = place - image.true_center
        image = profile.drawImage(image, wcs=wcs.local(place), offset=offset)
        image.wcs = wcs
        weight = galsim.Image(np.full((25, 25), 1e8), xmin=image.xmin, ymin=image.ymin)
        data = piff.StarData(image, image_pos=place, weight=weight, pointing=sky)
        stars.append(piff.Star(data, None))
    psf = piff.SimplePSF(piff.Moffat(beta=3.5), piff.Polynomial(order=1))
    psf.fit(stars, {0: wcs}, sky)
    return psf


@pytest.mark.parametrize("how", ["object", "p.piff", "p.fits"])
def test_piff_is_drawn_at_the_place(tmp_path, piff_psf, how):
    psf = piff_psf
    if how != "object":
        psf = tmp_path / how
        piff_psf.write(str(psf))
    for column in (100, 800):
        truth = on_pixels(moffat(3 + column / 1000), 51)
        found = read_psf(psf, bands=("r",), place=(300, column), pixel_scale=SCALE)
        close_to(found[0], truth)
    # By the sky: pixels of another image, as a coadd's, are not those of the chip.
    sky = tuple(tan_wcs().all_pix2world(800, 300, 0))
    found = read_psf(psf, bands=("r",), place=(3, 3), sky=sky, pixel_scale=SCALE)
    close_to(found[0], truth)


def test_piff_goes_to_other_pixels(piff_psf):
    with pytest.warns(FileWarning, match="samples of 0.2 arcsec and the image pixels of 0.16"):
        found = read_psf(piff_psf, bands=("r",), place=(300, 0), pixel_scale=0.16)
    # The pixel of the chip stays in it: a pixel of 1.25 of the image's.
    truth = galsim.Convolve(moffat(3.0 * 1.25), galsim.Pixel(1.25))
    image = truth.drawImage(nx=51, ny=51, scale=1, method="no_pixel", dtype=float).array
    close_to(found[0], image / image.sum())


def test_piff_is_asked_for_where_it_is_missing(tmp_path, piff_psf, monkeypatch):
    piff_psf.write(str(tmp_path / "p.piff"))
    monkeypatch.setitem(sys.modules, "piff", None)
    with pytest.raises(InputError, match=r"p.piff is a PSF of Piff; install it \(pip install"):
        read_psf(tmp_path / "p.piff", bands=("r",))


# --- grids ----------------------------------------------------------------------------------

#: Corners (row, column) of a grid, not in order, and the FWHM there.
GRID = {(1000.0, 0.0): 5.0, (0.0, 0.0): 3.0, (0.0, 2000.0): 3.5, (1000.0, 2000.0): 6.0}


def cube(norm=16.0):
    return np.stack([norm * effective(moffat(w), 101, 0.25) for w in GRID.values()])


def write_stpsf_grid(path, **cards):
    header = fits.Header({"OVERSAMP": 4, "FILTER": "F200W"})
    for number, point in enumerate(GRID):
        header[f"DET_YX{number}"] = (
            str(point),
            f"The #{number} PSF's (y,x) detector pixel position",
        )
    header.update(cards)
    fits.PrimaryHDU(cube(), header).writeto(path)
    return path


def write_stdpsf(path):
    header = fits.Header({"NXPSFS": 2, "NYPSFS": 2})
    header.update({"IPSFX01": 1, "IPSFX02": 2001, "JPSFY01": 1, "JPSFY02": 1001})
    order = [(0.0, 0.0), (0.0, 2000.0), (1000.0, 0.0), (1000.0, 2000.0)]
    planes = dict(zip(GRID, cube(), strict=True))
    fits.PrimaryHDU(np.stack([planes[point] for point in order]), header).writeto(path)
    return path


def grid_truth(row, column):
    weights = {
        (r, c): ((r == 1000 and row) or (r == 0 and 1 - row))
        * ((c == 2000 and column) or (c == 0 and 1 - column))
        for r, c in GRID
    }
    return sum(weights[point] * on_pixels(moffat(width)) for point, width in GRID.items())


@pytest.mark.parametrize("kind", ["stpsf", "stdpsf", "photutils"])
@pytest.mark.parametrize("share", [(0.0, 1.0), (0.25, 0.6), (1.0, 0.0)])
def test_grids_are_interpolated(tmp_path, kind, share):
    if kind == "photutils":
        photutils = pytest.importorskip("photutils.psf")
        from astropy.nddata import NDData

        points = [(column, row) for row, column in GRID]
        psf = photutils.GriddedPSFModel(
            NDData(cube(), meta={"grid_xypos": points, "oversampling": 4})
        )
    else:
        psf = {"stpsf": write_stpsf_grid, "stdpsf": write_stdpsf}[kind](tmp_path / "p.fits")
    place = (1000 * share[0], 2000 * share[1])
    close_to(read_psf(psf, bands=("f200w",), place=place)[0], grid_truth(*share))


def test_a_place_outside_a_grid_is_said(tmp_path):
    path = write_stpsf_grid(tmp_path / "p.fits")
    with pytest.warns(
        FileWarning, match=r"\(row 1200, column 5\) lies outside the grid .* the PSF of its border"
    ):
        found = read_psf(path, bands=("f200w",), place=(1200, 5))
    close_to(found[0], grid_truth(1, 0.0025))
    with pytest.raises(InputError, match="varies with position, and none is known"):
        read_psf(path, bands=("f200w",))


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"OVERSAMP": "x"}, "the card OVERSAMP of the PSF holds 'x'"),
        ({"OVERSAMP": -4}, "the card OVERSAMP of the PSF holds -4"),
        ({"DET_YX1": "nowhere"}, r"a card DET_YX of p.fits holds 'nowhere'; give '\(y, x\)'"),
        ({"DET_YX1": "(3.0, 5.0)"}, "4 PSFs of p.fits do not lie on a rectangular grid"),
    ],
)
def test_grid_errors(tmp_path, cards, message):
    path = write_stpsf_grid(tmp_path / "p.fits", **cards)
    with pytest.raises(InputError, match=message):
        read_psf(path, bands=("f200w",), place=(1, 1))


def test_images_of_photutils():
    photutils = pytest.importorskip("photutils.psf")
    psf = photutils.ImagePSF(16 * effective(moffat(3.0), 101, 0.25), oversampling=4)
    close_to(read_psf(psf, bands=("r",))[0], on_pixels(moffat(3.0)))
    uneven = photutils.ImagePSF(psf.data, oversampling=(2, 4))
    with pytest.raises(InputError, match=r"oversampled by \[2, 4\]; both axes must agree"):
        read_psf(uneven, bands=("r",))


# --- cells ----------------------------------------------------------------------------------

BOUNDS = {
    "grid": {
        "bbox": {"y": {"start": 1000, "stop": 1600}, "x": {"start": 2000, "stop": 2900}},
        "cell_shape": {"y": 150, "x": 150},
    },
    "bbox": {"y": {"start": 1150, "stop": 1600}, "x": {"start": 2150, "stop": 2900}},
    "missing": [{"i": 1, "j": 1}],
}


def cell_width(i, j):
    return 3.0 + 0.2 * i + 0.3 * j


def write_cells(path, tree=BOUNDS, offset=(1200, 2200), shape=(40, 40), primary=False):
    """As Rubin's writer: 3 x 5 cells from (1150, 2150) on, the first one missing; a cutout."""
    cells = np.stack(
        [[on_pixels(moffat(cell_width(i, j)), 21) for j in range(5)] for i in range(3)]
    )
    cells[0, 0] = np.nan
    header = tan_wcs(pixel=(20, 20)).to_header()
    header.update({"BAND": "r", "BUNIT": "nJy"})
    if offset is not None:
        header.update({"CTYPE1A": "LINEAR", "CTYPE2A": "LINEAR", "CRPIX1A": 1.0, "CRPIX2A": 1.0})
        header.update({"CRVAL1A": float(offset[1]), "CRVAL2A": float(offset[0])})
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(np.ones(shape, np.float32), header, name="IMAGE"),
        fits.ImageHDU(np.ones(shape, np.float32), name="VARIANCE"),
        fits.ImageHDU(cells, name="PSF"),
    ]
    if tree is not None:
        text = np.frombuffer(json.dumps({"psf": {"bounds": tree}}).encode(), np.uint8)
        rows = np.empty(1, object)
        rows[0] = text
        column = fits.Column("JSON", "PB()", array=rows)
        hdus.append(fits.BinTableHDU.from_columns([column], name="JSON"))
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize(
    ("offset", "cell"), [((1480, 2350), (2, 1)), ((1310, 2860), (1, 4)), ((1160, 2470), (0, 2))]
)
def test_cells_are_chosen_by_the_grid(tmp_path, offset, cell):
    path = write_cells(tmp_path / "c.fits", offset=offset)
    obs = Observation.read(path)
    close_to(obs.psfs[0], on_pixels(moffat(cell_width(*cell)), 21))
    # From a file of its own as well, by the sky.
    close_to(Observation.read(path, psf=path).psfs[0], obs.psfs[0])


def test_a_missing_cell_is_replaced_by_the_nearest(tmp_path):
    path = write_cells(tmp_path / "c.fits", offset=(1160, 2270))
    with pytest.warns(
        FileWarning,
        match=r"no PSF for the scene's cell \(row 0, column 0\); .* \(row 0, column 1\)",
    ):
        obs = Observation.read(path)
    close_to(obs.psfs[0], on_pixels(moffat(cell_width(0, 1)), 21))


def test_a_single_cell_needs_no_place(tmp_path):
    cell = fits.ImageHDU(on_pixels(moffat(3.0), 21)[None, None], name="PSF")
    fits.HDUList([fits.PrimaryHDU(), cell]).writeto(tmp_path / "c.fits")
    close_to(read_psf(tmp_path / "c.fits", bands=("r",))[0], on_pixels(moffat(3.0), 21))


def test_cells_without_json(tmp_path):
    path = write_cells(tmp_path / "a.fits", tree=None, shape=(60, 100))
    close_to(Observation.read(path).psfs[0], on_pixels(moffat(cell_width(1, 2)), 21))
    path = write_cells(tmp_path / "b.fits", tree=None, shape=(320, 41))
    with pytest.warns(
        FileWarning, match="where the cells of its PSF lie; they were taken to be 150"
    ):
        obs = Observation.read(path)
    close_to(obs.psfs[0], on_pixels(moffat(cell_width(1, 0)), 21))


# --- Euclid ---------------------------------------------------------------------------------


def write_mosaic(path, first=1, **changes):
    """3 x 2 stamps of 21 pixels; the table counts pixels from `first`."""
    size, stamps = 21, np.zeros((42, 63))
    rows = []
    for number in range(6):
        i, j = divmod(number, 3)
        stamps[i * size : (i + 1) * size, j * size : (j + 1) * size] = on_pixels(
            moffat(3 + 0.3 * number), size
        )
        x, y = 300.0 * j, 300.0 * i
        ra, dec = tan_wcs().all_pix2world(x, y, 0)
        rows.append((ra, dec, x + 1, y + 1, j * size + 10 + first, i * size + 10 + first))
    stamps[:21, :21] = np.nan
    names = ["RA", "Dec", "x", "y", "x_center", "y_center"]
    table = fits.table_to_hdu(Table(rows=rows, names=names))
    image = fits.ImageHDU(stamps, fits.Header({"STMPSIZE": size} | changes))
    fits.HDUList([fits.PrimaryHDU(), image, table]).writeto(path)
    return path


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("by_sky", [True, False])
def test_the_nearest_stamp_of_a_mosaic(tmp_path, first, by_sky):
    path = write_mosaic(tmp_path / "m.fits", first)
    for number, (row, column) in {1: (20, 330), 5: (280, 640), 3: (310, -5)}.items():
        sky = tuple(tan_wcs().all_pix2world(column, row, 0)) if by_sky else None
        place = (7, 7) if by_sky else (row, column)
        found = read_psf(path, bands=("VIS",), place=place, sky=sky)
        close_to(found[0], on_pixels(moffat(3 + 0.3 * number), 21))


def test_mosaics_of_elsewhere_and_without_a_stamp(tmp_path):
    path = write_mosaic(tmp_path / "m.fits")
    with pytest.warns(FileWarning, match="nearest to the scene is empty; the next was taken"):
        read_psf(path, bands=("VIS",), place=(3, 3))
    with pytest.warns(FileWarning, match="check that the file is of the same field"):
        read_psf(path, bands=("VIS",), sky=(151.0, 2.0))
    with pytest.raises(InputError, match="varies with position, and the scene's is not known"):
        read_psf(path, bands=("VIS",))
    with pytest.raises(InputError, match=r"of 25 pixels \(STMPSIZE\) that reach beyond"):
        read_psf(write_mosaic(tmp_path / "n.fits", STMPSIZE=25), bands=("VIS",), place=(1, 1))


# --- cards that are missing, wrong or contradict each other ------------------------------------


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        (
            {"PIXELSCL": None, "OVERSAMP": None},
            r"OVERDIST\] is oversampled and does not say how much",
        ),
        ({"PIXELSCL": SCALE}, "the same, but names an oversampling of 4; say which holds"),
        (
            {"PIXELSCL": 5e-5},
            "samples of 5e-05 arcsec and the image pixels of 0.2, which can't both",
        ),
        ({"PIXELSCL": 50.0}, "samples of 50 arcsec and the image pixels of 0.2, which can't both"),
        ({"PIXELSCL": "x"}, "the card PIXELSCL of the PSF holds 'x'; give a positive number"),
    ],
)
def test_scales_that_contradict_are_refused(tmp_path, cards, message):
    path = write_stpsf(tmp_path / "p.fits", names=("OVERDIST", "DET_DIST"))
    with fits.open(path, mode="update") as hdus:
        for card, value in cards.items():
            if value is None:
                del hdus["OVERDIST"].header[card]
            else:
                hdus["OVERDIST"].header[card] = value
    with pytest.raises(InputError, match=message):
        read_psf(path, bands=("f444w",), pixel_scale=SCALE)
    if "holds 'x'" in message:
        return
    if cards["PIXELSCL"] is None:
        found = read_psf(path, bands=("f444w",), pixel_scale=SCALE, oversampling=4)
    else:
        with pytest.warns(
            FileWarning, match=r"samples per pixel; it was taken to have 4, as asked"
        ):
            found = read_psf(path, bands=("f444w",), pixel_scale=SCALE, oversampling=4)
    close_to(found[0], on_pixels(moffat(4.0)))


def test_a_wcs_of_another_image_is_ignored(tmp_path):
    header = tan_wcs(scale=3600.0).to_header()
    fits.PrimaryHDU(on_pixels(moffat(3.0)), header).writeto(tmp_path / "p.fits")
    with pytest.warns(FileWarning, match="the WCS of p.fits has pixels of 3600 arcsec"):
        found = read_psf(tmp_path / "p.fits", bands=("r",), pixel_scale=SCALE)
    close_to(found[0], on_pixels(moffat(3.0)))
    header = tan_wcs(scale=SCALE / 2).to_header()
    image = moffat(6.0).drawImage(nx=51, ny=51, scale=1, dtype=float).array
    fits.PrimaryHDU(image, header).writeto(tmp_path / "q.fits")
    with pytest.warns(FileWarning, match="samples of 0.1 arcsec and the image pixels of 0.2"):
        found = read_psf(tmp_path / "q.fits", bands=("r",), pixel_scale=SCALE)
    close_to(found[0], on_pixels(moffat(3.0)))


def test_a_grid_for_other_pixels_is_said_to_be(tmp_path):
    path = write_stpsf_grid(tmp_path / "p.fits", PIXELSCL=0.0307)
    for scale in (0.0307, 0.031):
        read_psf(path, bands=("f200w",), place=(3, 3), pixel_scale=scale)
    with pytest.warns(
        FileWarning, match="a grid of PSFs for pixels of 0.0307 or 0.1228 arcsec, but"
    ):
        read_psf(path, bands=("f200w",), place=(3, 3), pixel_scale=0.02)


@pytest.mark.parametrize(
    "card", ["PSF_SAMP", "POLZERO1", "POLSCAL2", "POLNAME1", "POLNAXIS", "POLDEG1"]
)
def test_psfex_without_a_card(tmp_path, card):
    path = write_psfex(tmp_path / "p.psf")
    with fits.open(path, mode="update") as hdus:
        del hdus[1].header[card]
    if card == "POLNAME1":
        with pytest.warns(FileWarning, match="a variable without name, which is not known"):
            read_psf(path, bands=("r",), place=(1, 1))
        return
    with pytest.raises(
        InputError, match=rf"has no card {card}|6 images for a polynomial of 1 terms"
    ):
        read_psf(path, bands=("r",), place=(1, 1))
