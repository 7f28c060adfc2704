"""Measures of a catalog of a field whose truth is known."""

from typing import Any

import numpy as np
from astropy.table import Table
from scipy.ndimage import binary_dilation

from scorepriors._errors import InputError

from ._fields_columns import fluxes, numbers, places, require
from ._fields_matching import Matches, match_sources, sort_detections
from ._fields_measures import BRIGHT, by_bins, cell, detection_bins, seam_measures, star_measures
from ._metrics import BLENDED, central_interval

#: Edges of bins of signal to noise, the second of which is about 10, and width of those of magnitude.
SNR_EDGES, MAGNITUDE_STEP = (5.0, 8.0, 12.5, 20.0, 50.0, 200.0, np.inf), 1.0

#: Pixels about masked ones within which detections do not count.
_BESIDE_MASK = 2

_TRUTH = ("id", "x", "y", "is_star", "snr", "blendedness", "saturated", "extent", "size")


def evaluate_field(
    truth: Table,
    catalog: Table,
    *,
    psf_fwhm: float,
    mask: np.ndarray | None = None,
    scenes: Table | None = None,
) -> dict[str, Any]:
    """Compare a catalog of a field with its truth.

    Parameters
    ----------
    truth
        Truth as of `scorepriors.models.simulate_field`.
    catalog
        Columns ``x``, ``y`` (0-based pixels), ``flux_<band>`` and ``flux_err_<band>``; where there
        are any ``flux_total`` with ``flux_err_total``, ``p_star`` and ``scene``.
    psf_fwhm
        FWHM of the sharpest PSF, pixels: the radius of matches, or the second-moment radius of a
        galaxy where that is larger.
    mask
        True for pixels without data or full ones, ``[H, W]``.
    scenes
        Scenes of the fit: ``scene``, first pixel ``row`` and ``column``, side ``size``.

    Returns
    -------
    dict
        Ready for JSON.  ``num_true``, ``num_found``, ``num_detections``, ``num_shreds``,
        ``num_spurious`` and ``num_ignored``; ``completeness``; ``purity``, the share of detections
        that are a true source; ``shreds_per_bright`` with ``num_bright``, and both for
        galaxies ``structured`` and for ``stars``; of all and by bins (``by_snr``,
        ``by_magnitude``) what `cell` measures, each of ``isolated`` and ``blended`` sources
        (blendedness below 0.5, from 0.5 up); ``detections_by_magnitude``, in bins of the measured
        magnitude, what `detection_bins` counts; ``stars`` if there is ``p_star``; ``seams`` if there
        are scenes; and ``sources``, columns with an entry for each true source.

    Raises
    ------
    InputError
        If a column is missing, fluxes have another unit, or no detection is near a source.

    Notes
    -----
    Sources whose center is on a masked pixel or full do not count, and neither do detections
    there, beside masked pixels or in the light of a saturated source.  Of the others
    a detection without a true source is a *shred* if it lies within the extent of a source with
    a signal to noise of 50 or more, else *spurious*.  How detections and sources are matched
    stands in `match_sources`.  Errors are those of the fluxes of all bands that truth and catalog
    share, the 68 % interval is that of a Gaussian.
    """
    require(truth, _TRUTH, "the truth")
    require(catalog, ("x", "y"), "the catalog")
    true_places, own_places = places(truth, "the truth"), places(catalog, "the catalog")
    true_flux, flux, error = fluxes(truth, catalog)
    snr, saturated = numbers(truth, "snr"), np.asarray(truth["saturated"], bool)
    extent = numbers(truth, "extent")
    radius = np.maximum(psf_fwhm, numbers(truth, "size"))
    found = match_sources(true_places, true_flux, own_places, flux, radius)
    bright = (snr >= BRIGHT) | saturated
    matches = sort_detections(found, own_places, true_places, np.where(bright, extent, 0.0))
    counts = ~saturated & ~_on_mask(true_places, mask, 0)
    seen = ~_ignored(matches, own_places, saturated, counts, mask)
    if len(catalog) >= 10 and not (found >= 0).any() and len(truth):
        raise InputError(
            f"none of {len(catalog)} detections lies within {psf_fwhm:.2g} pixels of a true source; "
            "give the catalog of this field."
        )
    sources = _sources(truth, matches, true_flux, flux, error)
    rows = {name: values[counts] for name, values in sources.items()}
    blended = rows["blendedness"] >= BLENDED
    shreds, spurious = matches.is_shred & seen, matches.is_spurious & seen
    is_source = (matches.true >= 0) & seen
    real = int(np.sum(is_source))
    false = int(np.sum(shreds) + np.sum(spurious))
    total = cell(rows, np.ones(len(blended), bool))
    magnitudes = rows["magnitude"]
    edges = _magnitude_edges(magnitudes)
    kinds = {"sources": is_source, "shreds": shreds, "spurious": spurious}
    return {
        "num_true": total["number"],
        "num_found": total["found"],
        "num_detections": real + false,
        "num_shreds": int(np.sum(shreds)),
        "num_spurious": int(np.sum(spurious)),
        "num_ignored": int(np.sum(~seen)),
        "num_ignored_true": int(np.sum(~counts)),
        "completeness": total["completeness"],
        "purity": real / (real + false) if real + false else None,
        **_shreds(truth, matches, counts & bright, seen),
        "all": total,
        "isolated": cell(rows, ~blended),
        "blended": cell(rows, blended),
        "by_snr": by_bins(rows, rows["snr"], np.array(SNR_EDGES)),
        "by_magnitude": by_bins(rows, magnitudes, edges),
        "detections_by_magnitude": detection_bins(
            _measured_magnitudes(flux, true_flux, sources["magnitude"]), kinds, edges
        )
        if len(edges)
        else [],
        "stars": star_measures(rows, _of(catalog, "p_star", sources["detection"][counts])),
        "seams": _seams(catalog, rows, own_places, mask, scenes),
        "sources": {name: _json(values) for name, values in sources.items()},
        "detections": {
            "x": _json(own_places[:, 1]),
            "y": _json(own_places[:, 0]),
            "kind": [
                "ignored" if not one else "shred" if two else "spurious" if three else "source"
                for one, two, three in zip(seen, shreds, spurious, strict=True)
            ],
        },
    }


