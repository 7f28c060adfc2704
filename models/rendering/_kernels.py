"""Fourier transforms of the kernels of an exposure, for boxes of several sizes."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Complex, Float
from scipy.fft import next_fast_len

from scorepriors._errors import InputError
from scorepriors._typing import Array

from ._psf import difference_kernels


class Kernels(eqx.Module):
    """Fourier transforms of the kernels from the model's PSF to that of every band.

    Attributes
    ----------
    transforms
        Real transforms ``[B, N, N // 2 + 1]`` each, on grids of growing side N.  A few large
        boxes are convolved on a separate grid, so that they do not slow down the others.
    error
        Relative L2 error of the kernels, ``[B]`` (see `difference_kernels`).
    size
        Side P of the kernels in pixels; static.
    """

    transforms: tuple[Complex[Array, "B _ _"], ...]
    error: Float[Array, " B"]
    size: int = eqx.field(static=True)

    @property
    def box(self) -> int:
        """The largest source box that convolves without wrapping around."""
        return self.transforms[-1].shape[-2] - self.size + 1

    def of_box(self, box: int) -> Complex[Array, "B N M"]:
        """Return the transforms on the smallest grid for boxes of this side.

        Raises
        ------
        InputError
            If no grid is large enough.
        """
        for transforms in self.transforms:
            if box <= transforms.shape[-2] - self.size + 1:
                return transforms
        raise InputError(
            f"source boxes of {box} pixels do not fit the prepared grid, made for {self.box}; "
            f"call `exposures(obs, boxes=({box},))`."
        )


def kernels_of(psfs: np.ndarray, boxes: Sequence[int], psf_sigma: float | None, gain=1.0):
    """Return the kernels of PSFs, for boxes of these sides.

    Parameters
    ----------
    psfs
        PSFs ``[B, P, P]``, in pixels of the model.
    boxes
        Sides of source boxes, pixels.
    psf_sigma
        Standard deviation in pixels of the model's own Gaussian PSF; None for none.
    gain
        Factor of all kernels: the area of a pixel in pixels of the model.
    """
    kernels, error = difference_kernels(psfs, psf_sigma)
    size = kernels.shape[-1]
    # The transform is taken of the uncentered kernel: its offset of half a kernel is
    # undone, in whole pixels, when the box is placed.
    grids = sorted({next_fast_len(box + size - 1, real=True) for box in boxes})
    transforms = tuple(
        np.fft.rfft2(gain * kernels, (grid, grid)).astype(np.complex64) for grid in grids
    )
    return Kernels(transforms, np.asarray(error, np.float32), size)
