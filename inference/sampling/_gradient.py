"""Samplers that move by the log-density and its gradient, in coordinates of unit width.

Warm-up determines the coordinates and the step size; the moves are those of a kernel, usually
of BlackJAX.
"""

import abc
import json
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import blackjax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from scorepriors._compat import dual_averaging_adaptation
from scorepriors._errors import InputError
from scorepriors._traces import Kept
from scorepriors.inference._posterior import Posterior
from scorepriors.inference.curvature._preconditioner import LowRankMap, identity_map, refine
from scorepriors.inference.curvature._spectrum import curvature_spectrum, map_rank, whitening_map

from ._abstract import AbstractSampler, Counts, Move, Start, Window, traced
from ._checks import check_gradient
from ._density import LogDensity, no_refinement, problem_at
from ._origin import UNIFORM, Origin, elsewhere, origin_of, value_at

#: Number of warm-up windows after which the map is refined, and the share of all in the
#: warm-up.  Before the first and after the last only the step size is tuned.
#: Windows are equally long: the refinement then compiles once.
WINDOWS, WINDOWS_SHARE = 4, 0.7

#: Least draws per chain of a window, which a short warm-up has fewer of instead: by 35 draws of four
#: chains the map of a scene of 4,100 dimensions got worse, and its steps half as long.
LEAST_WINDOW = 50

#: Size of the force at draws of the Gaussian about the mode, beyond that of the Gaussian and in
#: units of it, from which the mode is no place to start.  Of 13 models those with a funnel had 2 and
#: more, and so had two whose mode was harmless; all others had .4 and less.
MISFIT = 1.0

#: Batches of one draw per chain in which that is measured.
MISFIT_BATCHES = 8

#: Words of a start whose curvature is from differences of gradients.
BY_DIFFERENCES = "curvature from differences of gradients"

#: Words in the origin of chains whose density jumps.
JUMPING = "the density jumps"

#: Sources of the coordinates of the chains.
PRECONDITIONERS = ("both", "curvature", "warmup", "none")


class Tuned(NamedTuple):
    """Tuned settings, common to all chains; arrays, so that tuning recompiles nothing.

    Attributes
    ----------
    step_size
        Step size of the integrator.
    length
        Length of a trajectory, in units of the posterior's width per direction.
    """

    step_size: Float[Array, ""]
    length: Float[Array, ""]


class Learned(NamedTuple):
    """Information about a posterior from the start: a point, and the curvature as a map."""

    origin: dict
    curvature: LowRankMap


class Chains(NamedTuple):
    """State of a run.

    Attributes
    ----------
    chains
        States of the kernel, with a leading axis over the chains.
    tuned
        Step size and length.
    tuner
        State of the dual averaging of the step size.
    refinement
        Map from warm-up draws: from the coordinates of the chains to those of draws.
    """

    chains: Any
    tuned: Tuned
    tuner: Any
    refinement: LowRankMap


