"""Chains in compiled blocks: warm-up and draws are one program, driven from the host."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors._compat import dual_averaging_adaptation
from scorepriors.inference._posterior import Posterior
from scorepriors.inference.curvature._preconditioner import LowRankMap, Preconditioner, refine

from ._algorithms import Algorithm, Move, Settings

#: Number of warm-up windows after which the map is refined, and the share of the warm-up
#: that each takes.  Before the first and after the last only the step size is tuned.
#: Windows are equally long: the refinement then compiles once.
WINDOWS, WINDOW_SHARE = 4, 0.175

#: Draws per compiled call: between calls progress is shown and Ctrl-C read.
BLOCK = 20


class Target(eqx.Module):
    """Log-density of the posterior in coordinates of unit width.

    Differences from the density at the center are summed element by element, so that
    float32 keeps what the Metropolis test looks at.
    """

    bound: Posterior
    origin: dict
    preconditioner: Preconditioner
    reference: dict

    def params(self, q) -> dict:
        """Unconstrained parameters of one flat position."""
        _, unravel = ravel_pytree(self.origin)
        return unravel(self.preconditioner.center + self.preconditioner.offset(q))

    def __call__(self, q):
        terms = self.bound.log_density_terms(self.params(q))
        return sum(
            (jnp.sum(term - self.reference[name]) for name, term in terms.items()), start=0.0
        )


@eqx.filter_jit
def make_target(bound: Posterior, origin: dict, curvature: LowRankMap, refinement) -> Target:
    """Target about `origin`."""
    flat, _ = ravel_pytree(origin)
    return Target(
        bound, origin, Preconditioner(flat, curvature, refinement), bound.log_density_terms(origin)
    )


@eqx.filter_jit
def begin(target: Target, algorithm: Algorithm, positions, key):
    """States of chains at ``positions [C, d]``."""
    keys = jax.random.split(key, len(positions))
    return jax.vmap(lambda k, q: algorithm.init(k, q, target))(keys, positions)


@eqx.filter_jit
def begin_tuner(step_size, rate, push=10.0):
    """Dual averaging that starts at a step size and tries larger ones, by `push`, first."""
    init, _, _ = dual_averaging_adaptation(rate)
    state = init(step_size)
    state = state._replace(mu=jnp.log(step_size * push), log_step_size_avg=jnp.log(step_size))
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), state)


@eqx.filter_jit
def advance(
    target, algorithm, size, thinning, states, settings, tuner, key, first, count, adapt, rate
):
    """Make `count` draws of every chain, at most `size`.

    Returns
    -------
    states, settings, tuner
        Afterwards.
    positions, gradients
        ``[size, C, d]``, rows beyond `count` unset.
    moves
        `Move` of ``[size, C]``.
    """
    chains, dimension = states.position.shape
    _, update, _ = dual_averaging_adaptation(rate)
    step = jax.vmap(
        lambda k, s, settings, jitter: algorithm.step(k, s, target, settings, jitter),
        in_axes=(0, 0, None, None),
    )

    def transition(index, states, settings, tuner):
        own = jax.random.fold_in(key, index)
        jitter = jax.random.uniform(jax.random.fold_in(own, 0))
        keys = jax.vmap(lambda c: jax.random.fold_in(own, c + 1))(jnp.arange(chains))
        states, move = step(keys, states, settings, jitter)
        accepted = jnp.where(jnp.isfinite(move.acceptance_rate), move.acceptance_rate, 0.0)
        new = update(tuner, accepted.mean())
        tuner = jax.tree.map(lambda n, o: jnp.where(adapt, n, o).astype(o.dtype), new, tuner)
        tuned = jnp.exp(tuner.log_step_size).astype(settings.step_size.dtype)
        return (
            states,
            settings._replace(step_size=jnp.where(adapt, tuned, settings.step_size)),
            tuner,
            move,
        )

    def draw(carry):
        i, states, settings, tuner, positions, gradients, moves = carry

        def inner(j, carry):
            states, settings, tuner, total = carry
            states, settings, tuner, move = transition(
                (first + i) * thinning + j, states, settings, tuner
            )
            return states, settings, tuner, _accumulate(total, move, thinning)

        zero = jax.tree.map(lambda a: jnp.zeros_like(a[0]), moves)
        states, settings, tuner, total = jax.lax.fori_loop(
            0, thinning, inner, (states, settings, tuner, zero)
        )
        return (
            i + 1,
            states,
            settings,
            tuner,
            positions.at[i].set(states.position),
            gradients.at[i].set(states.logdensity_grad),
            jax.tree.map(lambda a, b: a.at[i].set(b), moves, total),
        )

    shapes = jax.eval_shape(lambda: step(jax.random.split(key, chains), states, settings, 0.5)[1])
    moves = jax.tree.map(lambda a: jnp.zeros((size, *a.shape), a.dtype), shapes)
    empty = jnp.zeros((size, chains, dimension), states.position.dtype)
    out = jax.lax.while_loop(
        lambda carry: carry[0] < count,
        draw,
        (jnp.zeros((), jnp.int32), states, settings, tuner, empty, empty, moves),
    )
    return out[1], out[2], out[3], out[4], out[5], out[6]


def _accumulate(total: Move, move: Move, thinning) -> Move:
    """Sum up the transitions of one kept draw; the energy is that of the last."""
    return Move(
        acceptance_rate=total.acceptance_rate + move.acceptance_rate / thinning,
        diverging=total.diverging | move.diverging,
        energy=move.energy,
        n_steps=total.n_steps + move.n_steps,
        tree_depth=jnp.maximum(total.tree_depth, move.tree_depth),
    )


@dataclass
class Run:
    """Where a run stands; everything that a resumed one needs.

    Attributes
    ----------
    done
        Draws made, warm-up included.
    states, settings, tuner, refinement
        Of the chains; see `advance` and `Preconditioner`.
    window
        Positions and gradients ``[n, C, d]`` since the map was last refined, in the
        coordinates before the refinement.
    draws
        Kept positions ``[n, C, d]``, in the coordinates before the refinement.
    moves
        Kept `Move`, ``[n, C]``.
    gradients
        Evaluations of the gradient, all chains, warm-up included.
    """

    done: int
    states: Any
    settings: Settings
    tuner: Any
    refinement: LowRankMap
    window: list = field(default_factory=list)
    draws: list = field(default_factory=list)
    moves: list = field(default_factory=list)
    gradients: int = 0


def run_chains(
    target: Target,
    algorithm: Algorithm,
    run: Run,
    *,
    num_warmup: int,
    num_samples: int,
    thinning: int,
    rate: float,
    key,
    refining: bool = True,
) -> Iterator[Move]:
    """Drive a run to its end; `run` changes in place, and a block's moves are yielded.

    With `refining` False the map stays as it is, and warm-up tunes step and length alone.
    """
    draw_key, start_key = jax.random.split(key)
    length = max(int(WINDOW_SHARE * num_warmup), 1)
    first = (num_warmup - WINDOWS * length) // 3  # the last step size is kept: give it time
    ends = [first + i * length for i in range(WINDOWS + 1)] + [num_warmup]
    stops = sorted({end for end in ends if end > 0} | {num_warmup + num_samples})
    while run.done < num_warmup + num_samples:
        target = _with_refinement(target, run.refinement)
        stop = next(s for s in stops if s > run.done)
        count = min(BLOCK, stop - run.done)
        warming = run.done < num_warmup
        states, settings, tuner, positions, gradients, moves = advance(
            target,
            algorithm,
            BLOCK,
            np.int32(thinning),
            run.states,
            run.settings,
            run.tuner,
            draw_key,
            np.int32(run.done),
            np.int32(count),
            np.asarray(warming),
            np.float32(rate),
        )
        run.states, run.settings, run.tuner = states, settings, tuner
        moves = jax.tree.map(lambda a, n=count: np.asarray(a)[:n], moves)
        positions, gradients = np.asarray(positions)[:count], np.asarray(gradients)[:count]
        run.done += count
        run.gradients += int(moves.n_steps.sum())
        if warming:
            run.window.append((positions, gradients))
            if run.done in ends:
                fresh = jax.random.fold_in(start_key, stop)
                _end_window(target, algorithm, run, ends, rate, fresh, refining)
        else:
            run.draws.append(np.asarray(run.refinement(positions)))
            run.moves.append(moves)
        yield moves


def _with_refinement(target: Target, refinement: LowRankMap) -> Target:
    return eqx.tree_at(lambda t: t.preconditioner.refinement, target, refinement)


def _end_window(target, algorithm, run: Run, ends, rate, key, refining) -> None:
    """Refine the map from a window's draws, or settle the step size at the last end."""
    tuned = jnp.exp(run.tuner.log_step_size_avg).astype(run.settings.step_size.dtype)
    positions = np.concatenate([p for p, _ in run.window])
    gradients = np.concatenate([g for _, g in run.window])
    run.window = []
    run.settings = run.settings._replace(step_size=tuned)
    if run.done == ends[-1] or run.done == ends[0]:
        # The first window is the way in, the last tunes the step size alone.
        run.tuner = begin_tuner(tuned, np.float32(rate), np.float32(2.0))
        return
    dimension = positions.shape[-1]
    old = run.refinement
    before = np.asarray(old(positions.reshape(-1, dimension)))
    slopes = np.asarray(old.gradient_before(gradients.reshape(-1, dimension)))
    # Where no chain has moved, for a step too long as yet, there is nothing to learn.
    moving = refining and bool(np.ptp(before, axis=0).all())
    new = refine(before, slopes, old.gain.size) if moving else old
    length = np.pi / 2 * _largest_width(np.asarray(new.inverse(before)).reshape(positions.shape))
    run.settings = run.settings._replace(length=jnp.asarray(length, tuned.dtype))
    run.refinement = new
    moved = new.inverse(old(run.states.position))
    run.states = begin(_with_refinement(target, new), algorithm, moved, key)
    run.tuner = begin_tuner(tuned, np.float32(rate), np.float32(2.0))


def _largest_width(positions, directions: int = 5) -> float:
    """Standard deviation along the widest directions, at least 1.

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
    # Widths beyond this are for the map to mend: a trajectory costs its length.
    return float(np.clip(widths.max(), 1.0, 3.0))
