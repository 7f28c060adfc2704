"""Statistics of the true sources of a field: found, how well measured, told from stars."""

import itertools
from typing import Any

import numpy as np
from astropy.table import Table
from scipy.spatial import cKDTree

from ._metrics import BLENDED

#: Signal to noise from which a source is bright, so that pieces of it are told from sources.
BRIGHT = 50.0

#: Distance to the border of a scene, and to a source of another scene, within which fits may
#: have been cut apart, pixels.
NEAR_BORDER, NEAR_SOURCE = 8.0, 10.0


def cell(rows: dict[str, np.ndarray], which: np.ndarray) -> dict[str, Any]:
    """Return the statistics of some of the true sources.

    Parameters
    ----------
    rows
        Columns with an entry for each true source, as of `evaluate_field`.
    which
        Which of them, ``[K]``.

    Returns
    -------
    dict
        ``number`` of sources, ``found`` of them, ``completeness``, ``num_measured`` with a flux,
        ``median_abs_flux_error``, ``median_flux_error``, ``share_flux_error_above_half``,
        ``num_with_error``, ``coverage_68``; None where there is nothing to take them of.
    """
    number, found = int(which.sum()), int((rows["detection"][which] >= 0).sum())
    error, covered = rows["e_F"][which], rows["covered"][which]
    error, covered = error[np.isfinite(error)], covered[np.isfinite(covered)]
    return {
        "number": number,
        "found": found,
        "completeness": found / number if number else None,
        "num_measured": len(error),
        "median_abs_flux_error": float(np.median(np.abs(error))) if len(error) else None,
        "median_flux_error": float(np.median(error)) if len(error) else None,
        "share_flux_error_above_half": float(np.mean(np.abs(error) > 0.5)) if len(error) else None,
        "num_with_error": len(covered),
        "coverage_68": float(covered.mean()) if len(covered) else None,
    }


def by_bins(
    rows: dict[str, np.ndarray], values: np.ndarray, edges: np.ndarray
) -> list[dict[str, Any]]:
    """Return `cell` in bins of a value, of all sources, of isolated and of blended ones."""
    blended = rows["blendedness"] >= BLENDED
    out = []
    for low, high in itertools.pairwise(edges):
        inside = (values >= low) & (values < high)
        out.append(
            {
                "low": float(low),
                "high": float(high) if np.isfinite(high) else None,
                "all": cell(rows, inside),
                "isolated": cell(rows, inside & ~blended),
                "blended": cell(rows, inside & blended),
            }
        )
    return out


def detection_bins(
    magnitude: np.ndarray, kinds: dict[str, np.ndarray], edges: np.ndarray
) -> list[dict[str, Any]]:
    """Return what detections are, in bins of their measured magnitude.

    Parameters
    ----------
    magnitude
        Measured magnitudes, NaN where there is none, ``[M]``.
    kinds
        Which detections are ``sources``, ``shreds`` and ``spurious``, masks ``[M]``; others do not
        count.
    edges
        Edges of the bins.  Before and after them there is one more, open to its side; that of the
        faint ones has those without a magnitude too.

    Returns
    -------
    list of dict
        Of each bin ``low`` and ``high`` (None where it is open), ``num_detections``, ``num_shreds``,
        ``num_spurious`` and ``purity`` (None without a detection).
    """
    number = np.digitize(np.where(np.isfinite(magnitude), magnitude, np.inf), edges)
    ends = [None, *map(float, edges), None]
    out = []
    for order, (low, high) in enumerate(itertools.pairwise(ends)):
        counts = {kind: int(np.sum(which & (number == order))) for kind, which in kinds.items()}
        total = sum(counts.values())
        out.append(
            {
                "low": low,
                "high": high,
                "num_detections": total,
                "num_shreds": counts["shreds"],
                "num_spurious": counts["spurious"],
                "purity": counts["sources"] / total if total else None,
            }
        )
    return out


