"""One unit of flux for all bands: what sums over bands must not depend on the units of images."""

from collections.abc import Sequence

import numpy as np

from scorepriors.models.rendering._exposure import Exposure


def units_of(exposures: Sequence[Exposure]) -> list[np.ndarray]:
    """Return the fluxes of one image unit in every band, ``[B]`` of every exposure.

    In the unit of the first band: where all bands have one unit all are one.
    """
    each = [
        np.array([band.unit for band in one.bands]) if one.bands else np.ones(one.num_bands)
        for one in exposures
    ]
    return [one / each[0][0] for one in each]


def in_one_unit(
    images: Sequence[np.ndarray], units: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Return images ``[N, B, H, W]`` of every exposure with all bands in the unit of the first."""
    return tuple(
        image if (unit == 1).all() else image * unit.astype(image.dtype)[:, None, None]
        for image, unit in zip(images, units, strict=True)
    )
