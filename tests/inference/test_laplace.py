"""Laplace approximation: exact for Gaussian posteriors, with warnings for others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from scorepriors import InputError
from scorepriors.inference import FitStatus, Keep, SamplingWarning, fit_map, laplace
from scorepriors.inference.sampling._diagnostics import said
from scorepriors.inference.sampling._tree import group


def regression(design, y):
    with numpyro.plate("coefficient", design.shape[1]):
        x = numpyro.sample("x", dist.Normal(0, 2))
    numpyro.deterministic("total", x.sum())
    numpyro.sample("y", dist.Normal(design @ x, 0.5), obs=y)


DESIGN = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
DATA = DESIGN @ np.arange(6.0, dtype=np.float32)


def test_a_gaussian_posterior_in_closed_form():
    tree = laplace(
        regression,
        jnp.asarray(DESIGN),
        jnp.asarray(DATA),
        key=jax.random.key(0),
        num_samples=4000,
        keep=Keep(log_likelihood=True),
    )
    covariance = np.linalg.inv(DESIGN.T @ DESIGN / 0.25 + np.eye(6) / 4)
    mean = covariance @ DESIGN.T @ DATA / 0.25
    draws = np.asarray(group(tree, "posterior")["x"])[0]
    width = np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose(draws.mean(0), mean, atol=4 * width.max() / np.sqrt(4000))
    found = np.cov(draws, rowvar=False) / np.outer(width, width)
    # Four standard errors of a correlation from 4,000 draws.
    np.testing.assert_allclose(found, covariance / np.outer(width, width), atol=4 / np.sqrt(2000))
    total = np.asarray(group(tree, "posterior")["total"])[0]
    np.testing.assert_allclose(total, draws.sum(1), rtol=1e-4)
    assert group(tree, "posterior")["x"].dims == ("chain", "draw", "coefficient")
    assert group(tree, "log_likelihood")["y"].shape == (1, 4000, 30)
    assert said(tree) == []
    assert tree.attrs["algorithm"] == "laplace"


def saddle():
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (2,)))
    numpyro.factor("wells", -((x[0] ** 2 - 1) ** 2) - 0.5 * x[1] ** 2)


def test_a_saddle_is_no_mode():
    fit = fit_map(saddle, key=jax.random.key(0), init={"x": jnp.asarray([0.5, 0.1])})
    tree = laplace(saddle, key=jax.random.key(1), best=fit, num_samples=100)
    assert said(tree) == []
    np.testing.assert_allclose(np.abs(group(tree, "posterior")["x"][0, :, 0].mean()), 1, atol=0.2)
    top = dataclasses.replace(fit, values={"x": jnp.zeros(2)})
    with pytest.warns(SamplingWarning, match="1 of 2 curvatures found are negative"):
        tree = laplace(saddle, key=jax.random.key(1), best=top, num_samples=100)
    assert tree.attrs["negative_curvatures"] == 1
    assert tree.attrs["smallest_curvature"] < 0
    unfinished = dataclasses.replace(fit, status=FitStatus.OUT_OF_ITERATIONS)
    with pytest.warns(SamplingWarning, match="had not converged"):
        tree = laplace(saddle, key=jax.random.key(1), best=unfinished, num_samples=100)
    assert tree.attrs["status"] == "no_mode"


def test_bad_input():
    with pytest.raises(InputError, match="`num_samples` must be at least 4"):
        laplace(saddle, key=jax.random.key(0), num_samples=1)
    with pytest.raises(InputError, match="`rank` must be at least 1"):
        laplace(saddle, key=jax.random.key(0), rank=0)

    def flat():
        numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))

    fit = fit_map(saddle, key=jax.random.key(0), init={"x": jnp.asarray([0.5, 0.1])})
    nowhere = dataclasses.replace(fit, values={"x": jnp.asarray(0.0)})
    with pytest.raises(InputError, match="no Gaussian fits there"):
        laplace(flat, key=jax.random.key(0), best=nowhere)


def test_more_structure_than_directions_is_said():
    widths = jnp.geomspace(0.1, 10, 500)

    def many():
        numpyro.sample("x", dist.Normal(0, widths).to_event(1))

    with pytest.warns(SamplingWarning, match="raise `rank`"):
        tree = laplace(many, key=jax.random.key(0), num_samples=50, rank=20)
    assert tree.attrs["curvature_error"] > 0.1
