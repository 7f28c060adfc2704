"""MAP fits of models that have nothing to do with galaxies, and of blends."""

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from scipy.optimize import minimize

from scorepriors import InputError
from scorepriors.inference._posterior import posterior
from scorepriors.inference._status import FitStatus
from scorepriors.inference.fitting._map import fit_map

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)).astype(np.float32)
Y = (X @ np.array([1.0, 2.0, 3.0]) + 0.1 * RNG.normal(size=50)).astype(np.float32)
SCHOOLS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12], np.float32)
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18], np.float32)


def linear(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 10.0).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, 0.1).to_event(1), obs=y)


def eight_schools(num, errors, y=None, centered=False):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", num):
        if centered:
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
        else:
            theta = mu + tau * numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(theta, errors), obs=y)


def closed_form(x, y):
    x, y = x.astype(float), y.astype(float)
    return np.linalg.solve(x.T @ x / 0.01 + np.eye(3) / 100, x.T @ y / 0.01)


def test_linear_regression_is_the_closed_form(key):
    best = fit_map(linear, X, Y, key=key)
    assert best.converged
    np.testing.assert_allclose(best.values["w"], closed_form(X, Y), rtol=1e-5)
    assert 0 <= best.expected_gain < 0.01
    assert len(best.loss_history) == best.num_iterations
    assert np.isfinite(best.loss_history).all()


def test_any_optax_optimizer(key):
    best = fit_map(linear, X, Y, key=key, optimizer=optax.adam(0.05), max_iterations=2000)
    assert best.converged
    np.testing.assert_allclose(best.values["w"], closed_form(X, Y), atol=0.01)


def test_noncentered_eight_schools_agrees_with_scipy(key):
    best = fit_map(eight_schools, 8, ERRORS, key=key, model_kwargs={"y": SCHOOLS}, tolerance=1e-4)
    assert best.converged
    bound = posterior(eight_schools, 8, ERRORS, model_kwargs={"y": SCHOOLS})
    flat, unravel = jax.flatten_util.ravel_pytree(bound.start(key=key))
    value = jax.jit(jax.value_and_grad(lambda v: bound.potential_fn(unravel(v))))
    found = minimize(
        lambda v: tuple(np.asarray(a, float) for a in value(jnp.asarray(v, jnp.float32))),
        flat,
        jac=True,
        method="BFGS",
    )
    np.testing.assert_allclose(best.potential, found.fun, atol=1e-3)
    scipy_tau = np.exp(unravel(jnp.asarray(found.x, jnp.float32))["tau"])
    np.testing.assert_allclose(best.values["tau"], scipy_tau, rtol=0.05)


def test_a_mode_at_infinity_is_not_called_converged(key):
    best = fit_map(
        eight_schools,
        8,
        ERRORS,
        key=key,
        model_kwargs={"y": SCHOOLS, "centered": True},
        max_iterations=300,
    )
    assert not best.converged


def test_a_batch_side_by_side_equals_one_by_one(key):
    xs, ys = np.stack([X, 2 * X]), np.stack([Y, Y])
    best = fit_map(linear, xs, ys, key=key, in_axes=(0, 0))
    assert best.converged.all()
    for i in range(2):
        np.testing.assert_allclose(best.values["w"][i], closed_form(xs[i], ys[i]), rtol=1e-4)


@pytest.mark.parametrize("side_by_side", [None, 1])
def test_axes_of_a_batch_may_be_prefixes_of_the_arguments(side_by_side, key):
    def model(data, prior):
        w = numpyro.sample("w", dist.Normal(prior["mean"], prior["width"]).to_event(1))
        numpyro.sample("y", dist.Normal(data["x"][0] @ w, 0.5), obs=data["y"])

    xs, ys = np.stack([X, 2 * X]), np.stack([Y, Y])
    prior = {"mean": np.zeros(3, np.float32), "width": np.full(3, 2.0, np.float32)}
    axes = ({"x": 0, "y": 0}, {"mean": None, "width": None})
    for in_axes in (axes, (0, None), ({"x": (0, None), "y": 0}, None)):
        data = {"x": (xs, X), "y": ys}
        if in_axes is axes or in_axes[0] == 0:
            data["x"] = (xs, np.stack([X, X]))
        best = fit_map(model, data, prior, key=key, in_axes=in_axes, side_by_side=side_by_side)
        assert best.converged.all()
        np.testing.assert_allclose(best[1].posterior.arguments[0][0]["x"][1], X)
    with pytest.raises(InputError, match="entry 0 of `in_axes` is no prefix"):
        fit_map(model, data, prior, key=key, in_axes=({"x": 0}, None))
    with pytest.raises(InputError, match="entry 0 of `in_axes` holds 1"):
        fit_map(model, data, prior, key=key, in_axes=(1, None))


