"""Fields: windows are the same pixels, noise and PSFs as cuts of the whole image."""

import gzip
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from astropy.io import fits
from fits_files import field as field_of
from fits_files import hdu, psf, wcs, write

from scorepriors import InputError
from scorepriors.models import Field, FileWarning, Observation, PositionsWarning, PSFWarning
from scorepriors.models.data import _field_files
from scorepriors.models.data._tiles import tiles

SHAPE = (60, 80)


def in_memory(**more):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, *SHAPE))
    return Observation.from_arrays(
        images,
        weights=rng.uniform(1, 2, images.shape),
        psfs=np.ones((1, 1)),
        bands=("g", "r"),
        zero_point=27.0,
        **more,
    )


def test_a_window_in_memory_is_a_cut():
    obs = in_memory(wcs=wcs(shape=SHAPE))
    field = pickle.loads(pickle.dumps(Field.of(obs)))
    window = field.window(10, 20, 16, 24)
    assert (window.shape, window.corner, window.bands) == ((16, 24), (10, 20), ("g", "r"))
    np.testing.assert_array_equal(window.images, obs.images[:, 10:26, 20:44])
    np.testing.assert_array_equal(window.weights, obs.weights[:, 10:26, 20:44])
    cut = obs.wcs.slice((slice(10, 26), slice(20, 44)))
    assert window.wcs.pixel_to_world(3.0, 2.0) == cut.pixel_to_world(3.0, 2.0)
    assert window.wcs.array_shape == (16, 24)
    assert window.flux_unit[0] == obs.flux_unit[0]


def test_weights_are_zero_beyond_the_border():
    obs = in_memory(wcs=wcs(shape=SHAPE))
    window = Field.of(obs).window(-4, 70, 16, 24)
    assert np.count_nonzero(window.weights) == window.num_pixels == 2 * 12 * 10
    np.testing.assert_array_equal(window.images[:, 4:, :10], obs.images[:, :12, 70:])
    there = window.wcs.pixel_to_world(5.0, 6.0)
    assert there.separation(obs.wcs.pixel_to_world(75.0, 2.0)).arcsec < 1e-6
    assert Field.of(obs).window(-40, 0, 16, 24).num_pixels == 0


def test_windows_without_pixels_are_refused():
    with pytest.raises(InputError, match="0 x 4 pixels"):
        Field.of(in_memory()).window(0, 0, 0, 4)


def test_a_field_is_one_observation():
    with pytest.raises(InputError, match="one observation"):
        Field.of(np.ones((2, 8, 8)))


@pytest.mark.parametrize("shape", [(100, 250), (7, 1300), (512, 513)])
def test_cores_of_tiles_cover_the_image_once(shape):
    count = np.zeros(shape, int)
    for tile in tiles(shape, core=128, margin=9):
        count[tile.core_rows, tile.core_columns] += 1
        assert max(tile.core_rows.stop - tile.core_rows.start, tile.height - 18) <= 128
        assert 0 <= tile.row <= tile.core_rows.start < tile.core_rows.stop
        assert tile.core_rows.stop <= tile.row + tile.height <= shape[0]
        assert tile.column >= 0
        assert tile.column + tile.width <= shape[1]
    assert (count == 1).all()
    with pytest.raises(InputError, match="core of 0"):
        tiles(shape, core=0)


# --- files ---


def bands_of(shape, count=3, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 2, (count, *shape)).astype(np.float32)
    variance = rng.uniform(3, 5, images.shape).astype(np.float32)
    mask = (rng.random(shape) > 0.95).astype(np.int32)
    return images, variance, mask


def one_file(path, shape=SHAPE):
    images, variance, mask = bands_of(shape)
    header = wcs(shape=shape).to_header()
    header["BANDS"], header["MAGZERO"] = "g,r,i", 27.0
    psfs = np.stack([psf()] * len(images))
    rest = hdu(variance, "VARIANCE"), hdu(mask, "MASK"), hdu(psfs, "PSF")
    return write(path, hdu(images, "IMAGE", header), *rest)


