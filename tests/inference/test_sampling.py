"""Samplers against posteriors known in closed form, and controls that must fail."""

import inspect
import json
import os
import subprocess
import sys
import warnings

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from blackjax.mcmc import hmc, random_walk
from jax.experimental.ode import odeint
from numpyro.infer.util import constrain_fn
from scipy.special import gamma

from scorepriors._errors import InputError
from scorepriors.inference import (
    ALGORITHMS,
    HMC,
    NUTS,
    AbstractGradientSampler,
    Check,
    DynamicHMC,
    Keep,
    Move,
    RunStatus,
    SamplingWarning,
    fit_map,
    laplace,
    load_tree,
    posterior,
    sample,
    save_tree,
)
from scorepriors.inference._status import status_of
from scorepriors.inference.curvature._preconditioner import LowRankMap, refine
from scorepriors.inference.curvature._spectrum import curvature_spectrum, whitening_map
from scorepriors.inference.sampling._abstract import Start
from scorepriors.inference.sampling._diagnostics import diagnose, findings
from scorepriors.inference.sampling._tree import group, make_tree

#: The function `sample` hides the module of its name.
MODULE = sys.modules["scorepriors.inference.sampling._sample"]

EXACT = [name for name, row in ALGORITHMS.items() if row.exact]

_MIX = np.random.default_rng(0).normal(size=(50, 50))
COVARIANCE = _MIX @ _MIX.T / 50 + 0.1 * np.eye(50)


def correlated():
    covariance = jnp.asarray(COVARIANCE, jnp.float32)
    numpyro.sample("x", dist.MultivariateNormal(jnp.arange(50.0), covariance_matrix=covariance))


def quartic():
    with numpyro.plate("i", 50):
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("f", -(x**4) / 4)


def mixture():
    """Two overlapping Gaussians in 20 dimensions, one of weight .3 at -1.5."""
    x = numpyro.sample("x", dist.Normal(0, 10).expand([20]).to_event(1))
    place = jnp.zeros(20).at[0].set(1.5)
    parts = jnp.stack(
        [dist.Normal(sign * place, 1.0).log_prob(x).sum() for sign in (-1.0, 1.0)]
    ) + jnp.log(jnp.asarray([0.3, 0.7]))
    numpyro.factor("f", jax.nn.logsumexp(parts) - dist.Normal(0, 10).log_prob(x).sum())


SCHOOLS = (
    jnp.asarray([28.0, 8, -3, 7, -1, 1, 18, 12]),
    jnp.asarray([15.0, 10, 16, 11, 9, 11, 10, 18]),
)


def schools(effects, errors):
    mean = numpyro.sample("mu", dist.Normal(0, 5))
    spread = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", 8):
        offset = numpyro.sample("offset_of_school", dist.Normal(0, 1))
        effect = numpyro.deterministic("theta", mean + spread * offset)
        numpyro.sample("y", dist.Normal(effect, errors), obs=effects)


