"""MEDS files (multi-epoch data structures, of DES and others): one object's coadd.

https://github.com/esheldon/meds describes the layout: cutouts of all objects and exposures one
after the other in one dimension, and a table that says where each begins.
"""

import operator
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note

from ._bands import BandPart
from ._files import READ_ERRORS, reason

#: Largest distance of one object in the cutouts of two bands, pixels.
_SAME_PLACE = 0.1


def open_meds(path: Path, index: int | None) -> BandPart:
    """Return the coadd of one object of a MEDS file.

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
                part, said = _object(hdus, path, index)
        except READ_ERRORS as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path.name} is no readable MEDS file: {reason(error)}.") from error
    for sentence in said:
        note(sentence)
    return part


def check_same_object(parts: Sequence[BandPart]) -> None:
    """Refuse cutouts of several bands that are not of one object on the same pixels.

    Files of several bands may have their objects in different orders.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.catalog is None or first.catalog is None:
            continue
        one, other = first.catalog[0], part.catalog[0]
        known = "id" in first.catalog.colnames and "id" in part.catalog.colnames
        if known and one["id"] != other["id"]:
            raise InputError(
                f"the object in {part.label} is {other['id']} but that in {first.label} is "
                f"{one['id']}; choose it by its id (--index)."
            )
        distance = np.hypot(one["x"] - other["x"], one["y"] - other["y"])
        if not distance <= _SAME_PLACE:
            raise InputError(
                f"the cutout of {part.label} is {distance:.3g} pixels off that of {first.label}; "
                "make MEDS files of one pixel grid, or fit the bands jointly (--with)."
            )


def _object(hdus, path: Path, index: int | None) -> tuple[BandPart, list[str]]:
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
    others = _others(names, one, start, size, path)
    if others:
        said.append(
            f"{path.name}: by seg_cutouts {others} other object(s) shine in this cutout, whose "
            "catalog is of the chosen one alone; give the positions of all (--catalog)."
        )
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
    zero_point = _zero_point(names, one, path)
    part = BandPart(
        label=path.name,
        images=image[None],
        weights=np.where(unusable, 0.0, weights)[None],
        psfs=_psf(names, one, path),
        bands=(_band(names, path),),
        wcs=None,
        unit=None,
        zero_point=None if zero_point is None else (zero_point,),
        catalog=catalog,
        scale=float(np.sqrt(area)) if area > 0 else None,
    )
    return part, said


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


def _others(names, one, start: int, size: int, path: Path) -> int:
    """Number of other objects with pixels of the segmentation in a cutout."""
    if "SEG_CUTOUTS" not in names:
        return 0
    found = set(np.unique(_cutout(names, "SEG_CUTOUTS", start, (size, size), path))) - {0}
    own = int(one["number"]) if "number" in one.array.columns.names else None
    return len(found - {own}) if own in found else max(len(found) - 1, 0)


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
