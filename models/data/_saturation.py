"""Peaks about masked cores: what is left of one saturated star is one source."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import center_of_mass, distance_transform_edt, label, maximum
from scipy.spatial import cKDTree

from ._observation import Observation

#: Smallest radius, in pixels, of the largest disc in a masked core; a bad column or a cosmic ray has
#: a smaller one.
CORE = 2.0

#: Peaks up to this distance from the disc belong to it, pixels.
RIM = 2.5


def partly_masked(obs: Observation) -> Bool[np.ndarray, "H W"]:
    """Return where a band that has data elsewhere has none; bands do not saturate alike."""
    seen = obs.weights > 0
    return np.logical_not(np.all(seen[seen.any((1, 2))], axis=0))


def about_cores(
    places: Float[np.ndarray, "N 2"], mask: Bool[np.ndarray, "H W"], num_known: int = 0
) -> Float[np.ndarray, "M 2"]:
    """Return the peaks with one in the middle of a masked core instead of those about it.

    A saturated star is a ring of light about masked pixels, and every bulge of the ring a peak.
    Its middle is that of the largest disc in the mask: the trail of a bleeding column is narrower.

    Parameters
    ----------
    places
        Peaks (row, column), the first `num_known` of them known sources.
    mask
        Mask ``[H, W]``, True where there are no data.
    num_known
        Number of known sources, which stay where they are; peaks about a core that has one go.
    """
    inner = _inside(mask)
    if not inner.any() or not len(places):
        return places
    # A pixel's distance from the nearest pixel with data: half a pixel of it is outside.
    depth = distance_transform_edt(inner) - 0.5
    regions, number = label(inner)
    every = range(1, number + 1)
    radii = maximum(depth, regions, every)
    # A high power of the depth forgets the trail.
    middles = np.array(center_of_mass(depth**4, regions, every))
    gone, added = np.zeros(len(places), bool), []
    tree = cKDTree(places)
    for middle, radius in zip(middles[radii >= CORE], radii[radii >= CORE], strict=True):
        near = np.array(tree.query_ball_point(middle, radius + RIM), int)
        if not len(near):
            continue
        gone[near[near >= num_known]] = True
        if not (near < num_known).any():
            added.append(middle)
    return np.concatenate([places[~gone], np.reshape(added, (-1, 2))])


def _inside(mask: np.ndarray) -> np.ndarray:
    """Return a mask without what touches the border of the image: that is where it ends."""
    regions, _ = label(mask)
    border = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    return mask & ~np.isin(regions, border)
