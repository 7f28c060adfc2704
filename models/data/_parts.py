"""The parts of joined observations: which bands they hold, and where their pixels are."""

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS


@dataclass(frozen=True, eq=False)
class Part:
    """The bands of one observation among those of several, and where their pixels are.

    Attributes
    ----------
    first, number
        Index of its first band, and how many bands there are.
    origin
        (row, column) of its first pixel's center, in pixels of the model.
    scale
        Side of its pixels, in pixels of the model.
    shape
        (H, W) of its images; arrays of all parts share a canvas that holds the largest.
    wcs, name
        Of the observation.
    """

    first: int
    number: int
    origin: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    shape: tuple[int, int] = (0, 0)
    wcs: WCS | None = None
    name: str = ""

    @property
    def bands(self) -> slice:
        """Which bands of the whole these are."""
        return slice(self.first, self.first + self.number)

    def cut(self, cube: np.ndarray) -> np.ndarray:
        """Images ``[number, H, W]`` of this part, from a cube ``[B, ...]`` of all."""
        height, width = self.shape
        return cube[self.bands, :height, :width]
