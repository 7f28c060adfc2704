"""Trails of satellites lose their weight, sources and noise do not."""

import numpy as np
import pytest

from scorepriors.inference.deblending._trails import trails, trails_of_one_band

SHAPE = (64, 60)


def noise(seed):
    return np.random.default_rng(seed).normal(size=SHAPE)


def line(angle, away, width=1.5):
    """A straight line of height one, and the distance of pixels to its middle."""
    rows, columns = np.indices(SHAPE) - (np.array(SHAPE)[:, None, None] - 1) / 2
    across = np.cos(angle) * rows + np.sin(angle) * columns - away
    return np.exp(-0.5 * (across / width) ** 2), abs(across)


def blob(row, column, width):
    rows, columns = np.indices(SHAPE)
    return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 2 / width**2)


@pytest.mark.parametrize("height", [1.5, 10.0])
@pytest.mark.parametrize("angle", np.linspace(0, np.pi, 7, endpoint=False) + 0.07)
def test_lines_of_any_direction_are_found_whole(angle, height):
    light, away = line(angle, 6.3)
    found = trails(noise(int(100 * angle)) + height * light, np.ones(SHAPE, bool))
    assert found[away < 1.5].all()
    # All that is more than half a standard deviation, and not much around it.
    assert found[height * light > 0.5].mean() > 0.99
    assert not found[away > 10].any()


def test_what_sources_took_for_their_own_is_masked_as_well():
    light, away = line(0.8, 4.0)
    own = (blob(32, 34, 9.0) > 0.2).astype(float)
    image = noise(3) + 8 * light * (1 - own)
    every = np.ones(SHAPE, bool)
    # Half of the line is missing in what is left over.
    assert not trails(image, every).any()
    found = trails(image, every, 10 * own)
    assert found[away < 2].all()


def test_a_trail_in_one_band_is_found_before_any_fit():
    light, away = line(0.5, 3.0)
    source = 60 * blob(30, 28, 3.0)
    images = np.stack([noise(seed) + source for seed in (5, 6, 7)])
    images[1] += 9 * light
    found = trails_of_one_band(images, np.ones(images.shape))
    assert found[1][away < 2].all()
    assert not found[[0, 2]].any()
    # In all bands it could be anything.
    every = np.stack([noise(seed) + source + 9 * light for seed in (5, 6, 7)])
    assert not trails_of_one_band(every, np.ones(images.shape)).any()
    assert not trails_of_one_band(images[1:2], np.ones((1, *SHAPE))).any()


def test_two_trails_and_holes():
    first, second = line(0.4, 5.0), line(1.9, -12.0)
    seen = np.random.default_rng(0).uniform(size=SHAPE) > 0.1
    image = np.where(seen, noise(1) + 8 * first[0] + 4 * second[0], 0.0)
    found = trails(image, seen)
    assert found[first[1] < 2].all()
    assert found[second[1] < 2].all()
    assert found.mean() < 0.4


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_sources_are_no_trails(seed):
    rng = np.random.default_rng(seed)
    image = noise(100 + seed)
    # Several that no catalog has may stand in a row; one does not.
    image += rng.uniform(5, 200) * blob(*rng.uniform(0, 60, 2), rng.uniform(1, 4))
    # A galaxy on edge, whose brightest half is as long as a quarter of the image.
    light, _ = line(rng.uniform(0, np.pi), rng.uniform(-10, 10))
    image += 20 * light * blob(*rng.uniform(20, 40, 2), 7.0)
    assert not trails(image, np.ones(SHAPE, bool)).any()


def test_small_and_masked_images_have_none():
    assert not trails(np.full((10, 10), 5.0), np.ones((10, 10), bool)).any()
    assert not trails(np.full(SHAPE, 5.0), np.zeros(SHAPE, bool)).any()
