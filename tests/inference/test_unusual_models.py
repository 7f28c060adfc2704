"""What models and arguments of other people look like, beside those of the pages."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from scorepriors.inference import fit_map, laplace, posterior, sample

KEY = jax.random.key(0)
SHORT = {"num_warmup": 20, "num_samples": 10}
DATA = np.asarray([0.3, 0.9, 2.5], np.float32)


def level(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def levels(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


@pytest.mark.parametrize("start", [4, np.int64(4), np.int8(4), True])
def test_an_integer_start_moves(start):
    best = fit_map(level, DATA, key=KEY, init={"mu": start})
    assert best.params["mu"].dtype == jnp.float32
    np.testing.assert_allclose(best.values["mu"], DATA.sum() / 3.25, atol=1e-3)


def test_integers_in_a_list_move():
    best = fit_map(levels, DATA, key=KEY, init={"mu": [0, 0, 0]})
    np.testing.assert_allclose(best.values["mu"], DATA * 0.8, atol=1e-3)


@pytest.mark.parametrize("start", [[4, 4], np.asarray([4, 4])])
def test_integers_of_a_batch_move(start):
    batch = np.stack([DATA, DATA + 1])
    best = fit_map(level, batch, key=KEY, init={"mu": start}, in_axes=(0,))
    np.testing.assert_allclose(best.values["mu"], batch.sum(1) / 3.25, atol=1e-3)


def test_integers_are_parameters_too():
    u = posterior(level, DATA).unconstrain({"mu": 4})
    assert u["mu"].dtype == jnp.float32


@pytest.mark.filterwarnings("ignore")
def test_chains_from_an_integer_are_not_whole_numbers():
    draws = sample(level, DATA, key=KEY, init={"mu": 4}, **SHORT)["posterior"]["mu"].values
    assert np.any(draws != np.round(draws))


def repeated(y):
    x = numpyro.sample("x", dist.Normal(0, 1), sample_shape=(3,))
    numpyro.sample("y", dist.Normal(x, 1), obs=y)


@pytest.mark.filterwarnings("ignore")
def test_sites_with_a_sample_shape():
    assert posterior(repeated, DATA).sites() == {"x": (3,)}
    best = fit_map(repeated, DATA, key=KEY, init={"x": jnp.ones(3)})
    np.testing.assert_allclose(best.values["x"], DATA / 2, atol=1e-3)
    assert laplace(repeated, DATA, key=KEY)["posterior"]["x"].shape[-1] == 3


def mixture(y):
    means = numpyro.sample("means", dist.Normal(0, 5).expand([2]).to_event(1))
    with numpyro.plate("row", y.shape[0]):
        kind = numpyro.sample("kind", dist.Categorical(jnp.asarray([0.5, 0.5])))
        numpyro.sample("y", dist.Normal(means[kind], 1), obs=y)


def test_a_batch_of_mixtures_takes_starts():
    pytest.importorskip("funsor")
    near = np.asarray([-4.0, -3.9, 4.1, 4.0], np.float32)
    init = {"means": np.asarray([[-3.0, 3.0]] * 2)}
    best = fit_map(mixture, np.stack([near, near + 1]), key=KEY, in_axes=(0,), init=init)
    np.testing.assert_allclose(best.values["means"][1] - best.values["means"][0], 1, atol=0.2)


def noisy(y):
    shift = jax.random.normal(numpyro.prng_key())
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    numpyro.sample("y", dist.Normal(mu + shift, 1), obs=y)


def test_a_model_may_ask_for_a_key():
    best = fit_map(noisy, DATA, key=KEY)
    shift = float(jax.random.normal(jax.random.key(0)))
    np.testing.assert_allclose(best.values["mu"], (DATA - shift).sum() / 3.25, atol=1e-3)
