"""Discrete latent sites, summed over, against sums written out."""

import json
import sys

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp
from scipy.stats import norm

from scorepriors._errors import InputError
from scorepriors.inference import Keep, fit_map, hessian_operator, laplace, posterior, sample
from scorepriors.inference.sampling._tree import group

X = np.array([-2.0, -1.9, 2.0, 2.2, 0.3])
WEIGHTS, MEANS = np.array([0.3, 0.7]), np.array([-1.0, 2.0])


def mixture(x, **infer):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(jnp.array([-3.0, 3.0]), 1).to_event(1))
    numpyro.deterministic("gap", mu[1] - mu[0])
    with numpyro.plate("n", len(x)):
        z = numpyro.sample("z", dist.Categorical(w), infer=infer)
        numpyro.deterministic("own", mu[z])
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def markov(x):
    rows = numpyro.sample("P", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
    numpyro.deterministic("stay", rows[0, 0])

    def step(z, now):
        z = numpyro.sample("z", dist.Categorical(rows[z]))
        numpyro.sample("x", dist.Normal(jnp.asarray(MEANS, jnp.float32)[z], 1.0), obs=now)
        return z, z

    _, path = scan(step, 0, x)
    numpyro.deterministic("path", path)


@pytest.fixture
def funsor():
    return pytest.importorskip("funsor")


def at_known_values(bound):
    return bound.unconstrain({"w": jnp.asarray(WEIGHTS), "mu": jnp.asarray(MEANS)})


def test_density_is_the_sum_over_a_discrete_site(funsor):
    bound = posterior(mixture, jnp.asarray(X))
    assert set(bound.sites()) == {"w", "mu"}
    u = at_known_values(bound)
    by_kind = np.log(WEIGHTS) + norm(MEANS, 1).logpdf(X[:, None])
    # A Dirichlet of ones is flat; its stick-breaking has the Jacobian w (1 - w).
    prior = norm([-3, 3], 1).logpdf(MEANS).sum() + np.log(WEIGHTS).sum()
    expected = logsumexp(by_kind, axis=1).sum() + prior
    for density in (bound.log_density, jax.jit(bound.log_density)):
        np.testing.assert_allclose(density(u), expected, rtol=1e-5)
    terms = bound.log_density_terms(u)
    np.testing.assert_allclose(sum(t.sum() for t in terms.values()), expected, rtol=1e-5)
    values = bound.constrain(u)
    assert set(values) == {"w", "mu", "gap"}  # `own` depends on the discrete site
    with pytest.raises(InputError, match="part='posterior'"):
        hessian_operator(bound, u, part="likelihood").as_matrix()


def test_discrete_sites_are_drawn_given_the_rest(funsor):
    bound = posterior(mixture, jnp.asarray(X))
    u = at_known_values(bound)
    by_kind = np.log(WEIGHTS) + norm(MEANS, 1).logpdf(X[:, None])
    expected = np.exp(by_kind[:, 1] - logsumexp(by_kind, axis=1))
    draw = jax.jit(jax.vmap(lambda key: bound.recover(key, u)[0]))
    values = draw(jax.random.split(jax.random.key(0), 4000))
    z = np.asarray(values["z"])
    error = np.sqrt(expected * (1 - expected) / 4000)
    assert (np.abs(z.mean(0) - expected) < 5 * error + 1e-9).all()
    np.testing.assert_allclose(values["own"], MEANS[z], rtol=1e-6)


@pytest.mark.parametrize("draw", [sample, laplace])
def test_mixture_is_sampled_and_its_groups_add_up(funsor, draw):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-2, 1, 40), rng.normal(3, 1, 60)])
    keep = Keep(log_likelihood=True, log_prior=True, posterior_predictive=True)
    tree = draw(mixture, jnp.asarray(x), key=jax.random.key(0), keep=keep)
    found = group(tree, "posterior")
    assert found["z"].dims == ("chain", "draw", "n")
    assert abs(float(found["w"][..., 1].mean()) - 0.6) < 0.05
    assert np.abs(found["mu"].values.mean((0, 1)) - [-2, 3]).max() < 0.3
    z, w, mu = (np.asarray(found[n]) for n in ("z", "w", "mu"))
    own = np.take_along_axis(mu, z, -1)
    np.testing.assert_allclose(
        group(tree, "log_likelihood")["x"], norm(own, 1).logpdf(x), rtol=1e-3, atol=1e-4
    )
    prior = group(tree, "log_prior")
    np.testing.assert_allclose(
        prior["z"], np.log(np.take_along_axis(w, z, -1)), rtol=1e-3, atol=1e-4
    )
    assert prior["mu"].dims == ("chain", "draw")
    assert np.isfinite(az.summary(tree, var_names=["mu"])["mean"]).all()


