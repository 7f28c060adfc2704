"""Do hallucination maps predict errors, and do Laplace errors equal those of chains?

    python benchmarks/hallucination/errors.py SET.npz --number 30 --output errors.json
    python benchmarks/hallucination/errors.py SET.npz --number 10 --chains --output chains.json

SET.npz is a set of blends with truth, as `scorepriors simulate` writes it; true centers
are the catalog.  Resumable: blends that are in the output are not done again.
"""

import argparse
import json
import warnings
from pathlib import Path

import jax
import numpy as np
from astropy.table import Table
from scipy.stats import spearmanr

from scorepriors._files import atomic_write
from scorepriors.inference import (
    SamplingWarning,
    deblend,
    error_ratio,
    laplace_deblended,
    sample_deblended,
)
from scorepriors.inference.deblending._draws import flux_draws
from scorepriors.inference.diagnosis._hallucination import hallucination_map
from scorepriors.inference.evaluation._metrics import source_metrics
from scorepriors.inference.sampling._diagnostics import said
from scorepriors.inference.sampling._tree import group
from scorepriors.models import read_positions
from scorepriors.models.simulation._blend_sets import BlendSet

#: What might predict a source's error: larger should mean worse.
PREDICTORS = ("1 - data share", "-gamma", "flux sd / flux", "beta")


def one(blends: BlendSet, index: int, chains: bool) -> list[dict]:
    """A row per source."""
    obs, truth = blends.observation(index), blends.truth(index)
    where = read_positions(Table({"x": truth.center[:, 1], "y": truth.center[:, 0]}), obs)
    result = deblend(
        obs, where, prior="lsst-32", center_error=0.05, padding=8, key=jax.random.key(index)
    )
    metrics = source_metrics(result.free_form.convolved[0], truth.convolved, truth.flux)
    maps = hallucination_map(result)
    flux = result.free_form.flux.sum(1)
    columns = {
        "e_F": metrics["e_F"],
        "1 - data share": 1 - maps["flux_share"].values,
        "-gamma": -maps["gamma"].values,
        "flux sd / flux": maps["flux_sd"].values / np.maximum(flux, 1e-9),
        "degrees of freedom": maps["degrees_of_freedom"].values,
        "beta": truth.blendedness,
    }
    if chains:
        key = jax.random.key(index)
        draws = sample_deblended(
            result,
            key=key,
            models="given",
            algorithm="dynamic_hmc",
            num_warmup=200,
            num_samples=250,
        )
        approximate = laplace_deblended(result, key=key)
        columns["ratio"] = error_ratio(approximate, draws)
        columns["drawn sd / flux"] = drawn_spread(draws) / np.maximum(flux, 1e-9)
        columns["laplace warnings"] = [len(said(approximate))] * len(flux)
        columns["rhat"] = [float(draws.attrs["max_rhat"])] * len(flux)
    return [
        {"blend": index, **{n: float(v[k]) for n, v in columns.items()}} for k in range(len(flux))
    ]


def drawn_spread(tree) -> np.ndarray:
    """Standard deviation of the total flux of each source, in units of the image."""
    drawn = flux_draws(tree).sum("band")
    factor = float(group(tree, "constant_data")["flux_factor"][0])
    return np.asarray(drawn.std(("chain", "draw"))) / factor


def report(rows: list[dict]) -> None:
    """Rank correlations with the modulus of the flux error, and ratios of errors."""
    error = np.abs([row["e_F"] for row in rows])
    print(f"{len(rows)} sources of {len({row['blend'] for row in rows})} blends")
    for name in PREDICTORS:
        found = spearmanr([row[name] for row in rows], error)
        print(f"  {name:16s} rank correlation {found.statistic:+.3f}, p = {found.pvalue:.1e}")
    if "ratio" in rows[0]:
        found = spearmanr(
            *([row[n] for row in rows] for n in ("1 - data share", "drawn sd / flux"))
        )
        print(
            f"  1 - data share with the drawn sd / flux: rank correlation {found.statistic:+.3f}, "
            f"p = {found.pvalue:.1e}"
        )
        for label, low, high in (("beta < .5", 0, 0.5), ("beta >= .5", 0.5, 2)):
            ratio = np.array([r["ratio"] for r in rows if low <= r["beta"] < high])
            if not len(ratio):
                continue
            within = np.mean(np.abs(ratio - 1) < 0.2)
            print(
                f"  Laplace over chains, {label}: {len(ratio)} sources, median "
                f"{np.median(ratio):.2f}, {within:.0%} within 20 %, from {ratio.min():.2f} to "
                f"{ratio.max():.2f}"
            )


def main():
    """Do what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", type=Path)
    parser.add_argument("--number", type=int, default=30)
    parser.add_argument("--chains", action="store_true", help="Compare with chains as well.")
    parser.add_argument("--output", type=Path, default=Path("errors.json"))
    given = parser.parse_args()
    warnings.simplefilter("ignore", SamplingWarning)
    blends = BlendSet(given.set)
    rows = json.loads(given.output.read_text()) if given.output.exists() else []
    for index in range(min(given.number, len(blends))):
        if index not in {row["blend"] for row in rows}:
            rows += one(blends, index, given.chains)
            atomic_write(given.output, json.dumps(rows, indent=1))
            print(index, flush=True)
    report(rows)


if __name__ == "__main__":
    main()
