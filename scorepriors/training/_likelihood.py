r"""The likelihood of a noisy stamp, given a stretched galaxy with a peak of one.

The pixels are :math:`y = f\, K x + \text{noise}` with the galaxy :math:`x = h(z)`, the kernel K
from the model's PSF to the stamp's, inverse variances W (zero where masked), and a flux f of
which nothing is known.  Its density is taken as flat in the logarithm: then no shape is
preferred for the flux that it needs, by whatever the flux is measured.  With
:math:`N = |W^{1/2} K x|^2` and :math:`\hat f = y^T W K x / N`, integrating it by Laplace's
method leaves

.. math:: -\log p(y | z) = \tfrac12 |W^{1/2} (y - \hat f K x)|^2 + \log(\hat f \sqrt N),

where :math:`\hat f \sqrt N` is the signal to noise: from ten on the method errs by less than a hundredth.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from scorepriors._stretch import AbstractStretch


class Stamp(NamedTuple):
    """One stamp; see `Stamps`."""

    image: Float[Array, "n n"]
    weights: Float[Array, "n n"]
    kernel: Complex[Array, "g h"]


def blurred(x: Float[Array, "n n"], kernel: Complex[Array, "g h"], half: int):
    """Return the image ``[n, n]`` convolved with a kernel of ``2 half + 1`` pixels."""
    grid, size = kernel.shape[0], x.shape[0]
    product = jnp.fft.rfft2(x, (grid, grid)) * kernel
    return jnp.fft.irfft2(product, (grid, grid))[half : half + size, half : half + size]


def matched_flux(stamp: Stamp, seen: Float[Array, "n n"]):
    """Return the flux that fits best, not negative, and the square of its signal to noise."""
    norm = jnp.sum(seen**2 * stamp.weights)
    product = jnp.maximum(jnp.sum(stamp.image * seen * stamp.weights), 0)
    flux = product / jnp.maximum(norm, 1e-30)
    return flux, product * flux


def misfit(stamp: Stamp, z: Float[Array, "n n"], stretch: AbstractStretch, half: int):
    """Return minus the logarithm of the likelihood, up to a constant; the flux is integrated."""
    seen = blurred(stretch(z), stamp.kernel, half)
    flux, squared = matched_flux(stamp, seen)
    chi2 = jnp.sum((stamp.image - flux * seen) ** 2 * stamp.weights)
    # Below one the logarithm would draw galaxies to where no light is.
    return 0.5 * chi2 + 0.5 * jnp.log(jnp.maximum(squared, 1.0))


def tangents(stamp: Stamp, z, stretch: AbstractStretch, half: int):
    r"""Return a function that gives changes of what is seen, in units of the noise.

    For directions ``[n, n]`` in the stretched space it returns
    :math:`(1 - q q^T) W^{1/2} \hat f K h'(z) v`, with the unit vector q of the galaxy as seen:
    what the flux does not make up for.  Inner products of these are the Gauss-Newton
    approximation of the curvature of `misfit`.
    """
    x, slope = jax.jvp(stretch, (z,), (jnp.ones_like(z),))
    root = jnp.sqrt(stamp.weights)
    seen = blurred(x, stamp.kernel, half)
    flux, _ = matched_flux(stamp, seen)
    unit = root * seen
    unit /= jnp.sqrt(jnp.maximum(jnp.sum(unit**2), 1e-30))

    def change(direction):
        moved = root * flux * blurred(slope * direction, stamp.kernel, half)
        return moved - unit * jnp.sum(unit * moved)

    return change
