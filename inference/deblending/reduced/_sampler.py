"""The sampler of scenes of profiles, as a value."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from scorepriors._errors import InputError
from scorepriors._traces import Kept
from scorepriors.inference._posterior import Posterior, posterior
from scorepriors.inference.curvature._preconditioner import LowRankMap
from scorepriors.inference.fitting._map import MAPResult, fit_map
from scorepriors.inference.sampling._abstract import (
    AbstractSampler,
    Coordinates,
    Counts,
    Move,
    Start,
    Window,
    traced,
)
from scorepriors.inference.sampling._algorithms import DynamicHMC
from scorepriors.inference.sampling._density import LogDensity, Problem, no_refinement, problem_at
from scorepriors.inference.sampling._gradient import (
    Chains,
    Learned,
    Tuned,
    begin_chains,
    begin_tuner,
)

from ._basis import empty_scene, reduced_scene
from ._model import reduced_blend, scene_of

#: Largest width for which trajectories are made longer: not at all.  With 1.5 the embedded example
#: took 13 steps per draw, with 1 ten, for as many effective draws.
WIDTH = 1.0

#: Width of sites that are not those of sources, as of brightnesses, whose colors are uncertain.
USUAL_WIDTH = 0.3

#: Step of the differences of gradients, in units of the widths, and the least eigenvalue of the
#: Hessian in these units: what is softer draws of the warm-up tell.
DIFFERENCE, SOFTEST = 0.3, 0.02


class Pair(eqx.Module):
    """The posterior and its approximation, in the same coordinates.

    Attributes
    ----------
    exact, reduced
        The two, with their densities at the origin.
    """

    exact: Problem
    reduced: Problem

    @property
    def coordinates(self) -> Coordinates:
        """Coordinates of draws."""
        return self.exact.coordinates

    def excess(self, refinement, positions, reduced):
        """Return the log-ratio ``[C]`` of the posterior to its approximation, up to a constant.

        Parameters
        ----------
        refinement
            Map from warm-up draws.
        positions, reduced
            Positions ``[C, d]``, and the approximate log-densities there.
        """
        density = LogDensity(self.exact, refinement)
        # Chain by chain: renderings of one scene fit into the caches.
        return jax.lax.map(lambda q: density(q), positions) - reduced


class Walkers(NamedTuple):
    """State of a run: chains on the approximation, and its log-ratio to the posterior ``[C]``."""

    inner: Chains
    excess: Float[Array, " C"]


class Reduced(AbstractSampler):
    """Hamiltonian moves by an approximate density without pixels, made exact by a second test.

    For posteriors of `scorepriors.models.blend` with stars and profiles alone, about a mode.

    Attributes
    ----------
    target_acceptance_rate
        Acceptance rate of the Hamiltonian moves for which steps are tuned.
    thinning
        Number of tests by the posterior per kept draw.
    moves
        Number of Hamiltonian moves before each test by the posterior, which costs as much as four
        gradients.  (Of five blends of five sources the median took 10 s with four moves and a
        rate of 0.7, 12 s with two and 0.8, 11 s with six.)
    """

    target_acceptance_rate: float = 0.7
    thinning: int = 1
    moves: int = 4

    name: ClassVar[str] = "reduced"
    note: ClassVar[str] = (
        "Hamiltonian moves by a density of few components per source, and a test by the posterior; "
        "exact."
    )
    exact: ClassVar[bool] = True
    usual: ClassVar[Counts] = Counts(80, 500, 4)
    block: ClassVar[int] = 20
    checked_draws: ClassVar[int] = 100

    @property
    def _inner(self) -> DynamicHMC:
        # In place of a number that may be traced, which a new one could not check.
        usual = DynamicHMC(longest_width=WIDTH)
        return eqx.tree_at(lambda s: s.target_acceptance_rate, usual, self.target_acceptance_rate)

    def init(self, key, bound: Posterior, start: Start):
        scene, (first, second) = scene_of(bound), jax.random.split(key)
        fit = start.init
        if not isinstance(fit, MAPResult):
            values = None if isinstance(fit, str) else fit
            fit = fit_map(bound, key=first, init=values, max_iterations=1000)
        start.report(0, "components")
        seed = int(jax.random.randint(first, (), 0, 2**31 - 1))
        values = {name: np.asarray(value) for name, value in fit.values.items()}
        found, widths = reduced_scene(scene, values, values["spectrum"], seed)
        approximate = posterior(reduced_blend, found)
        origin = approximate.start({n: fit.values[n] for n in approximate.sites()}, key=first)
        origin = jax.tree.map(lambda a: jax.lax.convert_element_type(a, a.dtype), origin)
        start.report(0, "curvature")
        learned, chains = self._begin(approximate, origin, widths, start.num_chains, second)
        excess = jnp.zeros(start.num_chains, chains.chains.logdensity.dtype)
        return (found, learned), Walkers(chains, excess), "given mode"

    def _begin(self, bound: Posterior, origin: dict, widths: dict, num_chains: int, key):
        """Return what is learned about the approximation, and chains about its origin.

        Its Hessian comes from differences of gradients, by the program that begins chains: another
        would take longer to compile than all of them.
        """
        flat, _ = ravel_pytree(origin)
        size, dtype = len(flat), flat.dtype
        usual = {name: np.full(np.shape(a), USUAL_WIDTH) for name, a in origin.items()}
        scale, _ = ravel_pytree({n: np.asarray(a, dtype) for n, a in (usual | widths).items()})
        first = jnp.asarray(np.ones(size), dtype)
        plain = LowRankMap(jnp.asarray(scale), jnp.zeros((size, size), dtype), first)
        refinement, kernel = no_refinement(origin), traced(self._inner)
        density = LogDensity(problem_at(bound, origin, plain), refinement)

        def at(positions, density):
            short = -len(positions) % num_chains
            rows = jnp.pad(jnp.asarray(positions, dtype), ((0, short), (0, 0)))
            return [
                begin_chains(kernel, density, rows[i : i + num_chains], key)
                for i in range(0, len(rows), num_chains)
            ]

        steps = DIFFERENCE * np.concatenate([np.eye(size), -np.eye(size)])
        slopes = np.concatenate([np.asarray(s.logdensity_grad) for s in at(steps, density)])
        ahead, behind = slopes[:size].astype(float), slopes[size : 2 * size].astype(float)
        hessian = np.nan_to_num((behind - ahead) / (2 * DIFFERENCE))
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        gain = 1 / np.sqrt(np.maximum(values, SOFTEST))
        curvature = LowRankMap(plain.scale, jnp.asarray(vectors, dtype), jnp.asarray(gain, dtype))
        density = LogDensity(problem_at(bound, origin, curvature), refinement)
        spread = jax.random.normal(key, (num_chains, size), dtype)
        for _ in range(12):
            (chains,) = at(spread, density)
            good = np.isfinite(np.asarray(chains.logdensity))
            good &= np.isfinite(np.asarray(chains.logdensity_grad)).all(-1)
            if good.all():
                break
            spread = jnp.where(good[:, None], spread, spread / 2)
        else:
            raise InputError(
                "the model's log-density or its gradient is not finite at the mode; check the data "
                "for NaN."
            )
        tuned = Tuned(
            jnp.asarray(self._inner.first_step_size(float(size)), dtype),
            jnp.asarray(np.pi / 2, dtype),
        )
        tuner = begin_tuner(tuned.step_size, np.float32(self.target_acceptance_rate))
        return Learned(origin, curvature), Chains(chains, tuned, tuner, refinement)

    def shapes(self, bound: Posterior, num_chains: int):
        found = empty_scene(scene_of(bound))
        approximate = posterior(reduced_blend, found)
        learned, chains = self._inner.shapes(approximate, num_chains)
        size = len(learned.curvature.scale)
        whole = jax.ShapeDtypeStruct((size, size), learned.curvature.scale.dtype)
        learned = eqx.tree_at(
            lambda one: (one.curvature.basis, one.curvature.gain),
            learned,
            (whole, learned.curvature.scale),
        )
        excess: Any = jax.ShapeDtypeStruct((num_chains,), chains.chains.logdensity.dtype)
        return (found, learned), Walkers(chains, excess)

    def bind(self, bound: Posterior, learned: tuple[Any, Learned], state: Walkers):
        found, own = learned
        inner, chains = self._inner.bind(posterior(reduced_blend, found), own, state.inner)
        return Pair(problem_at(bound, *own), inner), state._replace(inner=chains)

    def step(self, key, number, problem: Pair, state: Walkers, warming):
        before, inner = state.inner, self._inner

        def move(i, carry):
            chains, total = carry
            chains, one = inner.step(key, number * self.moves + i, problem.reduced, chains, warming)
            return chains, jax.tree.map(_joined, total, one)

        zero = jax.eval_shape(lambda: inner.step(key, number, problem.reduced, before, warming)[1])
        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), zero)
        # Tuning needs many moves of each, not far ones.
        moves = jnp.where(warming, 1, self.moves)
        after, total = jax.lax.fori_loop(0, moves, move, (before, zero))
        total = total._replace(acceptance_rate=total.acceptance_rate / moves)

        # Delayed acceptance: the moves leave the approximation invariant and are reversible, so
        # the ratio of the posterior to that is all that the second test needs (Liu 2001, 9.4.3;
        # Christen & Fox 2005, J. Comput. Graph. Stat. 14, 795).
        def judged():
            chains, refinement = after.chains, after.refinement
            excess = problem.excess(refinement, chains.position, chains.logdensity)
            gain = excess - state.excess
            odds = jnp.where(jnp.isfinite(gain), jnp.minimum(jnp.exp(jnp.minimum(gain, 0.0)), 1), 0)
            # A number of its own, beyond those of the moves.
            own = jax.random.fold_in(jax.random.fold_in(key, number), _TEST)
            taken = jax.random.uniform(own, odds.shape, odds.dtype) < odds

            def either(new, old):
                shape = (-1,) + (1,) * (new.ndim - 1)
                return jnp.where(taken.reshape(shape), new, old)

            kept = jax.tree.map(either, after.chains, before.chains)
            return kept, jnp.where(taken, excess, state.excess), odds

        def tuning():
            return after.chains, state.excess, jnp.ones_like(state.excess)

        chains, excess, odds = jax.lax.cond(warming, tuning, judged)
        total = total._replace(acceptance_rate=total.acceptance_rate * odds)
        return Walkers(after._replace(chains=chains), excess), total

    def place(self, problem: Pair, state: Walkers):
        return self._inner.place(problem.reduced, state.inner)

    def keep(self, state: Walkers, positions):
        return self._inner.keep(state.inner, positions)

    def windows(self, num_warmup: int):
        return self._inner.windows(num_warmup)

    def warmup(self, key, problem: Pair, state: Walkers, window: Window):
        inner = self._inner.warmup(key, problem.reduced, state.inner, window)
        if window.done != window.ends[-1]:
            return state._replace(inner=inner)
        chains = inner.chains
        excess = _excess(problem, inner.refinement, chains.position, chains.logdensity)
        return Walkers(inner, excess)

    def describe(self, state: Walkers, move: Move) -> str:
        return self._inner.describe(state.inner, move)

    def results(self, state: Walkers, moves: Move):
        return self._inner.results(state.inner, moves)


#: Number that tells the randomness of the second test from that of the moves.
_TEST = 2**31 - 1


@Kept
def _excess(problem: Pair, refinement, positions, reduced):
    return problem.excess(refinement, positions, reduced)


def _joined(total, one):
    """Return the statistics of several moves: sums, and whether any diverged."""
    return total | one if one.dtype == bool else total + one
