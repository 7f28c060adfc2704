"""What files, arrays and objects hold: the PSFs in them, before they are evaluated."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from astropy.io import fits

from scorepriors._errors import InputError
from scorepriors.models.data._checks import numeric
from scorepriors.models.data._warnings import said_before
from scorepriors.models.data.readers._files import (
    FITS_ENDINGS,
    HDU,
    READ_ERRORS,
    Extension,
    array_names,
    check_file,
    load_hdus,
    load_npz,
    reason,
    split_hdu,
)

from ._cells import cell_sources, mosaic_sources
from ._grids import grid_sources, photutils_source
from ._images import band_of_name, image_sources
from ._piff import galsim_source, is_piff_file, piff_file_source, piff_source
from ._psfex import psfex_sources
from ._sources import Source, Stamp, constant

#: Endings of files of PSFs that are FITS inside.
PSF_ENDINGS = (*FITS_ENDINGS, ".psf", ".piff")


def sources_of(psf) -> list[Source]:
    """Return the PSFs of one file, array, object, or of one file that was read already."""
    if isinstance(psf, str | os.PathLike):
        path = Path(psf)
        psf = [source._replace(hint=path.name) for source in _file_sources(path)]
    if isinstance(psf, list | tuple) and psf and all(isinstance(one, Source) for one in psf):
        for source in psf:
            if source.refusal:
                raise InputError(source.refusal)
        return list(psf)
    if isinstance(psf, fits.HDUList):
        return _found(_in_memory(psf), "the HDUList")
    if isinstance(psf, fits.PrimaryHDU | fits.ImageHDU | fits.BinTableHDU | fits.CompImageHDU):
        return _found(_in_memory([psf]), f"the HDU {psf.name}")
    if hasattr(psf, "draw") and hasattr(psf, "wcs"):
        return [piff_source(psf, "the PSF of Piff")]
    if hasattr(psf, "oversampling") and hasattr(psf, "data"):
        return [photutils_source(psf, f"the {type(psf).__name__}")]
    if hasattr(psf, "drawImage"):
        return [galsim_source(psf, f"the {type(psf).__name__}")]
    array = np.asarray(psf)
    if array.dtype.kind == "O" and array.ndim == 0:
        what = "None" if psf is None else f"of the type {type(psf).__name__}"
        raise InputError(
            f"the PSF is {what}; give an image, a file, or an object of piff, galsim or photutils."
        )
    return _array_sources(numeric(psf, "psfs"), "psfs")


def detector_grids(psf) -> list[str]:
    """Return the names of the PSFs of detectors among what a user gives, which may be a list of them."""
    given = psf.values() if isinstance(psf, Mapping) else psf
    if isinstance(given, str | os.PathLike | fits.HDUList) or not isinstance(given, Iterable):
        given = [given]
    found = []
    for one in given:
        if isinstance(one, str | os.PathLike) or hasattr(one, "grid_xypos"):
            # What is wrong with it is said where it is read.
            with said_before(), suppress(InputError):
                found += [source.label for source in sources_of(one) if source.of_detector]
    return list(dict.fromkeys(found))


def _array_sources(array: np.ndarray, label: str, names: Sequence[str] = ()) -> list[Source]:
    if array.ndim == 2:
        return [constant(label, Stamp(array))]
    if array.ndim != 3 or array.size == 0:
        raise InputError(
            f"{label} have the shape {array.shape}; give [B, P, P], or [P, P] for all."
        )
    named = names if len(names) == len(array) else [""] * len(array)
    return [
        constant(f"{label} [{number}]", Stamp(image), name or None)._replace(ordered=True)
        for number, (image, name) in enumerate(zip(array, named, strict=True))
    ]


def _file_sources(given: Path) -> list[Source]:
    path, hdu = split_hdu(given)
    path = check_file(path, (*PSF_ENDINGS, ".npz", ".npy"), "PSF file")
    if path.suffix.lower() == ".npz":
        return npz_sources(load_npz(path), path.name)
    if path.suffix.lower() == ".npy":
        try:
            return _array_sources(numeric(np.load(path, allow_pickle=False), path.name), path.name)
        except READ_ERRORS as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path.name} is not a readable npy file: {reason(error)}.") from error
    hdus = load_hdus(path, PSF_ENDINGS)
    if hdu is not None:
        return _found(_pointed(hdus, hdu, path.name), f"{path.name}[{hdu}]")
    if is_piff_file(hdus):
        return [piff_file_source(path)]
    return _found(hdus, path.name)


def _pointed(hdus: Sequence[HDU], hdu: str, label: str) -> list[HDU]:
    """Return the HDU of a number or a name, and the tables, which may belong to it."""
    word = hdu.strip().upper()
    chosen = [one for number, one in enumerate(hdus) if word == str(number) or word in _names(one)]
    if not chosen:
        names = ", ".join(one.name or "(unnamed)" for one in hdus)
        raise InputError(f"{label}: there is no HDU {hdu!r}; found {names}.")
    tables = [one for one in hdus if hasattr(one.data, "colnames") and one not in chosen]
    return [*chosen, *tables]


def _names(one: HDU) -> set[str]:
    return {one.name, f"{one.name},{one.header.get('EXTVER', 1)}"} - {""}


def _in_memory(hdus: Sequence) -> list[HDU]:
    """Return HDUs of astropy as those that were read from a file."""
    extensions = [Extension(hdu, number, "the PSF") for number, hdu in enumerate(hdus)]
    return [
        HDU(
            one.name,
            one.header,
            one.table() if one.is_table else None if one.shape is None else one.pixels(),
        )
        for one in extensions
    ]


def _found(hdus: Sequence[HDU], label: str) -> list[Source]:
    """Return the PSFs of a FITS file that holds nothing else."""
    found = (
        psfex_sources(hdus, label)
        or mosaic_sources(hdus, label)
        or grid_sources(hdus, label)
        or cell_sources(hdus, label)
        or image_sources(hdus, label, named_only=False)
        or _unusable_table(hdus, label)
    )
    if not found:
        raise InputError(f"{label} holds no PSF image; put it in an HDU named PSF.")
    return found


def npz_sources(archive: dict[str, np.ndarray], label: str) -> list[Source]:
    """Return the PSFs of an npz archive, under ``psfs`` or ``psf``."""
    name = next((name for name in ("psfs", "psf") if name in archive), None)
    if name is None:
        raise InputError(f"{label} holds neither psfs nor psf; found {array_names(archive)}.")
    names = archive.get("bands", archive.get("filters", ()))
    array = numeric(archive[name], f"{label} [{name}]")
    return _array_sources(array, f"{label} [{name}]", [str(band) for band in np.ravel(names)])


def _unusable_table(hdus: Sequence[HDU], label: str) -> list[Source]:
    """Return a source that is refused, for a table named PSF: it may not be asked for."""
    named = [hdu for hdu in hdus if "PSF" in hdu.name and hasattr(hdu.data, "colnames")]
    if not named:
        return []
    refusal = (
        f"the HDU {named[0].name} of {label} is a table ({', '.join(named[0].data.colnames[:4])}"
        "), of no known kind of PSF; give an image of the PSF at the scene."
    )
    return [Source(label, lambda place: Stamp(np.zeros((0, 0))), refusal=refusal)]


def sources_in_image(
    extensions: Sequence[Extension],
    label: str,
    names: Sequence[str] = (),
    version: int | None = None,
) -> list[Source]:
    """Return the PSFs that the file of an image holds as well, as `psfs_for` takes them.

    Parameters
    ----------
    extensions
        HDUs of the open file; of images only those of PSFs are read.
    label
        Name of the file.
    names
        Names of HDUs of PSFs in this product, besides those with PSF in them.
    version
        EXTVER of the image, where of several PSFs of one name only its own belongs to it.
    """
    known = {"PSF", *names}
    own = [one for one in extensions if one.name in known and one.version == version]
    hdus = [
        _loaded(one, known) for one in extensions if one.name not in known or not own or one in own
    ]
    return (
        cell_sources(hdus, label, named_only=True)
        or psfex_sources(hdus, label)
        or image_sources(hdus, label, named_only=True)
        or _unusable_table(hdus, label)
    )


def _loaded(one: Extension, known: set[str]) -> HDU:
    """Return an HDU; an image of anything but a PSF as zeros that take no memory."""
    of_psf = one.name in known or band_of_name(one.name) is not None
    if one.is_table:
        return HDU(one.name, one.header, one.table() if of_psf or one.name == "JSON" else None)
    if one.shape is None or (len(one.shape) > 3 and not of_psf):
        return HDU(one.name, one.header, None)
    if of_psf:
        return HDU("PSF" if one.name in known else one.name, one.header, one.pixels())
    return HDU(one.name, one.header, np.broadcast_to(np.float32(0), one.shape))
