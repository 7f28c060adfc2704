"""The interface of NumPyro distributions, for all priors."""

import copy
import pickle
from functools import partial

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from conftest import gaussian_prior, said_by_processes, small_energy, small_observation
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoNormal
from scipy.stats import norm

from scorepriors import AsinhStretch, InputError, LogStretch, ScorePrior, list_priors, load_prior
from scorepriors.energies._abstract import score
from scorepriors.energies._gaussian import GaussianEnergy
from scorepriors.energies._line import LineEnergy, VarianceExploding
from scorepriors.inference import posterior
from scorepriors.models import BulgeDisk, FreeForm, PointSource, Scene, blend, place_sources


def _gaussian_score(z, sigma):
    return -(z - 1.0) / (0.2 + sigma**2)


PRIORS = {
    "gaussian": gaussian_prior,
    "network": lambda: ScorePrior(small_energy(), LogStretch(), 0.3, sigma_max=5.0),
    "line": lambda: ScorePrior.from_score(_gaussian_score, jnp.zeros((8, 8)), LogStretch(), 0.3),
    "published": lambda: gaussian_prior().as_published(),
    "asinh": lambda: ScorePrior(small_energy(), AsinhStretch(), 0.3, sigma_max=5.0),
    **{info.name: partial(load_prior, info.name) for info in list_priors()},
}


@pytest.fixture(params=PRIORS)
def prior(request):
    return PRIORS[request.param]()


def _images(prior, *shape, seed=1):
    z = 0.5 + jax.random.normal(jax.random.key(seed), (*shape, *prior.event_shape))
    return prior.stretch(z)


# What a prior says, compiled whole: op by op a network is a hundred programs.
log_prob = jax.jit(lambda prior, x: prior.log_prob(x))
score_of = jax.jit(lambda prior, x: prior.score(x))


def test_log_prob_follows_batch_shapes_and_jit_equals_eager(prior):
    x = _images(prior, 2, 3)
    value = prior.log_prob(x)
    assert value.shape == (2, 3)
    assert np.isfinite(value).all()
    rtol = 2e-5
    np.testing.assert_allclose(log_prob(prior, x), value, rtol=rtol)
    np.testing.assert_allclose(jax.vmap(prior.log_prob)(x), value, rtol=rtol)
    assert prior.expand([3]).log_prob(x).shape == (2, 3)
    assert prior.expand([3]).to_event(1).log_prob(x).shape == (2,)


def test_pytree_and_pickle_round_trips(prior):
    x = _images(prior)
    leaves, structure = jax.tree.flatten(prior)
    for again in (jax.tree.unflatten(structure, leaves), pickle.loads(pickle.dumps(prior))):
        assert again.event_shape == prior.event_shape
        np.testing.assert_allclose(log_prob(again, x), log_prob(prior, x), rtol=1e-6)


def test_score_is_the_gradient_and_integrates_to_log_prob(prior):
    start, end = _images(prior, seed=1), _images(prior, seed=2)
    # Along a line in z, where the path stays inside the support.
    z0, z1 = prior.stretch.inv(start), prior.stretch.inv(end)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    points = prior.stretch(z0 + (nodes[:, None, None] + 1) / 2 * (z1 - z0))
    slope = (score_of(prior, points) * _velocity(prior, points) * (z1 - z0)).sum((1, 2))
    integral = (slope * weights / 2).sum()
    difference = log_prob(prior, end) - log_prob(prior, start)
    np.testing.assert_allclose(integral, difference, rtol=2e-3, atol=0.05)


def _velocity(prior, x):
    return jnp.exp(prior.stretch.log_abs_det_jacobian(prior.stretch.inv(x), x))


@pytest.mark.parametrize("name", ["gaussian", "network"])
def test_score_agrees_with_forward_differentiation(name):
    prior = PRIORS[name]()
    x = _images(prior, 2)

    @jax.jit
    def both(p, x, towards):
        return p.score(x), jax.jvp(p.log_prob, (x,), (towards,))[1]

    towards = _images(prior, 2, seed=4) - x
    scores, slope = both(prior, x, towards)
    assert scores.shape == x.shape
    np.testing.assert_allclose((scores * towards).sum((1, 2)), slope, rtol=1e-3, atol=1e-2)


