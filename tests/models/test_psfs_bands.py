"""Which PSF belongs to which band: files, HDUs, cubes, dictionaries, and the command line."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.psfs._matching import named_band
from scorepriors.models.data.psfs._read import read_psf
from scorepriors.models.rendering._psf import gaussian_psf

BANDS = ("g", "r", "i")
WIDTHS = {"g": 2.0, "r": 1.7, "i": 1.4}


def psf(band):
    return gaussian_psf(WIDTHS[band], 21)


def assert_right(found, bands=BANDS):
    for image, band in zip(found, bands, strict=True):
        np.testing.assert_allclose(image, psf(band) / psf(band).sum(), atol=1e-6)


def write(path, *hdus):
    """Write PSFs as (band of the content, name of the HDU, cards); None for no HDU of a PSF."""
    out = fits.HDUList([fits.PrimaryHDU()])
    for band, name, cards in hdus:
        out.append(fits.ImageHDU(psf(band), fits.Header(cards), name=name))
    out.writeto(path)
    return path


@pytest.mark.parametrize(
    "hdus",
    [
        [("g", "PSF_G", {}), ("r", "PSF_R", {}), ("i", "PSF_I", {})],
        [("i", "I_PSF", {}), ("g", "G_PSF", {}), ("r", "R_PSF", {})],
        [("r", "", {"BAND": "r"}), ("g", "", {"BAND": "g"}), ("i", "", {"BAND": "i"})],
        [
            ("i", "A", {"FILTER": "HSC-I"}),
            ("r", "B", {"FILTER": "HSC-R"}),
            ("g", "C", {"FILTER": "HSC-G"}),
        ],
        [("i", "PSF", {"BAND": "i"}), ("g", "PSF", {"BAND": "g"}), ("r", "PSF", {"BAND": "r"})],
        [("r", "R", {}), ("i", "I", {}), ("g", "G", {})],
        [
            ("r", "", {"FILTER": "r DECam SDSS c0002 6415.0 1480.0"}),
            ("i", "", {"FILTER": "i DECam SDSS c0003 7835.0 1470.0"}),
            ("g", "", {"FILTER": "g DECam SDSS c0001 4720.0 1520.0"}),
        ],
        # Others that the bands do not have.
        [("r", "PSF_Z", {}), ("r", "PSF_R", {}), ("i", "PSF_I", {}), ("g", "PSF_G", {})],
    ],
)
def test_one_hdu_for_each_band(tmp_path, hdus):
    assert_right(read_psf(write(tmp_path / "p.fits", *hdus), bands=BANDS))


def test_hdus_that_do_not_name_bands_are_taken_in_order(tmp_path):
    path = write(tmp_path / "p.fits", ("g", "A1", {}), ("r", "A2", {}), ("i", "A3", {}))
    with pytest.warns(
        FileWarning, match=r"3 PSFs of p.fits \(A1, A2, A3\) do not name .* the order g, r, i"
    ):
        assert_right(read_psf(path, bands=BANDS))


@pytest.mark.parametrize(
    "hdus",
    [
        [("g", "PSF_G", {}), ("r", "PSF_R", {})],
        [("g", "PSF_G", {}), ("r", "PSF_R", {}), ("i", "PSF_Q", {})],
        [("g", "PSF_G", {}), ("r", "PSF_R", {}), ("i", "PSF_R", {})],
        [("g", "A", {}), ("r", "B", {})],
    ],
)
def test_what_does_not_match_is_refused(tmp_path, hdus):
    path = write(tmp_path / "p.fits", *hdus)
    with pytest.raises(
        InputError,
        match=r"it can't be told which belongs to which: p.fits has .*, the bands are g, r, i",
    ):
        read_psf(path, bands=BANDS)


@pytest.mark.parametrize(
    "cards", [{}, {"BANDS": "i,g,r"}, {"BAND1": "i", "BAND2": "g", "BAND3": "r"}]
)
def test_cubes(tmp_path, cards):
    order = "igr" if cards else "gri"
    cube = np.stack([psf(band) for band in order])
    fits.PrimaryHDU(cube, fits.Header(cards)).writeto(tmp_path / "p.fits")
    assert_right(read_psf(tmp_path / "p.fits", bands=BANDS))
    names = {"bands": np.array(list(order))} if cards else {}
    np.savez(tmp_path / "p.npz", psfs=cube, **names)
    assert_right(read_psf(tmp_path / "p.npz", bands=BANDS))


@pytest.mark.parametrize("names", ["field_{}_psf.fits", "psf.{}.npy", "PSF-{}.fits"])
def test_files_are_matched_by_their_names(tmp_path, names):
    paths = []
    for band in "irg":
        paths.append(tmp_path / names.format(band.upper() if names.startswith("PSF") else band))
        if names.endswith("npy"):
            np.save(paths[-1], psf(band))
        else:
            fits.PrimaryHDU(psf(band)).writeto(paths[-1])
    assert_right(read_psf(paths, bands=BANDS))


def test_files_are_matched_by_their_cards_before_their_names(tmp_path):
    paths = []
    for band, name in zip("irg", "gri", strict=True):
        paths.append(tmp_path / f"{name}.fits")
        fits.PrimaryHDU(psf(band), fits.Header({"BAND": band})).writeto(paths[-1])
    assert_right(read_psf(paths, bands=BANDS))


def test_cards_of_other_bands_are_said(tmp_path):
    paths = []
    for band, card in zip(BANDS, "zyw", strict=True):
        paths.append(tmp_path / f"star_{card}.fits")
        fits.PrimaryHDU(psf(band), fits.Header({"FILTER": card})).writeto(paths[-1])
    with pytest.warns(FileWarning, match=r"\(z, y, w\) do not name the bands; .* order g, r, i"):
        assert_right(read_psf(paths, bands=BANDS))


def test_files_without_names_are_in_the_order_given(tmp_path):
    paths = []
    for number, band in enumerate(BANDS):
        paths.append(tmp_path / f"star{number}.fits")
        fits.PrimaryHDU(psf(band)).writeto(paths[-1])
    assert_right(read_psf(paths, bands=BANDS))
    with pytest.raises(InputError, match=r"there are 2 PSFs for 3 band\(s\)"):
        read_psf(paths[:2], bands=BANDS)
    assert_right(
        read_psf({band: path for band, path in zip(BANDS, paths, strict=True)}, bands=BANDS)
    )
    mixed = [paths[0], psf("r"), np.stack([psf("i")])]
    assert_right(read_psf(mixed, bands=BANDS))


def test_one_file_with_several_for_each_band(tmp_path):
    hdus = [("g", "PSF_G", {}), ("r", "PSF_R", {}), ("i", "PSF_I", {})]
    path = write(tmp_path / "p.fits", *hdus)
    assert_right(read_psf([path], bands=BANDS))
    assert_right(read_psf([path] * 3, bands=BANDS))
    assert_right(read_psf(path, bands=("r",)), ("r",))


@pytest.mark.parametrize("hdu", ["PSF_R", "psf_r", "2", "PSF_R,1"])
def test_an_hdu_that_is_pointed_at(tmp_path, hdu):
    path = write(tmp_path / "p.fits", ("g", "PSF_G", {}), ("r", "PSF_R", {}))
    assert_right(read_psf(f"{path}[{hdu}]", bands=("band0",)), "r")
    with pytest.raises(InputError, match=r"there is no HDU 'X'; found PRIMARY, PSF_G, PSF_R"):
        read_psf(f"{path}[X]", bands=("r",))


def test_one_for_all_is_said(tmp_path):
    fits.PrimaryHDU(psf("g"), fits.Header({"FILTER": "g"})).writeto(tmp_path / "p.fits")
    for given in (tmp_path / "p.fits", [str(tmp_path / "p.fits")]):
        with pytest.warns(
            FileWarning, match="p.fits holds one PSF of g for all of the bands g, r, i"
        ):
            found = read_psf(given, bands=BANDS)
        assert_right(found, "ggg")
    with pytest.warns(FileWarning, match="says that its PSF is of g, but the band is i"):
        read_psf(tmp_path / "p.fits", bands=("i",))


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("g", "g"),
        ("G", "g"),
        ("HSC-G", "g"),
        ("DES_r", "r"),
        ("Y", "Y"),
        ("y", "y"),
        ("lsst-y", "y"),
        ("F444W", "F444W"),
        ("f444w", "F444W"),
        ("NIRCam F444W", "F444W"),
        ("q", None),
        ("", None),
        (None, None),
        ("LSST_z", "LSST_z"),
        ("z", "LSST_z"),
        ("F200W", "f200w-clear"),
    ],
)
def test_names_of_bands(name, band):
    assert named_band(name, ("g", "r", "y", "Y", "F444W", "LSST_z", "f200w-clear")) == band


# --- with their images ----------------------------------------------------------------------


def write_image(path, bands=BANDS, **hdus):
    shape = (len(bands), 12, 12)
    header = fits.Header({"BANDS": ",".join(bands)})
    out = [fits.PrimaryHDU(), fits.ImageHDU(np.ones(shape, np.float32), header, name="IMAGE")]
    out.append(fits.ImageHDU(np.ones(shape, np.float32), name="VARIANCE"))
    out += [fits.ImageHDU(image, name=name) for name, image in hdus.items()]
    fits.HDUList(out).writeto(path)
    return path


def test_hdus_beside_the_image(tmp_path):
    path = write_image(tmp_path / "a.fits", PSF_R=psf("r"), PSF_I=psf("i"), PSF_G=psf("g"))
    assert_right(Observation.read(path).psfs)
    cube = write_image(tmp_path / "b.fits", PSF=np.stack([psf(band) for band in BANDS]))
    assert_right(Observation.read(cube).psfs)
    other = write_image(tmp_path / "c.fits", PSF=psf("g"))
    with pytest.warns(FileWarning, match="c.fits holds one PSF for all of the bands"):
        assert_right(Observation.read(other).psfs, "ggg")
    assert_right(Observation.read(other, psf=path).psfs)


def test_a_set_of_different_sizes_beside_its_images(tmp_path):
    paths = []
    for band, size in zip(BANDS, (21, 25, 17), strict=True):
        header = fits.Header({"FILTER": band})
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.ones((12, 12)), header, name="SCI")]
        hdus += [fits.ImageHDU(np.ones((12, 12)), name="ERR")]
        hdus += [fits.ImageHDU(gaussian_psf(WIDTHS[band], size), name="PSF")]
        paths.append(tmp_path / f"{band}.fits")
        fits.HDUList(hdus).writeto(paths[-1])
    obs = Observation.read(paths)
    assert obs.psfs.shape == (3, 25, 25)
    np.testing.assert_allclose(obs.psfs[:, 2:-2, 2:-2][0], psf("g") / psf("g").sum(), atol=1e-6)


def test_tables_are_refused_in_one_sentence(tmp_path):
    table = fits.table_to_hdu(Table({"size": [1.0], "e1": [0.1]}))
    table.name = "PSF"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "p.fits")
    with pytest.raises(
        InputError, match=r"the HDU PSF of p.fits is a table \(size, e1\), of no known"
    ):
        read_psf(tmp_path / "p.fits", bands=("r",))
    path = write_image(tmp_path / "a.fits")
    with fits.open(path, mode="append") as hdus:
        hdus.append(table)
    with pytest.raises(InputError, match=r"the HDU PSF of a.fits is a table"):
        Observation.read(path)
    assert_right(Observation.read(path, psf=[psf(band) for band in BANDS]).psfs)


@pytest.mark.parametrize(
    ("psfs", "message"),
    [
        ([], "no PSF is given: the list is empty"),
        (np.ones(5), r"psfs have the shape \(5,\); give \[B, P, P\]"),
        (np.ones((1, 3, 5, 5)), r"psfs have the shape \(1, 3, 5, 5\)"),
        (np.ones((2, 5, 5)), r"there are 2 PSFs for 3 band\(s\)"),
        ("no.fits", "no PSF file at 'no.fits'"),
        ("psf.txt", "no PSF file at"),
        (np.array("a"), "psfs has the type"),
        (3.0, r"psfs have the shape \(\)"),
        (object(), "the PSF is of the type object; give an image"),
        ([None, None, None], "the PSF is None"),
        (None, "the PSF is None; give an image, a file, or an object"),
        ({"g": np.ones((3, 3))}, r"no PSF for the band\(s\) r, i"),
        ([np.ones((3, 3)), np.ones((3, 8)), np.ones((3, 3))], "must be square; that of band 'r'"),
        ([np.ones((3, 3)), "no.fits", np.ones((3, 3))], "no PSF file at"),
    ],
)
def test_bad_psfs(psfs, message):
    with pytest.raises(InputError, match=message):
        read_psf(psfs, bands=BANDS)