class AbstractGradientSampler(AbstractSampler):
    """Chains about a mode, preconditioned by the curvature there and by warm-up draws.

    A new kernel is a subclass with `begin`, `move`, `first_step_size` and the descriptive
    fields: see `scorepriors.inference.NUTS`.

    Attributes
    ----------
    target_acceptance_rate
        Acceptance rate for which the step size is tuned.
    thinning
        Number of transitions per kept draw.
    preconditioner
        Source of the coordinates: the curvature at the start, refined from warm-up
        draws (``"both"``), one of the two (``"curvature"``, ``"warmup"``), or neither
        (``"none"``).  Draws are correct with any; for comparisons, and for models whose
        curvature is too expensive.
    rank
        Number of directions of the curvature, beyond 400 dimensions.
    longest_width
        Largest width of the posterior, in units of the coordinates', for which trajectories of a
        given length are made longer: in proportion to the widest direction, up to this.
    """

    target_acceptance_rate: float = 0.8
    thinning: int = 1
    preconditioner: str = "both"
    rank: int = 400
    longest_width: float = 3.0

    usual: ClassVar[Counts] = Counts(500, 500, 4)
    block: ClassVar[int] = 20

    def __check_init__(self):
        if self.rank < 1:
            raise InputError(f"`rank` must be at least 1, got {self.rank}.")
        if not self.longest_width >= 1:
            raise InputError(f"`longest_width` must be at least 1, got {self.longest_width}.")
        if self.preconditioner not in PRECONDITIONERS:
            raise InputError(
                f"`preconditioner` must be one of {', '.join(PRECONDITIONERS)}, got "
                f"{self.preconditioner!r}."
            )

    @abc.abstractmethod
    def first_step_size(self, dimension: float) -> float:
        """Return the step size at the start of the warm-up."""

    @abc.abstractmethod
    def begin(self, key, position, logdensity_fn: Callable) -> Any:
        """Return the state of a chain, with ``position``, ``logdensity``, ``logdensity_grad``."""

    @abc.abstractmethod
    def move(self, key, state, logdensity_fn: Callable, tuned: Tuned, jitter) -> tuple[Any, Move]:
        """Move one chain once, as BlackJAX's kernels do.

        `jitter` is uniform in (0, 1) and the same for all chains of a draw, which then take
        equally many steps.
        """

    # Methods of `AbstractSampler`.

    def init(self, key, bound: Posterior, start: Start):
        first, second, third, fourth = jax.random.split(key, 4)
        found, curvature = self._origin(bound, start, first, second)
        origin, text = found.point, found.text
        flat, _ = ravel_pytree(origin)
        shape = (start.num_chains, len(flat))
        if curvature is None:
            curvature = self._no_curvature(flat)
            if text.startswith("uniform"):
                spread = jax.random.uniform(third, shape, flat.dtype, -UNIFORM, UNIFORM)
                origin = _defined(bound, spread, jax.tree.map(jnp.zeros_like, origin))
                spread = spread - ravel_pytree(origin)[0]
            else:  # without known widths all chains start at one point
                spread = jnp.zeros(shape, flat.dtype)
        else:
            spread = jax.random.normal(third, shape, flat.dtype)
        refinement = no_refinement(origin)
        density = LogDensity(problem_at(bound, origin, curvature), refinement)
        positions = _inside(density, spread)
        if check_gradient(density, positions[0], fourth):
            text = f"{text}; {JUMPING}"
        tuned = Tuned(
            jnp.asarray(self.first_step_size(float(len(flat))), flat.dtype),
            jnp.asarray(np.pi / 2, flat.dtype),
        )
        chains = begin_chains(traced(self), density, positions, fourth)
        tuner = begin_tuner(tuned.step_size, np.float32(self.target_acceptance_rate))
        return Learned(origin, curvature), Chains(chains, tuned, tuner, refinement), text

    def shapes(self, bound: Posterior, num_chains: int):
        def skeleton(key):
            origin = bound.start(key=key)
            flat, _ = ravel_pytree(origin)
            curvature, refinement = self._no_curvature(flat), no_refinement(origin)
            density = LogDensity(problem_at(bound, origin, curvature), refinement)
            positions = jnp.zeros((num_chains, len(flat)), flat.dtype)
            chains = begin_chains(traced(self), density, positions, key)
            one = jnp.asarray(1.0, flat.dtype)
            tuner = begin_tuner(one, np.float32(0.8))
            return Learned(origin, curvature), Chains(chains, Tuned(one, one), tuner, refinement)

        return eqx.filter_eval_shape(skeleton, jax.random.key(0))

    def bind(self, bound: Posterior, learned: Learned, state: Chains):
        chains = _spread_over_devices(state.chains)
        return problem_at(bound, *learned), state._replace(chains=chains)

    def step(self, key, number, problem, state: Chains, warming):
        chains, tuned, tuner, refinement = state
        # The other half of the key is used for the warm-up.
        own = jax.random.fold_in(jax.random.split(key)[0], number)
        jitter = jax.random.uniform(jax.random.fold_in(own, 0))
        count = jnp.arange(len(chains.position))
        keys = jax.vmap(lambda c: jax.random.fold_in(own, c + 1))(count)
        density = LogDensity(problem, refinement)
        chains, move = jax.vmap(lambda k, s: self.move(k, s, density, tuned, jitter))(keys, chains)
        accepted = jnp.where(jnp.isfinite(move.acceptance_rate), move.acceptance_rate, 0.0)
        _, update, _ = dual_averaging_adaptation(self.target_acceptance_rate)
        new = update(tuner, accepted.mean())
        tuner = jax.tree.map(lambda n, o: jnp.where(warming, n, o).astype(o.dtype), new, tuner)
        step_size = jnp.exp(tuner.log_step_size).astype(tuned.step_size.dtype)
        tuned = tuned._replace(step_size=jnp.where(warming, step_size, tuned.step_size))
        return Chains(chains, tuned, tuner, refinement), move

    def place(self, problem, state: Chains):
        return state.chains.position, state.chains.logdensity_grad

    def keep(self, state: Chains, positions):
        return np.asarray(state.refinement(positions))

    def windows(self, num_warmup: int):
        share = WINDOWS_SHARE * num_warmup
        number = int(np.clip(share // LEAST_WINDOW, 1, WINDOWS))
        length = max(int(share / number), 1)
        first = (num_warmup - number * length) // 3  # a long last part for the final step size
        return (*(first + i * length for i in range(number + 1)), num_warmup)

    def warmup(self, key, problem, state: Chains, window: Window):
        """Refine the map from a window's draws, or settle the step size at the last end."""
        rate = np.float32(self.target_acceptance_rate)
        step_size = jnp.exp(state.tuner.log_step_size_avg).astype(state.tuned.step_size.dtype)
        state = state._replace(
            tuned=state.tuned._replace(step_size=step_size),
            tuner=begin_tuner(step_size, rate, np.float32(2.0)),
        )
        if window.done in (window.ends[0], window.ends[-1]):
            # The first window is the approach, the last tunes only the step size.
            return state
        shape = window.positions.shape
        old = state.refinement
        before = np.asarray(old(window.positions.reshape(-1, shape[-1])))
        slopes = np.asarray(old.gradient_before(window.gradients.reshape(-1, shape[-1])))
        # If no chain has moved, because the step is still too long, nothing can be refined.
        refining = self.preconditioner in ("both", "warmup")
        moving = refining and bool(np.ptp(before, axis=0).all())
        new = refine(before, slopes, old.gain.size) if moving else old
        width = _largest_width(np.asarray(new.inverse(before)).reshape(shape))
        length = np.pi / 2 * min(width, self.longest_width)
        fresh = jax.random.fold_in(jax.random.split(key)[1], window.done)
        moved = new.inverse(old(state.chains.position))
        return state._replace(
            chains=begin_chains(traced(self), LogDensity(problem, new), moved, fresh),
            tuned=state.tuned._replace(length=jnp.asarray(length, step_size.dtype)),
            refinement=new,
        )

    def describe(self, state: Chains, move: Move) -> str:
        return (
            f"step {float(state.tuned.step_size):.3g}, {float(np.mean(move.n_steps)):.0f} steps a "
            "draw"
        )

    def results(self, state: Chains, moves: Move):
        stats = {name: values for name, values in moves._asdict().items() if values is not None}
        stats["step_size"] = np.full(moves.n_steps.shape, float(state.tuned.step_size))
        gain = np.asarray(state.refinement.gain)
        return stats, {
            "inference_library": "blackjax",
            "inference_library_version": blackjax.__version__,
            "step_size": float(state.tuned.step_size),
            "trajectory_length": float(state.tuned.length),
            "inverse_mass": json.dumps(
                {
                    "kind": self.preconditioner,
                    "dimension": len(state.refinement.scale),
                    "refined_directions": int((gain != 1).sum()),
                    "largest_refined_width": float(gain.max(initial=1.0)),
                    "smallest_refined_width": float(gain.min(initial=1.0)),
                }
            ),
        }

    @property
    def _directions(self) -> int:
        """Return the number of directions of the curvature; zero leaves it out."""
        return self.rank if self.preconditioner in ("both", "curvature") else 0

    def _origin(self, bound: Posterior, start: Start, first, second):
        """Return the origin of the chains, and the map of the curvature there or None."""
        found = origin_of(bound, start.init, first)
        found, curvature = self._curvature(bound, found, start, second)
        if not found.is_mode or curvature is None:
            return found, curvature
        density = LogDensity(problem_at(bound, found.point, curvature), no_refinement(found.point))
        if _misfit(density, start.num_chains, second) < MISFIT:
            return found, curvature
        other = elsewhere(bound, found, "the mode is not typical of the posterior", first)
        return (found, curvature) if other is None else self._curvature(bound, other, start, second)

    def _curvature(self, bound: Posterior, found: Origin, start: Start, key):
        # Explicit types: weak ones would compile everything a second time.
        point = jax.tree.map(lambda a: jax.lax.convert_element_type(a, a.dtype), found.point)
        found = found._replace(point=point)
        if not self._directions or found.text.startswith("uniform"):
            return found, None
        start.report(0, "curvature")
        spectrum = curvature_spectrum(bound, point, rank=self._directions, key=key)
        if spectrum is None:
            return found._replace(text="uniform (no curvature at the start)"), None
        if spectrum.differences:
            found = found._replace(text=f"{found.text}; {BY_DIFFERENCES}")
        return found, whitening_map(spectrum, ravel_pytree(point)[0].dtype)

    def _no_curvature(self, flat) -> LowRankMap:
        return identity_map(len(flat), map_rank(len(flat), self._directions), flat.dtype)


@Kept
def begin_chains(sampler: AbstractGradientSampler, density: LogDensity, positions, key):
    """Return states of chains at ``positions [C, d]``."""
    keys = jax.random.split(key, len(positions))
    return jax.vmap(lambda k, q: sampler.begin(k, q, density))(keys, positions)


@Kept
def begin_tuner(step_size, rate, push=10.0):
    """Return dual averaging that starts at a step size and first tries larger ones, by `push`."""
    init, _, _ = dual_averaging_adaptation(rate)
    state = init(step_size)
    state = state._replace(mu=jnp.log(step_size * push), log_step_size_avg=jnp.log(step_size))
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), state)


