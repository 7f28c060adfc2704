"""Rows of survey catalogs that stand for sources, not for their duplicates and blends."""

import numpy as np
from astropy.table import Table

from scorepriors.models.data._warnings import note

from ._columns import first_of, numbers, words

#: Columns that are true for one of several entries of a source: in overlaps of patches, tracts or
#: bricks, and for the pieces of a blend against the blend itself.
_PRIMARY_COLUMNS = ("detect_isprimary", "isprimary", "brick_primary", "is_primary")

#: Columns of the number of pieces into which an entry was deblended.
_CHILDREN_COLUMNS = ("deblend_nchild", "nchild")

_TRUE = ("true", "t", "1", "1.0", "yes")


def real_rows(table: Table, columns: dict[str, str]) -> np.ndarray:
    """Return which rows are sources ``[K]``; a warning counts those left out.

    Entries that are not primary, blends that stand beside their pieces, and Tractor's `DUP` (a
    duplicate without light) are left out.
    """
    kept = np.ones(len(table), bool)
    primary = first_of(columns, _PRIMARY_COLUMNS)
    if primary is not None:
        kept &= [word.lower() in _TRUE for word in words(table[primary])]
        _say(~kept, primary, "not primary")
    else:
        children = first_of(columns, _CHILDREN_COLUMNS)
        if children is not None:
            pieces = numbers(table, children) > 0  # not where it is missing
            _say(pieces, children, "blends, whose pieces are rows of their own")
            kept &= ~pieces
    if "type" in columns:
        double = np.array([word.upper() == "DUP" for word in words(table[columns["type"]])], bool)
        _say(double & kept, columns["type"], "duplicates without light")
        kept &= ~double
    return kept


def _say(left: np.ndarray, name: str, why: str) -> None:
    if left.any():
        note(
            f"{left.sum()} of {len(left)} rows of the catalog are {why} (column {name!r}) and were "
            "left out."
        )