def _of(catalog: Table, name: str, detection: np.ndarray) -> np.ndarray | None:
    """Return a column for each true source, NaN where it was not found; None without it."""
    if name not in catalog.colnames:
        return None
    if not len(catalog):
        return np.full(len(detection), np.nan)
    return np.where(detection >= 0, numbers(catalog, name)[detection], np.nan)


def _on_mask(places: np.ndarray, mask: np.ndarray | None, beside: int) -> np.ndarray:
    """Return which places lie on masked pixels, or within some pixels of one."""
    if mask is None or not len(places):
        return np.zeros(len(places), bool)
    wide = binary_dilation(mask, np.ones((3, 3), bool), iterations=beside) if beside else mask
    pixel = np.nan_to_num(places).round().astype(int)
    row, column = np.clip(pixel, 0, np.array(mask.shape) - 1).T
    return wide[row, column]


def _ignored(
    matches: Matches,
    places: np.ndarray,
    saturated: np.ndarray,
    counts: np.ndarray,
    mask: np.ndarray | None,
) -> np.ndarray:
    """Return the detections that do not count: of sources that do not, or by their place."""
    matched = matches.true >= 0
    out = matched & ~counts[np.where(matched, matches.true, 0)] if len(counts) else ~matched
    if not len(counts):
        out &= False
    else:
        out |= (matches.parent >= 0) & saturated[np.maximum(matches.parent, 0)]
    return out | (~matched & _on_mask(places, mask, _BESIDE_MASK))