def run(model, *args, **options):
    options = {"key": jax.random.key(0), "num_warmup": 400, "num_samples": 1500, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return sample(model, *args, **options)


def draws(tree, name):
    return np.asarray(group(tree, "posterior")[name])


def mcse(values):
    return float(np.asarray(az.mcse(values.astype(float))))


@pytest.mark.parametrize("algorithm", EXACT)
def test_correlated_gaussian(algorithm):
    # The rates that this one tunes its step by are noisier: 400 draws leave it a tenth off.
    num_warmup = 800 if algorithm == "adjusted_mclmc" else 400
    tree = run(correlated, algorithm=algorithm, num_warmup=num_warmup)
    x = draws(tree, "x")
    ratio = (x - np.arange(50)) ** 2 / np.diag(COVARIANCE)
    assert abs(ratio.mean() - 1) < 0.02
    assert abs(ratio.mean() - 1) < 3 * mcse(ratio.mean(-1))
    assert 0.6 < float(group(tree, "sample_stats")["acceptance_rate"].mean()) < 0.9
    # All of the covariance, not its diagonal alone.
    flat = x.reshape(-1, 50)
    whitened = np.linalg.solve(np.linalg.cholesky(COVARIANCE), (flat - flat.mean(0)).T)
    assert np.abs(np.cov(whitened) - np.eye(50)).max() < 0.15


@pytest.mark.parametrize("algorithm", ["hmc", "adjusted_mclmc"])
def test_quartic(algorithm):
    x = draws(run(quartic, algorithm=algorithm, init="uniform"), "x")
    expected = 2 * gamma(0.75) / gamma(0.25)
    assert abs((x**2).mean() / expected - 1) < 0.01


@pytest.mark.parametrize("algorithm", ["dynamic_hmc"])
def test_mixture(algorithm):
    x = draws(run(mixture, algorithm=algorithm, init="uniform", num_samples=2500), "x")[..., 0]
    below = dist.Normal(0, 1).cdf(1.5)
    expected = 0.3 * below + 0.7 * (1 - below)
    assert abs((x < 0).mean() - expected) < 3 * mcse(x < 0)
    assert abs((x**2).mean() / (1 + 1.5**2) - 1) < 0.03


def test_unadjusted_says_so_and_is_close():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tree = sample(
            correlated, key=jax.random.key(0), algorithm="mclmc", num_warmup=400, num_samples=2000
        )
    assert any("no Metropolis test" in str(w.message) for w in said)
    ratio = (draws(tree, "x") - np.arange(50)) ** 2 / np.diag(COVARIANCE)
    assert abs(ratio.mean() - 1) < 0.05


def test_eight_schools_reference():
    tree = run(schools, *SCHOOLS, algorithm=NUTS(target_acceptance_rate=0.95))
    # Means and standard deviations of posteriordb's reference draws, rounded, with their
    # own Monte Carlo error of .03 (10,000 draws).
    for name, mean, deviation in (("mu", 4.41, 3.31), ("tau", 3.60, 3.20)):
        values = draws(tree, name)
        assert abs(values.mean() - mean) < 3 * mcse(values) + 0.05
        assert abs(values.std() / deviation - 1) < 0.1
    assert group(tree, "posterior")["theta"].dims == ("chain", "draw", "school")


def test_same_as_numpyro_nuts():
    from numpyro.infer import MCMC, NUTS

    chain = MCMC(NUTS(schools), num_warmup=500, num_samples=4000, progress_bar=False)
    chain.run(jax.random.key(3), *SCHOOLS)
    tree = run(schools, *SCHOOLS)
    for name in ("mu", "tau", "theta"):
        theirs, ours = np.asarray(chain.get_samples()[name]), draws(tree, name)
        theirs, ours = theirs.reshape(1, 4000, -1), ours.reshape(*ours.shape[:2], -1)
        for k in range(ours.shape[-1]):
            error = np.hypot(mcse(theirs[..., k]), mcse(ours[..., k]))
            assert abs(theirs[..., k].mean() - ours[..., k].mean()) < 3 * error


@jax.custom_jvp
def no_density(x):
    """Zero, with the gradient of a standard Gaussian: a score that is no density."""
    return jnp.zeros(())


@no_density.defjvp
def _(primals, tangents):
    return jnp.zeros(()), -jnp.vdot(primals[0], tangents[0])


def score_only():
    x = numpyro.sample("x", dist.Normal(0, 1).expand([20]).to_event(1))
    numpyro.factor("prior", no_density(x))


def test_score_without_density_is_refused():
    with pytest.raises(InputError, match="not that of the log-density"):
        run(score_only)


def test_score_without_density_samples_the_rest_alone(monkeypatch):
    """The harness sees what the refusal saves users from."""
    module = "scorepriors.inference.sampling._gradient"
    monkeypatch.setattr(f"{module}.check_gradient", lambda *a: None)
    x = draws(run(score_only, algorithm="hmc", num_warmup=200, num_samples=500), "x")
    truth = 0.5  # two standard Gaussians multiplied
    assert (x**2).mean() / truth - 1 > 0.4


class ForgottenJacobian(dist.transforms.ExpTransform):
    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.zeros(jnp.shape(x))


@pytest.mark.parametrize("right", [True, False])
def test_forgotten_jacobian_is_seen(right):
    transform = dist.transforms.ExpTransform() if right else ForgottenJacobian()

    def model():
        u = numpyro.sample("u", dist.Normal(0, 10).expand([5]).to_event(1))
        # Stands for log x with x ~ Gamma(3, 1), in coordinates u.
        x = transform(u)
        log_density = dist.Gamma(3.0, 1.0).log_prob(x) + transform.log_abs_det_jacobian(u, x)
        numpyro.factor("f", log_density.sum() - dist.Normal(0, 10).log_prob(u).sum())
        numpyro.deterministic("x", x)

    x = draws(run(model, algorithm="hmc", num_samples=3000), "x")
    assert (abs(x.mean() / 3 - 1) < 0.03) == right


def test_constrained_and_likelihood_groups(tmp_path):
    tree = run(
        schools,
        *SCHOOLS,
        algorithm=HMC(thinning=2),
        num_samples=200,
        keep=Keep(
            log_likelihood=True, posterior_predictive=True, coords={"school": list("ABCDEFGH")}
        ),
    )
    assert (draws(tree, "tau") > 0).all()
    theta = draws(tree, "theta")
    expected = dist.Normal(theta, SCHOOLS[1]).log_prob(SCHOOLS[0])
    np.testing.assert_allclose(group(tree, "log_likelihood")["y"], expected, rtol=1e-4, atol=1e-4)
    predicted = np.asarray(group(tree, "posterior_predictive")["y"])
    z = (predicted - theta) / np.asarray(SCHOOLS[1])
    assert abs(z.mean()) < 0.05
    assert abs(z.std() - 1) < 0.05
    np.testing.assert_array_equal(group(tree, "observed_data")["y"], SCHOOLS[0])
    assert list(group(tree, "posterior")["school"].values) == list("ABCDEFGH")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eight points have outliers for leave-one-out
        found = az.loo(tree)
    assert np.isfinite(float(found.elpd if hasattr(found, "elpd") else found.elpd_loo))
    assert {"mu", "tau"} <= {str(n).split("[")[0] for n in az.summary(tree).index}
    for name in ("acceptance_rate", "diverging", "energy", "n_steps", "step_size"):
        assert group(tree, "sample_stats")[name].shape == (4, 200)
    save_tree(tree, tmp_path / "posterior.nc")
    back = load_tree(tmp_path / "posterior.nc")
    for name in ("posterior", "sample_stats", "log_likelihood", "observed_data"):
        assert group(back, name).equals(group(tree, name))
    assert json.loads(back.attrs["warnings"]) == json.loads(tree.attrs["warnings"])


class Stopped(Exception):
    pass


def test_a_killed_run_resumes_to_the_same_draws(tmp_path, monkeypatch):
    options = {"algorithm": "hmc", "num_warmup": 60, "num_samples": 100}
    whole = run(schools, *SCHOOLS, **options)
    path = tmp_path / "run.npz"
    monkeypatch.setattr(MODULE, "CHECKPOINT_INTERVAL", -1.0)
    for stop in (40, 100):  # once in the warm-up, once among the draws

        def progress(done, total, text, stop=stop):
            # Bites after the block's checkpoint, at the next block.
            if done > stop and "acceptance" in text:
                raise Stopped

        with pytest.raises(Stopped):
            run(schools, *SCHOOLS, **options, progress=progress, checkpoint=path)
    resumed = run(schools, *SCHOOLS, **options, checkpoint=path)
    for name in ("mu", "theta"):
        np.testing.assert_array_equal(draws(resumed, name), draws(whole, name))
    with pytest.raises(InputError, match="another model"):
        run(schools, SCHOOLS[0] + 1, SCHOOLS[1], **options, checkpoint=path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="no checkpoint"):
        run(schools, *SCHOOLS, **options, checkpoint=path)


def test_interrupt_keeps_draws():
    import signal

    def progress(done, total, text):
        if done >= 100 and "draws:" in text:
            signal.raise_signal(signal.SIGINT)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tree = sample(
            schools,
            *SCHOOLS,
            key=jax.random.key(0),
            algorithm="hmc",
            num_warmup=60,
            num_samples=500,
            progress=progress,
        )
    assert any("interrupted" in str(w.message) for w in said)
    kept = draws(tree, "mu").shape[1]
    assert 0 < kept < 500
    assert tree.attrs["interrupted"] == 1
    assert RunStatus(tree.attrs["status"]) is RunStatus.INTERRUPTED


@pytest.mark.parametrize("init", ["pathfinder", "uniform", "values", "result"])
def test_every_start_leads_to_the_posterior(init):
    if init == "values":
        start = {"x": jnp.arange(50.0) + 1}
    elif init == "result":
        start = fit_map(correlated, key=jax.random.key(1))
    else:
        start = init
    tree = run(correlated, algorithm="hmc", init=start)
    ratio = (draws(tree, "x") - np.arange(50)) ** 2 / np.diag(COVARIANCE)
    assert abs(ratio.mean() - 1) < 3 * mcse(ratio.mean(-1))


def neal():
    v = numpyro.sample("v", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([9]).to_event(1))


def far_groups(y):
    """Groups whose means can't be told apart, in units in which they are at 1,000."""
    mean = numpyro.sample("mean", dist.Normal(0, 2000))
    width = numpyro.sample("width", dist.HalfNormal(100.0))
    each = numpyro.sample("each", dist.Normal(mean, width).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(each[:, None], 20.0).to_event(2), obs=y)


def skewed():
    numpyro.sample("x", dist.Gamma(5.0, 1.0).expand([30]).to_event(1))


def volatility(returns):
    """Stochastic volatility, a random walk of the log of the width."""
    step = numpyro.sample("step", dist.Exponential(50.0))
    nu = numpyro.sample("nu", dist.Exponential(0.1))
    walk = dist.GaussianRandomWalk(scale=step, num_steps=len(returns))
    log_width = numpyro.sample("log_width", walk)
    numpyro.sample("r", dist.StudentT(nu, scale=jnp.exp(log_width)), obs=returns)


@pytest.mark.parametrize("model", [neal, far_groups, skewed, volatility])
def test_the_neck_of_a_funnel_is_no_start(model):
    args = ()
    if model is volatility:
        rng = np.random.default_rng(0)
        widths = np.exp(-4 + np.cumsum(0.05 * rng.normal(size=200)))
        args = ((widths * rng.normal(size=200)).astype("f4"),)
    if model is far_groups:
        args = (1000 + 20 * np.random.default_rng(0).normal(size=(8, 5)).astype("f4"),)
    bound = posterior(model, *args)
    start = Start("map", 4, lambda done, text: None)
    learned, chains, text = NUTS().init(jax.random.key(0), bound, start)
    origin = learned.origin
    if model is neal:
        # The mode is at v = -40.5, thirteen standard deviations off.
        assert text == "uniform (the mode is not typical of the posterior)"
        assert float(origin["v"]) == 0
    elif model is far_groups:
        # Starts near zero would be fifty widths of the data away.
        assert text.startswith("pathfinder (")
        assert abs(float(origin["mean"]) - 1000) < 300
        assert float(origin["width"]) > -3
    elif model is volatility:
        # At the mode all widths are alike, and the walk has no step.
        assert text.startswith("uniform (")
    else:
        assert text == "map"
    positions = learned.curvature(chains.chains.position)
    assert np.isfinite(positions).all()


@jax.custom_vjp
def squared(x):
    return x**2


def _squared_forward(x):
    # By itself, as in `odeint`: forward mode meets it again here.
    return squared(x), x


squared.defvjp(_squared_forward, lambda x, slope: (2 * x * slope,))


def reverse_only(y):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    numpyro.factor("narrow", -0.5 * squared((x - y) / jnp.array([0.01, 1.0, 100.0])).sum())


def test_models_without_forward_mode_are_sampled_and_say_so():
    y = jnp.array([1.0, 1.0, 1.0])
    variance = 1 / (1 + np.array([1e4, 1, 1e-4]))
    with pytest.warns(SamplingWarning, match="reverse mode only") as caught:
        tree = sample(reverse_only, y, key=jax.random.key(0))
    assert len(caught) == 1
    assert tree.attrs["start"] == "map; curvature from differences of gradients"
    assert tree.attrs["status"] == "trusted"
    assert [f.check for f in findings(tree)] == [Check.DIFFERENCES]
    x = draws(tree, "x").reshape(-1, 3)
    np.testing.assert_allclose(x.var(0), variance, rtol=0.15)
    with pytest.warns(SamplingWarning, match="reverse mode only"):
        tree = laplace(reverse_only, y, key=jax.random.key(0), num_samples=4000)
    x = draws(tree, "x").reshape(-1, 3)
    np.testing.assert_allclose(x.var(0), variance, rtol=4.5 * np.sqrt(2 / 4000))


def decay(y):
    """A rate known from a curve that `odeint` integrates, whose rule is of reverse mode only."""
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
    start = numpyro.sample("start", dist.Normal(1.0, 1.0))
    curve = odeint(lambda x, t, r: -r * x, start, jnp.linspace(0.0, 2.0, len(y)), rate)
    numpyro.sample("y", dist.Normal(curve, 0.05), obs=y)


@pytest.mark.parametrize("init", ["map", "pathfinder"])
def test_a_differential_equation_is_sampled(init):
    times = np.linspace(0.0, 2.0, 12)
    noise = 0.05 * np.random.default_rng(0).normal(size=12)
    y = jnp.asarray(1.5 * np.exp(-0.8 * times) + noise, jnp.float32)
    options = {"init": init, "num_chains": 2, "num_warmup": 100, "num_samples": 100}
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        tree = sample(decay, y, key=jax.random.key(0), **options)
    assert tree.attrs["start"].startswith(init)
    # Least squares in closed form about the solution.
    curve = np.stack([np.exp(-0.8 * times), -1.5 * times * np.exp(-0.8 * times)], 1) / 0.05
    width = np.sqrt(np.diag(np.linalg.inv(curve.T @ curve)))
    for name, truth, sd in (("start", 1.5, width[0]), ("rate", 0.8, width[1])):
        x = draws(tree, name)
        assert abs(x.mean() - truth) < 4 * sd
        np.testing.assert_allclose(x.std(), sd, rtol=0.35)


@pytest.mark.parametrize("preconditioner", ["curvature", "warmup", "none"])
def test_coordinates_change_nothing_but_the_cost(preconditioner):
    tree = run(correlated, algorithm=DynamicHMC(preconditioner=preconditioner), num_samples=800)
    ratio = (draws(tree, "x") - np.arange(50)) ** 2 / np.diag(COVARIANCE)
    assert abs(ratio.mean() - 1) < 4 * mcse(ratio.mean(-1))


def test_chains_that_never_move_say_so():
    stats = {"diverging": np.ones((2, 30), bool), "energy": np.zeros((2, 30))}
    tree = make_tree({"posterior": {"x": np.zeros((2, 30))}, "sample_stats": stats})
    found = diagnose(tree, ALGORITHMS["nuts"])
    assert found.min_ess == 0
    assert found.divergences == 60
    assert "no chain has moved" in found.warnings[0]
    assert found.findings[0].check is Check.NO_CHAIN_MOVED
    assert status_of(found.findings) is RunStatus.STUCK


def test_untrustworthy_runs_say_so():
    def funnel():
        v = numpyro.sample("v", dist.Normal(0, 3))
        numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([9]).to_event(1))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tree = sample(funnel, key=jax.random.key(0), algorithm="hmc", num_samples=200)
    assert any(isinstance(w.message, SamplingWarning) for w in said)
    assert json.loads(tree.attrs["warnings"])
    assert RunStatus(tree.attrs["status"]) is not RunStatus.TRUSTED
    assert [f.sentence() for f in findings(tree)] == json.loads(tree.attrs["warnings"])


