"""Tests by Markov chains of the log-density: agreement with the score, and stability."""

import blackjax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._moments import image_moments

from ._comparison import columns, trees_auc
from ._density import log_prob_and_score

#: Range of acceptance for the chains of `stein_identity`.
ACCEPTANCE = (0.6, 0.9)


def stein_identity(
    prior: ScorePrior,
    start: Float[Array, "chains n n"],
    sigma: float,
    *,
    key: PRNGKeyArray,
    num_draws: int = 200,
    num_warmup: int = 100,
    num_leapfrog: int = 6,
) -> dict[str, float]:
    r"""Test :math:`E[z \cdot \nabla\log p(z)] = -n^2` on Markov chains of the density.

    It holds for any normalizable density of :math:`n^2` variables that falls off fast,
    and a factor in the score that the log-density does not have breaks it.  The chains
    are Hamiltonian Monte Carlo in the stretched space, whose Metropolis test uses only values
    of the log-density, so that draws and gradient are independent.

    Parameters
    ----------
    prior
        Prior whose density of stretched images at `sigma` is tested.
    start
        Stretched images, one per chain, drawn from the prior at `sigma`.
    sigma
        Noise level, which also sets the scale of the step.
    key
        Random key.
    num_draws, num_warmup
        Numbers of transitions after and during warm-up, rounded up to whole windows of 20.
        In the warm-up the step size, one for all chains, is changed until the mean
        acceptance stays within `ACCEPTANCE`; it is fixed afterwards.
    num_leapfrog
        Number of leapfrog steps per transition.

    Returns
    -------
    dict
        ``mean``, its ``standard_error`` from the spread of the chains, the
        ``expected`` value, their ``deviation`` in standard errors, the mean of
        :math:`|z|^2` at the start and at the end, ``acceptance``, ``step_size`` and the
        numbers of chains and draws.

    Raises
    ------
    InputError
        If there are fewer than two chains.

    Notes
    -----
    The identity holds for chains in equilibrium.  Along Langevin dynamics
    :math:`d E|z|^2 / dt = 2 (E[z \cdot \nabla\log p] + n^2)`, so a mean above the
    expected value shows that the chains are still moving outwards: the density has mass
    where the samples that they started from have none.
    """
    if len(start) < 2:
        raise InputError(f"the standard error needs at least 2 chains, got {len(start)}.")
    window = 20
    num_warm, num_kept = -(-num_warmup // window), max(1, -(-num_draws // window))
    z = jnp.asarray(start).reshape(len(start), -1)
    level = jnp.asarray(sigma, z.dtype)
    squares_start = float(jnp.mean(jnp.sum(z**2, axis=1)))
    step = first_step(sigma, z.shape[1])
    statistics, acceptances = [], []
    for number, key_window in enumerate(jr.split(key, num_warm + num_kept)):
        z, statistic, _, acceptance = _hmc_window(
            prior, z, level, jnp.asarray(step, z.dtype), key_window, window, num_leapfrog
        )
        if number < num_warm:
            middle = sum(ACCEPTANCE) / 2
            step *= float(np.exp(1.5 * (float(acceptance) - middle)))
        else:
            statistics.append(np.asarray(statistic, np.float64))
            acceptances.append(float(acceptance))
    by_chain = np.concatenate(statistics).mean(0)
    mean, error = by_chain.mean(), by_chain.std(ddof=1) / np.sqrt(len(by_chain))
    expected = -float(z.shape[1])
    return {
        "mean": float(mean),
        "standard_error": float(error),
        "expected": expected,
        "deviation": float(abs(mean - expected) / error),
        "squares_start": squares_start,
        "squares_end": float(jnp.mean(jnp.sum(z**2, axis=1))),
        "acceptance": float(np.mean(acceptances)),
        "step_size": float(step),
        "num_leapfrog": int(num_leapfrog),
        "chains": len(by_chain),
        "draws": num_kept * window,
    }


def long_chains(
    prior: ScorePrior,
    start: Float[Array, "chains n n"],
    reference: Float[np.ndarray, "M n n"],
    sigma: float,
    *,
    key: PRNGKeyArray,
    num_draws: int = 300,
    num_leapfrog: int = 20,
) -> dict[str, float]:
    """Test whether Hamiltonian Monte Carlo on the log-density alone stays near galaxies.

    Parameters
    ----------
    prior
        Prior whose density of stretched images at `sigma` is sampled; the ends of the chains
        are compared as intensities.
    start
        Stretched training images with noise of `sigma`, one per chain.
    reference
        Held-out images with such noise, intensities.
    sigma
        Noise level.
    key
        Random key.
    num_draws
        Number of transitions, rounded up to whole windows of 20.  The step size, one for all
        chains, is changed in the first third until the mean acceptance stays within
        `ACCEPTANCE`.
    num_leapfrog
        Number of leapfrog steps per transition.

    Returns
    -------
    dict
        ``trees_auc`` of the last draw of every chain against `reference`;
        ``drift``, the mean energy of the last third of the transitions minus that of
        `reference`, in units of the latter's standard deviation over images;
        ``strayed``, the share of chains that end more than ten such below;
        ``acceptance``, ``step_size``, ``num_leapfrog``, ``chains`` and ``draws``.
    """
    window = 20
    num_windows = max(3, -(-num_draws // window))
    z = jnp.asarray(start).reshape(len(start), -1)
    level = jnp.asarray(sigma, z.dtype)
    expected, _ = log_prob_and_score(prior, prior.stretch.inv(jnp.asarray(reference)), level)
    expected = -np.asarray(expected, np.float64)
    step = first_step(sigma, z.shape[1])
    energies, acceptances = [], []
    for number, key_window in enumerate(jr.split(key, num_windows)):
        z, _, log_prob, acceptance = _hmc_window(
            prior, z, level, jnp.asarray(step, z.dtype), key_window, window, num_leapfrog
        )
        if number < num_windows // 3:
            step *= float(np.exp(1.5 * (float(acceptance) - sum(ACCEPTANCE) / 2)))
        else:
            energies.append(-np.asarray(log_prob, np.float64))
            acceptances.append(float(acceptance))
    late = np.concatenate(energies[-max(1, num_windows // 3) :])
    ends = np.asarray(prior.stretch(z.reshape(start.shape)))
    return {
        "trees_auc": trees_auc(
            columns(image_moments(ends)), columns(image_moments(reference)), key=key
        ),
        "drift": float((late.mean() - expected.mean()) / expected.std()),
        "strayed": float(np.mean(late[-1] < expected.mean() - 10 * expected.std())),
        "sigma": float(sigma),
        "acceptance": float(np.mean(acceptances)),
        "step_size": float(step),
        "num_leapfrog": int(num_leapfrog),
        "chains": len(z),
        "draws": num_windows * window,
    }


def first_step(sigma: float, dimension: int) -> float:
    """Return the step size from which the tuning of chains begins.

    The noise makes every direction as wide as sigma or wider; the acceptance of a
    Gaussian of dimension d is near 0.8 for steps of about 1.2 d^(-1/4) standard deviations.
    """
    return 1.2 * sigma * dimension**-0.25


@eqx.filter_jit
def _hmc_window(prior, z, sigma, step, key, num_draws, num_leapfrog):
    size = round(z.shape[1] ** 0.5)
    kernel = blackjax.hmc.build_kernel()
    unit = jnp.ones(z.shape[1], z.dtype)
    prior = prior.at(sigma)

    def log_prob(flat):
        return -prior.potential(flat.reshape(size, size))

    def transition(states, key_draw):
        key_step, key_chains = jr.split(key_draw)
        # A randomly varied step, the same for all chains, avoids closed orbits.
        jittered = step * jr.uniform(key_step, (), z.dtype, 0.8, 1.2)
        states, info = jax.vmap(lambda k, s: kernel(k, s, log_prob, jittered, unit, num_leapfrog))(
            jr.split(key_chains, len(z)), states
        )
        statistic = jnp.sum(states.position * states.logdensity_grad, axis=1)
        return states, (statistic, states.logdensity, info.acceptance_rate)

    states = jax.vmap(lambda one: blackjax.hmc.init(one, log_prob))(z)
    states, (statistic, reached, acceptance) = jax.lax.scan(
        transition, states, jr.split(key, num_draws)
    )
    return states.position, statistic, reached, jnp.mean(acceptance)