@pytest.mark.parametrize("side_by_side", [None, 2])
def test_another_batch_of_the_size_compiles_nothing(side_by_side, key):
    xs, ys = np.stack([X] * 3), np.stack([Y] * 3)
    start = {"w": np.zeros((3, 3), np.float32)}
    options = {"init": start, "in_axes": (0, 0), "side_by_side": side_by_side}
    fit_map(linear, xs, ys, key=key, **options)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        best = fit_map(linear, 2 * xs, ys, key=key, **options)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled
    assert np.all(best.converged)


def test_every_way_to_end_has_its_status(key):
    assert fit_map(linear, X, Y, key=key).status is FitStatus.CONVERGED
    assert fit_map(linear, X, Y, key=key, max_iterations=2).status is FitStatus.OUT_OF_ITERATIONS

    def cliff(edge):
        w = numpyro.sample("w", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("f", jnp.where(w > edge, jnp.nan, w))

    options = {"key": key, "optimizer": optax.sgd(0.4), "max_iterations": 50}
    broke = fit_map(cliff, jnp.asarray(1.0), init={"w": jnp.asarray(0.0)}, **options)
    assert broke.status is FitStatus.DENSITY_BROKE
    np.testing.assert_allclose(broke.values["w"], 0.8, rtol=1e-5)
    both = fit_map(
        cliff,
        jnp.asarray([1.0, 1e3]),
        init={"w": jnp.zeros(2)},
        in_axes=(0,),
        side_by_side=1,
        **options,
    )
    assert list(both.status) == [FitStatus.DENSITY_BROKE, FitStatus.OUT_OF_ITERATIONS]
    assert both[1].status is FitStatus.OUT_OF_ITERATIONS
    assert not both.converged.any()
    assert all(status.sentence for status in FitStatus)
    assert all(status.remedy for status in FitStatus if status is not FitStatus.CONVERGED)


def test_a_batch_that_is_cut_short_says_which_fits_never_began(key):
    import os
    import signal

    def progress(done, potential, gain):
        if done:
            os.kill(os.getpid(), signal.SIGINT)

    xs, ys = np.stack([X] * 3), np.stack([Y] * 3)
    best = fit_map(linear, xs, ys, key=key, in_axes=(0, 0), side_by_side=1, progress=progress)
    assert best.status[0] is FitStatus.CONVERGED
    assert best.status[-1] is FitStatus.NOT_STARTED
    assert list(best.interrupted) == [False, True, True]
    assert np.isnan(best.values["w"][-1]).all()


def test_an_optimizer_whose_state_holds_a_random_key(key):
    noisy = optax.chain(optax.add_noise(1e-6, 0.5, 0), optax.adam(0.1))
    best = fit_map(linear, X, Y, key=key, optimizer=noisy, max_iterations=500)
    np.testing.assert_allclose(best.values["w"], closed_form(X, Y), atol=0.05)


def test_progress_and_interruption_keep_the_best(key, monkeypatch):
    import os
    import signal

    seen = []

    def progress(iteration, total, text):
        seen.append(iteration)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("scorepriors.inference.fitting._map.BLOCK", 2)
    best = fit_map(linear, X, Y, key=key, progress=progress)
    assert seen == [2]
    assert best.interrupted
    assert best.status is FitStatus.INTERRUPTED
    assert not best.converged
    assert np.isfinite(best.potential)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": {"nothing": 1.0}}, "no latent site"),
        ({"init": {"w": np.ones(4)}}, "shape"),
        ({"scale": {"nothing": 1.0}}, "no latent site"),
        ({"scale": {"w": np.ones(4)}}, "does not fit"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"in_axes": (0,)}, "in_axes"),
    ],
)
def test_mistakes(options, message, key):
    with pytest.raises(InputError, match=message):
        fit_map(linear, X, Y, key=key, **options)


def test_data_with_nan_are_noticed(key):
    with pytest.raises(InputError, match="not finite"):
        fit_map(linear, X, np.full_like(Y, np.nan), key=key)


def test_a_posterior_is_a_potential_for_numpyro(key):
    from numpyro.infer import MCMC, NUTS

    bound = posterior(linear, X, Y)
    u = bound.unconstrain({"w": jnp.ones(3)})
    np.testing.assert_allclose(bound.log_density(u), -bound.potential_fn(u))
    np.testing.assert_allclose(bound.constrain(u)["w"], 1.0, rtol=1e-6)
    chain = MCMC(
        NUTS(potential_fn=bound.potential_fn), num_warmup=200, num_samples=300, progress_bar=False
    )
    chain.run(key, init_params=u)
    draws = chain.get_samples()["w"]
    error = np.sqrt(np.diag(np.linalg.inv(X.T @ X / 0.01)))
    np.testing.assert_allclose(draws.mean(0), closed_form(X, Y), atol=5 * error.max() / 10)
