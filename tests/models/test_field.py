"""Fields: windows are the same pixels, noise and PSFs as cuts of the whole image."""

import pickle

import numpy as np
import pytest

from scorepriors import InputError
from scorepriors.models import Field, Observation
from scorepriors.models.data._tiles import tiles
from tests.fits_files import wcs

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
