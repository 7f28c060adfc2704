"""Reading of FITS files and npz archives into memory; damaged ones raise InputError."""

import gzip
import io
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.table import Table

from scorepriors._archives import read_arrays
from scorepriors._errors import InputError

FITS_ENDINGS = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fz")
NPZ_ENDINGS = (".npz",)

READ_ERRORS = (OSError, TypeError, ValueError, EOFError, KeyError, IndexError, zlib.error)

Source = str | os.PathLike


class HDU(NamedTuple):
    """One HDU of a FITS file in memory."""

    name: str
    header: fits.Header
    data: Any  # an array, a Table, or None


def check_file(path: Source, endings: Sequence[str], what: str) -> Path:
    """Return `path` if it is a file with one of the `endings` and not empty."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the path of one {what}.")
    if not path.exists():
        raise InputError(f"no {what} at {str(path)!r}: the path does not exist.")
    if not path.name.lower().endswith(tuple(endings)):
        raise InputError(
            f"no {what} is named like {path.name}: its name must end in {' or '.join(endings)}."
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes); copy or download it again.")
    return path


def reason(error: Exception) -> str:
    """Return the first line of an error's message, to quote in another message."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def load_hdus(path: Source, endings: Sequence[str] = FITS_ENDINGS) -> list[HDU]:
    """Read every HDU of a FITS file into memory, without warnings.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated or not FITS.
    """
    path = check_file(path, endings, "FITS file")
    failure = None
    hdus = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            content = path.read_bytes()
            if content.startswith(b"\x1f\x8b"):
                content = gzip.decompress(content)  # astropy accepts a truncated archive
            with fits.open(io.BytesIO(content), memmap=False) as opened:
                hdus = [HDU(hdu.name.upper(), hdu.header.copy(), _data(hdu)) for hdu in opened]
        except READ_ERRORS as error:
            failure = error
    # A truncated file gives a warning, after which reading it may or may not fail.
    messages = [str(warning.message) for warning in caught]
    if isinstance(failure, EOFError) or any(
        word in message for message in messages for word in ("truncated", "corrupted")
    ):
        raise InputError(f"{path.name} is truncated; copy or download it again.") from failure
    if failure is not None:
        raise InputError(
            f"{path.name} is not a readable FITS file: {reason(failure)}."
        ) from failure
    return hdus


def _data(hdu):
    if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
        return Table.read(hdu)
    data = getattr(hdu, "data", None)
    return None if data is None else np.array(data)


def find_hdu(hdus: Sequence[HDU], names: Sequence[str]) -> HDU | None:
    """Return the first HDU with data and one of the `names`, earlier names first."""
    for name in names:
        for hdu in hdus:
            if hdu.name == name and hdu.data is not None:
                return hdu
    return None


def load_npz(path: Source) -> dict[str, np.ndarray]:
    """Read all arrays of an npz archive; pickled ones are refused."""
    return read_arrays(check_file(path, NPZ_ENDINGS, "npz file"))


def array_names(archive: dict[str, np.ndarray]) -> str:
    """Return the names of the arrays of an archive, for a message."""
    return ", ".join(archive) or "nothing"
