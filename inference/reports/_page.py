"""The report of a sampled scene: one self-contained page of HTML."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from scorepriors.inference.deblending._catalog import flag_words
from scorepriors.inference.deblending._doubts import doubts_of_draws
from scorepriors.inference.deblending._draws import (
    flux_catalog,
    flux_correlation,
    flux_draws,
    seen_flux_draws,
    source_draws,
)
from scorepriors.inference.deblending._flags import SERIOUS, flags_said, worst_first
from scorepriors.inference.deblending._notes import notes_of_draws
from scorepriors.inference.deblending._result import Deblended
from scorepriors.inference.sampling._diagnostics import said
from scorepriors.inference.sampling._tree import group

from ._arviz import energy_figure, rank_figure, trace_figure
from ._figure import COLORS, INK, SOFT, scene_row, view_composer
from ._numbers import number, value_and_error
from ._observed import mean_as_observed
from ._templates import page_text, templates

#: Numbers of draws shown per source, of sources in the pair plot, and of points of a pair.
_SHOWN, _PAIRS, _POINTS = 5, 5, 600


def report_page(
    result: Deblended, tree: Any, *, table: Any = None, more: Sequence[str] = ()
) -> str:
    """Return the report as one HTML document with embedded figures.

    Parameters
    ----------
    result
        Result of `deblend` that was sampled.
    tree
        Result of `sample_deblended`.
    table
        Result of `flux_catalog`; computed if not given.
    more
        Further sections, as HTML, after the draws of the sources.
    """
    table = flux_catalog(tree) if table is None else table
    if "flags" not in table.colnames:
        table = table.copy()
        table["flags"] = flag_words(result)
    count, bands = len(result.positions.ids), result.observation.bands
    chains, draws = (group(tree, "posterior").sizes[d] for d in ("chain", "draw"))
    names = ", ".join(map(str, table["id"]))
    unit = table[f"flux_{bands[0]}"].unit
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            style=page_text("page.css"),
            title=f"Posterior of {result.observation.name or 'a blend'}",
            num_sources=count,
            num_bands=len(bands),
            num_chains=chains,
            num_draws=draws,
            prior=tree.attrs["prior_name"],
            sigma0=f"{float(tree.attrs.get('prior_sigma', 'nan')):.3g}",
            warnings=said(tree),
            doubts=list(doubts_of_draws(tree).values()),
            notes=notes_of_draws(tree),
            unit="" if unit is None else unit.to_string(),
            flux_names=[*bands, "total"],
            fluxes=[_flux_row(row, [*bands, "total"]) for row in table],
            shapes=[_shape_row(row) for row in table],
            flags=[
                (word, sentence, word in SERIOUS)
                for word, sentence in flags_said(map(str, table["flags"])).items()
            ],
            scene=(
                _encoded(scene_figure(result, tree)),
                f"Three images side by side: the observed blend with {count} sources marked, the "
                "posterior mean of the model, and the residual in units of the noise.",
                "Observed, posterior mean, and what is left over. Structure in the residual is light "
                "that no source accounts for.",
            ),
            draws=(
                _encoded(draws_figure(result, tree)),
                f"One row for each of the sources {names}: the posterior mean, the standard deviation "
                f"and {_SHOWN} draws of its image.",
                "At the model's resolution. What differs from draw to draw, the data do not know.",
            ),
            more=list(more),
            pairs=(
                _encoded(pairs_figure(tree)),
                "Histograms of the total flux of each source and scatter plots of pairs of sources, "
                f"with their correlations. {_in_words(table)}",
                "Total fluxes. A negative correlation is light that either of two neighbors may own."
                + (f" The {_PAIRS} most correlated sources are shown." if count > _PAIRS else ""),
            ),
            correlation=(
                _encoded(correlation_figure(tree)),
                f"Matrix of the correlations between all {count * len(bands)} fluxes, by source and "
                "band.",
                "Correlations of the fluxes of all sources in all bands.",
            ),
            traces=(
                _encoded(trace_figure(tree)),
                f"For each of the sources {names} the distribution of its total flux in each of "
                f"{chains} chains, and the flux along the chains.",
                "Total fluxes. Chains that agree lie on top of each other.",
            ),
            ranks=(
                _encoded(rank_figure(tree)),
                f"For each of the sources {names} the ranks of the draws of each of {chains} chains "
                "among all draws.",
                "Total fluxes. Chains that agree have the same ranks, up to chance.",
            ),
            energy=None
            if "energy" not in group(tree, "sample_stats")
            else (
                _encoded(energy_figure(tree)),
                f"Energy over {chains} chains of {draws} draws: its distribution and that of its "
                "changes from draw to draw.",
                "Where the changes are much narrower than the whole, chains move through the tails "
                "slowly.",
            ),
            settings=figures(tree),
        )
    )


def _flux_row(row, names) -> list[str]:
    fluxes = [
        value_and_error(number(row[f"flux_{n}"]), number(row[f"flux_err_{n}"])) for n in names
    ]
    return [str(row["id"]), *fluxes]


def _shape_row(row) -> list[str]:
    pairs = [value_and_error(number(row[n]), number(row[f"{n}_err"])) for n in ("x", "y", "size")]
    near = ""
    if "neighbor" in row.colnames:
        near = f"{row['neighbor']} ({row['neighbor_correlation']:+.2f})"
    model = row["model"] if "model" in row.colnames else ""
    flags = ", ".join(worst_first(str(row["flags"]))) or "ok"
    return [str(row["id"]), model, *pairs, f"{row['flux_ess']:.0f}", near, flags]


def _in_words(table) -> str:
    if "neighbor" not in table.colnames:
        return ""
    strongest = int(np.argmax(np.abs(table["neighbor_correlation"])))
    row = table[strongest]
    return (
        f"The strongest is between {row['id']} and {row['neighbor']}: "
        f"{row['neighbor_correlation']:+.2f}."
    )


#: Attributes in the table of diagnostics, and their labels.
_FIGURES = (
    ("algorithm", "algorithm"),
    ("num_warmup", "warm-up draws per chain"),
    ("draws_kept", "draws per chain"),
    ("thinning", "transitions per draw"),
    ("target_acceptance_rate", "acceptance aimed at"),
    ("start", "start"),
    ("step_size", "step size"),
    ("gradients", "gradient evaluations"),
    ("seconds", "seconds"),
    ("seed", "key"),
    ("prior", "prior"),
    ("sigma0", "sigma0"),
    ("max_rhat", "largest R-hat of few"),
    ("max_pixel_rhat", "largest R-hat of many"),
    ("min_ess", "fewest effective draws"),
    ("min_ess_site", "of site"),
    ("stein_discrepancy", "Stein discrepancy"),
    ("stein_p_value", "its p-value"),
    ("divergences", "divergences"),
    ("min_bfmi", "smallest E-BFMI"),
    ("scorepriors_version", "scorepriors"),
    ("inference_library_version", "blackjax"),
    ("numpyro_version", "numpyro"),
    ("jax_version", "jax"),
)


def figures(tree: Any) -> list[tuple[str, str]]:
    """Return settings and diagnostics of a run as pairs of label and text."""
    stats = group(tree, "sample_stats")
    out = []
    for name, label in _FIGURES:
        value = tree.attrs.get(name)
        if value is not None and value == value:  # NaN: not defined for these moves
            out.append((label, f"{value:.5g}" if isinstance(value, float) else str(value)))
    out.append(("acceptance", f"{float(stats['acceptance_rate'].mean()):.3f}"))
    return out


def picture(figure: Figure, alt: str, caption: str) -> str:
    """Return a figure as HTML, with alternative text and caption."""
    macros: Any = templates().get_template("picture.html.j2").module
    return str(macros.picture(_encoded(figure), alt, caption))


def _encoded(figure: Figure) -> str:
    """Return a figure as PNG in base64."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png")
    return base64.b64encode(stream.getvalue()).decode()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(
        figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06), facecolor="white"
    )
    FigureCanvasAgg(figure)
    return figure


