"""The report: observed, model, residual, and each source with its spectrum."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.visualization import make_lupton_rgb
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scorepriors.inference.deblending._catalog import flag_words
from scorepriors.inference.deblending._flags import is_serious, worst_first
from scorepriors.inference.deblending._result import Deblended
from scorepriors.inference.deblending._seen import only_seen
from scorepriors.models.data._views import View

INK, SOFT, BAD = "#222222", "#8a8a8a", "#d5281b"
#: Flags that are written beside a spectrum, the worst ones.
_WORDS = 4
#: Okabe and Ito's colors, which color-blind readers can distinguish.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7a5195", "#666666")


def color_composer(images: np.ndarray, noise: np.ndarray):
    """Return a function from cubes ``[B, H, W]`` to colors ``[H, W, 3]``, scaled by one image.

    Three bands spread over those available (reddest in red); fewer than three give gray.
    The scaling is the same in every panel, so that they can be compared.

    Parameters
    ----------
    images
        The observed cube, which sets the stretch.
    noise
        Standard deviation of the sky, ``[B]``.
    """
    level, floor = band_levels(images, noise)
    return scaled_composer(level, stretch=max(6 * floor, 0.12), softening=5)


def band_levels(images: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the brightness ``[B]`` by which bands are divided, and the median noise after that.

    Bands are scaled to a common brightness: a galaxy of mean color is white.
    """
    level = np.array([np.percentile(image, 99.5) for image in images])
    level = np.where(level > 0, level, 1.0)
    return level, float(np.median(noise / level))