def test_every_status_and_check_has_its_words():
    trusted = run(correlated, algorithm="hmc")
    assert RunStatus(trusted.attrs["status"]) is RunStatus.TRUSTED
    alone = run(correlated, algorithm="hmc", num_chains=1, num_warmup=50, num_samples=50)
    assert RunStatus(alone.attrs["status"]) is RunStatus.NOT_CONVERGED
    assert findings(alone)[0].check is Check.ONE_CHAIN
    assert (
        findings(alone)[0]
        .sentence({Check.ONE_CHAIN: "--num-chains 4"})
        .endswith("has converged: --num-chains 4.")
    )
    assert all(status.sentence for status in RunStatus)
    # A remedy for everything but what a note only explains.
    notes = (Check.UNADJUSTED, Check.DIFFERENCES)
    assert all(check.remedy for check in Check if check not in notes)


def nothing_free():
    numpyro.sample("y", dist.Normal(0, 1), obs=jnp.zeros(()))


def not_a_number():
    numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("f", jnp.nan)


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (nothing_free, {}, "no free site"),
        (not_a_number, {}, "not finite"),
        (quartic, {"algorithm": "gibbs"}, "unknown algorithm"),
        (quartic, {"num_samples": 0}, "num_samples"),
        (quartic, {"num_chains": 0}, "num_chains"),
        (quartic, {"thinning": 2}, r"`thinning` of `sample` is a setting of the sampler"),
        (quartic, {"log_likelihood": True}, r"keep=Keep\(log_likelihood"),
        (quartic, {"init": "anywhere"}, "`init`"),
        (quartic, {"init": {"z": 1.0}}, "no latent site"),
    ],
)
def test_bad_input(model, options, says):
    with pytest.raises(InputError, match=says):
        run(model, **options)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"target_acceptance_rate": 1.5}, "target_acceptance_rate"),
        ({"thinning": 0}, "`thinning`"),
        ({"rank": 0}, "`rank`"),
        ({"preconditioner": "magic"}, "`preconditioner`"),
    ],
)
def test_bad_settings_of_a_sampler(settings, says):
    for kind in ALGORITHMS.values():
        with pytest.raises(InputError, match=says):
            kind(**settings)


