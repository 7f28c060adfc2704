"""Tables of the evaluation of a field on the terminal, within 80 columns."""

import sys
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from scorepriors.inference.evaluation._fields_run import OURS

_WIDTH = 80


def print_field(result: dict[str, Any]) -> None:
    """Print the tables of a result of `evaluate_directory`."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    codes = result["codes"]
    ours = next(iter(codes.values()))
    ignored = (
        f"; {ours['num_ignored_true']} saturated or masked do not count"
        if ours["num_ignored_true"]
        else ""
    )
    console.print(f"{ours['num_true']} true sources{ignored}", highlight=False, markup=False)
    console.print(_overview(codes))
    console.print(_binned("found / true", codes, lambda one: _ratio(one["found"], one["number"])))
    console.print(
        _binned(
            "median |flux error|, number",
            codes,
            lambda one: _with_number(one, "median_abs_flux_error", "num_measured"),
        )
    )
    console.print(
        _binned(
            "truth in the 68 % interval, number",
            codes,
            lambda one: _with_number(one, "coverage_68", "num_with_error"),
        )
    )
    if ours["detections_by_magnitude"]:
        console.print(_false(codes))
    if ours["stars"] is not None:
        console.print(_stars(ours["stars"]))
    if ours["seams"] is not None:
        console.print(_seams(ours["seams"]))
    for name, sentence in result["left_out"].items():
        console.print(f"{name} was left out: {sentence}", highlight=False, markup=False)


def _table(title: str, first: str, columns: list[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _overview(codes: dict[str, Any]) -> Table:
    table = _table("", "", list(codes))
    rows: tuple[tuple[str, Callable[[dict], str]], ...] = (
        ("detections", lambda m: str(m["num_detections"])),
        ("found", lambda m: _share(m["completeness"])),
        ("  S/N 8 to 12.5, blendedness < 0.5", lambda m: _share(_at_ten(m, "isolated"))),
        ("  S/N 8 to 12.5, blendedness >= 0.5", lambda m: _share(_at_ten(m, "blended"))),
        ("purity", lambda m: _share(m["purity"])),
        ("spurious", lambda m: str(m["num_spurious"])),
        ("shreds", lambda m: str(m["num_shreds"])),
        ("  per bright galaxy", lambda m: _share(m["shreds_per_bright"])),
        ("  per bright spiral", lambda m: _share(m["shreds_per_bright_structured"])),
        ("  per bright star", lambda m: _share(m["shreds_per_bright_stars"])),
        ("median |flux error|, blendedness < 0.5", lambda m: _flux(m, "isolated")),
        ("median |flux error|, blendedness >= 0.5", lambda m: _flux(m, "blended")),
        ("share |flux error| > 0.5", lambda m: _share(m["all"]["share_flux_error_above_half"])),
        ("truth in the 68 % interval", lambda m: _share(m["all"]["coverage_68"])),
    )
    for name, value in rows:
        cells = [value(measures) for measures in codes.values()]
        if any(cell != "-" for cell in cells):
            table.add_row(name, *cells)
    return table


def _binned(title: str, codes: dict[str, Any], value: Callable[[dict], str]) -> Table:
    table = _table(f"{title}, by blendedness", "S/N", [])
    for name in codes:
        for kind in ("< 0.5", ">= 0.5"):
            short = "ours" if name == OURS else name
            table.add_column(f"{short}\n{kind}", justify="right")
    for bins in zip(*(measures["by_snr"] for measures in codes.values()), strict=True):
        cells = [value(one[kind]) for one in bins for kind in ("isolated", "blended")]
        table.add_row(_range(bins[0]), *cells)
    return table


def _false(codes: dict[str, Any]) -> Table:
    """Return the table of detections that are no source, in bins of their measured magnitude."""
    table = _table("shreds + spurious / detections", "measured magnitude", [])
    for name in codes:
        table.add_column("ours" if name == OURS else name, justify="right")
    each = (measures["detections_by_magnitude"] for measures in codes.values())
    for bins in zip(*each, strict=True):
        cells = [
            f"{one['num_shreds']} + {one['num_spurious']} / {one['num_detections']}"
            if one["num_detections"]
            else "-"
            for one in bins
        ]
        if any(cell != "-" for cell in cells):
            table.add_row(_range(bins[0]), *cells)
    return table


def _stars(stars: dict[str, Any]) -> Table:
    table = _table(
        "stars and galaxies (p_star >= 0.5: star)",
        "S/N",
        ["stars", "as galaxies", "galaxies", "as stars"],
    )
    for one in (*stars["by_snr"], {"low": None, **stars}):
        table.add_row(
            "all" if one["low"] is None else _range(one),
            str(one["stars_as_stars"] + one["stars_as_galaxies"]),
            str(one["stars_as_galaxies"]),
            str(one["galaxies_as_stars"] + one["galaxies_as_galaxies"]),
            str(one["galaxies_as_stars"]),
        )
    return table


_SEAMS = {
    "other_scene": "neighbor of another scene",
    "same_scene": "neighbor of the same scene",
    "near_border": "near the border of its scene",
    "inside": "others",
}


def _seams(seams: dict[str, Any]) -> Table:
    table = _table(
        "seams (neighbors within 10 pixels, borders within 8)",
        "",
        ["number", "median |e|", "|e| > 0.5", "in 68 %"],
    )
    for key, name in _SEAMS.items():
        if key in seams:
            one = seams[key]
            table.add_row(
                name,
                str(one["num_measured"]),
                _share(one["median_abs_flux_error"]),
                _share(one["share_flux_error_above_half"]),
                _share(one["coverage_68"]),
            )
    return table


def _at_ten(measures: dict[str, Any], kind: str) -> float | None:
    return measures["by_snr"][1][kind]["completeness"]


def _flux(measures: dict[str, Any], kind: str) -> str:
    return _share(measures[kind]["median_abs_flux_error"])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _ratio(part: int, whole: int) -> str:
    return f"{part}/{whole}" if whole else "-"


def _with_number(one: dict[str, Any], key: str, number: str) -> str:
    return "-" if one[key] is None else f"{one[key]:.2f} {one[number]}"


def _range(one: dict[str, Any]) -> str:
    if one["low"] is None:
        return f"< {one['high']:g}"
    return f">= {one['low']:g}" if one["high"] is None else f"{one['low']:g} - {one['high']:g}"