def compressed(path, shape=SHAPE, tile=None):
    images, variance, mask = bands_of(shape)
    header = wcs(shape=shape).to_header()
    hdus = []
    for number, band in enumerate("GRI"):
        for data, name in ((images[number], "SCI"), (variance[number], "VAR")):
            about = {"name": f"{name}_{band}", "header": header, "tile_shape": tile}
            hdus.append(fits.CompImageHDU(data, compression_type="RICE_1", **about))
    hdus.append(fits.CompImageHDU(mask, name="MASK", tile_shape=tile))
    return write(path, *hdus, hdu(psf(), "PSF_G"), hdu(psf(), "PSF_R"), hdu(psf(), "PSF_I"))


def by_band(path, shape=SHAPE):
    """Files of bands in units of their own, the first of integers."""
    images, variance, mask = bands_of(shape)
    paths = []
    for number, (band, unit) in enumerate(zip("gri", (1.0, 1e3, 1.0), strict=True)):
        cards = wcs(shape=shape).to_header()
        cards["FILTER"], cards["BUNIT"] = band, "nJy" if unit == 1 else "uJy"
        image = images[number] / unit
        made = hdu(np.rint(image).astype(np.int16) if number == 0 else image, "IMAGE", cards)
        if number == 0:
            made.scale("int16", bzero=100)
        name = path.with_name(f"coadd-{band}.fits")
        rest = hdu(variance[number] / unit**2, "VARIANCE"), hdu(mask, "MASK"), hdu(psf(), "PSF")
        paths.append(write(name, made, *rest))
    return paths


def packed(path, shape=SHAPE):
    plain = one_file(path.with_name("plain.fits"), shape)
    path = path.with_name("plain.fits.gz")
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def in_tiles(path, shape=SHAPE):
    return compressed(path, shape, (16, 20))


def psfex(path):
    """A PSF that is wider to the right, and to the top."""
    narrow, wide = (np.exp(-(np.hypot(*np.mgrid[-8:9, -8:9]) ** 2) / 2 / s**2) for s in (1.3, 2.0))
    narrow, wide = narrow / narrow.sum(), wide / wide.sum()
    images = np.stack([narrow + wide, wide - narrow, 0.3 * (wide - narrow)]).astype(np.float32) / 2
    column = fits.Column("PSF_MASK", f"{images.size}E", dim="(17,17,3)", array=images[None])
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    table.header.update({"POLNAXIS": 2, "POLNGRP": 1, "POLDEG1": 1, "PSF_SAMP": 1.0})
    for axis, (name, length) in enumerate((("X_IMAGE", 300), ("Y_IMAGE", 200)), 1):
        table.header[f"POLNAME{axis}"], table.header[f"POLGRP{axis}"] = name, 1
        table.header[f"POLZERO{axis}"], table.header[f"POLSCAL{axis}"] = length / 2, length
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


MAKERS = [one_file, compressed, in_tiles, by_band, packed]


def elsewhere(field):
    """The field as a process gets it that has not opened its files."""
    _field_files._close_all()
    return pickle.loads(pickle.dumps(field))


@pytest.mark.parametrize("make", MAKERS)
def test_windows_of_files_are_cuts(make, tmp_path):
    path = make(tmp_path / "field.fits")
    obs = Observation.read(path)
    opened = Field.open(path)
    for field in (opened, elsewhere(opened)):
        for row, column, height, width in [(0, 0, 60, 80), (13, 27, 16, 40), (59, 79, 1, 1)]:
            window = field.window(row, column, height, width)
            inside = (slice(None), slice(row, row + height), slice(column, column + width))
            np.testing.assert_array_equal(window.images, obs.images[inside])
            np.testing.assert_array_equal(window.weights, obs.weights[inside])
            np.testing.assert_array_equal(window.psfs, obs.psfs)
            there = window.wcs.pixel_to_world(2.0, 1.0)
            assert there.separation(obs.wcs.pixel_to_world(column + 2, row + 1)).arcsec < 1e-6
        assert (field.shape, field.bands, field.name) == (obs.shape, obs.bands, obs.name)
        assert (field.zero_point, field.flux_unit[0]) == (obs.zero_point, obs.flux_unit[0])
        beyond = field.window(50, 70, 20, 20)
        np.testing.assert_array_equal(beyond.weights[:, :10, :10], obs.weights[:, 50:, 70:])
        assert not beyond.weights[:, 10:].any()
        assert not beyond.weights[:, :, 10:].any()


