"""Light curves: fluxes of sources at the times of a joint observation."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from astropy import units as u
from astropy.table import QTable
from astropy.time import Time

from scorepriors._errors import InputError

from ._draws import scene_groups, seen_flux_draws
from ._result import Deblended


def light_curves(result: Deblended | Any, ids: str | Sequence[str] | None = None) -> QTable:
    """Return fluxes of sources at every epoch, the light of all others integrated out.

    Parameters
    ----------
    result
        Result of `deblend` on observations that were joined (`scorepriors.models.join_observations`),
        or draws about it, of `sample_deblended` or `laplace_deblended`.
    ids
        Names of the sources; those that vary (the option `variable`) if not given.

    Returns
    -------
    astropy.table.QTable
        One row per source, epoch and filter, ordered by source, filter and time: ``id``, ``filter``,
        ``band`` (its name in the catalog), ``time`` (`astropy.time.Time`; left out unless every
        observation has one), ``flux`` and ``flux_err``, in the unit of the catalog; NaN where the
        band has no data about the source.  Of draws they are mean and standard deviation.

    Raises
    ------
    InputError
        If no source varies and no names are given, or there is none of a name; for draws that are not
        of a scene, or of an earlier version, which did not write down its epochs.

    Notes
    -----
    Errors know the shapes of the sources, the constant fluxes of a host, and positions.  They are
    correlated between epochs: `Photometry.covariance`, or `flux_covariance` of draws, has all of it.
    """
    found = _of_result(result) if isinstance(result, Deblended) else _of_draws(result)
    names = (ids,) if isinstance(ids, str) else found.variable if ids is None else tuple(ids)
    if not names:
        raise InputError("no source varies; deblend with variable=[...], or name sources.")
    missing = [name for name in names if name not in found.ids]
    if missing:
        raise InputError(f"there is no source {', '.join(map(repr, missing))} in the result.")
    filters, times = np.array(found.filters), found.times
    timed = all(time is not None for time in times)
    when = np.array(times, float) if timed else np.arange(len(times))
    # Filters in the order of their first band.
    first = np.array([list(filters).index(name) for name in filters])
    order = np.lexsort((when, first))
    rows = np.repeat([found.ids.index(name) for name in names], len(order))
    columns = np.tile(order, len(names))
    table = QTable()
    table["id"] = np.array(found.ids)[rows]
    table["filter"] = filters[columns]
    table["band"] = np.array(found.bands)[columns]
    if timed:
        table["time"] = Time(when[columns], format="mjd")
    table["flux"] = found.flux[rows, columns] * found.unit
    table["flux_err"] = found.error[rows, columns] * found.unit
    return table


def epoch_facts(result: Deblended) -> dict[str, str]:
    """Return what light curves of draws need beside fluxes, as JSON for the attributes of a tree."""
    filters, times = _epochs(result.observation)
    return {
        "filters": json.dumps(filters),
        "times": json.dumps(times),
        "variable": json.dumps(list(result.variable)),
    }


class _Fluxes(NamedTuple):
    """Fluxes and errors ``[N, B]`` in a unit, of which sources, and of which filters and times."""

    ids: list[str]
    variable: tuple[str, ...]
    bands: list[str]
    filters: list[str]
    times: list[float | None]
    flux: np.ndarray
    error: np.ndarray
    unit: u.UnitBase


def _epochs(obs) -> tuple[list[str], list[float | None]]:
    """Return filter and time of every band; None for an unknown time."""
    views = [view.observation for view in obs.views]
    times = [None if one.time is None else float(one.time) for one in views for _ in one.bands]
    return [str(name) for one in views for name in one.bands], times


def _of_result(result: Deblended) -> _Fluxes:
    obs = result.observation
    unit, factor = obs.flux_unit
    found = result.photometry.scaled(factor)
    return _Fluxes(
        list(result.positions.ids),
        result.variable,
        list(obs.bands),
        *_epochs(obs),
        found.flux,
        found.error,
        unit,
    )


def _of_draws(tree: Any) -> _Fluxes:
    posterior, _ = scene_groups(tree)
    if "filters" not in tree.attrs:
        raise InputError(
            "these draws are of an earlier version, which did not write down filters and times; sample "
            "again."
        )
    filters, times, variable = (json.loads(tree.attrs[n]) for n in ("filters", "times", "variable"))
    flux = seen_flux_draws(tree).values
    flux = flux.reshape(-1, *flux.shape[2:])
    ids, bands = ([str(one) for one in posterior[name].values] for name in ("source", "band"))
    unit = u.Unit(tree.attrs["flux_unit"])
    mean, deviation = flux.mean(0), flux.std(0, ddof=1)
    return _Fluxes(ids, tuple(variable), bands, filters, times, mean, deviation, unit)