def _defined(bound: Posterior, spread, zero: dict) -> dict:
    """Return zero, or the first of the starts ``[C, d]`` with a density if it has none there.

    As the direction of a vector, or a density of its logarithm: the terms of the density at the
    origin are taken from those elsewhere.
    """
    _, unravel = ravel_pytree(zero)
    for point in (zero, *map(unravel, spread)):
        if np.isfinite(float(value_at(bound, point))):
            return point
    return zero


def _inside(density: LogDensity, spread):
    """Return chain starts with finite density and gradient, moved inwards where needed."""
    for _ in range(12):
        values, slopes = _evaluated(density, spread)
        good = np.isfinite(values) & np.isfinite(slopes).all(-1)
        if good.all():
            return spread
        spread = jnp.where(good[:, None], spread, spread / 2)
    raise InputError(
        "the model's log-density or its gradient is not finite at the start values; give `init`, "
        "or check the data for NaN."
    )


def _misfit(density: LogDensity, num_chains: int, key) -> float:
    """Return how much the forces at draws of the Gaussian are not those of the Gaussian.

    Median over the draws of the root mean square deviation per dimension, of which the force of a
    Gaussian has one: cheap, and the same in any number of dimensions.
    """
    shape = (num_chains, len(density.refinement.scale))
    dtype = density.refinement.scale.dtype
    _, center = _evaluated(density, jnp.zeros(shape, dtype))
    sizes = []
    for one in jax.random.split(key, MISFIT_BATCHES):
        draws = jax.random.normal(one, shape, dtype)
        _, slopes = _evaluated(density, draws)
        left = slopes.astype(float) - center + np.asarray(draws)
        sizes.append(np.sqrt((left**2).mean(-1)))
    return float(np.median(np.nan_to_num(sizes, nan=np.inf)))


