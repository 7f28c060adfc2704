"""Sources that a fitted model lacks."""

import numpy as np
import pytest
from conftest import small_observation

from scorepriors._errors import InputError
from scorepriors.models import Observation, Positions, find_left_over, find_sources, gaussian_psf


def positions(*places):
    ids = tuple(str(i + 1) for i in range(len(places)))
    return Positions(ids, np.array(places, float).reshape(-1, 2), np.zeros(len(places), bool))


def light(shape, place, width, flux, bands=3):
    """A round Gaussian of a flux."""
    rows, columns = np.indices(shape)
    squared = (rows - place[0]) ** 2 + (columns - place[1]) ** 2
    image = np.exp(-squared / 2 / width**2)
    return np.broadcast_to(flux * image / image.sum(), (bands, *shape))


def seen(model, seed=0):
    images = model + np.random.default_rng(seed).normal(size=model.shape)
    return Observation.from_arrays(
        images, variance=np.ones_like(images), psfs=gaussian_psf(1.7, 31)
    )


SHAPE, BRIGHT = (64, 64), (30.0, 30.0)


def test_an_image_without_sources_has_none():
    obs = seen(np.zeros((3, *SHAPE)))
    assert len(find_sources(obs, threshold=6.0)) == 0
    assert find_sources(obs, threshold=6.0).row_column.shape == (0, 2)


def test_a_source_that_the_model_lacks_is_found():
    model, missing = light(SHAPE, BRIGHT, 4.0, 1e5), light(SHAPE, (30.0, 45.0), 1.7, 300.0)
    found = find_left_over(seen(model + missing), model, positions(BRIGHT))
    assert found.ids == ("2",)
    assert np.hypot(*(found.row_column[0] - (30.0, 45.0))) < 1
    assert len(find_left_over(seen(model), model, positions(BRIGHT))) == 0


def test_a_misfit_of_a_bright_galaxy_is_no_source():
    # Three hundred errors at the center, but 2 % of the light there; none is known to be there.
    truth, model = light(SHAPE, BRIGHT, 4.0, 1e6), light(SHAPE, BRIGHT, 4.05, 1e6)
    obs = seen(truth)
    assert np.abs(obs.images - model).max() > 100
    assert len(find_left_over(obs, model)) == 0
    # The same light without a bright galaxy is a source.
    assert len(find_sources(seen(truth - model + np.abs(truth - model)))) > 0


def test_peaks_at_known_places_are_their_own():
    obs = small_observation([(11.0, 12.0)], flux=5000.0)
    nothing = np.zeros_like(obs.images)
    assert len(find_left_over(obs, nothing)) == 1
    assert len(find_left_over(obs, nothing, positions((12.0, 13.0)))) == 0


def test_wrong_arguments_are_named():
    obs = small_observation([(11.0, 12.0)], flux=5000.0)
    with pytest.raises(InputError, match="`model` has the shape"):
        find_left_over(obs, obs.images[0])
    for threshold in (0, np.nan):
        with pytest.raises(InputError, match="`threshold` must be positive"):
            find_sources(obs, threshold=threshold)
