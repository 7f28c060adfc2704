r"""The abstract energy: a value, a denoiser, and its Gaussian at a large noise level.

An energy :math:`E(z, \sigma)` stands for the density :math:`\exp(-E)`, up to a
constant, of stretched images plus Gaussian noise of standard deviation sigma.  Its
gradient is minus the score.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float


class AbstractEnergy(eqx.Module):
    """Energy of one stretched image ``[n, n]``; batches are made with ``jax.vmap``.

    A subclass defines the five members below, and needs no others.
    Its array fields are traced; a function or a size among its fields is static.
    """

    @property
    @abc.abstractmethod
    def box(self) -> int:
        """Pixels on a side."""

    @abc.abstractmethod
    def __call__(self, z: Float[Array, "n n"], sigma: Float[Array, ""]) -> Float[Array, ""]:
        """Return minus the log-density of an image, up to a constant for each `sigma`."""

    @abc.abstractmethod
    def denoise(self, z: Float[Array, "n n"], sigma: Float[Array, ""]) -> Float[Array, "n n"]:
        """Return the posterior mean of the clean image, by `tweedie` if in no other way."""

    @abc.abstractmethod
    def from_white(self, white: Float[Array, "n n"], sigma: Float[Array, ""]):
        """Turn white noise into a draw at a `sigma` so large that the density is Gaussian."""

    @abc.abstractmethod
    def to_white(self, z: Float[Array, "n n"], sigma: Float[Array, ""]):
        """Undo `from_white`."""


def score(energy: Callable, z: Float[Array, "n n"], sigma: Float[Array, ""]):
    """Return the gradient of the log-density, ``-dE/dz``, of a stretched image ``[n, n]``."""
    return -jax.grad(energy)(z, sigma)


def tweedie(energy: Callable, z: Float[Array, "n n"], sigma: Float[Array, ""]):
    r"""Return the posterior mean of the clean image, :math:`z + \sigma^2 \nabla\log p`.

    References
    ----------
    .. [1] Efron (2011), JASA 106, 1602: Tweedie's formula.
    """
    return z + sigma**2 * score(energy, z, sigma)
