"""Light curves: fluxes of sources at the times of a joint observation."""

from collections.abc import Sequence

import numpy as np
from astropy.table import QTable
from astropy.time import Time

from scorepriors._errors import InputError

from ._result import Deblended


def light_curves(result: Deblended, ids: str | Sequence[str] | None = None) -> QTable:
    """Return fluxes of sources at every epoch, the light of all others integrated out.

    Parameters
    ----------
    result
        Result of `deblend` on observations that were joined (`scorepriors.models.join_observations`).
    ids
        Names of the sources; those that vary (the option `variable`) if not given.

    Returns
    -------
    astropy.table.QTable
        One row per source, epoch and filter, ordered by source, filter and time: ``id``, ``filter``,
        ``band`` (its name in the catalog), ``time`` (`astropy.time.Time`; left out unless every
        observation has one), ``flux`` and ``flux_err``, in the unit of the catalog; NaN where the
        band has no data about the source.

    Raises
    ------
    InputError
        If no source varies and no names are given, or there is none of a name.

    Notes
    -----
    Errors know the shapes of the sources, the constant fluxes of a host, and positions.  They are
    correlated between epochs: `Photometry.covariance` has all of it.
    """
    known = list(result.positions.ids)
    names = (ids,) if isinstance(ids, str) else result.variable if ids is None else tuple(ids)
    if not names:
        raise InputError("no source varies; deblend with variable=[...], or name sources.")
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"there is no source {', '.join(map(repr, missing))} in the result.")
    obs = result.observation
    unit, factor = obs.flux_unit
    found = result.photometry.scaled(factor)
    filters = np.array([name for view in obs.views for name in view.observation.bands])
    times = [view.observation.time for view in obs.views for _ in view.observation.bands]
    timed = all(time is not None for time in times)
    when = np.array(times, float) if timed else np.arange(len(times))
    # Filters in the order of their first band.
    first = np.array([list(filters).index(name) for name in filters])
    order = np.lexsort((when, first))
    rows = np.repeat([known.index(name) for name in names], len(order))
    columns = np.tile(order, len(names))
    table = QTable()
    table["id"] = np.array(known)[rows]
    table["filter"] = filters[columns]
    table["band"] = np.array(obs.bands)[columns]
    if timed:
        table["time"] = Time(when[columns], format="mjd")
    table["flux"] = found.flux[rows, columns] * unit
    table["flux_err"] = found.error[rows, columns] * unit
    return table
