"""Tables from files of catalogs, recognised by their content."""

import gzip
import io
import warnings
import zlib
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note
from scorepriors.models.data.readers._files import (
    FITS_ENDINGS,
    NPZ_ENDINGS,
    READ_ERRORS,
    array_names,
    check_file,
    load_npz,
    reason,
)
from scorepriors.models.data.readers._npz_files import plain_catalog

from ._columns import COORDINATE_COLUMNS, has_positions
from ._regions import read_regions
from ._text import read_text

#: Content tells what a file is, so it may be called anything.
_ANY_ENDING = ("",)

#: Names of FITS tables that hold sources, before others with positions.
_TABLE_NAMES = ("CATALOG", "LDAC_OBJECTS", "OBJECTS")

#: Bytes of the first and last lines of a Parquet file.
_PARQUET = b"PAR1"


def read_table(path: Path) -> Table | np.ndarray:
    """Read a table of any kind; an array if the file holds one without names.

    Raises
    ------
    InputError
        If the file is missing, empty or damaged, or of no kind that is known.
    """
    path = check_file(path, _ANY_ENDING, "catalog")
    with path.open("rb") as opened:
        start = opened.read(16)
    if start.startswith(_PARQUET):
        return _parquet(path)
    if start.startswith(b"\x93NUMPY"):
        return _npy(path)
    if path.name.lower().endswith(NPZ_ENDINGS) or start.startswith(b"PK\x03\x04"):
        return _npz(path)
    content = _content(path)
    if content.startswith(b"SIMPLE") or path.name.lower().endswith(FITS_ENDINGS):
        return _fits(content, path)
    written = _decoded(content, path)
    head = written.lstrip()[:2000].lower()
    if "<votable" in head:
        return _votable(content, path)
    if head.startswith(("<!doctype", "<html")):
        raise InputError(
            f"{path.name} is a web page, not a catalog; download it again, logged in if need be."
        )
    if path.name.lower().removesuffix(".gz").endswith(".reg") or head.startswith("# region file"):
        return read_regions(written, path.name)
    return read_text(written, path.name)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path.name} is truncated; copy or download it again.") from error


def _decoded(content: bytes, path: Path) -> str:
    """Return text of any usual encoding, without its byte order mark."""
    encodings = ["utf-8-sig", "latin-1"]
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    for encoding in encodings:
        try:
            written = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in written:
            return written
    raise InputError(
        f"{path.name} is neither text nor a table of a known kind; save it as ECSV, CSV or FITS."
    )


def _npz(path: Path) -> Table:
    archive = load_npz(path)
    if "catalog" not in archive:
        raise InputError(f"{path.name} holds no array `catalog`; found {array_names(archive)}.")
    return plain_catalog(archive["catalog"])


def _npy(path: Path) -> Table | np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} is not a readable npy file: {reason(error)}.") from error
    return array if array.dtype.names is None else Table(array)


def _fits(content: bytes, path: Path) -> Table:
    tables = _fits_tables(content, path)
    if not tables:
        raise InputError(f"{path.name} holds no table; put the positions in a table extension.")
    named = sorted(tables, key=lambda one: _rank(one[0]))
    usable = [(name, table) for name, table in named if has_positions(table.colnames)]
    if not usable:
        return named[0][1]
    if len(usable) > 1 and usable[0][0] != _TABLE_NAMES[0]:
        names = ", ".join(name or "one without a name" for name, _ in usable)
        note(
            f"{path.name} holds {len(usable)} tables with positions ({names}); the first was taken: "
            "save the one you mean in a file of its own for another."
        )
    return usable[0][1]


def _fits_tables(content: bytes, path: Path) -> list[tuple[str, Table]]:
    """Return the tables of a FITS file with their names."""
    failure, tables = None, []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                for hdu in hdus:
                    if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
                        tables.append((hdu.name.upper(), Table.read(hdu)))
        except READ_ERRORS as error:
            failure = error
    if any("truncated" in str(one.message) for one in caught):
        raise InputError(f"{path.name} is truncated; copy or download it again.") from failure
    if failure is not None:
        raise InputError(
            f"{path.name} is not a readable FITS file: {reason(failure)}."
        ) from failure
    return tables


def _rank(name: str) -> int:
    return _TABLE_NAMES.index(name) if name in _TABLE_NAMES else len(_TABLE_NAMES)


def _votable(content: bytes, path: Path) -> Table:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Archives name columns as people know them; the ids of VOTables are often numbers.
            return Table.read(
                io.BytesIO(content), format="votable", table_id=0, use_names_over_ids=True
            )
    except Exception as error:  # astropy's readers raise whatever their parsers do
        raise InputError(f"{path.name} is not a readable VOTable: {reason(error)}.") from error


def _parquet(path: Path) -> Table:
    """Read the columns of a Parquet file that bear on positions: Rubin's have over a thousand."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(
            f"{path.name} is Parquet, for which the package pyarrow is needed: install it, or save "
            "the table as FITS or CSV."
        ) from error
    try:
        found = parquet.ParquetFile(path)
        flat = [
            field.name
            for field in found.schema_arrow
            if not str(field.type).startswith(("list", "struct", "map", "fixed_size_list"))
            or field.name.lower() in COORDINATE_COLUMNS
        ]
        columns = found.read(columns=flat, use_pandas_metadata=True)
        return Table({str(n): columns[n].to_numpy() for n in columns.column_names})
    except (OSError, ValueError, ArrowException) as error:
        raise InputError(f"{path.name} is not a readable Parquet file: {reason(error)}.") from error
