r"""Whether sources are needed: what others would make up for without each, shapes free.

Without a source chi2 rises by :math:`A^T P A` with its amplitudes A in all bands and their
precision P among the fluxes *and shapes* of all other sources, its own shape held: that of a
source without light does not matter.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float

from ._local import Window, smooth_weights, spectra_of, windows
from ._result import FittedScene
from .photometry._equations import inverse


def made_up(
    fitted: FittedScene, rows: np.ndarray, parts: Iterable[Window] | None = None
) -> Float[np.ndarray, "2 M"]:
    """Return by how many nats other sources would explain the light of some, and their error there.

    Parameters
    ----------
    fitted
        Fitted scene of stars and parametric galaxies.
    rows
        The sources, ``[M]``.
    parts
        Their `windows`, if they are there already.

    Returns
    -------
    numpy.ndarray
        Nats, and the error of the models of others in units of each source's light, ``[2, M]``.
    """
    out, error = np.zeros((2, len(fitted.flux)))
    for window in windows(fitted, rows) if parts is None else parts:
        known, errors = window.known, _errors(window)
        for row in window.inside:
            own, number = _own(window, row), _number(window, row)
            light, count = window.amplitude[number], window.amplitude.shape[1]
            alone = known.matrix[np.ix_(own, own)][:count, :count]
            free = _precision(known.covariance, own, count)
            out[row] = max(0.5 * float(light @ (alone - free) @ light), 0.0)
            error[row] = errors[number]
    return np.stack([out, error])[:, rows]


def needed(fitted: FittedScene, least: float) -> Bool[np.ndarray, " N"]:
    """Return which sources stay if the least needed are dropped one after the other, ``[N]``.

    The gain of a source is that of its light in the spectra of galaxies.

    Parameters
    ----------
    fitted
        Fitted scene of stars and parametric galaxies.
    least
        Nats that a source must gain beside those that are still there.
    """
    keep = np.ones(len(fitted.flux), bool)
    for window in windows(fitted, np.arange(len(keep))):
        keep[_dropped(window, spectra_of(fitted), least)] = False
    return keep


def _dropped(window: Window, spectra: np.ndarray, least: float) -> list[int]:
    """Return the sources inside a window that are dropped."""
    amplitude, covariance = window.amplitude.ravel().copy(), window.known.covariance.copy()
    bands, left, dropped = window.amplitude.shape[1], list(window.inside), []
    errors = _errors(window)
    while left:
        gains = []
        for row in left:
            own = _own(window, row)
            light = amplitude[own[:bands]]
            gain = _gain(light, _precision(covariance, own, bands), spectra)
            gains.append(with_misfit(gain, errors[_number(window, row)]))
        worst = int(np.argmin(gains))
        if gains[worst] >= least:
            break
        row = left.pop(worst)
        dropped.append(row)
        own = _own(window, row)
        # Its flux is zero now, its shape as it was.
        change = np.zeros(len(own))
        change[:bands] = -amplitude[own[:bands]]
        along = covariance[:, own] @ inverse(covariance[np.ix_(own, own)])
        amplitude += (along @ change)[: len(amplitude)]
        covariance = covariance - along @ covariance[own]
    return dropped


def _gain(light: np.ndarray, precision: np.ndarray, spectra: np.ndarray) -> float:
    """Return what amplitudes ``[B]`` gain, nats, if the spectrum is one of galaxies.

    Noise would gain by colors that no galaxy has.
    """
    score, width = spectra @ precision @ light, np.sum(spectra @ precision * spectra, 1)
    gained = np.maximum(score, 0.0) ** 2 / (2 * np.maximum(width, np.finfo(float).tiny))
    return float(gained.max())


def with_misfit(gain, error):
    """Return gains in nats with the error of the models of others as noise.

    Parameters
    ----------
    gain
        What a source gains for perfect models.
    error
        Error of the models under the source in units of its light.
    """
    return 0.5 / (0.5 / np.maximum(gain, 1e-30) + np.asarray(error) ** 2)


def _errors(window: Window) -> Float[np.ndarray, " N"]:
    """Return the error of the models of others under each source in units of its light, ``[N]``."""
    count, band = len(window.amplitude), 0
    own, shared = np.zeros((2, count))
    for exposure, columns, doubtful in zip(
        window.exposures, window.columns, window.doubtful, strict=True
    ):
        bright = window.amplitude[:, band : band + exposure.num_bands, None, None]
        band += exposure.num_bands
        drawn = columns[:count] * bright
        weighed = drawn * smooth_weights(exposure.noise)
        own += (weighed * drawn).sum((1, 2, 3))
        shared += (weighed * (doubtful.sum(0) - doubtful)).sum((1, 2, 3))
    return np.divide(np.maximum(shared, 0), own, out=np.zeros(count), where=own > 0)


def _number(window: Window, row: int) -> int:
    return int(np.searchsorted(window.rows, row))


def _own(window: Window, row: int) -> np.ndarray:
    """Return the numbers of a source's amplitudes, then of its shape parameters."""
    number, (count, bands) = _number(window, row), window.amplitude.shape
    shapes = count * bands + np.flatnonzero(window.owner == number)
    return np.append(np.arange(number * bands, (number + 1) * bands), shapes)


def _precision(covariance: np.ndarray, own: np.ndarray, bands: int) -> np.ndarray:
    """Return the precision of amplitudes, the source's own shape held, ``[B, B]``."""
    return inverse(covariance[np.ix_(own, own)])[:bands, :bands]
