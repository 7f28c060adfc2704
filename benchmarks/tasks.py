"""Holes, blur and second looks: how well the tasks of `docs/tasks.md` are done, on many galaxies.

    python benchmarks/tasks.py inpainting --number 24
    python benchmarks/tasks.py deconvolution --number 24
    python benchmarks/tasks.py joint --number 8

Galaxies are simulated, seeds count from 0, and every line is one of them.  Needs the
``simulation`` extra.
"""

import argparse
import dataclasses
import warnings

import jax
import numpy as np

from scorepriors import load_prior
from scorepriors.inference import SamplingWarning, deblend, laplace_deblended
from scorepriors.inference.deblending._draws import flux_draws, source_draws
from scorepriors.models import join_observations, read_positions, simulate_blend, simulate_joint
from scorepriors.models.rendering._psf import difference_kernels

MAGNITUDES = (21.5, 24.0)


def draws(result, number=400):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return laplace_deblended(result, key=jax.random.key(0), num_samples=number)


def inpainting(seed: int, sigma: float) -> dict:
    """A hole of 7 pixels across beside the middle of a galaxy, filled."""
    obs, truth = simulate_blend(1, seed=seed, magnitudes=MAGNITUDES, shape=(48, 48))
    rows, columns = np.indices(obs.shape)
    row, column = truth.center[0]
    hole = (rows - row - 1) ** 2 + (columns - column - 3) ** 2 < 3.5**2
    holed = dataclasses.replace(obs, weights=np.where(hole, 0, obs.weights))
    prior = load_prior("lsst-32", sigma=sigma)
    result = deblend(holed, read_positions(obs.catalog, obs), prior=prior, padding=1)
    (drawn,) = source_draws(draws(result))
    (exposure,) = result.scene.exposures
    seen = exposure.render_on_host(drawn.image, np.repeat(drawn.corner[None], len(drawn.image), 0))
    light = np.einsum("nb,nbyx->nyx", drawn.spectrum, seen)[:, hole]
    true = truth.convolved[0].sum(0)[hole]
    low, high = np.quantile(light, [0.16, 0.84], axis=0)
    return {
        "covered": np.mean((low <= true) & (true <= high)),
        "rms": np.linalg.norm(light.mean(0) - true) / np.linalg.norm(true),
        "light": light.mean(0).sum() / true.sum(),
        "light sd": light.sum(1).std() / true.sum(),
    }


def wiener(obs, flux, galaxies, strength: float) -> np.ndarray:
    """Wiener's filter for all bands at once, at the model's resolution, of unit flux.

    It knows the galaxy's fluxes, and the mean power spectrum of galaxies times `strength`.
    """
    size = obs.shape[0]
    kernels, _ = difference_kernels(obs.psfs, 0.7)
    shift, far = kernels.shape[-1] // 2, size - kernels.shape[-1]
    padded = np.pad(kernels, [(0, 0), (0, far), (0, far)])
    transfer = np.fft.fft2(np.roll(padded, (-shift, -shift), (1, 2)))
    margin = (size - galaxies.shape[-1]) // 2
    padded = np.pad(galaxies, [(0, 0), (margin, margin), (margin, margin)])
    power = strength * np.mean(abs(np.fft.fft2(padded)) ** 2, axis=0)
    weight = flux * np.median(obs.weights, axis=(1, 2))
    above = np.einsum("b,byx,byx->yx", weight, transfer.conj(), np.fft.fft2(obs.images))
    below = np.einsum("b,byx->yx", weight * flux, abs(transfer) ** 2) + 1 / power
    return np.fft.ifft2(above / below).real


def deconvolution(seed: int, sigma: float) -> dict:
    """A galaxy of the ground at 0.33 arcsec, against Wiener's filter of the best strength."""
    obs, truth = simulate_blend(1, seed=seed, magnitudes=MAGNITUDES, shape=(48, 48))
    prior = load_prior("lsst-32", sigma=sigma)
    result = deblend(obs, read_positions(obs.catalog, obs), prior=prior, padding=1)
    true = truth.morphology[0]
    galaxies = np.asarray(prior.at(0.05).sample(jax.random.key(0), (256,)))
    galaxies = galaxies / galaxies.sum((1, 2), keepdims=True)

    def error(image):
        return np.linalg.norm(image - true) / np.linalg.norm(true)

    best = min(error(wiener(obs, truth.flux[0], galaxies, s)) for s in np.geomspace(1e-4, 1e4, 33))
    ours = error(result.free_form.morphology[0])
    return {"error": ours, "wiener": best, "times better": best / ours}


def without(joined, hidden: int):
    """The same with all pixels of one observation masked but those of a far corner."""
    views = list(joined.views)
    obs = views[hidden].observation
    weights = np.zeros_like(obs.weights)
    weights[:, 0, 0] = obs.weights[:, 0, 0]  # an observation without any pixel is none
    masked = dataclasses.replace(obs, weights=weights)
    views[hidden] = dataclasses.replace(views[hidden], observation=masked)
    return dataclasses.replace(joined, views=tuple(views))


def joint(seed: int, sigma: float) -> dict:
    """Three galaxies in a year of LSST and in near-infrared from space: errors of fluxes."""
    ground, space, truth, second = simulate_joint(
        3, seed=seed, magnitudes=(21.0, 23.0), spread=2.0, gap=2.5, years=1
    )
    joined = join_observations(ground, space)
    positions = read_positions(ground.catalog, ground)
    prior = load_prior("lsst-32", sigma=sigma)
    true = np.concatenate([truth.flux, second.flux], axis=1)
    sds, errors = [], []
    for hidden in (None, 1, 0):
        alone = joined if hidden is None else without(joined, hidden)
        result = deblend(alone, positions, prior=prior, padding=1)
        sds.append(np.asarray(flux_draws(draws(result)).std(("chain", "draw"))) / true)
        errors.append(np.abs(result.free_form.flux / true - 1))
    bands = [view.which for view in joined.views]
    about = {}
    for name, values in (("sd", sds), ("error", errors)):
        for which, part in enumerate(bands):
            label = "ground" if which == 0 else "space"
            about[f"{label} {name}"] = np.median(values[1 + which][:, part])
            about[f"{label} {name} joint"] = np.median(values[0][:, part])
    return about


TASKS = {"inpainting": inpainting, "deconvolution": deconvolution, "joint": joint}


def main():
    parser = argparse.ArgumentParser(description="Tasks beside deblending, on many galaxies.")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--number", type=int, default=24, help="Galaxies, or blends.")
    parser.add_argument("--sigma", type=float, default=None, help="Noise level of the prior.")
    options = parser.parse_args()
    sigma = options.sigma or {"inpainting": 0.05}.get(options.task, 0.15)
    rows = []
    for seed in range(options.number):
        rows.append(TASKS[options.task](seed, sigma))
        print(seed, "  ".join(f"{n} {v:.4f}" for n, v in rows[-1].items()), flush=True)
    print(f"{len(rows)} of sigma0 = {sigma:g}")
    for name in rows[0]:
        column = np.array([row[name] for row in rows])
        print(
            f"{name:20s} mean {column.mean():.4f}  median {np.median(column):.4f}  "
            f"least {column.min():.4f}  most {column.max():.4f}"
        )


if __name__ == "__main__":
    main()
