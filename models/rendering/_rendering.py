r"""From morphologies in boxes to images: convolution and placement, differentiable.

A box is convolved on its own small grid (box plus kernel, so nothing wraps around)
and the result is added to the image where the box sits.  Corners are arrays: moving a
source, or rendering another blend, runs the same compiled program.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Bool, Complex, Float, Int
from scipy.fft import irfft2, next_fast_len, rfft2

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.spectra._colors import color_prior

from ._convolution import convolve, pair_bands
from ._grids import regrid
from ._psf import difference_kernels


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
        ``[B]``, that of galaxies in the units of the image, sum 1.
    color_covariance
        ``[B, B]``, of single galaxies' fluxes relative to it; both are from
        `scorepriors.models.colors`.
    noise_flux
        Band-summed noise of a pixel: the unit in which fluxes are large or small.
    kernel_size, grid
        P and N; static.
    wide_transforms, wide_grid
        The same transforms on a grid for larger boxes, ``[B, N', N' // 2 + 1]``, and its
        side (static); None and 0 if there are no such boxes.
    grids
        ``[G, 3]``, row and column of the first pixel and the side of the pixels of the
        last G bands, in pixels of the model (see `scorepriors.models.grids`); None if all
        bands have the model's pixels.
    """

    images: Float[Array, "B H W"]
    weights: Float[Array, "B H W"]
    transforms: Complex[Array, "B N M"]
    kernel_error: Float[Array, " B"]
    mean_spectrum: Float[Array, " B"]
    color_covariance: Float[Array, "B B"]
    noise_flux: Float[Array, ""]
    kernel_size: int = eqx.field(static=True)
    grid: int = eqx.field(static=True)
    grids: Float[Array, "G 3"] | None = None
    wide_transforms: Complex[Array, "B N M"] | None = None
    wide_grid: int = eqx.field(static=True, default=0)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.images.shape[-2:]
        return height, width

    @property
    def num_own(self) -> int:
        """Number of bands whose pixels are the model's: the first ones."""
        return self.num_bands - (0 if self.grids is None else len(self.grids))

    @property
    def num_bands(self) -> int:
        """Number of bands B."""
        return self.images.shape[-3]

    @property
    def box(self) -> int:
        """The largest source box that convolves without wrapping around."""
        return max(self.grid, self.wide_grid) - self.kernel_size + 1

    def for_box(self, box: int) -> "ImageData":
        """The same with the smallest grid that holds boxes of this side in `grid`.

        Raises
        ------
        InputError
            If none does.
        """
        if box <= self.grid - self.kernel_size + 1:
            return self
        if box > self.box:
            raise InputError(
                f"source boxes of {box} pixels do not fit the prepared grid, made for "
                f"{self.box}; call `image_data(obs, box={box}, ...)`."
            )
        wide: Any = self.wide_transforms
        return dataclasses.replace(self, transforms=wide, grid=self.wide_grid)

    def render(
        self,
        morphology: Float[Array, "K n n"],
        corner: Int[Array, "K 2"],
        mask: Bool[Array, " K"] | None = None,
    ) -> Float[Array, "K B H W"]:
        """Image of every source in every band, for unit spectra.

        Parameters
        ----------
        morphology
            ``[K, n, n]`` at the model's resolution.
        corner
            ``[K, 2]``, (row, column) of each box's first pixel in the image.  Boxes may
            reach over the edge; what lies outside is cut.
        mask
            ``[K]``, False for padding, whose image is zero and, on CPUs, takes no time.

        Raises
        ------
        InputError
            If the boxes are larger than `box`.
        """
        size = morphology.shape[-1]
        fitting = self.for_box(size)
        grid, own, shape = fitting.grid, self.num_own, self.shape
        transforms = fitting.transforms
        first = corner - self.kernel_size // 2
        real = jnp.ones(len(corner), bool) if mask is None else mask
        kernels = pair_bands(transforms[:own])
        # Bands outermost, as the spectra want them; the swap at the end moves nothing.
        images = convolve(morphology, kernels, first, real, bands=own, shape=shape)
        if self.grids is not None:
            boxes = jnp.fft.rfft2(morphology * real[:, None, None], (grid, grid))
            other = boxes * transforms[own:, None]
            other = regrid(other, self.grids, first, size + self.kernel_size - 1, shape)
            images = jnp.concatenate([images, other])
        return jnp.swapaxes(images, 0, 1)

    def render_on_host(self, morphology: np.ndarray, corner: np.ndarray) -> np.ndarray:
        """As `render`, in NumPy: a single look at the data is not worth a compilation."""
        fitting = self.for_box(morphology.shape[-1])
        grid, own, shape = fitting.grid, self.num_own, self.shape
        out = np.zeros((len(morphology), self.num_bands, *shape), np.float32)
        boxes = rfft2(np.asarray(morphology, np.float32), (grid, grid))
        transforms, first = np.asarray(fitting.transforms), corner - self.kernel_size // 2
        convolved = irfft2(boxes[:, None] * transforms[:own], (grid, grid))
        for target, image, at in zip(out, convolved, first, strict=True):
            inside = overlap(at, grid, shape)
            if inside is not None:
                target[:own, *inside[0]] = image[:, *inside[1]]
        if self.grids is not None:
            other = boxes * transforms[own:, None]
            grids, support = np.asarray(self.grids), morphology.shape[-1] + self.kernel_size - 1
            out[:, own:] = regrid(other, grids, first, support, shape, xp=np).swapaxes(0, 1)
        return out

    def model(self, spectrum, morphology, corner) -> Float[Array, "B H W"]:
        """Sum of all sources: ``spectrum [K, B]`` times morphology, convolved (eq. 1)."""
        return jnp.einsum("kb,kbyx->byx", spectrum, self.render(morphology, corner))

    def likelihood(self, model: Float[Array, "B H W"]) -> dist.Distribution:
        """Gaussian pixel noise about `model`, masked pixels left out (eq. 12)."""
        seen = self.weights > 0
        scale = 1 / jnp.sqrt(jnp.where(seen, self.weights, 1.0))
        return dist.Normal(model, scale).mask(seen)


