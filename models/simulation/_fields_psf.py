"""PSFs of simulated fields: they vary smoothly, and are written as polynomials, as by PSFEx."""

from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from scorepriors._surveys import Camera

from ._simulation import STAMP, psf_images, psf_profile

#: Change of the seeing over a field, and of each ellipticity, standard deviation of each term.
_SEEING_CHANGE, _ELLIPTICITY_CHANGE = 0.02, 0.01

#: Difference of the seeing, and ellipticity, of a whole image (as in sets of blends).
_SEEING, _ELLIPTICITY = 0.03, 0.015

#: Degree of the polynomial in files: PSFs drawn from it differ by 1e-4 of the peak.
_DEGREE = 3

#: Side of the grid of PSFs to which the polynomial is fitted.
_GRID = 6


class VaryingPsf:
    """PSFs of `psf_profile` whose width and ellipticity are polynomials of the place.

    Parameters
    ----------
    galsim
        The module.
    rng
        Random number generator.
    camera
        Camera with the seeing of each band.
    side
        Side of the field, pixels.
    """

    def __init__(self, galsim: Any, rng: np.random.Generator, camera: Camera, side: int):
        self._galsim, self._camera, self._side, self.scale = galsim, camera, side, camera.scale
        #: Row and column of the middle of the field.
        self.middle = ((side - 1) / 2, (side - 1) / 2)
        count = len(camera.bands)
        self.bands = camera.bands
        seeing = camera.seeing * (1 + _SEEING * rng.standard_normal(count))
        self._seeing = seeing[:, None] * np.column_stack(
            [np.ones(count), _SEEING_CHANGE * rng.standard_normal((count, 5))]
        )
        first = _ELLIPTICITY * rng.standard_normal((2, count, 1))
        change = _ELLIPTICITY_CHANGE * rng.standard_normal((2, count, 5))
        self._ellipticity = np.concatenate([first, change], axis=-1)

    def at(self, row: float, column: float) -> list:
        """Return the PSFs at a place as GalSim objects, one for each band, without the pixel."""
        x, y = (2 * np.array([column, row]) - (self._side - 1)) / self._side
        terms = np.array([1, x, y, x**2 - 1 / 3, x * y, y**2 - 1 / 3])
        return [
            psf_profile(self._galsim, self._camera, band, width).shear(e1=e1, e2=e2)
            for band, (width, e1, e2) in enumerate(
                zip(self._seeing @ terms, *(self._ellipticity @ terms), strict=True)
            )
        ]

    def images(self, row: float, column: float) -> np.ndarray:
        """Return effective PSFs (pixel included) at a place, ``[B, 41, 41]``, sums of one."""
        return psf_images(self.at(row, column), self.scale)

    def hdus(self) -> list[fits.BinTableHDU]:
        """Return one table for each band, in the form of PSFEx, with the band in a card BAND."""
        along = np.linspace(0, self._side - 1, _GRID)
        places = np.stack([p.ravel() for p in np.meshgrid(along, along, indexing="ij")], -1)
        images = np.stack([self.images(*place) for place in places])  # [places, B, P, P]
        zero, side = (self._side + 1) / 2, float(self._side)
        # PSFEx counts pixels from 1.
        y, x = (places.T + 1 - zero) / side
        powers = [(i, j) for j in range(_DEGREE + 1) for i in range(_DEGREE + 1 - j)]
        terms = np.stack([x**i * y**j for i, j in powers], -1)
        return [
            self._hdu(band, np.linalg.lstsq(terms, images[:, order].reshape(len(places), -1))[0])
            for order, band in enumerate(self.bands)
        ]

    def _hdu(self, band: str, terms: np.ndarray) -> fits.BinTableHDU:
        mask = terms.reshape(1, -1, STAMP, STAMP).astype(np.float32)
        hdu = fits.BinTableHDU(Table({"PSF_MASK": mask}), name="PSF_DATA")
        width = float(self._seeing[self.bands.index(band), 0] / self.scale)
        hdu.header.update({"BAND": band, "POLNAXIS": 2})
        for axis, name in enumerate(("X_IMAGE", "Y_IMAGE"), 1):
            hdu.header[f"POLGRP{axis}"] = 1
            hdu.header[f"POLNAME{axis}"] = name
            hdu.header[f"POLZERO{axis}"] = (self._side + 1) / 2
            hdu.header[f"POLSCAL{axis}"] = float(self._side)
        hdu.header.update({"POLNGRP": 1, "POLDEG1": _DEGREE, "PSF_FWHM": width, "PSF_SAMP": 1.0})
        return hdu
