"""Pulls of measured and posterior fluxes from blank sky to twenty times the noise.

    python benchmarks/errors/faint.py --number 60 --figure faint.png --json faint.json

Isolated exponential galaxies (or, with --stars, point sources fitted as galaxies) of known
signal to noise, positions known to 0.3 px.  For each level: mean and standard deviation of
(flux - truth) / error, by band and for the sum; the share of truths in the posterior's 68 %
interval; and the share of sources that it would call a detection (above three errors).
"""

import argparse
import json

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table

from scorepriors.inference import deblend_many
from scorepriors.models import Observation, read_positions
from scorepriors.models.simulation._simulation import import_galsim

LEVELS = (0, 0, 0, 1, 2, 3, 5, 10, 20)
BANDS, COLOR, NOISE, SCALE = "gri", np.array([0.8, 1.0, 1.2]), 2.0, 0.2
SIDE, PLACES = 100, (20, 50, 80)


def blend(seed: int, stars: bool):
    """An observation, positions, true fluxes ``[K, B]`` and levels ``[K]``."""
    galsim = import_galsim()
    rng = np.random.default_rng(seed)
    psf = galsim.Gaussian(fwhm=4 * SCALE)
    images = rng.normal(0, NOISE, (len(BANDS), SIDE, SIDE))
    places, truth, levels = [], [], rng.permutation(LEVELS)
    for level, (row, column) in zip(levels, [(r, c) for r in PLACES for c in PLACES], strict=True):
        place = np.array([row, column]) + rng.uniform(-0.5, 0.5, 2)
        source = psf
        if not stars:
            disk = galsim.Exponential(half_light_radius=rng.uniform(0.7, 2.5) * SCALE)
            disk = disk.shear(q=rng.uniform(0.5, 1), beta=rng.uniform(0, 180) * galsim.degrees)
            source = galsim.Convolve(disk, psf)
        moved = source.shift(*((place - (SIDE - 1) / 2)[::-1] * SCALE))
        image = moved.drawImage(nx=SIDE, ny=SIDE, scale=SCALE).array
        unit = NOISE / np.sqrt((image**2).sum())
        flux = level * unit * COLOR / np.sqrt((COLOR**2).sum())
        images += flux[:, None, None] * image
        places.append(place + rng.normal(0, 0.1, 2))
        truth.append(flux)
    kernel = psf.drawImage(nx=25, ny=25, scale=SCALE).array
    obs = Observation.from_arrays(
        images,
        variance=np.full(images.shape, NOISE**2),
        psfs=np.stack([kernel / kernel.sum()] * len(BANDS)),
        bands=list(BANDS),
        unit="nJy",
    )
    where = np.array(places)
    at = read_positions(Table({"x": where[:, 1], "y": where[:, 0]}), obs)
    return obs, at, np.array(truth), levels


def rows_of(number: int, stars: bool, seed: int) -> dict[int, dict]:
    """Statistics by level."""
    made = [blend(seed + i, stars) for i in range(number)]
    results = deblend_many([m[0] for m in made], [m[1] for m in made], progress=True)
    found = [result.photometry for result in results if result is not None]
    truth, level = np.stack([m[2] for m in made]), np.stack([m[3] for m in made])
    stacked = {
        name: np.stack([getattr(p, name) for p in found])
        for name in ("flux", "error", "measured", "measured_error", "total", "measured_total")
    }
    out = {}
    for one in sorted(set(LEVELS)):
        which = level == one
        total = truth.sum(-1)[which]
        band = (stacked["measured"] - truth)[which] / stacked["measured_error"][which]
        measured, measured_error = np.moveaxis(stacked["measured_total"], 1, 0)
        flux, error = np.moveaxis(stacked["total"], 1, 0)
        pulls = (measured[which] - total) / measured_error[which]
        out[int(one)] = {
            "number": int(which.sum()),
            "band_mean": band.mean(0).tolist(),
            "band_sd": band.std(0).tolist(),
            "sum_mean": float(pulls.mean()),
            "sum_sd": float(pulls.std()),
            "measured_above_3": float((measured[which] > 3 * measured_error[which]).mean()),
            "posterior_coverage_68": float((np.abs(flux[which] - total) < error[which]).mean()),
            "posterior_above_3": float((flux[which] > 3 * error[which]).mean()),
        }
    return out


def draw(found: dict[int, dict], path: str) -> None:
    """Draw mean and width of the pulls over the level."""
    levels = list(found)
    place = np.arange(len(levels))
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axis.axhspan(-1, 1, color="#eeeeee")
    mean = np.array([found[one]["sum_mean"] for one in levels])
    width = np.array([found[one]["sum_sd"] for one in levels])
    axis.errorbar(place, mean, width, fmt="o", color="#0072b2", capsize=4, label="all bands")
    for band, name in enumerate(BANDS):
        each = np.array([found[one]["band_mean"][band] for one in levels])
        spread = np.array([found[one]["band_sd"][band] for one in levels])
        axis.errorbar(
            place + 0.14 * (band + 1), each, spread, fmt=".", linewidth=1, alpha=0.7, label=name
        )
    axis.set_xticks(place, levels)
    axis.set(xlabel="true flux over noise, all bands", ylabel="(measured - true) / error")
    axis.legend(ncols=4, fontsize=8, frameon=False, loc="upper left")
    axis.set_ylim(-1.8, 2.2)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=5000)
    parser.add_argument("--stars", action="store_true")
    parser.add_argument("--figure")
    parser.add_argument("--json")
    given = parser.parse_args()
    table = rows_of(given.number, given.stars, given.seed)
    for level, row in table.items():
        bands = " ".join(f"{m:+.2f}/{s:.2f}" for m, s in zip(row["band_mean"], row["band_sd"]))
        print(
            f"S/N {level:2d} ({row['number']}): bands {bands}, sum {row['sum_mean']:+.2f}/"
            f"{row['sum_sd']:.2f}, above 3: {row['measured_above_3']:.2f}; posterior covers "
            f"{row['posterior_coverage_68']:.2f}, above 3: {row['posterior_above_3']:.3f}"
        )
    if given.json:
        with open(given.json, "w") as file:
            json.dump(table, file, indent=1)
    if given.figure:
        draw(table, given.figure)
