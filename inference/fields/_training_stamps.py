"""Stamps of the galaxies of a finished field, for a prior that learns from them."""

import hashlib
from typing import Any

import numpy as np

from scorepriors._errors import InputError
from scorepriors.models.noise._correlation import error_factor

from ._stamps import source
from ._tasks import mended

#: Smallest signal to noise of a galaxy that a prior learns from.
MIN_SNR = 20.0

#: Error of the light of neighbors that is subtracted, as a share of it.
NEIGHBOR_ERROR = 0.05

#: Largest share of a stamp's pixels, and of the galaxy's light in it, that may be missing.
MOST_MISSING = 0.25


def field_stamps(
    result: Any, box: int, *, min_snr: float = MIN_SNR, neighbor_error: float = NEIGHBOR_ERROR
) -> dict[str, np.ndarray]:
    """Return stamps of the galaxies of a field, without their neighbors.

    Galaxies are taken that have no flag, and a signal to noise of `min_snr` and more, each in the
    band in which its own is highest.  Pixels are those that its scene was fitted to: without its
    sky, errors rescaled, outliers with the weight that the fit left them.  Where noise is
    correlated, errors are those of sums over many pixels.

    Parameters
    ----------
    result
        Result of `deblend_field`, or of `open_field`.
    box
        Side of the stamps, pixels; galaxies are in the middle, to half a pixel.
    min_snr
        Smallest signal to noise, of all bands together (column ``snr``) and of the galaxy's light
        in the band that is taken.
    neighbor_error
        Standard error of the light of neighbors, as a share of it: added to the variance.

    Returns
    -------
    dict
        ``images`` and ``variance`` ``[N, box, box]``, ``psf`` ``[N, P, P]``, ``mask``, and for
        people ``id``: what `data.noisy` of a recipe reads.

    Raises
    ------
    InputError
        If no source is left.
    """
    catalog = result.catalog
    wanted = (np.asarray(catalog["flag_bits"]) == 0) & ~np.isin(catalog["model"], ["point", "none"])
    bright = np.nan_to_num(np.asarray(catalog["snr"], float)) >= min_snr
    found: dict[str, list] = {"images": [], "variance": [], "psf": [], "mask": [], "id": []}
    for row in np.flatnonzero(wanted & bright):
        one = _stamp(result, str(catalog["id"][row]), box, neighbor_error, min_snr)
        if one is not None:
            for name, value in one.items():
                found[name].append(value)
    if not found["id"]:
        raise InputError(
            f"no galaxy of the field is left: of {len(catalog)} sources {wanted.sum()} are galaxies "
            f"without flags, {(wanted & bright).sum()} of these have a signal to noise of {min_snr:g}, "
            "and none has that in one band and enough pixels; lower it, or take a deeper field."
        )
    return {name: np.stack(values) for name, values in found.items()}


def field_digest(result: Any) -> str:
    """Return a digest of a field's catalog, which changes when the field is deblended differently."""
    digest = hashlib.sha256()
    for name in result.catalog.colnames:
        column = result.catalog[name]
        values = np.asarray(getattr(column, "value", column))
        if values.dtype.kind == "O":
            values = values.astype(str)
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def _stamp(
    result: Any, id: str, box: int, neighbor_error: float, min_snr: float
) -> dict[str, Any] | None:
    """Return the stamp of a source; None where too much is missing, or it is too faint."""
    stamp = source(result, id)
    row, column = (float(stamp.row[name][0]) for name in ("y", "x"))
    # The middle of a box is between two pixels where its side is even, as for galaxies of a prior.
    corner = tuple(round(at - (box - 1) / 2) for at in (row, column))
    seen = result.field.window(*corner, box, box)
    if not seen.weights.any():
        return None
    seen = mended(seen, *result._mending(id))
    weights = seen.weights * result.kept(*corner, box, box)
    if result.field.correlation is not None:
        # Noise of the likelihood is white: as much as that of sums over many pixels, where that is more.
        factor = np.maximum(error_factor(np.asarray(result.field.correlation)), 1)
        weights = weights / factor[:, None, None] ** 2
    others = np.array(result.model(*corner, box, box))
    own = np.zeros_like(others)
    offset = np.subtract(stamp.observed_corner, corner)
    inner, outer = [], []
    for shift, size in zip(offset, stamp.observed.shape[1:], strict=True):
        start, stop = max(shift, 0), min(shift + size, box)
        inner.append(slice(start, stop))
        outer.append(slice(start - shift, stop - shift))
    own[:, *inner] = stamp.observed[:, *outer]
    # Within its own window the light of all others is known; beyond it the source has none.
    others[:, *inner] = stamp.others[:, *outer]
    squared = (own**2 * weights).sum((1, 2))
    band = int(np.argmax(squared))
    if squared[band] < min_snr**2:
        return None
    weights = weights[band]
    mask = ~(weights > 0)
    light = own[band].sum()
    if max(mask.mean(), own[band][mask].sum() / light if light > 0 else 1) > MOST_MISSING:
        return None
    variance = 1 / np.where(mask, 1, weights) + (neighbor_error * others[band]) ** 2
    return {
        "images": np.where(mask, 0, seen.images[band] - others[band]),
        "variance": variance,
        "psf": seen.psfs[band],
        "mask": mask,
        "id": id,
    }
