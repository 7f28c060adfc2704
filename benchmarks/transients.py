"""Light curves of transients and nuclei in galaxies: errors against truth, of smooth and lumpy hosts.

    python benchmarks/transients.py --number 24
    python benchmarks/transients.py --number 24 --free-form --only "lumpy, AGN"

For each seed a galaxy is seen at six times, twice before a transient; with an AGN its nucleus varies
too, and both have light curves.  Prints a table in Markdown, a row for each kind of host and each
point: bias, median and scatter of (flux - truth) / error, share of the truths within one error, the
median of the errors over those of a point in a host that is known exactly, and seconds per galaxy.
"""

import argparse
import time
import warnings

import numpy as np
from markdown_rows import header, row

from scorepriors.inference import deblend, light_curves
from scorepriors.models import join_observations, simulate_epochs

TIMES = 60000.0 + 5.0 * np.arange(6)

#: Kinds of hosts: whether they have lumps, and a nucleus.
CELLS = {
    "smooth": (False, False),
    "lumpy": (True, False),
    "smooth, AGN": (False, True),
    "lumpy, AGN": (True, True),
}


def supernova(times: np.ndarray) -> np.ndarray:
    """Return fluxes that rise and fall within two weeks, zero at the first two times."""
    flux = 300.0 * np.exp(-0.5 * ((times - 60015.0) / 7.5) ** 2)
    return np.where(times < 60008.0, 0.0, flux)


def nucleus(times: np.ndarray) -> np.ndarray:
    """Return fluxes that go up and down by six tenths within three weeks."""
    return 500.0 * (1 + 0.6 * np.sin(2 * np.pi * (times - 60000.0) / 21))


def run(number: int, *, lumpy: bool, agn: bool, free_form: bool) -> dict[str, dict[str, float]]:
    """Return statistics of the light curves of some seeds, by the name of the point."""
    names = ["transient", "nucleus"] if agn else ["transient"]
    pulls: dict[str, list] = {name: [] for name in names}
    errors: dict[str, list] = {name: [] for name in names}
    started = time.monotonic()
    for seed in range(number):
        central = nucleus if agn else None
        seen = simulate_epochs(TIMES, supernova, seed=seed, lumpy=lumpy, nucleus=central)
        obs = join_observations(*seen.observations)
        result = deblend(obs, seen.catalog, variable=names, free_form=free_form)
        # Pixels of known noise alone: the error of a point whose place and host are known.
        best = [
            5.0 / np.sqrt((psf**2).sum())
            for band in range(2)
            for psf in (one.psfs[band] for one in seen.observations)
        ]
        for name, true in zip(names, (seen.flux, seen.nucleus)):
            curve = light_curves(result, name)
            error = curve["flux_err"].value
            pulls[name].append((curve["flux"].value - true.T.ravel()) / error)
            errors[name].append(error / best)
    seconds = (time.monotonic() - started) / number
    return {name: statistics(np.array(pulls[name]), errors[name], seconds) for name in names}


def statistics(pulls: np.ndarray, errors: list, seconds: float) -> dict[str, float]:
    """Return the numbers of one row of the table."""
    return {
        "bias": float(pulls.mean()),
        "median": float(np.median(pulls)),
        "scatter": float(pulls.std()),
        "coverage": float((abs(pulls) < 1).mean()),
        "error / known host": float(np.median(errors)),
        "seconds": seconds,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--number", type=int, default=24)
    parser.add_argument("--free-form", action="store_true")
    parser.add_argument("--only", action="append", choices=CELLS, help="May be given again.")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    first = True
    for cell in chosen.only or CELLS:
        lumpy, agn = CELLS[cell]
        found = run(chosen.number, lumpy=lumpy, agn=agn, free_form=chosen.free_form)
        for name, numbers in found.items():
            if first:
                print(header(["host", "point", *numbers], words=2), flush=True)
            first = False
            print(row([cell, name, *numbers.values()]), flush=True)


if __name__ == "__main__":
    main()
