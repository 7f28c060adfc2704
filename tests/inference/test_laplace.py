"""Laplace approximation: exact for Gaussian posteriors, with warnings for others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray

from scorepriors import InputError
from scorepriors.inference import FitStatus, Keep, SamplingWarning, fit_map, laplace, posterior
from scorepriors.inference.curvature._spectrum import curvature_spectrum, whitening_map
from scorepriors.inference.sampling._diagnostics import said
from scorepriors.inference.sampling._gaussian import largest_khat, pareto_khat
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
    # So deep that each well is nearly Gaussian.
    numpyro.factor("wells", -1000 * (x[0] ** 2 - 1) ** 2 - 0.5 * x[1] ** 2)


def test_a_saddle_is_no_mode():
    fit = fit_map(saddle, key=jax.random.key(0), init={"x": jnp.asarray([0.5, 0.1])})
    tree = laplace(saddle, key=jax.random.key(1), best=fit, num_samples=100)
    assert said(tree) == []
    np.testing.assert_allclose(np.abs(group(tree, "posterior")["x"][0, :, 0].mean()), 1, atol=0.2)
    top = dataclasses.replace(fit, values={"x": jnp.zeros(2)})
    with pytest.warns(SamplingWarning) as caught:
        tree = laplace(saddle, key=jax.random.key(1), best=top, num_samples=100)
    assert any("1 of 2 curvatures found are negative" in str(w.message) for w in caught)
    assert tree.attrs["negative_curvatures"] == 1
    assert tree.attrs["smallest_curvature"] < 0
    assert tree.attrs["status"] == "no_mode"


def test_the_gradient_tells_a_mode_not_the_fit():
    fit = fit_map(saddle, key=jax.random.key(0), init={"x": jnp.asarray([0.5, 0.1])})
    unfinished = dataclasses.replace(fit, status=FitStatus.OUT_OF_ITERATIONS)
    tree = laplace(saddle, key=jax.random.key(1), best=unfinished, num_samples=100)
    assert said(tree) == []  # it is one, whatever the fit says
    slope = dataclasses.replace(fit, values={"x": jnp.asarray([0.3, 0.0])})
    with pytest.warns(SamplingWarning) as caught:
        tree = laplace(saddle, key=jax.random.key(1), best=slope, num_samples=100)
    assert "a Newton step would gain" in str(caught[0].message)
    assert tree.attrs["expected_gain"] > 0.1
    assert tree.attrs["status"] == "no_mode"


def at(values):
    """A fit that claims to have converged at these values."""
    fit = fit_map(saddle, key=jax.random.key(0), init={"x": jnp.asarray([0.5, 0.1])})
    return dataclasses.replace(fit, values=values, status=FitStatus.CONVERGED)


@pytest.mark.parametrize("correlation", [0.9, 0.995, 0.9999, 0.999999])
def test_correlations_up_to_one_are_exact(correlation):
    covariance = np.array([[1, correlation], [correlation, 1]])

    def correlated():
        numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), jnp.asarray(covariance)))

    bound = posterior(correlated)
    found = curvature_spectrum(bound, {"x": jnp.zeros(2)}, key=jax.random.key(0))
    rows = np.asarray(whitening_map(found, jnp.float32, exact=True)(np.eye(2, dtype="f4")), float)
    np.testing.assert_allclose(rows.T @ rows, covariance, rtol=2e-3)
    wide, soft = np.array([1, 1]) / np.sqrt(2), np.array([1, -1]) / np.sqrt(2)
    for direction, variance in ((wide, 1 + correlation), (soft, 1 - correlation)):
        # The covariance itself is rounded to single precision.
        error = 1e-3 + 1e-7 / (1 - correlation)
        np.testing.assert_allclose(((rows @ direction) ** 2).sum(), variance, rtol=error)
    tree = laplace(correlated, key=jax.random.key(0), num_samples=2000)
    assert said(tree) == []
    widths = np.asarray(group(tree, "posterior")["x"])[0].std(0)
    np.testing.assert_allclose(widths, 1, atol=4 / np.sqrt(4000))
    assert tree.attrs["pareto_khat"] < 0.3


def test_hundreds_of_dimensions_with_widths_over_four_decades():
    size = 300
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(size, size)))[0]
    widths = np.geomspace(1e-2, 1e2, size)
    root = (basis / widths).T.astype("f4")

    def wide():
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (size,)))
        numpyro.factor("bowl", -0.5 * (root @ x) ** 2)

    tree = laplace(wide, key=jax.random.key(0), best=at({"x": jnp.ones(size)}), num_samples=2000)
    assert said(tree) == []
    draws = np.asarray(group(tree, "posterior")["x"], float)[0]
    ratio = draws.var(0) / np.diagonal((basis * widths**2) @ basis.T)
    np.testing.assert_allclose(ratio.mean(), 1, atol=0.02)
    np.testing.assert_allclose((draws @ basis).std(0) / widths, 1, atol=5 / np.sqrt(4000))


def calendar(years, y):
    zero = numpyro.sample("zero", dist.Normal(0, 1e4))
    slope = numpyro.sample("slope", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(zero + slope * years, 1.0), obs=y)


def test_a_line_against_calendar_years():
    """Intercept and slope correlate by 1 - 4e-6; the fit need not have arrived at the mode."""
    rng = np.random.default_rng(0)
    years = np.linspace(2000, 2020, 60).astype("f4")
    y = (3 + 0.5 * (years - 2010) + rng.normal(size=60)).astype("f4")
    design = np.stack([np.ones(60), years], axis=1).astype(float)
    covariance = np.linalg.inv(design.T @ design + np.diag([1e-8, 1e-2]))
    mean = covariance @ design.T @ y
    fit = at({"zero": jnp.asarray(0.0), "slope": jnp.asarray(0.0)})
    tree = laplace(calendar, years, y, key=jax.random.key(0), best=fit, num_samples=2000)
    assert said(tree) == []
    for i, name in enumerate(("zero", "slope")):
        draws = np.asarray(group(tree, "posterior")[name], float)[0]
        width = np.sqrt(covariance[i, i])
        np.testing.assert_allclose(draws.mean(), mean[i], atol=4.5 * width / np.sqrt(2000))
        np.testing.assert_allclose(draws.std(), width, rtol=4.5 / np.sqrt(4000))


def funnel():
    v = numpyro.sample("v", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([9]).to_event(1))


def test_a_funnel_is_not_gaussian():
    """The mode of v is 13 of its standard deviations off, with a good curvature."""
    with pytest.warns(SamplingWarning, match="not this Gaussian.* Pareto k"):
        tree = laplace(funnel, key=jax.random.key(0), num_samples=1000)
    assert float(group(tree, "posterior")["v"].mean()) < -30
    assert tree.attrs["pareto_khat"] > 0.7
    assert tree.attrs["status"] == "biased"


def test_the_tail_of_the_ratios_is_that_of_arviz():
    import arviz as az

    ratios = np.random.default_rng(0).standard_t(3, size=1000)
    if hasattr(az, "psislw"):
        expected = float(az.psislw(xarray.DataArray(ratios, dims="__sample__"))[1])
    else:
        from arviz_stats.base import array_stats

        expected = float(array_stats.psislw(ratios)[1])
    assert pareto_khat(ratios) == pytest.approx(expected, abs=0.05)
    assert pareto_khat(np.zeros(1000)) == 0
    assert pareto_khat(np.full(1000, -np.inf)) == np.inf
    # Exponentials to the power k have a tail of that k.
    tail = 1.2 * np.random.default_rng(1).exponential(size=4000)
    assert pareto_khat(tail) == pytest.approx(1.2, abs=0.25)
    assert largest_khat(1000) == pytest.approx(2 / 3)
    assert largest_khat(100_000) == 0.7


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

    with pytest.warns(SamplingWarning) as caught:
        tree = laplace(many, key=jax.random.key(0), num_samples=50, rank=20)
    # The same is found in the curvature and in the density.
    assert [str(w.message).split()[-1] for w in caught] == ["`rank`.", "`sample`."]
    assert tree.attrs["curvature_error"] > 0.1
    assert tree.attrs["pareto_khat"] > 0.7
