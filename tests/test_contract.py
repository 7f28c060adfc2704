"""One contract for all priors: what a NumPyro distribution has to do."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from conftest import gaussian_prior, small_energy
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from scorepriors import InputError, LogStretch, ScorePrior, load_prior
from scorepriors.networks import GaussianEnergy, LineEnergy, VarianceExploding, score


def _gaussian_score(z, sigma):
    return -(z - 1.0) / (0.2 + sigma**2)


PRIORS = {
    "gaussian": gaussian_prior,
    "network": lambda: ScorePrior(small_energy(), LogStretch(), 0.3, sigma_max=5.0),
    "line": lambda: ScorePrior.from_score(_gaussian_score, jnp.zeros((8, 8)), LogStretch(), 0.3),
    "published": lambda: gaussian_prior().as_published(),
    "lsst-32": lambda: load_prior("lsst-32"),
    "ztf-32": lambda: load_prior("ztf-32"),
}


@pytest.fixture(params=PRIORS)
def prior(request):
    return PRIORS[request.param]()


def _images(prior, *shape, seed=1):
    z = 0.5 + jax.random.normal(jax.random.key(seed), (*shape, *prior.event_shape))
    return prior.stretch(z)


def test_log_prob_follows_batch_shapes_and_jit_equals_eager(prior):
    x = _images(prior, 2, 3)
    value = prior.log_prob(x)
    assert value.shape == (2, 3)
    assert np.isfinite(value).all()
    rtol = 2e-5
    np.testing.assert_allclose(jax.jit(lambda p, x: p.log_prob(x))(prior, x), value, rtol=rtol)
    np.testing.assert_allclose(jax.vmap(prior.log_prob)(x), value, rtol=rtol)
    assert prior.expand([3]).log_prob(x).shape == (2, 3)
    assert prior.expand([3]).to_event(1).log_prob(x).shape == (2,)


def test_pytree_and_pickle_round_trips(prior):
    x = _images(prior)
    leaves, structure = jax.tree.flatten(prior)
    for again in (jax.tree.unflatten(structure, leaves), pickle.loads(pickle.dumps(prior))):
        assert again.event_shape == prior.event_shape
        np.testing.assert_allclose(again.log_prob(x), prior.log_prob(x), rtol=1e-6)


def test_score_is_the_gradient_and_integrates_to_log_prob(prior):
    start, end = _images(prior, seed=1), _images(prior, seed=2)
    # Along a line in z, where the path stays inside the support.
    z0, z1 = prior.stretch.inv(start), prior.stretch.inv(end)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    points = prior.stretch(z0 + (nodes[:, None, None] + 1) / 2 * (z1 - z0))
    slope = (prior.score(points) * _velocity(prior, points) * (z1 - z0)).sum((1, 2))
    integral = (slope * weights / 2).sum()
    difference = prior.log_prob(end) - prior.log_prob(start)
    np.testing.assert_allclose(integral, difference, rtol=2e-3, atol=2e-3 * abs(difference) + 0.05)


def _velocity(prior, x):
    return jnp.exp(prior.stretch.log_abs_det_jacobian(prior.stretch.inv(x), x))


def test_another_level_compiles_nothing(prior):
    traces = []

    @jax.jit
    def value(p, x):
        traces.append(1)
        return p.log_prob(x)

    x = _images(prior)
    first, second = value(prior, x), value(prior.at(0.4), x)
    assert len(traces) == 1
    assert first != second
    assert "sigma0=0.4" in repr(prior.at(0.4))


def test_gaussian_log_prob_in_closed_form():
    prior, x = gaussian_prior(), _images(gaussian_prior())
    energy = prior.energy
    total = dist.Normal(energy.mean, jnp.sqrt(0.2 + 0.3**2))
    exact = dist.TransformedDistribution(total, prior.stretch).log_prob(x).sum()
    constant = 64 * (-0.5 * np.log(2 * np.pi) - 0.5 * np.log(0.2 + 0.3**2))
    np.testing.assert_allclose(prior.log_prob(x) + constant, exact, rtol=1e-5)


def test_published_form_is_the_score_times_the_slope_of_the_stretch():
    prior = gaussian_prior()
    x = _images(prior)
    z = prior.stretch.inv(x)
    in_z = score(prior.energy, z, prior.sigma)
    np.testing.assert_allclose(prior.as_published().score(x), in_z / _velocity(prior, x), rtol=1e-4)
    with pytest.raises(InputError, match="cannot be sampled"):
        prior.as_published().sample(jax.random.key(0))


def test_samples_have_the_mean_and_variance_of_the_smoothed_gaussian():
    prior = gaussian_prior()
    z = prior.stretch.inv(prior.sample(jax.random.key(3), (400,)))
    count = z.size
    pull = (z - prior.energy.mean) / np.sqrt(0.2 + 0.3**2)
    # Five standard errors, and 2 % for thirty steps of the integrator.
    assert abs(pull.mean()) < 5 / count**0.5 + 0.02
    assert abs(pull.var() - 1) < 5 * (2 / count) ** 0.5 + 0.02


def test_lineenergy_equals_the_exact_energy_and_is_conservative():
    exact = GaussianEnergy(jnp.ones((4, 4)), jnp.asarray(0.2))
    line = LineEnergy(_gaussian_score, jnp.zeros((4, 4)), 4)
    z = jax.random.normal(jax.random.key(0), (4, 4))
    zero, sigma = jnp.zeros((4, 4)), jnp.asarray(0.3)
    np.testing.assert_allclose(
        line(z, sigma), exact(z, sigma) - exact(zero, sigma), rtol=1e-5, atol=1e-5
    )
    turning = LineEnergy(lambda z, s: jnp.roll(z, 1, 0) - z, zero, 4)
    jacobian = jax.hessian(lambda v: turning(v.reshape(4, 4), sigma))(z.ravel())
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-5)
    with pytest.raises(InputError, match="num_nodes"):
        LineEnergy(_gaussian_score, zero, 0)


def test_variance_preserving_adapter_on_a_gaussian():
    # A unit-mean Gaussian of variance v: at time t its marginal is known exactly.
    def network(z, t):
        mean, variance = jnp.exp(-t / 2), 0.2 * jnp.exp(-t) + 1 - jnp.exp(-t)
        return -(z - mean) / variance

    z, sigma = jnp.full((4, 4), 0.3), jnp.asarray(0.7)
    np.testing.assert_allclose(
        VarianceExploding(network)(z, sigma), _gaussian_score(z, sigma), rtol=1e-5
    )


def test_nuts_svi_and_predictive_of_numpyro():
    prior = gaussian_prior(box=4)

    def model(y=None):
        with numpyro.plate("source", 2):
            x = numpyro.sample("x", prior)
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(3), obs=y)

    drawn = Predictive(model, num_samples=2)(jax.random.key(0))
    assert drawn["x"].shape == (2, 2, 4, 4)
    y = drawn["x"][0]
    chain = MCMC(NUTS(model), num_warmup=20, num_samples=20, progress_bar=False)
    chain.run(jax.random.key(1), y)
    assert np.isfinite(chain.get_samples()["x"]).all()
    guide = AutoNormal(model)
    run = SVI(model, guide, optax.adam(1e-2), Trace_ELBO()).run(
        jax.random.key(2), 20, y, progress_bar=False
    )
    assert np.isfinite(run.losses).all()


def test_nuts_reproduces_the_variance_of_the_prior():
    prior = gaussian_prior(box=4)

    def model():
        numpyro.sample("x", prior)

    chain = MCMC(NUTS(model), num_warmup=300, num_samples=600, progress_bar=False)
    chain.run(jax.random.key(0))
    z = prior.stretch.inv(chain.get_samples()["x"])
    # 16 independent pixels of 600 draws: 5 standard errors of a variance are about 0.1.
    assert abs(z.var(0).mean() / (0.2 + 0.3**2) - 1) < 0.12


def test_bad_levels_and_values_outside_the_support_are_refused():
    with pytest.raises(InputError, match="sigma"):
        gaussian_prior().at(-1.0)
    with pytest.raises(InputError, match="sigma"):
        ScorePrior(small_energy(), sigma=0.0)
    checked = gaussian_prior()
    assert not checked.support(jnp.full((8, 8), -1.0))
    assert checked.support(jnp.full((8, 8), 0.0))
