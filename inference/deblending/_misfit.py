r"""Pixels that no source explains, and an error of the model that grows with brightness.

A cosmic ray, a hot pixel, a satellite's trail or the core of a neighbor that the catalog lacks is far
from the model where noise and the structure of galaxies are not.  Such pixels lose weight,

.. math:: w' = w \, \frac{\sigma^2}{\sigma^2 + r^2},

with what is left over there, r, smoothed by the PSF; single pixels, sharper than any light, lose all,
and so do straight lines across the image (`trails`).
Where nothing is that far from the model no weight is touched.

A PSF that is slightly wrong leaves residuals in proportion to the light m: their variance is
:math:`\sigma^2 + f^2 \bar m^2` with the light smoothed over some pixels, and f by maximum likelihood.
"""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import binary_propagation, gaussian_filter
from scipy.signal import fftconvolve

from ._trails import trails

#: Deviation of a single pixel, and of the amplitude of a point, in standard deviations, that is no
#: noise: of a thousand images of a million pixels one has such a pixel.
PIXEL, POINT = 6.0, 8.0

#: Deviation at which the surroundings of such pixels count as well.
AROUND = 2.5

#: Share of the light of the model by which structure of galaxies may deviate, one standard deviation:
#: knots, arms and the error of a PSF are no outliers.
STRUCTURE = 0.1

#: Width over which the light is smoothed for the error of the model, pixels.
_SMOOTH = 1.0

#: Errors of the model that are tried, and the gain in nats below which it is zero.
_SHARES, _GAIN = np.geomspace(2e-3, 0.3, 60), 8.0

#: Fewest pixels without light by whose scatter the noise is known.
_FEWEST = 100

#: Largest squared deviation that counts for it: single pixels must not decide.
_LARGEST = 64.0

Band = Float[np.ndarray, "H W"]


def kept_weight(
    residual: Float[np.ndarray, "B H W"],
    weights: Float[np.ndarray, "B H W"],
    model: Float[np.ndarray, "B H W"],
    psfs: Float[np.ndarray, "B P P"],
) -> Float[np.ndarray, "B H W"]:
    """Return the share of each pixel's weight to keep; one everywhere if there are no outliers.

    Parameters
    ----------
    residual
        Data minus model.
    weights
        Inverse variances; zero where masked.
    model
        Sum of all sources as observed.
    psfs
        PSFs, P odd.
    """
    each = zip(residual, weights, model, psfs, strict=True)
    return np.stack([_kept(*(np.asarray(one, float) for one in band)) for band in each])


def model_error(
    residual: Float[np.ndarray, "B H W"],
    weights: Float[np.ndarray, "B H W"],
    model: Float[np.ndarray, "B H W"],
) -> Float[np.ndarray, " B"]:
    """Return the error of the model in units of its light, by band; zero where it is not needed.

    Parameters
    ----------
    residual, weights, model
        As for `kept_weight`.
    """
    each = zip(residual, weights, model, strict=True)
    return np.array([_share(*(np.asarray(one, float) for one in band)) for band in each])


def with_model_error(
    weights: Float[np.ndarray, "B H W"],
    model: Float[np.ndarray, "B H W"],
    share: Float[np.ndarray, " B"],
) -> Float[np.ndarray, "B H W"]:
    """Return weights with an error of the model, in units of its smoothed light."""
    light = np.stack([smooth_light(one) for one in model])
    return weights / (1 + weights * (share[:, None, None] * light) ** 2)


def smooth_light(model: Band) -> Band:
    """Return the light of a model, smoothed over some pixels, not negative."""
    return np.maximum(gaussian_filter(np.asarray(model, float), _SMOOTH), 0.0)


def _share(residual: Band, weights: Band, model: Band) -> float:
    seen, root = weights > 0, np.sqrt(weights)
    light, deviation = smooth_light(model) * root, residual * root
    # Elsewhere no error that is tried would matter: these pixels tell the noise, which may be larger
    # than the weights say.
    bright, empty = seen & (light > 1.0), seen & (light <= 1.0)
    scale = _scale(deviation, empty) if empty.sum() >= _FEWEST else 1.0
    light, squared = light[bright] / scale, (deviation[bright] / scale) ** 2

    def gain(share: float) -> float:
        wider = 1 + (share * light) ** 2
        before, after = (np.minimum(squared / v, _LARGEST) for v in (1.0, wider))
        return 0.5 * float((before - after - np.log(wider)).sum())

    gains = [gain(share) for share in _SHARES]
    best = int(np.argmax(gains))
    return float(_SHARES[best]) if gains[best] > _GAIN else 0.0


