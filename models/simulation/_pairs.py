"""Files of blends that two cameras see, the second turned against the first."""

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import QTable

from ._folders import writable_folder
from ._simulation import simulate_joint


def pair_paths(directory: str | Path, number: int, seed: int) -> list[tuple[Path, Path, Path]]:
    """Return files of the two observations and of the truth of every blend."""
    names = ("ground-{}.fits", "space-{}.fits", "truth-{}.ecsv")
    first, second, truth = (
        [Path(directory) / name.format(one) for one in range(seed, seed + number)] for name in names
    )
    return list(zip(first, second, truth, strict=True))


def check_pairs(directory: str | Path, number: int, seed: int, *, overwrite: bool) -> Path:
    """Return the folder of pairs that may be written; InputError for one that may not."""
    every = [path for paths in pair_paths(directory, number, seed) for path in paths]
    return writable_folder(directory, every, "pairs need", overwrite=overwrite)


def write_pairs(
    directory: str | Path,
    number: int,
    *,
    seed: int = 0,
    sources: int = 3,
    rotation: float = 0.0,
    overwrite: bool = False,
    progress=None,
) -> list[Path]:
    """Simulate blends that an LSST-like and a Euclid-like camera see, and write them.

    Parameters
    ----------
    directory
        Folder; made if missing.
    number, seed
        How many blends, and the seed of the first; the others count on from there.
    sources
        Galaxies in each.
    rotation
        Angle of the second camera against the first, from north through east, degrees.
    overwrite
        Whether to replace files.
    progress
        Function called with the blends that are done, their total, and a text.

    Returns
    -------
    list of pathlib.Path
        For each blend ``ground-SEED.fits`` and ``space-SEED.fits``, which `Observation.read`
        reads, and ``truth-SEED.ecsv`` with positions and fluxes.

    Raises
    ------
    InputError
        If files exist and `overwrite` is False, or GalSim is not installed.
    """
    directory = check_pairs(directory, number, seed, overwrite=overwrite)
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for count, paths in enumerate(pair_paths(directory, number, seed)):
        ground, space, truth, second = simulate_joint(sources, seed=seed + count, rotation=rotation)
        ground.to_fits(paths[0], overwrite=overwrite)
        space.to_fits(paths[1], overwrite=overwrite)
        table = _truth(ground, truth.center, np.concatenate([truth.flux, second.flux], 1), space)
        table.write(paths[2], format="ascii.ecsv", overwrite=overwrite)
        written += paths
        if callable(progress):
            progress(count + 1, number, "")
    return written


def _truth(ground, center: np.ndarray, flux: np.ndarray, space) -> QTable:
    """Return positions and true fluxes of the galaxies of a pair."""
    sky = ground.wcs.pixel_to_world(center[:, 1], center[:, 0]).icrs
    table = QTable({"id": np.arange(1, len(center) + 1).astype(str)})
    table["ra"], table["dec"] = sky.ra.to(u.deg), sky.dec.to(u.deg)
    table["x"], table["y"] = center[:, 1], center[:, 0]
    for band, values in zip([*ground.bands, *space.bands], flux.T, strict=True):
        table[f"flux_{band}"] = values * u.nJy
    return table
