"""Kernel Stein discrepancy: draws that have the density pass, others do not."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from scorepriors.inference import Check, SamplingWarning, sample
from scorepriors.inference.sampling import _stein
from scorepriors.inference.sampling._stein import (
    SteinCheck,
    discrepancy,
    stein_facts,
    stein_findings,
    stein_kernel,
    stein_sentence,
)


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


def test_too_few_draws_are_not_compared():
    assert stein_findings(stein_facts(SteinCheck())) == []
    assert "were not compared" in stein_sentence({})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        tree = sample(line, X, Y, key=jax.random.key(0), num_warmup=20, num_samples=5)
    assert np.isnan(tree.attrs["stein_p_value"])
