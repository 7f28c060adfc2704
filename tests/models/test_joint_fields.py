"""Parts of large images in joint fits: with the PSF of the place that the first observation sees."""

import pickle
import warnings

import numpy as np
import pytest
from astropy.io import fits
from fits_files import field as field_of
from fits_files import wcs

from scorepriors import InputError
from scorepriors.inference.cli._input import Input
from scorepriors.models import Field, Observation, PSFWarning, join_observations
from scorepriors.models.data import _field_files

#: Pixels of the large image, and the first one of the part that the first observation sees.
SHAPE, FIRST = (200, 300), (150, 240)


def psfex(path, step=1.0):
    """A PSF that is wider to the right, with samples every `step` pixels."""
    squared = np.hypot(*np.mgrid[-16:17, -16:17]) ** 2 * step**2
    narrow, wide = (np.exp(-squared / 2 / s**2) for s in (1.3, 2.0))
    narrow, wide = narrow / narrow.sum(), wide / wide.sum()
    images = np.stack([(narrow + wide) / 2, wide - narrow]).astype(np.float32)
    images = np.stack([*images, 0 * images[0]])
    column = fits.Column("PSF_MASK", f"{images.size}E", dim="(33,33,3)", array=images[None])
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    table.header.update({"POLNAXIS": 2, "POLNGRP": 1, "POLDEG1": 1, "PSF_SAMP": step})
    for axis, (name, length) in enumerate((("X_IMAGE", 300), ("Y_IMAGE", 200)), 1):
        table.header[f"POLNAME{axis}"], table.header[f"POLGRP{axis}"] = name, 1
        table.header[f"POLZERO{axis}"], table.header[f"POLSCAL{axis}"] = length / 2, length
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return str(path)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file with noise alone, and its PSFs with one sample and with four per pixel."""
    folder = tmp_path_factory.mktemp("large")
    images = np.random.default_rng(0).normal(size=SHAPE)
    cards = wcs(shape=SHAPE).to_header()
    cards["MJD-AVG"] = 59000.5
    path = field_of(folder / "large.fits", image=images, cards=cards)
    return path, psfex(folder / "coarse.psf"), psfex(folder / "fine.psf", 0.25)


def first(path, psf):
    """The observation with the pixels of the model: a corner of the same sky, other bands."""
    part = Observation.read(path, psf)
    return Field.of(part).window(*FIRST, 24, 26)


def wide(psf):
    rows, columns = np.indices(psf.shape) - len(psf) // 2
    return (psf * (rows**2 + columns**2)).sum()


@pytest.mark.parametrize("which", [1, 2])
def test_a_joint_fit_has_the_psf_of_the_place(large, which):
    path, psf = large[0], large[which]
    reference = first(path, psf)
    view = join_observations(reference, Field.open(path, psf)).views[1]
    part = view.observation
    field = Field.open(path, psf)
    row, column = np.array(part.corner) + (np.array(part.shape) - 1) / 2
    # The part is at the upper right edge, where its margin is cut.
    assert np.abs([row - FIRST[0] - 11.5, column - FIRST[1] - 12.5]).max() < 10
    there, middle = field.psfs_at(row, column), field.psfs_at(99.5, 149.5)
    assert np.abs(there - middle).max() > 0.01
    # The part is cut again, by some pixels.
    np.testing.assert_allclose(part.psfs, there, atol=1e-3)
    at = FIRST[0] - part.corner[0], FIRST[1] - part.corner[1]
    np.testing.assert_allclose(view.pixels([[0.0, 0.0]])[0], at, atol=1e-3)
    assert (part.fine_psfs is None) == (which == 1)
    assert part.time == 59000.5
    # PSFs on the reference's pixels, which are those of the file, follow it.
    assert wide(view.psfs[0]) == pytest.approx(wide(there[0]), rel=0.1)
    assert wide(middle[0]) < 0.85 * wide(there[0])


def test_the_command_reads_the_part_that_is_seen(large, tmp_path):
    path, psf = large[:2]
    with fits.open(path) as image, fits.open(psf) as model:
        hdus = [one for one in image if one.name != "PSF"]
        fits.HDUList([*hdus, model["PSF_DATA"]]).writeto(tmp_path / "large.fits")
    first(path, psf).to_fits(tmp_path / "part.fits")
    given = Input(files=(tmp_path / "part.fits",), others=(tmp_path / "large.fits",))
    (joined,) = given.read().observations
    part = joined.views[1].observation
    row, column = np.array(part.corner) + (np.array(part.shape) - 1) / 2
    there = Field.open(path, psf).psfs_at(row, column)
    np.testing.assert_allclose(part.psfs, there, atol=1e-3)
    assert max(part.shape) < 100


def test_an_image_read_whole_says_that_its_psf_is_of_the_middle(large):
    path, psf = large[:2]
    whole = Observation.read(path, psf)
    assert whole.psf_varies
    with pytest.warns(PSFWarning, match="are those of its middle, 103 pixels from"):
        join_observations(first(path, psf), whole)
    central = Field.of(whole).window(88, 138, 24, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        join_observations(central, whole)
        join_observations(first(path, psf), Field.open(path, psf))


def test_what_cannot_be_joined(large):
    path, psf = large[:2]
    field = Field.open(path, psf)
    with pytest.raises(InputError, match="the first observation is a Field"):
        join_observations(field, field)
    away = first(path, psf)
    moved = away.wcs.deepcopy()
    moved.wcs.crval = moved.wcs.crval + 0.1
    away = Observation.from_arrays(
        away.images, weights=away.weights, psfs=away.psfs, bands=("g",), wcs=moved
    )
    with pytest.raises(InputError, match="does not overlap the first"):
        join_observations(away, field)


def test_fine_psfs_survive_files_and_windows(large, tmp_path):
    path, _, psf = large
    obs = Observation.read(path, psf)
    assert obs.fine_psfs is not None
    obs.to_fits(tmp_path / "copy.fits")
    again = Observation.read(tmp_path / "copy.fits")
    np.testing.assert_allclose(again.fine_psfs, obs.fine_psfs, rtol=1e-6)
    np.testing.assert_allclose(again.psfs, obs.psfs, atol=1e-7)
    assert not again.psf_varies
    # Another PSF has no fine samples of the old one.
    assert Observation.read(tmp_path / "copy.fits", large[1]).fine_psfs is None
    copied = Field.open(tmp_path / "copy.fits")
    varying = Field.open(path, psf)
    _field_files._close_all()
    for field in (copied, pickle.loads(pickle.dumps(varying))):
        fine = field.window(88, 138, 24, 24).fine_psfs
        np.testing.assert_allclose(fine, obs.fine_psfs, atol=1e-6)
    corner = varying.window(*FIRST, 24, 24)
    assert np.abs(corner.fine_psfs - obs.fine_psfs).max() > 1e-3
    assert Field.of(obs).window(0, 0, 9, 9).fine_psfs is obs.fine_psfs


def test_times_survive_windows():
    obs = Observation.from_arrays(
        np.ones((1, 9, 9)), variance=np.ones((1, 9, 9)), psfs=np.ones((1, 1)), time=59000.5
    )
    assert Field.of(obs).window(2, 2, 4, 4).time == 59000.5
