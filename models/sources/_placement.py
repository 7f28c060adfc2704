"""Positions of the sources of a group, and places of their boxes in the image."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from scorepriors._errors import InputError
from scorepriors._typing import Array


class Placement(eqx.Module):
    """Positions of a group of sources, padded to K.

    Attributes
    ----------
    center
        Positions (row, column), ``[K, 2]``, pixel centers at integers.
    corner
        First pixel of each source's box, ``[K, 2]``.
    index
        Row of each source in the catalog, ``[K]``; -1 for padding, which keeps its prior and
        does not contribute to the image.
    box
        Side of the boxes in pixels; static.
    """

    center: Float[Array, "K 2"]
    corner: Int[Array, "K 2"]
    index: Int[Array, " K"]
    box: int = eqx.field(static=True)

    @property
    def mask(self) -> Bool[Array, " K"]:
        """Mask ``[K]``, False for padding."""
        return self.index >= 0

    def __len__(self) -> int:
        """Number of slots K, padding included."""
        return self.index.shape[-1]

    def without_padding(self) -> "Placement":
        """Return the placement of the real sources alone."""
        real = np.asarray(self.mask)
        return Placement(
            np.asarray(self.center)[real],
            np.asarray(self.corner)[real],
            np.asarray(self.index)[real],
            self.box,
        )


def place_sources(
    center: Array | np.ndarray | Sequence,
    *,
    box: int,
    size: int | None = None,
    index: np.ndarray | Sequence[int] | None = None,
) -> Placement:
    """Return boxes of `box` pixels about positions, padded to `size` sources.

    Parameters
    ----------
    center
        Positions (row, column), ``[K, 2]``.
    box
        Side of the boxes.  The center of an even box lies between pixels; a source is within
        half a pixel of it.
    size
        Padded number of sources; K by default.
    index
        Rows of the sources in the catalog, ``[K]``; 0 to K - 1 by default.

    Returns
    -------
    Placement
        Placement with NumPy arrays.

    Raises
    ------
    InputError
        If there are more than `size` sources.
    """
    center = np.asarray(center, float).reshape(-1, 2)
    size = len(center) if size is None else size
    if len(center) > size:
        raise InputError(f"{len(center)} sources do not fit a scene padded to {size}.")
    corner = np.round(center - (box - 1) / 2).astype(int)
    # Padding is placed in the corner of the image, where its box is valid.
    padded_center = np.full((size, 2), (box - 1) / 2, np.float32)
    padded_corner, padded_index = np.zeros((size, 2), np.int32), np.full(size, -1, np.int32)
    padded_center[: len(center)], padded_corner[: len(center)] = center, corner
    padded_index[: len(center)] = np.arange(len(center)) if index is None else index
    return Placement(padded_center, padded_corner, padded_index, box)
