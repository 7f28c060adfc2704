"""What a sampler is: a value with settings, three functions that move chains, and a few words."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from scorepriors._errors import InputError
from scorepriors.inference._posterior import Posterior


class Move(NamedTuple):
    """What is recorded of a transition; names are ArviZ's, None is left out.

    Attributes
    ----------
    acceptance_rate
        Probability to accept, averaged over what was offered.
    diverging
        Whether an integrator left the posterior.
    n_steps
        Evaluations of the gradient.
    energy
        Of Hamiltonian moves: potential and kinetic.
    tree_depth, reached_max_treedepth
        Of moves in trees: doublings, and whether there were as many as allowed.
    lp
        Log-density that moves without an energy are judged by.
    """

    acceptance_rate: Float[Array, "*chains"]
    diverging: Array
    n_steps: Array
    energy: Array | None = None
    tree_depth: Array | None = None
    reached_max_treedepth: Array | None = None
    lp: Array | None = None


class Counts(NamedTuple):
    """How long a run is: draws per chain to tune with and to keep, and chains."""

    num_warmup: int
    num_samples: int
    num_chains: int


class Start(NamedTuple):
    """Where chains begin.

    Attributes
    ----------
    init
        As given to `sample`.
    num_chains
        How many.
    report
        Called as ``report(done, text)``.
    """

    init: Any
    num_chains: int
    report: Callable


class Window(NamedTuple):
    """What chains have done since the last time that `AbstractSampler.warmup` was called.

    Attributes
    ----------
    positions, gradients
        ``[n, C, d]``, as `AbstractSampler.place` has them.
    done
        Draws made so far.
    ends
        All ends of windows of this warm-up.
    """

    positions: Any
    gradients: Any
    done: int
    ends: tuple[int, ...]


class AbstractSampler(eqx.Module):
    """A way to draw from a posterior; its fields are its settings.

    `sample` does the rest for every sampler: blocks of draws in compiled programs, progress,
    Ctrl-C, checkpoints, the tree, the checks.  Numbers among the fields are traced, so other
    ones compile nothing; strings are static.

    A run has three parts, each a pytree of arrays: what `init` learned of the posterior, which
    stays as it is and goes into the checkpoint with the state; the problem, made of both; and
    the state of all chains, what is tuned included.

    Attributes
    ----------
    name
        One word, for attributes of results and for checkpoints.
    note
        One sentence: what it is, and for inexact ones the bias.
    exact
        Whether a Metropolis test makes draws exact.
    usual
        Length of a run that does not say.
    block
        Draws per compiled call: between calls progress is shown and Ctrl-C read.
    thinning
        Transitions per kept draw.
    target_acceptance_rate
        To tune steps for.
    """

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
            Of a run before its first draw.
        text
            Where chains start, in a word or two.
        """

    @abc.abstractmethod
    def shapes(self, bound: Posterior, num_chains: int) -> tuple[Any, Any]:
        """Shapes of what `init` learns and of the state, as `jax.eval_shape` gives them."""

    @abc.abstractmethod
    def bind(self, bound: Posterior, learned, state) -> tuple[Any, Any]:
        """The problem, and the state where the devices want it; after `init` or a checkpoint.

        A problem is a pytree with a field ``coordinates`` (`Coordinates`).
        """

    @abc.abstractmethod
    def step(self, key, number, problem, state, warming) -> tuple[Any, Move]:
        """Move every chain once, traced.

        Parameters
        ----------
        key
            Of the run; all that is random follows from it and the `number`.
        number
            Of the transition, warm-up included.
        problem, state
            As `bind` and the transition before have them.
        warming
            Whether to tune.

        Returns
        -------
        state
            Afterwards.
        move
            Of every chain, ``[C]``.
        """

    @abc.abstractmethod
    def place(self, problem, state) -> tuple[Any, Any]:
        """Positions ``[C, d]`` of a state, traced, and gradients there, or None without any."""

    @abc.abstractmethod
    def keep(self, state, positions) -> Any:
        """Positions ``[n, C, d]`` of draws after the warm-up, as `Coordinates` takes them."""

    @abc.abstractmethod
    def windows(self, num_warmup: int) -> tuple[int, ...]:
        """Numbers of draws after which `warmup` is called, on the way to `num_warmup`."""

    @abc.abstractmethod
    def warmup(self, key, problem, state, window: Window) -> Any:
        """The state after a window of the warm-up, tuned by what the chains did in it.

        On the host; tuning of every transition belongs into `step`.
        """

    @abc.abstractmethod
    def describe(self, state, move: Move) -> str:
        """Words on a block of draws, for the progress bar."""

    @abc.abstractmethod
    def results(self, state, moves: Move) -> tuple[dict, dict]:
        """Sample statistics by ArviZ's names, from `moves` ``[C, n]``; and attributes."""


AnySampler = TypeVar("AnySampler", bound=AbstractSampler)


def traced(sampler: AnySampler) -> AnySampler:
    """The sampler with numbers as arrays, so that programs serve other numbers as well."""

    def array(leaf):
        if isinstance(leaf, bool) or not isinstance(leaf, int | float):
            return leaf
        return np.asarray(leaf, np.int32 if isinstance(leaf, int) else np.float32)

    return jax.tree.map(array, sampler)


class Coordinates(eqx.Module):
    """Flat coordinates of kept draws, and the unconstrained parameters that they stand for.

    Attributes
    ----------
    bound
        The posterior.
    origin
        Unconstrained parameters, by site, at coordinates of zero.
    scale
        Map from coordinates to offsets from the origin; None for what is flat already.
    """

    bound: Posterior
    origin: dict
    scale: Callable | None = None

    def params(self, position) -> dict:
        """Unconstrained parameters of one flat position."""
        center, unravel = ravel_pytree(self.origin)
        return unravel(position if self.scale is None else center + self.scale(position))
