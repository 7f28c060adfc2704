r"""Division of a field into scenes: groups of overlapping sources, in windows of few sizes.

Two sources are joined where their light overlaps, the closest pairs first, until a group would be
too large for a window or have too many sources.  So blends stay whole where they can, and a large
group is cut where its sources overlap least.  Every source belongs to one scene.  Those of other
scenes whose light overlaps theirs are its *halo*; what else shines into the window is *hidden*: not
fitted but masked, or the window of one bright star would have as many sources as a scene can have.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

#: Sides of windows, pixels.  Each is a program of its own.
SIZES = (64, 96, 128, 192)

#: Largest number of sources of a scene.
MOST = 12

#: Largest overlap (distance in units of both reaches) of a source that joins a window larger than the
#: last but one.
DEEP = 0.5

#: Least distance of a source from the border of its window, pixels: half a box of 32 and some.
MARGIN = 18.0

#: Distances from the border for sources with boxes of 64 and of 128 pixels, by the significance from
#: which a galaxy may need one.
WIDER = ((150.0, 34.0), (3000.0, 66.0))

#: Reach of the faintest sources in FWHM of the PSF, and what each doubling of the significance adds.
REACH, PER_DOUBLING = 1.0, 0.5

#: Significance of the faintest sources.
FAINTEST = 5.0

#: Numbers to which galaxies are padded in parametric scenes, where padding costs little, and in those
#: with a network; and to which stars are.
PROFILES, FREE_FORM, STARS = (4, 12, 32, 96), (2, 4, 8, 16, 32), (2, 8, 32)


class Window(NamedTuple):
    """Part of a field: first row and column, and side, in pixels of the field."""

    row: int
    column: int
    size: int


class Cell(NamedTuple):
    """A scene of the plan.

    Attributes
    ----------
    window
        Its pixels.
    own, halo, hidden
        Indices of its sources, of other scenes' sources whose light overlaps theirs, and of others
        with light in the window; ascending.
    """

    window: Window
    own: tuple[int, ...]
    halo: tuple[int, ...]
    hidden: tuple[int, ...]


def reach_of(significance: np.ndarray, fwhm: float) -> np.ndarray:
    """Return the radii ``[N]`` in pixels within which sources of a significance are seen."""
    doublings = np.log2(np.maximum(np.asarray(significance, float), FAINTEST) / FAINTEST)
    return fwhm * (REACH + PER_DOUBLING * doublings)


def plan_cells(
    places: np.ndarray, significance: np.ndarray, fwhm: float, shape: tuple[int, int]
) -> list[Cell]:
    """Divide sources into scenes.

    Parameters
    ----------
    places
        Positions (row, column) in the field, ``[N, 2]``.
    significance
        Signal to noise of the sources, ``[N]``, roughly.
    fwhm
        Full width at half maximum of the PSF, pixels.
    shape
        Height and width of the field.

    Returns
    -------
    list of Cell
        Scenes in the order of their windows, row by row.  The same sources give the same
        scenes, whatever their order.
    """
    places = np.asarray(places, float).reshape(-1, 2)
    reach = reach_of(significance, fwhm)
    margin = np.maximum(reach, MARGIN)
    for bright, least in WIDER:
        margin = np.where(np.asarray(significance) > bright, np.maximum(margin, least), margin)
    groups = _groups(places, reach, margin)
    windows = [_window(places[own], margin[own], shape) for own in groups]
    tree = cKDTree(places)
    largest = float(reach.max(initial=0.0))
    cells = []
    for window, own in zip(windows, groups, strict=True):
        near = _seen(window, places, reach, tree, largest, own)
        overlap = _overlap(places[near], reach[near], places[own], reach[own]).min(1, initial=1.0)
        halo, hidden = near[overlap < 1], near[overlap >= 1]
        cells.append(Cell(window, *(tuple(map(int, each)) for each in (own, halo, hidden))))
    return sorted(cells, key=lambda cell: (*cell.window, cell.own))


def _groups(places, reach, margin) -> list[np.ndarray]:
    """Join overlapping sources, the closest pairs first, while their group fits a window."""
    count = len(places)
    parent = np.arange(count)
    low, high, number = places - margin[:, None], places + margin[:, None], np.ones(count, int)

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    largest = float(reach.max(initial=0.0))
    pairs = cKDTree(places).query_pairs(2 * largest, output_type="ndarray") if count else []
    pairs = np.asarray(pairs, int).reshape(-1, 2)
    distance = np.hypot(*(places[pairs[:, 0]] - places[pairs[:, 1]]).T)
    overlap = distance / (reach[pairs[:, 0]] + reach[pairs[:, 1]])
    # Equal overlaps are taken by place, so that the order of the catalog does not matter.
    middle = places[pairs].mean(1)
    for k in np.lexsort((middle[:, 1], middle[:, 0], overlap)):
        if overlap[k] >= 1:
            break
        one, other = root(int(pairs[k, 0])), root(int(pairs[k, 1]))
        if one == other or number[one] + number[other] > MOST:
            continue
        first, last = np.minimum(low[one], low[other]), np.maximum(high[one], high[other])
        alone = max((high[k] - low[k]).max() for k in (one, other)) if overlap[k] < DEEP else 0.0
        if (last - first).max() + 1 > max(SIZES[-2], min(1.2 * alone, SIZES[-1])):
            continue
        parent[other] = one
        low[one], high[one] = first, last
        number[one] += number[other]
    roots = np.array([root(k) for k in range(count)], int)
    return [np.flatnonzero(roots == r) for r in np.unique(roots)]


def _window(places, margin, shape) -> Window:
    """Return the smallest window with room for sources, inside of the field where it can be."""
    low = np.floor((places - margin[:, None]).min(0))
    high = np.ceil((places + margin[:, None]).max(0))
    side = int((high - low).max()) + 1
    size = next((one for one in SIZES if one >= side), SIZES[-1])
    first = np.floor((low + high + 1 - size) / 2).astype(int)
    row, column = (_inside(int(f), size, n) for f, n in zip(first, shape, strict=True))
    return Window(row, column, size)


def _inside(first: int, size: int, length: int) -> int:
    """Return the first pixel of a window moved into the field; centered on a field that is smaller."""
    if length <= size:
        return (length - size) // 2
    return min(max(first, 0), length - size)


def _overlap(places, reach, others, their_reach) -> np.ndarray:
    """Return distances of sources ``[N]`` and others ``[M]`` in units of both reaches, ``[N, M]``."""
    return np.hypot(*(places[:, None] - others).T).T / (reach[:, None] + their_reach)


def _seen(window: Window, places, reach, tree, largest, own) -> np.ndarray:
    """Return sources of other scenes within the window or within their reach of it."""
    first = np.array(window[:2])
    middle, half = first + (window.size - 1) / 2, window.size / 2
    near = np.array(tree.query_ball_point(middle, half + largest, p=np.inf), int)
    beyond = np.maximum(np.abs(places[near] - middle) - half, 0.0).max(1)
    near = near[beyond < reach[near]]
    return np.setdiff1d(near, own)


def padded(number: int, steps: Sequence[int]) -> int:
    """Return the number of slots for a number of sources: few, since each is a program."""
    return next((n for n in steps if n >= number), -(-number // steps[-1]) * steps[-1])


def batches(keys: Sequence[tuple], most: Sequence[int]) -> list[list[int]]:
    """Group items of equal keys into batches, in their order.

    Parameters
    ----------
    keys
        Key of each item: those of one key run the same programs.
    most
        Largest number of items in a batch with each item.
    """
    open_batches: dict[tuple, list[int]] = {}
    found: list[list[int]] = []
    for item, (key, limit) in enumerate(zip(keys, most, strict=True)):
        batch = open_batches.get(key)
        if batch is None or len(batch) >= limit:
            batch = open_batches[key] = []
            found.append(batch)
        batch.append(item)
    return found