def test_chain_of_a_scan_is_summed_and_its_states_left_out(funsor):
    rows = np.array([[0.8, 0.2], [0.3, 0.7]])
    bound = posterior(markov, jnp.asarray(X))
    u = bound.unconstrain({"P": jnp.asarray(rows)})
    forward = np.log(rows[0]) + norm(MEANS, 1).logpdf(X[0])
    for now in X[1:]:
        step = logsumexp(forward[:, None] + np.log(rows), axis=0)
        forward = step + norm(MEANS, 1).logpdf(now)
    expected = logsumexp(forward) + np.log(rows).sum()
    np.testing.assert_allclose(bound.log_density(u), expected, rtol=1e-5)
    assert bound.survey(u)[1] == ("path", "x", "z")
    with pytest.warns(UserWarning, match="'path', 'z'"):
        tree = sample(markov, jnp.asarray(X), key=jax.random.key(0))
    assert set(group(tree, "posterior").data_vars) == {"P", "stay"}
    assert json.loads(tree.attrs["left_out"]) == ["path", "z"]
    keep = Keep(log_likelihood=True)
    with pytest.raises(InputError, match="of 'x' depend on discrete sites"):
        sample(markov, jnp.asarray(X), key=jax.random.key(0), keep=keep)


def test_fit_of_a_mixture_converges(funsor):
    best = fit_map(mixture, jnp.asarray(X), key=jax.random.key(0))
    assert best.converged
    assert set(best.values) == {"w", "mu", "gap"}


@pytest.mark.parametrize("run", [sample, laplace, fit_map])
def test_without_funsor_one_sentence_names_the_site(monkeypatch, run):
    monkeypatch.setitem(sys.modules, "funsor", None)
    monkeypatch.setattr("scorepriors.inference._enumeration.find_spec", lambda name: None)
    # What was traced while funsor was there is not traced again.
    jax.clear_caches()
    with pytest.raises(InputError, match=r"'z' is discrete.*pip install funsor"):
        run(mixture, jnp.asarray(X), key=jax.random.key(0))


@pytest.mark.parametrize("terms", [False, True])
def test_a_param_behind_a_discrete_site_is_refused(funsor, terms):
    def model(y):
        which = numpyro.sample("which", dist.Bernoulli(0.3))
        width = numpyro.param("width", 1.0)
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + which, width), obs=y)

    bound = posterior(model, jnp.ones(3))
    density = bound.log_density_terms if terms else bound.log_density
    with pytest.raises(InputError, match=r"`numpyro\.param`, 'width'"):
        density({"mu": jnp.zeros(())})


def test_sites_that_cannot_be_enumerated_are_refused():
    def counted():
        n = numpyro.sample("n", dist.Poisson(3.0))
        numpyro.sample("y", dist.Normal(n, 1.0), obs=2.5)

    with pytest.raises(InputError, match=r"'n' is discrete.*Poisson.*no finite list"):
        sample(counted, key=jax.random.key(0))

    def one_by_one(x):
        mixture(x, enumerate="sequential")

    with pytest.raises(InputError, match=r"'z' asks for .*'sequential'"):
        sample(one_by_one, jnp.asarray(X), key=jax.random.key(0))

    def only():
        numpyro.sample("z", dist.Bernoulli(0.5))

    pytest.importorskip("funsor")
    with pytest.raises(InputError, match="observed or discrete"):
        sample(only, key=jax.random.key(0))
