"""What a PSF is before it is evaluated: a name, and a function of the place of the scene."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scorepriors.models.data._warnings import note

#: Side of an image, over that of a PSF's field, below which it may be a cutout of that field.
_PART = 0.5


class Place(NamedTuple):
    """Place of a scene, at which its PSFs are evaluated.

    Attributes
    ----------
    row, column
        Center of the scene in pixels of its file's image, counted from 0; None if unknown.
    sky
        The same as (RA, Dec) in degrees; None without WCS.
    scale
        Arcseconds per pixel of the image; None if unknown.
    shape
        Height and width of the file's image; None if unknown, as where a part was cut out.
    """

    row: float | None = None
    column: float | None = None
    sky: tuple[float, float] | None = None
    scale: float | None = None
    shape: tuple[int, int] | None = None


class Stamp(NamedTuple):
    """Samples of a PSF at one place.

    Attributes
    ----------
    image
        Samples ``[H, W]``.
    finer
        Whether samples are known to be finer than pixels, though maybe not how much.
    scale
        Arcseconds per sample by a card; None if unknown.
    wcs_scale
        The same by a WCS, which PSFs inherit from other images; None if there is none.
    oversampling
        Samples per pixel of the image, along one axis; None if unknown.
    effective
        Whether samples are values of the effective PSF, with the response of a whole pixel in
        each, to be interpolated; else each is the light on its own small pixel, to be summed.
    """

    image: np.ndarray
    finer: bool = False
    scale: float | None = None
    wcs_scale: float | None = None
    oversampling: float | None = None
    effective: bool = False


class Source(NamedTuple):
    """One PSF of a file or an object.

    Attributes
    ----------
    label
        Name of the file and the HDU, for sentences.
    at
        Function of a `Place` that returns a `Stamp`.
    band
        Name of its band by a card, or None.
    name
        Name of its HDU, which may name the band; "" for none.
    hint
        Words that may name the band by chance: those of the file's name.
    ordered
        Whether it is one of a cube, which has the order of the bands.
    refusal
        Why it can't be used, as a sentence; "" if it can.
    varies
        Whether it may differ from place to place.
    of_detector
        Whether its pixels and its orientation are those of a detector.
    """

    label: str
    at: Callable[[Place], Stamp]
    band: str | None = None
    name: str = ""
    hint: str = ""
    ordered: bool = False
    refusal: str = ""
    varies: bool = True
    of_detector: bool = False


def constant(label: str, stamp: Stamp, band: str | None = None, name: str = "") -> Source:
    """Return the source of a stamp that is the same everywhere."""
    return Source(label, lambda place: stamp, band, name, varies=False)


def tell_if_a_part(label: str, place: Place, field: float) -> None:
    """Say that an image is much smaller than the field of a PSF, whose pixels it may not count.

    Parameters
    ----------
    label
        Name of the PSF.
    place
        Place of the scene.
    field
        Side of the field over which the PSF varies, pixels.
    """
    if place.shape is not None and max(place.shape) < _PART * field:
        note(
            f"{label} varies over a field of {field:.0f} pixels, but the image has {place.shape[1]} "
            f"x {place.shape[0]}: its pixels were counted as those of the field; if it was cut out "
            "of it, cut it here instead (position= and size=, --position RA DEC --size ARCSEC)."
        )
