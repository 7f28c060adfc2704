"""Tables from text, however it is delimited and wherever its column names stand."""

import re
import warnings
from collections.abc import Sequence

import numpy as np
from astropy import units
from astropy.io import ascii as text_tables
from astropy.table import Table

from scorepriors._errors import InputError
from scorepriors.models.data.readers._files import reason

#: Signs of formats that describe themselves, and astropy's names of them.
_KINDS = (
    (re.compile(r"\A# %ECSV"), "ascii.ecsv"),
    (re.compile(r"^#\s*1\s+[A-Za-z]\w*\b.*\n#\s*\d+\s+[A-Za-z]\w*", re.M), "ascii.sextractor"),
    (re.compile(r"^#K IRAF", re.M), "ascii.daophot"),
    (re.compile(r"^Byte-by-byte Description", re.M), "ascii.mrt"),
    (re.compile(r"\A(?:\\.*\n)*\|[^\n]*\|\s*\n\|"), "ascii.ipac"),
)

#: Delimiters, before blanks.  A semicolon comes before the comma, which is then a decimal one.
_DELIMITERS = ("\t", ";", ",", "|")

#: Words for a missing value.
_MISSING = ("", "--", "NA", "N/A", "null", "NULL", "None", "NaN")

#: Most lines that are looked at to find the delimiter.
_LINES = 50


def read_text(written: str, name: str) -> Table:
    """Read a table from text.

    ECSV, SExtractor, IRAF, CDS/MRT and IPAC tables describe themselves.  Other text has columns
    between tabs, semicolons, commas, bars or blanks; their names are in the first line or in a
    comment before it (``# x y``, or ``# Column: x`` for each, as SourceXtractor++ writes).

    Parameters
    ----------
    written
        The content of the file.
    name
        Name of the file, for messages.

    Raises
    ------
    InputError
        If there are no rows or no names, or rows of different lengths.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for sign, kind in _KINDS:
                if sign.search(written):
                    return Table.read(written.splitlines(), format=kind)
            return _delimited(written)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except Exception as error:  # astropy's readers raise whatever their parsers do
        why = " ".join(reason(error).split()).rstrip(":")
        raise InputError(
            f"{name} is not a readable table: {why}; give columns under one line of names."
        ) from error


def _delimited(written: str) -> Table:
    lines = [line for line in written.splitlines() if line.strip()]
    comments = [line.lstrip().lstrip("#").strip() for line in lines if _is_comment(line)]
    body = [line for line in lines if not _is_comment(line)]
    if not body:
        raise InputError("there are no rows; give the position of at least one source.")
    delimiter = _delimiter(body)
    names = _split(body[0], delimiter)
    described: list[str] = []
    if any(_is_number(one) for one in names):
        told = _names_in_comments(comments, len(names), delimiter)
        if told is None:
            found = body[0].strip()[:60]
            raise InputError(
                f"the columns have no names (the first line is {found!r}); put names above them, "
                "such as x and y (0-based pixels) or ra and dec (degrees)."
            )
        names = told
    else:
        body = body[1:]
        if len(body) > 1 and _is_rule(body[1]):  # VizieR: units, and a rule below them
            described, body = _split(body[0], delimiter), body[2:]
        elif body and _is_rule(body[0]):
            body = body[1:]
    if not body:
        return Table(names=names)
    table = text_tables.read(
        body,
        format="no_header",
        delimiter=delimiter or r"\s",
        names=names,
        guess=False,
        comment=r"\s*#",
        fill_values=[(word, "0") for word in _MISSING],
    )
    for column in table.colnames:
        _take_decimal_commas(table, column)
    for column, unit in zip(table.colnames, described):
        if unit and not _is_sexagesimal(unit):
            table[column].unit = units.Unit(unit, parse_strict="silent")
    return table


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _is_rule(line: str) -> bool:
    return set(line) <= set("-=+|\t ;,") and "-" in line


def _is_sexagesimal(unit: str) -> bool:
    return unit.strip('"').startswith(("h:m", "d:m"))


def _delimiter(body: Sequence[str]) -> str | None:
    """Return the delimiter that all lines have equally often; None for blanks."""
    for delimiter in _DELIMITERS:
        counts = {len(_split(line, delimiter)) for line in body[:_LINES]}
        if min(counts) > 1 and (len(counts) == 1 or delimiter != "|"):
            return delimiter
    return None


def _split(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return [one.strip("\"'") for one in re.findall(r'"[^"]*"|\S+', line)]
    pattern = re.escape(delimiter) + r'(?=(?:[^"]*"[^"]*")*[^"]*$)'
    return [one.strip().strip('"').strip() for one in re.split(pattern, line)]


def _is_number(word: str) -> bool:
    """Return whether a word starts a value: a number, also with a decimal comma or sexagesimal."""
    return re.fullmatch(r"[+-]?(\d[\d.,:eE+hmsd°'\" -]*|\.\d+.*|nan|inf)", word, re.I) is not None


def _names_in_comments(comments: Sequence[str], count: int, delimiter) -> list[str] | None:
    listed = [
        found.group(1) for line in comments if (found := re.match(r"Column:\s*(\S+)", line, re.I))
    ]
    if len(listed) == count:
        return listed
    for line in reversed(comments):
        for one in (delimiter, None):
            names = _split(line, one)
            if len(names) == count and not any(_is_number(word) for word in names):
                return names
    return None


def _take_decimal_commas(table: Table, name: str) -> None:
    """Replace text such as ``1,5`` by numbers."""
    column = table[name]
    if column.dtype.kind != "U":
        return
    values = np.ma.filled(np.ma.asarray(column), "nan")
    if all(re.fullmatch(r"[+-]?\d*(,\d+)?([eE][+-]?\d+)?|nan", value) for value in values):
        table[name] = [float(value.replace(",", ".") or "nan") for value in values]
