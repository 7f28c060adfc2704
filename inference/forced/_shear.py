"""Shapes as functions of position, size and ellipticity, where a catalog alone tells their errors."""

import numpy as np
from astropy.table import Table
from scipy.ndimage import map_coordinates

from ._sources import Boxes, Slopes

#: Step of the derivatives: pixels, and relative sizes and shears.
_STEP = 0.05

#: Columns with the errors of row, column, size (relative), e1 and e2.
_ERRORS = ("y_err", "x_err", "size_err", "e1_err", "e2_err")


def slopes_of_errors(boxes: Boxes, catalog: Table) -> Slopes:
    """Return shapes that move, grow and are sheared by what a catalog gives as their errors.

    Parameters
    ----------
    boxes
        Images of the sources.
    catalog
        Their rows of the catalog; what it lacks, as shapes of stars, is taken as certain.
    """
    owner, images, variances = [], [], []
    for k, image in enumerate(boxes.images):
        light = np.asarray(image, float)
        for number, name in enumerate(_ERRORS):
            error = _error(catalog, name, k)
            if error > 0:
                owner.append(k)
                images.append(_slope(light, number))
                variances.append(error**2)
    return Slopes(boxes, np.array(owner, int), images, np.diag(np.array(variances, float)))


def _error(catalog: Table, name: str, row: int) -> float:
    """Return the error of a parameter in the units of `_slope`, zero where it is not known."""
    if name not in catalog.colnames:
        return 0.0
    value = float(getattr(catalog[name][row], "value", catalog[name][row]))
    if name == "size_err":
        size = catalog["size"][row]
        value /= float(getattr(size, "value", size))
    if name in ("e1_err", "e2_err"):
        value /= 2  # a shear of half the ellipticity
    return value if np.isfinite(value) else 0.0


def _slope(image: np.ndarray, number: int) -> np.ndarray:
    """Return the derivative of an image by row, column, relative size, or one of two shears.

    The area of the image does not change.
    """
    rows, columns = np.indices(image.shape).astype(float)
    total = image.sum()
    middle = [(axis * image).sum() / total for axis in (rows, columns)]
    y, x = rows - middle[0], columns - middle[1]
    # Where the light of a pixel came from, per unit of the parameter.
    moves = [(1, 0), (0, 1), (y, x), (-y, x), (x, y)]
    down, along = moves[number]
    ends = [
        map_coordinates(
            image, [rows - step * down, columns - step * along], order=3, mode="constant"
        )
        for step in (_STEP, -_STEP)
    ]
    ends = [end * total / end.sum() for end in ends]
    return ((ends[0] - ends[1]) / (2 * _STEP)).astype(np.float32)
