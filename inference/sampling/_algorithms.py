"""The table of sampling algorithms: BlackJAX kernels behind one small interface.

A row says how a chain starts and how it moves, in coordinates of unit width.  To add
an algorithm, write those two functions and put a row into `ALGORITHMS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from blackjax.mcmc import adjusted_mclmc_dynamic, dynamic_hmc, hmc, mclmc, nuts
from jaxtyping import Array, Float


class Settings(NamedTuple):
    """What warm-up tunes, common to all chains; arrays, so that tuning compiles nothing.

    Attributes
    ----------
    step_size
        Of the integrator.
    length
        Of a trajectory, in units of the posterior's width per direction.
    """

    step_size: Float[Array, ""]
    length: Float[Array, ""]


class Move(NamedTuple):
    """What is recorded of a transition; names are ArviZ's."""

    acceptance_rate: Float[Array, ""]
    diverging: Array
    energy: Float[Array, ""]
    n_steps: Array
    tree_depth: Array


class Algorithm(NamedTuple):
    """One row of the table.

    Attributes
    ----------
    init
        ``(key, position, log_density) -> state``; states have ``position``,
        ``logdensity`` and ``logdensity_grad``.
    step
        ``(key, state, log_density, settings, jitter) -> (state, Move)``; `jitter` is
        uniform in (0, 1) and the same for all chains of a draw, which then take
        equally many steps.
    first_step
        Step size to start warm-up with, of the dimension.
    note
        One sentence: what it is, and for unadjusted ones the bias.
    exact
        Whether a Metropolis test makes draws exact.
    target
        Acceptance rate to tune for.
    """

    init: Callable
    step: Callable
    first_step: Callable
    note: str
    exact: bool = True
    target: float = 0.8


#: Longest trajectories, as number of doublings and of steps.
MAX_DOUBLINGS, MAX_STEPS = 10, 1024


def _steps(count):
    return jnp.clip(jnp.ceil(count), 1, MAX_STEPS).astype(jnp.int32)


def _identity(state):
    return jnp.ones_like(state.position)


def _hmc_move(info) -> Move:
    none = jnp.zeros((), jnp.int32)
    return Move(
        info.acceptance_rate, info.is_divergent, info.energy, info.num_integration_steps, none
    )


def _plain_init(key, position, log_density):
    return hmc.init(position, log_density)


def _nuts_step(key, state, log_density, settings, jitter):
    state, info = nuts.build_kernel()(
        key, state, log_density, settings.step_size, _identity(state), MAX_DOUBLINGS
    )
    move = _hmc_move(info)
    return state, move._replace(tree_depth=info.num_trajectory_expansions)


def _hmc_step(key, state, log_density, settings, jitter):
    state, info = hmc.build_kernel()(
        key,
        state,
        log_density,
        settings.step_size,
        _identity(state),
        _steps(settings.length / settings.step_size),
    )
    return state, _hmc_move(info)


def _jittered(_, mean, jitter):
    return _steps(2 * mean * jitter)


def _dynamic_hmc_init(key, position, log_density):
    return dynamic_hmc.init(position, log_density, key)


def _dynamic_hmc_step(key, state, log_density, settings, jitter):
    kernel = dynamic_hmc.build_kernel(integration_steps_fn=_jittered)
    state, info = kernel(
        key,
        state,
        log_density,
        settings.step_size,
        _identity(state),
        (settings.length / settings.step_size, jitter),
    )
    return state, _hmc_move(info)


def _root_dimension(state):
    return jnp.sqrt(state.position.size * 1.0)


def _adjusted_mclmc_init(key, position, log_density):
    return adjusted_mclmc_dynamic.init(position, log_density, key)


def _adjusted_mclmc_step(key, state, log_density, settings, jitter):
    # Momenta have unit length here, so times are longer by the root of the dimension.
    kernel = adjusted_mclmc_dynamic.build_kernel(integration_steps_fn=_jittered)
    mean = settings.length * _root_dimension(state) / settings.step_size
    state, info = kernel(
        key,
        state,
        log_density,
        settings.step_size,
        inverse_mass_matrix=_identity(state),
        integration_steps_params=(mean, jitter),
    )
    return state, _hmc_move(info)


#: Energy error per dimension (variance) that unadjusted MCLMC is tuned for.
MCLMC_ENERGY_VARIANCE = 1e-4


def _mclmc_init(key, position, log_density):
    return mclmc.init(position, log_density, key)


def _mclmc_step(key, state, log_density, settings, jitter):
    kernel = mclmc.build_kernel()
    state, info = kernel(
        key,
        state,
        log_density,
        _identity(state),
        settings.length * _root_dimension(state),
        settings.step_size,
    )
    # No Metropolis test; this stands in for its rate, so that one tuner serves all: 1/2
    # where the energy error per dimension is the one asked for.
    allowed = MCLMC_ENERGY_VARIANCE * state.position.size
    rate = 1 / (1 + info.energy_change**2 / allowed)
    none = jnp.zeros((), jnp.int32)
    bad = ~info.nonans | (jnp.abs(info.energy_change) > 1000)
    return state, Move(rate, bad, info.energy_change - state.logdensity, none + 1, none)


#: Every algorithm by name.
ALGORITHMS: dict[str, Algorithm] = {
    "nuts": Algorithm(
        _plain_init, _nuts_step, lambda d: 1.0 * d**-0.25, "No-U-Turn sampler; exact."
    ),
    "hmc": Algorithm(
        _plain_init,
        _hmc_step,
        lambda d: 1.0 * d**-0.25,
        "Hamiltonian Monte Carlo with trajectories of one length; exact.",
    ),
    "dynamic_hmc": Algorithm(
        _dynamic_hmc_init,
        _dynamic_hmc_step,
        lambda d: 1.0 * d**-0.25,
        "Hamiltonian Monte Carlo with trajectories of random length; exact.",
    ),
    "adjusted_mclmc": Algorithm(
        _adjusted_mclmc_init,
        _adjusted_mclmc_step,
        lambda d: 0.5 * d**0.25,
        "Microcanonical Langevin Monte Carlo with a Metropolis test; exact.",
    ),
    "mclmc": Algorithm(
        _mclmc_init,
        _mclmc_step,
        lambda d: 0.2 * d**0.5,
        "Unadjusted microcanonical Langevin: no Metropolis test, so variances are off by "
        "about the energy error per dimension it is tuned for.",
        exact=False,
        target=0.6,
    ),
}
