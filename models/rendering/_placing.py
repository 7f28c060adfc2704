"""Boxes on canvases: differentiable placing, and overlaps."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from scorepriors._compat import Primitive, ad, batching, mlir
from scorepriors._typing import Array


def place(
    image: Float[Array, "*K h w"], corner: Int[Array, "*K 2"], shape: tuple[int, int]
) -> Float[Array, "*K H W"]:
    """Place images on canvases ``[..., H, W]`` with their first pixels at `corner`.

    Parameters
    ----------
    image
        Images ``[..., h, w]``.
    corner
        First pixels (row, column), ``[..., 2]``; may be negative or beyond the canvas, pixels
        outside of which are cut.
    shape
        (H, W) of the canvas.
    """
    flat = image.reshape(-1, *image.shape[-2:]), corner.reshape(-1, 2)
    placed = _place_p.bind(*flat, shape=tuple(shape))
    return placed.reshape(*image.shape[:-2], *shape)


# Reading a window out of a padded image is fast, but JAX's transpose of it is a scatter,
# which on CPUs took twenty times as long as everything else in the gradient.  The
# transpose of placing at a corner is placing at minus that corner, and defined as such.
_place_p = Primitive("place")


def _place_windows(image, corner, *, shape):
    height, width = shape
    padded = jnp.pad(image, ((0, 0), (height, height), (width, width)))
    # Clipped to windows of zeros: a negative start would be taken from the other end.
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
    """Return the slices of an image and of a box where they overlap, or None.

    Parameters
    ----------
    corner
        First pixel (row, column) of the box.
    size
        Side of the box.
    shape
        Shape (H, W) of the image.
    """
    first = [max(int(c), 0) for c in corner]
    last = [min(int(c) + size, n) for c, n in zip(corner, shape, strict=True)]
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return None
    image = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    box = tuple(slice(a - int(c), b - int(c)) for a, b, c in zip(first, last, corner, strict=True))
    return image, box
