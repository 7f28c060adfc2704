r"""Where a fitted scene lacks a source: the gain of one more, all others free to make room.

At every pixel a point or a small galaxy is added to the linearized scene.  With the score
:math:`s = t^T W r` of the template t in the residual r and the columns C that it has in common
with fluxes and shapes of the fitted sources, whose information is H, the fluxes of the new source
have the precision

.. math:: A = t^T W t - C^T H^{-1} C,

and one of the spectrum e gains :math:`(e \cdot s)^2 / 2 e^T A e` nats.  What a fitted galaxy has
taken by a change of its shape is made up for: A is small there.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.signal import oaconvolve

from scorepriors.models.data._detection import peak_at
from scorepriors.models.data._shreds import shreds

from ._local import Window, smooth_weights, spectra_of, windows
from ._result import FittedScene

#: Least gain of a candidate, nats: there are some 90 places for a point where a deep image has one
#: source.
CANDIDATE = 4.5

#: Widths of the galaxies that are looked for, standard deviations of a Gaussian, pixels.
SIZES = (0.0, 1.8)

#: Half the side of templates, pixels: the core of a source tells where it is.
REACH = 10

#: Distance within which the best of several candidates is kept, pixels.
APART = 4

#: Least share of a template that the others leave to be measured.
LEFT = 1e-3


class Missing(NamedTuple):
    """Candidates for sources that a scene lacks, the best first.

    Attributes
    ----------
    places
        Places (row, column), ``[M, 2]``.
    gain
        What each would gain by itself, nats, ``[M]``.
    """

    places: Float[np.ndarray, "M 2"]
    gain: Float[np.ndarray, " M"]


def missing(
    obs: Any,
    fitted: FittedScene,
    *,
    rows: np.ndarray | None = None,
    parts: Iterable[Window] | None = None,
    least: float = CANDIDATE,
) -> Missing:
    """Return places about fitted sources where one more would explain the first image better.

    Those that look like lumps of a bright galaxy are left out (`shreds`).

    Parameters
    ----------
    obs
        Observation, or joined observations.
    fitted
        Fitted scene of stars and parametric galaxies.
    rows
        Sources about which to look; all by default.
    parts
        Their `windows`, if they are there already.
    least
        Least gain of a candidate, nats.
    """
    first = obs.views[0].observation
    gain = np.zeros(fitted.scene.exposures[0].shape)
    templates = [_templates(first.psfs, size) for size in SIZES]
    spectra = spectra_of(fitted)[:, : len(first.psfs)]
    chosen = np.arange(len(fitted.flux)) if rows is None else rows
    for window in windows(fitted, chosen) if parts is None else parts:
        here = tuple(
            slice(first + part.start, first + part.stop)
            for first, part in zip(window.first, window.core, strict=True)
        )
        gain[here] = _gain(window, templates, spectra)[window.core]
    best = np.argwhere((gain == maximum_filter(gain, 2 * APART + 1)) & (gain > least))
    places = np.reshape([peak_at(gain, *map(int, place)) for place in best], (-1, 2))
    every = np.concatenate([fitted.center, places])
    part = shreds(first, every, fitted.convolved[0].sum(0))[len(fitted.center) :]
    places, nats = places[~part], gain[*best[~part].T]
    order = np.argsort(-nats, kind="stable")
    return Missing(places[order], nats[order])


def _gain(window: Window, templates: list[np.ndarray], spectra: np.ndarray) -> np.ndarray:
    """Return what a source more at each pixel of a window would gain, nats, ``[H, W]``."""
    exposure, columns, light = window.exposures[0], window.columns[0], window.light[0]
    weights = smooth_weights(exposure.noise).astype(float)
    residual = weights * (np.asarray(exposure.images, float) - light)
    (count, every), bands = window.amplitude.shape, exposure.num_bands
    matrix = window.known.matrix
    scale = np.sqrt(np.where(np.diag(matrix) > 0, np.diag(matrix), 1.0))
    unit = matrix / scale[:, None] / scale
    floor = len(unit) * np.finfo(np.float32).eps + (np.diag(matrix) <= 0)
    root = np.linalg.cholesky(unit + np.diag(np.broadcast_to(floor, len(unit))))
    amplitudes = np.arange(count) * every
    out = np.zeros(exposure.shape)
    for template in templates:
        score = _against(residual, template)
        doubt = _against(weights * window.doubtful[0].sum(0), template)
        power = _against(weights, template**2)
        common = _against(columns * weights.astype(np.float32), template)
        shared: Any = np.zeros((len(matrix), bands, *exposure.shape), np.float32)
        for band in range(bands):
            shared[amplitudes + band, band] = common[:count, band]
            shared[count * every :, band] = common[count:, band]
        flat = shared.reshape(len(matrix), -1) / scale[:, None].astype(np.float32)
        solved = solve_triangular(root.astype(np.float32), flat, lower=True, overwrite_b=True)
        solved = solved.reshape(len(matrix), bands, *exposure.shape)
        for spectrum in spectra:
            own = np.einsum("b,byx->yx", spectrum**2, power)
            taken = (np.einsum("b,mbyx->myx", spectrum, solved) ** 2).sum(0)
            left = np.maximum(own - taken, LEFT * own)
            left += np.einsum("b,byx->yx", spectrum, doubt) ** 2
            found = np.maximum(np.einsum("b,byx->yx", spectrum, score), 0.0)
            gained = np.divide(found**2, 2 * left, out=np.zeros_like(left), where=left > 0)
            out = np.maximum(out, gained)
    return out * (weights > 0).any(0)


def _templates(psfs: np.ndarray, size: float) -> np.ndarray:
    """Return point sources or Gaussian galaxies as observed, ``[B, n, n]``."""
    height, width = psfs.shape[1:]
    rows = slice(max(height // 2 - REACH, 0), height // 2 + REACH + 1)
    columns = slice(max(width // 2 - REACH, 0), width // 2 + REACH + 1)
    return np.stack([gaussian_filter(psf, size)[rows, columns] for psf in psfs])


def _against(images: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Correlate images ``[..., B, H, W]`` with templates ``[B, n, n]``."""
    flipped = template[:, ::-1, ::-1].astype(images.dtype)
    flipped = flipped.reshape((1,) * (images.ndim - 3) + flipped.shape)
    return oaconvolve(images, flipped, mode="same", axes=(-2, -1))
