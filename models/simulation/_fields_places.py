"""Places of the sources of a simulated field."""

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from scorepriors._errors import InputError

#: Number of times that places which are too close are drawn again.
_ATTEMPTS = 200


def draw_places(
    propose: Callable[[np.ndarray], np.ndarray],
    count: int,
    gap: float,
    usable: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Draw places until no two are closer than a gap and all are usable.

    Parameters
    ----------
    propose
        Function of the indices of sources that draws their places ``[n, 2]``.
    count
        Number of sources.
    gap
        Smallest distance of two, pixels: closer ones would be cataloged as one.
    usable
        Function of places that tells which of them may hold a source.

    Raises
    ------
    InputError
        If they do not fit.
    """
    places = propose(np.arange(count))
    for _ in range(_ATTEMPTS):
        again = np.flatnonzero(~usable(places))
        # The later one of two that are too close is drawn again.
        close = [pair[1] for pair in cKDTree(places).query_pairs(gap)] if count else []
        again = np.unique(np.concatenate([again, np.array(close, int)]))
        if not again.size:
            return places
        places[again] = propose(again)
    raise InputError(
        f"{count} sources do not fit into the field with {gap:.2g} pixels between them; lower the "
        "density or enlarge the field."
    )
