"""Correlated noise left out, modelled, measured, and treated as stationary: coverage, bias and cost.

    python benchmarks/correlated.py --number 40 --json correlated.json

First blends of the LSST with the noise of resampled images, deblended with each treatment: share of the
true fluxes within the 68 % intervals, median and spread of (flux - truth) / error, median relative
error, seconds per blend.  Then single galaxies in images with masks and weights that vary twentyfold:
the claimed and the true error of a flux of known shape, from exact algebra, for white noise, for
stationary noise that drops weights and masks (a product with the inverse power spectrum, as
scarlet2's), and for the model here; relative to the best possible.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from astropy.table import Table

from scorepriors.inference import deblend_many
from scorepriors.inference.evaluation._metrics import central_interval
from scorepriors.models import Correlated, error_factor, read_positions, simulate_set, write_set
from scorepriors.models.data._correlations import correlation_of
from scorepriors.models.simulation._blend_sets import BlendSet

#: Correlations of the blends' noise.
NOISES = ("lanczos3", "drizzle:1.0", "drizzle:1.33")

#: What is done about it.
TREATMENTS = ("left-out", "modelled", "measured")


def parsed():
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=40, help="blends of each kind")
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--noises", nargs="+", default=NOISES)
    parser.add_argument("--treatments", nargs="+", default=TREATMENTS, choices=TREATMENTS)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def blends(noise, number, seed):
    """Return observations, positions and true fluxes of blends with correlated noise."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.npz"
        write_set(path, simulate_set("lsst", number, seed=seed, noise_correlation=noise))
        found = BlendSet(path)
        observations = [found.observation(i) for i in range(number)]
        truths = [found.truth(i) for i in range(number)]
    positions = [
        read_positions(Table({"x": t.center[:, 1], "y": t.center[:, 0]}), obs)
        for t, obs in zip(truths, observations, strict=True)
    ]
    return observations, positions, truths


def deblended(observations, positions, truths, correlation):
    """Return how fluxes of all bands compare with the truth."""
    # The programs of a set are compiled by its first blends.
    options = {"correlation": correlation, "key": jax.random.key(0), "padding": 8}
    deblend_many(observations[:2], positions[:2], **options)
    started = time.monotonic()
    results = deblend_many(observations, positions, **options)
    seconds = (time.monotonic() - started) / len(results)
    flux, error = np.concatenate([r.photometry.total for r in results], axis=1)
    measured, of_measured = np.concatenate([r.photometry.measured_total for r in results], axis=1)
    fixed = np.concatenate([r.free_form.flux_error for r in results])
    true = np.concatenate([t.flux_total.sum(1) for t in truths])
    low, high = central_interval(flux, error)
    pull = (flux - true) / error
    return {
        "sources": len(true),
        "coverage_68": float(np.mean((low <= true) & (true <= high))),
        "coverage_68_measured": float(
            np.mean(np.abs(measured - true) <= (high - low) / 2 / error * of_measured)
        ),
        "median_pull": float(np.median(pull)),
        "spread_of_pull": float(np.diff(np.percentile(pull, [16, 84]))[0] / 2),
        "median_relative_error": float(np.median(np.abs(flux / true - 1))),
        "median_error": float(np.median(error / true)),
        "median_fixed_shape_error": float(np.median(fixed.sum(1) / true)),
        "chi2": float(np.median([r.free_form.chi2 for r in results])),
        "converged": float(np.mean([r.converged for r in results])),
        "seconds": seconds,
    }


def single_galaxies(noise, number=30, side=24, seed=5):
    """Return claimed and true errors of fluxes of known shapes, in units of the best, by treatment."""
    rng, correlation = np.random.default_rng(seed), correlation_of(noise)
    row, column = np.indices((side, side))
    found = {name: [] for name in ("white", "stationary", "correlated")}
    power = _periodic_power(correlation, side)
    for _ in range(number):
        # A ramp of the weights of a factor of twenty, bad columns and single bad pixels.
        slope = rng.normal(size=2)
        ramp = slope[0] * row + slope[1] * column
        weights = 20 ** ((ramp - ramp.min()) / np.ptp(ramp))
        weights[:, rng.integers(side)] = 0
        weights[rng.random(weights.shape) < 0.03] = 0
        size, (y, x) = rng.uniform(1.2, 3.0), side / 2 + rng.uniform(-4, 4, 2)
        light = np.exp(-((row - y) ** 2 + (column - x) ** 2) / 2 / size**2)
        seen = weights > 0
        covariance = _covariance(correlation, weights)
        best = light[seen] @ np.linalg.solve(covariance, light[seen])
        noise_model = Correlated(weights[None], correlation)
        usual = np.median(weights[seen])
        for name, weighed in (
            ("white", weights * light),
            ("stationary", usual * np.fft.ifft2(np.fft.fft2(light * seen) / power).real * seen),
            ("correlated", noise_model.precision(light[None])[0]),
        ):
            information = float((weighed * light)[seen].sum())
            real = weighed[seen] @ covariance @ weighed[seen] / information**2
            found[name].append(np.sqrt([best / information, best * real]))
    return {
        name: {
            "claimed_over_true": float(np.exp(np.mean(np.log(v[:, 0] / v[:, 1])))),
            "least_claimed_over_true": float((v[:, 0] / v[:, 1]).min()),
            "most_claimed_over_true": float((v[:, 0] / v[:, 1]).max()),
            "true_over_best": float(np.exp(np.mean(np.log(v[:, 1])))),
        }
        for name, v in ((name, np.array(each)) for name, each in found.items())
    }


def _periodic_power(correlation, side):
    half = len(correlation) // 2
    image = np.zeros((side, side))
    for down, right in np.ndindex(correlation.shape):
        image[(down - half) % side, (right - half) % side] += correlation[down, right]
    return np.fft.fft2(image).real


def _covariance(correlation, weights):
    rows, columns = np.nonzero(weights > 0)
    half = len(correlation) // 2
    down, right = rows[:, None] - rows, columns[:, None] - columns
    inside = (abs(down) <= half) & (abs(right) <= half)
    found = correlation[np.clip(down, -half, half) + half, np.clip(right, -half, half) + half]
    sigma = weights[rows, columns] ** -0.5
    return np.where(inside, found, 0.0) * sigma[:, None] * sigma


def main():
    """Run both comparisons and print their tables."""
    arguments = parsed()
    warnings.simplefilter("ignore", UserWarning)
    out: dict = {"blends": {}, "single": {}}
    for noise in arguments.noises:
        print(f"{noise}: noise of large areas {float(error_factor(correlation_of(noise))):.2f}")
        data = blends(noise, arguments.number, arguments.seed)
        for name in arguments.treatments:
            options = {"left-out": "white", "modelled": noise, "measured": "measure"}
            row = deblended(*data, options[name])
            out["blends"].setdefault(noise, {})[name] = row
            print(f"  {name:9}", " ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(out, indent=1))
        out["single"][noise] = single_galaxies(noise)
        for name, row in out["single"][noise].items():
            print(f"  {name:10}", " ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
