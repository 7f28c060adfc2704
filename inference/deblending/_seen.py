"""Which bands of which source have data."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

#: Smallest share of a source's light on pixels with data for a flux in a band.  With less, nine
#: tenths of the flux and more are extrapolated: by then it is the prior on colors that says what
#: the flux is, not the data.
SEEN = 0.1


def seen_share(
    images: Sequence[np.ndarray], weights: Sequence[np.ndarray], flux: np.ndarray | None = None
) -> np.ndarray:
    """Return the share of each source's light that falls on unmasked pixels.

    Parameters
    ----------
    images
        Sources as observed, ``[N, B, H, W]`` of every exposure.
    weights
        Inverse variances ``[B, H, W]`` of every exposure; zero where masked.
    flux
        Fluxes ``[N, B]`` of all exposures' bands, with the light beyond the image; if not given, the
        shares are of the light on the image.

    Returns
    -------
    numpy.ndarray
        Shares ``[N, B]`` of all exposures' bands.  A source without any light has the share of the
        band's pixels.
    """
    each = []
    for image, weight in zip(images, weights, strict=True):
        light, good = np.abs(image), weight > 0
        total = light.sum((2, 3), dtype=float)
        seen = (light * good).sum((2, 3), dtype=float)
        usual = np.broadcast_to(good.mean((1, 2)), total.shape)
        each.append(np.where(total > 0, seen / np.where(total > 0, total, 1.0), usual))
    share = np.concatenate(each, axis=1)
    if flux is None:
        return share
    light = np.abs(np.concatenate([image.sum((2, 3), dtype=float) for image in images], axis=1))
    whole = np.abs(np.asarray(flux, float))
    return share * np.where(
        whole > 0, np.minimum(light / np.where(whole > 0, whole, 1.0), 1.0), 1.0
    )


def has_data(share: np.ndarray) -> np.ndarray:
    """Return whether there are data, ``[N, B]``, from shares of light on unmasked pixels."""
    return np.asarray(share) >= SEEN


def only_seen(found: Any, obs) -> Any:
    """Return a fitted scene with NaN fluxes and errors in bands without data.

    Parameters
    ----------
    found
        The fitted scene, a `FittedScene`.
    obs
        Its observation, or joined observations.
    """
    weights = [view.observation.weights for view in obs.views]
    seen = has_data(seen_share(found.convolved, weights, found.flux))
    flux, error = (np.where(seen, a, np.nan) for a in (found.flux, found.flux_error))
    return replace(found, flux=flux, flux_error=error)


def total_seen(flux: np.ndarray) -> np.ndarray:
    """Return sums over the last axis, the bands, without those that have no data, which are NaN.

    Where no band has data the sum is NaN.
    """
    return np.where(np.isnan(flux).all(-1), np.nan, np.nansum(flux, -1))