@pytest.mark.parametrize("make", [one_file, compressed])
def test_a_large_file_is_read_by_windows(make, tmp_path):
    shape = (1000, 900)
    path = make(tmp_path / "field.fits", shape)
    obs = Observation.read(path)
    field = Field.open(path)
    field.window(0, 0, 8, 8)
    tracemalloc.start()
    window = field.window(480, 500, 64, 64)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(window.images, obs.images[:, 480:544, 500:564])
    np.testing.assert_array_equal(window.weights, obs.weights[:, 480:544, 500:564])
    # Nine images of 64 x 900 pixels where rows are compressed; all of them have 32 MB.
    assert most < 8e6


def test_a_part_on_the_sky_is_a_field(tmp_path):
    path = one_file(tmp_path / "field.fits")
    about = {"position": (150.0, 2.0), "size": 6.0}
    obs, field = Observation.read(path, **about), Field.open(path, **about)
    assert (field.shape, field.corner) == (obs.shape, obs.corner)
    window = elsewhere(field).window(3, 4, 8, 9)
    np.testing.assert_array_equal(window.images, obs.images[:, 3:11, 4:13])
    assert window.wcs.pixel_to_world(0, 0) == obs.wcs.pixel_to_world(4, 3)


def integers(kind, packed):
    """An image of integers, as surveys store them, and the values that it means."""
    rng = np.random.default_rng(4)
    stored = rng.integers(-300, 300, SHAPE).astype(np.int16)
    cards = wcs(shape=SHAPE).to_header()
    if kind == "unsigned":
        # Astropy writes it as BZERO 32768.
        stored = rng.integers(0, 65000, SHAPE).astype(np.uint16)
    made = fits.CompImageHDU(stored, cards) if packed else fits.ImageHDU(stored, cards)
    made.name = "IMAGE"
    if kind == "scaled":
        made.header.update({"BSCALE": 1e-3, "BZERO": 0.25})
        return made, stored * 1e-3 + 0.25
    if kind == "blank":
        made.header["BLANK"] = int(stored[30, 40])
        return made, np.where(stored == stored[30, 40], np.nan, stored.astype(float))
    return made, stored.astype(float)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["unsigned", "scaled", "blank"])
def test_parts_of_integers_mean_what_the_whole_does(kind, packed, tmp_path):
    image, meant = integers(kind, packed)
    weights = hdu(np.full(SHAPE, 0.5, np.float32), "IVAR")
    path = write(tmp_path / "field.fits", image, weights, hdu(psf(), "PSF"))
    about = {"position": (150.0, 2.0), "size": 6.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FileWarning)  # of blank pixels, and of the scatter
        whole, part = Observation.read(path), Observation.read(path, **about)
        window = elsewhere(Field.open(path)).window(*part.corner, *part.shape)
    inside = tuple(
        slice(start, start + side) for start, side in zip(part.corner, part.shape, strict=True)
    )
    good = np.isfinite(meant)
    np.testing.assert_allclose(whole.images[0][good], meant[good], rtol=1e-6, atol=1e-7)
    for one in (part, window):
        np.testing.assert_array_equal(one.images[0], whole.images[0][inside])
        np.testing.assert_array_equal(one.weights[0], whole.weights[0][inside])


def test_psfs_are_those_of_the_place(tmp_path):
    images, *_ = bands_of((200, 300), 1)
    cards = wcs(shape=(200, 300)).to_header()
    path = field_of(tmp_path / "field.fits", image=images[0], cards=cards)
    model = psfex(tmp_path / "model.psf")
    opened = Field.open(path, str(model))
    for field in (opened, elsewhere(opened)):
        for center in [(40.5, 60.5), (150.5, 220.5)]:
            sky = wcs(shape=(200, 300)).pixel_to_world(*center[::-1])
            cut = Observation.read(path, model, position=sky, size=20 * 0.2)
            window = field.window(*cut.corner, 20, 20)
            np.testing.assert_array_equal(window.psfs, cut.psfs)
            np.testing.assert_array_equal(window.images, cut.images)
            assert window.psfs.shape[-1] == field.psf_size
        left, right = field.psfs_at(100, 0), field.psfs_at(100, 299)
        assert np.abs(left - right).max() > 0.01
        np.testing.assert_array_equal(field.psfs_at(100, 1000), right)


