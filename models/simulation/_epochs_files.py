"""Files of simulated epochs: one image per time, a catalog, and true light curves."""

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import QTable
from astropy.time import Time

from scorepriors._errors import InputError

from ._epochs import Epochs, simulate_epochs
from ._folders import writable_folder

#: Days between images, the first of them (MJD), and time from it to the peak in units of all of it.
CADENCE, FIRST, PEAK = 5.0, 60000.0, 0.55

#: Flux of a transient at its peak in r (nanojanskys), its rise and its decline in units of the cadence.
BRIGHT, RISE, DECLINE = 500.0, 0.8, 2.0


def supernova(times: np.ndarray) -> np.ndarray:
    """Return fluxes of a transient, exactly zero in the first third of the times.

    Parameters
    ----------
    times
        Times of all images, MJD.
    """
    times = np.asarray(times, float)
    peak = times[0] + PEAK * np.ptp(times)
    width = CADENCE * np.where(times < peak, RISE, DECLINE)
    flux = BRIGHT * np.exp(-0.5 * ((times - peak) / width) ** 2)
    return np.where(times < times[0] + np.ptp(times) / 3, 0.0, flux)


def epoch_paths(directory: str | Path, number: int) -> list[Path]:
    """Return the images, then the catalog and the truth."""
    names = [f"epoch-{count + 1:0{len(str(number))}d}.fits" for count in range(number)]
    return [Path(directory) / name for name in (*names, "catalog.ecsv", "truth.ecsv")]


def check_epochs(directory: str | Path, number: int, *, overwrite: bool) -> Path:
    """Return the folder of epochs that may be written; InputError for one that may not."""
    if number < 2:
        raise InputError(f"a light curve needs at least two epochs, got {number}.")
    paths = epoch_paths(directory, number)
    return writable_folder(directory, paths, "epochs need", overwrite=overwrite)


def write_epochs(
    directory: str | Path,
    number: int,
    *,
    seed: int = 0,
    lumpy: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Simulate a transient in a galaxy at some times, five days apart, and write it.

    Parameters
    ----------
    directory
        Folder; made if missing.
    number
        Number of images, at least two.
    seed
        Seed of the galaxy, the seeing and the noise.
    lumpy
        Whether the galaxy has lumps, so that no smooth profile fits it.
    overwrite
        Whether to replace files.

    Returns
    -------
    list of pathlib.Path
        ``epoch-1.fits`` and so on, which `Observation.read` reads with their times;
        ``catalog.ecsv`` with the sources ``host`` and ``transient``; and ``truth.ecsv``, the columns
        of `light_curves` without errors.

    Raises
    ------
    InputError
        If there are fewer than two images, or files exist and `overwrite` is False.
    """
    directory = check_epochs(directory, number, overwrite=overwrite)
    directory.mkdir(parents=True, exist_ok=True)
    times = FIRST + CADENCE * np.arange(number)
    seen = simulate_epochs(times.tolist(), supernova, seed=seed, lumpy=lumpy)
    *images, catalog, truth = paths = epoch_paths(directory, number)
    for path, one in zip(images, seen.observations, strict=True):
        one.to_fits(path, overwrite=overwrite)
    seen.catalog.write(catalog, format="ascii.ecsv", overwrite=overwrite)
    _truth(seen, times).write(truth, format="ascii.ecsv", overwrite=overwrite)
    return paths


def _truth(seen: Epochs, times: np.ndarray) -> QTable:
    bands = seen.observations[0].bands
    return QTable(
        {
            "id": ["transient"] * seen.flux.size,
            "filter": np.repeat(bands, len(times)),
            "time": Time(np.tile(times, len(bands)), format="mjd"),
            "flux": seen.flux.T.ravel() * u.nJy,
        }
    )
