r"""Convolved boxes on the image, source by source, and the transpose of that.

With A the transform of a box, two bands are convolved at once: for the kernels
:math:`k_1 + i k_2` with transform P, real and imaginary part of the inverse transform of
A P are the two bands.  The same step shifts the box to its place, by a phase: the result is
periodic, and everything outside its first period is masked.

On CPUs the sources are convolved one after the other, and padding is left out: all of them at
once would not fit into the caches.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Complex, Float, Int

from scorepriors._compat import Primitive, ad, batching, mlir
from scorepriors._typing import Array


def pair_bands(transforms: Complex[Array, "B N M"]) -> Complex[Array, "J N N"]:
    """Return full transforms of pairs of real images, the second of each imaginary.

    Parameters
    ----------
    transforms
        Real transforms ``[B, N, N // 2 + 1]``.  Odd numbers are padded with zeros.
    """
    bands, size, half = transforms.shape
    mirrored = jnp.conj(transforms[..., size - half : 0 : -1])
    mirrored = jnp.concatenate([mirrored[:, :1], mirrored[:, :0:-1]], 1)
    full = jnp.concatenate([transforms, mirrored], -1)
    full = jnp.pad(full, ((0, bands % 2), (0, 0), (0, 0)))
    return full[::2] + 1j * full[1::2]


def convolve(
    boxes: Float[Array, "K n n"],
    kernels: Complex[Array, "J N N"],
    first: Int[Array, "K 2"],
    real: Bool[Array, " K"],
    *,
    bands: int,
    shape: tuple[int, int],
) -> Float[Array, "B K H W"]:
    """Convolve every box with the kernel of every band, and place it on a canvas.

    Linear in the boxes; derivatives of any order with respect to them.

    Parameters
    ----------
    boxes
        Boxes ``[K, n, n]``; box and kernel together are at most N pixels wide, plus one.
    kernels
        Transforms ``[J, N, N]``, from `pair_bands`; the kernels' first pixels come first.
    first
        Places of the first pixel of each result on the canvas, ``[K, 2]``.  They may be
        outside; pixels beyond the canvas are cut.
    real
        Mask ``[K]``, False for padding, whose result is zero.
    bands
        Number of bands B.
    shape
        Shape (H, W) of the canvas.
    """
    boxes = boxes.astype(jnp.result_type(boxes, jnp.finfo(kernels.dtype).dtype))
    return _convolve_p.bind(
        boxes[None], kernels[None], first[None], real[None], bands=bands, shape=tuple(shape)
    )[0]


# Both have a leading axis of scenes, of length one on kernels that all scenes share.
_convolve_p = Primitive("convolve_boxes")
_correlate_p = Primitive("correlate_boxes")


def _placing(first, kernels, shape):
    """Return waves along both axes that shift results to their places, and masks of these.

    Returns
    -------
    tuple
        Rows and columns of the waves, complex ``[..., N]``, then rows and columns of the
        canvas, 1 where there is something and 0 elsewhere.
    """
    size, real = kernels.shape[-1], jnp.finfo(kernels.dtype).dtype
    waves, inside = [], []
    for axis, number in enumerate(shape):
        offset = -first[..., axis, None]
        # In integers: exact for any distance of the source.
        turns = (jnp.arange(size) * offset) % size
        angle = (2 * math.pi / size) * turns.astype(real)
        waves.append(jax.lax.complex(jnp.cos(angle), jnp.sin(angle)))
        place = jnp.arange(number) + offset
        inside.append(((place >= 0) & (place < size)).astype(real))
    return *waves, *inside


def _outer(rows, columns):
    return rows[..., :, None] * columns[..., None, :]


def _convolve_one(box, kernels, placing, *, bands, shape):
    """Convolve one source ``[..., n, n]``, placed on the canvas ``[..., B, H, W]``."""
    size, margin = kernels.shape[-1], kernels.shape[-1] - box.shape[-1]
    padded = jnp.pad(box, [(0, 0)] * (box.ndim - 2) + [(0, margin)] * 2)
    moved = jnp.fft.fft2(padded) * _outer(*placing[:2])
    both = jnp.fft.ifft2(moved[..., None, :, :] * kernels)
    # Canvases larger than one period repeat it; all but the first are masked.
    repeats = [-(-number // size) for number in shape]
    if max(repeats) > 1:
        both = jnp.tile(both, repeats)
    both = both[..., : shape[0], : shape[1]]
    inside = _outer(*placing[2:])[..., None, :, :]
    parts = jnp.stack([both.real * inside, both.imag * inside], -3)
    return parts.reshape(*parts.shape[:-4], -1, *shape)[..., :bands, :, :]


def _correlate_one(image, kernels, placing, *, box):
    """Apply the transpose of `_convolve_one`: from ``[..., B, H, W]`` to ``[..., n, n]``."""
    shape, size = image.shape[-2:], kernels.shape[-1]
    image *= _outer(*placing[2:])[..., None, :, :]
    repeats = [-(-number // size) for number in shape]
    margins = [(0, n * size - number) for n, number in zip(repeats, shape, strict=True)]
    lead = [(0, 0)] * (image.ndim - 3)
    image = jnp.pad(image, [*lead, (0, image.shape[-3] % 2), *margins])
    if max(repeats) > 1:
        image = image.reshape(*image.shape[:-2], repeats[0], size, repeats[1], size).sum((-4, -2))
    both = jax.lax.complex(image[..., ::2, :, :], image[..., 1::2, :, :])
    seen = jnp.sum(jnp.fft.fft2(both) * jnp.conj(kernels), -3)
    return jnp.fft.ifft2(seen * jnp.conj(_outer(*placing[:2]))).real[..., :box, :box]


def _convolve_at_once(boxes, kernels, first, real, *, bands, shape):
    placing = _placing(first, kernels, shape)
    out = _convolve_one(boxes, kernels[:, None], placing, bands=bands, shape=shape)
    return jnp.swapaxes(jnp.where(real[..., None, None, None], out, 0), 1, 2)


def _correlate_at_once(images, kernels, first, real, *, box):
    placing = _placing(first, kernels, images.shape[-2:])
    images = jnp.where(real[:, None, :, None, None], images, 0)
    return _correlate_one(jnp.swapaxes(images, 1, 2), kernels[:, None], placing, box=box)


def _convolve_in_turn(boxes, kernels, first, real, *, bands, shape):
    def add(scene, source, kernel, placing, out):
        one = _convolve_one(boxes[scene, source], kernel, placing, bands=bands, shape=shape)
        return jax.lax.dynamic_update_slice(out, one[None, :, None], (scene, 0, source, 0, 0))

    out = jnp.zeros((real.shape[0], bands, real.shape[1], *shape), boxes.dtype)
    return _in_turn(add, kernels, first, real, shape, out)


def _correlate_in_turn(images, kernels, first, real, *, box):
    def add(scene, source, kernel, placing, out):
        one = _correlate_one(images[scene, :, source], kernel, placing, box=box)
        return jax.lax.dynamic_update_slice(out, one[None, None], (scene, source, 0, 0))

    out = jnp.zeros((*real.shape, box, box), images.dtype)
    return _in_turn(add, kernels, first, real, images.shape[-2:], out)


def _in_turn(add, kernels, first, real, shape, out):
    """Add one real source after the other to `out`, by `add`."""
    order = jnp.argsort(~real.ravel())
    sources = real.shape[1]
    # Before the loop: inside, a cosine would be computed for every pixel of every band.
    placing = _placing(first, kernels, shape)

    def body(i, out):
        scene, source = order[i] // sources, order[i] % sources
        kernel = kernels[scene if len(kernels) > 1 else 0]
        return add(scene, source, kernel, [part[scene, source] for part in placing], out)

    return jax.lax.fori_loop(0, real.sum(), body, out)


def _convolve_shape(boxes, kernels, first, real, *, bands, shape):
    del kernels, first
    return boxes.update(shape=(real.shape[0], bands, real.shape[1], *shape))


def _correlate_shape(images, kernels, first, real, *, box):
    del kernels, first
    return images.update(shape=(*real.shape, box, box))


def _jvp(primitive, primals, tangents, **params):
    out = primitive.bind(*primals, **params)
    slope = ad.Zero(out.aval)
    # Linear in sources and in kernels; places are integers.
    for i in range(2):
        if type(tangents[i]) is not ad.Zero:
            moved = [*primals[:i], tangents[i], *primals[i + 1 :]]
            slope = ad.add_tangents(slope, primitive.bind(*moved, **params))
    return out, slope


def _transpose(primitive, options, cotangent, linear, kernels, first, real, **params):
    """Transpose by `primitive`, with the static arguments from `options`."""
    if not ad.is_undefined_primal(linear):
        raise NotImplementedError("reverse derivatives of renderings by their kernels")
    if type(cotangent) is ad.Zero:
        return ad.Zero(linear.aval), None, None, None
    out = primitive.bind(cotangent, kernels, first, real, **options(linear.aval.shape, params))
    return out, None, None, None


def _batch(primitive, arguments, axes, **params):
    size = next(a.shape[i] for a, i in zip(arguments, axes, strict=True) if i is not None)
    shared = axes[1] is None and arguments[1].shape[0] == 1

    def merged(argument, axis):
        if axis is None:
            argument = jnp.broadcast_to(argument, (size, *argument.shape))
        else:
            argument = jnp.moveaxis(argument, axis, 0)
        return argument.reshape(-1, *argument.shape[2:])

    flat: list[Any] = [
        a if shared and i == 1 else merged(a, axis)
        for i, (a, axis) in enumerate(zip(arguments, axes, strict=True))
    ]
    if not shared and len(flat[1]) < len(flat[0]):
        flat[1] = jnp.repeat(flat[1], len(flat[0]) // len(flat[1]), 0)
    out = primitive.bind(*flat, **params)
    return out.reshape(size, -1, *out.shape[1:]), 0


def _define(primitive, in_turn, at_once, abstract, transposed, options, static):
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=static))
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = partial(_jvp, primitive)
    ad.primitive_transposes[primitive] = partial(_transpose, transposed, options)
    batching.primitive_batchers[primitive] = partial(_batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(at_once, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(in_turn, multiple_results=False), platform="cpu"
    )


_define(
    _convolve_p,
    _convolve_in_turn,
    _convolve_at_once,
    _convolve_shape,
    _correlate_p,
    lambda shape, params: {"box": shape[-1]},
    ("bands", "shape"),
)
_define(
    _correlate_p,
    _correlate_in_turn,
    _correlate_at_once,
    _correlate_shape,
    _convolve_p,
    lambda shape, params: {"bands": shape[1], "shape": shape[-2:]},
    ("box",),
)