def test_the_gradient_of_another_density_does_not_integrate_to_log_prob():
    # Negative control of the line integral above: the Jacobian is missing.
    prior = gaussian_prior()
    start, end = _images(prior, seed=1), _images(prior, seed=2)
    z0, z1 = prior.stretch.inv(start), prior.stretch.inv(end)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    points = prior.stretch(z0 + (nodes[:, None, None] + 1) / 2 * (z1 - z0))
    scores = prior.as_published().score(points)
    integral = ((scores * _velocity(prior, points) * (z1 - z0)).sum((1, 2)) * weights / 2).sum()
    difference = prior.log_prob(end) - prior.log_prob(start)
    assert abs(integral - difference) > 2e-3 * abs(difference) + 0.05


def test_event_shape_and_repr(prior):
    n = prior.energy.box
    assert prior.event_shape == (n, n)
    assert prior.batch_shape == ()
    assert f"sigma0={float(prior.sigma):.4g}" in repr(prior)
    assert repr(prior.stretch) in repr(prior)
    assert f"{n}x{n}" in repr(prior)


@pytest.mark.parametrize("name", ["gaussian", "network"])
def test_expanded_over_a_plate_adds_up(name):
    prior = PRIORS[name]()
    x = _images(prior, 3)
    together, separate = jax.jit(
        lambda p, x: (p.expand([3]).to_event(1).log_prob(x), p.log_prob(x))
    )(prior, x)
    np.testing.assert_allclose(together, separate.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", ["gaussian", "network"])
def test_level_may_be_traced(name):
    prior = PRIORS[name]()
    x, shown = _images(prior), []

    def value(sigma):
        other = prior.at(sigma)
        shown.append(repr(other))
        return other.log_prob(x)

    traced = jax.jit(jax.vmap(value))(jnp.asarray([0.2, 0.4]))
    assert "sigma0=<" in shown[0]
    for sigma, found in zip((0.2, 0.4), traced, strict=True):
        np.testing.assert_allclose(found, prior.at(sigma).log_prob(x), rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in PRIORS if name != "published"])
def test_samples_lie_in_the_support_and_depend_on_the_key_only(name):
    prior = PRIORS[name]()
    first = prior.sample(jax.random.key(0), (1, 1), num_steps=3)
    assert first.shape == (1, 1, *prior.event_shape)
    assert np.isfinite(first).all()
    assert prior.support(first).all()
    again = prior.sample(jax.random.key(0), num_steps=3)
    assert again.shape == prior.event_shape
    np.testing.assert_array_equal(again, first[0, 0])
    assert (prior.sample(jax.random.key(1), num_steps=3) != again).any()


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


def test_priors_that_differ_in_numbers_and_names_share_their_programs():
    traces = []

    @jax.jit
    def value(p, x):
        traces.append(1)
        return p.log_prob(x)

    shipped = [load_prior(name) for name in ("lsst-32", "hsc-32", "ztf-32")]
    x = _images(shipped[0])
    values = {float(value(p, x)) for p in shipped}
    assert len(values) == 3
    assert len(traces) == 1
    assert len({jax.tree.structure(p) for p in shipped}) == 1
    # Control: another size of the network is another program.
    value(load_prior("lsst-irregular-32"), x)
    assert len(traces) == 2


def test_fits_and_densities_share_their_programs_whatever_the_prior_is_called():
    def model(prior):
        numpyro.sample("x", prior)

    named = [gaussian_prior(), _renamed(gaussian_prior(), "other")]
    first, second = (posterior(model, prior) for prior in named)
    traces = []

    @jax.jit
    def value(bound, u):
        traces.append(1)
        return bound.log_density(u)

    u = first.start(key=jax.random.key(0))
    assert value(first, u) == value(second, u)
    assert len(traces) == 1
    assert second.arguments[0][0].name == "other"


def _renamed(prior, name):
    facts = {"name": name, "pixel_scale": 0.3, "model_psf_sigma": None}
    return ScorePrior(prior.energy, prior.stretch, 0.3, sigma_max=5.0, **facts)


@pytest.mark.parametrize(
    "again",
    [
        lambda p: jax.tree.map(lambda leaf: leaf, p),
        lambda p: pickle.loads(pickle.dumps(p)),
        copy.copy,
        copy.deepcopy,
        lambda p: p.at(0.4),
        lambda p: p.astype(jnp.float16),
        lambda p: p.as_published(),
    ],
    ids=["tree.map", "pickle", "copy", "deepcopy", "at", "astype", "as_published"],
)
def test_what_is_for_people_survives(again):
    found = again(_renamed(gaussian_prior(), "mine"))
    assert (found.name, found.pixel_scale, found.model_psf_sigma) == ("mine", 0.3, None)
    assert "'mine'" in repr(found)


