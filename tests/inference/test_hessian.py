"""Hessians of models: operators, diagonals, traces and eigenpairs with their errors."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from scorepriors import InputError
from scorepriors.inference._posterior import posterior
from scorepriors.inference.curvature._hessian import (
    diagonal,
    eigenpairs,
    hessian,
    hessian_diagonal,
    hessian_operator,
    matrix,
    trace,
)

SIZE, NOISE = 24, 0.5
DESIGN = np.random.default_rng(0).normal(size=(18, SIZE)).astype(np.float32)


def line(design, y):
    x = numpyro.sample("x", dist.Normal(0, 2).expand([SIZE]).to_event(1))
    numpyro.sample("y", dist.Normal(design @ x, NOISE), obs=y)


@pytest.fixture(scope="module")
def bound():
    return posterior(line, jnp.asarray(DESIGN), jnp.ones(18))


POINT = {"x": jnp.zeros(SIZE)}
LIKELIHOOD = DESIGN.T @ DESIGN / NOISE**2
PRIOR = np.eye(SIZE) / 4


@pytest.mark.parametrize(
    ("part", "true"),
    [("posterior", LIKELIHOOD + PRIOR), ("likelihood", LIKELIHOOD), ("prior", PRIOR)],
)
def test_parts_in_closed_form(bound, part, true):
    operator = hessian_operator(bound, POINT, part=part)
    np.testing.assert_allclose(matrix(operator, chunk=7), true, rtol=1e-5, atol=1e-4)
    found = hessian_diagonal(bound, POINT, part=part)
    np.testing.assert_allclose(found.value["x"], np.diagonal(true), rtol=1e-5)
    assert not np.any(found.standard_error["x"])
    assert found.num_products == SIZE


def test_jacobians_of_transforms_belong_to_the_prior():
    def scale():
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(0.0, tau), obs=jnp.asarray([0.3, -1.2]))

    bound = posterior(scale)
    point = {"tau": jnp.asarray(0.3)}
    # With tau = exp(u): exp(2 u) / 2 - u of the prior, and of the data.
    prior, data = 2 * np.exp(0.6), 2 * (0.09 + 1.44) * np.exp(-0.6)
    for part, true in (("prior", prior), ("likelihood", data), ("posterior", prior + data)):
        found = hessian_diagonal(bound, point, part=part).value["tau"]
        np.testing.assert_allclose(found, true, rtol=1e-5)


def test_lineax_solves_with_it(bound):
    operator = hessian_operator(bound, POINT)
    tagged = lx.TaggedLinearOperator(operator, lx.positive_semidefinite_tag)
    solved = lx.linear_solve(tagged, {"x": jnp.ones(SIZE)}, lx.CG(rtol=1e-5, atol=1e-5))
    true = np.linalg.solve(LIKELIHOOD + PRIOR, np.ones(SIZE))
    np.testing.assert_allclose(solved.value["x"], true, atol=1e-3)
    np.testing.assert_allclose(lx.diagonal(operator), np.diagonal(LIKELIHOOD + PRIOR), rtol=1e-5)


def half_form(form, x):
    return 0.5 * x @ form @ x


FORM = (LIKELIHOOD + PRIOR).astype(np.float32)
OPERATOR = hessian(jax.tree_util.Partial(half_form, jnp.asarray(FORM)), jnp.zeros(SIZE))


@pytest.mark.parametrize(
    ("estimate", "options", "true"),
    [
        (diagonal, {"method": "hutchinson", "num_probes": 60}, np.diagonal(FORM)),
        (diagonal, {"method": "xdiag", "num_probes": 64, "shift": 0.25}, np.diagonal(FORM)),
        (trace, {"method": "hutchinson", "num_probes": 60}, np.trace(FORM)),
        (trace, {"method": "xtrace", "num_probes": 64}, np.trace(FORM)),
    ],
)
def test_standard_errors_are_calibrated(estimate, options, true):
    squares = []
    for seed in range(200):
        found = estimate(OPERATOR, key=jax.random.key(seed), **options)
        squares.append(np.mean(((found.value - true) / found.standard_error) ** 2))
    # The traces of 200 keys leave the mean square itself uncertain by 10 to 15 %.
    assert abs(np.mean(squares) - 1) < (0.1 if estimate is diagonal else 0.4)


def test_relative_error_picks_the_probes():
    loose, tight = (
        diagonal(OPERATOR, key=jax.random.key(0), relative_error=r) for r in (0.1, 0.03)
    )
    assert loose.num_products < tight.num_products < 4096
    for found, wanted in ((loose, 0.1), (tight, 0.03)):
        error = np.linalg.norm(found.standard_error) / np.linalg.norm(found.value)
        assert error <= wanted
        assert np.linalg.norm(found.value - np.diagonal(FORM)) < 3 * wanted * np.linalg.norm(FORM)


def test_probes_do_not_depend_on_the_chunk():
    options = {"key": jax.random.key(3), "method": "hutchinson", "num_probes": 20}
    first, second = (diagonal(OPERATOR, chunk=c, **options) for c in (20, 7))
    np.testing.assert_allclose(first.value, second.value, rtol=1e-5)
    np.testing.assert_allclose(first.standard_error, second.standard_error, rtol=1e-4)


def test_eigenpairs_of_both_ends():
    values = np.linalg.eigvalsh(FORM.astype(float))
    top = eigenpairs(OPERATOR, 3, key=jax.random.key(0))
    np.testing.assert_allclose(top.values, values[-3:], rtol=1e-5)
    np.testing.assert_allclose(FORM @ top.vectors, top.vectors * top.values, atol=2e-3)
    bottom = eigenpairs(-OPERATOR, 2, key=jax.random.key(0))
    np.testing.assert_allclose(-bottom.values[::-1], values[:2], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, "unknown method 'guess'"),
        ({"method": "hutchinson", "num_probes": 1, "key": jax.random.key(0)}, "at least 2"),
        ({"method": "hutchinson"}, "give a `key`"),
        ({"method": "xdiag", "num_probes": 9, "key": jax.random.key(0)}, "between 16 and"),
        ({"method": "exact", "relative_error": 0.1}, "goes with method='hutchinson'"),
        ({"relative_error": -1.0, "key": jax.random.key(0)}, "must be positive"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        diagonal(OPERATOR, **options)


def test_bad_points(bound):
    with pytest.raises(InputError, match="no site 'z'"):
        hessian_operator(bound, POINT, sites="z")
    with pytest.raises(InputError, match="must be 'posterior', 'prior' or 'likelihood'"):
        hessian_operator(bound, POINT, part="half")
    with pytest.raises(InputError, match="must be finite"):
        hessian_operator(bound, {"x": jnp.full(SIZE, jnp.nan)})
    with pytest.raises(InputError, match="between 1 and 24"):
        eigenpairs(OPERATOR, 25, key=jax.random.key(0))


@jax.custom_vjp
def fourth(x):
    return x**4


# By itself, as in `odeint`: forward mode meets it again here.
fourth.defvjp(lambda x: (fourth(x), x), lambda x, slope: (4 * x**3 * slope,))


@pytest.mark.parametrize("at", [1e-3, 1.0, 300.0])
def test_without_forward_mode_hessians_are_differences(at):
    """Of a quartic, whose truncation error is not zero, in units of any size."""

    def model():
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        numpyro.factor("well", -fourth(x / at).sum() - 0.5 * (x[0] - x[1]) ** 2 / at**2)

    point = {"x": jnp.asarray([1.0, 2.0]) * at}
    expected = np.array([[13.0, -1.0], [-1.0, 49.0]]) / at**2
    with pytest.warns(UserWarning, match="reverse mode only"):
        operator = hessian_operator(posterior(model), point)
    np.testing.assert_allclose(matrix(operator) * at**2, expected * at**2, atol=0.05)
    with pytest.warns(UserWarning, match="reverse mode only"):
        found = hessian_diagonal(posterior(model), point)
    np.testing.assert_allclose(found.value["x"] * at**2, np.diag(expected) * at**2, rtol=2e-3)
