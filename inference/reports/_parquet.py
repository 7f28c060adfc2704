"""Catalogs as Parquet, for programs that know nothing of this package."""

import importlib.util
from pathlib import Path

from astropy.table import Table

#: Name of the file.
PARQUET = "catalog.parquet"


def can_write_parquet() -> bool:
    """Return whether pyarrow, the extra ``parquet``, is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def write_parquet(catalog: Table, path: Path) -> None:
    """Write Parquet, with units and descriptions in the metadata of each column.

    Metadata are those of astropy too, whose `QTable.read` so returns the catalog as it was.
    """
    import pyarrow.parquet as pq

    plain = plain_columns(catalog)
    plain.write(path, format="parquet", overwrite=True)
    table = pq.read_table(path)
    for number, name in enumerate(plain.colnames):
        info = plain[name].info
        known = {"unit": info.unit, "description": info.description}
        metadata = {key: str(value) for key, value in known.items() if value is not None}
        table = table.cast(
            table.schema.set(number, table.schema.field(number).with_metadata(metadata))
        )
    pq.write_table(table, path, compression="zstd")


def plain_columns(catalog: Table) -> Table:
    """Return a table of plain columns with units: a reader needs no classes of astropy."""
    plain = Table()
    for name in catalog.colnames:
        column = catalog[name]
        values = getattr(column, "value", column)
        plain[name] = values
        plain[name].info.unit = getattr(column, "unit", None)
        plain[name].info.description = column.info.description
    plain.meta.update(catalog.meta)
    return plain
