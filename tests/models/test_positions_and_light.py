"""Positions against the light of an image: a common vector, no light, and no false alarms."""

import numpy as np
import pytest

from scorepriors.models import load_example, read_positions
from scorepriors.models.data._observation import Observation
from scorepriors.models.data.positions._light import PositionsWarning, displacement, match_light
from scorepriors.models.data.positions._positions import Positions

PLACES = np.array([[14.3, 12.1], [30.2, 41.7], [44.8, 20.4], [17.9, 50.2], [50.1, 52.6]])


def scene(places=PLACES, *, flux=900.0, shape=(64, 64), width=1.8, seed=0):
    rows, columns = np.indices(shape)
    image = np.random.default_rng(seed).normal(size=shape)
    for row, column in places:
        squared = (rows - row) ** 2 + (columns - column) ** 2
        image += flux * np.exp(-squared / 2 / width**2) / (2 * np.pi * width**2)
    side = np.arange(15) - 7
    psf = np.exp(-(side[:, None] ** 2 + side**2) / 2 / 1.7**2)
    return Observation.from_arrays(image[None], variance=np.ones((1, *shape)), psfs=psf / psf.sum())


def positions(places):
    names = tuple(map(str, range(len(places))))
    return Positions(names, np.array(places, float), np.zeros(len(places), bool))


@pytest.mark.parametrize("vector", [(1.0, 1.0), (2.5, 0.0), (0.0, -6.0), (8.0, 8.0), (-11.0, 3.0)])
def test_a_common_vector_is_found(vector):
    match = match_light(positions(PLACES - vector), scene())
    assert match.brought == match.inside == 5
    np.testing.assert_allclose(match.vector, vector[::-1], atol=0.25)
    with pytest.warns(PositionsWarning, match="5 of 5 on detected sources"):
        read_positions((PLACES - vector)[:, ::-1], scene())


@pytest.mark.parametrize("seed", range(5))
def test_right_positions_raise_no_alarm(seed):
    rng = np.random.default_rng(seed)
    places = rng.uniform(6, 58, (7, 2))
    obs = scene(places, flux=400.0, seed=seed)
    assert displacement(positions(places + rng.normal(0, 0.2, places.shape)), obs) == ""


def test_the_example_raises_no_alarm():
    obs, truth = load_example()
    assert displacement(positions(truth.center), obs) == ""


def test_a_catalog_of_another_image_is_said():
    other = np.array([[5.0, 30.0], [33.0, 8.0], [58.0, 35.0]])
    match = match_light(positions(other), scene())
    assert match.vector is None
    assert match.missed == match.bright == 5
    with pytest.warns(
        PositionsWarning, match="5 of 5 bright sources .* 3 of 3 positions have no light under them"
    ):
        read_positions(other[:, ::-1], scene())


def test_a_deeper_catalog_raises_no_alarm():
    rng = np.random.default_rng(1)
    deep = np.vstack([PLACES, rng.uniform(2, 62, (20, 2))])
    assert match_light(positions(deep), scene()).dark > 8
    assert displacement(positions(deep), scene()) == ""


def test_a_catalog_without_some_sources_raises_no_alarm():
    assert displacement(positions(PLACES[:2]), scene()) == ""


def test_one_source_elsewhere_is_said():
    assert "1 of 1 bright sources" in displacement(positions([[40.0, 40.0]]), scene(PLACES[:1]))


def test_nothing_is_said_of_empty_images():
    obs = scene(np.zeros((0, 2)), seed=3)
    assert match_light(positions(PLACES), obs) is None
    assert displacement(positions(PLACES), obs) == ""