def test_sample_has_a_dozen_parameters():
    assert len(inspect.signature(sample).parameters) <= 12


def test_other_numbers_of_a_sampler_compile_nothing():
    few = {"num_warmup": 20, "num_samples": 20, "init": {"x": jnp.arange(50.0)}}
    run(correlated, algorithm=HMC(), **few)
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run(correlated, algorithm=HMC(target_acceptance_rate=0.7, thinning=2), **few)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


def test_checkpoint_on_a_full_disk_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="can't be written"):
        run(
            schools,
            *SCHOOLS,
            algorithm="hmc",
            num_warmup=20,
            num_samples=20,
            checkpoint=tmp_path / "missing" / "run.npz",
        )


def test_maps_invert_with_their_gradients():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(30, 4)))[0]
    made = LowRankMap(
        jnp.asarray(rng.uniform(0.5, 2, 30)), jnp.asarray(basis), jnp.asarray([0.1, 0.5, 2.0, 9.0])
    )
    q = jnp.asarray(rng.normal(size=(5, 30)))
    np.testing.assert_allclose(made.inverse(made(q)), q, atol=1e-5)
    after = jnp.cos(made(q))
    before = jax.vjp(made, q)[1](after)[0]
    np.testing.assert_allclose(made.gradient_before(before), after, atol=1e-4)