@pytest.mark.parametrize("shape", [(4, 64, 16), (1, 1024), (1024,), (32,), (), (2, 32, 33)])
@pytest.mark.usefixtures("unchecked")
def test_images_of_another_shape_are_refused(shape):
    prior = load_prior("lsst-32")
    zeros = jnp.zeros(shape)
    for method in (prior.log_prob, prior.score, prior.denoise, prior.potential):
        with pytest.raises(InputError, match=r"32 x 32 .*got .*cut or pad them") as error:
            method(zeros)
        assert str(shape) in str(error.value)
    with pytest.raises(InputError, match="takes images"):
        prior.from_white(zeros, 2)


@pytest.mark.parametrize("levels", [[0.1, 0.2], np.ones((1,)), jnp.ones((2, 3))])
def test_several_levels_are_mapped_over_instead(levels):
    prior = gaussian_prior()
    with pytest.raises(InputError, match=r"is one number, got shape .*map over several levels"):
        prior.at(levels)
    with pytest.raises(InputError, match="is one number"):
        ScorePrior(small_energy(), sigma=levels)
    x, flat = _images(prior, 2), jnp.ravel(jnp.asarray(levels))
    found = jax.vmap(lambda sigma: prior.at(sigma).log_prob(x))(flat)
    for sigma, value in zip(flat, found, strict=True):
        np.testing.assert_allclose(value, prior.at(sigma).log_prob(x), rtol=1e-5)


def test_what_is_no_energy_is_refused():
    with pytest.raises(InputError, match=r"must be an AbstractEnergy, got function.*from_score"):
        ScorePrior(_gaussian_score)


def test_stretched_methods_are_those_of_the_images():
    prior = PRIORS["network"]()
    x = _images(prior, 2, 3)
    z = prior.stretch.inv(x)
    jacobian = prior.stretch.log_abs_det_jacobian(z, x).sum((-2, -1))
    np.testing.assert_allclose(prior.log_prob(x), -prior.potential(z) - jacobian, rtol=1e-5)
    assert prior.potential(z[0, 0]).shape == ()
    np.testing.assert_allclose(prior.potential(z[0, 0]), prior.potential(z)[0, 0], rtol=1e-4)
    clean = prior.denoise_stretched(z)
    np.testing.assert_allclose(prior.stretch(clean), prior.denoise(x), rtol=1e-5)


@pytest.mark.parametrize("name", ["gaussian", "network", "line"])
def test_white_noise_becomes_the_samples_and_comes_back(name):
    prior = PRIORS[name]()
    white = jax.random.normal(jax.random.key(5), (2, 3, *prior.event_shape))
    z = prior.from_white(white, 40)
    assert z.shape == white.shape
    np.testing.assert_allclose(prior.from_white(white[0, 0], 40), z[0, 0], atol=1e-3)
    np.testing.assert_allclose(prior.to_white(z, 40), white, atol=0.05)
    # The same noise as `sample` starts from gives the same image.
    key = jax.random.key(0)
    noise = jax.random.normal(jax.random.split(key, 1)[0], prior.event_shape)
    same = prior.stretch(prior.from_white(noise, 5))
    np.testing.assert_allclose(prior.sample(key, num_steps=5), same, rtol=1e-4, atol=1e-6)


def test_gaussian_log_prob_in_closed_form():
    prior, x = gaussian_prior(), _images(gaussian_prior())
    energy = prior.energy
    total = dist.Normal(energy.mean, jnp.sqrt(0.2 + 0.3**2))
    exact = dist.TransformedDistribution(total, prior.stretch).log_prob(x).sum()
    constant = 64 * (-0.5 * np.log(2 * np.pi) - 0.5 * np.log(0.2 + 0.3**2))
    np.testing.assert_allclose(prior.log_prob(x) + constant, exact, rtol=1e-5)


@pytest.mark.parametrize("name", ["gaussian", "asinh"])
def test_published_form_is_the_score_times_the_slope_of_the_stretch(name):
    """Sampson et al. (2024), eq. 11."""
    prior = PRIORS[name]()
    x = _images(prior)
    z = prior.stretch.inv(x)
    in_z = jax.jit(score)(prior.energy, z, prior.sigma)
    expected = in_z / _velocity(prior, x)
    published = prior.as_published()
    atol = 1e-5 * float(abs(expected).max())
    np.testing.assert_allclose(score_of(published, x), expected, rtol=1e-3, atol=atol)
    assert "as published" in repr(published)
    # The prior itself has the slope of the Jacobian too.
    assert abs(score_of(prior, x) - expected).max() > 100 * atol
    with pytest.raises(InputError, match="cannot be sampled"):
        published.sample(jax.random.key(0))


