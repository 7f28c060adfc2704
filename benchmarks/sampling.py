"""Posteriors of simulated blends by `sample_deblended`: time, convergence, coverage.

    python -c "from scorepriors.models.simulation import _blend_sets as s; \\
        s.write_set('five.npz', s.simulate_set('lsst', 24, seed=4242, sources=(5, 5)))"
    python benchmarks/sampling.py five.npz --json five.json

One line per blend: groups of sources, algorithm, seconds of processor and wall of the fit and of the
draws (the first of a shape compiles), draws, worst R-hat of a flux.  Then how often 68 % intervals of
the total flux hold the truth, by thirds of signal to noise and by blendedness, and their width in
units of the catalog's error.
"""

import argparse
import json
import time
import warnings

import jax
import numpy as np

from scorepriors.inference import deblend, sample_deblended
from scorepriors.inference.evaluation._evaluate import BlendSet
from scorepriors.inference.sampling._diagnostics import said
from scorepriors.inference.sampling._rhat import rank_rhat
from scorepriors.inference.sampling._tree import group


def clocks() -> np.ndarray:
    """Processor and wall time."""
    return np.array([time.process_time(), time.monotonic()])


def measure(blends: BlendSet, number: int, models: str, algorithm: str | None) -> dict:
    """Result for one blend."""
    obs, truth = blends.observation(number), blends.truth(number)
    positions = {"x": truth.center[:, 1], "y": truth.center[:, 0]}
    begin = clocks()
    result = deblend(obs, table(positions), models=models, center_error=0.05)
    fitted = clocks()
    tree = sample_deblended(result, key=jax.random.key(number), models="given", algorithm=algorithm)
    end = clocks()
    flux = np.asarray(group(tree, "posterior")["flux"], float)
    total = flux.sum(-1).reshape(-1, flux.shape[2])
    found = result.photometry.total
    low, high = np.quantile(total, [0.16, 0.84], axis=0)
    true = truth.flux.sum(1)
    return {
        "blend": number,
        "kinds": [str(kind) for kind in result.scene.kinds()],
        "algorithm": tree.attrs["algorithm"],
        "fit": (fitted - begin).tolist(),
        "sample": (end - fitted).tolist(),
        "draws": list(flux.shape[:2]),
        "rhat": float(np.max(rank_rhat(flux.reshape(*flux.shape[:2], -1)))),
        "said": said(tree),
        "acceptance": float(np.mean(group(tree, "sample_stats")["acceptance_rate"])),
        "covered": ((low <= true) & (true <= high)).tolist(),
        "pull": ((total.mean(0) - true) / total.std(0)).tolist(),
        "width": (total.std(0) / np.asarray(found[1])).tolist(),
        "snr": np.asarray(truth.snr, float).tolist(),
        "beta": np.asarray(truth.blendedness, float).tolist(),
    }


def table(columns: dict):
    """A catalog."""
    from astropy.table import Table

    return Table(columns)


def summary(rows: list[dict]) -> None:
    """Print the tables."""

    def every(name):
        return np.concatenate([row[name] for row in rows]).astype(float)

    covered, pull, width, snr, beta = map(every, ("covered", "pull", "width", "snr", "beta"))
    edges = np.quantile(snr, [1 / 3, 2 / 3])
    third = np.digitize(snr, edges)
    parts = {
        "all": np.ones(len(snr), bool),
        **{f"third {i + 1} of S/N": third == i for i in range(3)},
        "blendedness < .5": beta < 0.5,
        "blendedness >= .5": beta >= 0.5,
    }
    for name, part in parts.items():
        if part.any():
            error = np.sqrt(0.22 / part.sum())
            print(
                f"{name:20s} {part.sum():4d}  coverage {covered[part].mean():.3f} +- {error:.3f}  "
                f"pull sd {pull[part].std():.2f}  width {np.median(width[part]):.2f} of the "
                "catalog's"
            )
    later = np.array([row["sample"] for row in rows[1:]] or [rows[0]["sample"]])
    print(
        f"draws after the first blend: {np.median(later[:, 0]):.1f} s of processor, "
        f"{np.median(later[:, 1]):.1f} s; worst R-hat of a flux "
        f"{max(row['rhat'] for row in rows):.4f}, with a sentence on the draws "
        f"{sum(bool(row['said']) for row in rows)} of {len(rows)}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--models", default="simplest")
    parser.add_argument("--algorithm")
    parser.add_argument("--json")
    given = parser.parse_args()
    blends, rows = BlendSet(given.file), []
    warnings.simplefilter("ignore")
    for number in range(min(given.limit or len(blends), len(blends))):
        row = measure(blends, number, given.models, given.algorithm)
        rows.append(row)
        print(
            f"{number:3d} {row['algorithm']:12s} fit {row['fit'][0]:.1f}/{row['fit'][1]:.1f} s, "
            f"draws {row['sample'][0]:.1f}/{row['sample'][1]:.1f} s, {row['draws']}, R-hat "
            f"{row['rhat']:.4f}, acceptance {row['acceptance']:.2f}"
            + "".join(f"; {sentence}" for sentence in row["said"]),
            flush=True,
        )
        if given.json:
            with open(given.json, "w") as stream:
                json.dump(rows, stream)
    summary(rows)


if __name__ == "__main__":
    main()
