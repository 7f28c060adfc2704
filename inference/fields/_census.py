"""The sources of a field while it is worked on."""

from dataclasses import dataclass, fields, replace

import numpy as np

from ._tasks import Sources

#: Probability above which a source is fitted as a star.
STAR = 0.5

#: Log evidence in nats below which a detection is dropped: there are some 90 places for a point
#: where a deep image has one source.
NEEDED = 4.5

#: The same of one found in what a fit left: the best of all places about a source, and what a profile
#: lacks.
ADDED = 9.0


@dataclass(frozen=True)
class Census:
    """All sources of a field, in pixels of the field.

    Attributes
    ----------
    ids
        Names, all different.
    num_named
        How many sources have got a name so far: that of a dropped one is not given again.
    places
        Positions (row, column), ``[N, 2]``.
    is_point
        Mask ``[N]`` of the stars.
    significance
        Signal to noise of a point at each position, ``[N]``.
    added
        Mask ``[N]`` of sources found in what a first fit left.
    given
        Mask ``[N]`` of sources of a catalog, which are kept whatever the evidence.
    p_star, evidence
        Probability that a source is a star, and log evidence for it in nats, ``[N]``; NaN before
        there is a fit.
    """

    ids: tuple[str, ...]
    num_named: int
    places: np.ndarray
    is_point: np.ndarray
    significance: np.ndarray
    added: np.ndarray
    given: np.ndarray
    p_star: np.ndarray
    evidence: np.ndarray

    @classmethod
    def begin(cls, ids, places, is_point, significance, *, given: bool) -> "Census":
        """Return sources as they are given or detected."""
        count, places = len(ids), np.asarray(places, float).reshape(-1, 2)
        unknown = np.full(count, np.nan)
        each = (np.asarray(is_point, bool), np.asarray(significance, float))
        flags = np.zeros(count, bool), np.full(count, given)
        return cls(tuple(ids), count, places, *each, *flags, unknown, unknown)

    def __len__(self) -> int:
        """Return the number of sources."""
        return len(self.ids)

    def of(self, which) -> Sources:
        """Return some of the sources, by their indices."""
        which = np.asarray(which, int)
        return Sources(tuple(self.ids[k] for k in which), self.places[which], self.is_point[which])

    def within(self, first, size, margin: float = 0.0) -> np.ndarray:
        """Return the indices of sources within a part of the field and a margin about it."""
        low = np.asarray(first, float) - 0.5 - margin
        high = low + np.asarray(size, float) + 2 * margin
        return np.flatnonzero(((self.places >= low) & (self.places < high)).all(1))

    def with_added(self, places: np.ndarray, significance: np.ndarray) -> "Census":
        """Return the sources and new ones, the brightest first, named by the next free numbers."""
        order = np.lexsort((places[:, 1], places[:, 0], -significance))
        taken, number, names = set(self.ids), self.num_named, []
        for _ in order:
            number += 1
            while str(number) in taken:
                number += 1
            names.append(str(number))
        new = Census.begin(
            names, places[order], np.zeros(len(order), bool), significance[order], given=False
        )
        new = replace(new, added=np.ones(len(order), bool))
        both = map(np.concatenate, zip(self._arrays, new._arrays, strict=True))
        return Census(self.ids + new.ids, number, *both)

    def keep(self, which: np.ndarray) -> "Census":
        """Return the sources of a mask ``[N]``."""
        chosen = np.flatnonzero(which)
        ids = tuple(self.ids[k] for k in chosen)
        return Census(ids, self.num_named, *(array[chosen] for array in self._arrays))

    def wanted(self) -> "Census":
        """Return the sources that the evidence wants, those that are stars as points.

        A catalog's sources stay.  If it knows stars, its word on what is one holds.
        """
        known = self.given & bool((self.given & self.is_point).any())
        is_point = np.where(known, self.is_point, self.p_star > STAR)
        least = np.where(self.added, ADDED, NEEDED)
        return replace(self, is_point=is_point).keep(self.given | (self.evidence > least))

    @property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        names = [one.name for one in fields(self) if one.name not in ("ids", "num_named")]
        return tuple(getattr(self, name) for name in names)
