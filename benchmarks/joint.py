"""Joint fits of two cameras that are turned against each other: errors and their coverage.

A year of LSST and a camera in space see three galaxies; the second camera has a random angle, and is
mirrored in half of the blends.  Catalog fluxes and errors of both together are compared with those
of each alone, and with the truth:

    python benchmarks/joint.py --number 40

It prints the share of fluxes within one error of the truth (0.68 for errors that hold) and the
median ratio of the error of the joint fit to that of one camera alone.
"""

import argparse
import dataclasses
import warnings

import numpy as np

from scorepriors import load_prior
from scorepriors.inference import deblend
from scorepriors.models import join_observations, read_positions, simulate_joint

#: Blends: three galaxies, well detected in either camera.
BLEND = {"magnitudes": (21.0, 23.0), "spread": 2.0, "gap": 2.5, "years": 1.0}


def without(joined, hidden: int):
    """The same with all pixels of one observation masked but those of a far corner."""
    views = list(joined.views)
    obs = views[hidden].observation
    weights = np.zeros_like(obs.weights)
    weights[:, 0, 0] = obs.weights[:, 0, 0]  # an observation without any pixel is none
    masked = dataclasses.replace(obs, weights=weights)
    views[hidden] = dataclasses.replace(views[hidden], observation=masked)
    return dataclasses.replace(joined, views=tuple(views))


def blend_pulls(seed: int, prior) -> dict[str, np.ndarray]:
    """Return pulls and errors ``[N, B]`` of one blend, of both cameras and of each alone."""
    rng = np.random.default_rng(1000 + seed)
    angle, mirror = rng.uniform(-180, 180), bool(rng.integers(2))
    ground, space, truth, second = simulate_joint(
        3, seed=seed, rotation=angle, mirror=mirror, **BLEND
    )
    joined = join_observations(ground, space)
    positions = read_positions(ground.catalog, ground)
    true = np.concatenate([truth.flux, second.flux], axis=1)
    found = {}
    for name, scene in (
        ("both", joined),
        ("ground", without(joined, 1)),
        ("space", without(joined, 0)),
    ):
        seen = deblend(scene, positions, prior=prior, padding=1).photometry
        found[f"{name} error"] = seen.error / true
        found[f"{name} pull"] = (seen.flux - true) / seen.error
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--number", type=int, default=40, help="Blends.")
    parser.add_argument("--first", type=int, default=0, help="Seed of the first.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prior, rows = load_prior("lsst-32"), []
    for seed in range(options.first, options.first + options.number):
        rows.append(blend_pulls(seed, prior))
        print(seed, *(_line(which, rows) for which in ("both", "ground", "space")), flush=True)
    first = len(simulate_joint(1, seed=0)[0].bands)
    for which, bands in (("ground", slice(0, first)), ("space", slice(first, None))):
        ratio = [row["both error"][:, bands] / row[f"{which} error"][:, bands] for row in rows]
        alone = [row[f"{which} error"][:, bands] for row in rows]
        print(
            f"bands of {which}: relative error alone {np.median(alone):.4f}, of the joint fit "
            f"over that {np.median(ratio):.3f} (smaller for {np.mean(np.array(ratio) < 1):.0%})"
        )


def _line(which: str, rows) -> str:
    pulls = np.array([row[f"{which} pull"] for row in rows])
    seen = pulls[np.isfinite(pulls)]
    inside = np.mean(np.abs(seen) < 1)
    return f"{which}: within one error {inside:.3f}, mean pull {seen.mean():+.2f}"


if __name__ == "__main__":
    main()
