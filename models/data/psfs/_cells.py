"""PSFs of cells, as in Rubin's coadds, and mosaics of stamps, as of Euclid."""

import json
import warnings
from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note
from scorepriors.models.data.readers._files import HDU, find_hdu

from ._images import card_of_band, sampling
from ._sources import Place, Source, Stamp

#: Side of the cells of Rubin's coadds, pixels.
_RUBIN_CELL = 150

#: Distance to the nearest stamp, over that of stamps, beyond which the file is of elsewhere.
_FAR = 2.0

#: Names of columns of positions in pixels, and on the sky, in catalogs of stamps.
_PIXELS, _SKY = ("X", "Y"), ("RA", "DEC")


def cell_sources(hdus: Sequence[HDU], label: str, *, named_only: bool = False) -> list[Source]:
    """Return the PSF of an HDU ``[cells_y, cells_x, P, P]``; none if there is no such one.

    The grid comes from the file's JSON (``bounds`` of the PSF, in pixels of the patch, whose
    corner the image's ``LTV`` cards or its WCS ``A`` tell).  Cells without PSF are NaN.  In a file
    of an image, `named_only`, it is one with PSF in its name: others can be cubes of sources.
    """
    found = next(
        (
            hdu
            for hdu in hdus
            if isinstance(hdu.data, np.ndarray)
            and hdu.data.ndim == 4
            and ("PSF" in hdu.name or not named_only)
        ),
        None,
    )
    if found is None:
        return []
    cells = np.asarray(found.data, float)
    good = np.isfinite(cells).all(axis=(2, 3)) & (cells.sum(axis=(2, 3)) > 0)
    if not good.any():
        raise InputError(f"every cell of the PSF of {label} is NaN; give a PSF image.")
    image = find_hdu(hdus, ("IMAGE", "SCI"))
    bounds = _bounds(hdus)

    def at(place: Place) -> Stamp:
        if good.size == 1:
            return Stamp(cells[0, 0], **sampling(found.header))
        row, column = _cell_of(place, cells.shape[:2], image, bounds, label)
        rows, columns = np.nonzero(good)
        distance = np.hypot(rows + 0.5 - row, columns + 0.5 - column)
        nearest = int(np.argmin(distance))
        chosen = int(rows[nearest]), int(columns[nearest])
        own = (
            int(np.clip(row, 0, cells.shape[0] - 1)),
            int(np.clip(column, 0, cells.shape[1] - 1)),
        )
        if not good[own]:
            note(
                f"{label} has no PSF for the scene's cell (row {own[0]}, column {own[1]}); that "
                f"of the nearest one was taken (row {chosen[0]}, column {chosen[1]})."
            )
        else:
            chosen = own
        return Stamp(cells[chosen], **sampling(found.header))

    return [Source(label, at, card_of_band(found.header), found.name)]


def _bounds(hdus: Sequence[HDU]) -> dict | None:
    """Return corner (row, column) and shape of the cells from the JSON of Rubin's files."""
    found = find_hdu(hdus, ("JSON",))
    if found is None or not isinstance(found.data, Table):
        return None
    try:
        tree = json.loads(bytes(np.asarray(found.data[found.data.colnames[0]][0], np.uint8)))
        bounds = tree["psf"]["bounds"]
        box, shape = bounds["bbox"], bounds["grid"]["cell_shape"]
        return {
            "start": (float(box["y"]["start"]), float(box["x"]["start"])),
            "shape": (float(shape["y"]), float(shape["x"])),
        }
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _cell_of(place: Place, count, image: HDU | None, bounds, label: str) -> tuple[float, float]:
    """Return the cell (row, column) of a place, with its fraction."""
    where = _in_image(place, image)
    if where is None:
        raise InputError(f"{label} varies with position, and none is known; give place=.")
    if bounds is not None and image is not None:
        corner = _corner(image)
        if corner is not None:
            return tuple(
                (at + first - start) / side
                for at, first, start, side in zip(where, corner, bounds["start"], bounds["shape"])
            )
    shape = np.shape(image.data)[-2:] if image is not None else None
    if shape is not None and all(n % c == 0 for n, c in zip(shape, count, strict=True)):
        sides = tuple(n / c for n, c in zip(shape, count, strict=True))
    else:
        sides = (_RUBIN_CELL, _RUBIN_CELL)
        note(
            f"{label} does not tell where the cells of its PSF lie; they were taken to be "
            f"{_RUBIN_CELL} pixels wide from the corner of the image."
        )
    return where[0] / sides[0], where[1] / sides[1]


def _in_image(place: Place, image: HDU | None) -> tuple[float, float] | None:
    """Return (row, column) in the image that the cells belong to: by its WCS, else as given."""
    if image is not None and place.sky is not None and "CTYPE1" in image.header:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                x, y = WCS(image.header, naxis=2).all_world2pix([place.sky], 0)[0]
                if np.isfinite([x, y]).all():
                    return float(y), float(x)
            except Exception:  # without a WCS pixels are those of the scene's own file
                pass
    return None if place.row is None or place.column is None else (place.row, place.column)