def _sources(
    truth: Table, matches: Matches, true_flux: np.ndarray, flux: np.ndarray, error: np.ndarray
) -> dict[str, np.ndarray]:
    """Return columns with an entry for each true source; NaN where it was not found."""
    found = matches.found
    pick = np.maximum(found, 0)
    there = found >= 0
    own, sigma = (
        np.where(there, values[pick], np.nan) if len(values) else np.full(len(found), np.nan)
        for values in (flux, error)
    )
    low, high = central_interval(own, sigma)
    known = np.isfinite(own) & np.isfinite(sigma) & (sigma > 0)
    covered = np.where(known, (low <= true_flux) & (true_flux <= high), np.nan)
    magnitude = (
        numbers(truth, "magnitude")
        if "magnitude" in truth.colnames
        else np.full(len(found), np.nan)
    )
    return {
        "id": np.asarray(truth["id"]),
        "x": numbers(truth, "x"),
        "y": numbers(truth, "y"),
        "snr": numbers(truth, "snr"),
        "magnitude": magnitude,
        "blendedness": numbers(truth, "blendedness"),
        "is_star": np.asarray(truth["is_star"], bool),
        "saturated": np.asarray(truth["saturated"], bool),
        "detection": found,
        "flux_true": true_flux,
        "e_F": (own - true_flux) / true_flux,
        "pull": np.where(known, (own - true_flux) / np.where(known, sigma, 1.0), np.nan),
        "covered": covered,
    }


def _shreds(truth: Table, matches: Matches, bright: np.ndarray, seen: np.ndarray) -> dict:
    """Return shreds per bright source: galaxies, those with structure, and stars."""
    per_source = np.bincount(matches.parent[matches.is_shred & seen], minlength=len(truth))
    star = np.asarray(truth["is_star"], bool)
    structured = (
        np.asarray(truth["has_structure"], bool)
        if "has_structure" in truth.colnames
        else np.zeros(len(truth), bool)
    )
    out: dict[str, Any] = {}
    for key, kind in (("", ~star), ("_structured", structured), ("_stars", star)):
        which = bright & kind
        out[f"num_bright{key}"] = int(which.sum())
        out[f"shreds_per_bright{key}"] = float(per_source[which].mean()) if which.any() else None
    return out


def _measured_magnitudes(
    flux: np.ndarray, true_flux: np.ndarray, magnitude: np.ndarray
) -> np.ndarray:
    """Return magnitudes of fluxes ``[M]`` over all bands, NaN where these are not positive.

    The zero point is that of the true sources: their magnitudes are of one band, and have a median
    distance from those of their fluxes over all bands.
    """
    own, true = (-2.5 * np.log10(np.where(f > 0, f, np.nan)) for f in (flux, true_flux))
    zero_point = magnitude - true
    known = np.isfinite(zero_point)
    return own + np.median(zero_point[known]) if known.any() else np.full(len(flux), np.nan)


def _magnitude_edges(magnitudes: np.ndarray) -> np.ndarray:
    known = magnitudes[np.isfinite(magnitudes)]
    if not known.size:
        return np.zeros(0)
    low, high = np.floor(known.min()), np.ceil(known.max())
    return np.arange(low, max(high, low + 1) + MAGNITUDE_STEP, MAGNITUDE_STEP)


def _seams(
    catalog: Table,
    rows: dict[str, np.ndarray],
    places: np.ndarray,
    mask: np.ndarray | None,
    scenes: Table | None,
) -> dict | None:
    if "scene" not in catalog.colnames:
        return None
    scene = np.asarray(catalog["scene"])
    return seam_measures(rows, places, scene, scenes, None if mask is None else mask.shape)


def _json(values: np.ndarray) -> list:
    """Return a column as a list for JSON: None in place of NaN."""
    listed = values.tolist()
    if values.dtype.kind == "f":
        return [round(one, 6) if np.isfinite(one) else None for one in listed]
    return [one.decode() if isinstance(one, bytes) else one for one in listed]
