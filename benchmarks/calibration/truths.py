"""Truths of a learned prior: long Markov chains on its own density.

    python benchmarks/calibration/truths.py RUN/lsst-12.safetensors truths.npz

Not by the reverse diffusion: its images have another distribution unless the network is
perfect, and calibration would then measure the network instead of the sampler.
"""

import argparse
import json
import warnings
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro

from scorepriors import ScorePrior, load_prior
from scorepriors._files import atomic_path
from scorepriors.inference import sample
from scorepriors.inference.sampling import SamplingWarning
from scorepriors.inference.sampling.rhat import rank_rhat
from scorepriors.inference.sampling.tree import effective_sizes, group

#: Chains, kept draws of each, and transitions between two of them.
CHAINS, KEPT, APART = 24, 160, 200


def image(prior: ScorePrior) -> None:
    """One image, and numbers by which chains may differ."""
    x = numpyro.sample("morphology", prior)
    row, column = np.indices(x.shape) - (x.shape[-1] - 1) / 2
    light = numpyro.deterministic("light", x.sum())
    numpyro.deterministic("row", (x * row).sum() / light)
    numpyro.deterministic("column", (x * column).sum() / light)
    numpyro.deterministic("size", (x * (row**2 + column**2)).sum() / light)
    numpyro.deterministic("log_density", prior.log_prob(x))


def draw(prior: ScorePrior, *, key, chains=CHAINS, kept=KEPT, apart=APART, progress=False):
    """Truths ``[chains * kept, n, n]`` in random order, and how well the chains mixed."""
    order_key, key = jax.random.split(key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)  # judged below
        tree = sample(
            image, prior, key=key, algorithm="dynamic_hmc", num_warmup=20, num_samples=kept,
            num_chains=chains, thinning=apart, progress=progress,
            preconditioner="curvature",  # shapes bend: global widths fit nowhere
        )  # fmt: skip
    held = group(tree, "posterior")
    sizes = effective_sizes(held)
    facts = {
        "draws": chains * kept,
        "start": tree.attrs["start"],
        "divergences": tree.attrs["divergences"],
        "rhat": {n: round(float(rank_rhat(np.asarray(v)).max()), 4) for n, v in held.items()},
        "ess": {n: round(float(v.min())) for n, v in sizes.items()},
    }
    images = np.asarray(held["morphology"]).reshape(-1, *prior.event_shape)
    return np.asarray(jax.random.permutation(order_key, images)), facts


def report(done, total, text):
    """One line for every twentieth draw: this runs for minutes, often into a log."""
    if done % 20 == 0:
        print(f"{done} of {total}: {text}", flush=True)


def main():
    """Draw, report, and show some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prior", help="Weights of a trained prior.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--sigma", type=float, help="Noise level; the recipe's by default.")
    given = parser.parse_args()
    images, facts = draw(
        load_prior(given.prior, sigma=given.sigma), key=jax.random.key(11), progress=report
    )
    with atomic_path(given.output) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, images=images, facts=json.dumps(facts))
    print(json.dumps(facts, indent=1))
    axes = plt.subplots(4, 10, figsize=(10, 4), layout="constrained")[1].ravel()
    for axis, x in zip(axes, images, strict=False):
        axis.imshow(np.log1p(np.maximum(x, 0) / 0.05), origin="lower", vmin=0, vmax=3)
        axis.set_axis_off()
    plt.savefig(given.output.with_suffix(".png"), dpi=90)


if __name__ == "__main__":
    main()
