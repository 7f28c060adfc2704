"""What models and arguments of other people look like, beside those of the pages."""

import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

from scorepriors._errors import InputError
from scorepriors.inference import (
    FitStatus,
    SamplingWarning,
    fit_map,
    hessian_operator,
    laplace,
    posterior,
    sample,
)
from scorepriors.inference.curvature._hessian import _is_prior
from scorepriors.inference.sampling._checks import check_gradient

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


def width(y):
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    numpyro.deterministic("twice", 2 * sigma)
    numpyro.sample("y", dist.Normal(0, sigma), obs=y)


@pytest.mark.parametrize(
    "point",
    [
        {"sigma": jnp.ones(()), "twice": jnp.ones(())},
        {"sgima": jnp.ones(())},
        {"sigma": jnp.ones(1)},
        {},
    ],
)
def test_points_of_hessians_are_those_of_the_model(point):
    with pytest.raises(InputError, match=r"'sigma' \(\), and got .*give `.params`"):
        hessian_operator(posterior(width, DATA), point)


@pytest.mark.parametrize("name", ["log_density", "potential_and_values", "constrain"])
def test_a_density_names_the_sites_it_needs(name):
    method = getattr(posterior(width, DATA), name)
    for function in (method, jax.jit(method)):
        with pytest.raises(
            InputError, match="needs the unconstrained parameters of the sites 'sigma'"
        ):
            function({"sgima": jnp.ones(())})


def test_hessians_inside_of_jit():
    bound = posterior(width, DATA)

    @jax.jit
    def product(u):
        return hessian_operator(bound, u).mv({"sigma": jnp.ones(())})["sigma"]

    u = {"sigma": jnp.asarray(0.3)}
    expected = hessian_operator(bound, u).as_matrix()[0, 0]
    np.testing.assert_allclose(product(u), expected, rtol=1e-5)


def test_priors_under_a_scope():
    def scoped(y):
        with numpyro.handlers.scope(prefix="b"), numpyro.handlers.scope(prefix="a"):
            width(y)

    u = {"b/a/sigma": jnp.asarray(0.3)}
    for part in ("prior", "likelihood"):
        found = hessian_operator(posterior(scoped, DATA), u, part=part).as_matrix()
        plain = hessian_operator(posterior(width, DATA), {"sigma": jnp.asarray(0.3)}, part=part)
        np.testing.assert_allclose(found, plain.as_matrix(), rtol=1e-5)
    terms = posterior(scoped, DATA).log_density_terms(u)
    assert {name for name in terms if _is_prior(name, u)} == set(terms) - {"b/a/y"}


def nothing_free(y):
    numpyro.sample("y", dist.Normal(0, 1), obs=y)


@pytest.mark.parametrize("function", [fit_map, laplace, sample])
def test_models_without_a_free_site(function):
    with pytest.raises(InputError, match="no free site"):
        function(nothing_free, DATA, key=KEY)


def test_a_batch_without_a_free_site():
    with pytest.raises(InputError, match="no free site"):
        fit_map(nothing_free, np.stack([DATA, DATA]), key=KEY, in_axes=(0,))


def imputed(y, seen):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    with numpyro.plate("row", 3):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y, obs_mask=seen)


@pytest.mark.parametrize("function", [fit_map, laplace, sample])
def test_observed_elements_of_an_imputation(function):
    seen = np.asarray([True, False, True])
    with pytest.raises(InputError, match=r"'y_unobserved' is masked, and 2 of its 3 .*two sites"):
        function(imputed, DATA, seen, key=KEY)


def test_a_mask_over_a_site_with_a_factor():
    def flat(y):
        with numpyro.handlers.mask(mask=False):
            mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    best = fit_map(flat, DATA, key=KEY)
    np.testing.assert_allclose(best.values["mu"], DATA.mean(), atol=1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.multi_transform({"a": optax.adam(0.1), "b": optax.sgd(0.1)}, {"mu": "a", "s": "b"}),
        optax.masked(optax.adam(0.1), {"mu": True, "s": False}),
    ],
)
def test_optimizers_by_site(optimizer):
    with pytest.raises(InputError, match="one flat vector"):
        fit_map(level, DATA, key=KEY, optimizer=optimizer)


def groups(y, group):
    number = len(np.unique(group))
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    scatter = numpyro.sample("scatter", dist.HalfNormal(1))
    with numpyro.plate("group", number):
        level = numpyro.sample("level", dist.Normal(mu, scatter))
    numpyro.sample("y", dist.Normal(level[group], 1), obs=y)


def largest(y, group):
    with numpyro.plate("group", int(group.max()) + 1):
        level = numpyro.sample("level", dist.Normal(0, 2))
    numpyro.sample("y", dist.Normal(level[group], 1), obs=y)


def selected(y, group):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y[group != 1])


def found(y, group):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y[np.nonzero(group)])


