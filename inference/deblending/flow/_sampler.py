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
from ._moves import CYCLE, Recent, kinds_of_sources, sweep, tuned
from ._scene import FlowScene, scene_of
from ._start import Chains, begin, shapes

#: Shares of the warm-up after which references are refined from the draws since the last.
REFINED_AT = (0.1, 0.25, 0.5, 0.75)


class Problem(eqx.Module):
    """A scene, and the coordinates of draws."""

    coordinates: Coordinates
    scene: FlowScene


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
    checked_draws: ClassVar[int] = 100

    def init(self, key, bound: Posterior, start: Start):
        scene = scene_of(bound)
        values, text = _mode(bound, start.init, key)
        start.report(0, "from galaxies to noise")
        return (), begin(scene, values, start.num_chains, key), text

    def shapes(self, bound: Posterior, num_chains: int):
        def values(key):
            return bound.constrain(bound.start(key=key), deterministics=False)

        like = eqx.filter_eval_shape(values, jax.random.key(0))
        return (), shapes(scene_of(bound), like, num_chains)

    def bind(self, bound: Posterior, learned: tuple, state: Chains):
        scene = scene_of(bound)
        walkers = state.walkers
        one = jax.tree.map(lambda a: a[0], (walkers.z, walkers.offset, walkers.brightness))
        like = jax.eval_shape(scene.parameters, *one)
        origin = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
        return Problem(Coordinates(bound, origin), scene), state

    def step(self, key, number, problem: Problem, state: Chains, warming):
        own, kind = jax.random.fold_in(key, number), jnp.asarray(CYCLE)[number % len(CYCLE)]
        walkers, steps, near, recent = state
        kinds = kinds_of_sources(kind, steps, warming)
        walkers, rates, accepted = sweep(problem.scene, near, kinds, walkers, steps, own)
        # Steps are tuned anew for refined references.
        sweeps = recent.together.number / len(accepted)
        push = jnp.where(warming, 2 * (sweeps / 3 + 3.0) ** -0.6, 0.0)
        steps = tuned(steps, kind, rates, push, self.target_acceptance_rate)
        more = recent.plus(near, walkers.noise)
        recent = jax.tree.map(lambda new, old: jnp.where(warming, new, old), more, recent)
        move = Move(
            accepted,
            diverging=jnp.zeros(accepted.shape, bool),
            n_steps=jnp.full(accepted.shape, _scene.NUM_STEPS, jnp.int32),
            lp=walkers.log_likelihood,
        )
        return Chains(walkers, steps, near, recent), move

    def place(self, problem: Problem, state: Chains):
        def flat(*one):
            return ravel_pytree(problem.scene.parameters(*one))[0]

        walkers = state.walkers
        return jax.vmap(flat)(walkers.z, walkers.offset, walkers.brightness), None

    def keep(self, state: Chains, positions):
        return positions

    def snapshot(self, state: Chains):
        """Return noise, offsets of stars and brightnesses of all chains, ``[C, d]``."""
        walkers = state.walkers
        parts = [*walkers.noise.values(), walkers.offset, walkers.brightness]
        return np.concatenate([np.asarray(a).reshape(len(a), -1) for a in parts], 1)

    def density(self, problem: Problem):
        """Return the log-density of one point of `snapshot`."""
        scene = problem.scene

        def log_density(point):
            noise, first = {}, 0
            for name, group in scene.groups.items():
                shape = (len(group.at), *group.prior.event_shape)
                size = int(np.prod(shape))
                noise[name] = point[first : first + size].reshape(shape)
                first += size
            white = point[:first]
            stars = 0 if scene.stars is None else len(scene.stars.at)
            offset = point[first : first + 2 * stars].reshape(stars, 2)
            brightness = point[first + 2 * stars :]
            value = scene.log_likelihood(brightness, *scene.render(scene.galaxies(noise), offset))
            if scene.stars is not None:
                site = scene.stars.sites["offset"]
                value -= 0.5 * jnp.sum(((offset - site.mean) / site.width) ** 2)
            return value - 0.5 * white @ white

        return log_density

    def directions(self, problem, state: Chains, draws, number: int):
        """Return the brightnesses, and the directions of the noise that the data know best."""
        size, near = draws.shape[-1], jax.tree.map(np.asarray, state.near)
        bright = np.eye(len(near.brightness), dtype=draws.dtype)[:number]
        known = np.argsort(-near.together.precision[0])[: number - len(bright)]
        rows = near.together.basis[0][known]
        before = size - len(near.brightness)
        return np.concatenate(
            [
                np.pad(bright, ((0, 0), (before, size - before - bright.shape[1]))),
                np.pad(rows, ((0, 0), (0, size - rows.shape[1]))),
            ]
        )

    def windows(self, num_warmup: int):
        # The first part is the approach.  Every sweep tunes the steps.
        return tuple(sorted({int(share * num_warmup) for share in REFINED_AT} - {0}))

    def warmup(self, key, problem, state: Chains, window: Window):
        """Refine the references from a window's draws."""
        near = state.near
        if window.done != window.ends[0]:
            near = state.moments.refine(near)
        return state._replace(near=near, moments=Recent.none(near))

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
