"""What a sky, outliers and a wrong PSF do to fluxes, left out of the model and modeled.

    scorepriors simulate --num-blends 40 --seed 21 --sources 2:6 --output set.npz
    python benchmarks/effects.py set.npz --json effects.json

Every blend is spoilt in one way at a time and deblended from true positions, with the options that
leave the effect out and with those that model it.  Fluxes are the posterior means of the catalog, one
per source and band.  ``coverage`` is the share within one error of the truth (.68 is right), ``bias``
their mean deviation from the truth in errors, ``shift`` the mean and ``moved`` the root mean square
deviation from the fit of the clean images with the usual options in its errors, ``error`` the median of
the errors in units of those, ``chi2`` the largest mean footprint chi2 of a blend's sources averaged
over blends, and ``seconds`` the time of a blend.  Prints the table in Markdown.
"""

import argparse
import dataclasses
import json
import time
import warnings

import numpy as np
from markdown_rows import header, row
from scipy.ndimage import affine_transform

from scorepriors.inference import deblend_many
from scorepriors.models import read_positions
from scorepriors.models.simulation._blend_sets import BlendSet

#: Options that leave every effect out, and those with which each is modeled.
LEFT_OUT = {"sky": "none", "outliers": False, "model_error": False}


def noise_of(obs) -> np.ndarray:
    """Return the usual noise of a pixel, ``[B, 1, 1]``."""
    return np.array([np.median(w[w > 0]) ** -0.5 for w in obs.weights])[:, None, None]


def clean(obs, truth, rng):
    """Nothing at all."""
    del truth, rng
    return obs


def constant(obs, truth, rng):
    """Half of the noise of a pixel."""
    del truth, rng
    return dataclasses.replace(obs, images=obs.images + 0.5 * noise_of(obs))


def gradient(obs, truth, rng):
    """A plane from minus to plus half of the noise of a pixel in a random direction."""
    del truth
    rows, columns = (np.linspace(-0.5, 0.5, n) for n in obs.shape)
    angle = rng.uniform(0, 2 * np.pi)
    plane = np.cos(angle) * rows[:, None] + np.sin(angle) * columns
    return dataclasses.replace(obs, images=obs.images + (0.5 + plane) * noise_of(obs))


def hot_pixels(obs, truth, rng):
    """Ten pixels per band, 10 to 300 times the noise high, within 12 pixels of the middle."""
    del truth
    images = np.array(obs.images)
    for image, noise in zip(images, noise_of(obs).ravel(), strict=True):
        at = np.array(obs.shape)[:, None] // 2 + rng.integers(-12, 13, (2, 10))
        image[tuple(at)] += noise * np.exp(rng.uniform(np.log(10), np.log(300), 10))
    return dataclasses.replace(obs, images=images)


def trail(obs, truth, rng):
    """A satellite's trail in one band, ten times the noise of a pixel, past the middle."""
    del truth
    images, band = np.array(obs.images), rng.integers(obs.num_bands)
    rows, columns = np.indices(obs.shape) - (np.array(obs.shape)[:, None, None] - 1) / 2
    angle, away = rng.uniform(0, np.pi), rng.uniform(3, 9)
    across = np.cos(angle) * rows + np.sin(angle) * columns - away
    images[band] += 10 * noise_of(obs)[band] * np.exp(-0.5 * (across / 1.5) ** 2)
    return dataclasses.replace(obs, images=images)


def neighbor(obs, truth, rng):
    """A point source that the catalog lacks, 6 to 9 pixels from a source, 6 sigma at its peak."""
    images = np.array(obs.images)
    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(6, 9)
    place = truth.center[0] + away * np.array([np.cos(angle), np.sin(angle)])
    row, column = np.clip(np.round(place).astype(int), 0, np.array(obs.shape) - 1)
    half = obs.psfs.shape[-1] // 2
    for image, psf, noise in zip(images, obs.psfs, noise_of(obs).ravel(), strict=True):
        wide = np.pad(image, half)
        wide[row : row + 2 * half + 1, column : column + 2 * half + 1] += (
            6 * noise * psf / psf.max()
        )
        image[:] = wide[half:-half, half:-half]
    return dataclasses.replace(obs, images=images)


