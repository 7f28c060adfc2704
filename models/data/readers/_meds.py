"""MEDS files (multi-epoch data structures, of DES and others): one object's coadd.

https://github.com/esheldon/meds describes the layout: cutouts of all objects and exposures one
after the other in one dimension, and a table that says where each begins.
"""

import operator
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note

from ._files import READ_ERRORS, reason


def open_meds(path: Path, index: int | None) -> dict[str, Any]:
    """Return arguments of ``Observation.from_arrays`` for the coadd of one object.

    Parameters
    ----------
    path
        MEDS file of one band.
    index
        Number of the object, from 0; or its `id`, if that is no such number.

    Raises
    ------
    InputError
        If no object is chosen, if there is no such one, or if the file is damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # non-standard cards, which astropy corrects
        try:
            with fits.open(path, memmap=True) as hdus:
                parts, said = _object(hdus, path, index)
        except READ_ERRORS as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path.name} is no readable MEDS file: {reason(error)}.") from error
    for sentence in said:
        note(sentence)
    return parts


def _object(hdus, path: Path, index: int | None) -> tuple[dict[str, Any], list[str]]:
    names = {hdu.name.upper(): hdu for hdu in hdus}
    objects = names["OBJECT_DATA"].data
    row = _chosen(objects, path, index)
    one = objects[row]
    if int(one["ncutout"]) < 1:
        raise InputError(f"{path.name}: the object {index} has no cutout; choose another one.")
    size, start = int(one["box_size"]), _first(one["start_row"])
    image = _cutout(names, "IMAGE_CUTOUTS", start, (size, size), path)
    weights = _cutout(names, "WEIGHT_CUTOUTS", start, (size, size), path).astype(np.float64)
    unusable = ~np.isfinite(image) | ~np.isfinite(weights)
    said = []
    if "BMASK_CUTOUTS" in names:
        flagged = _cutout(names, "BMASK_CUTOUTS", start, (size, size), path) != 0
        count = np.count_nonzero(flagged & (weights > 0))
        if count:
            said.append(
                f"{path.name}: {count} of {size**2} pixels have flags in bmask_cutouts and were "
                "masked."
            )
        unusable |= flagged
    if int(one["ncutout"]) > 1:
        said.append(
            f"{path.name}: of the object's {int(one['ncutout'])} cutouts the first, its coadd, was "
            "read; the others are single exposures on pixels of their own."
        )
    place = (_first(one["cutout_col"], float), _first(one["cutout_row"], float))
    jacobian = [_first(one[name], float) for name in ("dudcol", "dudrow", "dvdcol", "dvdrow")]
    area = abs(jacobian[0] * jacobian[3] - jacobian[1] * jacobian[2])
    catalog = Table({"x": [place[0]], "y": [place[1]]})
    if "id" in objects.columns.names:
        catalog["id"] = [int(one["id"])]
    parts = {
        "images": image[None],
        "weights": np.where(unusable, 0.0, weights)[None],
        "psfs": _psf(names, one, path),
        "bands": (_band(names, path),),
        "zero_point": _zero_point(names, one, path),
        "name": f"{path.name.split('.')[0]}-{index}",
        "catalog": catalog,
        "scale": float(np.sqrt(area)) if area > 0 else None,
    }
    return parts, said


def _chosen(objects, path: Path, index: int | None) -> int:
    count = len(objects)
    if index is None:
        raise InputError(
            f"{path.name} is a MEDS file of {count} objects; choose one with index=0 to "
            f"{count - 1}, or by its id (--index)."
        )
    index = operator.index(index)
    if 0 <= index < count:
        return index
    if "id" in objects.columns.names:
        found = np.flatnonzero(objects["id"] == index)
        if found.size:
            return int(found[0])
    raise InputError(
        f"{path.name} has no object {index}; choose 0 to {count - 1}, or an id in its table."
    )


def _first(values, kind=int):
    """Number of the first cutout: that of the coadd."""
    return kind(np.ravel(values)[0])


def _cutout(names, name: str, start: int, shape: tuple[int, int], path: Path) -> np.ndarray:
    if name not in names:
        raise InputError(f"{path.name} has no {name.lower()}; write the MEDS file with them.")
    stop = start + shape[0] * shape[1]
    if not 0 <= start < stop <= names[name].shape[-1]:
        raise InputError(
            f"{path.name}: {name.lower()} ends before the cutout at {start}; copy or download it "
            "again."
        )
    return np.array(names[name].section[start:stop]).reshape(shape)


def _psf(names, one, path: Path) -> np.ndarray | None:
    columns = ("psf_start_row", "psf_row_size", "psf_col_size")
    if "PSF" not in names or not set(columns).issubset(one.array.columns.names):
        return None
    start, height, width = (_first(one[column]) for column in columns)
    if start < 0 or height <= 0:
        return None
    return _cutout(names, "PSF", start, (height, width), path)


def _band(names, path: Path) -> str:
    for table in ("METADATA", "IMAGE_INFO"):
        if table in names and "band" in names[table].data.columns.names:
            band = str(names[table].data["band"][0]).strip()
            if band:
                return band
    found = re.search(r"[_-]([a-zA-Z]{1,2})[_-]meds", path.name)
    return found[1] if found else path.name.split(".")[0]


def _zero_point(names, one, path: Path) -> float | None:
    for table, column in (("METADATA", "magzp_ref"), ("IMAGE_INFO", "magzp")):
        if table in names and column in names[table].data.columns.names:
            rows = names[table].data[column]
            zero = float(rows[_first(one["file_id"]) if table == "IMAGE_INFO" else 0])
            if not np.isfinite(zero):
                raise InputError(
                    f"{path.name}: the zero point {column} is {zero}; give zero_point= "
                    "(--zero-point)."
                )
            return zero
    return None
