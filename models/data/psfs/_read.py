"""Reading of PSFs: from files, arrays and objects, one for each band, on the image's pixels."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area

from scorepriors._errors import InputError
from scorepriors.models.data._checks import numeric
from scorepriors.models.data._warnings import note
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
)

from ._cells import cell_sources, mosaic_sources
from ._checks import check_psfs
from ._grids import grid_sources, photutils_source
from ._images import band_of_name, image_sources
from ._matching import match, named_band
from ._piff import is_piff_file, piff_file_source, piff_source
from ._psfex import psfex_sources
from ._resampling import on_pixels
from ._sources import Place, Source, Stamp, constant

#: Endings of files of PSFs that are FITS inside.
PSF_ENDINGS = (*FITS_ENDINGS, ".psf", ".piff")

#: Distances of samples, in pixels, beyond which a scale can't be that of a PSF.
_FINEST, _COARSEST = 1 / 40, 4.0

#: Scales that differ by less are the same, relative.
_SAME_SCALE = 0.01


def read_psf(
    psf: Any,
    *,
    bands: Sequence[str],
    place: tuple[float, float] | None = None,
    sky: tuple[float, float] | None = None,
    pixel_scale: float | None = None,
    oversampling: float | None = None,
) -> np.ndarray:
    """Read PSFs and evaluate them at one place, on the pixels of an image.

    Parameters
    ----------
    psf
        Path of a FITS file (images, PSFEx, Piff, a grid, cells or stamps), of an npz or npy
        file; an array ``[P, P]`` or ``[B, P, P]``; an object of `piff` or `photutils`; a list
        of these, one for each band; or a dictionary of them by band.
    bands
        Names of the bands.
    place
        Where to evaluate: (row, column) in pixels of the image, counted from 0.
    sky
        The same as (RA, Dec) in degrees, for PSFs that know the sky.
    pixel_scale
        Arcseconds per pixel of the image, to which scales in files are compared.
    oversampling
        Samples per pixel, where files do not say so or are wrong.

    Returns
    -------
    numpy.ndarray
        PSFs ``[B, P, P]``, float32, P odd, sums of one, centered on ``P // 2``.

    Raises
    ------
    InputError
        If a PSF can't be read, or it can't be told which belongs to which band.
    """
    row, column = (None, None) if place is None else place
    where = Place(row, column, sky, pixel_scale)
    return check_psfs(psfs_for(psf, tuple(bands), where, oversampling), tuple(bands))


def psfs_for(
    psf, bands: tuple[str, ...], place: Place, oversampling: float | None = None
) -> list[np.ndarray] | np.ndarray:
    """Return PSF images on the image's pixels, one for each band, not yet checked.

    Parameters
    ----------
    psf
        As for `read_psf`, or a list of `Source` as `sources_in_image` returns.
    bands
        Names of the bands.
    place
        Where to evaluate.
    oversampling
        Samples per pixel; None to follow what files say.
    """
    if oversampling is not None:
        oversampling = _check_oversampling(oversampling)
    chosen = _choose(psf, bands)
    stamps: dict[int, np.ndarray] = {}
    for source in chosen:
        if id(source) not in stamps:
            stamps[id(source)] = _on_image(source, place, oversampling)
    return [stamps[id(source)] for source in chosen]


def place_of(
    shape: tuple[int, ...], wcs: WCS | None, scale: float | None, corner: tuple[int, int] = (0, 0)
) -> Place:
    """Return the place of the middle of an image.

    Parameters
    ----------
    shape
        Height and width.
    wcs
        Celestial WCS; or None.
    scale
        Arcseconds per pixel where there is no WCS; or None.
    corner
        Pixel (row, column) of the file's image where this one starts.
    """
    row, column = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    sky = None
    if wcs is not None:
        scale = float(np.sqrt(proj_plane_pixel_area(wcs)) * 3600)
        found = np.ravel(wcs.celestial.all_pix2world(column, row, 0))
        sky = tuple(map(float, found)) if np.isfinite(found).all() else None
    return Place(row + corner[0], column + corner[1], sky, scale)


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


def _choose(psf, bands: tuple[str, ...]) -> list[Source]:
    """Return the source of each band."""
    if isinstance(psf, Mapping):
        given = {str(band): one for band, one in psf.items()}
        missing = [band for band in bands if named_band_key(band, given) is None]
        if missing:
            raise InputError(
                f"there is no PSF for the band(s) {', '.join(missing)}; the dictionary has "
                f"{', '.join(given) or 'nothing'}."
            )
        return [_choose(given[named_band_key(band, given)], (band,))[0] for band in bands]
    if not _is_list(psf):
        sources = sources_of(psf)
        if len(sources) == 1 and not isinstance(psf, str | os.PathLike):
            return sources * len(bands)  # one array or object for all was asked for
        return match(sources, bands, in_order=False)
    if psf and all(isinstance(one, Source) for one in psf):
        return match(sources_of(psf), bands, in_order=False)  # of one file
    groups = [sources_of(one) for one in psf]
    if not groups:
        raise InputError("no PSF is given: the list is empty.")
    if all(len(group) == 1 for group in groups):
        return match([group[0] for group in groups], bands, in_order=True)
    if len(groups) == 1:
        return match(groups[0], bands, in_order=False)
    if len(groups) != len(bands):
        raise InputError(
            f"there are {len(groups)} PSFs for {len(bands)} band(s); give one for each."
        )
    return [
        match(group, (band,), in_order=True)[0] for group, band in zip(groups, bands, strict=True)
    ]


def named_band_key(band: str, given: Mapping) -> str | None:
    """Return the key of a dictionary that means a band."""
    return band if band in given else named_band(band, tuple(given))


def _is_list(psf) -> bool:
    """Return whether a list holds one thing for each band, not the numbers of an array."""
    if not isinstance(psf, list | tuple):
        return False
    return not _is_array(psf)


def _is_array(psf) -> bool:
    if isinstance(psf, np.ndarray):
        return True
    if not isinstance(psf, list | tuple):
        return False
    numbers = (int, float, np.number)
    first = psf
    while isinstance(first, list | tuple) and first:
        first = first[0]
    try:
        return isinstance(first, numbers) and np.asarray(psf).ndim in (2, 3)
    except ValueError:  # ragged: images of different sizes
        return False


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
    if hasattr(psf, "draw") and hasattr(psf, "wcs"):
        return [piff_source(psf, "the PSF of Piff")]
    if hasattr(psf, "oversampling") and hasattr(psf, "data"):
        return [photutils_source(psf, f"the {type(psf).__name__}")]
    return _array_sources(numeric(psf, "psfs"), "psfs")


def _array_sources(
    array: np.ndarray, label: str, names: Sequence[str] | None = None
) -> list[Source]:
    if array.ndim == 2:
        return [constant(label, Stamp(array))]
    if array.ndim != 3 or array.size == 0:
        raise InputError(
            f"{label} have the shape {array.shape}; give [B, P, P], or [P, P] for all."
        )
    names = names if names is not None and len(names) == len(array) else [None] * len(array)
    return [
        constant(f"{label} [{number}]", Stamp(image), None if name is None else str(name))._replace(
            ordered=True
        )
        for number, (image, name) in enumerate(zip(array, names, strict=True))
    ]


def _file_sources(path: Path) -> list[Source]:
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
    if is_piff_file(hdus):
        return [piff_file_source(path)]
    found = (
        psfex_sources(hdus, path.name)
        or mosaic_sources(hdus, path.name)
        or grid_sources(hdus, path.name)
        or cell_sources(hdus, path.name)
        or image_sources(hdus, path.name, named_only=False)
        or _unusable_table(hdus, path.name)
    )
    if not found:
        raise InputError(f"{path.name} holds no PSF image; put it in an HDU named PSF.")
    return found


def npz_sources(archive: Mapping[str, np.ndarray], label: str) -> list[Source]:
    """Return the PSFs of an npz archive, under ``psfs`` or ``psf``."""
    name = next((name for name in ("psfs", "psf") if name in archive), None)
    if name is None:
        raise InputError(f"{label} holds neither psfs nor psf; found {array_names(archive)}.")
    names = archive.get("bands", archive.get("filters"))
    array = numeric(archive[name], f"{label} [{name}]")
    return _array_sources(array, f"{label} [{name}]", None if names is None else np.ravel(names))


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


def _on_image(source: Source, place: Place, oversampling: float | None) -> np.ndarray:
    """Evaluate a source, and sample it on the pixels of the image."""
    stamp = source.at(place)
    image = numeric(stamp.image, source.label)
    if image.ndim != 2:
        raise InputError(f"{source.label} has the shape {image.shape}; give an image [P, P].")
    step = _step(source.label, stamp, place.scale, oversampling)
    image = image.astype(np.float64)
    if step == 1 or not (np.isfinite(image).all() and image.sum() > 0):
        return image  # the checks name what is wrong with it
    # Samples wider than pixels can't be summed over them.
    effective = stamp.effective or step > 1
    sampled = on_pixels(image, step, effective)
    return sampled / sampled.sum() if effective else sampled


def _step(label: str, stamp: Stamp, scale: float | None, oversampling: float | None) -> float:
    """Return the distance of samples in pixels of the image."""
    if oversampling is not None:
        if (
            stamp.oversampling is not None
            and abs(stamp.oversampling / oversampling - 1) > _SAME_SCALE
        ):
            note(
                f"{label} says that it has {stamp.oversampling:g} samples per pixel; it was taken "
                f"to have {oversampling:g}, as asked for."
            )
        return 1 / oversampling
    if stamp.scale is not None and scale is not None:
        return _step_by_scale(label, stamp, scale)
    if stamp.oversampling is not None:
        return 1 / stamp.oversampling
    if stamp.finer:
        raise InputError(
            f"{label} is oversampled and does not say how much; add a card PIXELSCL or OVERSAMP, "
            "or say the samples per pixel: psf_oversampling= (--psf-oversampling)."
        )
    if stamp.wcs_scale is not None and scale is not None:
        step = stamp.wcs_scale / scale
        if _FINEST < step < _COARSEST:
            return _step_by_scale(label, stamp._replace(scale=stamp.wcs_scale), scale)
        note(
            f"the WCS of {label} has pixels of {stamp.wcs_scale:.4g} arcsec, which can't be those "
            f"of a PSF beside pixels of {scale:.4g}; it was ignored."
        )
    elif stamp.scale is not None:
        note(
            f"{label} has samples of {stamp.scale:.4g} arcsec, but the image has no pixel scale "
            "to compare with; they were taken to be the same."
        )
    return 1.0


def _step_by_scale(label: str, stamp: Stamp, scale: float) -> float:
    """Return the distance of samples in pixels, from both sides in arcseconds."""
    step = stamp.scale / scale
    said = f"{label} has samples of {stamp.scale:.4g} arcsec and the image pixels of {scale:.4g}"
    if not _FINEST < step < _COARSEST:
        raise InputError(
            f"{said}, which can't both be; correct the card, or say the samples per pixel: "
            "psf_oversampling= (--psf-oversampling)."
        )
    if abs(step - 1) < _SAME_SCALE:
        if stamp.oversampling is not None and abs(stamp.oversampling - 1) > _SAME_SCALE:
            raise InputError(
                f"{said}, the same, but names an oversampling of {stamp.oversampling:g}; say which "
                f"holds: psf_oversampling=1 or {stamp.oversampling:g} (--psf-oversampling)."
            )
        return 1.0
    whole = round(1 / step)
    if whole and abs(step * whole - 1) < _SAME_SCALE:
        step = 1 / whole
    how = "summed over" if step < 1 and not stamp.effective else "interpolated to"
    note(f"{said}: they were {how} the image's pixels.")
    return step


def _check_oversampling(value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not (np.isfinite(number) and number > 0):
        raise InputError(f"psf_oversampling is {value!r}; give the samples per pixel, such as 4.")
    return number