def test_refinement_is_exact_for_a_gaussian():
    """Draws and gradients of a Gaussian give its covariance, however few they are."""
    rng = np.random.default_rng(1)
    widths = np.ones(200)
    widths[:3] = 10.0, 5.0, 0.1
    q = rng.normal(size=(60, 200)) * widths
    made = refine(q.astype(np.float32), (-q / widths**2).astype(np.float32), 16)
    covariance = np.asarray(jax.vmap(made)(jnp.eye(200)))
    covariance = covariance.T @ covariance
    np.testing.assert_allclose(np.diag(covariance)[:3] / widths[:3] ** 2, 1, rtol=0.15)
    np.testing.assert_allclose(np.diag(covariance)[3:], 1, rtol=0.15)


def test_curvature_of_many_dimensions():
    """Lanczos finds the few directions in which a posterior is not the usual width."""
    dimension = 600
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.normal(size=(dimension, 6)))[0]
    stiff = jnp.asarray(basis * np.array([30.0, 10.0, 5.0, -0.95, -0.9, -0.8]), jnp.float32)
    other = jnp.asarray(basis, jnp.float32)

    def model():
        x = numpyro.sample("x", dist.Normal(0, 0.1).expand([dimension]).to_event(1))
        numpyro.factor("f", -0.5 * jnp.dot(x @ stiff, x @ other) * 100)

    bound = posterior(model)
    point = {"x": jnp.zeros(dimension)}
    found = curvature_spectrum(bound, point, rank=60, key=jax.random.key(0))
    made = whitening_map(found, jnp.float32)
    hessian = 100 * (np.eye(dimension) + np.asarray(stiff) @ np.asarray(other).T)
    jacobian = np.asarray(jax.vmap(made)(jnp.eye(dimension)), float)
    whitened = jacobian @ hessian @ jacobian.T
    values = np.linalg.eigvalsh(whitened)
    np.testing.assert_allclose(values, 1, atol=0.2)


