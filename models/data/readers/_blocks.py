"""Blocks of compressed images, unpacked once for the many windows that share them."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

#: Least side of a block, pixels: that of a small window.
_SIDE = 64

#: Bytes of blocks that a process keeps.
_MOST = 128e6

_NUMBERS = itertools.count()


class _Kept:
    """The blocks of a process that were used last."""

    def __init__(self):
        self.blocks: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self.lock, self.size = threading.Lock(), 0

    def get(self, key: tuple, read: Callable[[], np.ndarray]) -> np.ndarray:
        with self.lock:
            if key in self.blocks:
                self.blocks.move_to_end(key)
                return self.blocks[key]
        block = read()
        with self.lock:
            if key not in self.blocks:
                self.blocks[key] = block
                self.size += block.nbytes
            while self.size > _MOST and len(self.blocks) > 1:
                self.size -= self.blocks.popitem(last=False)[1].nbytes
        return block


_KEPT = _Kept()


class Blocks:
    """Parts of an image that is stored in compressed tiles.

    Tiles are often whole rows: a window of 128 x 128 pixels needs 128 of them, and so does every
    other window beside it.

    Parameters
    ----------
    section
        What gives the pixels of a slice, as ``hdu.section`` does.
    shape
        Shape of the image, rows and columns last.
    tile
        Height and width of a tile.
    """

    def __init__(self, section, shape: tuple[int, ...], tile: tuple[int, int]):
        self._section, self._shape = section, shape
        self._sides = tuple(
            min(-(-_SIDE // side) * side, length)
            for side, length in zip(tile, shape[-2:], strict=True)
        )
        self._number = next(_NUMBERS)

    def part(self, box: tuple[slice, slice]) -> np.ndarray:
        """Return rows and columns of the image as a new array."""
        rows, columns = (
            range(along.start // side, -(-along.stop // side))
            for along, side in zip(box, self._sides, strict=True)
        )
        blocks = [[self._block(row, column) for column in columns] for row in rows]
        whole = np.concatenate([np.concatenate(line, axis=-1) for line in blocks], axis=-2)
        inside = tuple(
            slice(along.start - first * side, along.stop - first * side)
            for along, first, side in zip(
                box, (rows.start, columns.start), self._sides, strict=True
            )
        )
        return np.array(whole[..., inside[0], inside[1]])

    def _block(self, row: int, column: int) -> np.ndarray:
        height, width = self._sides
        where: tuple[Any, ...] = (
            ...,
            slice(row * height, min((row + 1) * height, self._shape[-2])),
            slice(column * width, min((column + 1) * width, self._shape[-1])),
        )
        where = where if len(self._shape) > 2 else where[1:]
        return _KEPT.get((self._number, row, column), lambda: np.asarray(self._section[where]))
