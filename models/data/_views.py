"""What a single observation and several joined ones have in common."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units

from scorepriors._errors import InputError
from scorepriors._surveys import NANOJANSKY_ZERO_POINT, ZERO_POINT

from ._checks import numeric


@dataclass(frozen=True, eq=False)
class View:
    """One observation among those that are fitted together, and where its pixels are.

    Attributes
    ----------
    observation
        Its pixels, weights and WCS.
    psfs
        ``[B, P, P]``, in pixels of the model: those of the first observation.
    bands
        Names, different from those of all other views.
    origin
        (row, column) of its first pixel's center, in pixels of the model.
    scale
        Side of its pixels, in pixels of the model.
    first
        Number of its first band among those of all views.
    """

    observation: Any
    psfs: np.ndarray
    bands: tuple[str, ...]
    origin: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    first: int = 0

    @property
    def which(self) -> slice:
        """Which bands of all views are its own."""
        return slice(self.first, self.first + len(self.bands))


class Photometry:
    """Units of fluxes, for whatever has a `zero_point`, a `unit` and `bands`."""

    bands: tuple[str, ...]
    unit: units.UnitBase | None
    zero_point: tuple[float, ...] | None

    @property
    def num_bands(self) -> int:
        """Number of bands, B."""
        return len(self.bands)

    @property
    def flux_unit(self) -> tuple[units.UnitBase, np.ndarray]:
        """Unit of fluxes in tables, and the factor ``[B]`` that takes image units to it.

        Nanojansky if the zero points or the unit tell how; else the image's own unit, or
        plain numbers if astropy does not know it, and so cannot calculate with it.
        """
        if self.zero_point is not None:
            zero_point = np.array(self.zero_point)
            return units.nJy, 10 ** ((ZERO_POINT - zero_point) / 2.5)
        if self.unit is not None and self.unit.is_equivalent(units.nJy):
            return units.nJy, np.full(self.num_bands, self.unit.to(units.nJy))
        unknown = self.unit is None or isinstance(self.unit, units.UnrecognizedUnit)
        unit = units.dimensionless_unscaled if unknown else self.unit
        return unit, np.ones(self.num_bands)

    @property
    def flux_zero_point(self) -> float | None:
        """AB magnitude of one unit of `flux_unit`; None if that is no flux density."""
        if self.flux_unit[0] != units.nJy:
            return None
        return ZERO_POINT if self.zero_point is not None else NANOJANSKY_ZERO_POINT

    def magnitudes(self, flux) -> np.ndarray | None:
        """AB magnitudes of fluxes in image units.

        Parameters
        ----------
        flux
            ``[..., B]``, in the unit of the pixels (not yet times the factor of
            `flux_unit`).

        Returns
        -------
        numpy.ndarray or None
            ``[..., B]``, NaN where the flux is not positive; None if neither a zero point
            nor a unit of flux density is known.
        """
        zero = self.flux_zero_point
        if zero is None:
            return None
        flux = numeric(flux, "flux").astype(np.float64)
        if flux.ndim == 0 or flux.shape[-1] != self.num_bands:
            raise InputError(
                f"flux has the shape {flux.shape}; its last axis must be the {self.num_bands} "
                "band(s)."
            )
        return zero - 2.5 * np.log10(np.where(flux > 0, flux, np.nan) * self.flux_unit[1])
