"""Figures of the prior's influence; each function draws on given axes."""

import textwrap
from typing import Any

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scorepriors.inference.reports._figure import COLORS, INK, SOFT
from scorepriors.inference.reports._page import picture

from ._diagnose import SceneDiagnosis, in_words, source_flags
from ._hallucination import pixels

#: Number of standard errors at which a difference of curvatures is significant.
SIGNIFICANT = 3


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    figure = Figure(figsize=(3.4, 3.0), layout=ConstrainedLayoutEngine(), facecolor="white")
    FigureCanvasAgg(figure)
    return figure.subplots()


def plot_delta_f(maps: xarray.Dataset, source: int = 0, *, ax: Axes | None = None) -> Axes:
    r"""Draw the excess of the prior's curvature per pixel, in units of :math:`1/\sigma_0^2`.

    Orange where the prior dominates, purple where the data do.  Lines mark three standard
    errors, where `maps` contains averages over draws.

    Parameters
    ----------
    maps
        Result of `hallucination_map`.
    source
        Index of the source.
    ax
        Axes to draw on; new ones if not given.
    """
    ax = _axes(ax)
    unit = maps.attrs["sigma0"] ** 2
    mean = "mean_delta_f" if "mean_delta_f" in maps else "delta_f"
    values = pixels(maps, mean, source)
    shown = ax.imshow(
        values * unit, origin="lower", cmap="PuOr_r", vmin=-1.2, vmax=1.2, interpolation="nearest"
    )
    if "mean_delta_f_error" in maps:
        error = np.maximum(pixels(maps, "mean_delta_f_error", source), 1e-12)
        # Close levels merge to one line where the change is steep.
        ax.contour(
            values / error,
            [-SIGNIFICANT, SIGNIFICANT],
            colors=INK,
            linewidths=0.7,
            linestyles=["dashed", "solid"],
        )
    return _finish(ax, shown, r"$\Delta F\,\sigma_0^2$")


def plot_data_share(maps: xarray.Dataset, source: int = 0, *, ax: Axes | None = None) -> Axes:
    """Draw the share of the data in each pixel's precision, 0 to 1, neighbors integrated out.

    Parameters
    ----------
    maps, source, ax
        Arguments of `plot_delta_f`.
    """
    ax = _axes(ax)
    shown = ax.imshow(
        pixels(maps, "data_share", source),
        origin="lower",
        cmap="cividis",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    return _finish(ax, shown, "data share")


def plot_pixel_sd(
    maps: xarray.Dataset,
    source: int = 0,
    *,
    ax: Axes | None = None,
    flux: float = 1.0,
    unit: str = "",
) -> Axes:
    """Draw the posterior standard deviation per pixel.

    Parameters
    ----------
    maps, source, ax
        Arguments of `plot_delta_f`.
    flux
        Total flux of the source, in `unit`; for shares of the flux leave both out.
    unit
        Unit after the numbers.
    """
    ax = _axes(ax)
    image = pixels(maps, "morphology", source)
    values = pixels(maps, "sd", source) * pixels(maps, "slope", source) / image.sum() * flux
    shown = ax.imshow(values, origin="lower", cmap="viridis", vmin=0, interpolation="nearest")
    return _finish(ax, shown, f"sd [{unit} / pixel]" if unit else "sd [share of the flux / pixel]")


def plot_model(maps: xarray.Dataset, source: int = 0, *, ax: Axes | None = None) -> Axes:
    """Draw the source's image at the model's resolution, peak one, on an asinh scale.

    Parameters
    ----------
    maps, source, ax
        Arguments of `plot_delta_f`.
    """
    ax = _axes(ax)
    image = pixels(maps, "morphology", source)
    shown = ax.imshow(
        np.arcsinh(image / 0.02) / np.arcsinh(50),
        origin="lower",
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    return _finish(ax, shown, "model, asinh")


def _finish(ax: Axes, shown, label: str) -> Axes:
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.85, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, color=SOFT, labelcolor=INK)
    bar.set_label(label, fontsize=8, color=INK)
    return ax


def diagnosis_figure(diagnosis: SceneDiagnosis) -> Figure:
    """Draw one row for each free-form source, with its diagnosis in words.

    Parameters
    ----------
    diagnosis
        Result of `diagnose`.
    """
    maps, result = diagnosis.maps, diagnosis.result
    ids = [str(i) for i in maps["source"].values]
    figure = Figure(
        figsize=(13.5, 2.1 * len(ids) + 0.8),
        facecolor="white",
        layout=ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.03),
    )
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(
        len(ids), 5, squeeze=False, gridspec_kw={"width_ratios": [1, 1, 1, 1, 1.15]}
    )
    unit, factor = result.observation.flux_unit
    words, flags = in_words(diagnosis), source_flags(diagnosis)
    for k, identity in enumerate(ids):
        row = result.positions.ids.index(identity)
        total = float((result.free_form.flux[row] * factor).sum())
        plot_model(maps, k, ax=axes[k, 0])
        plot_pixel_sd(maps, k, ax=axes[k, 1], flux=total, unit=unit.to_string() or "flux")
        plot_delta_f(maps, k, ax=axes[k, 2])
        plot_data_share(maps, k, ax=axes[k, 3])
        axes[k, 0].set_ylabel(
            identity,
            color="white",
            fontsize=9,
            rotation=0,
            labelpad=14,
            va="center",
            bbox={"boxstyle": "round,pad=0.2", "fc": COLORS[row % len(COLORS)], "ec": "none"},
        )
        text = words[identity] + (f"\n\n{', '.join(flags[identity])}" if flags[identity] else "")
        lines = [textwrap.fill(part, 38) for part in text.split("\n")]
        axes[k, 4].axis("off")
        axes[k, 4].text(
            0,
            0.5,
            "\n".join(lines),
            fontsize=9,
            color=INK,
            va="center",
            transform=axes[k, 4].transAxes,
        )
    titles = "model", "posterior sd", "prior decides (orange) or data", "share of the data"
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=9.5, color=INK)
    draws = "chains" if diagnosis.laplace_ratio is not None else "Laplace approximation"
    figure.suptitle(
        f"What the prior made up: {result.prior_name}, $\\sigma_0$ = {maps.attrs['sigma0']:.3g}; "
        f"averages over draws of the {draws}; lines: three standard errors",
        fontsize=10,
        color=INK,
    )
    return figure


def report_section(diagnosis: SceneDiagnosis) -> str:
    """Return the figure and its description, as a section of `report_page`."""
    words = [f"{identity}: {text}" for identity, text in in_words(diagnosis).items()]
    return "<h2>What the prior made up</h2>\n" + picture(
        diagnosis_figure(diagnosis),
        "One row for each source: model, posterior standard deviation, excess of the prior's "
        "curvature and share of the data. " + " ".join(words),
        "Orange: the prior decides; purple: the data do; lines at three standard errors.",
    )
