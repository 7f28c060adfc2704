"""Sampling by diffusion, against a Gaussian for which every step is known."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from scorepriors.energies._diffusion import (
    flow_from_white,
    follow_flow,
    noise_schedule,
    white_noise,
)
from scorepriors.energies._gaussian import GaussianEnergy

TOP, BOTTOM, NUM = 20.0, 0.2, 3000
VARIANCE = np.geomspace(0.05, 4.0, 16).reshape(4, 4)
MEAN = np.linspace(-1.0, 2.0, 16).reshape(4, 4)


@pytest.fixture
def energy():
    return GaussianEnergy(jnp.asarray(MEAN, jnp.float32), jnp.asarray(VARIANCE, jnp.float32))


def sample_flow(energy, *, key, num, sigma_max, sigma_min, num_steps):
    """Stretched draws ``[num, n, n]``, as `ScorePrior.sample` makes them."""
    params, static = eqx.partition(energy, eqx.is_inexact_array)
    white = white_noise(params, key, num, energy.box)
    levels = jnp.asarray(sigma_max), jnp.asarray(sigma_min)
    return flow_from_white(params, static, white, *levels, num_steps)


def draw(sampler, energy, num=NUM, seed=0, **kwargs):
    key = jax.random.key(seed)
    z = sampler(energy, key=key, num=num, sigma_max=TOP, sigma_min=BOTTOM, **kwargs)
    return np.asarray(z, float)


def flow_factor(levels):
    """Factor ``[4, 4]`` by which the flow's steps change the distance from the mean."""
    z, before, last = np.ones_like(VARIANCE), 0.0, np.inf
    for now, then in pairwise(np.asarray(levels, float)):
        clean = VARIANCE / (VARIANCE + now**2) * z
        length = np.log(now / then)
        ahead = clean + length / (2 * last) * (clean - before)
        z = then / now * z + (1 - then / now) * ahead
        before, last = clean, length
    return z


def schedule(num_steps):
    return noise_schedule(TOP, BOTTOM, num_steps)


def pulls(z, variance):
    """Deviations ``[2, 16]`` of means and variances in their standard errors."""
    mean = (z.mean(0) - MEAN) / np.sqrt(variance / len(z))
    spread = (z.var(0) / variance - 1) / np.sqrt(2 / len(z))
    return np.stack([mean.ravel(), spread.ravel()])


LIMIT = norm.isf(1e-6 / (2 * 32))


def test_schedule_falls_from_end_to_end_evenly_in_the_seventh_root():
    levels = np.asarray(schedule(10), float)
    np.testing.assert_allclose(levels[[0, -1]], [TOP, BOTTOM], rtol=1e-5)
    np.testing.assert_allclose(np.diff(levels ** (1 / 7), 2), 0, atol=1e-5)
    assert (np.diff(levels) < 0).all()


def test_flow_reproduces_mean_and_variance(energy):
    z = draw(sample_flow, energy, num_steps=60)
    assert np.abs(pulls(z, VARIANCE + BOTTOM**2)).max() < LIMIT
    # Negative control: without the noise of sigma_min the variance is another.
    assert np.abs(pulls(z, VARIANCE)).max() > LIMIT


def test_flow_takes_the_steps_it_says(energy):
    # The start is drawn from the same keys; each step is linear in it.
    white = white_noise(energy, jax.random.key(0), 50, 4)
    start = np.asarray(jax.vmap(energy.from_white, (0, None))(white, jnp.asarray(TOP)), float)
    z = draw(sample_flow, energy, 50, num_steps=12)
    np.testing.assert_allclose(z, MEAN + flow_factor(schedule(12)) * (start - MEAN), atol=2e-4)


@pytest.mark.parametrize("up", [False, True])
def test_flow_converges_at_second_order(up):
    exact = np.sqrt((VARIANCE + BOTTOM**2) / (VARIANCE + TOP**2))
    exact = 1 / exact if up else exact
    errors = [
        np.abs(flow_factor(schedule(n)[:: -1 if up else 1]) / exact - 1).max() for n in (30, 60)
    ]
    assert errors[0] < 0.02  # what thirty steps, the default, cost
    assert 3 < errors[0] / errors[1] < 6


def test_flow_up_undoes_flow_down(energy):
    white = white_noise(energy, jax.random.key(1), 20, 4)
    top = jax.vmap(energy.from_white, (0, None))(white, jnp.asarray(TOP))
    bottom = follow_flow(energy, top, schedule(60))
    again = follow_flow(energy, bottom, schedule(60)[::-1])
    np.testing.assert_allclose(again, top, atol=0.02 * TOP)


def test_keys_decide_and_levels_compile_nothing(energy):
    first, again, other = (draw(sample_flow, energy, 3, seed, num_steps=5) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).min() > 0
    assert first.shape == (3, 4, 4)
    before = flow_from_white._cache_size()
    sample_flow(energy, key=jax.random.key(0), num=3, sigma_max=9.0, sigma_min=0.5, num_steps=5)
    assert flow_from_white._cache_size() == before