def test_float32_keeps_what_the_metropolis_test_needs():
    """A chi^2 of 1e6 in float32: differences of the density stay good to 0.01 nat."""
    pixels = 1000 + np.random.default_rng(0).normal(0, 8, 20000)

    def model(data):
        level = numpyro.sample("level", dist.Normal(1000.0, 1.0))
        with numpyro.plate("pixel", len(data)):
            numpyro.sample("data", dist.Normal(level, 1.0), obs=data)

    bound = posterior(model, jnp.asarray(pixels, jnp.float32))
    start = {"level": jnp.asarray(float(pixels.mean()), jnp.float32)}
    reference = bound.log_density_terms(start)
    assert abs(sum(float(t.sum()) for t in reference.values())) > 5e5
    moved = {"level": start["level"] + jnp.float32(0.25)}
    terms = bound.log_density_terms(moved)
    difference = sum(float((terms[n] - reference[n]).sum()) for n in terms)
    stored = np.asarray(jnp.asarray(pixels, jnp.float32), float)
    levels = [float(u["level"]) for u in (moved, start)]
    exact = [-0.5 * ((stored - v) ** 2).sum() - 0.5 * (v - 1000) ** 2 for v in levels]
    assert abs(difference - (exact[0] - exact[1])) < 0.05
    tree = run(model, jnp.asarray(pixels, jnp.float32), algorithm="hmc", num_samples=500)
    level = draws(tree, "level")
    assert abs(level.std() * np.sqrt(len(pixels)) - 1) < 0.1
    assert abs(level.mean() - pixels.mean()) < 4 * mcse(level) + 1e-4


