"""Correlations of the noise in FITS files: written by us, or from realizations of the noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scorepriors.models.data._warnings import note
from scorepriors.models.noise._correlation import by_band, error_factor
from scorepriors.models.noise._estimates import realization_correlation

from ._files import Box

#: Name of the HDU in files of `Observation.to_fits`.
CORRELATION = "CORRELATION"

#: How names of HDUs with realizations begin, in files of Rubin from DP2 on.
_REALIZATIONS = "NOISE_REALIZATIONS"

#: Noise of large areas over that of independent pixels from which a sentence says so.
_WORTH = 1.02


def correlation_in(
    file: Any, weights: np.ndarray, boxes: Sequence[Box] | None
) -> np.ndarray | None:
    """Return the correlations ``[B, k, k]`` of the noise that an image file tells; None if it does not.

    Parameters
    ----------
    file
        The `ImageFile`.
    weights
        Inverse variances ``[B, H, W]`` that were read.
    boxes
        Boxes that were read, one beside the other; None for the whole image.

    Warns
    -----
    FileWarning
        If they come from realizations of the noise, with what they do to errors.
    """
    own = [one for one in file.extensions if one.name == CORRELATION and one.shape is not None]
    if own:
        return by_band(own[0].pixels(None), len(weights))
    shape = file.extensions and file.groups[0].image.shape
    names = [
        one for one in file.extensions if one.name.startswith(_REALIZATIONS) and one.shape == shape
    ]
    if not names or len(weights) != 1:
        return None
    cut = file.image(0).cut.at(boxes)
    noise = np.stack([np.asarray(cut.of(one, one.label), float) for one in names])
    # Pixels of two boxes are no neighbors.
    count = 1 if boxes is None else len(boxes)
    parts = np.concatenate(np.split(noise, count, axis=-1))
    apart = np.split(weights[0], count, axis=-1)
    found = realization_correlation(parts, np.repeat(apart, len(names), axis=0))
    factor = float(error_factor(found))
    if factor < _WORTH:
        return None
    note(
        f"{file.path.name}: by its {len(names)} noise realization(s) pixels scatter together, and errors "
        f"of fluxes are {factor:.2f} times those of independent pixels; that is taken into account "
        "(correlation='white' or --correlation white does not)."
    )
    return found[None]
