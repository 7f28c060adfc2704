"""Models that read more than their arguments: closures, globals, attributes, code."""

import dataclasses
import logging
import types
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from scorepriors import InputError
from scorepriors.inference import fit_map, posterior, sample
from scorepriors.inference._reads import digest_of, reads
from scorepriors.inference.sampling._diagnostics import SamplingWarning
from scorepriors.inference.sampling._origin import at_fit

KEY = jax.random.key(0)
WIDTH = 1.0
SETTINGS = types.SimpleNamespace(width=1.0)
Y = np.array(3.0, np.float32)


def half():
    return WIDTH / 2


def by_global(y):
    x = numpyro.sample("x", dist.Normal(0, WIDTH))
    numpyro.sample("y", dist.Normal(x, 1), obs=y)


def by_helper(y):
    x = numpyro.sample("x", dist.Normal(0, 2 * half()))
    numpyro.sample("y", dist.Normal(x, 1), obs=y)


def by_attribute(y):
    x = numpyro.sample("x", dist.Normal(0, SETTINGS.width))
    numpyro.sample("y", dist.Normal(x, 1), obs=y)


class Model:
    def __init__(self):
        self.width = 1.0

    def __call__(self, y):
        x = numpyro.sample("x", dist.Normal(0, self.width))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    def method(self, y):
        self(y)


def mode(model):
    return float(fit_map(model, Y, key=KEY).values["x"])


def wider(one, monkeypatch):
    """Set the width of a model to ten, wherever it reads it."""
    if isinstance(one, Model):
        one.width = 10.0
    monkeypatch.setitem(globals(), "WIDTH", 10.0)
    monkeypatch.setattr(SETTINGS, "width", 10.0)


OBJECT = Model()


@pytest.mark.parametrize("model", [by_global, by_helper, by_attribute, OBJECT, OBJECT.method])
def test_another_value_is_another_program(model, monkeypatch):
    OBJECT.width = 1.0
    # Of y = 3 with unit noise the mode is 3 w^2 / (1 + w^2).
    assert mode(model) == pytest.approx(1.5, abs=1e-3)
    wider(OBJECT, monkeypatch)
    assert mode(model) == pytest.approx(300 / 101, abs=1e-3)


def test_a_closure_is_read():
    width = 1.0

    def model(y):
        x = numpyro.sample("x", dist.Normal(0, width))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    assert mode(model) == pytest.approx(1.5, abs=1e-3)
    width = 10.0
    assert mode(model) == pytest.approx(300 / 101, abs=1e-3)


def test_any_object_may_be_there():
    """What a model could name, though it reads nothing of it: the digest is made and stays."""
    gone = jnp.ones(3)
    gone.delete()
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    cycle: dict = {}
    cycle["self"] = cycle
    log = logging.getLogger("a model")

    def model(y):
        return gone, deep, cycle, log, Path, y

    before = reads(model)
    log.debug("a logger remembers the levels that it was asked for")
    assert log._cache
    assert reads(model) == before


def test_the_same_values_are_the_same_program():
    """Functions made anew, and what changes as a model is traced, are no other values."""

    def made(width, seen):
        def model(y):
            """Words about a model."""
            seen.add("traced")
            return numpyro.sample("x", dist.Normal(y, width))

        return model

    assert reads(made(1.0, set())) == reads(made(1.0, set()))
    assert reads(made(1.0, set())) != reads(made(2.0, set()))
    seeded = handlers.seed(by_global, jax.random.key(0))
    before = reads(seeded)
    seeded(Y)
    assert reads(seeded) == before
    data = {"x": np.array(1.0)}
    conditioned = handlers.condition(by_global, data)
    assert reads(conditioned) != reads(handlers.condition(by_global, {"x": np.array(2.0)}))
    assert posterior(by_global, Y).reads == reads(by_global)
    assert digest_of([1, 2.0, {"a": (None, "b")}]) != digest_of([1, 2.0, {"a": (None, "c")}])


