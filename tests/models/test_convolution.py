"""Convolved boxes against direct sums, their transpose, and stacks of scenes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.signal import convolve2d

from scorepriors.models.rendering import _convolution as convolution
from scorepriors.models.rendering._convolution import convolve, pair_bands

BOX = 5
FIRST = np.array([[0, 0], [-3, 2], [7, -5], [30, 90]])
REAL = np.array([True, True, False, True])


def problem(size, bands, seed=0):
    """Boxes of 4 sources, and kernels as images and as transforms of pairs."""
    rng = np.random.default_rng(seed)
    kernels = np.zeros((bands, size, size))
    support = size - BOX + 1
    kernels[:, :support, :support] = rng.normal(size=(bands, support, support))
    boxes = jnp.asarray(rng.normal(size=(len(FIRST), BOX, BOX)), jnp.float32)
    paired = pair_bands(jnp.asarray(np.fft.rfft2(kernels), jnp.complex64))
    return boxes, kernels[:, :support, :support], paired


# Even and odd grids, even and odd numbers of bands, canvases smaller and larger than a period.
@pytest.mark.parametrize(
    ("size", "bands", "shape"), [(12, 3, (16, 17)), (13, 2, (9, 30)), (12, 1, (40, 11))]
)
def test_against_the_direct_sum(size, bands, shape):
    boxes, kernels, paired = problem(size, bands)
    out = convolve(boxes, paired, FIRST, REAL, bands=bands, shape=shape)
    margin = 100
    for k, (row, column) in enumerate(FIRST + margin):
        for b, kernel in enumerate(kernels):
            canvas = np.zeros((300, 300))
            if REAL[k]:
                canvas[row : row + size, column : column + size] = convolve2d(boxes[k], kernel)
            seen = canvas[margin : margin + shape[0], margin : margin + shape[1]]
            np.testing.assert_allclose(out[b, k], seen, atol=2e-5)
    # What other devices run.
    one = [a[None] for a in (boxes, paired, FIRST, REAL)]
    at_once = convolution._convolve_at_once(*one, bands=bands, shape=shape)[0]
    np.testing.assert_allclose(at_once, out, atol=2e-6)
    weight = jax.random.normal(jax.random.key(0), out.shape, out.dtype)
    (back,) = jax.vjp(lambda x: convolve(x, paired, FIRST, REAL, bands=bands, shape=shape), boxes)[
        1
    ](weight)
    np.testing.assert_allclose(jnp.vdot(back, boxes), jnp.vdot(weight, out), rtol=1e-4)
    at_once = convolution._correlate_at_once(weight[None], *one[1:], box=BOX)[0]
    np.testing.assert_allclose(at_once, back, atol=1e-5)


def test_stacks_of_scenes_and_derivatives():
    shape = (16, 17)
    boxes, _, paired = problem(12, 3)
    other, _, paired_too = problem(12, 3, seed=1)
    stacks = jnp.stack([boxes, other]), jnp.stack([paired, paired_too])

    def cubed(boxes, kernels, first=FIRST):
        return (convolve(boxes, kernels, first, REAL, bands=3, shape=shape) ** 3).sum()

    alone = jnp.stack([jax.grad(cubed)(b, k) for b, k in zip(*stacks, strict=True)])
    together = jax.vmap(jax.grad(cubed))(*stacks)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-3)
    # Kernels shared by some: of chains of the one scene, and of chains of each.
    shared = jax.vmap(cubed, (0, None))(stacks[0], paired)
    np.testing.assert_allclose(shared, [cubed(b, paired) for b in stacks[0]], rtol=1e-5)
    chains = jnp.stack([stacks[0], 2 * stacks[0], 3 * stacks[0]])
    nested = jax.vmap(jax.vmap(cubed), (0, None))(chains, stacks[1])
    np.testing.assert_allclose(nested, [jax.vmap(cubed)(c, stacks[1]) for c in chains], rtol=1e-5)
    outer = jax.vmap(jax.vmap(cubed, (0, None)), (0, 0))(chains[:2], stacks[1])
    each = [[cubed(b, k) for b in c] for c, k in zip(chains, stacks[1], strict=False)]
    np.testing.assert_allclose(outer, each, rtol=1e-5)
    moved = jnp.stack([FIRST, FIRST + 1])
    corners = jax.vmap(cubed, (None, None, 0))(boxes, paired, moved)
    np.testing.assert_allclose(corners, [cubed(boxes, paired, m) for m in moved], rtol=1e-5)
    # First and second derivatives, both ways.
    scaled = jax.vmap(lambda b: cubed(b, paired) / 1e4)
    check_grads(lambda b: scaled(b).sum(), (stacks[0],), order=2, rtol=0.02)
    _, slope = jax.jvp(lambda k: cubed(boxes, k), (paired,), (paired,))
    np.testing.assert_allclose(slope, 3 * cubed(boxes, paired), rtol=1e-4)
    with pytest.raises(NotImplementedError, match="kernels"):
        jax.grad(lambda k: cubed(boxes, pair_bands(k)))(jnp.zeros((3, 12, 7), complex))
