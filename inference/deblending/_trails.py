r"""Straight lines across an image, such as the trails of satellites and diffraction spikes of others.

A Radon transform of what is left over, in units of its noise and cut at a few of these, finds lines on
which it is positive all along: single sources, however bright, fill a part of a line only.
"""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array

#: Deviations beyond this count as this: a star on a line must not make it a trail.
CUT = 4.0

#: Significance of a line between blocks of 2 x 2 pixels below which the pixels are not looked at: the
#: weakest line, three pixels wide, has 8.6 in rows of two blocks.
COARSE = 6.0

#: Significance of a line, of a stretch of it, and number of stretches and of those that must be
#: significant: a source or two cover the others.
LINE, STRETCH, STRETCHES, NEEDED = 10.0, 2.0, 12, 10

#: Distance from its middle that is on a line, and those that are beside it, pixels; and least brightness
#: of a stretch in units of the usual one, and largest of what is beside it in units of its own.
ON, BESIDE, EVEN = 1.5, (6.0, 10.0), 0.4

#: Light of sources, in units of the noise, where a fit is no witness.
LIT = 2.0

#: The same of the light of all other bands together, smoothed over so many pixels.
LIT_TOGETHER, SMOOTH = 3.0, 1.5

#: Least number of pixels along a line, and most trails of an image.
SHORTEST, MOST = 20, 4

#: Widths of trails that are tried, pixels.
WIDTHS = (3, 7)

#: Most entries of the matrix of lines that is kept.
ENTRIES = 2_000_000

#: Mean deviation at which a trail ends across its direction, and its largest half width, pixels.
EDGE, WIDEST = 0.4, 15


def trails(
    deviation: Float[np.ndarray, "H W"],
    seen: Bool[np.ndarray, "H W"],
    light: Float[np.ndarray, "H W"] | None = None,
) -> Bool[np.ndarray, "H W"]:
    """Return the pixels of trails across an image.

    Parameters
    ----------
    deviation
        What no source explains, in units of its noise.
    seen
        Mask, False for pixels without data.
    light
        Light of the sources in the same units.  Where there is any they may have taken that of a trail
        for their own: lines are looked for elsewhere.
    """
    found = np.zeros(deviation.shape, bool)
    cut = np.clip(deviation, -CUT, CUT)
    places = np.indices(deviation.shape) - (np.array(deviation.shape)[:, None, None] - 1) / 2
    dark = seen if light is None else seen & (np.abs(light) < LIT)
    for _ in range(MOST):
        left = dark & ~found
        if not _may_have_one(cut, left):
            break
        line = _best_line(cut[left], places[:, left])
        if line is None:
            break
        found |= _around(line, cut, left, places)
    return found


def trails_of_one_band(
    images: Float[np.ndarray, "B H W"], weights: Float[np.ndarray, "B H W"]
) -> Bool[np.ndarray, "B H W"]:
    """Return trails that are in one band alone, before any fit: none of an image of one band.

    A fit could take a trail for a disk on edge.  Sources are in all bands, so lines are looked for where
    the others together show none.

    Parameters
    ----------
    images, weights
        Pixels and inverse variances.
    """
    found = np.zeros(images.shape, bool)
    if len(images) < 2:
        return found
    seen = weights > 0
    deviation = np.array(images * np.sqrt(weights), float)
    for band, good in zip(deviation, seen, strict=True):
        band[good] -= np.median(band[good]) if good.any() else 0.0
    # Of white noise the smoothed one has the scatter 1 / (2 pi^1/2 width).
    smooth = gaussian_filter(deviation, SMOOTH, axes=(1, 2)) * (2 * math.sqrt(math.pi) * SMOOTH)
    total = smooth.sum(0)
    for number, (band, good) in enumerate(zip(deviation, seen, strict=True)):
        others = (total - smooth[number]) / math.sqrt(len(images) - 1)
        found[number] = trails(band, good, others * LIT / LIT_TOGETHER)
    return found


