r"""From morphologies in boxes to images: convolution and placement, differentiable.

A box is convolved on its own small grid (box plus kernel, so nothing wraps around)
and the result is added to the image where the box sits.  Corners are arrays: moving a
source, or rendering another blend, runs the same compiled program.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Complex, Float, Int
from scipy.fft import next_fast_len

from scorepriors.errors import InputError

from .observation import Observation
from .psf import difference_kernels


class ImageData(eqx.Module):
    """The arrays of an observation that a model needs; a pytree that jit and vmap take.

    Attributes
    ----------
    images, weights
        ``[B, H, W]``; weight is the inverse variance, 0 where masked.
    transforms
        ``[B, N, N // 2 + 1]``, Fourier transforms of the difference kernels.
    kernel_error
        ``[B]``, relative L2 error of the kernels (see `difference_kernels`).
    mean_spectrum
        ``[B]``, a spectrum flat in f_nu in the units of the image, sum 1.
    noise_flux
        Band-summed noise of a pixel: the unit in which fluxes are large or small.
    kernel_size, grid
        P and N; static.
    """

    images: Float[Array, "B H W"]
    weights: Float[Array, "B H W"]
    transforms: Complex[Array, "B N M"]
    kernel_error: Float[Array, " B"]
    mean_spectrum: Float[Array, " B"]
    noise_flux: Float[Array, ""]
    kernel_size: int = eqx.field(static=True)
    grid: int = eqx.field(static=True)

    @property
    def num_bands(self) -> int:
        """Number of bands B."""
        return self.images.shape[-3]

    @property
    def box(self) -> int:
        """The largest source box that convolves without wrapping around."""
        return self.grid - self.kernel_size + 1

    def render(
        self, morphology: Float[Array, "K n n"], corner: Int[Array, "K 2"]
    ) -> Float[Array, "K B H W"]:
        """Image of every source in every band, for unit spectra.

        Parameters
        ----------
        morphology
            ``[K, n, n]`` at the model's resolution.
        corner
            ``[K, 2]``, (row, column) of each box's first pixel in the image.  Boxes may
            reach over the edge; what lies outside is cut.

        Raises
        ------
        InputError
            If the boxes are larger than `box`.
        """
        size = morphology.shape[-1]
        if size > self.box:
            raise InputError(
                f"source boxes of {size} pixels do not fit the prepared grid, made for "
                f"{self.box}; call `image_data(obs, box={size}, ...)`."
            )
        grid, height, width = self.grid, *self.images.shape[-2:]
        boxes = jnp.fft.rfft2(morphology, (grid, grid))
        convolved = jnp.fft.irfft2(boxes[:, None] * self.transforms, (grid, grid))
        return jax.vmap(lambda image, at: place(image, at, (height, width)))(
            convolved, corner - self.kernel_size // 2
        )

    def model(self, spectrum, morphology, corner) -> Float[Array, "B H W"]:
        """Sum of all sources: ``spectrum [K, B]`` times morphology, convolved (eq. 1)."""
        return jnp.einsum("kb,kbyx->byx", spectrum, self.render(morphology, corner))

    def likelihood(self, model: Float[Array, "B H W"]) -> dist.Distribution:
        """Gaussian pixel noise about `model`, masked pixels left out (eq. 12)."""
        seen = self.weights > 0
        scale = 1 / jnp.sqrt(jnp.where(seen, self.weights, 1.0))
        return dist.Normal(model, scale).mask(seen).to_event(3)


def place(image: Float[Array, "... h w"], corner: Int[Array, " 2"], shape: tuple[int, int]):
    """Put an image onto a canvas ``[..., H, W]`` with its first pixel at `corner`.

    Parameters
    ----------
    image
        ``[..., h, w]``.
    corner
        (row, column); may be negative or beyond the canvas, what falls off is cut.
    shape
        (H, W) of the canvas.
    """
    height, width = shape
    margin = ((0, 0),) * (image.ndim - 2) + ((height, height), (width, width))
    padded = jnp.pad(image, margin)
    start: Any = (*(0,) * (image.ndim - 2), height - corner[0], width - corner[1])
    return jax.lax.dynamic_slice(padded, start, (*image.shape[:-2], height, width))


def image_data(
    obs: Observation, *, box: int = 32, model_psf_sigma: float | None = 0.7
) -> ImageData:
    """Prepare an observation for a model.

    Parameters
    ----------
    obs
        Pixels, weights and PSFs.
    box
        Side of the largest source box, pixels.
    model_psf_sigma
        Standard deviation in pixels of the PSF that morphologies carry: that of the
        prior, `ScorePrior.model_psf_sigma`.  None: morphologies carry none.

    Returns
    -------
    ImageData
        Same shapes, same compiled programs: see the rule in the module's docstring.
    """
    kernels, error = difference_kernels(obs.psfs, model_psf_sigma)
    size = kernels.shape[-1]
    grid = next_fast_len(box + size - 1, real=True)
    # The transform is taken of the uncentred kernel: its offset of half a kernel is
    # undone, in whole pixels, when the box is placed.
    transforms = np.fft.rfft2(kernels, (grid, grid))
    per_unit = 1 / np.asarray(obs.flux_unit[1], float)
    flat = per_unit / per_unit.sum()
    return ImageData(
        jnp.asarray(obs.images, jnp.float32),
        jnp.asarray(obs.weights, jnp.float32),
        jnp.asarray(transforms, jnp.complex64),
        jnp.asarray(error, jnp.float32),
        jnp.asarray(flat, jnp.float32),
        jnp.asarray(_noise_flux(obs), jnp.float32),
        size,
        grid,
    )


def _noise_flux(obs: Observation) -> float:
    """Quadratic sum over the bands of the median pixel noise."""
    variances = [1 / np.median(w[w > 0]) for w in obs.weights if (w > 0).any()]
    return float(np.sqrt(np.sum(variances)))