def wider_psf(obs, truth, rng):
    """PSFs that the fit is told to be 5 % wider than they are."""
    del truth, rng
    middle = (obs.psfs.shape[-1] - 1) / 2
    wide = np.stack(
        [affine_transform(psf, np.eye(2) / 1.05, middle - middle / 1.05) for psf in obs.psfs]
    )
    wide = np.maximum(wide, 0)
    return dataclasses.replace(obs, psfs=wide / wide.sum((1, 2), keepdims=True))


EFFECTS = {
    "clean": (clean, {"usual": {}, "sky": {"sky": "constant"}, "plane": {"sky": "plane"}}),
    "constant sky": (constant, {"usual": {}, "sky": {"sky": "constant"}}),
    "gradient": (gradient, {"usual": {}, "plane": {"sky": "plane"}}),
    "hot pixels": (hot_pixels, {"usual": {}}),
    "trail": (trail, {"usual": {}}),
    "unknown neighbor": (neighbor, {"usual": {}}),
    "wider PSF": (wider_psf, {"usual": {}}),
}


def run(blends, number: int, spoil, seed: int, options: dict):
    """Return fluxes, errors and truths of all sources and bands, chi2 of blends, and seconds."""
    truths = [blends.truth(i) for i in range(number)]
    seen = [
        spoil(blends.observation(i), truth, np.random.default_rng((seed, i)))
        for i, truth in enumerate(truths)
    ]
    places = [read_positions(t.center[:, ::-1], obs) for t, obs in zip(truths, seen, strict=True)]
    started = time.monotonic()
    results = deblend_many(seen, places, center_error=0.05, **options)
    seconds = (time.monotonic() - started) / len(seen)
    flux, error, true = (
        np.concatenate([np.ravel(one) for one in each])
        for each in (
            [r.photometry.flux for r in results],
            [r.photometry.error for r in results],
            [t.flux_total for t in truths],
        )
    )
    chi2 = np.mean([r.free_form.source_chi2.max() for r in results])
    return flux, error, true, float(chi2), seconds


def summary(found, reference) -> dict[str, float]:
    """Return the numbers of one row of the table."""
    flux, error, true, chi2, seconds = found
    # A band whose pixels are all masked, as under a trail, has no flux.
    has = np.isfinite(flux) & np.isfinite(reference[0])
    flux, error, true = (one[has] for one in (flux, error, true))
    clean_flux, clean_error = (one[has] for one in reference[:2])
    pull = (flux - true) / error
    moved = (flux - clean_flux) / clean_error
    return {
        "coverage": float((np.abs(pull) < 1).mean()),
        "bias": float(pull.mean()),
        "shift": float(moved.mean()),
        "moved": float(np.sqrt((moved**2).mean())),
        "error": float(np.median(error / clean_error)),
        "chi2": chi2,
        "seconds": seconds,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set")
    parser.add_argument("--json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="An effect; may be given again.")
    parser.add_argument("--number", type=int, help="Only this many blends.")
    parser.add_argument("--profiles", action="store_true", help="Without the learned prior.")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    blends = BlendSet(arguments.set)
    usual = {"free_form": False} if arguments.profiles else {}
    number = arguments.number or len(blends)
    reference = run(blends, number, clean, arguments.seed, usual | LEFT_OUT)
    table = {}
    print(header(["effect", "model", *summary(reference, reference)], words=2), flush=True)
    for name in arguments.only or EFFECTS:
        spoil, models = EFFECTS[name]
        for label, options in {"left out": LEFT_OUT, **models}.items():
            found = summary(run(blends, number, spoil, arguments.seed, usual | options), reference)
            table[f"{name}, {label}"] = found
            print(row([name, label, *found.values()]), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
