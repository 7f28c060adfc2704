"""PSF images in HDUs of FITS files: one, one for each band, cubes, oversampled ones."""

import re
import warnings
from collections.abc import Sequence

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area

from scorepriors._errors import InputError
from scorepriors.models.data.readers._files import HDU

from ._sources import Source, Stamp, constant

#: Names of STPSF's HDUs, the best first: with distortion, and oversampled, so that they can be
#: centered and summed over the image's own pixels.
_STPSF = ("OVERDIST", "OVERSAMP", "DET_DIST", "DET_SAMP")

#: Cards of the side of a sample in arcseconds.
_SCALES = ("PIXELSCL", "PIXSCALE", "PIXSCAL", "PIXELSCALE")


def image_sources(hdus: Sequence[HDU], label: str, named_only: bool) -> list[Source]:
    """Return the PSF images of a FITS file.

    Parameters
    ----------
    hdus
        HDUs of the file.
    label
        Its name.
    named_only
        Whether only HDUs named PSF count, as in a file that holds an image as well.
    """
    stpsf = next(
        (hdu for name in _STPSF for hdu in hdus if hdu.name == name and _is_image(hdu)), None
    )
    if stpsf is not None and not named_only:
        return [_stpsf_source(stpsf, label)]
    images = [hdu for hdu in hdus if _is_image(hdu)]
    named = [hdu for hdu in images if band_of_name(hdu.name) is not None]
    whole = [hdu for hdu in named if hdu.name == "PSF"]
    # A cube, or one image, named PSF outright comes before PSF_ERR and the like.
    chosen = whole or named or ([] if named_only else images)
    return [source for hdu in chosen for source in _sources_of_image(hdu, label, len(chosen) > 1)]


def _is_image(hdu: HDU) -> bool:
    return isinstance(hdu.data, np.ndarray) and hdu.data.ndim in (2, 3) and hdu.data.size > 0


def band_of_name(name: str) -> str | None:
    """Return what is left of the name of a PSF's HDU without PSF; None if it is no such name."""
    words = ["PSF" if word == "PSFIMAGE" else word for word in re.split(r"[_\-. ]+", name) if word]
    if "PSF" not in words:
        return None
    return "_".join(word for word in words if word != "PSF")


def _sources_of_image(hdu: HDU, label: str, several: bool) -> list[Source]:
    where = f"{label} [{hdu.name or 'unnamed'}]" if several else label
    about = sampling(hdu.header, hdu.name)
    name = band_of_name(hdu.name)
    name = hdu.name if name is None and hdu.name != "PRIMARY" else name or ""
    band = card_of_band(hdu.header)
    if hdu.data.ndim == 2:
        return [constant(where, Stamp(hdu.data, **about), band, name)]
    bands: Sequence[str | None] = _bands_of_cube(hdu.header, len(hdu.data)) or ()
    bands = bands or [band] * len(hdu.data)
    return [
        constant(f"{where} [{number}]", Stamp(image, **about), band)._replace(ordered=True)
        for number, (image, band) in enumerate(zip(hdu.data, bands, strict=True))
    ]


def _stpsf_source(hdu: HDU, label: str) -> Source:
    about = sampling(hdu.header)
    where = f"{label} [{hdu.name}]"
    if hdu.name.startswith("DET_"):
        about["oversampling"] = 1.0  # the card is that of the calculation
    image = hdu.data if hdu.data.ndim == 2 else hdu.data[0]
    stamp = Stamp(image, **about, finer=hdu.name.startswith("OVER"))
    return constant(where, stamp, card_of_band(hdu.header))


def card_of_band(header: fits.Header) -> str | None:
    """Return the band or filter that a header names."""
    for card in ("BAND", "FILTER"):
        if str(header.get(card, "")).strip():
            return str(header[card]).strip()
    return None


def _bands_of_cube(header: fits.Header, count: int) -> list[str] | None:
    listed = [band.strip() for band in str(header.get("BANDS", "")).split(",") if band.strip()]
    numbered = [
        str(header[f"BAND{i}"]).strip() for i in range(1, count + 1) if f"BAND{i}" in header
    ]
    return next((names for names in (listed, numbered) if len(names) == count), None)


def sampling(header: fits.Header, name: str = "") -> dict:
    """Return what a header says on the samples: arcseconds, and samples per pixel."""
    scale = next((_positive(header, card) for card in _SCALES if card in header), None)
    wcs_scale = _scale_of_wcs(header) if scale is None else None
    oversampling = next(
        (_positive(header, card) for card in ("OVERSAMP", "OVERSAMPL") if card in header), None
    )
    return {"scale": scale, "wcs_scale": wcs_scale, "oversampling": oversampling}


def _positive(header: fits.Header, card: str) -> float:
    try:
        value = float(header[card])
    except (TypeError, ValueError):
        value = np.nan
    if not (np.isfinite(value) and value > 0):
        raise InputError(
            f"the card {card} of the PSF holds {header[card]!r}; give a positive number, or "
            "delete it."
        )
    return value


def _scale_of_wcs(header: fits.Header) -> float | None:
    if "CTYPE1" not in header:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(header, naxis=2)
            return float(np.sqrt(proj_plane_pixel_area(wcs)) * 3600) if wcs.has_celestial else None
        except Exception:  # a PSF's own WCS says nothing then
            return None
