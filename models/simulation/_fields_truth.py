"""The truth of a simulated field as a table."""

from collections.abc import Sequence

import numpy as np
from astropy import units
from astropy.table import Table
from astropy.wcs import WCS

from ._fields_bodies import Body


def truth_table(
    bodies: Sequence[Body], places: np.ndarray, bands: Sequence[str], wcs: WCS
) -> Table:
    """Return what sources are and where, one row each, in the order in which they were drawn.

    Parameters
    ----------
    bodies
        The sources.
    places
        Their centers (row, column), ``[K, 2]``.
    bands
        One letter each.
    wcs
        World coordinates.
    """
    rows, columns = np.reshape(places, (-1, 2)).T
    ra, dec = wcs.all_pix2world(columns, rows, 0)
    flux = np.reshape([body.flux for body in bodies], (len(bodies), len(bands)))
    table = Table({"id": np.arange(1, len(bodies) + 1)})
    table["x"], table["y"] = columns * units.pix, rows * units.pix
    table["ra"], table["dec"] = ra * units.deg, dec * units.deg
    for order, band in enumerate(bands):
        table[f"flux_{band}"] = flux[:, order] * units.nJy
    table["magnitude"] = [body.magnitude for body in bodies]
    table["is_star"] = [body.is_star for body in bodies]
    table["has_structure"] = [body.has_structure for body in bodies]
    return table
