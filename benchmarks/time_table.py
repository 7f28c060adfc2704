"""Seconds of a free-form fit by the number of sources and the size of the prior, and of many.

    python benchmarks/time_table.py sources
    scorepriors simulate --num-blends 1000 --seed 41 --output thousand.npz
    python benchmarks/time_table.py blends thousand.npz --number 10   # then 100, 1000

`sources`: blends of 1 to 8 galaxies in six bands of 64 x 64 pixels, each fitted twice; the
second fit compiles nothing.  `blends`: many different blends through `deblend_many`, with the
peak memory of the process; each number in a process of its own.
"""

import argparse
import resource
import time

import jax
import numpy as np
from astropy.table import Table

from scorepriors import load_prior
from scorepriors.inference import deblend, deblend_many
from scorepriors.models import read_positions, simulate_blend
from scorepriors.models.simulation._blend_sets import BlendSet

SHAPE = (64, 64)


def one(num_sources: int, prior) -> dict:
    """The second of two fits of one blend: the first has the programs compiled."""
    obs, _ = simulate_blend(num_sources, seed=num_sources, shape=SHAPE)
    where = read_positions(obs.catalog, obs)
    # Not padded: the table is about the number of sources.
    _, result = (deblend(obs, where, prior=prior, padding=1) for _ in range(2))
    fit = result.free_form.fit
    return {
        "iterations": int(fit.num_iterations),
        "per iteration, ms": 1e3 * fit.seconds / int(fit.num_iterations),
        "to convergence, s": fit.seconds,
        "parametric, s": result.parametric.fit.seconds,
    }


def sources():
    """Print the table by number of sources."""
    for name in ("lsst-32", "lsst-64"):
        prior = load_prior(name)
        for number in range(1, 9):
            row = one(number, prior)
            print(name, number, "  ".join(f"{n} {v:.3g}" for n, v in row.items()), flush=True)


def blends(path: str, number: int):
    """Print the cost of many blends."""
    held = BlendSet(path)
    number = min(number, len(held))
    prior = load_prior("lsst-32")
    observations, positions = [], []
    for index in range(number):
        obs, center = held.observation(index), held.truth(index).center
        observations.append(obs)
        positions.append(read_positions(Table({"x": center[:, 1], "y": center[:, 0]}), obs))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = time.monotonic()
    results = deblend_many(
        observations, positions, prior=prior, center_error=0.05, key=jax.random.key(0), padding=8
    )
    seconds = time.monotonic() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    converged = np.mean([r.converged for r in results])
    print(
        f"{number} blends: {seconds:.1f} s, {seconds / number:.3f} s each, compilation included; "
        f"converged {converged:.3f}; peak memory {peak / 2**20:.2f} GiB, of which "
        f"{(peak - before) / 2**20:.2f} above the data"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("sources", "blends"))
    parser.add_argument("file", nargs="?")
    parser.add_argument("--number", type=int, default=10)
    options = parser.parse_args()
    if options.what == "sources":
        sources()
    else:
        blends(options.file, options.number)


if __name__ == "__main__":
    main()