@pytest.mark.filterwarnings("ignore::scorepriors.inference.sampling._diagnostics.SamplingWarning")
def test_a_checkpoint_belongs_to_numbers_and_code(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    few = {"key": KEY, "num_warmup": 20, "num_samples": 10, "num_chains": 2, "checkpoint": path}

    def model(y, width):
        x = numpyro.sample("x", dist.Normal(0, width))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    sample(model, Y, 0.5, **few)
    with pytest.raises(InputError, match="another model"):
        sample(model, Y, 5.0, **few)

    def other(y, width):
        x = numpyro.sample("x", dist.Normal(1, width))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    other.__qualname__ = model.__qualname__
    with pytest.raises(InputError, match="another model"):
        sample(other, Y, 0.5, **few)


def test_keywords_with_an_axis_of_the_batch_are_refused():
    def model(y, sigma):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x, sigma), obs=y)

    y, sigma = np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32)
    with pytest.raises(InputError, match=r"'sigma' has an axis of the batch's length"):
        fit_map(model, y, model_kwargs={"sigma": sigma}, key=KEY, in_axes=(0,))
    found = fit_map(model, y + 1, model_kwargs={"sigma": sigma[0]}, key=KEY, in_axes=(0,))
    np.testing.assert_allclose(found.values["x"], 4 / 5, atol=1e-3)


def network(prior):
    import equinox as eqx
    from numpyro.contrib.module import random_eqx_module

    net = eqx.nn.Linear(1, 1, key=jax.random.key(1))

    def model(x, y):
        line = random_eqx_module("net", net, prior=prior)
        numpyro.sample("y", dist.Normal(jax.vmap(line)(x)[:, 0], 0.1).to_event(1), obs=y)

    return model


def test_networks_whose_weights_all_have_priors():
    x = jnp.linspace(-1, 1, 20)[:, None]
    found = fit_map(network(dist.Normal(0, 10)), x, 2 * x[:, 0] + 1, key=KEY)
    assert found.converged
    weights = np.concatenate([np.ravel(one) for one in found.values.values()])
    np.testing.assert_allclose(sorted(weights), [1, 2], atol=0.01)
    with pytest.raises(InputError, match="weights of the network 'net' have no prior"):
        fit_map(network({"weight": dist.Normal(0, 10)}), x, 2 * x[:, 0] + 1, key=KEY)


def test_jumps_are_recorded_and_not_condemned():
    y = jnp.where(jnp.arange(40) < 20, 0.0, 3.0)

    def model(y):
        place = numpyro.sample("place", dist.Uniform(0, 40))
        level = numpyro.sample("level", dist.Normal(0, 5))
        mean = jnp.where(jnp.arange(40) < place, 0.0, level)
        numpyro.sample("y", dist.Normal(mean, 1).to_event(1), obs=y)

    start = {"place": jnp.asarray(20.0), "level": jnp.asarray(3.0)}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tree = sample(model, y, init=start, key=KEY, num_chains=2, num_warmup=100, num_samples=100)
    assert sum("the log-density jumps" in str(one.message) for one in said) == 1
    assert "jumps" in tree.attrs["findings"]
    assert np.isnan(tree.attrs["stein_p_value"])
    assert "not_the_density" not in tree.attrs["findings"]


def test_a_density_without_a_value_at_zero():
    """The direction of a vector is of no value at its zero, where uniform starts are centered."""

    def model(y):
        v = numpyro.sample("v", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(v / jnp.linalg.norm(v), 0.5).to_event(1), obs=y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)  # what the chains find is not asked here
        tree = sample(model, jnp.array([1.0, 0.0]), init="uniform", key=KEY, num_chains=2)
    v = np.asarray(tree["posterior"]["v"])
    assert np.isfinite(v).all()
    assert v[..., 0].mean() > 0.5


def test_infinite_constants_do_not_disagree():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.deterministic("magnitude", -2.5 * jnp.log10(jnp.stack([jnp.exp(x), 0.0])))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    tree = sample(model, Y, key=KEY)
    assert "chains_disagree" not in tree.attrs["findings"]
    assert np.isfinite(tree.attrs["max_rhat"])


def test_a_fit_is_taken_by_its_parameters_where_values_are_rounded_to_an_edge():
    def model(y):
        x = numpyro.sample("x", dist.TruncatedNormal(1000.0, 1.0, low=1000.0))
        numpyro.sample("y", dist.Normal((x - 1000) * 1e5, 1), obs=y)

    fit = fit_map(model, jnp.asarray(0.5), key=KEY)
    assert float(fit.values["x"]) == 1000.0  # the edge, in single precision
    bound = posterior(model, jnp.asarray(0.5))
    with pytest.raises(InputError, match="outside the site's support"):
        bound.start(fit.values, key=KEY)
    np.testing.assert_array_equal(at_fit(bound, fit, KEY)["x"], fit.params["x"])
    # Of a fit of another model the values are taken.
    other = fit_map(by_global, Y, key=KEY)
    shifted = dataclasses.replace(other, params={"x": other.params["x"] + 1})
    np.testing.assert_allclose(
        at_fit(posterior(by_global, Y), shifted, KEY)["x"], other.values["x"], atol=1e-6
    )
