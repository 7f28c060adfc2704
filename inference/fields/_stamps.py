"""One source of a finished field: its row, its images and those of its surroundings."""

import difflib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors._files import atomic_path
from scorepriors.inference.deblending._hdus import fits_text, image_header
from scorepriors.models.data.readers._options import FileOptions

from ._tables import fits_table

#: Ids that are named where one is not known.
_NEAREST = 3


class SourceStamp(NamedTuple):
    """One source of a field with its surroundings, in the unit of the image.

    Attributes
    ----------
    id
        Its name.
    row
        Its row of the catalog, a table of length one.
    bands
        Names of the bands.
    unit
        Unit of the pixels, or None.
    model
        Its light at the model's resolution, ``[B, n, n]``.
    corner
        Row and column of the first pixel of `model` in the field.
    wcs
        WCS of `model`, or None.
    observed
        Its light as observed, ``[B, m, m]``.
    others
        Light of all other sources there, ``[B, m, m]``.
    data, weights
        Pixels of the field there and their inverse variances, ``[B, m, m]``.
    sky
        Sky that was subtracted before the fit, ``[B, m, m]``; it is in `data`.
    observed_corner
        Row and column of their first pixel in the field.
    observed_wcs
        Their WCS, or None.
    """

    id: str
    row: QTable
    bands: tuple[str, ...]
    unit: Any
    model: np.ndarray
    corner: tuple[int, int]
    wcs: WCS | None
    observed: np.ndarray
    others: np.ndarray
    data: np.ndarray
    weights: np.ndarray
    sky: np.ndarray
    observed_corner: tuple[int, int]
    observed_wcs: WCS | None

    @property
    def alone(self) -> np.ndarray:
        """Data minus sky and light of all others ``[B, m, m]``, NaN where masked."""
        alone = self.data - self.sky - self.others
        return np.where(self.weights > 0, alone, np.float32(np.nan))

    @property
    def residual(self) -> np.ndarray:
        """Data minus sky and light of all sources ``[B, m, m]``, NaN where masked."""
        return self.alone - self.observed

    def write(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write FITS, atomically.

        Extensions are the cubes MODEL (at the model's resolution), OBSERVED, DATA, ALONE (data
        minus sky and all others) and RESIDUAL, NaN where masked, and CATALOG with the source's row.

        Parameters
        ----------
        path
            File to write.
        overwrite
            Whether to replace a file.

        Raises
        ------
        InputError
            If the file exists and `overwrite` is False, or its folder does not.
        """
        path = check_file_target(path, overwrite)
        seen = self.weights > 0
        cubes = {
            "MODEL": self.model,
            "OBSERVED": self.observed,
            "DATA": np.where(seen, self.data, np.nan),
            "ALONE": self.alone,
            "RESIDUAL": self.residual,
        }
        hdus = [fits.PrimaryHDU()]
        hdus[0].header["SOURCEID"] = fits_text(self.id)
        for name, cube in cubes.items():
            is_model = name == "MODEL"
            wcs = self.wcs if is_model else self.observed_wcs
            plain = None if wcs is None else wcs.to_header(relax=True)
            header = image_header(plain, self.bands, self.unit)
            corner = self.corner if is_model else self.observed_corner
            header["ROW0"] = (int(corner[0]), "row of the first pixel in the field")
            header["COLUMN0"] = (int(corner[1]), "column of the first pixel in the field")
            hdus.append(fits.ImageHDU(np.asarray(cube, np.float32), header, name=name))
        hdus.append(fits_table(self.row))
        with atomic_path(path) as temporary:
            fits.HDUList(hdus).writeto(temporary, overwrite=True)


def source(
    field: Any, id: str | int | None = None, *, position: SkyCoord | tuple | None = None
) -> SourceStamp:
    """Return one source of a finished field, with its surroundings.

    Parameters
    ----------
    field
        Folder that `deblend_field` or ``scorepriors deblend`` wrote, or a `FieldResult`.
    id
        Name of the source, as in the catalog.
    position
        In place of `id`: (RA, Dec) in degrees or a SkyCoord; the nearest source is taken.

    Returns
    -------
    SourceStamp
        The row, and images as NumPy arrays; `SourceStamp.write` writes FITS.

    Raises
    ------
    InputError
        If the folder holds no field, there is no such source, or no WCS for a position.

    Examples
    --------
    >>> source("deblended", "17").residual.shape  # doctest: +SKIP
    (5, 81, 81)
    """
    if (id is None) == (position is None):
        given = "neither" if id is None else "both"
        raise InputError(
            f"give the id of a source or a position: exactly one of them, not {given}."
        )
    result = open_field(field) if isinstance(field, str | os.PathLike) else field
    row = _row_of(result, str(id)) if position is None else nearest_row(result, position)
    found = result.source(str(result.catalog["id"][row]))
    side, size = found.observed.shape[-1], found.morphology.shape[-1]
    seen = result.field.window(*found.observed_corner, side, side)
    return SourceStamp(
        id=str(found.id),
        row=result.catalog[row : row + 1],
        bands=tuple(result.field.bands),
        unit=result.field.unit,
        model=found.model,
        corner=(int(found.corner[0]), int(found.corner[1])),
        wcs=result.field.window(*found.corner, size, size).wcs,
        observed=found.observed,
        others=found.others,
        data=seen.images,
        weights=seen.weights,
        sky=seen.images - result.as_fitted(seen, *map(int, found.observed_corner)).images,
        observed_corner=(int(found.observed_corner[0]), int(found.observed_corner[1])),
        observed_wcs=seen.wcs,
    )


def open_field(directory: str | os.PathLike) -> Any:
    """Open the folder of a finished field.

    Raises
    ------
    InputError
        If there is no such folder, or it is not that of a finished field.
    """
    path = Path(directory)
    if path.exists() and not path.is_dir():
        raise InputError(
            f"{str(path)!r} is a file; give the folder that `deblend` wrote for a field."
        )
    if not path.exists():
        raise InputError(
            f"there is no folder {str(path)!r}; give one that `deblend` wrote for a field."
        )
    from ._deblend_field import (
        load_field_result,
    )  # the engine, which what is said above can do without

    return load_field_result(path)


def _row_of(result: Any, id: str) -> int:
    """Return the row of a source in the catalog."""
    ids = [str(one) for one in result.catalog["id"]]
    if id in ids:
        return ids.index(id)
    near = difflib.get_close_matches(id, ids, _NEAREST, cutoff=0.0) if ids else []
    named = f"the nearest ids are {', '.join(near)}" if near else "the field has none"
    raise InputError(f"there is no source {id!r}; {named}.")


def nearest_row(result: Any, position: SkyCoord | tuple) -> int:
    """Return the row of the source that is nearest to a position on the sky."""
    catalog, center = result.catalog, _sky(position)
    if "ra" not in catalog.colnames:
        raise InputError(
            "the field has no WCS, so no position on the sky; give the id of a source."
        )
    if not len(catalog):
        raise InputError("the field has no source.")
    return int(np.argmin(SkyCoord(catalog["ra"], catalog["dec"]).separation(center)))


def distance_to(row: QTable, position: SkyCoord | tuple) -> float:
    """Return the distance of a source from a position on the sky, arcseconds."""
    return float(SkyCoord(row["ra"], row["dec"])[0].separation(_sky(position)).arcsec)


def _sky(position: SkyCoord | tuple) -> SkyCoord:
    """Return a position as the readers of images understand it."""
    return FileOptions(position=position, size=1.0).center


def check_file_target(path: str | os.PathLike, overwrite: bool) -> Path:
    """Check that a file can be written.

    Raises
    ------
    InputError
        If it exists and `overwrite` is False, or if its folder does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the name of a file.")
    if path.exists() and not overwrite:
        raise InputError(f"{str(path)!r} exists; --force (overwrite=True) replaces it.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {str(path)!r}: {path.parent} is not a writable folder.")
    return path