def _bare(axis) -> None:
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _open(axis) -> None:
    axis.tick_params(labelsize=8, color=SOFT, labelcolor=INK)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def scene_figure(result: Deblended, tree: Any) -> Figure:
    """Draw observed image, posterior mean and residual."""
    obs = result.observation
    figure = _figure(10.5, 3.7 * len(obs.views))
    axes: Any = figure.subplots(len(obs.views), 3, squeeze=False)
    titles = {"model": "posterior mean", "residual": "residual / noise"}
    words = [worst_first(one) for one in flag_words(result)]
    for row, view, cube in zip(axes, obs.views, mean_as_observed(result, tree), strict=True):
        scene_row(row, result, view, cube.sum(0), words=words, **titles)
    return figure


def draws_figure(result: Deblended, tree: Any) -> Figure:
    """Draw mean, standard deviation and some draws of every source, side by side."""
    found = list(source_draws(tree))
    figure = _figure(10.5, 1.55 * len(found) + 0.3)
    axes: Any = figure.subplots(len(found), _SHOWN + 2, squeeze=False)
    # Colors are those of the scene (of the first observation); the brightness is scaled for
    # each source.
    view = result.observation.views[0]
    compose = view_composer(view)
    level = np.array([np.percentile(band, 99.5) for band in view.observation.images])
    level = np.where(level > 0, level, 1.0)
    for k, draws in enumerate(found):
        image, spectrum = draws.image, draws.spectrum[:, view.which]
        # From all chains; successive draws are similar.
        picks = np.linspace(0, len(image) - 1, _SHOWN).round().astype(int)
        cubes = draws.in_bands(picks)[:, view.which]
        mean = draws.mean()[view.which]
        peak = float((mean.max((1, 2)) / level).max())
        bright = 1.5 / peak if peak > 0 else 1.0
        light = spectrum.sum(1)[:, None, None] * image
        panels = [compose(bright * mean), light.std(0), *(compose(bright * c) for c in cubes)]
        titles = ["mean", "standard deviation", *(f"draw {p + 1}" for p in picks)]
        for axis, panel, title in zip(axes[k], panels, titles, strict=True):
            axis.imshow(panel, origin="lower", interpolation="nearest", cmap="magma")
            _bare(axis)
            if k == 0:
                axis.set_title(title, fontsize=9, color=INK)
        axes[k, 0].set_ylabel(
            result.positions.ids[k],
            color="white",
            fontsize=9,
            rotation=0,
            labelpad=14,
            va="center",
            bbox={"boxstyle": "round,pad=0.2", "fc": COLORS[k % len(COLORS)], "ec": "none"},
        )
    return figure


