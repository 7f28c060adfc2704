"""Sources found without a catalog."""

import contextlib
import dataclasses

import numpy as np
import pytest
from conftest import small_observation

from scorepriors._errors import InputError
from scorepriors.models import detect, load_example
from scorepriors.models.data._observation import Observation
from scorepriors.models.rendering._psf import gaussian_psf


def nearest(found, center):
    return np.linalg.norm(found.row_column[:, None] - np.asarray(center), axis=-1).min(0)


def test_sources_apart():
    center = [(6.0, 6.0), (17.0, 16.0)]
    found = detect(small_observation(center, flux=2000.0))
    assert found.ids == ("1", "2")
    assert nearest(found, center).max() < 0.3


def test_every_galaxy_of_the_example_is_found():
    # Their sum has one maximum only.
    obs, truth = load_example()
    found = detect(obs)
    assert len(found.ids) == len(truth.center)
    assert nearest(found, truth.center).max() < 1
    # Brightest first.
    first = np.linalg.norm(truth.center - found.row_column[0], axis=1).argmin()
    assert truth.flux.sum(1)[first] == truth.flux.sum(1).max()


def test_masked_pixels_are_no_sources():
    obs = small_observation([(11.0, 12.0)], flux=5000.0)
    weights, images = obs.weights.copy(), obs.images.copy()
    weights[:, 12:14, 8:10] = 0  # on the flank
    weights[0, 3, 3] = 0  # in one band alone
    images[0, 3, 3] = 1e6
    found = detect(dataclasses.replace(obs, weights=weights, images=images))
    assert len(found.ids) == 1
    assert nearest(found, [(11.0, 12.0)]).max() < 0.5


def noise(seed):
    images = np.random.default_rng(seed).normal(size=(3, 64, 64))
    psf = gaussian_psf(1.7, 31)
    return Observation.from_arrays(images, variance=np.ones_like(images), psfs=psf)


def test_noise_has_few_sources():
    false = 0
    for seed in range(20):
        with contextlib.suppress(InputError):  # nothing found, as it should be
            false += len(detect(noise(seed)).ids)
    # One in five images is expected; ten in twenty would be a factor too many.
    assert false < 10
    with pytest.raises(InputError, match="above 9 sigma"):
        detect(noise(0), threshold=9)
