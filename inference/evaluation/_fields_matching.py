"""Which detections are which true sources of a field, and what the others are.

Pairs within a radius are taken one after the other, the most alike first: by their distance
and, where more than one pair is possible, by their fluxes.  So a detection that could be either
of two close sources goes to the one of its brightness, and each source has one detection at
most.  No pair is undone for the sake of more pairs: a second detection on a galaxy
would otherwise stand for a faint neighbor that was not found.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

#: Factor of the fluxes that counts as much as a distance of the whole radius.
_FACTOR = 10.0

#: Factor of the fluxes from which a pair is none where there are other pairs.
_APART = 30.0


@dataclass(frozen=True)
class Matches:
    """Detections of a field, sorted by what they are.

    Attributes
    ----------
    found
        Index of the detection of each true source, -1 if there is none, ``[K]``.
    true
        Index of the true source of each detection, -1 if there is none, ``[M]``.
    parent
        Of detections without a true source the index of the bright source that they are a
        piece of, -1 for none, ``[M]``.
    """

    found: np.ndarray
    true: np.ndarray
    parent: np.ndarray

    @property
    def is_shred(self) -> np.ndarray:
        """Which detections are pieces of a bright source, ``[M]``."""
        return (self.true < 0) & (self.parent >= 0)

    @property
    def is_spurious(self) -> np.ndarray:
        """Which detections are of nothing, ``[M]``."""
        return (self.true < 0) & (self.parent < 0)


def match_sources(
    true_places: np.ndarray,
    true_flux: np.ndarray,
    places: np.ndarray,
    flux: np.ndarray,
    radius: np.ndarray,
) -> np.ndarray:
    """Match detections to true sources.

    Parameters
    ----------
    true_places, places
        Centers (row, column) ``[K, 2]`` and ``[M, 2]``, pixels.
    true_flux, flux
        Fluxes summed over bands, ``[K]`` and ``[M]``; NaN where not measured.
    radius
        Largest distance from each true source, pixels, ``[K]``.

    Returns
    -------
    numpy.ndarray
        Index of the detection of each true source, -1 if there is none, ``[K]``.

    Examples
    --------
    Two sources three pixels apart, and one detection between them as bright as the second:

    >>> places = np.array([[10.0, 10.0], [10.0, 13.0]])
    >>> match_sources(places, np.array([1.0, 50.0]), np.array([[10.0, 11.5]]), np.array([45.0]),
    ...               np.array([4.0, 4.0]))
    array([-1,  0])
    """
    found = np.full(len(true_places), -1)
    if not len(true_places) or not len(places):
        return found
    near = cKDTree(places).query_ball_point(true_places, radius)
    source = np.repeat(np.arange(len(found)), [len(one) for one in near])
    detection = np.array([one for several in near for one in sorted(several)], int)
    distance = np.linalg.norm(places[detection] - true_places[source], axis=1) / radius[source]
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.abs(np.log(flux[detection] / true_flux[source]))
    # Not measured, or negative: as unlike as a pair can be.
    factor = np.where(np.isfinite(factor), factor, np.log(_APART))
    several = (np.bincount(source, minlength=len(found))[source] > 1) | (
        np.bincount(detection, minlength=len(places))[detection] > 1
    )
    unlike = distance**2 + np.where(several, (factor / np.log(_FACTOR)) ** 2, 0.0)
    allowed = ~several | (factor <= np.log(_APART))
    taken = np.zeros(len(places), bool)
    # Of pairs that are equally alike that of the brighter source comes first.
    for pair in np.lexsort((-true_flux[source], unlike)):
        k, m = source[pair], detection[pair]
        if allowed[pair] and found[k] < 0 and not taken[m]:
            found[k], taken[m] = m, True
    return found


def sort_detections(
    found: np.ndarray, places: np.ndarray, true_places: np.ndarray, extent: np.ndarray
) -> Matches:
    """Tell pieces of bright sources from detections of nothing.

    Parameters
    ----------
    found
        Result of `match_sources`.
    places, true_places
        Centers (row, column) ``[M, 2]`` and ``[K, 2]``, pixels.
    extent
        Distance from the center of each bright source within which detections without a true
        source are pieces of it, pixels; 0 for sources that are not bright, ``[K]``.
    """
    true = np.full(len(places), -1)
    true[found[found >= 0]] = np.flatnonzero(found >= 0)
    parent = np.full(len(places), -1)
    bright = np.flatnonzero(extent > 0)
    left = np.flatnonzero(true < 0)
    if bright.size and left.size:
        # The one in whose light they lie deepest.
        best = np.full(len(places), np.inf)
        near = cKDTree(places[left]).query_ball_point(true_places[bright], extent[bright])
        for k, several in zip(bright, near, strict=True):
            which = left[np.array(several, int)]
            depth = np.linalg.norm(places[which] - true_places[k], axis=1) / extent[k]
            closer = which[depth < best[which]]
            best[closer] = depth[depth < best[which]]
            parent[closer] = k
    return Matches(found, true, parent)
