"""Whether a fitted scene is to be believed: checks that need no truth."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from scorepriors.models.data._field_checks import check_field
from scorepriors.models.data.positions._light import displacement
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.sources._parametric import AbstractParametric

from ._result import Deblended, FittedScene
from ._seen import only_seen, total_seen

#: Share of the scene's light that negative sources may take away.  Of 160 simulated blends none
#: had more than .005; with a catalog that is off by 8 pixels it is several tenths and more.
CANCELS = 0.1

#: Total fluxes this many errors below zero are not noise.
BELOW = 5.0

#: Distance from the given position, in widths of its prior, that no source should have.  In the same
#: blends none had more than 2.
FAR = 5.0

#: Smallest distance that counts, pixels: the one of the flag ``moved``.
MOVED = 1.0

#: Chi2 per pixel beyond which the weights are wrong.  Correlated noise of resampled images lowers it
#: where the weights mean that of independent pixels, to .25 at worst.
CHI2 = (0.2, 5.0)

#: Error of the model, in units of its light, that no PSF which is slightly wrong explains.
MODEL_ERROR = 0.1

#: Share of the squared signal that may be left over: a fifth in amplitude.
LEFT_OVER = 0.05

#: Excess of a chi2, in standard deviations, that is not noise.
EXCESS = 5.0


def doubts(result: Deblended) -> dict[str, str]:
    """Return what speaks against a deblended scene, in sentences by code; empty if nothing does.

    Parameters
    ----------
    result
        Result of `deblend`.

    Returns
    -------
    dict
        ``displaced``: positions that are not those of the image, or off by one vector.  ``noise``,
        ``sky``, ``gradient``: empty pixels scatter by far more or less than the file says, or their
        median is not zero, or they change across the image.  ``cancels``: sources far too bright and far below zero make up for each other.
        ``below_zero``: a source has a significantly negative flux.  ``misplaced``: sources left the
        prior of their positions.  ``chi2``: chi2 per pixel is far from one.
        ``model_error``: the error of the model is a tenth of its light and more.  ``misfit``: much of the
        light is not explained where sources are
        seen.  The command line then exits with code 3.

    Notes
    -----
    Every one of these is a sign of wrong input: positions of another image, a wrong WCS or PSF,
    bright sources that are missing in the catalog.  Single sources with such troubles have flags.
    """
    return said_once(doubts_of_input(result.observation, result.positions) | doubts_of_fit(result))


def doubts_of_draws(tree: Any) -> dict[str, str]:
    """Return what speaks against the scene of draws of `sample_deblended`, in sentences by code.

    Those of earlier versions do not say it: then it is empty.
    """
    return json.loads(tree.attrs.get("doubts", "{}"))


def said_once(doubts: dict[str, str]) -> dict[str, str]:
    """Return doubts without that in chi2 where the noise is doubted, which says the same."""
    return {code: doubts[code] for code in doubts if code != "chi2" or "noise" not in doubts}


def doubts_of_fit(result: Deblended) -> dict[str, str]:
    """Return what a fit itself says against a deblended scene: `doubts` without those of the input."""
    found, names = only_seen(result.free_form, result.observation), result.positions.ids
    out: dict[str, str] = {}
    undone, light = (part.sum() for part in canceled_light(found.light))
    if undone > CANCELS * light:
        out["cancels"] = (
            f"negative sources take away {undone / light:.0%} of the light of others, so their fluxes "
            "mean nothing: check that the positions are those of this image, and the PSF."
        )
    unit = result.observation.flux_unit[1]
    error = np.sqrt(np.nansum((found.flux_error * unit) ** 2, axis=1))
    below = np.flatnonzero(total_seen(found.flux * unit) < -BELOW * error)
    if below.size:
        out["below_zero"] = (
            f"the flux of {_listed(names, below)} is more than {BELOW:g} errors below zero: check that "
            "the positions are those of this image, and that none is missing."
        )
    distance = np.linalg.norm(result.center - result.positions.row_column, axis=1)
    widths = distance / position_widths(result.parametric)
    moved = (widths > FAR) & (distance > MOVED)
    if moved.any():
        out["misplaced"] = (
            f"{_listed(names, np.flatnonzero(moved))} moved by up to {distance[moved].max():.1f} px "
            f"from the position given, {widths[moved].max():.0f} widths of its prior: check the "
            "catalog and the WCS, or raise `center_error`."
        )
    low, high = CHI2
    chi2 = max(result.free_form.chi2, 1e-12)
    if chi2 < low:
        out["chi2"] = (
            f"chi2 per pixel is {chi2:.2g}, so the errors in the file are too large, by a factor of about "
            f"{chi2**-0.5:.2g}: check the weights; rescale_noise=True (--rescale-noise) mends it."
        )
    elif chi2 > high:
        out["chi2"] = (
            f"chi2 per pixel is {chi2:.2g}: the errors in the file are too small, by a factor of about "
            f"{chi2**0.5:.2g}, or the model does not fit; check the weights, the PSF and the positions."
        )
    large = {band: f for band, f in result.error_of_model.items() if f > MODEL_ERROR}
    if large:
        each = ", ".join(f"{f:.0%} in band {band}" for band, f in large.items())
        out["model_error"] = (
            f"the model misses the light of bright sources by {each}: check the PSF, and mask what is no "
            "source, such as the trail of a satellite."
        )
    _, share, excess = left_over(found, result.observation)
    if share > LEFT_OVER and excess > EXCESS:
        out["misfit"] = (
            f"{share:.0%} of the squared signal is left over where sources are seen: check the PSF, "
            "the positions and the weights."
        )
    return out


def doubts_of_input(obs, positions: Positions) -> dict[str, str]:
    """Return what speaks against positions, noise and sky before any fit, in sentences by code.

    Parameters
    ----------
    obs
        Observation, or joined observations.
    positions
        Positions of the sources.
    """
    displaced = displacement(positions, obs)
    return ({"displaced": displaced} if displaced else {}) | check_field(obs, positions)


def canceled_light(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the light of each source that negative light of others undoes, and its light, ``[N]``.

    Where a model lacks the arms of a bright galaxy, two sources in one place, one far too
    bright and one far below zero, can compensate for them.

    Parameters
    ----------
    images
        Sources as observed, ``[N, B, H, W]`` of every exposure, all bands in one unit of flux.
    """
    undone, light = np.zeros((2, len(images[0])))
    for image in images:
        negative = np.minimum(image, 0.0)
        positive, others = np.maximum(image, 0.0), negative.sum(0) - negative
        undone = undone + np.minimum(positive, -others).sum((1, 2, 3), dtype=float)
        light = light + positive.sum((1, 2, 3), dtype=float)
    return undone, light


