"""The embedded example: a simulated LSST-like blend of four galaxies, with truth.

Made by `write_example`, which needs GalSim; reading it needs only astropy.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from scorepriors._files import atomic_path
from scorepriors.models.data._observation import Observation

from ._simulation import Truth, simulate_blend

#: Arguments of the simulation: four galaxies whose light overlaps, the faintest near 24.5.
EXAMPLE: dict[str, Any] = {"num_sources": 4, "seed": 13, "spread": 4.5, "magnitudes": (21.8, 24.6)}


def example_path() -> Path:
    """Return the path of the example's FITS file in the installed package."""
    return Path(str(files("scorepriors.models.simulation"))) / "example.fits"


def load_example() -> tuple[Observation, Truth]:
    """Return the embedded example and its truth.

    Examples
    --------
    >>> obs, truth = load_example()
    >>> obs.bands
    ('u', 'g', 'r', 'i', 'z', 'y')
    """
    path = example_path()
    with fits.open(path) as hdus:
        table = hdus["TRUTH"].data
        center = np.stack([table["y"], table["x"]], -1).astype(float)
        flux = np.asarray(table["flux"], float)
        morphology = hdus["TRUTH_MODEL"].data.astype(float)
        unit = hdus["TRUTH_UNIT"].data.astype(float)
    convolved = unit * flux[:, :, None, None]
    return Observation.from_fits(path), Truth(center, flux, morphology, convolved)


def write_example(path: str | Path) -> Path:
    """Simulate the example and write it to `path`, truth included."""
    obs, truth = simulate_blend(**EXAMPLE)
    table = Table({"x": truth.center[:, 1], "y": truth.center[:, 0], "flux": truth.flux})
    table["flux"].unit = "nJy"
    unit = truth.convolved / truth.flux[:, :, None, None]
    with atomic_path(path) as temporary:
        obs.to_fits(temporary, overwrite=True)
        with fits.open(temporary, mode="append") as hdus:
            hdus.append(fits.BinTableHDU(table, name="TRUTH"))
            hdus.append(fits.ImageHDU(truth.morphology.astype(np.float32), name="TRUTH_MODEL"))
            hdus.append(fits.ImageHDU(unit.astype(np.float32), name="TRUTH_UNIT"))
    return Path(path)