def scaled_composer(level: np.ndarray, *, stretch: float, softening: float):
    """Return a function from cubes ``[B, H, W]`` to colors ``[H, W, 3]`` (Lupton et al. 2004).

    Parameters
    ----------
    level
        Brightness by which each band is divided, ``[B]``.
    stretch, softening
        Linear range of the divided brightness, and how far beyond it colors go (Q).
    """
    num = len(level)
    picks = [num - 1, num // 2, 0] if num < 5 else [num - 2, num // 2, 1]

    def compose(cube):
        scaled = cube / level[:, None, None]
        if num < 3:
            channels = [scaled.mean(0)] * 3
        else:
            channels = [scaled[p] for p in picks]
        with np.errstate(invalid="ignore"):  # astropy divides 0 by 0 in empty pixels
            return make_lupton_rgb(*channels, stretch=stretch, Q=softening)

    return compose


def view_composer(view: View):
    """Return `color_composer` for cubes of one observation."""
    return color_composer(view.observation.images, sky_noise(view))


def sky_noise(view: View) -> np.ndarray:
    """Return the median noise of the pixels of each band, ``[B]``; one where there are none."""
    seen = (w[w > 0] for w in view.observation.weights)
    return np.array([1 / np.sqrt(np.median(w)) if w.size else 1.0 for w in seen])


def significance(view: View, total: np.ndarray) -> np.ndarray:
    """Return the sum of the residuals of all bands in units of its noise.

    Parameters
    ----------
    view
        The observation.
    total
        Model of its bands, ``[B, H, W]``.
    """
    obs = view.observation
    pulls = (obs.images - total) * np.sqrt(obs.weights)
    return pulls.sum(0) / np.sqrt(np.maximum((obs.weights > 0).sum(0), 1))


def report_figure(result: Deblended, *, flags: Sequence[str] | None = None) -> Figure:
    """Draw the report of a deblended scene.

    Parameters
    ----------
    result
        Result of `deblend`.
    flags
        Comma-separated flags of the sources, the catalog's column ``flags``; found again if not
        given.  They stand beside the spectra, and a source with one that calls for a look has a
        red ring.

    Returns
    -------
    matplotlib.figure.Figure
        Figure without a window; ``figure.savefig(path)`` writes it.
    """
    obs, scene = result.observation, result.free_form
    num_sources = len(result.positions.ids)
    words = [worst_first(str(one)) for one in (flag_words(result) if flags is None else flags)]
    pages = 1 if num_sources <= 6 else 2
    rows = -(-num_sources // pages)
    width, height = (10.5, 3.8) if pages == 1 else (17.0, 5.6)
    height *= len(obs.views)
    layout = ConstrainedLayoutEngine(w_pad=0.07)
    figure = Figure(figsize=(width, height + 1.55 * rows), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[height, 1.55 * rows])
    top, bottom = parts
    axes: Any = top.subplots(len(obs.views), 3, squeeze=False)
    model = "model"
    if result.prior_name:
        model = f"model: {result.prior_name}, $\\sigma_0$ = {result.sigma0:.3g}"
    residual = f"residual / noise,  $\\chi^2$ per pixel {scene.chi2:.3f}"
    for row, view, cube in zip(axes, obs.views, scene.convolved, strict=True):
        scene_row(row, result, view, cube.sum(0), model=model, residual=residual, words=words)
    compose = view_composer(obs.views[0])
    grid = bottom.subplots(
        rows, 3 * pages, squeeze=False, gridspec_kw={"width_ratios": [1, 1, 3.6] * pages}
    )
    for axis in grid.ravel():
        axis.axis("off")
    for k in range(num_sources):
        page, row = divmod(k, rows)
        axes = grid[row, 3 * page : 3 * page + 3]
        _source_row(axes, result, k, compose, words[k], first=row == 0)
    return figure


def _tag(result: Deblended, k: int) -> str:
    """Return the source's id if all are short enough for a marker, else its number from one."""
    ids = result.positions.ids
    return ids[k] if max(map(len, ids)) <= 3 else str(k + 1)


def scene_row(
    axes,
    result: Deblended,
    view: View,
    total: np.ndarray,
    *,
    model: str,
    residual: str,
    words: Sequence[Sequence[str]],
) -> None:
    """Draw one observation: the data with the sources, the model, and the residual.

    Parameters
    ----------
    axes
        Three axes of matplotlib.
    result
        The scene.
    view
        One of the observations of the scene.
    total
        Model of its bands, ``[B, H, W]``.
    model, residual
        Titles of the panels.
    words
        Flags of each source; one with a flag that calls for a look gets a red ring.
    """
    obs, compose = view.observation, view_composer(view)
    views, name = result.observation.views, "observed"
    if len(views) > 1:
        name = obs.name or f"observation {views.index(view) + 1}"
    axes[0].imshow(compose(obs.images), origin="lower", interpolation="nearest")
    axes[0].set_title(name, color=INK)
    for k, (row, column) in enumerate(view.pixels(result.center)):
        color = COLORS[k % len(COLORS)]
        axes[0].plot(column, row, "+", color="white", markersize=7, markeredgewidth=0.8)
        if is_serious(words[k]):
            axes[0].plot(column, row, "o", color=BAD, fillstyle="none", markersize=11)
        axes[0].annotate(
            _tag(result, k),
            (column, row),
            (5, 4),
            textcoords="offset points",
            color="white",
            fontsize=7,
            bbox={"boxstyle": "round,pad=0.12", "fc": color, "ec": "none"},
            annotation_clip=True,
        )
    height, width = obs.shape
    axes[0].set(xlim=(-0.5, width - 0.5), ylim=(-0.5, height - 0.5))
    axes[1].imshow(compose(total), origin="lower", interpolation="nearest")
    axes[1].set_title(model, color=INK)
    combined = significance(view, total)
    shown = axes[2].imshow(
        combined, origin="lower", cmap="RdBu_r", vmin=-4, vmax=4, interpolation="nearest"
    )
    axes[2].set_title(residual, color=INK)
    if result.kept is not None:
        # Pixels of any band that lost half of their weight as outliers.
        number = views.index(view) if len(views) > 1 else 0
        lost = (result.kept[number] < 0.5).any(0)
        if lost.any():
            axes[2].contour(lost, [0.5], colors=SOFT, linewidths=0.8)
    bar = axes[2].figure.colorbar(shown, ax=axes[2], shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, color=SOFT, labelcolor=INK)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)


#: Labels of the fluxes of the parametric scene, by its kind of galaxies.
_PROFILES = {
    "BulgeDisk": "bulge + disk",
    "Sersic": "Sersic profile",
    "TwoColor": "bulge + disk of two colors",
}


def profile_label(result: Deblended) -> str:
    """Return the legend's label of the parametric scene."""
    scene = result.parametric.scene
    if "profiles" not in scene.names:
        return "parametric"
    return _PROFILES.get(type(scene["profiles"]).__name__, "parametric")


def model_label(result: Deblended, k: int) -> str:
    """Return what a source was fitted as, in words."""
    words = {"free-form": "learned prior", "point": "star", "profile": profile_label(result)}
    model = str(result.free_form.models[k])
    return words.get(model, model)


def _source_row(
    axes, result: Deblended, k: int, compose, words: Sequence[str], *, first: bool
) -> None:
    obs, scene = result.observation, result.free_form
    color = COLORS[k % len(COLORS)]
    unit, factor = obs.flux_unit
    found, profiles = result.photometry.scaled(factor), only_seen(result.parametric, obs)
    for axis in axes:
        axis.axis("on")
    seen, model, spectrum = axes
    seen.imshow(compose(scene.convolved[0][k]), origin="lower", interpolation="nearest")
    seen.set_ylabel(
        _tag(result, k),
        color="white",
        fontsize=9,
        rotation=0,
        labelpad=12,
        va="center",
        bbox={"boxstyle": "round,pad=0.2", "fc": color, "ec": "none"},
    )
    image = scene.morphology[k]
    peak = max(float(image.max()), 1e-30)
    model.imshow(
        np.arcsinh(image / (0.02 * peak)),
        origin="lower",
        cmap="gray",
        interpolation="nearest",
        vmin=0,
    )
    row, column = result.center[k]
    half = 14
    model.set_facecolor("black")  # the zoom may reach beyond the image
    model.set(xlim=(column - half, column + half), ylim=(row - half, row + half))
    for axis in (seen, model):
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
    bands = np.arange(len(obs.bands))
    # NaN in bands without data: points and lines have a gap there.
    flux, error = found.flux[k], found.error[k]
    profile = profiles.flux[k] * factor
    spectrum.plot(
        bands, profile, "s", color=SOFT, markersize=6, fillstyle="none", label="fit by profiles"
    )
    spectrum.errorbar(
        bands,
        flux,
        error,
        fmt="o-",
        color=color,
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label="catalog",
    )
    highest = np.nanmax([*flux, *profile, 0.0])
    lowest = np.nanmin([*(flux - error), 0.0])
    if highest > lowest:
        spectrum.set_ylim(lowest - 0.02 * (highest - lowest), 1.18 * highest)
    spectrum.set_xlim(-0.4, len(bands) - 0.6)
    spectrum.set_xticks(bands, obs.bands)
    spectrum.tick_params(labelsize=8, color=SOFT, labelcolor=INK)
    spectrum.axhline(0, color=SOFT, linewidth=0.5)
    spectrum.grid(axis="y", color="#eeeeee")
    spectrum.set_axisbelow(True)
    for side in ("top", "right", "bottom"):  # the line of zero flux is at the bottom
        spectrum.spines[side].set_visible(False)
    label = unit.to_string()
    spectrum.set_ylabel(f"flux [{label}]" if label else "flux", fontsize=8, color=INK)
    # Sources differ in what they are, and the legend is one for all.
    spectrum.set_title(model_label(result, k), loc="left", fontsize=8, color=INK, pad=2)
    if _tag(result, k) != result.positions.ids[k]:
        spectrum.set_title(result.positions.ids[k], loc="right", fontsize=8, color=color, pad=2)
    # Within the axes, above the points: the titles are those of the first row.
    said = ", ".join(words[:_WORDS]) + (" ..." if len(words) > _WORDS else "")
    spectrum.annotate(
        said,
        (0.995, 0.98),
        xycoords="axes fraction",
        fontsize=7,
        color=BAD if is_serious(words) else INK,
        ha="right",
        va="top",
    )
    if first:
        seen.set_title("as observed", fontsize=9, color=INK)
        model.set_title("model, zoomed", fontsize=9, color=INK)
        spectrum.legend(
            fontsize=7, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(0, 1.36)
        )
