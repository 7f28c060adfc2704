"""Grids of PSFs: interpolated between positions on a detector, as by photutils."""

import re
from collections.abc import Sequence

import numpy as np
from astropy.io import fits

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note
from scorepriors.models.data.readers._files import HDU

from ._images import card_of_band, sampling
from ._sources import Place, Source, Stamp, constant, tell_if_a_part

#: Difference of pixels of a detector and of its undistorted image, relative.
_DISTORTION = 0.05

#: Oversampling of all STDPSF files.
_STDPSF = 4.0


def grid_sources(hdus: Sequence[HDU], label: str) -> list[Source]:
    """Return the PSFs of a grid in a FITS file, one for each HDU that holds one.

    Two layouts are known, both cubes ``[N, P, P]`` of effective PSFs: STPSF's (cards
    ``DET_YX0`` ... with "(y, x)" counted from 0, ``OVERSAMP``), and STDPSF's (``NXPSFS``,
    ``NYPSFS``, ``IPSFXnn``, ``JPSFYnn`` counted from 1, oversampled by 4).
    """
    found = []
    for hdu in hdus:
        if not isinstance(hdu.data, np.ndarray) or hdu.data.ndim not in (2, 3):
            continue
        cube = hdu.data if hdu.data.ndim == 3 else hdu.data[None]
        if "DET_YX0" in hdu.header:
            points = [
                _pair(hdu.header[f"DET_YX{i}"], label)
                for i in range(len(cube))
                if f"DET_YX{i}" in hdu.header
            ]
            oversampling = sampling(hdu.header)["oversampling"]
            if oversampling is None:
                raise InputError(f"{label} is a grid of PSFs without the card OVERSAMP; add it.")
        elif "NXPSFS" in hdu.header and "NYPSFS" in hdu.header:
            points, oversampling = _stdpsf_points(hdu.header, label), _STDPSF
        else:
            continue
        if len(points) != len(cube):
            raise InputError(f"{label} is a grid of {len(cube)} PSFs at {len(points)} positions.")
        found.append(
            grid_source(
                cube,
                np.array(points),
                oversampling,
                label,
                card_of_band(hdu.header),
                sampling(hdu.header)["scale"],
            )
        )
    return found


def grid_source(
    cube: np.ndarray,
    points: np.ndarray,
    oversampling: float,
    label: str,
    band: str | None = None,
    scale: float | None = None,
) -> Source:
    """Return the source of effective PSFs on a rectangular grid.

    Parameters
    ----------
    cube
        PSFs ``[N, P, P]``.
    points
        Their positions (row, column) ``[N, 2]``, pixels counted from 0.
    oversampling
        Samples per pixel.
    label
        Name of the file.
    band
        Name of the band, or None.
    scale
        Arcseconds per sample, or per pixel of the detector; None if unknown.
    """
    rows, columns = (np.unique(points[:, axis]) for axis in (0, 1))
    where = {tuple(point): number for number, point in enumerate(points)}
    if len(where) != len(rows) * len(columns):
        raise InputError(
            f"the {len(points)} PSFs of {label} do not lie on a rectangular grid; give an image "
            "of the PSF at the scene."
        )

    def at(place: Place) -> Stamp:
        _compare_scale(label, scale, oversampling, place.scale)
        if len(points) == 1:
            return Stamp(cube[0], oversampling=oversampling, effective=True)
        if place.row is None or place.column is None:
            raise InputError(f"{label} varies with position, and none is known; give place=.")
        tell_if_a_part(label, place, float(np.ptp(points, axis=0).max()))
        inside = rows[0] <= place.row <= rows[-1] and columns[0] <= place.column <= columns[-1]
        if not inside:
            note(
                f"the scene at (row {place.row:.0f}, column {place.column:.0f}) lies outside the "
                f"grid of PSFs of {label} (rows {rows[0]:.0f} to {rows[-1]:.0f}, columns "
                f"{columns[0]:.0f} to {columns[-1]:.0f}); the PSF of its border was taken."
            )
        image = sum(
            weight_row * weight_column * cube[where[row, column]]
            for row, weight_row in _neighbors(rows, place.row)
            for column, weight_column in _neighbors(columns, place.column)
        )
        return Stamp(image, oversampling=oversampling, effective=True)

    return Source(label, at, band, of_detector=True)


def _compare_scale(
    label: str, scale: float | None, oversampling: float, image: float | None
) -> None:
    """Say that a grid is for pixels of another side, as those of a mosaic."""
    if scale is None or image is None:
        return
    if min(abs(scale / image - 1), abs(scale * oversampling / image - 1)) > _DISTORTION:
        note(
            f"{label} is a grid of PSFs for pixels of {scale:.4g} or {scale * oversampling:.4g} "
            f"arcsec, but the image has {image:.4g}; its PSF was taken for those of the image all "
            "the same, so give an image of the PSF on them instead."
        )


def _neighbors(grid: np.ndarray, value: float) -> list[tuple[float, float]]:
    """Return the points of a grid beside a value, and their weights."""
    value = float(np.clip(value, grid[0], grid[-1]))
    after = int(np.clip(np.searchsorted(grid, value), 1, len(grid) - 1)) if len(grid) > 1 else 0
    if after == 0:
        return [(grid[0], 1.0)]
    low, high = grid[after - 1], grid[after]
    share = (value - low) / (high - low)
    return [(low, 1 - share), (high, share)]


def _pair(text, label: str) -> tuple[float, float]:
    numbers = re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", str(text))
    if len(numbers) != 2:
        raise InputError(f"a card DET_YX of {label} holds {text!r}; give '(y, x)'.")
    row, column = map(float, numbers)
    return row, column


def _stdpsf_points(header: fits.Header, label: str) -> list[tuple[float, float]]:
    def along(card: str, count: int) -> list[float]:
        if f"{card}01" in header:
            return [float(header[f"{card}{i:02d}"]) - 1 for i in range(1, count + 1)]
        # Files of several detectors list ten positions in one card.
        words = " ".join(
            str(header[f"{card}{letter}5"]) for letter in "ABCD" if f"{card}{letter}5" in header
        )
        return [float(word) - 1 for word in words.split()][:count]

    columns = along("IPSFX", int(header["NXPSFS"]))
    rows = along("JPSFY", int(header["NYPSFS"]))
    if len(set(columns)) != int(header["NXPSFS"]) or len(set(rows)) != int(header["NYPSFS"]):
        raise InputError(
            f"{label} holds PSFs of several detectors; give an image of the PSF at the scene."
        )
    return [(row, column) for row in rows for column in columns]


def photutils_source(psf, label: str) -> Source:
    """Return the source of a PSF model of photutils: a grid, or one image."""
    sampled = np.unique(np.atleast_1d(psf.oversampling))
    if len(sampled) != 1:
        raise InputError(f"{label} is oversampled by {sampled.tolist()}; both axes must agree.")
    data = np.asarray(psf.data, float)
    if hasattr(psf, "grid_xypos"):
        points = np.asarray(psf.grid_xypos, float)[:, ::-1]
        return grid_source(data, points, float(sampled[0]), label)
    if data.ndim != 2:
        raise InputError(f"{label} holds an array of the shape {data.shape}; give a PSF image.")
    stamp = Stamp(data, oversampling=float(sampled[0]), effective=True)
    return constant(label, stamp)
