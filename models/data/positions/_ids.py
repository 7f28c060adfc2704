"""Names of sources, from columns of catalogs."""

from collections.abc import Sequence

import numpy as np
from astropy.table import Table

from scorepriors._errors import InputError

from ._columns import first_of, words

#: Columns of names (lower case), better ones first.
_ID_COLUMNS = (
    "id",
    "source_id",  # Gaia, SourceXtractor++
    "objectid",  # Rubin
    "object_id",  # Euclid, HSC
    "coadd_object_id",  # DES
    "number",  # SExtractor
    "label",  # photutils
    "objid",  # Tractor, SDSS, Pan-STARRS
    "ls_id",
    "name",
    "designation",
)

#: Columns that tell sources of one number apart: parts of the sky that are numbered anew.
_PART_COLUMNS = ("brickid", "brickname", "tract", "tile_index", "tile", "field")


def find_ids(table: Table, columns: dict[str, str], rows: Sequence[int]) -> tuple[str, ...]:
    """Return names of sources: those of the catalog, or the numbers of its rows from 0.

    Numbers that are counted anew in each part of the sky, as those of Tractor in each brick, get
    the name of the part in front if they stand twice.

    Parameters
    ----------
    table
        The table.
    columns
        Its names of columns by their lower case.
    rows
        Numbers of its rows in the catalog.

    Raises
    ------
    InputError
        If a name stands twice.
    """
    name = first_of(columns, _ID_COLUMNS)
    if name is None or np.ndim(table[name]) != 1:
        return tuple(str(row) for row in rows)
    ids = words(table[name])
    part = first_of(columns, _PART_COLUMNS)
    if len(set(ids)) < len(ids) and part is not None:
        ids = [f"{where}-{one}" for where, one in zip(words(table[part]), ids, strict=True)]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise InputError(
            f"the id {twice!r} stands twice in the catalog (column {name!r}); ids must differ."
        )
    return tuple(ids)
