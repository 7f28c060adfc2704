"""The picture of one source of a field: colors, its spectrum, and a row of panels for each band."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scorepriors.inference.deblending._flags import is_serious, worst_first
from scorepriors.inference.reports._figure import BAD, COLORS, INK, SOFT, scaled_composer

from ._stamps import SourceStamp

#: Residuals are shown between these, in units of the noise.
_RANGE = 4.0


def source_figure(stamp: SourceStamp) -> Figure:
    """Draw a source of a field.

    Parameters
    ----------
    stamp
        The source, from `source`.

    Returns
    -------
    matplotlib.figure.Figure
        Figure without a window; ``figure.savefig(path)`` writes it.
    """
    count = len(stamp.bands)
    figure = Figure(
        figsize=(11.5, 3.2 + 1.75 * count),
        layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.03),
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[3.2, 1.75 * count])
    noise = _noise(stamp)
    _colors(parts[0].subplots(1, 5, gridspec_kw={"width_ratios": [1, 1, 1, 1, 1.7]}), stamp, noise)
    panels = parts[1].subplots(count, 5, squeeze=False)
    for band, row in enumerate(panels):
        _band(row, stamp, band, noise[band], first=band == 0)
    words = worst_first(str(stamp.row["flags"][0]))
    figure.suptitle(
        f"source {stamp.id}{': ' if words else ''}{', '.join(words)}",
        color=BAD if is_serious(words) else INK,
    )
    return figure


def _noise(stamp: SourceStamp) -> np.ndarray:
    """Return the median noise of the pixels of each band, one where there are none."""
    seen = [w[w > 0] for w in stamp.weights]
    return np.array([np.median(w) ** -0.5 if w.size else 1.0 for w in seen])


def _colors(axes, stamp: SourceStamp, noise: np.ndarray) -> None:
    light = np.clip(stamp.observed.sum((1, 2)), 0, None)
    level = light / light.mean() if (light > 0).all() else noise / noise.mean()
    compose = scaled_composer(level, stretch=12 * float(np.median(noise / level)), softening=8)
    bright = max(float((stamp.model.max((1, 2)) / level).max()), 1e-30)
    sharp = scaled_composer(level, stretch=0.02 * bright, softening=8)
    cubes = (
        (compose(stamp.data), "data"),
        (compose(np.nan_to_num(stamp.alone)), "data minus all others"),
        (compose(stamp.observed), "source as observed"),
        (sharp(stamp.model), "at the model's resolution"),
    )
    for axis, (image, title) in zip(axes, cubes):
        axis.imshow(image, origin="lower", interpolation="nearest")
        _bare(axis, title)
    _mark(axes[0], stamp)
    _spectrum(axes[4], stamp)


def _band(axes, stamp: SourceStamp, band: int, noise: float, *, first: bool) -> None:
    top = max(float(stamp.observed[band].max()), 5 * noise)

    def stretched(image):
        # The same in all panels of a band: linear in the noise, logarithmic above.
        return np.arcsinh(image / (3 * noise))

    seen = stamp.weights[band] > 0
    images = (
        (np.where(seen, stamp.data[band], np.nan), "data"),
        (stamp.others[band], "all others"),
        (stamp.alone[band], "data minus all others"),
        (stamp.observed[band], "source"),
    )
    for axis, (image, title) in zip(axes, images):
        axis.set_facecolor("0.4")  # under masked pixels
        axis.imshow(
            stretched(image),
            origin="lower",
            cmap="gray",
            interpolation="nearest",
            vmin=stretched(-2 * noise),
            vmax=stretched(top),
        )
        _bare(axis, title if first else "")
    axes[4].set_facecolor("0.4")
    pull = stamp.residual[band] * np.sqrt(stamp.weights[band])
    shown = axes[4].imshow(
        pull, origin="lower", cmap="RdBu_r", vmin=-_RANGE, vmax=_RANGE, interpolation="nearest"
    )
    _bare(axes[4], "residual / noise" if first else "")
    bar = axes[4].figure.colorbar(shown, ax=axes[4], shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, color=SOFT, labelcolor=INK)
    axes[0].set_ylabel(stamp.bands[band], rotation=0, labelpad=14, va="center", color=INK)


def _mark(axis, stamp: SourceStamp) -> None:
    row, column = stamp.observed_corner
    place = float(stamp.row["x"][0]) - column, float(stamp.row["y"][0]) - row
    axis.plot(*place, "+", color="white", markersize=9, markeredgewidth=0.8)


def _spectrum(axis, stamp: SourceStamp) -> None:
    names = [f"flux_{band}" for band in stamp.bands]
    unit = getattr(stamp.row[names[0]], "unit", None)
    flux = np.array([float(getattr(stamp.row[n][0], "value", stamp.row[n][0])) for n in names])
    errors = [stamp.row[n.replace("flux_", "flux_err_", 1)][0] for n in names]
    error = np.array([float(getattr(e, "value", e)) for e in errors])
    bands = np.arange(len(flux))
    axis.errorbar(bands, flux, error, fmt="o-", color=COLORS[0], markersize=4, capsize=2)
    axis.axhline(0, color=SOFT, linewidth=0.5)
    axis.set_xticks(bands, stamp.bands)
    axis.set_xlim(-0.4, len(bands) - 0.6)
    axis.tick_params(labelsize=8, color=SOFT, labelcolor=INK)
    axis.set_title(f"flux [{unit}]" if unit else "flux", fontsize=9, color=INK)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _bare(axis, title: str) -> None:
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title:
        axis.set_title(title, fontsize=9, color=INK)