def _may_have_one(cut, left) -> bool:
    """Return whether blocks of 2 x 2 pixels, an eighth of the work, have a line."""
    blocks = [(n + 1) // 2 for n in cut.shape]
    even = [(0, 2 * b - n) for b, n in zip(blocks, cut.shape, strict=True)]

    def sums(image):
        return np.pad(image, even).reshape(blocks[0], 2, blocks[1], 2).sum((1, 3)).ravel()

    count = sums(left.astype(float))
    if count.sum() < SHORTEST:
        return False
    given = sums(np.where(left, cut, 0.0))
    reach = math.ceil(math.hypot(*(np.array(blocks) - 1)) / 2)
    every = tuple(np.linspace(0, math.pi, 2 * reach, False).tolist())
    share = max(ENTRIES // len(count), 1)
    # Of a scene all angles at once, by a matrix that the next one needs too.
    made = _lines_of_blocks if share >= len(every) else _lines_of_blocks.__wrapped__
    for first in range(0, len(every), share):
        angles = every[first : first + share]
        lines = made(tuple(blocks), angles, reach)
        total, pixels = ((lines @ each).reshape(len(angles), -1) for each in (given, count))
        if any((_strength(total, pixels, width) > COARSE).any() for width in (2, 4)):
            return True
    return False


@lru_cache(maxsize=4)
def _lines_of_blocks(blocks: tuple[int, int], angles: tuple[float, ...], reach: int) -> csr_array:
    """Return the matrix whose rows add up blocks along lines of some angles."""
    places = (np.indices(blocks) - (np.array(blocks)[:, None, None] - 1) / 2).reshape(2, -1)
    size, number = 2 * reach + 1, len(angles)
    across = _across(np.array(angles)[:, None], places, reach) + size * np.arange(number)[:, None]
    which = np.broadcast_to(np.arange(len(places[0])), across.shape)
    entries = np.ones(across.size), (across.ravel(), which.ravel())
    return csr_array(entries, (number * size, len(places[0])))


def _best_line(values, places) -> tuple[float, float] | None:
    """Return angle and distance from the middle of the most significant line; None if none is."""
    if len(values) < SHORTEST:
        return None
    reach = math.ceil(np.hypot(*places).max())
    step = math.pi / math.ceil(math.pi * reach)
    best, score = None, LINE
    for angle in np.arange(0, math.pi, step):
        place, value = _peak(angle, values, places, reach)
        if value > score:
            best, score = (angle, place), value
    if best is None:
        return None
    finer = best[0] + step * np.linspace(-0.8, 0.8, 9)
    each = [(*_peak(angle, values, places, reach), angle) for angle in finer]
    place, _, angle = max(each, key=lambda one: one[1])
    return (angle, place) if _is_whole(angle, place, values, places) else None


def _across(angle, places, reach: int) -> np.ndarray:
    """Return distances of places from the line of an angle through the middle, from `-reach` on."""
    return np.round(np.cos(angle) * places[0] + np.sin(angle) * places[1]).astype(int) + reach


def _strength(total: np.ndarray, count: np.ndarray, width: int) -> np.ndarray:
    """Return the significance of bundles of lines ``[..., n]`` from sums and numbers of pixels."""
    along = _bundled(count, width)
    strength = _bundled(total, width) / np.sqrt(np.maximum(along, 1.0))
    return np.where(along < width * SHORTEST, 0.0, strength)


def _bundled(lines: np.ndarray, width: int) -> np.ndarray:
    """Return sums over as many neighbors ``[..., n]``."""
    if lines.ndim == 1:
        return np.convolve(lines, np.ones(width), "same")
    padded = np.pad(lines, ((0, 0), (width // 2, (width - 1) // 2)))
    return sliding_window_view(padded, width, -1).sum(-1)


def _peak(angle: float, values, places, reach: int) -> tuple[float, float]:
    """Return the best distance from the middle of lines of one angle, and its significance."""
    across, size = _across(angle, places, reach), 2 * reach + 1
    total = np.bincount(across, values, size)
    count = np.bincount(across, minlength=size).astype(float)
    best = 0.0, 0.0
    for width in WIDTHS:
        strength = _strength(total, count, width)
        at = int(np.argmax(strength))
        if strength[at] > best[1]:
            best = float(at - reach), float(strength[at])
    return best


def _is_whole(angle: float, place: float, values, places) -> bool:
    """Return whether a line is brighter than what is beside it along all of its length."""
    across = np.abs(math.cos(angle) * places[0] + math.sin(angle) * places[1] - place)
    along = math.cos(angle) * places[1] - math.sin(angle) * places[0]
    on = across <= ON
    edges = np.quantile(along[on], np.linspace(0, 1, STRETCHES + 1)[1:-1])
    which = np.searchsorted(edges, along)

    def means(where):
        count = np.maximum(np.bincount(which[where], minlength=STRETCHES), 1)
        return np.bincount(which[where], values[where], STRETCHES) / count, 1 / count

    (mean, variance), (other, of_other) = (
        means(on),
        means((across > BESIDE[0]) & (across <= BESIDE[1])),
    )
    excess = (mean - np.maximum(other, 0.0)) / np.sqrt(variance + of_other)
    even = (mean > EVEN * np.median(mean)) & (other < EVEN * mean)
    return int(((excess > STRETCH) & even).sum()) >= NEEDED


def _around(line: tuple[float, float], cut, left, places) -> np.ndarray:
    """Return the pixels of a trail across its whole width."""
    angle, place = line
    across = math.cos(angle) * places[0] + math.sin(angle) * places[1] - place
    near = left & (np.abs(across) <= WIDEST)
    which = np.round(across[near]).astype(int) + WIDEST
    count = np.bincount(which, minlength=2 * WIDEST + 1)
    # Sources beside a trail are no part of it: the median of a row is not theirs.
    rows = [cut[near][which == one] for one in range(2 * WIDEST + 1)]
    bright = np.array([len(row) > 0 and np.median(row) > EDGE for row in rows]) & (count > 0)
    low = high = WIDEST
    while low > 0 and bright[low - 1]:
        low -= 1
    while high < 2 * WIDEST and bright[high + 1]:
        high += 1
    # Where the profile has fallen to the edge it goes on for a pixel.
    return (across >= low - WIDEST - 1.5) & (across <= high - WIDEST + 1.5)