def _evaluated(density: LogDensity, positions) -> tuple[np.ndarray, np.ndarray]:
    """Return values ``[C]`` and gradients ``[C, d]`` at positions ``[C, d]``."""
    values, slopes = _evaluate(density, positions)
    return np.asarray(values), np.asarray(slopes)


@Kept
def _evaluate(density: LogDensity, positions):
    return jax.vmap(jax.value_and_grad(lambda q: density(q)))(positions)


def _spread_over_devices(states):
    """Shard chains over the devices, where their number divides."""
    devices = jax.devices()
    chains = states.position.shape[0]
    if len(devices) == 1 or chains % len(devices):
        return states
    mesh = jax.sharding.Mesh(np.array(devices), ("chain",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("chain"))
    return jax.tree.map(lambda a: jax.device_put(a, sharding), states)


def _largest_width(positions, directions: int = 5) -> float:
    """Return the standard deviation along the widest directions, at least 1.

    The directions come from one half of the draws and the widths from the other:
    the largest singular value of few draws in many dimensions is mostly noise.
    """
    half = len(positions) // 2
    flat = [p.reshape(-1, positions.shape[-1]) for p in (positions[:half], positions[half:])]
    if len(flat[0]) < 2:
        return 1.0
    center = np.concatenate(flat).mean(0)
    _, _, rows = np.linalg.svd(flat[0] - center, full_matrices=False)
    widths = ((flat[1] - center) @ rows[:directions].T).std(0)
    return float(max(widths.max(), 1.0))
