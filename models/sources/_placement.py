"""Where the sources of a group are, and where their boxes sit in the image."""

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
        ``[K, 2]``, (row, column), pixel centers at integers.
    corner
        ``[K, 2]``, first pixel of each source's box.
    index
        ``[K]``, row of each source in the catalog; -1 for padding, which keeps its prior and
        never touches the image.
    box
        Side of the boxes in pixels; static.
    """

    center: Float[Array, "K 2"]
    corner: Int[Array, "K 2"]
    index: Int[Array, " K"]
    box: int = eqx.field(static=True)

    @property
    def mask(self) -> Bool[Array, " K"]:
        """``[K]``, False for padding."""
        return self.index >= 0

    def __len__(self) -> int:
        """Number of slots K, padding included."""
        return self.index.shape[-1]

    def without_padding(self) -> "Placement":
        """The real sources alone."""
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
    """Boxes of `box` pixels about positions, padded to `size` sources.

    Parameters
    ----------
    center
        ``[K, 2]``, (row, column).
    box
        Side of the boxes.  The center of an even box lies between pixels, so a source
        ends up within half a pixel of it.
    size
        Padded number of sources; K by default.
    index
        ``[K]``, rows of the sources in the catalog; 0 to K - 1 by default.

    Returns
    -------
    Placement
        In NumPy arrays.

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
    # Padding sits in the corner of the image, where its box is a legal one.
    padded_center = np.full((size, 2), (box - 1) / 2, np.float32)
    padded_corner, padded_index = np.zeros((size, 2), np.int32), np.full(size, -1, np.int32)
    padded_center[: len(center)], padded_corner[: len(center)] = center, corner
    padded_index[: len(center)] = np.arange(len(center)) if index is None else index
    return Placement(padded_center, padded_corner, padded_index, box)
