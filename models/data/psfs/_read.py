"""Reading of PSFs: from files, arrays and objects, one for each band, on the image's pixels."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area

from scorepriors._errors import InputError
from scorepriors.models.data._checks import numeric
from scorepriors.models.data._warnings import note

from ._checks import FINE, check_psfs, one_size
from ._contents import sources_of
from ._matching import match, named_band
from ._resampling import on_pixels
from ._scales import COARSEST, check_oversampling, step_of
from ._sources import Place, Source

#: Largest relative error of the sum by which an effective PSF is known: one in each pixel.
_SUM_OF_EFFECTIVE = 0.1

#: Least side of a resampled PSF, pixels.
_SMALLEST = 3.0


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
    return check_psfs(psfs_for(psf, tuple(bands), where, oversampling).images, tuple(bands))


class Evaluated(NamedTuple):
    """PSFs at one place, not yet checked.

    Attributes
    ----------
    images
        Images ``[P, P]`` on the image's pixels, one for each band.
    fine
        Images ``[Q, Q]`` at `FINE` places per pixel; None where the source has fewer than two
        samples per pixel.
    varies
        Whether any of them may be another one at another place.
    """

    images: list[np.ndarray]
    fine: list[np.ndarray | None]
    varies: bool

    @property
    def all_fine(self) -> np.ndarray | None:
        """Fine images ``[B, Q, Q]``; None unless those of all bands are known."""
        known = [one for one in self.fine if one is not None]
        return one_size(known) if len(known) == len(self.fine) else None


def psfs_for(
    psf, bands: tuple[str, ...], place: Place, oversampling: float | None = None
) -> Evaluated:
    """Return PSF images on the image's pixels, one for each band, not yet checked, and fine ones.

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
    return evaluate(choose(psf, bands), place, oversampling)


def evaluate(
    chosen: Sequence[Source], place: Place, oversampling: float | None = None
) -> Evaluated:
    """Return images of sources that were chosen, one for each band."""
    if oversampling is not None:
        oversampling = check_oversampling(oversampling)
    stamps: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
    for source in chosen:
        if id(source) not in stamps:
            stamps[id(source)] = _on_image(source, place, oversampling)
    found = [stamps[id(source)] for source in chosen]
    return Evaluated(
        [image for image, _ in found],
        [fine for _, fine in found],
        any(source.varies for source in chosen),
    )


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
    whole = (shape[0], shape[1]) if tuple(corner) == (0, 0) else None
    middle = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    return place_at(*middle, wcs, scale, corner)._replace(shape=whole)


def place_at(
    row: float, column: float, wcs: WCS | None, scale: float | None, corner: tuple[int, int]
) -> Place:
    """Return the place of a pixel of an image; parameters are those of `place_of`."""
    sky = None
    if wcs is not None:
        scale = float(np.sqrt(proj_plane_pixel_area(wcs)) * 3600)
        sky = _sky(wcs, row, column)
    return Place(row + corner[0], column + corner[1], sky, scale)


def _sky(wcs: WCS, row: float, column: float) -> tuple[float, float] | None:
    """Return (RA, Dec) of a pixel in degrees; None where the WCS has none."""
    try:
        there = wcs.pixel_to_world(column, row).icrs
        ra, dec = float(there.ra.deg), float(there.dec.deg)
    except Exception:  # points beyond a projection, frames without a way to RA and Dec
        return None
    return (ra, dec) if np.isfinite([ra, dec]).all() else None


def choose(psf, bands: tuple[str, ...]) -> list[Source]:
    """Return the source of each band; parameters are those of `psfs_for`."""
    if isinstance(psf, Mapping):
        given = {str(band): one for band, one in psf.items()}
        keys = [_key(band, given) for band in bands]
        missing = [band for band, key in zip(bands, keys, strict=True) if key is None]
        if missing:
            raise InputError(
                f"there is no PSF for the band(s) {', '.join(missing)}; the dictionary has "
                f"{', '.join(given) or 'nothing'}."
            )
        return [choose(given[str(key)], (band,))[0] for band, key in zip(bands, keys, strict=True)]
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


def _key(band: str, given: Mapping) -> str | None:
    """Return the key of a dictionary that means a band."""
    return band if band in given else named_band(band, tuple(given))


def _is_list(psf) -> bool:
    """Return whether a list holds one thing for each band, not the numbers of an array."""
    if not isinstance(psf, list | tuple) or isinstance(psf, fits.HDUList):
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


def _on_image(
    source: Source, place: Place, oversampling: float | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Evaluate a source, and sample it on the pixels of the image and, if it can be, finely."""
    stamp = source.at(place)
    image = numeric(stamp.image, source.label)
    if image.ndim != 2:
        raise InputError(f"{source.label} has the shape {image.shape}; give an image [P, P].")
    step = step_of(source.label, stamp, place.scale, oversampling)
    image = image.astype(np.float64)
    if step > COARSEST:
        raise InputError(
            f"{source.label} would have one sample in {step:.4g} pixels of the image, which is no "
            "PSF; correct its oversampling, or say it: psf_oversampling= (--psf-oversampling)."
        )
    # One pixel is a PSF without width, as some give it where there is none.
    if step != 1 and max(image.shape) * step < _SMALLEST:
        raise InputError(
            f"{source.label} covers {max(image.shape) * step:.2g} pixels of the image, with "
            f"{1 / step:.4g} samples per pixel; a PSF needs its wings, so correct that number."
        )
    if step == 1 or not (np.isfinite(image).all() and image.sum() > 0):
        return image, None  # the checks name what is wrong with it
    # Samples wider than pixels can't be summed over them.
    effective = stamp.effective or step > 1
    if not effective and step < 0.75 and abs(image.sum() * step**2 - 1) < _SUM_OF_EFFECTIVE:
        note(
            f"{source.label} sums to {image.sum():.4g}, as an effective PSF of {1 / step:.4g} "
            "samples per pixel does (photutils), so it was taken for one: its samples were "
            "interpolated, not summed over pixels."
        )
        effective = True
    sampled = on_pixels(image, step, effective)
    more = on_pixels(image, step, effective, FINE) if step <= 0.5 else None
    return sampled / sampled.sum() if effective else sampled, more
