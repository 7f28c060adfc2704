"""Accuracy against flux and blendedness: figures 6, 8 and 9 of Sampson et al. (2024)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scorepriors.inference.reports._figure import COLORS, INK, SOFT

#: Edges of the bins of blendedness.
BLENDEDNESS_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0001)

#: Smallest number of sources from which a bin's spread is estimated.
MIN_IN_BIN = 4

#: Tick labels of correlations, which are drawn as the logarithm of one minus their value.
_CORRELATIONS = (0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999)

# Where relative flux errors change from a linear to a logarithmic axis.
_LINEAR = 0.1


class Binned(NamedTuple):
    """Medians and central 68 % of values in bins, ``[bins]`` each."""

    middle: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def binned(x: np.ndarray, y: np.ndarray, edges: np.ndarray) -> Binned:
    """Return median and 16th to 84th percentile of y in bins of x.

    Parameters
    ----------
    x, y
        Values ``[N]``.
    edges
        Ascending edges; a bin includes its lower edge.  Bins of fewer than four are left out.

    Returns
    -------
    Binned
        Statistics of the bins; `middle` is the median of x in the bin.
    """
    which = np.digitize(x, edges) - 1
    bins = [which == b for b in range(len(edges) - 1) if np.count_nonzero(which == b) >= MIN_IN_BIN]
    rows = [(np.median(x[b]), *np.percentile(y[b], (50, 16, 84))) for b in bins]
    return Binned(*np.array(rows, float).reshape(-1, 4).T)


def flux_edges(flux: np.ndarray) -> np.ndarray:
    """Return edges of flux bins with about 20 sources each, three to eight of them."""
    count = int(np.clip(len(flux) // 20, 3, 8))
    edges = np.quantile(flux, np.linspace(0, 1, count + 1))
    edges[-1] *= 1 + 1e-9
    return edges


def evaluation_figure(results: Sequence[dict], labels: Sequence[str] | None = None) -> Figure:
    """Draw errors of flux, morphology and spectrum against true flux and blendedness.

    Parameters
    ----------
    results
        Results of `evaluate`, one or several of one set; two starts together make figures 8
        and 9 of the paper, one alone its figure 6.
    labels
        Names of the results; their method and start if not given.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with points for sources, lines for medians in bins, bars for the central 68 %.
    """
    names = [_label(r) for r in results] if labels is None else list(labels)
    figure = Figure(
        figsize=(9.0, 8.2), layout=ConstrainedLayoutEngine(w_pad=0.06), facecolor="white"
    )
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(3, 2, sharex="col", sharey="row")
    tables = [_columns(r["sources"]) for r in results]
    edges = flux_edges(np.concatenate([t["flux_true"] for t in tables]))
    # Results are shifted within their bins, so that bars don't hide each other.
    shifts = (np.arange(len(results)) - (len(results) - 1) / 2) * 0.02
    for number, (table, name) in enumerate(zip(tables, names, strict=True)):
        color = COLORS[number % len(COLORS)]
        marker = "os^Dvp"[number % 6]
        for column, (x, bins) in enumerate(
            ((table["flux_true"], edges), (table["beta"], np.array(BLENDEDNESS_EDGES)))
        ):
            shift = shifts[number]
            place = (lambda v, s=shift: v * 10**s) if column == 0 else (lambda v, s=shift: v + s)
            for row, values in enumerate(_drawn(table)):
                axis = grid[row, column]
                axis.plot(x, values, ".", color=color, alpha=0.25, markersize=4, zorder=1)
                stats = binned(x, values, bins)
                bars = [stats.median - stats.low, stats.high - stats.median]
                axis.errorbar(
                    place(stats.middle),
                    stats.median,
                    bars,
                    color=color,
                    marker=marker,
                    markersize=5.5,
                    markeredgecolor="white",
                    linewidth=1.4,
                    capsize=2.5,
                    label=name,
                    zorder=3 + number,
                )
    unit = results[0].get("flux_unit", "")
    _dress(grid, unit)
    if len(results) > 1:
        grid[0, 0].legend(frameon=False, fontsize=9, labelcolor=INK)
    figure.suptitle(_title(results, names), fontsize=10, color=INK)
    return figure


def _columns(sources: Sequence[dict]) -> dict[str, np.ndarray]:
    names = ("flux_true", "beta", "e_F", "xi_morphology", "xi_sed")
    return {name: np.array([row[name] for row in sources], float) for name in names}


def _drawn(table: dict[str, np.ndarray]):
    """Return the values of the three rows as they are drawn."""
    yield table["e_F"]
    for name in ("xi_morphology", "xi_sed"):
        yield np.clip(1 - table[name], 1 - _CORRELATIONS[-1], 1.0)


def _dress(grid, unit: str) -> None:
    labels = (
        "flux error  $e_F = (f - f_{true})/f_{true}$",
        "morphology correlation  $\\xi_{morph}$",
        "SED correlation  $\\xi_{SED}$",
    )
    for row, label in enumerate(labels):
        axis = grid[row, 0]
        axis.set_ylabel(label, fontsize=9, color=INK)
        if row == 0:
            axis.set_yscale("symlog", linthresh=_LINEAR, linscale=1.0)
            ticks: tuple[float, ...] = (-1.0, -0.1, -0.05, 0.0, 0.05, 0.1, 1.0)
            low, high = axis.get_ylim()
            axis.set_ylim(max(low, -1.3), max(high, 0.2))
        else:
            axis.set_yscale("log")
            axis.set_ylim(1.6, 0.7 * (1 - _CORRELATIONS[-1]))
            ticks = tuple(1 - value for value in _CORRELATIONS)
        names = [f"{t:g}" for t in (ticks if row == 0 else _CORRELATIONS)]
        axis.set_yticks(ticks, names)
        axis.minorticks_off()
    for axis in grid.ravel():
        axis.tick_params(labelsize=8, color=SOFT, labelcolor=INK)
        axis.grid(color="#eeeeee")
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    for axis in grid[0]:
        axis.axhline(0, color=SOFT, linewidth=0.8, zorder=2)
    grid[0, 0].set_xscale("log")
    of_flux = "true flux, all bands" + (f" [{unit}]" if unit else "")
    grid[2, 0].set_xlabel(of_flux, fontsize=9, color=INK)
    grid[2, 1].set_xlabel("blendedness  $\\beta$", fontsize=9, color=INK)
    grid[2, 1].set_xlim(-0.03, 1.03)


def _label(result: dict) -> str:
    return f"{result['method']}, start {result['start']}"


def _title(results: Sequence[dict], names: Sequence[str]) -> str:
    first = results[0]
    return (
        f"{first['set']}: {first['number']} blends, {first['num_sources']} sources"
        + (f"; {names[0]}" if len(results) == 1 else "")
        + f"; prior {first['prior']}, $\\sigma_0$ = {first['sigma0']:.3g}\n"
        "points: sources; medians and 16th to 84th percentiles in bins"
    )
