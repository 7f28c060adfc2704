"""Tables from whatever holds positions in Python."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Row, Table

from scorepriors._errors import InputError
from scorepriors.models.data._checks import numeric
from scorepriors.models.data.readers._files import reason

from ._files import read_table
from ._positions import Positions


def as_table(source) -> Table:
    """Return positions as a table with column names.

    Parameters
    ----------
    source
        File, Table, SkyCoord, DataFrame (pandas, polars) or pyarrow table, dictionary or list of
        dictionaries, structured array, catalog of photutils, regions, `Positions`, or an array
        ``[K, 2]`` of (x, y) pixels.

    Raises
    ------
    InputError
        If it is none of these, or has columns of different lengths.
    """
    if isinstance(source, str | os.PathLike):
        source = read_table(Path(source))
    if isinstance(source, Table):
        return source
    if isinstance(source, Positions):
        y, x = source.row_column.T
        return Table({"id": source.ids, "x": x, "y": y, "is_star": source.is_point})
    if isinstance(source, SkyCoord):
        return Table({"sky": source.reshape(-1)})
    if isinstance(source, Row):
        return Table(source)
    if isinstance(source, units.Quantity):
        return _from_quantity(source)
    try:
        table = _from_columns(source)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise InputError(
            f"the {type(source).__name__} of positions is no table: {reason(error)}; give columns of "
            "one length."
        ) from error
    return _from_array(source) if table is None else table


def _from_columns(source) -> Table | None:
    """Return a table of what has named columns; None for everything else."""
    if isinstance(source, Mapping):
        return _of_mapping(source)
    if hasattr(source, "to_table") and not hasattr(source, "__array_interface__"):
        return source.to_table()  # photutils' SourceCatalog
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
        named = source.index.name is not None or source.index.nlevels > 1
        frame = source.reset_index() if named else source
        return Table.from_pandas(frame.rename(columns=str))
    if hasattr(source, "to_pydict"):  # pyarrow
        return Table(source.to_pydict())
    if hasattr(source, "columns") and hasattr(source, "to_dict"):  # polars
        return Table({name: source[name].to_numpy() for name in source.columns})
    if isinstance(source, np.ndarray) and source.dtype.names is not None:
        return Table(np.atleast_1d(source))
    if isinstance(source, list | tuple) and source:
        first = source[0]
        if isinstance(first, Mapping):
            return Table(rows=list(source))
        if isinstance(first, SkyCoord):
            return Table({"sky": SkyCoord([one.icrs for one in source]).reshape(-1)})
        if isinstance(first, units.Quantity):
            return _from_quantity(units.Quantity(source))
    source = getattr(source, "regions", source)
    if hasattr(source, "__iter__") and not isinstance(source, np.ndarray):
        return _from_regions(source)
    return None


def _of_mapping(source: Mapping) -> Table:
    scalar = {name: np.ndim(value) == 0 for name, value in source.items()}
    columns = {
        str(name): value.reshape(1)
        if isinstance(value, SkyCoord) and scalar[name]
        # A dictionary of single values is one source.
        else [value]
        if scalar[name]
        else value
        for name, value in source.items()
    }
    lengths = {len(value) for value in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"its columns have {', '.join(map(str, sorted(lengths)))} rows")
    return QTable(columns)


def _from_regions(source) -> Table | None:
    """Return the centers of regions of the package `regions`; None for anything else."""
    each = list(source)
    if not each or not all(hasattr(one, "center") for one in each):
        return None
    centers = [one.center for one in each]
    if all(isinstance(one, SkyCoord) for one in centers):
        return Table({"sky": SkyCoord([one.icrs for one in centers])})
    return Table({"x": [float(one.x) for one in centers], "y": [float(one.y) for one in centers]})


def _from_quantity(source: units.Quantity) -> Table:
    if source.ndim != 2 or source.shape[1] != 2:
        raise InputError(f"positions have the shape {source.shape}; give [K, 2].")
    if source.unit.physical_type == "angle":
        return QTable({"ra": source[:, 0], "dec": source[:, 1]})
    return QTable({"x": source[:, 0], "y": source[:, 1]})


def _from_array(source) -> Table:
    array = numeric(source, "the array of positions")
    if array.size == 0:
        return Table()
    if array.ndim != 2 or array.shape[1] != 2:
        raise InputError(f"positions have the shape {array.shape}; give [K, 2] of (x, y) pixels.")
    return Table({"x": array[:, 0], "y": array[:, 1]})
