"""ArviZ' plots of a run as figures, for both lines of ArviZ.

ArviZ 1.x makes its figures itself and returns a collection of plots; 0.23 draws on axes.
Neither shows a window: figures of pyplot are closed there and returned.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scorepriors.inference.deblending._draws import seen_flux_draws
from scorepriors.inference.sampling._tree import DATATREE, az, make_tree

#: Name of the variable in the figures.
_NAME = "total flux"


def trace_figure(tree: Any) -> Figure:
    """Draw distribution and trace of every source's total flux, chain by chain."""
    totals, count = _totals(tree)
    size = (10.5, 1.5 * count + 0.6)
    if DATATREE:
        return _figure_of(lambda: az.plot_trace_dist(totals, compact=False, **_options(size)))
    return _drawn_on(size, (count, 2), lambda axes: az.plot_trace(totals, compact=False, axes=axes))


def rank_figure(tree: Any) -> Figure:
    """Draw ranks of the draws of every source's total flux, chain by chain."""
    totals, count = _totals(tree)
    columns = min(count, 3)
    rows = -(-count // columns)
    size = (10.5, 2.4 * rows + 0.4)
    if DATATREE:
        return _figure_of(lambda: az.plot_rank(totals, col_wrap=columns, **_options(size)))

    def drawn(axes):
        for axis in axes.ravel()[count:]:
            axis.axis("off")
        return az.plot_rank(totals, kind="vlines", ax=axes.ravel()[:count])

    return _drawn_on(size, (rows, columns), drawn)


def energy_figure(tree: Any) -> Figure:
    """Draw distributions of the energy and of its changes; empty if one is not finite."""
    size = (6.4, 3.4)
    if not np.isfinite(np.asarray(tree["sample_stats"]["energy"])).all():
        return _drawn_on(size, (1, 1), lambda axes: None)
    if DATATREE:
        return _figure_of(lambda: az.plot_energy(tree, **_options(size)))
    return _drawn_on(size, (1, 1), lambda axes: az.plot_energy(tree, ax=axes[0, 0]))


def _totals(tree: Any) -> tuple[Any, int]:
    """Return a tree of the total fluxes alone, and the number of sources."""
    total = seen_flux_draws(tree).sum("band")
    sources = [str(i) for i in total["source"].values]
    groups = {"posterior": {_NAME: np.asarray(total)}}
    found = make_tree(groups, dims={_NAME: ["source"]}, coords={"source": sources})
    return found, len(sources)


def _options(size) -> dict[str, Any]:
    return {"backend": "matplotlib", "figure_kwargs": {"figsize": size}}


def _figure_of(plot: Callable) -> Figure:
    """Return the figure that a function of ArviZ 1.x has drawn."""
    with plt.ioff(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws, which the page reports itself
        figure = plot().viz["figure"].item()
    plt.close(figure)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.06))  # else labels are cut
    return figure


def _drawn_on(size, shape, plot: Callable) -> Figure:
    """Return a figure with axes ``shape``, drawn by a function of ArviZ 0.23."""
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.06), facecolor="white")
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plot(figure.subplots(*shape, squeeze=False))
    return figure
