"""Interface of samplers: values with settings, and functions that move chains."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from scorepriors._errors import InputError
from scorepriors.inference._posterior import Posterior


class Move(NamedTuple):
    """Statistics of a transition; names are ArviZ's, None is left out.

    Attributes
    ----------
    acceptance_rate
        Acceptance probability, averaged over the proposals.
    diverging
        Whether the integrator diverged.
    n_steps
        Number of evaluations of the gradient.
    energy
        Energy of Hamiltonian moves, potential and kinetic.
    tree_depth, reached_max_treedepth
        Number of doublings of a trajectory, and whether that is the largest allowed.
    lp
        Log-density, for moves without an energy.
    """

    acceptance_rate: Float[Array, "*chains"]
    diverging: Array
    n_steps: Array
    energy: Array | None = None
    tree_depth: Array | None = None
    reached_max_treedepth: Array | None = None
    lp: Array | None = None


class Counts(NamedTuple):
    """Length of a run: draws per chain for tuning and to keep, and number of chains."""

    num_warmup: int
    num_samples: int
    num_chains: int


class Start(NamedTuple):
    """Start of the chains.

    Attributes
    ----------
    init
        Argument of `sample`.
    num_chains
        Number of chains.
    report
        Function called as ``report(done, text)``.
    """

    init: Any
    num_chains: int
    report: Callable


class Window(NamedTuple):
    """Draws of the chains since the last call of `AbstractSampler.warmup`.

    Attributes
    ----------
    positions, gradients
        Positions and gradients ``[n, C, d]``, from `AbstractSampler.place`.
    done
        Number of draws so far.
    ends
        Ends of all windows of this warm-up.
    """

    positions: Any
    gradients: Any
    done: int
    ends: tuple[int, ...]


class AbstractSampler(eqx.Module):
    """An algorithm for draws from a posterior; its fields are its settings.

    `sample` does the rest for every sampler: blocks of draws in compiled programs, progress,
    Ctrl-C, checkpoints, the tree, the checks.  Numbers among the fields are traced, so other
    values recompile nothing; strings are static.

    A run has three parts, each a pytree of arrays: the information that `init` learned about
    the posterior, which does not change and is stored in the checkpoint with the state; the
    problem, made of both; and the state of all chains, with tuned settings.

    Attributes
    ----------
    name
        Name in one word, for attributes of results and for checkpoints.
    note
        Description in one sentence, for inexact algorithms with the bias.
    exact
        Whether a Metropolis test makes draws exact.
    usual
        Default length of a run.
    block
        Largest number of draws per compiled call, fewer where they are slow; between calls progress
        is shown and Ctrl-C handled.
    thinning
        Number of transitions per kept draw.
    target_acceptance_rate
        Acceptance rate for which steps are tuned.
    checked_draws
        Largest number of draws that are compared with the density, at a gradient each.
    """

    checked_draws: ClassVar[int] = 300
    name: eqx.AbstractClassVar[str]
    note: eqx.AbstractClassVar[str]
    exact: eqx.AbstractClassVar[bool]
    usual: eqx.AbstractClassVar[Counts]
    block: eqx.AbstractClassVar[int]
    target_acceptance_rate: eqx.AbstractVar[float]
    thinning: eqx.AbstractVar[int]

    def __check_init__(self):
        rate = self.target_acceptance_rate
        if not 0 < rate < 1:
            raise InputError(f"`target_acceptance_rate` must be between 0 and 1, got {rate}.")
        if self.thinning < 1:
            raise InputError(f"`thinning` must be at least 1, got {self.thinning}.")

    @abc.abstractmethod
    def init(self, key, bound: Posterior, start: Start) -> tuple[Any, Any, str]:
        """Begin, on the host.

        Returns
        -------
        learned, state
            Parts of the run before its first draw.
        text
            Origin of the chains, in a word or two.
        """

    @abc.abstractmethod
    def shapes(self, bound: Posterior, num_chains: int) -> tuple[Any, Any]:
        """Return the shapes of the results of `init`, as `jax.eval_shape` does."""

    @abc.abstractmethod
    def bind(self, bound: Posterior, learned, state) -> tuple[Any, Any]:
        """Return the problem, and the state on its devices; after `init` or a checkpoint.

        A problem is a pytree with a field ``coordinates`` (`Coordinates`).
        """

    @abc.abstractmethod
    def step(self, key, number, problem, state, warming) -> tuple[Any, Move]:
        """Move every chain once, traced.

        Parameters
        ----------
        key
            Random key of the run; all randomness follows from it and the `number`.
        number
            Number of the transition, warm-up included.
        problem, state
            Results of `bind` and of the previous transition.
        warming
            Whether to tune.

        Returns
        -------
        state
            State after the transition.
        move
            Statistics of every chain, ``[C]``.
        """

    @abc.abstractmethod
    def place(self, problem, state) -> tuple[Any, Any]:
        """Return positions ``[C, d]`` of a state, traced, and gradients, or None without any."""

    @abc.abstractmethod
    def keep(self, state, positions) -> Any:
        """Return positions ``[n, C, d]`` of draws after the warm-up, for `Coordinates`."""

    def snapshot(self, state) -> np.ndarray | None:
        """Return points ``[C, d]`` of the chains for the check against the density.

        It is called after every whole block of draws.  None, the default, stands for the kept
        positions.
        """
        return None

    def density(self, problem) -> Callable:
        """Return the log-density as a function of one point ``[d]``, up to a constant.

        Points are those of `snapshot`, or kept positions.
        """
        coordinates = problem.coordinates
        return lambda position: coordinates.bound.log_density(coordinates.params(position))

    def directions(self, problem, state, draws, number: int) -> np.ndarray | None:
        """Return the directions ``[r, d]`` in which points are checked against the density.

        Parameters
        ----------
        problem, state
            Results of `bind` and of the last transition.
        draws
            Points ``[n, C, d]``, others than those that are checked.
        number
            Largest number of directions.  None stands for all of at most as many coordinates.
        """
        if draws.shape[-1] <= number:
            return None
        flat = draws.reshape(-1, draws.shape[-1])
        # A few hundred are enough for the directions in which draws scatter most.
        flat = flat[:: max(1, len(flat) // 500)].astype(float)
        rows = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2]
        return rows[:number].astype(draws.dtype)

    @abc.abstractmethod
    def windows(self, num_warmup: int) -> tuple[int, ...]:
        """Return the numbers of draws, up to `num_warmup`, after which `warmup` is called."""

    @abc.abstractmethod
    def warmup(self, key, problem, state, window: Window) -> Any:
        """Return the state after a window of the warm-up, tuned by its draws.

        On the host; tuning at every transition belongs in `step`.
        """

    @abc.abstractmethod
    def describe(self, state, move: Move) -> str:
        """Return a description of a block of draws, for the progress bar."""

    @abc.abstractmethod
    def results(self, state, moves: Move) -> tuple[dict, dict]:
        """Return sample statistics by ArviZ's names, from `moves` ``[C, n]``, and attributes."""


AnySampler = TypeVar("AnySampler", bound=AbstractSampler)


def traced(sampler: AnySampler) -> AnySampler:
    """Return the sampler with numbers as arrays, so that programs serve other numbers too."""

    def array(leaf):
        if isinstance(leaf, bool) or not isinstance(leaf, int | float):
            return leaf
        return np.asarray(leaf, np.int32 if isinstance(leaf, int) else np.float32)

    return jax.tree.map(array, sampler)


class Coordinates(eqx.Module):
    """Map from flat coordinates of kept draws to unconstrained parameters.

    Attributes
    ----------
    bound
        The posterior.
    origin
        Unconstrained parameters, by site, at coordinates of zero.
    scale
        Map from coordinates to offsets from the origin; None for the identity.
    """

    bound: Posterior
    origin: dict
    scale: Callable | None = None

    def params(self, position) -> dict:
        """Return the unconstrained parameters of one flat position."""
        center, unravel = ravel_pytree(self.origin)
        return unravel(position if self.scale is None else center + self.scale(position))
