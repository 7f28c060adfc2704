"""Typicality: uniform on the prior's own samples, small for other images."""

import jax
import numpy as np
import pytest
from conftest import gaussian_prior
from scipy.stats import kstest

from scorepriors import InputError, load_prior
from scorepriors.inference.diagnosis._typicality import reference, typicality

BOX = 32


@pytest.fixture(scope="module")
def prior():
    return load_prior("lsst-32")


@pytest.fixture(scope="module")
def against(prior):
    return reference(prior, key=jax.random.key(0), number=512)


@pytest.fixture(scope="module")
def samples(prior):
    return np.asarray(prior.sample(jax.random.key(1), (128,)))


def test_uniform_on_samples_of_the_prior(prior, against, samples):
    values = typicality(prior, samples, against=against)
    assert kstest(values, "uniform").pvalue > 0.01


def test_artifacts_stand_out(prior, against, samples):
    rows, columns = np.indices((BOX, BOX)) - (BOX - 1) / 2
    ring = 0.2 * np.exp(-0.5 * (np.hypot(rows, columns) - 9) ** 2)
    some = samples[:6]
    double = some + 0.5 * np.roll(samples[6:12], (4, 6), (1, 2))
    ray = some.copy()
    ray[:, 10, 8:14] += 0.3
    for odd in (some + ring, double / double.max((1, 2), keepdims=True), ray):
        assert (typicality(prior, odd, against=against) < 0.01).all()


def test_what_is_more_probable_than_samples_passes(prior, against, samples):
    denoised = np.asarray(prior.denoise(samples[:4]))
    assert (typicality(prior, denoised, against=against) > 0.5).all()


def test_not_a_number_is_unusual(prior, against, samples):
    broken = samples[:1].copy()
    broken[0, 3, 3] = np.nan
    assert typicality(prior, broken, against=against) < 0.01


def test_bad_input():
    prior = gaussian_prior()
    with pytest.raises(InputError, match=r"must be \[N, 8, 8\]"):
        typicality(prior, np.zeros((3, 9, 9)), key=jax.random.key(0))
    with pytest.raises(InputError, match="give a `key`"):
        typicality(prior, np.zeros((3, 8, 8)))
    with pytest.raises(InputError, match="at least 512"):
        reference(prior, key=jax.random.key(0), number=100)