def test_denoise_is_the_wiener_filter_in_the_stretched_space():
    prior = gaussian_prior()
    x = _images(prior, 2, 3)
    z, mean = prior.stretch.inv(x), prior.energy.mean
    expected = mean + 0.2 / (0.2 + 0.3**2) * (z - mean)
    np.testing.assert_allclose(prior.stretch.inv(prior.denoise(x)), expected, atol=1e-4)


def test_precision_follows_astype():
    prior = gaussian_prior().astype(jnp.float16)
    x = _images(gaussian_prior()).astype(jnp.float16)
    assert prior.log_prob(x).dtype == jnp.float16


def test_samples_have_the_mean_and_variance_of_the_smoothed_gaussian():
    prior = gaussian_prior()
    z = prior.stretch.inv(prior.sample(jax.random.key(3), (400,)))
    count = z.size
    pull = (z - prior.energy.mean) / np.sqrt(0.2 + 0.3**2)
    # Five standard errors, and 2 % for thirty steps of the integrator.
    assert abs(pull.mean()) < 5 / count**0.5 + 0.02
    assert abs(pull.var() - 1) < 5 * (2 / count) ** 0.5 + 0.02


def test_samples_of_a_wrong_variance_are_told_apart():
    # Negative control of the test above, on as many draws.
    pull = np.random.default_rng(0).normal(0, np.sqrt(1.1), 400 * 64)
    assert abs(pull.var() - 1) > 5 * (2 / pull.size) ** 0.5 + 0.02


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


def test_autodelta_finds_the_mode_of_the_prior():
    prior = gaussian_prior(box=4)

    def model():
        numpyro.sample("x", prior)

    guide = AutoDelta(model)
    run = SVI(model, guide, optax.adam(3e-2), Trace_ELBO()).run(
        jax.random.key(0), 300, progress_bar=False
    )
    z = prior.stretch.inv(guide.median(run.params)["x"])
    # The mode of the density of x; AutoDelta adds no Jacobian of its own.
    # In z: d/dz [-(z - m)^2 / 2 v - c z] = 0, at z = m - c v.
    expected = prior.energy.mean - 0.44 * (0.2 + 0.3**2)
    np.testing.assert_allclose(z, expected, atol=0.02)


def test_metropolis_sampler_on_four_pixels_reproduces_mean_and_variance():
    total = 0.5 + 0.3**2
    energy = GaussianEnergy(jnp.asarray([[0.0, 1.0], [2.0, -1.0]]), jnp.asarray(0.5))
    prior = ScorePrior(energy, LogStretch(), 0.3, sigma_max=5.0)

    def log_density(z):  # of z, so the Jacobian of the stretch is put back
        x = prior.stretch(z)
        return prior.log_prob(x) + prior.stretch.log_abs_det_jacobian(z, x).sum()

    def chain(key):
        key_start, key_run = jax.random.split(key)
        start = energy.from_white(jax.random.normal(key_start, (2, 2)), jnp.asarray(0.3))
        flat = blackjax.hmc(lambda v: log_density(v.reshape(2, 2)), 0.6, jnp.ones(4), 5)

        def step(state, key_step):
            state, info = flat.step(key_step, state)
            return state, info.acceptance_rate

        state, rate = jax.lax.scan(step, flat.init(start.ravel()), jax.random.split(key_run, 20))
        return state.position, rate.mean()

    # Independent chains, started in equilibrium: their ends are independent draws.
    num = 3000
    ends, rates = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), num))
    assert 0.6 < rates.mean() < 0.99  # the Metropolis test has work to do
    ends = np.asarray(ends, float)
    limit = norm.isf(1e-6 / (2 * 8))
    assert np.abs(ends.mean(0) - np.ravel(energy.mean)).max() < limit * (total / num) ** 0.5
    assert np.abs(ends.var(0) / total - 1).max() < limit * (2 / num) ** 0.5


def test_validation_notices_values_below_the_support():
    prior = gaussian_prior()
    inside = _images(prior, 2)
    below = inside.at[1, 0, 0].set(-0.06)
    with numpyro.validation_enabled():
        checked = gaussian_prior()
        assert np.isfinite(checked.log_prob(inside)).all()
        with pytest.warns(UserWarning, match="Out-of-support"):
            found = checked.log_prob(below)
    np.testing.assert_array_equal(np.isfinite(found), [True, False])
    assert found[1] == -np.inf


