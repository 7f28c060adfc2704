"""Samplers: BlackJAX's kernels as values with settings."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from blackjax.mcmc import adjusted_mclmc_dynamic, dynamic_hmc, hmc, mclmc, nuts

from scorepriors._errors import InputError

from ._abstract import AbstractSampler, Move
from ._gradient import AbstractGradientSampler

#: Largest number of steps of a trajectory.
MAX_STEPS = 1024

#: Target of the energy error per dimension (variance) of unadjusted MCLMC.
MCLMC_ENERGY_VARIANCE = 1e-4


class NUTS(AbstractGradientSampler):
    """No-U-Turn sampler (Hoffman & Gelman 2014, arXiv:1111.4246).

    With several chains at once, all wait for the longest tree: see `DynamicHMC`.

    Attributes
    ----------
    target_acceptance_rate, thinning, preconditioner, rank, longest_width
        Settings of `AbstractGradientSampler`.
    max_num_doublings
        Base-2 logarithm of the largest number of steps of a trajectory.
    """

    max_num_doublings: int = eqx.field(default=10, static=True)

    name: ClassVar[str] = "nuts"
    note: ClassVar[str] = "No-U-Turn sampler; exact."
    exact: ClassVar[bool] = True

    def first_step_size(self, dimension):
        return dimension**-0.25

    def begin(self, key, position, logdensity_fn):
        return hmc.init(position, logdensity_fn)

    def move(self, key, state, logdensity_fn, tuned, jitter):
        most = self.max_num_doublings
        state, info = nuts.build_kernel()(
            key, state, logdensity_fn, tuned.step_size, _identity(state), most
        )
        depth = info.num_trajectory_expansions
        move = _move(info)._replace(tree_depth=depth, reached_max_treedepth=depth >= most)
        return state, move


class HMC(AbstractGradientSampler):
    """Hamiltonian Monte Carlo with trajectories of one length (Neal 2011, arXiv:1206.1901).

    Attributes
    ----------
    target_acceptance_rate, thinning, preconditioner, rank, longest_width
        Settings of `AbstractGradientSampler`.
    """

    name: ClassVar[str] = "hmc"
    note: ClassVar[str] = "Hamiltonian Monte Carlo with trajectories of one length; exact."
    exact: ClassVar[bool] = True

    def first_step_size(self, dimension):
        return dimension**-0.25

    def begin(self, key, position, logdensity_fn):
        return hmc.init(position, logdensity_fn)

    def move(self, key, state, logdensity_fn, tuned, jitter):
        steps = _steps(tuned.length / tuned.step_size)
        state, info = hmc.build_kernel()(
            key, state, logdensity_fn, tuned.step_size, _identity(state), steps
        )
        return state, _move(info)


class DynamicHMC(AbstractGradientSampler):
    """Hamiltonian Monte Carlo with trajectories of random length.

    All chains of a draw take equally many steps, which is fast for several chains at once.

    Attributes
    ----------
    target_acceptance_rate, thinning, preconditioner, rank, longest_width
        Settings of `AbstractGradientSampler`.
    """

    name: ClassVar[str] = "dynamic_hmc"
    note: ClassVar[str] = "Hamiltonian Monte Carlo with trajectories of random length; exact."
    exact: ClassVar[bool] = True

    def first_step_size(self, dimension):
        return dimension**-0.25

    def begin(self, key, position, logdensity_fn):
        return dynamic_hmc.init(position, logdensity_fn, key)

    def move(self, key, state, logdensity_fn, tuned, jitter):
        kernel = dynamic_hmc.build_kernel(integration_steps_fn=_jittered)
        mean = tuned.length / tuned.step_size
        state, info = kernel(
            key, state, logdensity_fn, tuned.step_size, _identity(state), (mean, jitter)
        )
        return state, _move(info)


class AdjustedMCLMC(AbstractGradientSampler):
    """Microcanonical Langevin Monte Carlo with a Metropolis test (arXiv:2503.01707).

    Attributes
    ----------
    target_acceptance_rate, thinning, preconditioner, rank, longest_width
        Settings of `AbstractGradientSampler`.
    """

    name: ClassVar[str] = "adjusted_mclmc"
    note: ClassVar[str] = "Microcanonical Langevin Monte Carlo with a Metropolis test; exact."
    exact: ClassVar[bool] = True

    def first_step_size(self, dimension):
        return 0.5 * dimension**0.25

    def begin(self, key, position, logdensity_fn):
        return adjusted_mclmc_dynamic.init(position, logdensity_fn, key)

    def move(self, key, state, logdensity_fn, tuned, jitter):
        kernel = adjusted_mclmc_dynamic.build_kernel(integration_steps_fn=_jittered)
        # Momenta have unit length, so times are longer by the root of the dimension.
        mean = tuned.length * _root_dimension(state) / tuned.step_size
        state, info = kernel(
            key,
            state,
            logdensity_fn,
            tuned.step_size,
            inverse_mass_matrix=_identity(state),
            integration_steps_params=(mean, jitter),
        )
        return state, _move(info)


class MCLMC(AbstractGradientSampler):
    """Unadjusted microcanonical Langevin Monte Carlo (Robnik et al. 2023, arXiv:2212.08549).

    Attributes
    ----------
    target_acceptance_rate
        Substitute for the energy error: 1/2 where that is `MCLMC_ENERGY_VARIANCE` per dimension.
    thinning, preconditioner, rank, longest_width
        Settings of `AbstractGradientSampler`.
    """

    target_acceptance_rate: float = 0.6

    name: ClassVar[str] = "mclmc"
    note: ClassVar[str] = (
        "Unadjusted microcanonical Langevin: no Metropolis test, so variances are off by "
        "about the energy error per dimension it is tuned for."
    )
    exact: ClassVar[bool] = False

    def first_step_size(self, dimension):
        return 0.2 * dimension**0.5

    def begin(self, key, position, logdensity_fn):
        return mclmc.init(position, logdensity_fn, key)

    def move(self, key, state, logdensity_fn, tuned, jitter):
        kernel = mclmc.build_kernel()
        state, info = kernel(
            key,
            state,
            logdensity_fn,
            _identity(state),
            tuned.length * _root_dimension(state),
            tuned.step_size,
        )
        # No Metropolis test; this replaces its rate, so that the same tuner is used: 1/2
        # where the energy error per dimension is at its target.
        allowed = MCLMC_ENERGY_VARIANCE * state.position.size
        rate = 1 / (1 + info.energy_change**2 / allowed)
        bad = ~info.nonans | (jnp.abs(info.energy_change) > 1000)
        energy = info.energy_change - state.logdensity
        return state, Move(rate, bad, jnp.ones((), jnp.int32), energy)


def _move(info) -> Move:
    return Move(info.acceptance_rate, info.is_divergent, info.num_integration_steps, info.energy)


def _steps(count):
    return jnp.clip(jnp.ceil(count), 1, MAX_STEPS).astype(jnp.int32)


def _jittered(_, mean, jitter):
    return _steps(2 * mean * jitter)


def _identity(state):
    return jnp.ones_like(state.position)


def _root_dimension(state):
    return jnp.sqrt(state.position.size * 1.0)


#: Samplers of this package for any model.
OWN: tuple[type[AbstractGradientSampler], ...] = (NUTS, HMC, DynamicHMC, AdjustedMCLMC, MCLMC)

#: Samplers for any model, by their names in `sample` and the command line.
ALGORITHMS: dict[str, type[AbstractSampler]] = {kind.name: kind for kind in OWN}


def sampler_of(
    algorithm: str | AbstractSampler,
    known: Mapping[str, Callable[..., AbstractSampler]] = ALGORITHMS,
) -> AbstractSampler:
    """Return the sampler of a name, with default settings; a sampler unchanged.

    Raises
    ------
    InputError
        For an unknown name.
    """
    if isinstance(algorithm, AbstractSampler):
        return algorithm
    if not isinstance(algorithm, str) or algorithm not in known:
        raise InputError(
            f"unknown algorithm {algorithm!r}; there are {', '.join(sorted(known))}, or give a "
            "sampler such as NUTS(thinning=2)."
        )
    return known[algorithm]()