def place(
    image: Float[Array, "*K h w"], corner: Int[Array, "*K 2"], shape: tuple[int, int]
) -> Float[Array, "*K H W"]:
    """Put images onto canvases ``[..., H, W]`` with their first pixels at `corner`.

    Parameters
    ----------
    image
        ``[..., h, w]``.
    corner
        ``[..., 2]``, (row, column); may be negative or beyond the canvas, what falls
        off is cut.
    shape
        (H, W) of the canvas.
    """
    flat = image.reshape(-1, *image.shape[-2:]), corner.reshape(-1, 2)
    placed = _place_p.bind(*flat, shape=tuple(shape))
    return placed.reshape(*image.shape[:-2], *shape)


# Reading a window out of a padded image is fast, but JAX's transpose of it is a scatter,
# which on CPUs took twenty times as long as everything else in the gradient.  The
# transpose of placing at a corner is placing at minus that corner, so it is said so.
_place_p = Primitive("place")


def _place_windows(image, corner, *, shape):
    height, width = shape
    padded = jnp.pad(image, ((0, 0), (height, height), (width, width)))
    # Clipped to windows of zeros: a negative start would count from the other end.
    last = jnp.asarray([height + image.shape[-2], width + image.shape[-1]])
    start = jnp.clip(jnp.asarray(shape) - corner, 0, last)

    def window(one, at):
        return jax.lax.dynamic_slice(one, (at[0], at[1]), (height, width))

    return jax.vmap(window)(padded, start)


def _place_abstract(image, corner, *, shape):
    del corner
    return image.update(shape=(*image.shape[:1], *shape))


def _place_jvp(primals, tangents, *, shape):
    image, corner = primals
    tangent, _ = tangents  # corners are whole numbers
    out = _place_p.bind(image, corner, shape=shape)
    if type(tangent) is ad.Zero:
        return out, ad.Zero(out.aval)
    return out, _place_p.bind(tangent, corner, shape=shape)


def _place_transpose(cotangent, image, corner, *, shape):
    del shape
    if type(cotangent) is ad.Zero:
        return ad.Zero(image.aval), None
    return _place_p.bind(cotangent, -corner, shape=image.aval.shape[-2:]), None


