"""Files of simulated fields: the image as a survey delivers it, and beside it the truth."""

import json
from pathlib import Path

import numpy as np
from astropy.io import fits

from scorepriors._errors import InputError
from scorepriors._files import atomic_path, atomic_write
from scorepriors._surveys import ZERO_POINT

from ._fields import SimulatedField
from ._fields_pixels import PLANES
from ._folders import writable_folder

#: Files in the folder of a field.
FIELD, TRUTH, SUMMARY = "field.fits", "truth.fits", "summary.json"


def write_field(field: SimulatedField, directory: str | Path, *, overwrite: bool = False) -> Path:
    """Write ``field.fits``, ``truth.fits`` and ``summary.json`` into a folder.

    Parameters
    ----------
    field
        Result of `simulate_field`.
    directory
        Folder; made if it does not exist.
    overwrite
        Whether to replace these files.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    InputError
        If a file exists and `overwrite` is false, or the folder cannot be made.
    """
    directory = check_folder(directory, overwrite=overwrite)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {str(directory)!r}: {error.strerror}.") from error
    with atomic_path(directory / FIELD) as temporary:
        _write_image(field, temporary)
    with atomic_path(directory / TRUTH) as temporary:
        field.truth.write(temporary, format="fits", overwrite=True)
    atomic_write(directory / SUMMARY, json.dumps(field.facts, indent=1, allow_nan=False) + "\n")
    return directory


def check_folder(directory: str | Path, *, overwrite: bool) -> Path:
    """Return the folder of a field that may be written; InputError for one that may not."""
    paths = [Path(directory) / name for name in (FIELD, TRUTH, SUMMARY)]
    return writable_folder(directory, paths, "a field needs", overwrite=overwrite)


def _write_image(field: SimulatedField, path: Path) -> None:
    """Write HDU by HDU: memory is that of one of them."""
    header = field.wcs.to_header()
    header["BANDS"] = ",".join(field.bands)
    header["BUNIT"] = "nJy"
    header.update({f"MAGZERO{i}": ZERO_POINT for i in range(1, len(field.bands) + 1)})
    header["OBJECT"] = f"{field.facts['survey']}-{field.facts['seed']}"
    noise = field.wcs.to_header()
    noise["BUNIT"] = "nJy2"
    planes = field.wcs.to_header()
    # Names of more than eight letters are cards only with this word.
    planes.update({f"HIERARCH MP_{name}": bit for name, bit in PLANES.items()})
    fits.PrimaryHDU().writeto(path, overwrite=True)
    fits.append(path, field.images, _named(header, "IMAGE"))
    fits.append(path, field.variance, _named(noise, "VARIANCE"))
    fits.append(path, field.mask.astype(np.int16), _named(planes, "MASK"))
    with fits.open(path, mode="append") as hdus:
        for table in field.psfs:
            hdus.append(table)


def _named(header: fits.Header, name: str) -> fits.Header:
    header["EXTNAME"] = name
    return header
