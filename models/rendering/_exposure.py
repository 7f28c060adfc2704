r"""Exposures: pixels with their noise and PSF, and renderings of sources in them.

A box is convolved on its own small grid (box plus kernel, so nothing wraps around) and the
result is added to the image at the place of the box.  Corners are arrays: moving a source, or
rendering another blend, runs the same compiled program.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Bool, Float, Int
from scipy.fft import irfft2, rfft2

from scorepriors._aside import Aside
from scorepriors._typing import Array
from scorepriors.models.noise._abstract import AbstractNoise

from ._convolution import convolve, pair_bands
from ._grids import regrid
from ._kernels import Kernels
from ._placing import overlap
from ._turned import Turned


class Band(NamedTuple):
    """Description of a band.

    Attributes
    ----------
    name
        Name of the filter.
    wavelength
        Effective wavelength, nm; None if not known.
    time
        Time of the exposure, MJD; None if it does not matter.
    unit
        Flux of one unit of the image, in a unit that all bands of all exposures share.
    """

    name: str
    wavelength: float | None = None
    time: float | None = None
    unit: float = 1.0


class Exposure(eqx.Module):
    """The arrays of one observation that a model needs; a pytree that jit and vmap take.

    Attributes
    ----------
    images
        Pixels ``[B, H, W]``, in the unit of the image.
    noise
        Model of the noise.
    kernels
        Kernels from the model's PSF to that of each band.
    grid
        Row and column of the first pixel and the side of the pixels, ``[3]``, in pixels of the
        model (see `scorepriors.models.rendering._grids`); a map of pixels that are turned or
        distorted against those; None if they are the model's own.
    about
        Descriptions of the bands, on which no program depends.
    """

    images: Float[Array, "B H W"]
    noise: AbstractNoise
    kernels: Kernels
    grid: Float[Array, " 3"] | Turned | None = None
    about: Aside = eqx.field(static=True, default=Aside(()))

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands, as given; empty if they were not."""
        return self.about.value

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width (H, W) in pixels."""
        height, width = self.images.shape[-2:]
        return height, width

    @property
    def num_bands(self) -> int:
        """Number of bands B."""
        return self.images.shape[-3]

    def render(
        self,
        morphology: Float[Array, "K n n"],
        corner: Int[Array, "K 2"],
        mask: Bool[Array, " K"] | None = None,
    ) -> Float[Array, "K B H W"]:
        """Render every source in every band, for unit spectra.

        Parameters
        ----------
        morphology
            Boxes ``[K, n, n]`` at the model's resolution.
        corner
            First pixel (row, column) of each box in the image, ``[K, 2]``.  Boxes may reach over
            the edge; pixels outside are cut.
        mask
            Mask ``[K]``, False for padding, whose image is zero and, on CPUs, takes no time.

        Raises
        ------
        InputError
            If the boxes are larger than the kernels were prepared for.
        """
        size = morphology.shape[-1]
        transforms, shape = self.kernels.of_box(size), self.shape
        first = corner - self.kernels.size // 2
        real = jnp.ones(len(corner), bool) if mask is None else mask
        if self.grid is None:
            # Bands outermost, as the spectra need them; the swap at the end copies nothing.
            pairs, bands = pair_bands(transforms), self.num_bands
            images = convolve(morphology, pairs, first, real, bands=bands, shape=shape)
        else:
            grid = transforms.shape[-2]
            boxes = jnp.fft.rfft2(morphology * real[:, None, None], (grid, grid))
            support = size + self.kernels.size - 1
            images = regrid(boxes * transforms[:, None], self.grid, first, support, shape)
        return jnp.swapaxes(images, 0, 1)

    def model(
        self,
        spectrum: Float[Array, "K B"],
        morphology: Float[Array, "K n n"],
        corner: Int[Array, "K 2"],
    ) -> Float[Array, "B H W"]:
        """Return the sum of sources: amplitudes times morphologies, convolved (paper eq. 1)."""
        return jnp.einsum("kb,kbyx->byx", spectrum, self.render(morphology, corner))

    def likelihood(self, model: Float[Array, "B H W"]) -> dist.Distribution:
        """Return the distribution of unmasked pixels about a model image (paper eq. 12)."""
        return self.noise.distribution(model)

    def render_on_host(self, morphology: np.ndarray, corner: Array) -> np.ndarray:
        """Render as `render` does, in NumPy: one call does not repay a compilation."""
        size, shape = morphology.shape[-1], self.shape
        transforms = np.asarray(self.kernels.of_box(size))
        grid = transforms.shape[-2]
        boxes = rfft2(np.asarray(morphology, np.float32), (grid, grid))
        first = corner - self.kernels.size // 2
        if self.grid is not None:
            support = size + self.kernels.size - 1
            grid_of = jax.tree.map(np.asarray, self.grid)
            images = regrid(boxes * transforms[:, None], grid_of, first, support, shape, xp=np)
            return images.swapaxes(0, 1).astype(np.float32)
        out = np.zeros((len(morphology), self.num_bands, *shape), np.float32)
        convolved = irfft2(boxes[:, None] * transforms, (grid, grid))
        for target, image, at in zip(out, convolved, first, strict=True):
            inside = overlap(at, grid, shape)
            if inside is not None:
                target[:, *inside[0]] = image[:, *inside[1]]
        return out