ROWS = np.asarray([1.0, 1.2, 3.0, 3.3, -2.0, -2.2], np.float32)
GROUPS = np.asarray([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("model", [largest, selected, found])
def test_models_that_need_values(model, convert):
    with pytest.warns(UserWarning, match="compile it anew"):
        best = fit_map(model, convert(ROWS), convert(GROUPS), key=KEY)
    if model is largest:
        means = ROWS.reshape(3, 2).sum(1) / 2.25
        np.testing.assert_allclose(best.values["level"], means, atol=1e-3)
    else:
        rows = ROWS[GROUPS != 1] if model is selected else ROWS[GROUPS != 0]
        np.testing.assert_allclose(best.values["mu"], rows.sum() / 4.25, atol=1e-3)


def test_a_hierarchy_that_counts_its_groups():
    with pytest.warns(UserWarning, match="compile it anew"):
        bound = posterior(groups, ROWS, GROUPS)
    with pytest.warns(UserWarning, match="compile it anew"):
        other = posterior(groups, ROWS[:4], GROUPS[:4])
    assert bound.sites()["level"] == (3,)
    assert other.sites()["level"] == (2,)
    u = bound.start(key=KEY)
    operator = hessian_operator(bound, u)
    assert operator.as_matrix().shape == (5, 5)
    hash(bound.static)
    again = pickle.loads(pickle.dumps(bound))
    np.testing.assert_allclose(again.log_density(u), bound.log_density(u))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", [laplace, partial(sample, **SHORT)])
def test_draws_of_a_hierarchy_that_counts_its_groups(function):
    tree = function(groups, ROWS, GROUPS, key=KEY)
    assert tree["posterior"]["level"].shape[-1] == 3


def test_a_batch_of_models_that_need_values():
    with pytest.raises(InputError, match="not possible with `in_axes`"):
        fit_map(largest, np.stack([ROWS, ROWS]), GROUPS, key=KEY, in_axes=(0, None))


TIMES = np.arange(60.0, dtype=np.float32)
STEP = np.concatenate(
    [np.random.default_rng(i).normal(3 * i, 1, 30).astype(np.float32) for i in range(2)]
)


def change(t, y):
    tau = numpyro.sample("tau", dist.Uniform(0, 60))
    before = numpyro.sample("before", dist.Normal(0, 5))
    after = numpyro.sample("after", dist.Normal(0, 5))
    numpyro.sample("y", dist.Normal(jnp.where(t < tau, before, after), 1), obs=y)


@pytest.mark.filterwarnings("ignore")
def test_jumps_are_a_warning():
    with pytest.warns(SamplingWarning, match="the log-density jumps"):
        sample(change, TIMES, STEP, key=KEY, **SHORT)


def density(name, position):
    """Return densities of which the gradient misses a part."""
    smooth = -0.5 * jnp.sum(position**2)
    if name == "jumps":
        heights = np.random.default_rng(0).normal(0, 3, (100, 1))
        return smooth + jnp.sum(
            jnp.where(position < 0.1 * jnp.arange(-50, 50)[:, None], 0.0, heights)
        )
    if name == "edge":
        return jnp.where((position < 0).any(), -jnp.inf, smooth - 3 * position.sum())
    missing = jnp.sum(jax.lax.stop_gradient(3 * position + 0.2 * position**3))
    return smooth + missing + (1e6 if name == "bright" else 0.0)


def test_smooth_values_without_their_gradient_are_refused():
    for name in ("smooth", "bright"):
        with pytest.raises(InputError, match="not that of the log-density"):
            check_gradient(jax.tree_util.Partial(partial(density, name)), jnp.ones(3), KEY)


def test_segments_outside_of_the_support_are_left_out():
    for seed in range(5):
        check_gradient(
            jax.tree_util.Partial(partial(density, "edge")), jnp.full(3, 0.1), jax.random.key(seed)
        )


def test_many_jumps():
    with pytest.warns(SamplingWarning, match="the log-density jumps"):
        check_gradient(jax.tree_util.Partial(partial(density, "jumps")), jnp.ones(3), KEY)


def lasso(x, y):
    b = numpyro.sample("b", dist.Laplace(0, 0.02).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ b, 1), obs=y)


@pytest.mark.parametrize("dimension", [1, 3])
def test_a_mode_at_a_kink(dimension):
    x = np.random.default_rng(1).normal(size=(20, dimension)).astype(np.float32)
    y = np.random.default_rng(2).normal(size=20).astype(np.float32)
    best = fit_map(lasso, x, y, key=KEY, init={"b": np.full(dimension, 0.3)})
    assert best.status is FitStatus.KINK
    np.testing.assert_allclose(best.values["b"], 0, atol=1e-3)


def test_rounding_is_no_kink():
    best = fit_map(level, DATA + 3e4, key=KEY, tolerance=1e-9)
    assert best.status in (FitStatus.ROUNDING, FitStatus.CONVERGED)


def test_every_draw_has_a_key_of_its_own():
    """One key for all would give each draw the same noise, as of spectra drawn after a run."""

    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        noise = jax.random.normal(numpyro.prng_key(), (2,))
        numpyro.deterministic("y", x + 3 * noise)

    tree = laplace(model, key=jax.random.key(0), num_samples=400)
    posterior_group = tree["posterior"]
    noise = np.asarray(posterior_group["y"])[0] - np.asarray(posterior_group["x"])[0][:, None]
    assert (abs(noise.std(0) - 3) < 0.5).all()
    assert (abs(noise.mean(0)) < 0.6).all()
