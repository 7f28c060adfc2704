"""Tiles of an image that is too large to be looked at in one piece."""

import itertools
from typing import NamedTuple

from scorepriors._errors import InputError


class Tile(NamedTuple):
    """Part of an image: a core, and a margin around it.

    Cores cover the image without overlaps, so what lies in one belongs to one tile; the margin is
    there for what reaches over.

    Attributes
    ----------
    row, column, height, width
        First pixel and size of the whole tile, pixels of the image.
    core_rows, core_columns
        Rows and columns of the core, pixels of the image.
    """

    row: int
    column: int
    height: int
    width: int
    core_rows: slice
    core_columns: slice


def tiles(shape: tuple[int, int], core: int = 512, margin: int = 48) -> list[Tile]:
    """Return the tiles of an image, row by row.

    Cores are as equal as whole pixels allow, and at most `core` on a side; margins end at the
    image's border.

    Parameters
    ----------
    shape
        Height and width of the image in pixels.
    core
        Largest side of a core, pixels.
    margin
        Pixels around it.

    Raises
    ------
    InputError
        If a core would hold no pixel, or the margin is negative.

    Examples
    --------
    >>> [tile[:4] for tile in tiles((100, 250), core=100, margin=10)]
    [(0, 0, 100, 93), (0, 73, 100, 103), (0, 156, 100, 94)]
    """
    if core < 1 or margin < 0:
        raise InputError(
            f"tiles have a core of {core} and a margin of {margin} pixels; give a core of at least 1 "
            "and a margin of at least 0."
        )
    rows, columns = (_spans(length, core, margin) for length in shape)
    return [
        Tile(row.start, column.start, row.stop - row.start, column.stop - column.start, *cores)
        for row, core_rows in rows
        for column, core_columns in columns
        for cores in [(core_rows, core_columns)]
    ]


def _spans(length: int, core: int, margin: int) -> list[tuple[slice, slice]]:
    """Return whole spans and cores along one axis."""
    count = -(-length // core)
    edges = [length * number // count for number in range(count + 1)]
    return [
        (slice(max(first - margin, 0), min(last + margin, length)), slice(first, last))
        for first, last in itertools.pairwise(edges)
    ]