def _kept(residual: Band, weights: Band, model: Band, psf: np.ndarray) -> Band:
    seen = weights > 0
    kept = np.ones(residual.shape)
    light = STRUCTURE * smooth_light(model)
    if not seen.any():
        return kept
    # A sky that is left in is no outlier, nor is noise that is larger than the weights say.
    residual = residual - np.median(residual[seen])
    variance = _scale(residual * np.sqrt(weights), seen) ** 2 / np.where(seen, weights, 1.0)
    precise = np.where(seen, 1 / (variance + light**2), 0.0)
    if not (np.abs(residual) * np.sqrt(precise) > AROUND).any():
        return kept
    streak = trails(residual * np.sqrt(precise), seen, model * np.sqrt(weights))
    kept[streak] = 0.0
    weights, precise = np.where(streak, 0.0, weights), np.where(streak, 0.0, precise)
    sharp = _sharp(residual, precise, psf)
    kept[sharp] = 0.0
    flux, information = _as_points(residual, np.where(sharp, 0.0, weights), psf)
    # Of noise that neighbors share a sum is larger.
    information = information / _scale(flux * np.sqrt(information), seen) ** 2
    # Structure of galaxies is alike in neighboring pixels: its sum does not average out.
    peak = flux * psf.max()
    deviation = np.abs(peak) / np.sqrt(psf.max() ** 2 / information + light**2)
    cores = deviation > POINT
    if cores.any():
        around = binary_propagation(cores, mask=deviation > AROUND)
        kept *= 1 / (1 + weights * np.where(around, peak, 0.0) ** 2)
    return kept


def _scale(deviation: Band, seen: np.ndarray) -> float:
    """Return the scatter of deviations that should be one, at least one."""
    low, middle, high = np.percentile(deviation[seen], [15.866, 50, 84.134])
    return max(min(high - middle, middle - low), 1.0)


def _sharp(residual: Band, precise: Band, psf: np.ndarray) -> np.ndarray:
    """Return pixels that stand out of what light of their surroundings would be, ``[H, W]``."""
    middle = np.array(psf.shape) // 2
    near = psf[middle[0] - 1 : middle[0] + 2, middle[1] - 1 : middle[1] + 2].copy()
    peak, near[1, 1] = near[1, 1], 0.0
    found = np.zeros(residual.shape, bool)
    for _ in range(3):
        # Pixels that are out themselves say nothing about their neighbors.
        known = np.where(found, 0.0, precise)
        information = np.maximum(fftconvolve(known, near[::-1, ::-1] ** 2, mode="same"), 0.0)
        pull = fftconvolve(known * residual, near[::-1, ::-1], mode="same")
        known_at_all = information > 1e-12 * max(float(information.max()), 1e-30)
        information = np.where(known_at_all, information, np.inf)
        expected = peak * pull / information
        own = np.where(precise > 0, 1 / np.where(precise > 0, precise, 1.0), np.inf)
        error = np.sqrt(own + peak**2 / np.where(known_at_all, information, np.inf))
        excess = np.where(known_at_all, np.abs(residual - expected) / error, 0.0)
        alone = np.abs(residual) * np.sqrt(precise)
        new = (excess > PIXEL) & (alone > PIXEL)
        # A hole beside an outlier is the outlier's.
        new &= np.abs(residual) > np.abs(expected)
        if not (new & ~found).any():
            break
        found |= new
    return found


def _as_points(residual: Band, precise: Band, psf: np.ndarray) -> tuple[Band, Band]:
    """Return fluxes of points at every pixel, and their inverse variances."""
    mirrored = psf[::-1, ::-1]
    information = fftconvolve(precise, mirrored**2, mode="same")
    smallest = 1e-6 * max(float(information.max()), 1e-30)
    information = np.maximum(information, smallest)
    return fftconvolve(precise * residual, mirrored, mode="same") / information, information
