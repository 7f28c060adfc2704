"""The light of all sources of a field, as an image on disk that is read by windows."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from scorepriors._files import atomic_path

from ._plan import Window


class Light:
    """Image ``[B, H, W]`` on disk.

    Parameters
    ----------
    path
        File of the image.
    num_bands, shape
        Its shape: bands, and (height, width).
    """

    def __init__(self, path: Path, num_bands: int, shape: tuple[int, int]):
        self.path, self.whole = Path(path), (num_bands, *shape)

    def __reduce__(self):
        return Light, (self.path, self.whole[0], self.whole[1:])

    @property
    def is_there(self) -> bool:
        """Whether the image has been written."""
        return self.path.exists()

    def write(self, parts: Iterable[tuple[Window, np.ndarray]]) -> None:
        """Add up the light ``[B, S, S]`` of scenes in their windows, in this order, atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as temporary:
            _reserve(temporary, 4 * math.prod(self.whole))
            image = np.memmap(temporary, np.float32, "r+", shape=self.whole)
            for window, light in parts:
                field, own = overlap(window, self.whole[1:])
                image[:, *field] += light[:, *own]
            image.flush()
            del image

    def window(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Return a part ``[B, height, width]``; zeros beyond the field."""
        out = np.zeros((self.whole[0], height, width), np.float32)
        field, own = _overlap(row, column, height, width, self.whole[1:])
        image = np.memmap(self.path, np.float32, "r", shape=self.whole)
        out[:, *own] = image[:, *field]
        return out

    def of(self, window: Window) -> np.ndarray:
        """Return the light in the window of a scene."""
        return self.window(window.row, window.column, window.size, window.size)


def _reserve(path: Path, size: int) -> None:
    """Fill a file with zeros: touching a hole of a full disk would end the process."""
    block = bytes(2**20)
    with path.open("wb") as stream:
        for _ in range(size // len(block)):
            stream.write(block)
        stream.write(bytes(size % len(block)))


def overlap(window: Window, shape: tuple[int, int]) -> tuple[tuple, tuple]:
    """Return slices of a field and of a window where they overlap."""
    return _overlap(window.row, window.column, window.size, window.size, shape)


def _overlap(row, column, height, width, shape) -> tuple[tuple, tuple]:
    field, own = [], []
    for first, size, length in zip((row, column), (height, width), shape, strict=True):
        start, stop = max(first, 0), max(min(first + size, length), max(first, 0))
        field.append(slice(start, stop))
        own.append(slice(start - first, stop - first))
    return tuple(field), tuple(own)
