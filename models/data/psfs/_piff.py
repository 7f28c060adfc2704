"""Files and objects of the packages `piff` and `galsim`, drawn at the place of the scene."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from scorepriors._errors import InputError
from scorepriors.models.data.readers._files import HDU, reason

from ._sources import Place, Source, Stamp

#: Properties that Piff finds by itself from a position.
_KNOWN = {"x", "y", "u", "v", "ra", "dec"}

#: Side of drawn stamps, pixels: more than seven times the FWHM of any survey.
_SIZE = 51


def is_piff_file(hdus: Sequence[HDU]) -> bool:
    """Return whether a FITS file was written by Piff: tables of its parts, no image."""
    names = {hdu.name for hdu in hdus}
    return "PSF" in names and any(name.startswith("PSF_") and "WCS" in name for name in names)


def import_piff() -> ModuleType:
    """Import Piff, which turns JAX to double precision, and turn it back."""
    import jax

    double = jax.config.read("jax_enable_x64")
    try:
        return importlib.import_module("piff")
    finally:
        jax.config.update("jax_enable_x64", double)


def piff_file_source(path: Path) -> Source:
    """Return the PSF of a file that Piff wrote."""
    try:
        piff = import_piff()
    except ImportError as error:
        raise InputError(
            f"{path.name} is a PSF of Piff; install it (pip install piff), or give an image of "
            "the PSF."
        ) from error
    try:
        psf = piff.read(str(path))
    except Exception as error:  # whatever Piff raises on a damaged file
        raise InputError(f"Piff cannot read {path.name}: {reason(error)}.") from error
    return piff_source(psf, path.name)


def piff_source(psf, label: str) -> Source:
    """Return the source of a ``piff.PSF``."""

    def at(place: Place) -> Stamp:
        chips = list(psf.wcs)
        if len(chips) > 1:
            raise InputError(
                f"{label} is a PSF of {len(chips)} chips; draw it on that of the image: "
                "psf.draw(x, y, chipnum=...).array is an image of the PSF."
            )
        others = sorted(set(psf.interp_property_names) - _KNOWN)
        if others:
            raise InputError(
                f"{label} varies with {', '.join(map(str, others))}; draw it yourself: "
                "psf.draw(x, y, ...).array is an image of the PSF."
            )
        x, y = _position(psf, chips[0], place, label)
        try:
            image = psf.draw(x, y, chipnum=chips[0], center=True, stamp_size=_SIZE).array
        except Exception as error:  # whatever GalSim raises
            raise InputError(f"Piff cannot draw {label}: {reason(error)}.") from error
        return Stamp(np.asarray(image, float), scale=_scale(psf, chips[0], x, y), effective=True)

    return Source(label, at)


def _position(psf, chip, place: Place, label: str) -> tuple[float, float]:
    """Return Piff's (x, y), counted from 1, by the sky where both know it."""
    import galsim

    wcs = psf.wcs[chip]
    if place.sky is not None and wcs.isCelestial():
        ra, dec = (angle * galsim.degrees for angle in place.sky)
        position = wcs.toImage(galsim.CelestialCoord(ra, dec))
        return position.x, position.y
    if place.row is None or place.column is None:
        raise InputError(f"{label} varies with position, and none is known; give place=.")
    return place.column + 1, place.row + 1


def _scale(psf, chip, x: float, y: float) -> float:
    """Return the side of a pixel of Piff's images in arcseconds."""
    import galsim

    area = psf.wcs[chip].local(image_pos=galsim.PositionD(x, y)).pixelArea()
    return float(np.sqrt(area))


def galsim_source(profile, label: str) -> Source:
    """Return the source of a ``galsim.GSObject``, whose lengths are arcseconds."""

    def at(place: Place) -> Stamp:
        if place.scale is None:
            raise InputError(
                f"{label} has lengths in arcseconds, but the image has no pixel scale; give it a "
                "WCS or scale=."
            )
        try:
            image = profile.drawImage(nx=_SIZE, ny=_SIZE, scale=place.scale).array
        except Exception as error:  # whatever GalSim raises
            raise InputError(f"GalSim cannot draw {label}: {reason(error)}.") from error
        return Stamp(np.asarray(image, float))

    return Source(label, at)
