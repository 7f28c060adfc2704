"""Columns of truths and catalogs of fields: numbers, places, fluxes in one unit."""

import numpy as np
from astropy import units
from astropy.table import Table

from scorepriors._errors import InputError


def require(table: Table, names: tuple[str, ...], what: str) -> None:
    """Raise InputError for columns that a table lacks."""
    missing = [name for name in names if name not in table.colnames]
    if missing:
        raise InputError(f"{what} has no column {', '.join(missing)}.")


def numbers(table: Table, name: str) -> np.ndarray:
    """Return a column as numbers without unit, NaN where masked."""
    column = np.ma.asarray(getattr(table[name], "value", table[name]))
    return np.asarray(np.ma.filled(column.astype(float), np.nan))


def places(table: Table, what: str) -> np.ndarray:
    """Return centers (row, column) ``[N, 2]``; InputError for rows without one."""
    found = np.stack([numbers(table, "y"), numbers(table, "x")], -1)
    lost = int(np.sum(~np.isfinite(found).all(1)))
    if lost:
        raise InputError(f"{lost} row(s) of {what} have no position in x and y; leave them out.")
    return found


def fluxes(truth: Table, catalog: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true fluxes ``[K]``, and fluxes with errors ``[M]``, of all common bands."""
    known = [
        name
        for name in truth.colnames
        if name.startswith("flux_") and name != "flux_total" and not name.startswith("flux_err")
    ]
    common = [name for name in known if name in catalog.colnames]
    if not common:
        raise InputError(
            f"the catalog has no flux of a band of the truth ({', '.join(known)}); it has "
            f"{', '.join(catalog.colnames[:8])} ..."
        )
    factors = [_factor(truth, catalog, name) for name in common]
    true = np.sum([numbers(truth, name) for name in common], 0)
    errors = [f"flux_err_{name.removeprefix('flux_')}" for name in common]
    if len(common) == len(known) and {"flux_total", "flux_err_total"} <= set(catalog.colnames):
        # Errors of bands are not independent.
        factor = _factor(truth, catalog, "flux_total", common[0])
        return true, *(numbers(catalog, n) * factor for n in ("flux_total", "flux_err_total"))
    flux = np.sum(
        [numbers(catalog, name) * factor for name, factor in zip(common, factors, strict=True)], 0
    )
    squares = [
        (numbers(catalog, name) * factor) ** 2
        if name in catalog.colnames
        else np.full(len(catalog), np.nan)
        for name, factor in zip(errors, factors, strict=True)
    ]
    return true, flux, np.sqrt(np.sum(squares, 0))


def _factor(truth: Table, catalog: Table, name: str, like: str | None = None) -> float:
    """Return the factor from the unit of a flux in a catalog to that of the truth."""
    own, wanted = catalog[name].unit, truth[like or name].unit
    if own is None or wanted is None:
        return 1.0
    try:
        return float(units.Unit(own).to(wanted))
    except (units.UnitConversionError, ValueError, TypeError) as error:
        raise InputError(
            f"`{name}` is in {own} in the catalog and in {wanted} in the truth; bring the catalog "
            f"to {wanted}."
        ) from error
