"""Common interface of single and joint observations."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units

from scorepriors._errors import InputError
from scorepriors._surveys import NANOJANSKY_ZERO_POINT, ZERO_POINT
from scorepriors.models.rendering._turned import Turned

from ._checks import numeric


@dataclass(frozen=True, eq=False)
class View:
    """One of the observations that are fitted together, and the place of its pixels.

    Attributes
    ----------
    observation
        Observation with pixels, weights and WCS.
    psfs
        PSFs ``[B, P, P]``, in pixels of the model: those of the first observation.
    bands
        Names of the bands, different from those of all other views.
    origin
        Center (row, column) of the first pixel, in pixels of the model.
    scale
        Side of the pixels, in pixels of the model: the root of their area.
    first
        Index of the first band among those of all views.
    turned
        Map of the pixels to those of the model, if they are turned, mirrored or distorted; None
        where they are parallel.
    """

    observation: Any
    psfs: np.ndarray
    bands: tuple[str, ...]
    origin: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    first: int = 0
    turned: Turned | None = None

    @property
    def which(self) -> slice:
        """Slice of this view's bands in those of all views."""
        return slice(self.first, self.first + len(self.bands))

    def pixels(self, places) -> np.ndarray:
        """Return the pixels ``[K, 2]`` (row, column) that see places ``[K, 2]`` of the model."""
        places = np.asarray(places, float)
        if self.turned is not None:
            return self.turned.pixels(places, np)
        return (places - np.asarray(self.origin)) / self.scale


class Photometry:
    """Units of fluxes, for classes with a `zero_point`, a `unit` and `bands`."""

    bands: tuple[str, ...]
    unit: units.UnitBase | None
    zero_point: tuple[float, ...] | None

    @property
    def num_bands(self) -> int:
        """Number of bands, B."""
        return len(self.bands)

    @property
    def flux_unit(self) -> tuple[units.UnitBase, np.ndarray]:
        """Unit of fluxes in tables, and the factor ``[B]`` that converts image units to it.

        Nanojansky if the zero points or the unit determine it; else the image's own unit, or
        dimensionless if astropy does not know that unit.
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
        """Return AB magnitudes of fluxes in image units.

        Parameters
        ----------
        flux
            Fluxes ``[..., B]``, in the unit of the pixels (without the factor of
            `flux_unit`).

        Returns
        -------
        numpy.ndarray or None
            Magnitudes ``[..., B]``, NaN where the flux is not positive; None if neither a zero
            point nor a unit of flux density is known.
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
