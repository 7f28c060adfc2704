"""How much the PSF changes within the scenes of a field, which have one each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._plan import Window

#: Change of the PSF between the middle of a scene and its corners, as an error of a point's flux, from
#: which on it is said: a flux with a signal to noise of a hundred would be off by its own error, and few
#: calibrations are better.
CHANGE = 0.01


def psf_change(field: Any, window: Window) -> np.ndarray:
    """Return the largest relative error of a point's flux at the corners of a scene, ``[B]``.

    It is that of a fit with the PSF of the middle, in white noise: P0 Pc / P0 P0 - 1 for the PSFs P0
    of the middle and Pc of the corner, which are compared as the field gives them.

    Parameters
    ----------
    field
        The field; beyond it PSFs are those of its border.
    window
        Pixels of the scene.
    """
    half = (window.size - 1) / 2
    middle = np.asarray(field.psfs_at(window.row + half, window.column + half), float)
    power = (middle**2).sum((1, 2))
    worst = np.zeros(len(middle))
    for down in (0, window.size - 1):
        for right in (0, window.size - 1):
            there = np.asarray(field.psfs_at(window.row + down, window.column + right), float)
            product = (middle * there).sum((1, 2))
            # A band without any PSF at a place has no light there that could be wrong.
            known = (power > 0) & (there.sum((1, 2)) > 0)
            error = np.abs(product / np.where(power > 0, power, 1.0) - 1)
            worst = np.maximum(worst, np.where(known, error, 0.0))
    return worst


def change_facts(changes: Sequence[np.ndarray], bands: Sequence[str]) -> dict[str, Any]:
    """Return what a summary says of `psf_change` of all scenes.

    Returns
    -------
    dict
        ``largest`` by band, ``limit`` (`CHANGE`), and ``scenes``, the number of those beyond it.
    """
    all_ = np.asarray(changes, float).reshape(len(changes), len(bands))
    largest = all_.max(0, initial=0.0)
    return {
        "largest": {band: float(one) for band, one in zip(bands, largest, strict=True)},
        "limit": CHANGE,
        "scenes": int((all_ > CHANGE).any(1).sum()),
    }


def change_words(found: Mapping[str, Any], number: int) -> str:
    """Return a sentence on `change_facts` of a number of scenes; empty if none is beyond the limit."""
    if not found["scenes"]:
        return ""
    band = max(found["largest"], key=found["largest"].__getitem__)
    return (
        f"a scene has one PSF in each band, that of its middle, and in {found['scenes']} of {number} scenes "
        f"that of a corner differs by more than {100 * found['limit']:g} %, at most by "
        f"{100 * found['largest'][band]:.2g} % of the flux of a point (band {band}): fluxes near the "
        "corners of these scenes are off by as much."
    )
