"""The sources of a field while it is worked on."""

from dataclasses import dataclass, replace

import numpy as np

from ._tasks import Sources


@dataclass(frozen=True)
class Census:
    """All sources of a field, in pixels of the field.

    Attributes
    ----------
    ids
        Names, all different.
    places
        Positions (row, column), ``[N, 2]``.
    is_point
        Mask ``[N]`` of the stars.
    significance
        Signal to noise of a point at each position, ``[N]``.
    added
        Mask ``[N]`` of sources found in what a first fit left.
    """

    ids: tuple[str, ...]
    places: np.ndarray
    is_point: np.ndarray
    significance: np.ndarray
    added: np.ndarray

    def __len__(self) -> int:
        """Return the number of sources."""
        return len(self.ids)

    def of(self, which) -> Sources:
        """Return some of the sources, by their indices."""
        which = np.asarray(which, int)
        return Sources(
            tuple(self.ids[k] for k in which), self.places[which], self.is_point[which]
        )

    def within(self, first, size, margin: float = 0.0) -> np.ndarray:
        """Return the indices of sources within a part of the field and a margin about it."""
        low = np.asarray(first, float) - 0.5 - margin
        high = low + np.asarray(size, float) + 2 * margin
        return np.flatnonzero(((self.places >= low) & (self.places < high)).all(1))

    def with_added(self, places: np.ndarray, significance: np.ndarray) -> "Census":
        """Return the sources and new ones, the brightest first, named by the next free numbers."""
        order = np.lexsort((places[:, 1], places[:, 0], -significance))
        taken, number, names = set(self.ids), len(self.ids), []
        for _ in order:
            number += 1
            while str(number) in taken:
                number += 1
            names.append(str(number))
        count = len(order)
        return Census(
            self.ids + tuple(names),
            np.concatenate([self.places, places[order]]),
            np.concatenate([self.is_point, np.zeros(count, bool)]),
            np.concatenate([self.significance, significance[order]]),
            np.concatenate([self.added, np.ones(count, bool)]),
        )

    def keep(self, which: np.ndarray) -> "Census":
        """Return the sources of a mask ``[N]``."""
        which = np.flatnonzero(which)
        return Census(
            tuple(self.ids[k] for k in which),
            *(
                array[which]
                for array in (self.places, self.is_point, self.significance, self.added)
            ),
        )

    def with_points(self, is_point: np.ndarray) -> "Census":
        """Return the same sources, other ones of them stars."""
        return replace(self, is_point=np.asarray(is_point, bool))
