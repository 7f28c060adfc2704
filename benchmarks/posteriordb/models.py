"""Models of posteriordb as NumPyro models: a function of the data gives a model and arrays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints


def flat(support=constraints.real, shape=()):
    """The prior that Stan takes where none is written."""
    return dist.ImproperUniform(support, shape, ())


def regression(y, columns, flat_sigma):
    """Linear regression with flat coefficients; the width flat or half-Cauchy of 2.5."""
    beta = numpyro.sample("beta", flat(shape=columns.shape[1:]).to_event(1))
    prior = flat(constraints.positive) if flat_sigma else dist.HalfCauchy(2.5)
    sigma = numpyro.sample("sigma", prior)
    numpyro.sample("y", dist.Normal(columns @ beta, sigma), obs=y)


def linear(y: str | Callable, *columns: Callable, flat_sigma: bool = True):
    """Bind `regression` to columns made of the data, after one of ones."""

    def bind(d):
        x = [np.asarray(column(d), float) for column in columns]
        matrix = np.stack([np.ones(len(x[0])), *x], axis=1)
        response = np.asarray(d[y] if isinstance(y, str) else y(d), float)
        return regression, (response, matrix, flat_sigma)

    return bind


def of(name: str) -> Callable:
    return lambda d: np.asarray(d[name], float)


def logarithm(*parts: str, over: str | None = None) -> Callable:
    def column(d):
        total = sum(np.log(np.asarray(d[n], float)) for n in parts)
        return total if over is None else total - np.log(np.asarray(d[over], float))

    return column


def times(first: Callable, second: Callable) -> Callable:
    return lambda d: first(d) * second(d)


def centered(column: Callable, widths: float = 0.0) -> Callable:
    """The column less its mean, in units of so many of its standard deviations if any."""

    def made(d):
        x = column(d)
        return (x - x.mean()) / (widths * x.std(ddof=1) if widths else 1.0)

    return made


def level(name: str, value: int) -> Callable:
    return lambda d: np.asarray(d[name]) == value


def eight_schools(y, errors):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    trans = numpyro.sample("theta_trans", dist.Normal(0, 1).expand(y.shape).to_event(1))
    theta = numpyro.deterministic("theta", mu + tau * trans)
    numpyro.sample("y", dist.Normal(theta, errors), obs=y)


def autoregression(lagged, y):
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand(lagged.shape[1:]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(alpha + lagged @ beta, sigma), obs=y)


def bind_autoregression(d):
    y, order = np.asarray(d["y"], float), d["K"]
    lagged = np.stack([y[order - k - 1 : len(y) - k - 1] for k in range(order)], axis=1)
    return autoregression, (lagged, y[order:])


def arma(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    phi = numpyro.sample("phi", dist.Normal(0, 2))
    theta = numpyro.sample("theta", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    first = y[0] - mu - phi * mu

    def step(error, pair):
        before, now = pair
        error = now - mu - phi * before - theta * error
        return error, error

    _, later = jax.lax.scan(step, first, (y[:-1], y[1:]))
    errors = jnp.concatenate([first[None], later])
    numpyro.factor("errors", dist.Normal(0, sigma).log_prob(errors).sum())


def garch(y, first):
    mu = numpyro.sample("mu", flat())
    alpha0 = numpyro.sample("alpha0", flat(constraints.positive))
    alpha1 = numpyro.sample("alpha1", flat(constraints.unit_interval))
    # Flat up to 1 - alpha1, by a share of it and the Jacobian.
    share = numpyro.sample("share", flat(constraints.unit_interval))
    numpyro.factor("room", jnp.log1p(-alpha1))
    beta1 = numpyro.deterministic("beta1", share * (1 - alpha1))

    def step(variance, before):
        variance = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variance
        return variance, variance

    start = jnp.asarray(first, y.dtype) ** 2
    _, later = jax.lax.scan(step, start, y[:-1])
    variances = jnp.concatenate([start[None], later])
    numpyro.sample("y", dist.Normal(mu, jnp.sqrt(variances)), obs=y)


def gaussian_process(x, y):
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    distance = (x[:, None] - x) / rho
    covariance = alpha**2 * jnp.exp(-(distance**2) / 2) + sigma * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance), obs=y)


def bayesian_regression(y, columns):
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand(columns.shape[1:]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10))
    numpyro.sample("y", dist.Normal(columns @ beta, sigma), obs=y)


def line(x, y, priors):
    alpha = numpyro.sample("alpha", dist.Normal(priors[0], priors[1]))
    beta = numpyro.sample("beta", dist.Normal(priors[2], priors[3]))
    sigma = numpyro.sample("sigma", flat(constraints.positive))
    numpyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


def bind_line(d):
    priors = np.array([d[n] for n in ("pmualpha", "psalpha", "pmubeta", "psbeta")], float)
    return line, (np.asarray(d["x"], float), np.asarray(d["y"], float), priors)


def mixture(y):
    """Two Gaussians, in order; the kind of each point is summed over by hand, as in Stan."""
    ordered = constraints.ordered_vector
    mu = numpyro.sample("mu", dist.ImproperUniform(ordered, (), (2,)))
    numpyro.factor("prior of mu", dist.Normal(0, 2).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5, 5))
    kinds = dist.Categorical(jnp.stack([theta, 1 - theta]))
    numpyro.sample("y", dist.MixtureSameFamily(kinds, dist.Normal(mu, sigma)), obs=y)


def hidden_markov(y):
    """Two states with discrete sites, which are enumerated (needs funsor)."""
    rows = [numpyro.sample(f"theta{k}", dist.Dirichlet(jnp.ones(2))) for k in (1, 2)]
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.positive_ordered_vector, (), (2,)))
    prior = dist.Normal(jnp.array([3.0, 10.0]), 1).log_prob(mu)
    numpyro.factor("prior of mu", prior.sum())
    # State 2 is that before the first: after it both are as probable.
    transition = jnp.stack([*rows, jnp.full(2, 0.5)])

    def step(state, now):
        state = numpyro.sample(
            "state", dist.Categorical(transition[state]), infer={"enumerate": "parallel"}
        )
        numpyro.sample("y", dist.Normal(mu[state], 1), obs=now)
        return state, None

    scan(step, 2, y)


def lotka_volterra(years, counts):
    """Lynxes and hares, by steps of Runge and Kutta of a twentieth of a year."""
    center, width = jnp.array([1, 0.05, 1, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05])
    prior = dist.TruncatedNormal(center, width, low=0.0)
    theta = numpyro.sample("theta", prior.to_event(1))
    start = numpyro.sample("z_init", dist.LogNormal(jnp.log(10.0), 1).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1, 1).expand([2]).to_event(1))

    def slope(z):
        a, b, c, d = theta
        return jnp.stack([(a - b * z[1]) * z[0], (d * z[0] - c) * z[1]])

    def year(z, _):
        def step(z, _):
            h = 0.05
            k1 = slope(z)
            k2 = slope(z + h / 2 * k1)
            k3 = slope(z + h / 2 * k2)
            k4 = slope(z + h * k3)
            return z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

        z, _ = jax.lax.scan(step, z, None, length=20)
        return z, z

    _, later = jax.lax.scan(year, start, years)
    z = jnp.concatenate([start[None], later])
    numpyro.sample("y", dist.LogNormal(jnp.log(z), sigma), obs=counts)


def bind_lotka_volterra(d):
    years = np.asarray(d["ts"], float)
    assert np.allclose(np.diff(years, prepend=0), 1)
    return lotka_volterra, (years, np.concatenate([np.asarray(d["y_init"])[None], d["y"]]))


def diamonds(y, columns):
    b = numpyro.sample("b", dist.Normal(0, 1).expand(columns.shape[1:]).to_event(1))
    intercept = numpyro.sample("Intercept", dist.StudentT(3, 8, 10))
    sigma = numpyro.sample("sigma", flat(constraints.positive))
    numpyro.factor("prior of sigma", dist.StudentT(3, 0, 10).log_prob(sigma))
    numpyro.sample("y", dist.Normal(intercept + columns @ b, sigma), obs=y)


def bind_diamonds(d):
    columns = np.asarray(d["X"], float)[:, 1:]
    return diamonds, (np.asarray(d["Y"], float), columns - columns.mean(0))


def arrays(model, *names):
    return lambda d: (model, tuple(np.asarray(d[n], float) for n in names))


_EARN = [of("height"), of("male")]
_Z = centered(of("height"), 1.0)
_KID = {"hs": of("mom_hs"), "iq": of("mom_iq")}
_C, _CZ = ({n: centered(c, w) for n, c in _KID.items()} for w in (0.0, 2.0))
_VOLUME = logarithm("diam1", "diam2", "canopy_height")
_AREA, _SHAPE = logarithm("diam1", "diam2"), logarithm("diam1", over="diam2")
_LOG_WEIGHT = logarithm("weight")
_BUSH = ("diam1", "diam2", "canopy_height", "total_height", "density")

#: Posteriors by name, each a function of the data.
POSTERIORS: dict[str, Callable] = {
    "eight_schools-eight_schools_noncentered": arrays(eight_schools, "y", "sigma"),
    "arK-arK": bind_autoregression,
    "arma-arma11": arrays(arma, "y"),
    "garch-garch11": lambda d: (garch, (np.asarray(d["y"], float), float(d["sigma1"]))),
    "gp_pois_regr-gp_regr": arrays(gaussian_process, "x", "y"),
    "hudson_lynx_hare-lotka_volterra": bind_lotka_volterra,
    "hmm_example-hmm_example": arrays(hidden_markov, "y"),
    "low_dim_gauss_mix-low_dim_gauss_mix": arrays(mixture, "y"),
    "diamonds-diamonds": bind_diamonds,
    "kilpisjarvi_mod-kilpisjarvi": bind_line,
    "sblrc-blr": arrays(bayesian_regression, "y", "X"),
    "sblri-blr": arrays(bayesian_regression, "y", "X"),
    "nes2000-nes": linear(
        "partyid7",
        of("real_ideo"),
        of("race_adj"),
        *(level("age_discrete", k) for k in (2, 3, 4)),
        of("educ1"),
        of("gender"),
        of("income"),
    ),
    "mesquite-mesquite": linear("weight", *map(of, _BUSH), of("group")),
    "mesquite-logmesquite": linear(_LOG_WEIGHT, *map(logarithm, _BUSH), of("group")),
    "mesquite-logmesquite_logva": linear(_LOG_WEIGHT, _VOLUME, _AREA, of("group")),
    "mesquite-logmesquite_logvash": linear(
        _LOG_WEIGHT, _VOLUME, _AREA, _SHAPE, logarithm("total_height"), of("group")
    ),
    "mesquite-logmesquite_logvolume": linear(_LOG_WEIGHT, _VOLUME),
    "earnings-earn_height": linear("earn", of("height")),
    "earnings-log10earn_height": linear(lambda d: np.log10(d["earn"]), of("height")),
    "earnings-logearn_height_male": linear(logarithm("earn"), *_EARN),
    "earnings-logearn_interaction": linear(logarithm("earn"), *_EARN, times(*_EARN)),
    "earnings-logearn_interaction_z": linear(
        logarithm("earn"), _Z, of("male"), times(_Z, of("male"))
    ),
    "earnings-logearn_logheight_male": linear(logarithm("earn"), logarithm("height"), of("male")),
    "kidiq-kidscore_momhs": linear("kid_score", _KID["hs"], flat_sigma=False),
    "kidiq-kidscore_momhsiq": linear("kid_score", *_KID.values(), flat_sigma=False),
    "kidiq-kidscore_interaction": linear(
        "kid_score", *_KID.values(), times(*_KID.values()), flat_sigma=False
    ),
    "kidiq_with_mom_work-kidscore_interaction_c": linear(
        "kid_score", *_C.values(), times(*_C.values())
    ),
    "kidiq_with_mom_work-kidscore_interaction_z": linear(
        "kid_score", *_CZ.values(), times(*_CZ.values())
    ),
    "kidiq_with_mom_work-kidscore_mom_work": linear(
        "kid_score", *(level("mom_work", k) for k in (2, 3, 4))
    ),
}
