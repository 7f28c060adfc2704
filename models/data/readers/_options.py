"""What a user says of a file that the file itself does not tell."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord

from scorepriors._errors import InputError
from scorepriors.models.data._checks import check_time

#: Kinds of noise images: exposure times are relative weights.
NOISE_KINDS = ("variance", "deviation", "ivar", "exposure")


@dataclass(frozen=True, eq=False)
class FileOptions:
    """Options of `Observation.from_fits`, which documents them."""

    noise: Any = None
    noise_kind: str | None = None
    mask: Any = None
    good: int | None = None
    bad_planes: str | int | Sequence[str | int] | None = None
    zero_point: float | Sequence[float] | None = None
    bands: str | Sequence[str] | None = None
    hdu: str | int | None = None
    position: Any = None
    size: Any = None
    time: Any = None

    def __post_init__(self):
        if self.noise_kind is not None and self.noise_kind not in NOISE_KINDS:
            raise InputError(
                f"noise_kind is {self.noise_kind!r}; choose from {', '.join(NOISE_KINDS)}."
            )
        if self.good is not None and self.bad_planes is not None:
            raise InputError("give good= or bad_planes=, not both.")
        if (self.position is None) != (self.size is None):
            raise InputError(
                "position= and size= cut a part out of the image; give both (--position RA DEC "
                "--size ARCSEC)."
            )
        check_time(self.time)
        if self.position is not None:
            self.center  # noqa: B018 (raises)
            self.side  # noqa: B018

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the options that were given."""
        return tuple(name for name in vars(self) if getattr(self, name) is not None)

    @property
    def center(self) -> SkyCoord:
        """Position of the cut."""
        if isinstance(self.position, SkyCoord):
            if self.position.isscalar:
                return self.position
            raise InputError("position= holds several places; give one.")
        try:
            ra, dec = self.position
            if isinstance(ra, str) and re.search("[:h]", ra):
                center = SkyCoord(ra, dec, unit=("hourangle", "deg"))
            else:
                center = SkyCoord(float(ra), float(dec), unit="deg")
        except (TypeError, ValueError, units.UnitsError) as error:
            raise InputError(
                f"position is {self.position!r}; give (RA, Dec) in degrees, as 10:00:24 +02:12:00, "
                "or a SkyCoord."
            ) from error
        if not (np.isfinite(center.ra.deg) and np.isfinite(center.dec.deg)):
            raise InputError(f"position is {self.position!r}; give finite degrees.")
        return center

    @property
    def side(self) -> float:
        """Side of the cut in arcseconds."""
        try:
            size = self.size
            side = float(size.to_value("arcsec") if isinstance(size, units.Quantity) else size)
        except (TypeError, ValueError, units.UnitConversionError) as error:
            raise InputError(f"size is {self.size!r}; give arcseconds.") from error
        if not (np.isfinite(side) and side > 0):
            raise InputError(f"size is {side:g} arcsec; give a positive number.")
        return side

    @property
    def planes(self) -> tuple[str | int, ...] | None:
        """Names or bits of the bad planes of a mask."""
        planes = self.bad_planes
        if planes is None:
            return None
        if isinstance(planes, str):
            planes = [plane for plane in planes.replace(",", " ").split() if plane]
        elif isinstance(planes, int):
            planes = [planes]
        return tuple(int(str(p)) if str(p).isdigit() else str(p).upper() for p in planes)

    def one_of(self, name: str, number: int, count: int):
        """Return the noise or mask of the file of a number, of as many as there are files."""
        value = getattr(self, name)
        if value is None:
            return None
        if isinstance(value, str | os.PathLike) or not isinstance(value, list | tuple):
            value = [value]
        for one in value:
            if not isinstance(one, str | os.PathLike):
                raise InputError(
                    f"{name} is of the type {type(one).__name__}; give a FITS file, or arrays to "
                    "Observation.from_arrays."
                )
        if len(value) not in (1, count) or (len(value) == 1 < count):
            raise InputError(
                f"{len(value)} file(s) with the {name} for {count} image file(s); give one for "
                f"each, in their order (--{name} FILE, again for each)."
            )
        return value[number]


def given_bands(bands: str | Sequence[str]) -> tuple[str, ...]:
    """Return names of bands that a user gave, as a list or between commas."""
    if isinstance(bands, str):
        return tuple(band.strip() for band in bands.split(","))
    return tuple(bands)