def test_files_are_spoken_of_once(tmp_path):
    images, variance, _ = bands_of(SHAPE, 1)
    variance[:, :5] = 0
    path = write(
        tmp_path / "a.fits",
        hdu(images[0], "IMAGE"),
        hdu(variance[0], "VARIANCE"),
        hdu(psf() * 2, "PSF"),
    )
    with pytest.warns(FileWarning, match="zero in VARIANCE"), pytest.warns(PSFWarning):
        field = Field.open(path)
    for one in (field, elsewhere(field)):
        assert not one.window(0, 0, 8, 8).weights[:, :5].any()


def test_exposure_times_are_scaled_alike(tmp_path):
    """One part of the image scatters more than all of it: its weights know nothing of it."""
    rng = np.random.default_rng(0)
    image = rng.normal(0, 2, (1000, 900)).astype(np.float32)
    image[:100, :100] *= 5
    path = write(
        tmp_path / "a.fits",
        hdu(image, "IMAGE"),
        hdu(np.full_like(image, 90), "WHT"),
        hdu(psf(), "PSF"),
    )
    field = Field.open(path, noise_kind="exposure")
    weights = field.window(0, 0, 64, 64).weights
    np.testing.assert_array_equal(weights, field.window(500, 500, 64, 64).weights)
    assert weights[0, 0, 0] == pytest.approx(1 / 4, rel=0.02)


def test_bits_of_a_mask_mean_the_same_everywhere(tmp_path):
    """A bit that means detection in a mask without names, by all pixels and not by a window's."""
    images, variance, _ = bands_of((1000, 900), 1)
    mask = np.full((1000, 900), 32, np.int32)
    mask[500:, :300] = 0
    mask[510:514, 10:14] = 1
    path = write(
        tmp_path / "a.fits",
        hdu(images[0], "IMAGE"),
        hdu(variance[0], "VARIANCE"),
        hdu(mask, "MASK"),
        hdu(psf(), "PSF"),
    )
    with pytest.warns(FileWarning, match="DETECTED") as said:
        field = Field.open(path)
    assert "a sample of it" in str(said[0].message)
    assert np.count_nonzero(field.window(500, 0, 32, 32).weights) == 32 * 32 - 16
    assert field.window(0, 0, 32, 32).weights.all()


def test_a_large_field_may_lack_data_in_places(tmp_path):
    images, variance, _ = bands_of((1000, 900), 1)
    images[:, :800] = np.nan
    variance[:, :, 100:150] = -1
    path = field_of(tmp_path / "a.fits", image=images[0], variance=variance[0])
    with pytest.warns(FileWarning, match="sample"):
        field = Field.open(path)
    assert field.window(0, 0, 64, 64).num_pixels == 0
    window = field.window(850, 90, 10, 100)
    assert window.num_pixels == 10 * 50


def test_a_file_that_changed_is_refused(tmp_path):
    path = one_file(tmp_path / "field.fits")
    field = elsewhere(Field.open(path))
    one_file(path, (64, 80))
    with pytest.raises(InputError, match=r"field\.fits has changed"):
        field.window(0, 0, 8, 8)
    path.unlink()
    with pytest.raises(InputError, match=r"no FITS file at .*field\.fits"):
        field.window(0, 0, 8, 8)


