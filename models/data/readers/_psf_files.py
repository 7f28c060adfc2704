"""PSF images from FITS, npz and npy files."""

import os
from pathlib import Path

import numpy as np

from scorepriors._errors import InputError
from scorepriors.models.data._checks import numeric

from ._bands import stack_psfs
from ._files import (
    FITS_ENDINGS,
    READ_ERRORS,
    array_names,
    check_file,
    find_hdu,
    load_hdus,
    load_npz,
    reason,
)


def read_psf(psf) -> np.ndarray:
    """Read PSF images from a FITS, npz or npy file, a list of those (one per band) or an array.

    FITS files hold it in an HDU named PSF or in the first image; npz archives under
    ``psfs`` or ``psf``.

    Returns
    -------
    numpy.ndarray
        PSFs ``[B, P, P]`` or ``[P, P]``, as in the file.
    """
    if isinstance(psf, list | tuple) and psf and all(isinstance(p, str | Path) for p in psf):
        return stack_psfs([read_psf(path) for path in psf])
    if not isinstance(psf, str | os.PathLike):
        return numeric(psf, "psf")
    path = check_file(psf, (*FITS_ENDINGS, ".npz", ".npy"), "PSF file")
    ending = path.suffix.lower()
    if ending == ".npz":
        archive = load_npz(path)
        name = next((name for name in ("psfs", "psf") if name in archive), None)
        if name is None:
            raise InputError(
                f"{path.name} holds neither psfs nor psf; found {array_names(archive)}."
            )
        return numeric(archive[name], f"{path.name} [{name}]")
    if ending == ".npy":
        try:
            return numeric(np.load(path, allow_pickle=False), path.name)
        except READ_ERRORS as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path.name} is not a readable npy file: {reason(error)}.") from error
    hdus = load_hdus(path)
    images = [hdu for hdu in hdus if isinstance(hdu.data, np.ndarray)]
    found = find_hdu(hdus, ("PSF",)) or (images[0] if images else None)
    if found is None or not isinstance(found.data, np.ndarray):
        raise InputError(f"{path.name} holds no PSF image; put it in an HDU named PSF.")
    return found.data