def pairs_figure(tree: Any) -> Figure:
    """Draw total fluxes of the sources against each other."""
    flux = seen_flux_draws(tree)
    ids = [str(i) for i in flux["source"].values]
    total = np.asarray(flux.sum("band")).reshape(-1, len(ids))
    correlation = flux_correlation(total)
    off = np.abs(correlation - np.diag(np.diag(correlation))).max(1)
    chosen = np.sort(np.argsort(-off, kind="stable")[:_PAIRS])
    unit = tree.attrs["flux_unit"]
    size = len(chosen)
    figure = _figure(1.2 + 1.75 * size, 0.9 + 1.6 * size)
    axes: Any = figure.subplots(size, size, squeeze=False)
    thin = slice(None, None, -(-len(total) // _POINTS))
    for i, a in enumerate(chosen):
        for j, b in enumerate(chosen):
            axis = axes[i, j]
            if j > i:
                axis.axis("off")
                continue
            _open(axis)
            axis.locator_params(nbins=3)
            if i == j:
                color = COLORS[a % len(COLORS)]
                axis.hist(
                    total[:, a],
                    int(np.clip(len(total) // 20, 8, 30)),
                    color=color,
                    histtype="stepfilled",
                    alpha=0.8,
                )
                axis.set_yticks([])
                axis.set_title(ids[a], fontsize=9, color=color)
            else:
                axis.plot(total[thin, b], total[thin, a], ".", color=INK, markersize=2, alpha=0.4)
                axis.set_title(f"{correlation[a, b]:+.2f}", fontsize=8, color=INK, pad=2)
            if i < size - 1:
                axis.set_xticklabels([])
            if j > 0:
                axis.set_yticklabels([])
    figure.supxlabel(f"total flux{f' [{unit}]' if unit else ''}", fontsize=9, color=INK)
    return figure


def correlation_figure(tree: Any) -> Figure:
    """Draw correlations of all fluxes, source by source and band by band."""
    flux = flux_draws(tree)
    ids, bands = ([str(v) for v in flux[d].values] for d in ("source", "band"))
    values = flux_correlation(np.asarray(flux).reshape(-1, len(ids) * len(bands)))
    figure = _figure(5.6, 4.7)
    axis: Any = figure.subplots()
    shown = axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    middles = np.arange(len(ids)) * len(bands) + (len(bands) - 1) / 2
    axis.set_xticks(middles, ids)
    axis.set_yticks(middles, ids)
    axis.tick_params(length=0, labelsize=9, labelcolor=INK)
    for edge in np.arange(1, len(ids)) * len(bands) - 0.5:
        axis.axhline(edge, color="white", linewidth=1.5)
        axis.axvline(edge, color="white", linewidth=1.5)
    for spine in axis.spines.values():
        spine.set_visible(False)
    order = f"bands {bands[0]} to {bands[-1]}" if len(bands) > 1 else f"band {bands[0]}"
    axis.set_xlabel(f"source; within each, {order}", fontsize=9, color=INK)
    bar = figure.colorbar(shown, ax=axis, shrink=0.8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, color=SOFT, labelcolor=INK)
    bar.set_label("correlation", fontsize=9, color=INK)
    return figure