@pytest.mark.parametrize("value", [-1, 0.0, float("nan")])
def test_levels_that_are_not_positive_are_refused(value):
    with pytest.raises(InputError, match="`sigma` of a prior must be positive"):
        gaussian_prior().at(value)
    with pytest.raises(InputError, match="`sigma` of a prior must be positive"):
        ScorePrior(small_energy(), sigma=value)


def test_traced_levels_that_are_not_positive_are_refused_when_they_are_known():
    prior, x = gaussian_prior(), jnp.ones((8, 8))
    density = jax.jit(lambda sigma: prior.at(sigma).log_prob(x))
    assert jnp.isfinite(density(0.5))
    with pytest.raises(Exception, match="`sigma` of a prior must be positive"):
        jax.block_until_ready(density(-0.5))


def test_support_ends_at_minus_the_softening():
    checked = gaussian_prior()
    assert not checked.support(jnp.full((8, 8), -1.0))
    assert checked.support(jnp.full((8, 8), 0.0))
    assert not checked.support(jnp.zeros((8, 8)).at[3, 4].set(-0.051))


def test_leaves_come_in_one_order_in_every_process():
    """Checkpoints and compilation caches are keyed by them."""
    program = (
        "import jax; from scorepriors import load_prior\n"
        "print([jax.numpy.shape(l) for l in jax.tree.leaves(load_prior('lsst-32'))])"
    )
    assert len(said_by_processes(program)) == 1


TRANSFORMS = {"log": LogStretch, "log-scaled": lambda: LogStretch(0.1, 0.3), "asinh": AsinhStretch}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_keep_the_contract(name):
    transform = TRANSFORMS[name]()
    z = jax.random.normal(jax.random.key(0), (2, 3, 4, 4))
    x = transform(z)
    assert x.shape == z.shape
    np.testing.assert_allclose(transform.inv(x), z, atol=1e-4)
    np.testing.assert_allclose(jax.jit(lambda t, z: t(z))(transform, z), x, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(transform)(z), x, rtol=1e-5)
    slope = jax.vmap(jax.grad(transform))(z.ravel()).reshape(z.shape)
    log_det = transform.log_abs_det_jacobian(z, x)
    np.testing.assert_allclose(log_det, jnp.log(jnp.abs(slope)), atol=1e-4)
    leaves, structure = jax.tree.flatten(transform)
    for again in (jax.tree.unflatten(structure, leaves), pickle.loads(pickle.dumps(transform))):
        assert again == transform
        np.testing.assert_array_equal(again(z), x)


SOURCES = {
    "galaxies": lambda at: FreeForm(gaussian_prior(), at),
    "stars": PointSource,
    "profiles": BulgeDisk,
}
SCENES = {
    "free-form": ("galaxies",),
    "points": ("stars",),
    "parametric": ("profiles",),
    "mixed": ("galaxies", "stars", "profiles"),
}


@pytest.mark.parametrize(
    ("name", "spectra"),
    [*((name, "marginal") for name in SCENES), ("mixed", "profiled"), ("mixed", "sampled")],
)
def test_models_keep_the_contract(name, spectra):
    centers = np.array([[8.0, 9.0], [13.0, 12.0]])
    obs, at = small_observation(centers, shape=(20, 20)), place_sources(centers, box=8, size=3)
    groups = {kind: SOURCES[kind](at) for kind in SCENES[name]}
    bound = posterior(blend, Scene.build(obs, treatment=spectra, **groups))
    u = {
        site: 0.1 * jax.random.normal(jax.random.key(i), shape)
        for i, (site, shape) in enumerate(bound.sites().items())
    }
    evaluate = jax.jit(lambda bound, u: bound.log_density(u))
    value = evaluate(bound, u)
    assert np.isfinite(value)
    np.testing.assert_allclose(bound.log_density(u), value, rtol=1e-4)
    two = jax.tree.map(lambda a: jnp.stack([a, a + 0.01]), u)
    many = jax.jit(lambda bound, u: jax.vmap(bound.log_density)(u))(bound, two)
    np.testing.assert_allclose(many[0], value, rtol=1e-4)
    leaves, structure = jax.tree.flatten(bound)
    for again in (jax.tree.unflatten(structure, leaves), pickle.loads(pickle.dumps(bound))):
        np.testing.assert_allclose(evaluate(again, u), value, rtol=1e-5)
    # Padded slots keep their prior and never touch the image.
    flux, terms = jax.jit(
        lambda bound, u: (bound.constrain(u)["flux"], bound.log_density_terms(u))
    )(bound, u)
    assert flux.shape == (3 * len(groups), 3)
    np.testing.assert_allclose(sum(t.sum() for t in terms.values()), value, rtol=1e-4)
