"""Fits are converged when they say so, by the curvature of the posterior itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

from scorepriors import InputError
from scorepriors.inference import FitStatus, fit_map, hessian_operator, laplace, posterior, sample

YEARS = np.arange(1961.0, 2021.0, dtype=np.float32)
RNG = np.random.default_rng(0)
WARMTH = (8 + 0.02 * (YEARS - 1990) + RNG.normal(size=60)).astype(np.float32)


def polynomial(x, y, degree=1):
    """Least squares with known noise: the mode and the gain at any point are closed forms."""
    b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real_vector, (), (degree + 1,)))
    numpyro.sample("y", dist.Normal((x[:, None] ** jnp.arange(degree + 1)) @ b, 1.0), obs=y)


def design(x, degree):
    return np.asarray(x, float)[:, None] ** np.arange(degree + 1)


def true_gain(x, y, b, degree=1):
    """Potential at b less that at the mode: half of the squared distance of the two curves."""
    # In centered powers, in which float64 solves the normal equations easily.
    centered = design((np.asarray(x, float) - 1990) / 30, degree)
    residual = np.asarray(y, float) - design(x, degree) @ np.asarray(b, float)
    best = np.linalg.lstsq(centered, residual, rcond=None)[0]
    return 0.5 * ((centered @ best) ** 2).sum()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("degree", [1, 2])
def test_raw_years_as_covariate(degree, seed):
    best = fit_map(
        polynomial, YEARS, WARMTH, model_kwargs={"degree": degree}, key=jax.random.key(seed)
    )
    assert best.converged
    assert true_gain(YEARS, WARMTH, best.values["b"], degree) < 0.01
    if degree == 1:
        slope, width = np.polyfit(YEARS - 1990, WARMTH, 1)[0], 1 / np.std(YEARS) / 60**0.5
        assert abs(best.values["b"][1] - slope) < 0.15 * width


def test_what_rounding_prevents_is_said_and_mended_by_float64():
    options = {"key": jax.random.key(0), "model_kwargs": {"degree": 3}}
    single = fit_map(polynomial, YEARS, WARMTH, **options)
    assert single.status is FitStatus.ROUNDING
    assert "jax_enable_x64" in single.status.remedy
    with jax.enable_x64(True):
        double = fit_map(polynomial, YEARS.astype(float), WARMTH.astype(float), **options)
    assert double.converged
    assert true_gain(YEARS, WARMTH, double.values["b"], 3) < 0.02


def test_the_claim_is_that_of_an_independent_computation(key):
    best = fit_map(polynomial, YEARS, WARMTH, key=key, tolerance=0.1)
    np.testing.assert_allclose(
        best.expected_gain, true_gain(YEARS, WARMTH, best.values["b"]), atol=2e-3
    )


def test_a_batch_is_tested_one_by_one(key):
    xs, ys = np.stack([YEARS, YEARS + 40]), np.stack([WARMTH, WARMTH])
    best = fit_map(polynomial, xs, ys, key=key, in_axes=(0, 0))
    assert best.converged.all()
    for i in range(2):
        assert true_gain(xs[i] - 40 * i, ys[i], shifted(best.values["b"][i], 40 * i)) < 0.01
        assert np.isfinite(best[i].loss_history).all()
        assert len(best[i].loss_history) == best[i].num_iterations


def shifted(b, by):
    return np.array([b[0] + b[1] * float(by), b[1]], float)


def test_no_step_is_limited_in_arbitrary_units():
    def centered(x, y):
        a = numpyro.sample("a", dist.Normal(0, 1e4))
        b = numpyro.sample("b", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(a + b * (x - x.mean()), 1.0), obs=y)

    for far in (5e3, 5e6):
        best = fit_map(centered, YEARS, WARMTH, key=jax.random.key(0), init={"a": far, "b": 0.0})
        assert best.converged
        assert best.num_iterations < (25 if far < 1e4 else 50)
        np.testing.assert_allclose(best.values["a"], WARMTH.mean(), atol=0.02)


def test_a_saddle_is_left(key):
    def wells():
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        numpyro.factor("wells", -((x[0] ** 2 - 1) ** 2) - 0.5 * x[1] ** 2)

    best = fit_map(wells, key=key, init={"x": jnp.zeros(2)})
    assert best.converged
    np.testing.assert_allclose(np.abs(best.values["x"]), [1, 0], atol=0.05)
    believed = fit_map(wells, key=key, init={"x": jnp.zeros(2)}, verify=False)
    np.testing.assert_allclose(believed.values["x"], 0, atol=1e-6)


@pytest.mark.parametrize("at_mode", [False, True])
def test_a_saddle_is_left_that_the_gradient_does_not_see(at_mode, key):
    """By symmetry there is no slope along w, in many dimensions: in some only, or in all."""
    y = np.random.default_rng(0).normal(size=500).astype(np.float32)

    def wells(y):
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (500,)))
        w = numpyro.sample("w", dist.ImproperUniform(dist.constraints.real, (), ()))
        width = jnp.geomspace(0.01, 100, 500)
        numpyro.factor("f", -0.5 * jnp.sum(((x - y) / width) ** 2) + w**2 - w**4)

    init = {"x": jnp.asarray(y) if at_mode else jnp.zeros(500), "w": 0.0}
    best = fit_map(wells, jnp.asarray(y), key=key, init=init)
    assert best.converged
    np.testing.assert_allclose(np.abs(best.values["w"]), 0.5**0.5, atol=0.05)
    believed = fit_map(wells, jnp.asarray(y), key=key, init=init, verify=False)
    assert believed.values["w"] == 0


def test_a_mode_whose_curvature_overflows_is_not_called_one(key):
    """Squares of the curvature along w are beyond float32, and the slopes know nothing of w."""

    def steep():
        x = numpyro.sample("x", dist.Normal(0, 1).expand([500]).to_event(1))
        w = numpyro.sample("w", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("f", -0.5 * 1e25 * w**2 + jnp.sum(x))

    init = {"x": jnp.zeros(500), "w": 0.0}
    best = fit_map(steep, key=key, init=init)
    assert best.status is FitStatus.ROUNDING
    assert best.expected_gain == np.inf
    np.testing.assert_allclose(best.values["x"], 1, atol=0.05)
    assert fit_map(steep, key=key, init=init, verify=False).converged


@pytest.mark.parametrize("seed", range(2))
def test_a_density_without_a_mode_says_so(seed):
    y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12], np.float32)

    def centered(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
        numpyro.sample("y", dist.Normal(theta, 12.0), obs=y)

    best = fit_map(centered, y, key=jax.random.key(seed))
    assert best.status is FitStatus.NO_MODE
    assert not best.converged


def test_modes_that_form_a_line_are_modes(key):
    def ridge(y):
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    best = fit_map(ridge, jnp.asarray([1.0, 2.0]), key=key)
    assert best.converged
    np.testing.assert_allclose(best.values["x"].sum(), 1.5, atol=0.1)


def chain(target, scale):
    """A Gaussian of many dimensions with widths over four decades, neighbors correlated."""
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), target.shape))
    z = (x - target) / scale
    numpyro.factor("f", -0.5 * jnp.sum(z**2) - 0.45 * jnp.sum(z[1:] * z[:-1]))


@pytest.mark.parametrize("dimension", [150, 600])
def test_many_dimensions_of_bad_condition(dimension, key):
    scale = np.geomspace(1e-2, 1e2, dimension).astype(np.float32)
    target = (scale * np.random.default_rng(1).normal(size=dimension)).astype(np.float32)
    best = fit_map(chain, target, scale, key=key)
    assert best.converged
    z = (np.asarray(best.values["x"], float) - target) / scale
    gain = 0.5 * (z**2).sum() + 0.45 * (z[1:] * z[:-1]).sum()
    assert gain < 0.011
    np.testing.assert_allclose(best.expected_gain, gain, atol=2e-3)


def test_rules_of_reverse_mode_alone_suffice(key):
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))

    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1e3).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(square(x), 1.0), obs=y)

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(square, (1.0,), (1.0,))
    best = fit_map(model, jnp.asarray([4.0, 9.0]), key=key, init={"x": jnp.ones(2)})
    assert best.converged
    np.testing.assert_allclose(best.values["x"], [2, 3], atol=0.05)


def test_rounding_of_a_large_potential_does_not_stall_the_search(key):
    def offset(x, y):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ b, 0.1), obs=y)
        numpyro.factor("offset", -1e6)

    x = RNG.normal(size=(200, 3)).astype(np.float32)
    y = (x @ np.array([1.0, 2, 3]) + 0.1 * RNG.normal(size=200)).astype(np.float32)
    best = fit_map(offset, x, y, key=key, verify=False)
    assert best.converged
    assert best.num_iterations < 100


def normal_mean(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


VALUES = [1.0, 2.0, 4.5]
MEAN = 7.5 / (3 + 1 / 100)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
        optax.polyak_sgd(max_learning_rate=0.1),
    ],
)
def test_optimizers_that_need_values_get_them(optimizer, key):
    best = fit_map(normal_mean, jnp.asarray(VALUES), key=key, optimizer=optimizer)
    assert best.converged
    np.testing.assert_allclose(best.values["mu"], MEAN, atol=0.1)


def test_lists_and_partial_functions_are_data(key):
    for model, args, y in (
        (normal_mean, (VALUES,), VALUES),
        (functools.partial(normal_mean, y=VALUES), (), VALUES),
        (functools.partial(normal_mean, jnp.asarray(VALUES)), (), VALUES),
        (normal_mean, ([1, 2, 4],), [1, 2, 4]),
    ):
        best = fit_map(model, *args, key=key)
        np.testing.assert_allclose(best.values["mu"], np.sum(y) / 3.01, atol=0.1)
    assert jax.tree.leaves(posterior(normal_mean, [1, 2, 4]).arrays) == []

    def scaled(scale, y):
        normal_mean(y / scale)

    # Along a batch a list of integers is data: elsewhere it is a size or a count.
    best = fit_map(normal_mean, [[1, 2, 3], [4, 5, 6]], key=key, in_axes=(0,))
    np.testing.assert_allclose(best.values["mu"], np.array([6, 15]) / 3.01, atol=0.1)
    with pytest.raises(InputError, match="gives a batch axis to no array"):
        fit_map(posterior(normal_mean, [[1, 2], [3, 4]]), key=key, in_axes=(0,))
    ys = jnp.asarray([VALUES, VALUES])
    with pytest.raises(InputError, match=r"must be a tuple .* give \(0,\)"):
        fit_map(normal_mean, ys, key=key, in_axes=0)

    best = fit_map(functools.partial(scaled, 2.0), ys, key=key, in_axes=(0,))
    np.testing.assert_allclose(best.values["mu"], MEAN / 2, atol=0.1)


@pytest.mark.parametrize("function", [sample, laplace])
@pytest.mark.parametrize(
    "call",
    [
        lambda draw: jax.jit(draw)(jnp.ones(3)),
        lambda draw: jax.vmap(draw)(jnp.ones((2, 3))),
        lambda draw: jax.jit(lambda: draw(np.ones(3)))(),
    ],
)
def test_draws_refuse_tracing_too(function, call, key):
    def draw(y):
        return function(functools.partial(normal_mean, y), key=key)["posterior"]["mu"].values

    with pytest.raises(InputError, match=f"`{function.__name__}` runs .* call it outside of them"):
        call(draw)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: jax.jit(fit)(jnp.ones(3)), "can't be part of a `jax.jit`"),
        (lambda fit: jax.vmap(fit)(jnp.ones((2, 3))), "`in_axes` for many fits"),
        (lambda fit: jax.jit(lambda: fit(np.ones(3)))(), "can't be part of a `jax.jit`"),
    ],
)
def test_tracing_is_refused_in_a_sentence(call, message, key):
    with pytest.raises(InputError, match=message):
        call(lambda y: fit_map(normal_mean, y, key=key).values)


@pytest.mark.parametrize("optimizer", ["adam", optax.adam])
def test_an_optimizer_is_an_object_of_optax(optimizer, key):
    with pytest.raises(InputError, match=r"`optax.adam\(0.01\)`"):
        fit_map(normal_mean, jnp.ones(3), key=key, optimizer=optimizer)


@pytest.mark.parametrize(
    "optimizer",
    [
        numpyro.optim.Adam(0.01),
        numpyro.optim.ClippedAdam(0.01),
        numpyro.optim.optax_to_numpyro(optax.adam(0.01)),
    ],
)
def test_an_optimizer_of_numpyro_is_one_too(optimizer, key):
    seen = fit_map(
        normal_mean,
        jnp.asarray(VALUES),
        key=key,
        optimizer=optimizer,
        verify=False,
        init={"mu": 2.0},
    )
    same = fit_map(
        normal_mean,
        jnp.asarray(VALUES),
        key=key,
        optimizer=optax.adam(0.01),
        verify=False,
        init={"mu": 2.0},
    )
    assert seen.converged
    np.testing.assert_allclose(seen.values["mu"], MEAN, atol=0.1)
    # The same rule, and so the same path.
    np.testing.assert_allclose(seen.loss_history[:20], same.loss_history[:20], rtol=1e-5)


def test_a_fit_of_numpyro_is_no_optimizer(key):
    with pytest.raises(InputError, match=r"Minimize.* leave `optimizer` out"):
        fit_map(normal_mean, jnp.ones(3), key=key, optimizer=numpyro.optim.Minimize())


@pytest.mark.parametrize("call", [fit_map, sample, laplace])
def test_a_param_is_refused_by_its_name(call, key):
    def model(y):
        width = numpyro.param("width", 1.0, constraint=dist.constraints.positive)
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal(0, 1)), width), obs=y)

    with pytest.raises(InputError, match=r"`numpyro\.param`, 'width'"):
        call(model, jnp.ones(3), key=key)


@pytest.mark.parametrize(
    "use",
    [
        lambda bound, u: bound.log_density(u),
        lambda bound, u: bound.log_density_terms(u),
        lambda bound, u: hessian_operator(bound, u).mv(np.ones(1, np.float32)),
    ],
)
def test_a_param_is_refused_by_whatever_has_a_density(use):
    def model(y):
        width = numpyro.param("width", 1.0, constraint=dist.constraints.positive)
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal(0, 1)), width), obs=y)

    with pytest.raises(InputError, match=r"`numpyro\.param`, 'width'"):
        use(posterior(model, jnp.ones(3)), {"mu": jnp.zeros(())})


def test_a_start_where_wide_priors_overflow_is_replaced(key):
    def counts(x, y):
        b = numpyro.sample("b", dist.Normal(0, 100).expand([2]).to_event(1))
        numpyro.sample("y", dist.Poisson(jnp.exp(b[0] + b[1] * x)), obs=y)

    y = np.random.default_rng(0).poisson(np.exp(1 + 0.03 * (YEARS - 1990))).astype(np.float32)
    best = fit_map(counts, YEARS, y, key=key)
    assert best.converged
    np.testing.assert_allclose(best.values["b"][1], 0.03, atol=0.01)