def _place_batch(arguments, axes, *, shape):
    size = next(a.shape[i] for a, i in zip(arguments, axes, strict=True) if i is not None)
    image, corner = (
        jnp.broadcast_to(a, (size, *a.shape)) if i is None else jnp.moveaxis(a, i, 0)
        for a, i in zip(arguments, axes, strict=True)
    )
    merged = [a.reshape(-1, *a.shape[2:]) for a in (image, corner)]
    out = _place_p.bind(*merged, shape=shape)
    return out.reshape(size, -1, *out.shape[1:]), 0


_place_p.def_impl(jax.jit(_place_windows, static_argnames="shape"))
_place_p.def_abstract_eval(_place_abstract)
ad.primitive_jvps[_place_p] = _place_jvp
ad.primitive_transposes[_place_p] = _place_transpose
batching.primitive_batchers[_place_p] = _place_batch
mlir.register_lowering(_place_p, mlir.lower_fun(_place_windows, multiple_results=False))


def overlap(corner, size: int, shape: tuple[int, int]):
    """Where a box and an image meet: slices of the image and of the box, or None.

    Parameters
    ----------
    corner
        (row, column) of the box's first pixel.
    size
        Side of the box.
    shape
        (H, W) of the image.
    """
    first = [max(int(c), 0) for c in corner]
    last = [min(int(c) + size, n) for c, n in zip(corner, shape, strict=True)]
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return None
    image = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    box = tuple(slice(a - int(c), b - int(c)) for a, b, c in zip(first, last, corner, strict=True))
    return image, box


def image_data(
    obs: Observation,
    *,
    box: int = 32,
    wide_box: int | None = None,
    model_psf_sigma: float | None = 0.7,
) -> ImageData:
    """Prepare an observation for a model.

    Parameters
    ----------
    obs
        Pixels, weights and PSFs.
    box
        Side of the largest source box, pixels.
    wide_box
        Side of still larger boxes that a few sources have: they are convolved on a grid
        of their own, and the others stay as fast as they were.
    model_psf_sigma
        Standard deviation in pixels of the PSF that morphologies carry: that of the
        prior, `ScorePrior.model_psf_sigma`.  None: morphologies carry none.

    Returns
    -------
    ImageData
        Same shapes, same compiled programs: see the rule in the module's docstring.
    """
    kernels, error = difference_kernels(obs.psfs, model_psf_sigma)
    grids = None
    if len(obs.parts) > 1:
        others = obs.parts[1:]
        grids = np.concatenate([np.tile([*o.origin, o.scale], (o.number, 1)) for o in others])
        # A larger pixel holds more light.
        kernels[obs.parts[0].number :] *= grids[:, 2, None, None] ** 2
    size = kernels.shape[-1]
    # The transform is taken of the uncentered kernel: its offset of half a kernel is
    # undone, in whole pixels, when the box is placed.
    grid, wide_grid = (
        0 if side is None else next_fast_len(side + size - 1, real=True) for side in (box, wide_box)
    )
    transforms = np.fft.rfft2(kernels, (grid, grid))
    per_unit = 1 / np.asarray(obs.flux_unit[1], float)
    prior = color_prior(obs.bands, per_unit)
    arrays = (obs.images, obs.weights, transforms, error, *prior, _noise_flux(obs))
    types = [np.complex64 if np.iscomplexobj(a) else np.float32 for a in arrays]
    put: Any = [jax.device_put(np.asarray(a, t)) for a, t in zip(arrays, types, strict=True)]
    images, weights, transforms, error, mean, colors, noise = put
    if grids is not None:
        grids = jax.device_put(grids.astype(np.float32))
    wide: Any = None
    if wide_grid:
        wide = np.fft.rfft2(kernels, (wide_grid, wide_grid)).astype(np.complex64)
        wide = jax.device_put(wide)
    return ImageData(
        images, weights, transforms, error, mean, colors, noise, size, grid, grids, wide, wide_grid
    )


def _noise_flux(obs: Observation) -> float:
    """Quadratic sum over the bands of the median pixel noise."""
    variances = [1 / np.median(w[w > 0]) for w in obs.weights if (w > 0).any()]
    return float(np.sqrt(np.sum(variances)))
