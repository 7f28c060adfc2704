"""Kernel Stein discrepancy: draws that have the density pass, others do not."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from conftest import gaussian_prior, small_observation

from scorepriors.inference import Check, Flow, SamplingWarning, fit_map, posterior, sample
from scorepriors.inference.deblending.reduced import Reduced
from scorepriors.inference.sampling import _stein
from scorepriors.inference.sampling._stein import (
    SteinCheck,
    discrepancy,
    stein_facts,
    stein_findings,
    stein_kernel,
    stein_sentence,
)
from scorepriors.models import FreeForm, PointSource, Scene, Sersic, blend, place_sources


def test_kernel_against_automatic_differentiation():
    x = np.random.default_rng(0).normal(size=(4, 3))
    score = np.sin(x) - x

    def kernel(a, b):
        return (1 + jnp.sum((a - b) ** 2) / 3) ** -0.5 + a @ b / 3

    def stein(a, b, s, t):
        mixed = jnp.trace(jax.jacfwd(jax.grad(kernel, 1), 0)(a, b))
        ahead, behind = jax.grad(kernel, 1)(a, b), jax.grad(kernel, 0)(a, b)
        return s @ t * kernel(a, b) + s @ ahead + t @ behind + mixed

    expected = [[float(stein(*p)) for p in _pairs(x, score, i)] for i in range(4)]
    np.testing.assert_allclose(stein_kernel(x, score), expected, rtol=1e-5, atol=1e-6)


def _pairs(x, score, i):
    return [(x[i], x[j], score[i], score[j]) for j in range(len(x))]


def p_values(make, runs=200, dimension=6, number=200):
    rng = np.random.default_rng(1)
    out = []
    for _ in range(runs):
        x = make(rng.normal(size=(number, dimension)))
        out.append(discrepancy(x, -x, rng)[1])
    return np.array(out)


def test_right_draws_fail_at_the_nominal_rate(monkeypatch):
    monkeypatch.setattr(_stein, "RESAMPLED", 400)
    found = p_values(lambda x: x)
    # Of 200, 20 and 2 expected: three standard deviations of the binomial.
    assert 8 <= np.sum(found < 0.1) <= 32
    assert np.sum(found < 0.01) <= 6


@pytest.mark.parametrize(
    "make",
    [lambda x: 1.3 * x, lambda x: x / 1.3, lambda x: x + 0.35 * (np.arange(x.shape[1]) == 0)],
    ids=["wide", "narrow", "shifted"],
)
def test_wrong_width_and_place_are_seen(make, monkeypatch):
    monkeypatch.setattr(_stein, "RESAMPLED", 1000)
    assert np.mean(p_values(make, runs=10, number=300) < 0.01) >= 0.9


def line(x, y):
    slope = numpyro.sample("slope", dist.Normal(0, 5))
    middle = numpyro.sample("middle", dist.Normal(0, 5))
    numpyro.sample("y", dist.Normal(middle + slope * x, 0.5), obs=y)


X = np.linspace(-1, 1, 20).astype(np.float32)
Y = (1 + 2 * X + 0.1 * np.cos(9 * X)).astype(np.float32)


@pytest.mark.parametrize("algorithm", ["nuts", "dynamic_hmc"])
def test_runs_of_sample_agree_with_their_density(algorithm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        tree = sample(line, X, Y, key=jax.random.key(0), algorithm=algorithm)
    assert tree.attrs["stein_p_value"] > 0.001
    assert tree.attrs["stein_directions"] == 2
    assert " agree " in stein_sentence(tree.attrs)


def many(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([40]).to_event(1))
    numpyro.sample("y", dist.Normal(mu, 2.0).to_event(1), obs=y)


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_of_many_directions_some_are_checked(factor, monkeypatch):
    from scorepriors.inference import NUTS

    keep = NUTS.keep
    monkeypatch.setattr(NUTS, "keep", lambda self, *args: factor * keep(self, *args))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        tree = sample(many, jnp.zeros(40), key=jax.random.key(0), algorithm="nuts")
    assert tree.attrs["stein_directions"] == _stein.DIRECTIONS
    codes = [finding.check for finding in stein_findings(tree.attrs)]
    assert codes == ([] if factor == 1 else [Check.NOT_THE_DENSITY])
    if factor != 1:
        assert "kernel Stein discrepancy" in tree.attrs["warnings"]
        assert " disagree " in stein_sentence(tree.attrs)


CENTERS = np.array([[8.0, 9.0], [13.0, 12.0]])


def galaxies(flux, **groups):
    """Two sources that overlap, of noise and PSF that are known."""
    obs = small_observation(CENTERS, shape=(20, 20), flux=flux)
    return posterior(blend, Scene.build(obs, **groups))


def scene_draws(bound, sampler, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        best = fit_map(bound, key=jax.random.key(0))
        return sample(bound, key=jax.random.key(0), algorithm=sampler, init=best, **options)


def verdict(tree):
    assert np.isfinite(tree.attrs["stein_p_value"])
    return [finding.check for finding in stein_findings(tree.attrs)]


@pytest.mark.parametrize("factor", [1.0, 1.4])
def test_reduced_has_the_density_of_its_scene(factor, monkeypatch):
    keep = Reduced.keep
    # About the mode: draws are offsets from it.
    monkeypatch.setattr(Reduced, "keep", lambda self, *args: factor * keep(self, *args))
    galaxy, star = (place_sources(CENTERS[i : i + 1], box=15, index=[i]) for i in range(2))
    bound = galaxies(3000.0, profiles=Sersic(galaxy), stars=PointSource(star))
    tree = scene_draws(bound, Reduced(), num_warmup=80, num_samples=200)
    assert verdict(tree) == ([] if factor == 1 else [Check.NOT_THE_DENSITY])


@pytest.mark.parametrize("factor", [1.0, 1.6])
def test_flow_has_the_density_of_its_scene(factor, monkeypatch):
    snapshot, seen = Flow.snapshot, []

    def spread(self, state):
        seen.append(snapshot(self, state))
        middle = np.mean(seen, (0, 1))
        return (middle + factor * (seen[-1] - middle)).astype(seen[-1].dtype)

    monkeypatch.setattr(Flow, "snapshot", spread)
    # Faint ones, between the shapes of which its moves go far.
    bound = galaxies(60.0, galaxies=FreeForm(gaussian_prior(), place_sources(CENTERS, box=8)))
    lengths = {"num_warmup": 200, "num_samples": 1500, "num_chains": 16}
    tree = scene_draws(bound, Flow(thinning=2), **lengths)
    assert verdict(tree) == ([] if factor == 1 else [Check.NOT_THE_DENSITY])


def test_too_few_draws_are_not_compared():
    assert stein_findings(stein_facts(SteinCheck())) == []
    assert "were not compared" in stein_sentence({})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        tree = sample(line, X, Y, key=jax.random.key(0), num_warmup=20, num_samples=5)
    assert np.isnan(tree.attrs["stein_p_value"])
