"""The figure of a field's evaluation: the sky with what was found, and how well."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from scorepriors.inference.reports._figure import COLORS, INK, SOFT, color_composer

from ._fields_run import OURS
from ._peers import FieldImages

#: Largest side of the picture, pixels.
_SIDE = 1000

#: Most marks of sources that were found: more hide the sky.
_MOST_MARKS = 1500

#: Least number of sources of which a median or a share is drawn.
_LEAST = 4

#: Kinds of marks: name, symbol, color.
_MARKS = (
    ("found", "o", "#7fd6ff"),
    ("missed", "o", "#ffb000"),
    ("shred", "x", "#ff5ad2"),
    ("spurious", "x", "#ff3b30"),
)


def field_figure(result: dict[str, Any], field: FieldImages) -> Figure:
    """Draw the evaluation of a field.

    Parameters
    ----------
    result
        Of `evaluate_directory`.
    field
        The images, open.

    Returns
    -------
    matplotlib.figure.Figure
        The field in color with marks at what was found and missed; completeness, flux errors and
        coverage by signal to noise of all programs; detections by what they are; and
        how stars are told from galaxies, where the catalog says so.
    """
    figure = Figure(
        figsize=(15.5, 8.6), layout=ConstrainedLayoutEngine(w_pad=0.06), facecolor="white"
    )
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.0, 0.86))
    left, right = halves
    _draw_sky(left.subplots(), result["codes"][OURS], field)
    grid: Any = right.subplots(3, 2)
    codes = result["codes"]
    _draw_completeness(grid[0, 0], codes)
    _draw_errors(grid[0, 1], codes)
    _draw_coverage(grid[1, 0], codes)
    _draw_blended_errors(grid[1, 1], codes)
    _draw_detections(grid[2, 0], codes)
    _draw_stars(grid[2, 1], codes[OURS]["stars"])
    for axis in grid.ravel():
        axis.tick_params(labelsize=8, color=SOFT, labelcolor=INK)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    handles, names = grid[0, 0].get_legend_handles_labels()
    right.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(_title(result), fontsize=11, color=INK)
    return figure


def _title(result: dict[str, Any]) -> str:
    ours, facts = result["codes"][OURS], result["field"]
    name = f"{facts['survey'].upper()} field, " if "survey" in facts else ""
    return (
        f"{name}{ours['num_true']} sources: {_percent(ours['completeness'])} found, "
        f"{_percent(ours['purity'])} of the detections are sources"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _draw_sky(axis, measures: dict[str, Any], field: FieldImages) -> None:
    step = max(1, -(-max(field.images.shape[1:]) // _SIDE))
    cube = np.stack([_averaged(image, step) for image in field.images])
    # Light that is missing is black.
    seen = np.isfinite(cube)
    noise = np.array([np.sqrt(np.nanmedian(v[::step, ::step])) for v in field.variance]) / step
    cube -= np.nanmedian(cube, axis=(1, 2), keepdims=True)
    axis.imshow(
        color_composer(np.nan_to_num(cube), noise)(np.where(seen, cube, 0)),
        origin="lower",
        interpolation="nearest",
        extent=_extent(cube.shape, step),
    )
    sources, detections = measures["sources"], measures["detections"]
    where = np.array([sources["x"], sources["y"]], float).reshape(2, -1)
    found = np.array(sources["detection"]) >= 0
    counts = ~np.array(sources["saturated"], bool)
    kind = np.array(detections["kind"], str)
    seen_at = np.array([detections["x"], detections["y"]], float).reshape(2, -1)
    places = (
        where[:, found & counts],
        where[:, ~found & counts],
        seen_at[:, kind == "shred"],
        seen_at[:, kind == "spurious"],
    )
    many = len(found) > _MOST_MARKS
    for (name, marker, color), (x, y) in zip(_MARKS, places, strict=True):
        if name == "found" and many:
            continue
        axis.plot(
            x,
            y,
            marker,
            markersize=(3 if many else 7) if marker == "o" else 6,
            fillstyle="none",
            markeredgewidth=0.7 if name == "found" else 1.3,
            color=color,
            alpha=0.6 if name == "found" else 1.0,
            label=f"{name}: {len(x)}",
        )
    axis.set_xlim(-0.5, field.images.shape[2] - 0.5)
    axis.set_ylim(-0.5, field.images.shape[1] - 0.5)
    axis.tick_params(labelsize=8, color=SOFT, labelcolor=INK)
    axis.set_xlabel("x [pixels]", fontsize=9, color=INK)
    axis.set_ylabel("y [pixels]", fontsize=9, color=INK)
    legend = axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, 1.06), ncols=4, frameon=False, fontsize=9
    )
    for handle in legend.legend_handles:
        handle.set_alpha(1)


def _averaged(image: np.ndarray, step: int) -> np.ndarray:
    """Return the means of squares of pixels; NaN where one has no data."""
    height, width = (size - size % step for size in image.shape)
    part = np.asarray(image[:height, :width], np.float32)
    return part.reshape(height // step, step, width // step, step).mean((1, 3))


def _extent(shape: tuple[int, ...], step: int) -> tuple[float, float, float, float]:
    return -0.5, shape[2] * step - 0.5, -0.5, shape[1] * step - 0.5


def _lines(axis, codes, kind: str, value: str, count: str, style: str, labels: bool) -> None:
    """Draw a measure in bins of signal to noise, for every program."""
    for order, (name, measures) in enumerate(codes.items()):
        bins = [b for b in measures["by_snr"] if b[kind][count] >= _LEAST]
        x = [np.sqrt(b["low"] * (b["high"] or 2.5 * b["low"])) for b in bins]
        axis.plot(
            x,
            [b[kind][value] for b in bins],
            style,
            color=COLORS[order],
            marker="osv"[order % 3],
            markersize=5,
            linewidth=2.0 if name == OURS else 1.3,
            markeredgecolor="white",
            zorder=5 if name == OURS else 3,
            label=name if labels else None,
        )


def _dress(axis, title: str, bottom: str = "signal to noise (truth)") -> None:
    axis.set_title(title, fontsize=9.5, color=INK, loc="left")
    axis.set_xlabel(bottom, fontsize=8.5, color=INK)
    axis.grid(color="#eeeeee")
    axis.set_axisbelow(True)


def _snr_axis(axis) -> None:
    axis.set_xscale("log")
    axis.set_xticks((5, 10, 30, 100, 300), ("5", "10", "30", "100", "300"))
    axis.set_xlim(4.5, 520)
    axis.minorticks_off()


def _draw_completeness(axis, codes) -> None:
    _lines(axis, codes, "isolated", "completeness", "number", "-", True)
    _lines(axis, codes, "blended", "completeness", "number", ":", False)
    axis.axhline(1, color=SOFT, linewidth=0.8)
    axis.set_ylim(-0.03, 1.05)
    _snr_axis(axis)
    _dress(axis, "share found (dotted: under others)")


def _draw_errors(axis, codes) -> None:
    sources = codes[OURS]["sources"]
    snr, error = (np.array(sources[name], float) for name in ("snr", "e_F"))
    # So faint that the lines are seen among ten thousands.
    alpha = float(np.clip(300 / max(len(snr), 1), 0.03, 0.3))
    axis.plot(snr, error, ".", color=COLORS[0], alpha=alpha, markersize=4, zorder=1)
    _lines(axis, codes, "all", "median_flux_error", "num_measured", "-", False)
    axis.axhline(0, color=SOFT, linewidth=0.8)
    axis.set_ylim(-0.65, 0.65)
    _snr_axis(axis)
    _dress(axis, "flux error (points: ours)")


def _draw_coverage(axis, codes) -> None:
    _lines(axis, codes, "all", "coverage_68", "num_with_error", "-", False)
    axis.axhline(0.68, color=INK, linewidth=0.8, linestyle="--")
    axis.set_ylim(0, 1)
    _snr_axis(axis)
    _dress(axis, "truth in the 68 % interval")


def _draw_blended_errors(axis, codes) -> None:
    edges = np.array((0.0, 0.003, 0.03, 0.1, 0.25, 0.5, 1.0001))
    for order, measures in enumerate(codes.values()):
        beta, error = (
            np.array(measures["sources"][name], float) for name in ("blendedness", "e_F")
        )
        which = np.digitize(beta, edges) - 1
        kept = [b for b in range(len(edges) - 1) if np.isfinite(error[which == b]).sum() >= _LEAST]
        axis.plot(
            kept,
            [np.nanmedian(np.abs(error[which == b])) for b in kept],
            color=COLORS[order],
            marker="osv"[order % 3],
            markersize=5,
            markeredgecolor="white",
            linewidth=2.0 if order == 0 else 1.3,
            zorder=5 - order,
        )
    names = [f"<{high:g}" for high in edges[1:-1]] + [f"$\\geq${edges[-2]:g}"]
    axis.set_xticks(range(len(names)), names)
    axis.set_ylim(0, None)
    _dress(axis, "median |flux error|", "blendedness")


def _draw_detections(axis, codes) -> None:
    kinds = (("num_shreds", "shreds", _MARKS[2][2]), ("num_spurious", "spurious", _MARKS[3][2]))
    names = list(codes)
    for height, name in enumerate(reversed(names)):
        start, total = 0.0, max(codes[name]["num_detections"], 1)
        for key, _, color in kinds:
            share = codes[name][key] / total
            axis.barh(height, share, left=start, color=color, height=0.55)
            start += share
        shreds = codes[name]["shreds_per_bright"]
        said = "" if shreds is None else f" ({shreds:.2f} a galaxy)"
        axis.text(
            start,
            height,
            f"  {codes[name]['num_shreds']} shreds{said}, {codes[name]['num_spurious']} spurious",
            va="center",
            fontsize=8,
            color=INK,
            in_layout=False,
        )
    axis.set_yticks(range(len(names)), list(reversed(names)))
    worst = max(
        (m["num_shreds"] + m["num_spurious"]) / max(m["num_detections"], 1) for m in codes.values()
    )
    axis.set_xlim(0, max(0.03, 3.2 * worst))
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    _dress(axis, "detections that are no source", "share of the detections")


def _draw_stars(axis, stars: dict[str, Any] | None) -> None:
    """Draw the numbers of stars and galaxies, each by what it was taken for."""
    if stars is None:
        axis.set_axis_off()
        axis.text(
            0.5, 0.5, "the catalog has no p_star", ha="center", color=SOFT, transform=axis.transAxes
        )
        return
    table = np.array(
        [
            [stars["stars_as_stars"], stars["stars_as_galaxies"]],
            [stars["galaxies_as_stars"], stars["galaxies_as_galaxies"]],
        ]
    )
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for (row, column), number in np.ndenumerate(table):
        axis.text(
            column,
            row,
            f"{number}\n{share[row, column]:.0%}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if share[row, column] > 0.6 else INK,
        )
    axis.set_xticks((0, 1), ("star", "galaxy"))
    axis.set_yticks((0, 1), ("stars", "galaxies"))
    axis.set_title("what stars and galaxies are taken for", fontsize=9.5, color=INK, loc="left")
