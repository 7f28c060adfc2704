"""Proper motions in a catalog: its places are those of its epoch, and an image has another."""

import numpy as np
from astropy import units
from astropy.table import Table

from scorepriors.models.data._warnings import note

from ._columns import numbers

#: Columns of proper motions along right ascension and declination, as Gaia and others name them.
MOTION_COLUMNS = (
    ("pmra", "pmdec"),
    ("pm_ra", "pm_dec"),
    ("pmra", "pmde"),
    ("pmraj2000", "pmdej2000"),
)

#: Columns with the epoch of the places.
_EPOCHS = ("ref_epoch", "epoch", "ref_epoch_yr")

#: Years between a catalog and an image that are usual, and the motion in pixels that matters.
_YEARS, _MOVED = 10.0, 0.5


def say_motion(table: Table, columns: dict[str, str], pixel_scale: float | None) -> None:
    """Say that proper motions were not applied, where in ten years they move sources.

    Parameters
    ----------
    table
        Rows that were kept.
    columns
        Names of its columns by their lower case.
    pixel_scale
        Arcseconds per pixel; None says nothing.
    """
    pair = next((p for p in MOTION_COLUMNS if p[0] in columns and p[1] in columns), None)
    if pair is None or pixel_scale is None:
        return
    along = [numbers(table, columns[name], units.mas / units.yr) for name in pair]
    motion = np.nan_to_num(np.hypot(*along))
    moved = motion * _YEARS / 1000 / pixel_scale > _MOVED
    if not moved.any():
        return
    epoch = next((columns[name] for name in _EPOCHS if name in columns), None)
    when = "" if epoch is None else f" ({epoch} {table[epoch][int(np.argmax(motion))]})"
    note(
        f"{moved.sum()} of {len(table)} sources move by more than {_MOVED:g} pixel in "
        f"{_YEARS:g} years, by up to {motion.max():.0f} mas a year, and are where the catalog has them"
        f"{when}: take them to the image's epoch with SkyCoord.apply_space_motion."
    )
