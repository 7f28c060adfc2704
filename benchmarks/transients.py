"""Light curves of transients in galaxies: errors against truth, with the host smooth and lumpy.

For each seed a galaxy is seen at six times, twice before a transient.  ``python
benchmarks/transients.py --number 24`` prints bias, scatter and coverage of the light curves, and their
errors over those of a host that is known exactly.
"""

import argparse
import warnings

import numpy as np

from scorepriors.inference import deblend, light_curves
from scorepriors.models import join_observations, simulate_epochs

TIMES = 60000.0 + 5.0 * np.arange(6)


def supernova(times: np.ndarray) -> np.ndarray:
    """Return fluxes that rise and fall within two weeks, zero at the first two times."""
    flux = 300.0 * np.exp(-0.5 * ((times - 60015.0) / 7.5) ** 2)
    return np.where(times < 60008.0, 0.0, flux)


def run(number: int, *, lumpy: bool, free_form: bool) -> dict[str, float]:
    """Return statistics of the light curves of some seeds."""
    pulls, errors = [], []
    for seed in range(number):
        seen = simulate_epochs(TIMES, supernova, seed=seed, lumpy=lumpy)
        obs = join_observations(*seen.observations)
        result = deblend(obs, seen.catalog, variable=["transient"], free_form=free_form)
        curve = light_curves(result)
        error = curve["flux_err"].value
        pulls.append((curve["flux"].value - seen.flux.T.ravel()) / error)
        # Pixels of known noise alone: the error of a point whose place and host are known.
        best = [
            5.0 / np.sqrt((psf**2).sum())
            for band in range(2)
            for psf in (one.psfs[band] for one in seen.observations)
        ]
        errors.append(error / best)
    pulls = np.array(pulls)
    return {
        "bias": float(pulls.mean()),
        "median": float(np.median(pulls)),
        "scatter": float(pulls.std()),
        "coverage_68": float((abs(pulls) < 1).mean()),
        "error_over_known_host": float(np.median(errors)),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=24)
    parser.add_argument("--free-form", action="store_true")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    for lumpy in (False, True):
        found = run(chosen.number, lumpy=lumpy, free_form=chosen.free_form)
        words = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        print(f"{'lumpy' if lumpy else 'smooth'} host: {words}", flush=True)


if __name__ == "__main__":
    main()
