"""Which sources a simulated field has, and where."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from scorepriors._errors import InputError

from ._fields_bodies import draw_central, draw_galaxy, draw_member, draw_star, draw_structured

#: Number of times that places which are too close are drawn again.
_ATTEMPTS = 200

#: Largest share of a field that circles about its sources may fill: random ones hardly reach it.
_FILLED = 0.5

#: Smallest and largest number of members of a cluster besides its central galaxy.
_RICHNESS = (25, 60)

#: Core radius of clusters in gaps between sources, and where they end in core radii.
_CORE, _END = 10.0, 4.0


@dataclass(frozen=True)
class Roll:
    """The sources of a field, one entry each.

    Attributes
    ----------
    makers
        Functions that draw them.
    cluster
        Number of the cluster, counted from 1; 0 for none.
    """

    makers: tuple[Callable[..., Any], ...]
    cluster: np.ndarray

    def __len__(self) -> int:
        return len(self.makers)


def enroll(
    rng: np.random.Generator,
    galaxies: int,
    stars: int,
    clusters: int,
    structured: int,
    *,
    room: int,
    gap: float,
) -> Roll:
    """Return the sources of a field by the numbers of each kind.

    Raises
    ------
    InputError
        If there is no room for them, in pixels, with a gap between them.
    """
    count = galaxies + stars + structured + clusters * (_RICHNESS[0] + 1)
    if count * np.pi * (gap / 2) ** 2 > _FILLED * room:
        raise _too_many(count, gap)
    makers: list[Callable[..., Any]] = [draw_galaxy] * galaxies
    cluster = [0] * galaxies
    for number in range(1, clusters + 1):
        members = int(rng.integers(_RICHNESS[0], _RICHNESS[1] + 1))
        makers += [draw_central] + [draw_member] * members
        cluster += [number] * (members + 1)
    makers += [draw_structured] * structured + [draw_star] * stars
    cluster += [0] * (structured + stars)
    return Roll(tuple(makers), np.array(cluster, int))


def draw_places(
    rng: np.random.Generator, roll: Roll, missing: np.ndarray, gap: float
) -> np.ndarray:
    """Draw centers until no two are closer than a gap and none lies where data are missing.

    Parameters
    ----------
    rng
        Random number generator.
    roll
        The sources.
    missing
        Pixels without data, ``[H, W]``.
    gap
        Smallest distance of two, pixels: closer ones would be cataloged as one.

    Returns
    -------
    numpy.ndarray
        Centers (row, column), ``[K, 2]``.

    Raises
    ------
    InputError
        If they do not fit.
    """
    shape = np.array(missing.shape)
    core = min(_CORE * gap, shape.min() / (2 * _END))
    # Clusters lie inside as a whole.
    middles = rng.uniform(
        core * _END / 2, shape - core * _END / 2, (roll.cluster.max(initial=0), 2)
    )
    central = np.array([make is draw_central for make in roll.makers], bool)

    def propose(which: np.ndarray) -> np.ndarray:
        places = rng.uniform(-0.5, shape - 0.5, (len(which), 2))
        inside = roll.cluster[which] > 0
        radius = core * _projected(rng, len(which)) * np.where(central[which], 0.05, 1.0)
        angle = rng.uniform(0, 2 * np.pi, len(which))
        offset = radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
        places[inside] = middles[roll.cluster[which][inside] - 1] + offset[inside]
        return places

    places = propose(np.arange(len(roll)))
    for _ in range(_ATTEMPTS):
        again = _unusable(places, missing)
        # The later one of two that are too close is drawn again.
        close = cKDTree(places).query_pairs(gap, output_type="ndarray") if len(roll) else None
        if close is not None:
            again = np.union1d(again, close[:, 1])
        if not again.size:
            return places
        places[again] = propose(again)
    raise _too_many(len(roll), gap)


def _too_many(count: float, gap: float) -> InputError:
    return InputError(
        f"{count:.0f} sources do not fit into the field with {gap:.2g} pixels between them; lower "
        "the density or enlarge the field."
    )


def _unusable(places: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return the indices of places beyond the border or without data."""
    pixel = np.round(places).astype(int)
    inside = np.all((pixel >= 0) & (pixel < missing.shape), axis=1)
    row, column = np.where(inside[:, None], pixel, 0).T
    return np.flatnonzero(~inside | missing[row, column])


def _projected(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw radii, in core radii, of a surface density of 1 / (1 + r^2) that ends at some radius."""
    return np.sqrt((1 + _END**2) ** rng.uniform(0, 1, count) - 1)