def _corner(image: HDU) -> tuple[float, float] | None:
    """Return the pixel (row, column) of the patch that the image starts at."""
    header = image.header
    if "LTV1" in header and "LTV2" in header:
        return -float(header["LTV2"]), -float(header["LTV1"])
    if all(card in header for card in ("CRVAL1A", "CRVAL2A")):
        offset = [float(header.get(f"CRPIX{i}A", 1)) - 1 for i in (2, 1)]
        return float(header["CRVAL2A"]) - offset[0], float(header["CRVAL1A"]) - offset[1]
    return None


def mosaic_sources(hdus: Sequence[HDU], label: str) -> list[Source]:
    """Return the PSF of a mosaic of stamps and its table, as Euclid's; none if there is none.

    The mosaic has a card ``STMPSIZE``; the table gives each stamp's place on the sky (``RA``,
    ``Dec``) and in pixels (``x``, ``y``), and its center in the mosaic (``x_center``,
    ``y_center``).  The stamp nearest to the scene is taken.
    """
    mosaic = next(
        (
            hdu
            for hdu in hdus
            if isinstance(hdu.data, np.ndarray) and hdu.data.ndim == 2 and "STMPSIZE" in hdu.header
        ),
        None,
    )
    if mosaic is None:
        return []
    table = next((hdu.data for hdu in hdus if isinstance(hdu.data, Table)), None)
    columns = (
        {} if table is None else {name.upper(): np.asarray(table[name]) for name in table.colnames}
    )
    if not {"X_CENTER", "Y_CENTER"} <= set(columns):
        raise InputError(
            f"{label} is a mosaic of PSF stamps without a table of their x_center and y_center; "
            "cut out the stamp nearest to the scene."
        )
    size = int(mosaic.header["STMPSIZE"])
    starts = _starts(columns, size, mosaic.data.shape, label)

    stamps = [mosaic.data[row : row + size, column : column + size] for row, column in starts]
    good = np.array([np.isfinite(stamp).all() and stamp.sum() > 0 for stamp in stamps])
    if not good.any():
        raise InputError(f"{label} holds no stamp without NaN; give a PSF image.")

    def at(place: Place) -> Stamp:
        away = _away(columns, place, label)
        distance = np.hypot(*away)
        nearest = int(np.argmin(np.where(good, distance, np.inf)))
        if not good[int(np.argmin(distance))]:
            note(f"the stamp of {label} nearest to the scene is empty; the next was taken.")
        # Typical distance of neighbors: that of a square grid of as many.
        spacing = max(np.ptp(away, axis=1).max() / np.sqrt(len(stamps)), 1e-12)
        if len(stamps) > 1 and distance[nearest] > _FAR * spacing:
            note(
                f"the scene lies {distance[nearest] / spacing:.0f} times the distance of stamps "
                f"from the nearest PSF of {label}; check that the file is of the same field."
            )
        return Stamp(np.asarray(stamps[nearest], float), **sampling(mosaic.header))

    return [Source(label, at, card_of_band(mosaic.header))]


def _starts(columns, size: int, shape: tuple[int, int], label: str) -> np.ndarray:
    """Return the first pixel (row, column) of each stamp.

    Centers count from 0 or from 1: where stamps tile the mosaic, both lie in one tile.
    """
    centers = np.stack([columns["Y_CENTER"], columns["X_CENTER"]], axis=1).astype(float)
    if all(n % size == 0 for n in shape):
        starts = size * np.floor(centers / size).astype(int)
    else:
        starts = np.rint(centers - 1 - (size - 1) / 2).astype(int)
    inside = (starts >= 0).all(1) & (starts + size <= np.array(shape)).all(1)
    if not inside.all():
        raise InputError(
            f"{label} names {(~inside).sum()} stamp(s) of {size} pixels (STMPSIZE) that reach "
            "beyond its mosaic; download it again, or cut out a stamp yourself."
        )
    return starts


def _away(columns, place: Place, label: str) -> np.ndarray:
    """Return how far stamps lie from a place, ``[2, N]``: in degrees, or in pixels."""
    if place.sky is not None and set(_SKY) <= set(columns):
        ra, dec = columns["RA"].astype(float), columns["DEC"].astype(float)
        east = (ra - place.sky[0] + 180) % 360 - 180
        return np.stack([east * np.cos(np.deg2rad(place.sky[1])), dec - place.sky[1]])
    if place.row is not None and place.column is not None and set(_PIXELS) <= set(columns):
        x, y = columns["X"].astype(float), columns["Y"].astype(float)
        return np.stack([x - place.column, y - place.row])
    raise InputError(
        f"{label} varies with position, and the scene's is not known; give the image a WCS, or "
        "cut out the stamp nearest to it."
    )
