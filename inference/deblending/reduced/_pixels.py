"""Pixels from which the components of an image are known.

An image in a space of few dimensions is known from its values at as many pixels, well chosen, and
only they need to be drawn (empirical interpolation: Chaturantabut & Sorensen 2010, SIAM J. Sci.
Comput. 32, 2737; pixels by pivots: Drmac & Gugercin 2016, SIAM J. Sci. Comput. 38, A631; more pixels
than components: Everson & Sirovich 1995, J. Opt. Soc. Am. A 12, 1657).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import qr

from scorepriors._threads import one_thread
from scorepriors._typing import Array

#: Number of pixels per source: twice that of components, so that noise of the rest averages out.
NUM_PIXELS = 64

#: Ridge of the regression of coefficients on pixels, in units of the mean square of a pixel.
RIDGE = 1e-9


class Components(NamedTuple):
    """Components of the images of K sources.

    Attributes
    ----------
    image
        Their images ``[K, J, n, n]``.
    coefficients
        Coefficients ``[K, T, J]`` of the images that they were made of.
    """

    image: Float[Array, "K J n n"]
    coefficients: Float[Array, "K T J"]


def num_pixels(box: int) -> int:
    """Return the number of pixels that are drawn of each source in boxes of a side."""
    return min(NUM_PIXELS, box**2)


def at_pixels(
    image: Float[Array, "K n n"], changes: Float[Array, "K T n n"], components: Components
) -> tuple[Int[Array, "K P 2"], Float[Array, "K P"], Float[Array, "K J P"]]:
    """Return pixels of each source, its image there, and the map from changes there to coefficients.

    Parameters
    ----------
    image, changes
        Images at the origin, and changes of them.
    components
        Components of the changes.
    """
    box = image.shape[-1]
    number = num_pixels(box)
    pixels, project = [], []
    coefficients = np.asarray(components.coefficients, float)
    with one_thread():
        for change, wanted in zip(changes, coefficients, strict=True):
            rows = change.reshape(len(change), -1).astype(float)
            chosen = np.sort(qr(rows, mode="r", pivoting=True)[1][:number])
            at = rows[:, chosen]
            normal = at.T @ at
            normal += RIDGE * np.trace(normal) / number * np.eye(number)
            project.append(np.linalg.solve(normal, at.T @ wanted).T)
            pixels.append(np.stack(np.unravel_index(chosen, (box, box)), -1))
    found = np.stack(pixels).astype(np.int32)
    sources = np.arange(len(image))[:, None]
    seen = image[sources, found[..., 0], found[..., 1]]
    return found, seen.astype(np.float32), np.stack(project).astype(np.float32)
