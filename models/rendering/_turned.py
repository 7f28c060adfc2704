r"""Rendering on pixels that are turned, mirrored, sheared or distorted against the model's.

About the middle of a source the map from such pixels (i, j) to those of the model is affine,

.. math:: p = p_0 + a i + b j, \qquad q = q_0 + c i + d j,

which is also how GalSim draws an object under any WCS.  The Fourier series of the source's box is
evaluated there exactly, in two passes along one axis each: first along q, at every row p of the
model and every column j of the other pixels, where :math:`q = q_0' + d' j + t p` with
:math:`t = c / a`; then along p, at every pixel of column j.  The terms t p and b j are phases, what
is left are matrix products for rows and columns.  On the line of fixed j frequencies along p grow
by the factor 1 + abs(t) and rows are half pixels apart for that; axes are swapped where
abs(t) > 1.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorepriors._typing import Array

#: Newton steps to the pixel that sees a place of the model; the map is all but linear.
_STEPS = 4

#: Furthest place of that pixel, in half sides of the image: polynomials go astray beyond.
_FURTHEST = 1.2


class Turned(eqx.Module):
    """Map from the pixels of an exposure to those of the model: a polynomial of third order.

    Attributes
    ----------
    coefficients
        Coefficients ``[2, 10]`` of row and column in the model, of the monomials 1, s, t, s^2, s t,
        t^2, s^3, s^2 t, s t^2, t^3 of the pixel's row s and column t in `frame`.
    frame
        Row and column of the middle of the exposure, and half of its longer side, ``[3]``, pixels.
    swapped
        Whether rows of the exposure run along columns of the model rather than along rows; static.
    """

    coefficients: Float[Array, "2 10"]
    frame: Float[Array, " 3"]
    swapped: bool = eqx.field(static=True)

    def places(self, pixels, xp=jnp):
        """Return places ``[..., 2]`` (row, column) in the model of pixels ``[..., 2]``."""
        return monomials((pixels - self.frame[:2]) / self.frame[2], xp) @ self.coefficients.T

    def near(self, center, xp=jnp):
        """Return the affine map about places of the model.

        Parameters
        ----------
        center
            Places ``[K, 2]``, pixels of the model.
        xp
            Array module, `jax.numpy` or `numpy`.

        Returns
        -------
        pixel
            Pixel ``[K, 2]`` of the exposure that sees the place, or one near its border.
        place
            Place ``[K, 2]`` of that pixel in the model.
        slope
            Derivatives ``[K, 2, 2]`` of places by pixels.
        """
        at = xp.zeros(center.shape, self.coefficients.dtype)
        for _ in range(_STEPS):
            missed = monomials(at, xp) @ self.coefficients.T - center
            at = at - _solve(self._slopes(at, xp), missed, xp)
            at = xp.clip(at, -_FURTHEST, _FURTHEST)
        place = monomials(at, xp) @ self.coefficients.T
        return self.frame[:2] + self.frame[2] * at, place, self._slopes(at, xp) / self.frame[2]

    def pixels(self, places, xp=jnp):
        """Return the pixels ``[K, 2]`` that see places ``[K, 2]`` of the model."""
        pixel, place, slope = self.near(places, xp)
        return pixel + _solve(slope, places - place, xp)

    def moved(self, pixel, place):
        """Return the map with pixels and the model counted from a pixel and from a place."""
        shifted = np.asarray(self.coefficients).copy()
        shifted[:, 0] -= place
        frame = np.asarray(self.frame).copy()
        frame[:2] -= pixel
        return Turned(shifted, frame, self.swapped)

    def facts(self) -> dict:
        """Return the map as plain numbers, for files."""
        coefficients, frame = np.asarray(self.coefficients), np.asarray(self.frame)
        return {
            "coefficients": coefficients.tolist(),
            "frame": frame.tolist(),
            "swapped": self.swapped,
        }

    @classmethod
    def of(cls, facts: dict) -> "Turned":
        """Return the map of `facts`."""
        coefficients, frame = (np.array(facts[n], np.float32) for n in ("coefficients", "frame"))
        return cls(coefficients, frame, bool(facts["swapped"]))

    def _slopes(self, at, xp):
        s, t = at[..., 0], at[..., 1]
        one, zero = xp.ones_like(s), xp.zeros_like(s)
        by_s = [zero, one, zero, 2 * s, t, zero, 3 * s**2, 2 * s * t, t**2, zero]
        by_t = [zero, zero, one, zero, s, 2 * t, zero, s**2, 2 * s * t, 3 * t**2]
        both = xp.stack([xp.stack(by_s, -1), xp.stack(by_t, -1)], -1)
        return xp.einsum("cm,...md->...cd", self.coefficients, both)


def monomials(at, xp=np):
    """Return monomials ``[..., 10]`` of coordinates ``[..., 2]`` to third order."""
    s, t = at[..., 0], at[..., 1]
    each = [xp.ones_like(s), s, t, s**2, s * t, t**2, s**3, s**2 * t, s * t**2, t**3]
    return xp.stack(each, -1)


def evaluate_turned(transforms, turned: Turned, first, support: int, shape, xp=jnp):
    """Evaluate images, given as Fourier transforms, at turned pixels; see `regrid`.

    Values are multiplied by the area of the pixels, and so are the light in each.

    Parameters
    ----------
    transforms
        Real transforms ``[B, K, N, N // 2 + 1]`` of images on N x N pixels of the model.
    turned
        Map of the pixels.
    first, support, shape, xp
        Arguments of `regrid`.
    """
    size = transforms.shape[-2]
    passes = _Passes(turned, first, support, size, shape, 1, xp)
    if turned.swapped:
        # Images with rows and columns exchanged.
        images = xp.fft.irfft2(transforms, (size, size))
        transforms = xp.fft.rfft2(xp.swapaxes(images, -2, -1))
    rows = xp.fft.ifft(_doubled_rows(transforms, xp), axis=-2) * 2
    half = size // 2 + 1
    twice = np.where((np.arange(half) == 0) | (2 * np.arange(half) == size), 1.0, 2.0)
    lines = xp.einsum(
        "bkpv,kwv->bkpw",
        rows * passes.lean[:, :, :half],
        passes.columns[:, :, :half] * (twice / size).astype(np.float32),
    ).real
    lines = xp.fft.rfft(lines * passes.inside_columns, axis=-2)[..., : size + 1, :]
    both = np.where((np.arange(size + 1) == 0) | (np.arange(size + 1) == size), 1.0, 2.0)
    waves = passes.rows[:, :, : size + 1] * (both / (2 * size)).astype(np.float32)
    found = xp.einsum("khu,bkuw->bkhw", waves, lines * passes.turn[:, : size + 1]).real
    return found * passes.inside_rows * passes.area[:, None, None]


def spread_turned(images, turned: Turned, first, support: int, size: int, fine: int, shape, xp=jnp):
    r"""Sum waves over turned pixels, each times the value of the pixel and its area squared.

    Parameters
    ----------
    images
        Values ``[B, H, W]``, or ``[B, K, H, W]`` that differ by source.
    turned, first, support, shape, xp
        Arguments of `evaluate_turned`.
    size
        Number of frequencies N, on pixels ``1 / fine`` wide.
    fine
        Pixels of the waves in one of the model, along an axis.

    Returns
    -------
    Array
        Sums ``[B, K, N, N]`` of :math:`e^{2 \pi i (u p + v q) / N}` in the order of an FFT.
    """
    passes = _Passes(turned, first, support, size, shape, fine, xp)
    if images.ndim == 3:
        images = images[:, None]
    lines = xp.einsum("khu,bkhw->bkuw", passes.rows, images * passes.inside_rows)
    # From frequencies of the rows to rows half a pixel apart: the transpose of an FFT.
    lines = xp.fft.fft(lines * passes.turn, axis=-2) / (2 * size) * passes.inside_columns
    found = xp.einsum("bkpw,kwv->bkpv", lines, passes.columns) * passes.lean
    full = xp.fft.ifft(found, axis=-2) * (2 * size)
    kept = np.concatenate([np.arange((size + 1) // 2), np.arange(2 * size - size // 2, 2 * size)])
    full = full[..., kept, :] * passes.area[:, None, None] ** 2
    return xp.swapaxes(full, -2, -1) if turned.swapped else full


class _Passes:
    """Waves, phases and masks of the two passes of K sources, for frequencies in FFT order.

    Attributes
    ----------
    rows, turn
        Waves ``[K, H, 2 N]`` along rows of the other pixels, and phases ``[K, 2 N, W]``.
    columns, lean
        Waves ``[K, W, N]`` along columns, and phases ``[K, 2 N, N]`` by rows half a pixel apart.
    area
        Area of a pixel ``[K]``, in pixels of the model.
    inside_rows, inside_columns
        Masks ``[K, H, W]`` and ``[K, 2 N, W]``: where images are not zero.
    """

    def __init__(self, turned, first, support, size, shape, fine, xp):
        pixel, place, slope = turned.near(first + xp.asarray((support - 1) / 2), xp)
        self.area = abs(slope[:, 0, 0] * slope[:, 1, 1] - slope[:, 0, 1] * slope[:, 1, 0])
        place = fine * (place - first)
        slope = fine * slope
        if turned.swapped:
            place, slope = place[:, ::-1], slope[:, ::-1]
        (a, b), (c, d) = ([slope[:, row, column, None] for column in range(2)] for row in range(2))
        i, j = (xp.arange(n) - pixel[:, axis, None] for axis, n in enumerate(shape))
        lean = c / a
        along_p, across_p = place[:, :1] + a * i, b * j  # [K, H], [K, W]
        p = xp.arange(2 * size) / 2 - place[:, :1]  # [K, 2 N]
        along_q, across_q = place[:, 1:] + (d - b * lean) * j, lean * p
        high = np.fft.fftfreq(2 * size, 1 / (2 * size)).astype(np.float32)
        low = np.fft.fftfreq(size, 1 / size).astype(np.float32)
        self.rows, self.turn = _waves(along_p, high, size, xp), _waves(across_p, high, size, xp)
        self.columns, self.lean = _waves(along_q, low, size, xp), _waves(across_q, low, size, xp)
        self.turn = xp.swapaxes(self.turn, -2, -1)
        top = fine * (support - 0.5)
        bottom = -0.5 * fine
        p_of = along_p[:, :, None] + across_p[:, None, :]
        q_of = along_q[:, None, :] + across_q[:, :, None]
        self.inside_rows = (p_of > bottom) & (p_of < top)
        self.inside_columns = (q_of > bottom) & (q_of < top)


def _waves(places, frequencies, size, xp):
    phase = (2 * np.pi / size) * places[..., None] * frequencies
    return xp.cos(phase) + 1j * xp.sin(phase)


def _doubled_rows(transforms, xp):
    """Return transforms with rows half a pixel apart: zeros between frequencies of both signs."""
    size = transforms.shape[-2]
    half = size // 2
    low, high = transforms[..., : half + 1, :], transforms[..., size - half :, :]
    if size % 2 == 0:
        # The highest frequency is its own mirror: half of it on either side.
        shares = np.ones(half + 1, np.float32)
        shares[-1] = 0.5
        low, high = low * shares[:, None], high * shares[:0:-1, None]
    gap = xp.zeros((*transforms.shape[:-2], 2 * size - 2 * half - 1, low.shape[-1]), low.dtype)
    return xp.concatenate([low, gap, high], -2)


def _solve(matrix, vector, xp):
    """Solve systems of two equations ``[..., 2, 2]``."""
    (a, b), (c, d) = ([matrix[..., row, column] for column in (0, 1)] for row in (0, 1))
    x, y = vector[..., 0], vector[..., 1]
    return xp.stack([d * x - b * y, a * y - c * x], -1) / (a * d - b * c)[..., None]
