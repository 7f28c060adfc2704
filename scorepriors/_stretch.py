r"""Pixel stretches: smooth, monotone maps between intensity and network coordinates.

Galaxies span decades of surface brightness; a network learns faint outskirts only
when the pixels are compressed first.  A stretch is a change of variables, so a
density needs its Jacobian.  Stretches are NumPyro transforms *from* the
stretched coordinate z (all reals) *to* the intensity x, exact Jacobian included.
"""

import abc
from types import ModuleType

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from ._defaults import SCALE, SOFTENING
from ._errors import InputError


class AbstractStretch(Transform, abc.ABC):
    """A transform from z to intensities, elementwise, with two parameters.

    A subclass defines the transform and its inverse, `log_abs_det_jacobian`, `codomain`, and
    the two members below, which fits need for their start.

    Parameters
    ----------
    softening
        Intensity s below which the stretch is linear.
    scale
        The compression c.

    Raises
    ------
    InputError
        If a parameter is a Python number that is not positive.
    """

    domain = constraints.real

    def __init__(self, softening: float | Array = SOFTENING, scale: float | Array = SCALE):
        _require_positive("softening", softening)
        _require_positive("scale", scale)
        self.softening = softening
        self.scale = scale

    @abc.abstractmethod
    def slopes(self, x, xp: ModuleType = np) -> tuple:
        """Return derivatives with respect to NumPyro's unconstrained coordinate u.

        Parameters
        ----------
        x
            Intensities inside the support.
        xp
            Array module: ``numpy``, where nothing is to be compiled, or ``jax.numpy``.

        Returns
        -------
        dx_du, dz_du
            Derivatives of intensity and stretched coordinate, of the shape of `x`.
        """

    @abc.abstractmethod
    def clip(self, x, xp: ModuleType = np):
        """Move intensities inside the support, far enough from its end to start a fit there."""

    def tree_flatten(self):
        """Return leaves for JAX: both parameters are data, so neither recompiles."""
        return (self.softening, self.scale), (("softening", "scale"), {})

    def __eq__(self, other):
        return (
            type(other) is type(self)
            and _same(self.softening, other.softening)
            and _same(self.scale, other.scale)
        )

    def __repr__(self):
        kind = type(self).__name__
        return f"{kind}(softening={_show(self.softening)}, scale={_show(self.scale)})"


class LogStretch(AbstractStretch):
    r"""Logarithmic stretch, :math:`z = \log(1 + x/s)/c`, as the transform z to x.

    Parameters
    ----------
    softening
        Intensity s below which the stretch is linear; intensities must exceed ``-s``.
    scale
        The compression c: one unit of z is a factor ``exp(c)`` of ``x + s``.

    Raises
    ------
    InputError
        If a parameter is a Python number that is not positive.

    Notes
    -----
    NumPyro maps the support ``x > -s`` to the reals by ``u = log(x + s)``, which is
    ``c z + log s``: the space in which NumPyro optimizes and samples *is* the
    stretched one, up to a shift and a scale.

    The published stretch, Sampson et al. (2024) eq. 10, is
    ``LogStretch(softening=1.0, scale=0.1)``.

    Examples
    --------
    >>> stretch = LogStretch(softening=0.05, scale=0.44)
    >>> round(float(stretch.inv(stretch(2.0))), 5)
    2.0
    """

    @property
    def codomain(self):
        """Intensities above minus the softening."""
        return constraints.greater_than(-self.softening)

    def __call__(self, z: ArrayLike) -> Array:
        return self.softening * jnp.expm1(self.scale * z)

    def _inverse(self, x: ArrayLike) -> Array:
        return jnp.log1p(x / self.softening) / self.scale

    def log_abs_det_jacobian(self, z: ArrayLike, x: ArrayLike | None, intermediates=None) -> Array:
        """Logarithm of dx/dz, elementwise (same shape as `z`)."""
        return jnp.log(self.softening * self.scale) + self.scale * z

    def slopes(self, x, xp: ModuleType = np) -> tuple:
        """Return derivatives of x and z with respect to u = log(x + s) = c z + log s."""
        x = xp.asarray(x)
        return x + xp.asarray(self.softening, x.dtype), xp.full_like(x, 1 / self.scale)

    def clip(self, x, xp: ModuleType = np):
        """Raise intensities below half of the lowest one to it."""
        x = xp.asarray(x)
        return xp.maximum(x, xp.asarray(-0.5 * self.softening, x.dtype))


class AsinhStretch(AbstractStretch):
    r"""Inverse hyperbolic sine, :math:`z = \operatorname{asinh}(x/s)/c`, as z to x.

    Linear around zero on both sides, so negative intensities are allowed: the
    choice for images with noise in them.

    NumPyro does not transform such a support: its unconstrained coordinate is the intensity
    itself, not z.

    Parameters
    ----------
    softening
        Intensity s where the stretch turns from linear to logarithmic.
    scale
        The compression c.

    Raises
    ------
    InputError
        If a parameter is a Python number that is not positive.

    Examples
    --------
    >>> stretch = AsinhStretch(softening=0.1)
    >>> float(stretch(0.0))
    0.0
    """

    codomain = constraints.real

    def __init__(self, softening: float | Array = SOFTENING, scale: float | Array = 1.0):
        super().__init__(softening, scale)

    def __call__(self, z: ArrayLike) -> Array:
        return self.softening * jnp.sinh(self.scale * z)

    def _inverse(self, x: ArrayLike) -> Array:
        return jnp.arcsinh(x / self.softening) / self.scale

    def log_abs_det_jacobian(self, z: ArrayLike, x: ArrayLike | None, intermediates=None) -> Array:
        """Logarithm of dx/dz, elementwise (same shape as `z`)."""
        # log cosh without overflow: |t| + log1p(exp(-2|t|)) - log 2
        t = jnp.abs(self.scale * z)
        log_cosh = t + jnp.log1p(jnp.exp(-2 * t)) - jnp.log(2.0)
        return jnp.log(self.softening * self.scale) + log_cosh

    def slopes(self, x, xp: ModuleType = np) -> tuple:
        """Return derivatives of x and z with respect to u = x."""
        x = xp.asarray(x)
        length = xp.hypot(x, xp.asarray(self.softening, x.dtype))
        return xp.ones_like(x), 1 / (xp.asarray(self.scale, x.dtype) * length)

    def clip(self, x, xp: ModuleType = np):
        """Return the intensities unchanged: all are inside the support."""
        return xp.asarray(x)


def _require_positive(name: str, value) -> None:
    if isinstance(value, int | float) and not value > 0:
        raise InputError(f"`{name}` of a stretch must be positive, got {value}.")


def _same(a, b) -> bool:
    return a is b or bool(jnp.all(jnp.asarray(a) == jnp.asarray(b)))


def _show(value) -> str:
    try:
        return f"{float(value):.6g}"
    except Exception:  # a tracer or a batch: show its type rather than fail in a repr
        return f"<{type(value).__name__}>"