def star_measures(rows: dict[str, np.ndarray], p_star: np.ndarray | None) -> dict[str, Any] | None:
    """Return how stars and galaxies that were found are told apart.

    Parameters
    ----------
    rows
        Columns with an entry for each true source.
    p_star
        Probability that each is a star; NaN where it was not found or is unknown.

    Returns
    -------
    dict or None
        Numbers ``stars_as_stars`` (`p_star` of one half or more), ``stars_as_galaxies``,
        ``galaxies_as_galaxies``, ``galaxies_as_stars``, of all and in bins ``by_snr``;
        ``brier``, the mean square of `p_star` minus 1 for stars and 0 for galaxies.
    """
    if p_star is None:
        return None
    known = np.isfinite(p_star)
    star, called = rows["is_star"], p_star >= 0.5

    def confusion(which: np.ndarray) -> dict[str, int]:
        return {
            "stars_as_stars": int(np.sum(which & star & called)),
            "stars_as_galaxies": int(np.sum(which & star & ~called)),
            "galaxies_as_galaxies": int(np.sum(which & ~star & ~called)),
            "galaxies_as_stars": int(np.sum(which & ~star & called)),
        }

    edges = (5.0, 20.0, 50.0, np.inf)
    snr = rows["snr"]
    return {
        **confusion(known),
        "num_unknown": int(np.sum((rows["detection"] >= 0) & ~known)),
        "brier": float(np.mean((p_star[known] - star[known]) ** 2)) if known.any() else None,
        "by_snr": [
            {
                "low": low,
                "high": high if np.isfinite(high) else None,
                **confusion(known & (snr >= low) & (snr < high)),
            }
            for low, high in itertools.pairwise(edges)
        ],
    }


def seam_measures(
    rows: dict[str, np.ndarray],
    places: np.ndarray,
    scene: np.ndarray,
    scenes: Table | None,
    shape: tuple[int, ...] | None,
) -> dict[str, Any]:
    """Return `cell` of sources whose fits were cut apart, and of others like them.

    Parameters
    ----------
    rows
        Columns with an entry for each true source.
    places
        Centers (row, column) of the detections, ``[M, 2]``.
    scene
        Scene of each, ``[M]``.
    scenes
        Scenes: ``scene``, ``row``, ``column``, ``size``; None if unknown.
    shape
        Height and width of the field, whose borders are no seams; None if unknown.

    Returns
    -------
    dict
        ``other_scene`` and ``same_scene``: sources whose nearest detection, within 10
        pixels, is of another scene, or of their own.  With `scenes` ``near_border`` and
        ``inside``: sources within 8 pixels of the border of their scene, and others.
    """
    detection = rows["detection"]
    found = detection >= 0
    pick = np.maximum(detection, 0)

    def of_true(values: np.ndarray) -> np.ndarray:
        return values[pick] & found if len(values) else found

    near, other = np.zeros(len(places), bool), np.zeros(len(places), bool)
    if len(places) > 1:
        distance, nearest = cKDTree(places).query(places, k=2)
        near = distance[:, 1] < NEAR_SOURCE
        other = scene != scene[nearest[:, 1]]
    out = {
        "other_scene": cell(rows, of_true(near & other)),
        "same_scene": cell(rows, of_true(near & ~other)),
    }
    if scenes is not None and {"scene", "row", "column", "size"} <= set(scenes.colnames):
        border = _border_distance(places, scene, scenes, shape) < NEAR_BORDER
        out["near_border"] = cell(rows, of_true(border))
        out["inside"] = cell(rows, of_true(~border))
    return out


def _border_distance(
    places: np.ndarray, scene: np.ndarray, scenes: Table, shape: tuple[int, ...] | None
) -> np.ndarray:
    """Return the distance of detections to the border of their scene inside the field, ``[M]``."""
    # Of several rounds the last one counts.
    boxes = {row["scene"]: (row["row"], row["column"], row["size"]) for row in scenes}
    distance = np.full(len(places), np.inf)
    for order, (place, number) in enumerate(zip(places, scene, strict=True)):
        if number not in boxes:
            continue
        row, column, size = boxes[number]
        for axis, first in enumerate((row, column)):
            if first > 0:
                distance[order] = min(distance[order], place[axis] - first)
            if shape is None or first + size < shape[axis]:
                distance[order] = min(distance[order], first + size - 1 - place[axis])
    return distance
