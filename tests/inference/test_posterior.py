"""A bound model as functions for other libraries: `jax.jit`, lists as data, exports."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from scorepriors import load_prior
from scorepriors._errors import InputError
from scorepriors.inference import fit_map, hallucination_map, posterior


def line(x, y):
    slope = numpyro.sample("slope", dist.HalfNormal(2))
    numpyro.deterministic("double", 2 * slope)
    numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


X, Y = [0.0, 1.0, 2.0], [0.3, 0.9, 2.5]


@pytest.fixture
def bound():
    return posterior(line, jnp.asarray(X), jnp.asarray(Y))


U = {"slope": jnp.asarray(0.2)}


@pytest.mark.parametrize(
    "name",
    ["log_density", "potential_fn", "log_density_terms", "constrain", "potential_and_values"],
)
def test_methods_can_be_jitted(bound, name):
    method = getattr(bound, name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jax.jit(method)(U), method(U)
    )
    # One program for one posterior: `jax.jit` compares the method by identity.
    assert method == getattr(bound, name)
    assert hash(method) == hash(getattr(bound, name))
    other = posterior(line, jnp.asarray(X), jnp.asarray(Y))
    assert method != getattr(other, name)


def test_methods_are_pytrees_whose_arrays_can_be_traced(bound):
    import equinox as eqx

    traces = []

    @eqx.filter_jit
    def value(density, u):
        traces.append(1)
        return density(u)

    value(bound.log_density, U)
    other = posterior(line, jnp.asarray(X), jnp.asarray(Y) + 1)
    np.testing.assert_allclose(value(other.log_density, U), other.log_density(U), rtol=1e-6)
    assert len(traces) == 1


def test_methods_go_through_transforms_and_back(bound):
    u = bound.unconstrain({"slope": jnp.asarray(1.3)})
    np.testing.assert_allclose(bound.constrain(u)["slope"], 1.3, rtol=1e-6)
    slope = jax.jit(jax.grad(bound.log_density))(u)["slope"]
    step = 1e-2
    ends = [bound.log_density({"slope": u["slope"] + h}) for h in (step, -step)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-2)
    with pytest.raises(InputError, match="needs a value of 'slope'"):
        bound.unconstrain({})


def test_lists_of_numbers_are_data(bound):
    given = posterior(line, X, Y)
    np.testing.assert_allclose(given.log_density(U), bound.log_density(U), rtol=1e-6)

    def nested(data, shape):
        x = numpyro.sample("x", dist.Normal(0, 1).expand(shape).to_event(len(shape)))
        numpyro.sample("y", dist.Normal(x, data["errors"]).to_event(2), obs=data["y"])

    data = {"y": [[1.0, 2.0], [3.0, 4.0]], "errors": [[1.0, 2.0], [3.0, 4.0]]}
    of_lists = posterior(nested, data, (2, 2))  # a tuple stays what it is
    of_arrays = posterior(nested, {n: jnp.asarray(v, float) for n, v in data.items()}, (2, 2))
    u = {"x": jnp.ones((2, 2))}
    np.testing.assert_allclose(of_lists.log_density(u), of_arrays.log_density(u), rtol=1e-6)
    assert len(jax.tree.leaves(of_lists)) == 2

    def uneven(parts):
        x = numpyro.sample("x", dist.Normal(0, 1))
        for i, part in enumerate(parts):
            numpyro.sample(f"y{i}", dist.Normal(x, 1), obs=jnp.asarray(part))

    assert set(posterior(uneven, [[1.0], [2.0, 3.0]]).trace({"x": jnp.zeros(())})) >= {"y0", "y1"}


def test_a_prior_can_be_exported_by_its_leaves():
    prior = load_prior("lsst-32")
    leaves, structure = jax.tree.flatten(prior)
    x = jnp.full((1, 32, 32), 0.1)
    program = jax.jit(lambda leaves, x: jax.tree.unflatten(structure, leaves).log_prob(x))
    exported = jax.export.export(program)(leaves, x)
    lower = jax.tree.leaves(prior.at(0.3))
    for other, given in ((prior, leaves), (prior.at(0.3), lower)):
        np.testing.assert_allclose(exported.call(given, x), other.log_prob(x), rtol=1e-4)


def test_hallucination_maps_of_other_models_are_refused():
    best = fit_map(line, X, Y, key=jax.random.key(0))
    with pytest.raises(InputError, match=r"result of `deblend`.*MAPResult.*hessian_diagonal"):
        hallucination_map(best)
