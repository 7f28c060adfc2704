"""The loop of every sampler: compiled blocks of draws, driven from the host."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scorepriors._traces import Kept

from ._abstract import AbstractSampler, Counts, Move, Window, traced
from ._until import Until, quantities_of

#: Seconds after which progress is told and Ctrl-C is heard, as long as a draw takes less.
PATIENCE = 10.0


@dataclass
class Run:
    """State of a run, with everything that is needed to resume it.

    Attributes
    ----------
    learned, state
        Parts of the sampler's run: see `AbstractSampler`.
    start
        Origin of the chains, in words.
    done
        Number of draws so far, warm-up included.
    gradients
        Number of evaluations of the gradient, all chains, warm-up included.
    window
        Positions and gradients ``[n, C, d]`` since the sampler was last tuned.
    draws
        Kept positions ``[n, C, d]``.
    moves
        Kept `Move`, ``[n, C]``.
    snapshots
        Points ``[C, d]`` of `AbstractSampler.snapshot`, of this process alone.
    quantities
        Quantities ``[n, C, m]`` of `Until`, of the blocks of `draws` at the last look.
    """

    learned: Any
    state: Any
    start: str
    done: int = 0
    gradients: int = 0
    window: list = field(default_factory=list)
    draws: list = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    snapshots: list = field(default_factory=list)
    quantities: list = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Number of kept draws per chain."""
        return sum(len(draws) for draws in self.draws)


def enough(until: Until, problem, run: Run, block: int) -> bool:
    """Return whether a run without a given length can end, after draws.

    Only after whole blocks, of so many draws, so that the end does not depend on how fast they are.
    """
    kept = run.kept
    before = (kept - 1) // block * block
    if not kept or (kept % block and kept < until.at_most) or not until.looks(kept, before):
        return False
    for draws in run.draws[len(run.quantities) :]:
        run.quantities.append(quantities_of(until, problem.coordinates, draws))
    return until.met(np.swapaxes(np.concatenate(run.quantities), 0, 1))


def blocks(sampler: AbstractSampler, problem, run: Run, counts: Counts, key) -> Iterator[Move]:
    """Continue a run to its end, changing `run` in place; yield the moves of each block.

    A block that would take long is made in parts.  Which draws are made does not depend on that.
    """
    num_warmup, total = counts.num_warmup, counts.num_warmup + counts.num_samples
    ends = sampler.windows(num_warmup)
    stops = sorted({end for end in (*ends, num_warmup) if end > 0} | {total})
    moving, most = traced(sampler), sampler.block
    most_now = 1  # the first compiles
    while run.done < total:
        first = max((s for s in stops if s <= run.done), default=0)
        whole = min(
            most - (run.done - first) % most, next(s for s in stops if s > run.done) - run.done
        )
        count = min(whole, most_now)
        goes_on = bool(run.draws) and (run.done - first) % most > 0
        warming = run.done < num_warmup
        block = Block(np.int32(run.done), np.int32(count), np.asarray(warming))
        begun = time.monotonic()
        run.state, drawn = advance(moving, problem, run.state, key, block)
        positions, gradients, moves = jax.tree.map(lambda a, n=count: np.asarray(a)[:n], drawn)
        most_now = max(1, int(count * PATIENCE / max(time.monotonic() - begun, 1e-6)))
        run.done += count
        run.gradients += int(moves.n_steps.sum())
        if not warming:
            new = sampler.keep(run.state, positions)
            if goes_on:  # the parts of a block are one
                run.draws[-1] = np.concatenate([run.draws[-1], new])
            else:
                run.draws.append(new)
            run.moves.append(moves)
            seen = sampler.snapshot(run.state) if count == whole else None
            if seen is not None:
                run.snapshots.append(seen)
        elif ends:
            run.window.append((positions, gradients))
        if run.done in ends:
            places, slopes = jax.tree.map(lambda *parts: np.concatenate(parts), *run.window)
            window = Window(places, slopes, run.done, ends)
            run.state = sampler.warmup(key, problem, run.state, window)
            run.window = []
        yield moves


class Block(NamedTuple):
    """Draws to make: the number of the first, their count, and whether to tune."""

    first: Any
    count: Any
    warming: Any


@Kept
def advance(sampler: AbstractSampler, problem, state, key, block: Block):
    """Make ``block.count`` draws of every chain, at most ``sampler.block``.

    Returns
    -------
    state
        State after the draws.
    drawn
        Positions and gradients ``[n, C, d]``, and `Move` of ``[n, C]``; rows beyond the count
        are unset.
    """
    thinning = sampler.thinning

    def transition(number, state):
        return sampler.step(key, number, problem, state, block.warming)

    def draw(carry):
        i, state, drawn = carry

        def inner(j, carry):
            state, total = carry
            state, move = transition((block.first + i) * thinning + j, state)
            return state, _accumulate(total, move, thinning)

        zero = jax.tree.map(lambda a: jnp.zeros_like(a[0]), drawn[2])
        state, move = jax.lax.fori_loop(0, thinning, inner, (state, zero))
        new = (*sampler.place(problem, state), move)
        return i + 1, state, jax.tree.map(lambda a, b: a.at[i].set(b), drawn, new)

    shapes = jax.eval_shape(
        lambda state: (*sampler.place(problem, state), transition(block.first, state)[1]), state
    )
    empty = jax.tree.map(lambda a: jnp.zeros((sampler.block, *a.shape), a.dtype), shapes)
    start = (jnp.zeros((), jnp.int32), state, empty)
    _, state, drawn = jax.lax.while_loop(lambda carry: carry[0] < block.count, draw, start)
    return state, drawn


def _accumulate(total: Move, move: Move, thinning) -> Move:
    """Combine the transitions of one kept draw; energies are those of the last."""

    def largest(a, b):
        return None if b is None else jnp.maximum(a, b)

    return move._replace(
        acceptance_rate=total.acceptance_rate + move.acceptance_rate / thinning,
        diverging=total.diverging | move.diverging,
        n_steps=total.n_steps + move.n_steps,
        tree_depth=largest(total.tree_depth, move.tree_depth),
        reached_max_treedepth=largest(total.reached_max_treedepth, move.reached_max_treedepth),
    )
