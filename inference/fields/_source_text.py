"""The row of one source of a field as text of 80 columns, or for JSON."""

import textwrap
from typing import Any

import numpy as np

from scorepriors.inference.deblending._flags import FLAGS, SEVERITY, bands_of, worst_first
from scorepriors.inference.deblending._hdus import finite
from scorepriors.inference.reports._numbers import in_digits, value_and_error

from ._stamps import SourceStamp
from ._tables import kinds_of

#: Widest line.
WIDTH = 80

#: Columns that have a line of their own, by label.
_SINGLE = (
    ("size", "size"), ("size_arcsec", "size"), ("e1", "e1"), ("e2", "e2"), ("p_star", "P(star)"),
    ("snr", "signal to noise"), ("chi2", "chi²"), ("group", "group"), ("scene", "scene"),
)  # fmt: skip


def source_text(stamp: SourceStamp) -> str:
    """Return what the catalog says of a source, with errors, and flags in sentences.

    Columns without a place of their own come last, by name.
    """
    row = stamp.row
    parts = [f"{stamp.id}: {kinds_of(row)[0]}", *_flags(row), "", *_position(row), ""]
    parts += _bands(row, stamp.bands)
    parts += ["", *_single(row), *_others(row, stamp.bands)]
    return "\n".join(parts)


def source_facts(stamp: SourceStamp) -> dict[str, Any]:
    """Return the row of a source for JSON: plain numbers, None for NaN, flags as words, and units."""
    row = stamp.row
    columns = {name: _plain(row[name][0]) for name in row.colnames}
    return {
        **columns,
        "flags": list(worst_first(str(row["flags"][0]))),
        "units": {name: unit for name in row.colnames if (unit := _unit(row, name))},
    }


def _plain(value: Any) -> Any:
    plain = np.asarray(getattr(value, "value", value))
    if plain.dtype.kind == "f":
        return finite(plain) if plain.ndim == 0 else [finite(one) for one in plain.ravel()]
    return plain.tolist() if plain.dtype.kind in "iub" else str(plain)


def _number(row: Any, name: str) -> float:
    value = row[name][0]
    return float(getattr(value, "value", value))


def _unit(row: Any, name: str) -> str:
    unit = getattr(row[name], "unit", None)
    return "" if unit is None or not str(unit) else str(unit)


def _flags(row: Any) -> list[str]:
    words, bits = str(row["flags"][0]), int(row["flag_bits"][0])
    if not bits:
        return ["no flags"]
    lines = []
    for flag in (FLAGS[word] for word in SEVERITY):
        if bits & flag.value:
            named = ", ".join(bands_of(words)) if flag.word == "no_data" else ""
            text = f"{flag.word}{f' ({named})' if named else ''}: {flag.sentence}"
            lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return ["flags", *lines]


def _position(row: Any) -> list[str]:
    places = []
    for name in ("x", "y"):
        error = _number(row, f"{name}_err") if f"{name}_err" in row.colnames else np.nan
        known = value_and_error if np.isfinite(error) else in_digits
        places.append(f"{name} {known(_number(row, name), error)}")
    lines = [f"pixel     {', '.join(places)}"]
    if "ra" in row.colnames:
        text = f"sky       RA {_number(row, 'ra'):.7f}, Dec {_number(row, 'dec'):.7f} deg"
        if "ra_err" in row.colnames:  # in arcseconds, the position in degrees
            text += f" (± {_number(row, 'ra_err'):.2g}, {_number(row, 'dec_err'):.2g} arcsec)"
        lines.append(text)
    return lines


def _bands(row: Any, bands: tuple[str, ...]) -> list[str]:
    """Return a table of fluxes and magnitudes by band."""
    unit = _unit(row, f"flux_{bands[0]}")
    head = ["band", f"flux [{unit}]" if unit else "flux"]
    kinds = ["flux"]
    for kind, title in (("measured_flux", "likelihood alone"), ("mag", "AB magnitude")):
        if f"{kind}_{bands[0]}" in row.colnames:
            kinds.append(kind)
            head.append(title)
    table = [head]
    for band in (*bands, "total"):
        cells = [band]
        for kind in kinds:
            name, error = f"{kind}_{band}", f"{kind}_err_{band}"
            known = name in row.colnames and error in row.colnames
            cells.append(value_and_error(_number(row, name), _number(row, error)) if known else "")
        if any(cells[1:]):
            table.append(cells)
    widths = [max(len(cells[i]) for cells in table) for i in range(len(head))]
    return [
        "  ".join(
            [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:]))]
        ).rstrip()
        for cells in table
    ]


def _single(row: Any) -> list[str]:
    lines = []
    for name, label in _SINGLE:
        if name in row.colnames:
            error = f"{name}_err"
            if error in row.colnames:
                text = value_and_error(_number(row, name), _number(row, error))
            else:
                text = f"{_number(row, name):.5g}"
            lines.append(f"{label:<17} {text} {_unit(row, name)}".rstrip())
    return lines


def _others(row: Any, bands: tuple[str, ...]) -> list[str]:
    """Return the columns that were not said yet."""
    said = {"id", "x", "y", "ra", "dec", "flags", "flag_bits", "model"}
    said |= {name for name, _ in _SINGLE}
    said |= {f"{kind}_{band}" for kind in _SAID for band in (*bands, "total")}
    said |= {f"{name}_err" for name in said}
    lines = []
    for name in row.colnames:
        if name in said or name.removesuffix("_err") in row.colnames[: row.colnames.index(name)]:
            continue
        value = row[name][0]
        plain = getattr(value, "value", value)
        if not np.issubdtype(np.asarray(plain).dtype, np.floating):
            text = str(plain)
        elif f"{name}_err" in row.colnames:
            text = value_and_error(_number(row, name), _number(row, f"{name}_err"))
        else:
            text = f"{float(plain):.5g}"
        lines.append(f"{name:<27} {text} {_unit(row, name)}".rstrip())
    return ["", *lines] if lines else []


#: Columns by band that are in the table.
_SAID = ("flux", "flux_err", "measured_flux", "measured_flux_err", "mag", "mag_err")