def left_over(found: FittedScene, obs) -> tuple[np.ndarray, float, float]:
    """Return how much of the squared signal is not explained where sources are seen.

    With the weights w, the residual r and the model m this is the sum of :math:`w r^2 - 1` over
    that of :math:`w m^2`, both weighted by a source's light.  So it is not the more noticeable the
    brighter a source is, as chi2 is.

    Parameters
    ----------
    found
        The fitted scene.
    obs
        Its observation, or joined observations.

    Returns
    -------
    shares, share, excess
        Of each source, ``[N]``; of the whole scene; and the excess of the scene's chi2, in
        standard deviations of noise.
    """
    over, signal = np.zeros((2, len(found.flux)))
    variance = 0.0
    for view, image, bright in zip(obs.views, found.convolved, found.light, strict=True):
        weights, images = (
            np.asarray(a, float) for a in (view.observation.weights, view.observation.images)
        )
        model = image.sum(0, dtype=float)
        light = np.maximum(bright, 0.0) * (weights > 0)
        # Squares of neighbors that scatter together do so as well.
        known = view.observation.correlation
        alike = 1.0 if known is None else (np.asarray(known, float) ** 2).sum((1, 2))
        over += (light * (weights * (images - model) ** 2 - 1)).sum((1, 2, 3))
        signal += (light * weights * model**2).sum((1, 2, 3))
        variance += 2 * float(((light.sum(0) ** 2).sum((1, 2)) * alike).sum())
    smallest = 1e-30
    share = over.sum() / max(signal.sum(), smallest)
    return over / np.maximum(signal, smallest), share, over.sum() / max(variance**0.5, smallest)


def position_widths(found: FittedScene) -> np.ndarray:
    """Return the widths of the priors on positions, ``[N]``, pixels; infinite where there is none."""
    out = np.full(len(found.scene.order), np.inf)
    for group in found.scene.sources:
        if isinstance(group, AbstractParametric) and "offset" in group.sites:
            index = np.asarray(group.at.index)
            real = index >= 0
            width = np.broadcast_to(np.asarray(group.sites["offset"].width).max(), index.shape)
            out[index[real]] = width[real]
    return out


def _listed(names: Sequence[str], which: np.ndarray, most: int = 4) -> str:
    """Return "source a" or "sources a, b"; of many the first and their number."""
    chosen = [str(names[i]) for i in which]
    if len(chosen) > most:
        return f"sources {', '.join(chosen[:most])} and {len(chosen) - most} more"
    return f"source{'s' if len(chosen) > 1 else ''} {', '.join(chosen)}"
