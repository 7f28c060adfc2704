"""PSFEx: images that a polynomial of the position, and of what else, multiplies."""

from collections.abc import Sequence

import numpy as np
from astropy.io import fits

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note
from scorepriors.models.data.readers._files import HDU

from ._images import card_of_band
from ._sources import Place, Source, Stamp, tell_if_a_part

#: Most variables, and the highest degree, of a polynomial that can be meant.
_MOST = 12

#: Largest scaled variable: stars lie within half of the scale, a scene may a little beyond.
_REACH = 0.75


def psfex_sources(hdus: Sequence[HDU], label: str) -> list[Source]:
    """Return the PSFs of a file that PSFEx wrote; none if it is no such file.

    Each ``PSF_DATA`` table holds ``PSF_MASK [M, P, P]``, whose first image is that at the mean
    position, the others multiply powers of ``(x - POLZERO) / POLSCAL``, x counted from 1.
    Samples lie `PSF_SAMP` pixels apart and contain the response of a pixel.
    """
    tables = [
        hdu
        for hdu in hdus
        if hdu.name == "PSF_DATA" or "PSF_MASK" in getattr(hdu.data, "colnames", ())
    ]
    if not tables:
        return []
    return [
        _source(hdu, f"{label} [{number}]" if len(tables) > 1 else label)
        for number, hdu in enumerate(tables)
    ]


def _source(hdu: HDU, label: str) -> Source:
    if "PSF_MASK" not in getattr(hdu.data, "colnames", ()):
        raise InputError(f"{label} has no column PSF_MASK; write the file with PSFEx again.")
    images = np.asarray(hdu.data["PSF_MASK"][0], float)
    images = images[None] if images.ndim == 2 else images
    step = _number(hdu.header, "PSF_SAMP", None, label)
    if not step > 0:
        raise InputError(f"{label} has PSF_SAMP = {step:g}; it must be positive.")
    axes = _count(hdu.header, "POLNAXIS", label)
    if axes and _number(hdu.header, "POLNGRP", 1, label) > 1:
        raise InputError(
            f"{label} varies by several groups of variables; run PSFEx with one group "
            "(PSFVAR_GROUPS 1,1)."
        )
    degree = _count(hdu.header, "POLDEG1", label) if axes else 0
    powers = exponents(axes, degree)
    if len(powers) != len(images):
        raise InputError(
            f"{label} has {len(images)} images for a polynomial of {len(powers)} terms; write "
            "the file with PSFEx again."
        )

    def at(place: Place) -> Stamp:
        values = np.array(
            [_variable(hdu.header, axis, place, label) for axis in range(1, axes + 1)]
        )
        weights = np.prod(values ** np.array(powers).reshape(len(powers), axes), axis=1)
        return Stamp(np.tensordot(weights, images, 1), oversampling=1 / step, effective=True)

    return Source(label, at, card_of_band(hdu.header), varies=axes > 0)


def exponents(num_variables: int, degree: int) -> list[tuple[int, ...]]:
    """Return exponents of the terms of a polynomial in PSFEx's order: 1, x, x^2, y, x y, y^2."""
    if num_variables == 0:
        return [()]
    return [
        (*lower, power)
        for power in range(degree + 1)
        for lower in (exponents(num_variables - 1, degree - power) if num_variables > 1 else [()])
    ]


def _variable(header: fits.Header, axis: int, place: Place, label: str) -> float:
    """Return a variable of the polynomial at a place, scaled."""
    name = str(header.get(f"POLNAME{axis}", "")).strip().upper()
    zero = _number(header, f"POLZERO{axis}", None, label)
    scale = _number(header, f"POLSCAL{axis}", None, label) or 1.0
    value: float | None = None
    sky = place.sky or (None, None)
    if name.endswith("_IMAGE") and name[0] in "XY":
        along = place.column if name[0] == "X" else place.row
        value = None if along is None else along + 1  # counted from 1
        if axis == 1:
            tell_if_a_part(label, place, abs(scale))
    elif name.startswith(("X_WORLD", "XWIN_WORLD", "ALPHA")):
        # On the side of 0 or 360 degrees where the field is.
        value = None if sky[0] is None else (sky[0] - zero + 180) % 360 - 180 + zero
    elif name.startswith(("Y_WORLD", "YWIN_WORLD", "DELTA")):
        value = sky[1]
    if value is None:
        note(
            f"the PSF of {label} varies with {name or 'a variable without name'}, which is not known here; its mean {zero:.6g} was taken."
        )
        return 0.0
    scaled = (value - zero) / scale
    if abs(scaled) > _REACH:
        note(
            f"{label} was made for {name} from {zero - scale / 2:.6g} to {zero + scale / 2:.6g}, "
            f"but the scene lies at {value:.6g}; its polynomial was extrapolated."
        )
    return scaled


def _count(header: fits.Header, card: str, label: str) -> int:
    """Return a number of variables or a degree."""
    value = _number(header, card, 0, label)
    if value not in range(_MOST + 1):
        raise InputError(f"{label}: the card {card} holds {value:g}; give 0 to {_MOST}.")
    return int(value)


def _number(header: fits.Header, card: str, default: float | None, label: str) -> float:
    """Return the number of a card; without default it must be there."""
    found = header.get(card, default)
    if found is None:
        raise InputError(f"{label} has no card {card}; write the file with PSFEx again.")
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{label}: the card {card} holds {found!r}; give a number.")
    return value
