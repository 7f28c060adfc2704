"""Observations from FITS files: one for all bands, or one per band."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors.models.data._checks import (
    broadcast_mask,
    masked_pixels,
    parse_unit,
    weights_from_noise,
)
from scorepriors.models.data.psfs._read import sources_in_image

from ._bands import BandPart, combine
from ._files import FITS_ENDINGS, HDU, NPZ_ENDINGS, Source, check_file, find_hdu, load_hdus, reason

#: Names of the noise HDUs, in the order of preference, and their content.  WHT comes
#: last since drizzled images use it for exposure times beside a true ERR.
_NOISE = {
    "VARIANCE": "variance",
    "STD": "deviation",
    "ERR": "deviation",
    "IVAR": "weight",
    "WEIGHT": "weight",
    "WHT": "weight",
}

#: AB magnitude of one nanomaggy, the unit of SDSS and of the Legacy Surveys.
_NANOMAGGY = {"nanomaggy": 22.5, "nanomaggies": 22.5, "nmgy": 22.5}


def read_fits(source: Source | Sequence[Source], psf=None) -> dict[str, Any]:
    """Read one multi-extension file, or one file per band; see `scorepriors.models.data.readers`.

    Parameters
    ----------
    source
        Path, or several in the order of the bands.
    psf
        PSF as for `scorepriors.models.data.psfs._read.read_psf`, which replaces the PSF
        extensions.

    Returns
    -------
    dict
        Arguments of ``Observation.from_arrays``.
    """
    paths = [Path(p) for p in ([source] if isinstance(source, str | os.PathLike) else source)]
    if not paths:
        raise InputError("no files given; give one FITS file, or one per band.")
    parts = []
    for path in paths:
        check_file(path, FITS_ENDINGS, "FITS file")
        try:
            part = _read_part(path)
        except InputError as error:
            message = str(error)
            named = message.startswith(path.name)
            raise InputError(message if named else f"{path.name}: {message}") from error
        if part.bands is None and part.images.shape[0] == 1:
            part = part._replace(bands=(_stem(path),))
        if len(paths) > 1 and part.images.shape[0] != 1:
            raise InputError(
                f"{path.name} holds {part.images.shape[0]} bands; of several files each must "
                "hold one."
            )
        if psf is None and part.psfs is None:
            raise InputError(
                f"{path.name} has no PSF extension; add one or give the PSF's file as psf=."
            )
        parts.append(part)
    stem = _stem(paths[0])
    if len(paths) > 1:
        # The common prefix of characters, not of folders.
        common = os.path.commonprefix([_stem(path) for path in paths])  # noqa: RUF071
        stem = common.rstrip("-_. ") or stem
    return combine(parts, psf, name=stem)


def _read_part(path: Path) -> BandPart:
    hdus = load_hdus(path)
    found = ", ".join(hdu.name or "(unnamed)" for hdu in hdus)
    image = _find_image(hdus)
    if image is None:
        raise InputError(f"no IMAGE extension (nor SCI, nor a primary image); found {found}.")
    if not isinstance(image.data, np.ndarray) or image.data.ndim not in (2, 3):
        shape = getattr(image.data, "shape", "a table")
        raise InputError(f"the HDU {image.name} holds {shape}; give an image [H, W] or [B, H, W].")
    shape = image.data.shape if image.data.ndim == 3 else (1, *image.data.shape)
    header = hdus[0].header.copy()
    header.extend(image.header, update=True)
    noise = find_hdu(hdus, tuple(_NOISE))
    if noise is None:
        raise InputError(f"no noise extension (one of {', '.join(_NOISE)}); found {found}.")
    mask = find_hdu(hdus, ("MASK",))
    masked = np.zeros(shape, bool)
    if mask is not None:
        masked |= broadcast_mask(masked_pixels(mask.data, mask.header), shape)
    catalog = find_hdu(hdus, ("CATALOG",))
    unit = str(header.get("BUNIT", "")).strip()
    return BandPart(
        label=path.name,
        images=image.data.reshape(shape),
        weights=weights_from_noise(noise.data, _NOISE[noise.name], masked, noise.name),
        psfs=sources_in_image(hdus, path.name) or None,
        bands=_header_bands(header, shape[0]),
        wcs=celestial_wcs(image.header),
        unit=parse_unit(unit) if unit else None,
        zero_point=_header_zero_point(header, shape[0]),
        catalog=None if catalog is None else catalog.data,
        scale=header.get("PIXSCALE"),
    )


def _find_image(hdus: Sequence[HDU]) -> HDU | None:
    """Return IMAGE, SCI, the primary HDU, or else (compressed files) the first unnamed one."""
    named = find_hdu(hdus, ("IMAGE", "SCI"))
    if named is not None:
        return named
    for hdu in hdus:
        if isinstance(hdu.data, np.ndarray) and hdu.name in ("", "PRIMARY", "COMPRESSED_IMAGE"):
            return hdu
    return None


def celestial_wcs(header: fits.Header) -> WCS | None:
    """Return the WCS of the first two axes of a header; None if they are not celestial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # non-standard cards, which astropy corrects
        try:
            # Not `.celestial`: it would reorder the pixel axes of a (Dec, RA) header.
            wcs = WCS(header, naxis=2)
        except Exception as error:
            raise InputError(f"the WCS cannot be read: {reason(error)}.") from error
    return wcs if wcs.has_celestial else None


def _header_bands(header: fits.Header, num_bands: int) -> tuple[str, ...] | None:
    if "BANDS" in header:
        return tuple(band.strip() for band in str(header["BANDS"]).split(","))
    if "BAND1" in header:
        return tuple(str(header[f"BAND{i}"]) for i in range(1, 1000) if f"BAND{i}" in header)
    for card in ("FILTER", "BAND"):
        if num_bands == 1 and str(header.get(card, "")).strip():
            return (str(header[card]).strip(),)
    return None


def _header_zero_point(header: fits.Header, num_bands: int) -> tuple[float, ...] | None:
    if "MAGZERO1" in header:
        values = [header[f"MAGZERO{i}"] for i in range(1, 1000) if f"MAGZERO{i}" in header]
    elif "MAGZERO" in header:
        values = [header["MAGZERO"]] * num_bands
    else:
        scale = _NANOMAGGY.get(str(header.get("BUNIT", "")).strip().lower())
        return None if scale is None else (scale,) * num_bands
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise InputError(f"the card MAGZERO holds {values[0]!r}; give a number.") from error


def _stem(path: Path) -> str:
    name = path.name
    for ending in sorted((*FITS_ENDINGS, *NPZ_ENDINGS), key=len, reverse=True):
        if name.lower().endswith(ending):
            # `x.fits.fz` has two endings.
            return name[: -len(ending)].removesuffix(".fits")
    return path.stem
