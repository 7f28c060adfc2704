"""Metrics of a deblended scene with known truth: eqs. 14-16 of Sampson et al. (2024).

All use images of the single sources as observed (convolved, on the pixels of the image).
A source that was not found counts as an image of zeros.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

#: Smallest blendedness of a source that counts as blended.
BLENDED = 0.5

#: Half-width of a central 68 % interval in standard deviations.
_SIGMA_68 = 0.9944578832097535


def correlation(a, b) -> float:
    r"""Return the cosine of two arrays, :math:`a \cdot b / \sqrt{a \cdot a \; b \cdot b}` (eq. 15).

    Zero if one of them is zero everywhere or not finite.

    Examples
    --------
    >>> round(correlation([1.0, 1.0], [2.0, 2.0]), 6), correlation([1.0, 0.0], [0.0, 3.0])
    (1.0, 0.0)
    """
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    norm = np.sqrt(a @ a) * np.sqrt(b @ b)
    return float(a @ b / norm) if norm > 0 and np.isfinite(norm) else 0.0


def source_metrics(
    models: Float[np.ndarray, "K B H W"],
    truth: Float[np.ndarray, "K B H W"],
    true_flux: Float[np.ndarray, "K B"] | None = None,
) -> dict[str, np.ndarray]:
    """Return errors of flux, morphology and spectrum of every source.

    Parameters
    ----------
    models
        Fitted sources as observed; values that are not finite count as zero.
    truth
        True sources, without noise.
    true_flux
        Sums of `truth` over pixels, if known to a higher precision.

    Returns
    -------
    dict
        Arrays ``[K]``: ``e_F``, relative error of the flux of all bands (eq. 14);
        ``xi_morphology``, correlation of band-summed images, and ``xi_sed``, of
        pixel-summed fluxes (eq. 15); ``flux``, the model's, summed over bands.
    """
    models = np.nan_to_num(np.asarray(models, float), nan=0.0, posinf=0.0, neginf=0.0)
    flux = models.sum((2, 3))
    true = np.asarray(truth, float).sum((2, 3)) if true_flux is None else true_flux
    pairs = list(zip(models, truth, strict=True))
    return {
        "e_F": (flux.sum(1) - true.sum(1)) / true.sum(1),
        "xi_morphology": np.array([correlation(m.sum(0), t.sum(0)) for m, t in pairs]),
        "xi_sed": np.array([correlation(f, t) for f, t in zip(flux, true, strict=True)]),
        "flux": flux.sum(1),
    }


def mean_chi2(images, model, weights) -> float:
    """Return the mean over pixels and bands of squared residuals times inverse variances.

    Parameters
    ----------
    images, model, weights
        Data, model and inverse variances, ``[B, H, W]``.
    """
    model = np.nan_to_num(np.asarray(model, float), nan=0.0, posinf=0.0, neginf=0.0)
    return float(np.mean((images - model) ** 2 * weights))


def central_interval(flux, error):
    """Return the ends of the central 68 % interval of a Gaussian."""
    return flux - _SIGMA_68 * error, flux + _SIGMA_68 * error


def match_positions(found, true, *, radius: float) -> np.ndarray:
    """Match detections to true positions: nearest pairs first, each used once.

    Parameters
    ----------
    found, true
        Positions ``[M, 2]`` and ``[K, 2]``, in pixels.
    radius
        Largest distance of a pair, pixels.

    Returns
    -------
    numpy.ndarray
        Indices into `found`, ``[K]``, -1 for true sources without a detection.

    Examples
    --------
    >>> match_positions([[5.0, 5.0], [9.0, 9.0]], [[9.2, 9.0], [0.0, 0.0]], radius=3.0)
    array([ 1, -1])
    """
    found, true = np.reshape(found, (-1, 2)), np.reshape(true, (-1, 2))
    out = np.full(len(true), -1)
    if not found.size or not true.size:
        return out
    distance = np.linalg.norm(true[:, None] - found[None], axis=-1)
    for flat in np.argsort(distance, axis=None, kind="stable"):
        k, m = np.unravel_index(flat, distance.shape)
        if distance[k, m] > radius:
            break
        if out[k] < 0 and m not in out:
            out[k] = m
    return out


def summarize(sources: Sequence[dict], chi2: Sequence[float]) -> dict[str, Any]:
    """Return summary statistics of a table of sources.

    Parameters
    ----------
    sources
        Rows with ``beta``, ``e_F``, ``xi_morphology``, ``xi_sed`` and ``covered``; where known,
        ``snr``, the interval ``flux_low`` to ``flux_high``, ``measured_flux`` with
        ``measured_flux_error``, and ``quantities`` by name with ``value``, ``error`` and ``true``.
    chi2
        Mean chi2 of each blend.

    Returns
    -------
    dict
        ``median_abs_flux_error`` of all sources, ``..._blended`` of those with beta >= 0.5
        and ``..._isolated`` of the others; ``share_flux_error_above_half``; medians and
        16th percentiles of the correlations; ``chi2_median``; ``coverage_68``, the share
        of true fluxes inside their 68 % intervals, over the sources that have one, by thirds of
        ``snr`` (``coverage_68_by_snr``, divided at ``snr_thirds``) and by blendedness
        (``coverage_68_by_blendedness``: below 0.5, from 0.5 up); ``interval_68_width`` and
        ``interval_68_mean_width``, median and mean width of the intervals as a share of the true
        flux; ``measured_pull``, mean and
        standard deviation of the errors of measured fluxes in units of their own; and
        ``coverage_68_of`` positions, shapes and magnitudes (see `quantities_covered`).  None where
        there is no such source.
    """
    column = lambda name: np.array([row[name] for row in sources], float)  # noqa: E731
    error, beta = np.abs(column("e_F")), column("beta")
    morphology, sed = column("xi_morphology"), column("xi_sed")
    with_interval = [row for row in sources if row["covered"] is not None]
    covered = [row["covered"] for row in with_interval]
    return {
        "median_abs_flux_error": _percentile(error, 50),
        "median_abs_flux_error_blended": _percentile(error[beta >= BLENDED], 50),
        "median_abs_flux_error_isolated": _percentile(error[beta < BLENDED], 50),
        "share_flux_error_above_half": float(np.mean(error > 0.5)) if len(error) else None,
        "xi_morphology_median": _percentile(morphology, 50),
        "xi_morphology_p16": _percentile(morphology, 16),
        "xi_sed_median": _percentile(sed, 50),
        "xi_sed_p16": _percentile(sed, 16),
        "chi2_median": _percentile(np.asarray(chi2, float), 50),
        "coverage_68": _mean(covered),
        **_coverage_by(with_interval),
        "measured_pull": _pulls(sources),
        "coverage_68_of": quantities_covered(sources),
    }


def quantities_covered(sources: Sequence[dict]) -> dict[str, dict]:
    """Return how many true positions, shapes and magnitudes lie within their 68 % intervals.

    Parameters
    ----------
    sources
        Rows with ``quantities``: by name dictionaries with ``value``, ``error`` and ``true``.

    Returns
    -------
    dict
        By name the share ``covered``, the ``number`` of sources that have all three, and the median
        of the errors, ``error``.  Magnitudes count together, as ``mag``, once in each band.
    """
    pulls: dict[str, list[tuple[float, float]]] = {}
    for row in sources:
        for name, one in row.get("quantities", {}).items():
            if None not in (one["value"], one["error"], one["true"]) and one["error"] > 0:
                pull = abs(one["value"] - one["true"]) / one["error"]
                kind = "mag" if name.startswith("mag_") else name
                pulls.setdefault(kind, []).append((pull, one["error"]))
    return {
        name: {
            "covered": float(np.mean([pull <= _SIGMA_68 for pull, _ in pairs])),
            "number": len(pairs),
            "error": float(np.median([error for _, error in pairs])),
        }
        for name, pairs in pulls.items()
    }


def _mean(values) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _coverage_by(rows: Sequence[dict]) -> dict:
    """Return coverage by thirds of signal to noise and by blendedness, and the widths."""

    def column(name: str) -> np.ndarray:
        return np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)

    covered, snr, beta = column("covered"), column("snr"), column("beta")
    known = snr[np.isfinite(snr)]
    edges = np.quantile(known, [1 / 3, 2 / 3]) if known.size else np.zeros(2)
    third = np.where(np.isfinite(snr), np.digitize(snr, edges), -1)
    width = (column("flux_high") - column("flux_low")) / np.abs(column("flux_true"))
    width = width[np.isfinite(width)]
    return {
        "snr_thirds": [float(edge) for edge in edges] if known.size else None,
        "coverage_68_by_snr": [_mean(covered[third == i]) for i in range(3)],
        "coverage_68_by_blendedness": [
            _mean(covered[beta < BLENDED]),
            _mean(covered[beta >= BLENDED]),
        ],
        "interval_68_width": _percentile(width, 50),
        "interval_68_mean_width": _mean(width),
    }


def _pulls(rows: Sequence[dict]) -> dict | None:
    """Return mean and standard deviation of (measured - true) / error; None without any."""
    pulls = np.array(
        [
            (row["measured_flux"] - row["flux_true"]) / row["measured_flux_error"]
            for row in rows
            if row.get("measured_flux_error")
        ]
    )
    return {"mean": float(pulls.mean()), "sd": float(pulls.std())} if pulls.size else None


def _percentile(values, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None
