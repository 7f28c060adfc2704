"""Sources of a simulated field, drawn one by one on stamps that just hold their light."""

from dataclasses import dataclass

import numpy as np

from scorepriors._moments import shapes
from scorepriors._surveys import Camera

from ._fields_bodies import Body
from ._fields_psf import VaryingPsf
from ._simulation import draw, image_middle, model_psf

#: Share of the light outside of the side that GalSim calls good, and how much less of it lies
#: outside of twice that side: PSFs of the atmosphere fall as the power -11/3 of the radius.
_OUTSIDE, _FALL = 5e-3, 3.0

#: Mean light in a pixel outside of a stamp, in standard deviations of the sky.
_FAINT = 0.01

#: Side on which shapes are measured, under a window of 6 pixels.
_SHAPE_SIDE = 65

#: Largest side of a stamp, pixels.
_LARGEST = 1024


@dataclass(frozen=True)
class Stamp:
    """Light of one source.

    Attributes
    ----------
    corner
        Row and column of its first pixel in the field; negative beyond its border.
    light
        As observed without noise, ``[B, n, n]``, nJy.
    """

    corner: tuple[int, int]
    light: np.ndarray

    def significance(self, camera: Camera) -> np.ndarray:
        """Return the signal to noise of each pixel, of all bands against the sky, ``[n, n]``."""
        return np.sqrt(np.einsum("byx,b->yx", self.light**2, 1 / camera.sky_variance))

    def extent(self, center: np.ndarray, camera: Camera) -> float:
        """Return the distance, in pixels, of the farthest pixel above the noise of the sky."""
        there = np.argwhere(self.significance(camera) > 1) + self.corner - center
        return float(np.linalg.norm(there, axis=1).max(initial=0.0))

    def inside(self, shape: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the slices of the field, of a shape, and of the stamp where they overlap."""
        field, own = [], []
        for first, length, size in zip(self.corner, self.light.shape[1:], shape, strict=True):
            low, high = max(first, 0), min(first + length, size)
            field.append(slice(low, high))
            own.append(slice(low - first, high - first))
        return (field[0], field[1]), (own[0], own[1])


def draw_stamp(galsim, body: Body, center: np.ndarray, psf: VaryingPsf, camera: Camera) -> Stamp:
    """Draw a source at a place (row, column) of a field, with the PSFs of that place."""
    psfs = psf.at(*center)
    side = _side(galsim, body, psfs, camera)
    corner = np.round(center).astype(int) - side // 2
    light = sum(
        flux[:, None, None]
        * draw(galsim, profile, center - corner, psfs, (side, side), camera.scale)
        for profile, flux in body.parts
    )
    return Stamp((int(corner[0]), int(corner[1])), np.asarray(light))


def model_shape(galsim, body: Body, center: np.ndarray, camera: Camera) -> np.ndarray:
    """Return size, e1 and e2 of a source at the model's resolution, as catalogs measure them."""
    middle = image_middle((_SHAPE_SIDE, _SHAPE_SIDE))
    sharp = [model_psf(galsim, camera.scale)]
    offset = center - np.round(center)
    image = sum(
        flux.sum()
        * draw(galsim, profile, middle + offset, sharp, (_SHAPE_SIDE, _SHAPE_SIDE), camera.scale)
        for profile, flux in body.parts
    )
    return np.concatenate(shapes(np.asarray(image)))


def _side(galsim, body: Body, psfs: list, camera: Camera) -> int:
    """Return a side outside of which the light of a source is lost in the noise."""
    widest = psfs[int(np.argmax(camera.seeing))]
    side = max(
        galsim.Convolve(profile, widest).getGoodImageSize(camera.scale) for profile, _ in body.parts
    )
    outside = _OUTSIDE * float(np.max(body.flux / np.sqrt(camera.sky_variance)))
    while outside > _FAINT * side**2 and 2 * side <= _LARGEST:
        side, outside = 2 * side, outside / _FALL
    return side + 1  # odd, so that a center in the middle of a pixel is the stamp's
