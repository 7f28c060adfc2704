"""Simulation-based calibration of `sample` on blends, batch by batch and resumable.

    python benchmarks/calibration/calibrate.py --number 200 --output calibration.npz

Blends of two sources in three bands are drawn from the model's own prior: an image prior
whose density is known in closed form (so that truths are exact draws of it), boxes of 8
pixels, fluxes and colours from `flux_prior`, different PSFs in the bands, unit noise.
Spectra are marginalised in the fit and were drawn in the simulation.  Ranks of fluxes,
centroids and random projections of the images are tested for uniformity and drawn.
"""

import argparse
import json
import warnings
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from numpyro import handlers

from scorepriors import LogStretch, ScorePrior
from scorepriors._files import atomic_path
from scorepriors.inference import sample
from scorepriors.inference.calibration import coverage, ranks, thin, uniformity
from scorepriors.inference.posterior import without_data
from scorepriors.inference.sampling import SamplingWarning
from scorepriors.inference.sampling.tree import group
from scorepriors.models import blend, image_data, place_sources
from scorepriors.models.observation import Observation
from scorepriors.models.psf import gaussian_psf
from scorepriors.networks import GaussianEnergy

BOX, SHAPE, BANDS, DRAWS = 8, (20, 20), 3, 99
CENTERS = np.array([[8.0, 9.0], [13.0, 12.0]])
NAMES = ("flux", "light", "row centroid", "projection 1", "projection 2", "projection 3")


def scene():
    """Arrays of an empty image, a prior in closed form, and two overlapping sources."""
    row = np.arange(BOX) - (BOX - 1) / 2
    blob = np.exp(-(row[:, None] ** 2 + row**2) / 8)
    mean = jnp.asarray(np.log1p(blob / 0.05) / 0.44, jnp.float32)
    prior = ScorePrior(GaussianEnergy(mean, jnp.asarray(0.2)), LogStretch(), 0.3, sigma_max=5.0)
    images = np.zeros((BANDS, *SHAPE))
    psfs = np.stack([gaussian_psf(1.3 + 0.15 * b, 15) for b in range(BANDS)])
    obs = Observation.from_arrays(images, variance=np.ones_like(images), psfs=psfs)
    return image_data(obs, box=BOX), prior, place_sources(CENTERS, box=BOX)


class ForgottenJacobian(LogStretch):
    """A stretch without its Jacobian: a control."""

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """Zero, which is wrong."""
        return jnp.zeros(jnp.shape(x))


def without_jacobian(prior: ScorePrior) -> ScorePrior:
    """The same energy, treated as if it were that of the images themselves."""
    return ScorePrior(prior.energy, ForgottenJacobian(), float(prior.sigma), sigma_max=5.0)


def simulate(data, prior, sources, key):
    """Pixels of a blend drawn from the model, and its morphologies and fluxes."""
    first, second = jax.random.split(key)
    width = jnp.sqrt(prior.energy.variance + prior.sigma**2)
    noise = jax.random.normal(first, (len(CENTERS), BOX, BOX))
    morphology = prior.stretch(prior.energy.mean + width * noise)
    model = without_data(partial(blend, spectra="sampled"), ("pixels",))
    known = handlers.substitute(model, data={"morphology": morphology})
    trace = handlers.trace(handlers.seed(known, second)).get_trace(data, prior, sources)
    return trace["pixels"]["value"], morphology, trace["flux"]["value"]


_simulate = jax.jit(simulate)


def quantities(morphology, flux):
    """The ranked numbers ``[..., K, 6]`` of morphologies and fluxes."""
    directions = np.random.default_rng(0).normal(size=(3, BOX, BOX))
    light = morphology.sum((-2, -1))
    rows = (morphology * np.indices((BOX, BOX))[0]).sum((-2, -1)) / light
    projections = [(morphology * d).sum((-2, -1)) for d in directions]
    return np.stack([flux.sum(-1), light, rows, *projections], -1)


def rank_one(index, data, prior, sources, *, fitted=None, spectra="marginal", **options):
    """Ranks ``[K, 6]`` of one blend's truth; `fitted` is a prior to fit with instead."""
    images, morphology, flux = _simulate(data, prior, sources, jax.random.key(index))
    mine = eqx.tree_at(lambda d: d.images, data, images)
    options = {"num_warmup": 200, "num_samples": 250, "algorithm": "hmc", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        tree = sample(
            blend, mine, fitted or prior, sources, model_kwargs={"spectra": spectra},
            key=jax.random.fold_in(jax.random.key(1), index), **options,
        )  # fmt: skip
    held = group(tree, "posterior")
    drawn = quantities(np.asarray(held["morphology"]), np.asarray(held["flux"]))
    truth = quantities(np.asarray(morphology), np.asarray(flux))
    return ranks(thin(drawn, DRAWS), truth)


def summary(found) -> dict:
    """p-values of uniformity and coverages of ranks ``[m, K, 6]``."""
    columns = found.reshape(len(found), -1).T
    values = [uniformity(c, DRAWS, bins=10 if len(found) >= 100 else 5) for c in columns]
    return {
        "blends": len(found),
        "smallest_p": min(values),
        "smallest_p_allowed": 0.01 / len(values),
        "coverage": {
            name: {str(level): coverage(found[..., i].ravel(), DRAWS, level)
                   for level in (0.5, 0.68, 0.9)}
            for i, name in enumerate(NAMES)
        },
    }  # fmt: skip


def figure(found, path):
    """Rank histograms with the band in which uniform ones lie."""
    axes = plt.subplots(1, len(NAMES), figsize=(14, 2.6), sharey=True, layout="constrained")[1]
    bins = 10
    for i, (axis, name) in enumerate(zip(axes, NAMES, strict=True)):
        values = found[..., i].ravel()
        expected = len(values) / bins
        spread = 2.58 * np.sqrt(expected * (1 - 1 / bins))
        axis.axhspan(expected - spread, expected + spread, color="0.88")
        axis.hist(values, np.linspace(0, DRAWS + 1, bins + 1), color="#0072b2", rwidth=0.9)
        axis.set(title=name, xlabel="rank of the truth")
    axes[0].set_ylabel("blends x sources")
    plt.savefig(path, dpi=110)


def main():
    """Run what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--spectra", default="marginal", help="profiled is a control that fails")
    parser.add_argument(
        "--forget-jacobian", action="store_true", help="Of the stretch: a control that fails."
    )
    parser.add_argument("--output", type=Path, default=Path("calibration.npz"))
    given = parser.parse_args()
    found = []
    if given.output.exists():
        with np.load(given.output) as stored:
            found = list(stored["ranks"])
    arguments = scene()
    fitted = without_jacobian(arguments[1]) if given.forget_jacobian else None
    while len(found) < given.number:
        found.append(rank_one(len(found), *arguments, fitted=fitted, spectra=given.spectra))
        if len(found) % 10 == 0 or len(found) == given.number:
            with atomic_path(given.output) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, ranks=np.array(found))
            print(len(found), flush=True)
    print(json.dumps(summary(np.array(found)), indent=1))
    figure(np.array(found), given.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