def test_chains_spread_over_devices():
    """Two devices give the draws that one gives."""
    program = (
        "import jax, warnings, numpy as np; warnings.simplefilter('ignore')\n"
        "import numpyro, numpyro.distributions as dist\n"
        "from scorepriors.inference import sample\n"
        "def model(): numpyro.sample('x', dist.Normal(0, 2).expand([3]).to_event(1))\n"
        "tree = sample(model, key=jax.random.key(0), algorithm='hmc', num_warmup=20,"
        " num_samples=20)\n"
        "print(len(jax.devices()), repr(float(tree['posterior']['x'].mean())))\n"
    )
    said = []
    for count in (1, 2):
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        environment["JAX_PLATFORMS"] = "cpu"
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert [int(s[0]) for s in said] == [1, 2]
    assert float(said[0][1]) == pytest.approx(float(said[1][1]), abs=1e-3)


class Walk(AbstractGradientSampler):
    """A kernel of one's own, here one without a gradient."""

    target_acceptance_rate: float = 0.3

    name = "walk"
    note = "Random walk; exact."
    exact = True

    def first_step_size(self, dimension):
        return 0.5

    def begin(self, key, position, logdensity_fn):
        return hmc.init(position, logdensity_fn)

    def move(self, key, state, logdensity_fn, tuned, jitter):
        proposal = random_walk.normal(jnp.full(state.position.shape, tuned.step_size))
        inner = random_walk.RWState(state.position, state.logdensity)
        new, info = random_walk.build_additive_step()(key, inner, logdensity_fn, proposal)
        state = state._replace(position=new.position, logdensity=new.logdensity)
        return state, Move(info.acceptance_rate, jnp.zeros((), bool), jnp.ones((), jnp.int32))


def test_own_algorithm_in_ten_lines():
    def model():
        numpyro.sample("x", dist.Normal(3, 2).expand([2]).to_event(1))

    x = draws(run(model, algorithm=Walk(), num_samples=4000), "x")
    assert abs(x.mean() - 3) < 4 * mcse(x.mean(-1))
    assert abs(x.std() / 2 - 1) < 0.1


def test_recovery_leaves_other_models_alone():
    bound = posterior(schools, *SCHOOLS)
    u = bound.start(key=jax.random.key(0))
    values, _, _ = bound.recover(jax.random.key(1), u)
    expected = constrain_fn(schools, SCHOOLS, {}, u, return_deterministic=True)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-6)


class Unsampled(dist.Normal):
    """A density and no more, as an energy that nobody has drawn from."""

    def sample(self, key, sample_shape=()):
        raise NotImplementedError


def test_priors_that_cannot_be_drawn_from_need_a_start_and_no_more():
    def model():
        x = numpyro.sample("x", Unsampled(3.0, 2.0).expand([4]).to_event(1))
        numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=jnp.asarray(12.0))

    assert posterior(model).sites() == {"x": (4,)}
    x = draws(run(model, algorithm="hmc", init={"x": jnp.ones(4)}, num_samples=1000), "x")
    assert abs(x.mean() - 3) < 4 * mcse(x.mean(-1))
