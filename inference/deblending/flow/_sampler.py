"""The sampler of scenes, as a value."""

import json
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors._errors import InputError
from scorepriors.inference._posterior import Posterior
from scorepriors.inference.fitting._map import MAPResult, fit_map
from scorepriors.inference.sampling._abstract import (
    AbstractSampler,
    Coordinates,
    Counts,
    Move,
    Start,
    Window,
)

from . import _scene
from ._moves import References, sweep, tuned
from ._scene import FlowScene, scene_of
from ._start import Chains, begin, shapes


class Problem(eqx.Module):
    """A scene, the reference Gaussians of moves, and the coordinates of draws."""

    coordinates: Coordinates
    scene: FlowScene
    near: References


class Flow(AbstractSampler):
    """Moves of the noise that the prior's probability flow maps to galaxies.

    For posteriors of `scorepriors.models.blend` with free-form galaxies under learned priors,
    and stars, about a mode.  A draw is a sweep over all sources.

    Attributes
    ----------
    target_acceptance_rate
        Target acceptance rate of the sources' moves.
    thinning
        Number of sweeps per kept draw.
    """

    target_acceptance_rate: float = 0.3
    thinning: int = 1

    name: ClassVar[str] = "flow"
    note: ClassVar[str] = "moves of the noise that the prior's probability flow turns into galaxies"
    exact: ClassVar[bool] = True
    usual: ClassVar[Counts] = Counts(300, 500, 8)
    block: ClassVar[int] = 10

    def init(self, key, bound: Posterior, start: Start):
        scene = scene_of(bound)
        values, text = _mode(bound, start.init, key)
        start.report(0, "from galaxies to noise")
        return *begin(scene, values, start.num_chains, key), text

    def shapes(self, bound: Posterior, num_chains: int):
        def values(key):
            return bound.constrain(bound.start(key=key), deterministics=False)

        like = eqx.filter_eval_shape(values, jax.random.key(0))
        return shapes(scene_of(bound), like, num_chains)

    def bind(self, bound: Posterior, learned: References, state: Chains):
        scene = scene_of(bound)
        walkers = state.walkers
        one = jax.tree.map(lambda a: a[0], (walkers.z, walkers.offset, walkers.brightness))
        like = jax.eval_shape(scene.parameters, *one)
        origin = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
        return Problem(Coordinates(bound, origin), scene, learned), state

    def step(self, key, number, problem: Problem, state: Chains, warming):
        own, kind = jax.random.fold_in(key, number), number % 3
        walkers, steps = state
        walkers, rates, accepted = sweep(problem.scene, problem.near, kind, walkers, steps, own)
        push = jnp.where(warming, 2 * (number / 3 + 3.0) ** -0.6, 0.0)
        steps = tuned(steps, kind, rates, push, self.target_acceptance_rate)
        move = Move(
            accepted,
            diverging=jnp.zeros(accepted.shape, bool),
            n_steps=jnp.full(accepted.shape, _scene.NUM_STEPS, jnp.int32),
            lp=walkers.log_likelihood,
        )
        return Chains(walkers, steps), move

    def place(self, problem: Problem, state: Chains):
        def flat(*one):
            return ravel_pytree(problem.scene.parameters(*one))[0]

        walkers = state.walkers
        return jax.vmap(flat)(walkers.z, walkers.offset, walkers.brightness), None

    def keep(self, state: Chains, positions):
        return positions

    def windows(self, num_warmup: int):
        return ()  # every sweep tunes

    def warmup(self, key, problem, state: Chains, window: Window):
        return state

    def describe(self, state: Chains, move: Move) -> str:
        return "steps " + ", ".join(f"{s:.2g}" for s in np.asarray(state.steps.source).max(0))

    def results(self, state: Chains, moves: Move):
        stats = {name: values for name, values in moves._asdict().items() if values is not None}
        sizes = np.asarray(state.steps.source, float)
        return stats, {
            "inference_library": "scorepriors",
            "step_size": float(sizes.mean()),
            "source_steps": json.dumps(sizes.tolist()),
        }


def _mode(bound: Posterior, init: Any, key) -> tuple[dict, str]:
    """Return constrained values of the sites at a mode, and their origin in words."""
    if isinstance(init, MAPResult):
        return init.values, "given mode"
    if isinstance(init, dict):
        return bound.constrain(bound.start(init, key=key)), "given values"
    if isinstance(init, str) and init == "map":
        return fit_map(bound, key=key, max_iterations=1000).values, "map"
    raise InputError(
        "the algorithm 'flow' begins at a mode: `init` must be 'map', site values or a MAPResult, "
        f"got {init!r}."
    )
