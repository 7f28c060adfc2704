"""The positions of sources, in pixels of an observation."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions of sources, and which of them are points.

    Attributes
    ----------
    ids
        Names of the sources, all different.
    row_column
        Positions ``[K, 2]``, float64, 0-based (row, column), that is (y, x); integers are the
        centers of pixels.
    is_point
        Booleans ``[K]``, true for stars.
    """

    ids: tuple[str, ...]
    row_column: np.ndarray
    is_point: np.ndarray

    def __len__(self) -> int:
        """Return the number of sources K."""
        return len(self.ids)