def test_what_observations_refuse_fields_do(tmp_path):
    with pytest.raises(InputError, match="no image file"):
        Field.open(tmp_path / "none.fits")
    with pytest.raises(InputError, match="no files"):
        Field.open([])
    with pytest.raises(InputError, match="is a folder"):
        Field.open(tmp_path)
    other = one_file(tmp_path / "a.fits", (900, 900))
    images, variance, _ = bands_of((900, 1000), 1)
    paths = [
        field_of(
            tmp_path / f"{band}.fits", image=images[0][:, :size], variance=variance[0][:, :size]
        )
        for band, size in (("g", 1000), ("r", 990))
    ]
    with pytest.raises(InputError, match=r"r.fits: it has \(900, 990\) pixels"):
        Field.open(paths)
    with pytest.raises(InputError, match="leave out index=3"):
        Field.open(other, index=3)
    with pytest.raises(InputError, match="no PSF"):
        Field.open(
            write(tmp_path / "b.fits", hdu(images[0], "IMAGE"), hdu(variance[0], "VARIANCE"))
        )
    dark = field_of(tmp_path / "c.fits", image=np.full((900, 900), np.nan))
    with pytest.raises(InputError, match="no pixel has data"):
        Field.open(dark)
    with pytest.raises(InputError, match="psf_oversampling"):
        Field.open(other, psf_oversampling=-1)


@pytest.mark.parametrize("address", ["https://a.org/b.fits", "s3://bucket/b.fits", "gs://b/c.npz"])
def test_addresses_are_no_files(address):
    for read in (Field.open, Observation.read):
        for given in (address, [address, address]):
            with pytest.raises(InputError, match=f"{address} is an address|one npz file"):
                read(given)


def test_negative_weights_are_refused_in_any_window(tmp_path):
    images, _, _ = bands_of((1000, 900), 1)
    weights = np.full(images.shape, 0.25, np.float32)
    weights[:, 3, 4] = -1
    path = write(
        tmp_path / "a.fits", hdu(images[0], "IMAGE"), hdu(weights[0], "IVAR"), hdu(psf(), "PSF")
    )
    field = Field.open(path)
    assert field.window(100, 100, 8, 8).num_pixels == 64
    with pytest.raises(InputError, match=r"a\.fits.*negative"):
        field.window(0, 0, 8, 8)


# --- positions ---


def test_positions_are_those_of_the_field(tmp_path):
    path = one_file(tmp_path / "field.fits")
    field = Field.open(path)
    assert field.positions() is None
    catalog = {"x": [20.0, 70.0], "y": [10.0, 50.0]}
    np.testing.assert_array_equal(field.positions(catalog).row_column, [[10, 20], [50, 70]])
    cut = Field.open(path, position=(150.0, 2.0), size=6.0)
    with pytest.warns(FileWarning, match="of which the image is a cut"):
        found = cut.positions({"x": [40.0], "y": [30.0]})
    np.testing.assert_array_equal(found.row_column, [[30 - cut.corner[0], 40 - cut.corner[1]]])


def test_positions_of_a_large_field(tmp_path, monkeypatch):
    """The image is not read as a whole, and compared in windows."""
    shape = (1100, 1000)
    rng = np.random.default_rng(3)
    places = rng.uniform(20, 980, (300, 2)).round()
    image = rng.normal(0, 1, shape).astype(np.float32)
    stamp = 300 * psf()
    for row, column in places.astype(int):
        image[row - 4 : row + 5, column - 4 : column + 5] += stamp
    path = tmp_path / "a.fits"
    field = Field.open(
        field_of(
            path, image=image, variance=np.ones_like(image), cards=wcs(shape=shape).to_header()
        )
    )
    monkeypatch.setattr(Field, "whole", None)
    sky = field.wcs.pixel_to_world(*places.T[::-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = field.positions({"ra": sky.ra.deg, "dec": sky.dec.deg})
    np.testing.assert_allclose(found.row_column, places, atol=1e-5)
    with pytest.warns(PositionsWarning, match="in a window of the field"):
        field.positions({"x": places[:, 1] + 6, "y": places[:, 0]})
    with pytest.warns(FileWarning, match="1 of 2 sources"):
        assert len(field.positions({"x": [5.0, 2000.0], "y": [5.0, 5.0]})) == 1
    with pytest.raises(InputError, match="are outside the image"):
        field.positions({"x": [-500.0], "y": [5.0]})
