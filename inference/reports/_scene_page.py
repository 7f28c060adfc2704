"""The report of one deblended scene: a page of HTML that needs nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from astropy.table import QTable

from scorepriors.inference._status import FitStatus
from scorepriors.inference.deblending._flags import (
    FLAGS,
    SERIOUS,
    flags_said,
    is_serious,
    without_band,
    worst_first,
)
from scorepriors.inference.deblending._result import Deblended
from scorepriors.inference.deblending._seen import only_seen
from scorepriors.models.data._views import View

from ._charts import spectrum
from ._figure import (
    band_levels,
    profile_label,
    scaled_composer,
    significance,
    sky_noise,
    view_composer,
)
from ._marks import scene_marks
from ._numbers import number, value_and_error
from ._pictures import NO_DATA, RANGE, exact, exact_pulls
from ._templates import page_text, templates

#: Number of sources, and of observations, beyond which only some are unfolded.
MOST_OPEN, MOST_VIEWS = 12, 3

#: Half of the side of a source's pictures, in pixels: this many of its radii, within limits.
_RADII, _LEAST, _MOST = 4.0, 12, 32


class Panel(NamedTuple):
    """A picture of the page.

    Attributes
    ----------
    src
        The image as an address.
    alt, caption
        What is seen, and what it is called.
    """

    src: str
    alt: str
    caption: str


class _Seen(NamedTuple):
    """One observation, its model, and its colors."""

    view: View
    convolved: np.ndarray
    total: np.ndarray
    residual: np.ndarray
    places: np.ndarray
    name: str


def scene_page(
    result: Deblended, table: QTable, facts: Mapping[str, Any], *, more: Sequence[str] = ()
) -> str:
    """Return the report of a deblended scene as one HTML document.

    Parameters
    ----------
    result
        Result of `deblend`.
    table
        Its `catalog`, with the flags of a diagnosis if there is one.
    facts
        Its `summary`.
    more
        Further sections, as HTML, after the sources.
    """
    obs, ids = result.observation, [str(one) for one in table["id"]]
    words = [worst_first(str(each)) for each in table["flags"]]
    serious = [is_serious(each) for each in words]
    seen = _seen(result)
    return (
        templates()
        .get_template("scene.html.j2")
        .render(
            style=page_text("page.css") + page_text("scene.css"),
            script=page_text("scene.js"),
            title=f"Blend {obs.name}" if obs.name else "A blend",
            about=_about(result, facts),
            doubts=list(facts["doubts"].values()),
            notes=list(facts["notes"]),
            not_converged=_not_converged(result),
            chi2=f"{result.free_form.chi2:.3f}",
            num_sources=len(ids),
            look=[(k + 1, ids[k]) for k in range(len(ids)) if serious[k]],
            flags=_flag_rows(ids, words),
            views=[_view(one, ids, serious) for one in seen],
            most_views=MOST_VIEWS,
            most_open=MOST_OPEN,
            range=f"{RANGE:g}",
            sources=_sources(result, table, seen, words, serious),
            profile=profile_label(result),
            has_profile=bool((result.free_form.models == "free-form").any()),
            more=list(more),
            head=_head(result, table),
            unit=result.observation.flux_unit[0].to_string(),
            rows=[
                (row, " ".join([ids[k], str(table["model"][k]), *words[k]]), words[k], serious[k])
                for k, row in enumerate(_rows(result, table))
            ],
            run=run_facts(facts),
        )
    )


def _about(result: Deblended, facts: Mapping[str, Any]) -> str:
    """Return what was deblended, in a sentence."""
    obs = result.observation
    height, width = obs.shape
    scale = obs.pixel_scale
    pixels = f"{width} x {height} pixels" + (f" of {scale:.3g} arcsec" if scale else "")
    prior = f", prior {facts['prior']}, σ₀ = {facts['sigma0']:.3g}" if facts["prior"] else ""
    joined = f", {len(obs.views)} observations fitted jointly" if len(obs.views) > 1 else ""
    bands = "band" if len(obs.bands) == 1 else "bands"
    return f"{pixels}{joined}, {bands} {', '.join(obs.bands)}{prior}"


def _not_converged(result: Deblended) -> str:
    """Return which fit did not converge, and why; empty if both did."""
    fits = {"free forms": result.free_form.fit, "profiles": result.parametric.fit}
    known = FitStatus.CONVERGED, FitStatus.LEFT
    said = {name: fit.status.sentence for name, fit in fits.items() if fit.status not in known}
    return "; ".join(f"{name}, {sentence}" for name, sentence in said.items())


def _flag_rows(ids: Sequence[str], words: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Return a row for each flag that some source has, the worst first."""
    said = flags_said(",".join(each) for each in words)
    plain = [{without_band(word) for word in each} for each in words]
    return [
        {
            "word": word,
            "sentence": sentence,
            "serious": word in SERIOUS,
            "sources": [(k + 1, ids[k]) for k, each in enumerate(plain) if word in each],
        }
        for word, sentence in said.items()
    ]


def _seen(result: Deblended) -> list[_Seen]:
    """Return all observations with their models."""
    views, out = result.observation.views, []
    for i, (view, cube) in enumerate(zip(views, result.free_form.convolved, strict=True)):
        name = view.observation.name or f"observation {i + 1}" if len(views) > 1 else ""
        total = cube.sum(0)
        places = view.pixels(result.center)
        out.append(_Seen(view, cube, total, significance(view, total), places, name))
    return out


def _filled(weights: np.ndarray, cube: np.ndarray, model: np.ndarray, compose: Any) -> np.ndarray:
    """Return colors of data; a band that is masked is the model's, and gray if all are.

    A band that is missing where others are not would change the color.
    """
    seen = weights > 0
    colors = compose(np.where(seen, cube, model))
    colors[~seen.any(0)] = NO_DATA
    return colors


def _view(seen: _Seen, ids: Sequence[str], serious: Sequence[bool]) -> dict[str, Any]:
    """Return pictures of one observation: data with marks, model, and a residual for each band."""
    view, obs = seen.view, seen.view.observation
    compose, marks = view_composer(view), scene_marks(view, seen.places, ids, serious)
    colors = _filled(obs.weights, obs.images, seen.total, compose)
    of = f" of {seen.name}" if seen.name else ""
    data = Panel(
        exact(colors),
        f"Observed colors{of} with {len(ids)} sources marked. {marks.words}",
        f"Observed. {marks.words}",
    )
    model = Panel(exact(compose(seen.total)), f"Model{of}: all sources as observed.", "Model.")
    bands = []
    for band, image, total, weight in zip(view.bands, obs.images, seen.total, obs.weights):
        good = weight > 0
        pull = (image - total) * np.sqrt(weight)
        scatter = float(np.sqrt(np.mean(pull[good] ** 2))) if good.any() else None
        said = "no data" if scatter is None else f"scatter {scatter:.2f}"
        alt = f"Residual in band {band} in units of the noise; {said}."
        bands.append(Panel(exact_pulls(pull, good), alt, f"{band}: {said}"))
    return {"name": seen.name, "data": data, "marks": marks.svg, "model": model, "bands": bands}


def _sources(result, table, seen, words, serious) -> list[dict[str, Any]]:
    """Return what is shown of each source."""
    unit, factor = result.observation.flux_unit
    found = result.photometry.scaled(factor)
    profiles = only_seen(result.parametric, result.observation)
    label = unit.to_string()
    opened, out = 0, []
    for k, row in enumerate(table):
        identity, mode = str(row["id"]), profiles.flux[k] * factor
        pairs = zip(result.observation.bands, found.flux[k], found.error[k], strict=True)
        fluxes = ", ".join(f"{band} {value_and_error(f, e)}" for band, f, e in pairs)
        # Of many sources those that call for a look are unfolded.
        is_open = bool(serious[k]) and opened < MOST_OPEN
        opened += is_open
        out.append(
            {
                "number": k + 1,
                "id": identity,
                "serious": serious[k],
                "open": is_open,
                "words": words[k],
                "flags": [
                    (w, FLAGS[without_band(w)].sentence, without_band(w) in SERIOUS)
                    for w in words[k]
                ],
                "facts": _source_facts(row),
                "snr": f"{row['snr']:.1f}",
                "panels": [
                    (one.name, _panels(result, one, k, identity, row))
                    for one in (seen if len(seen) <= MOST_VIEWS else seen[:1])
                ],
                "chart": spectrum(
                    result.observation.bands,
                    found.flux[k],
                    found.error[k],
                    mode,
                    y=f"flux [{label}]" if label else "flux, in the unit of the image",
                    label=f"Flux of source {identity} by band{f' in {label}' if label else ''}: {fluxes}.",
                ),
            }
        )
    return out


def _source_facts(row: Any) -> str:
    """Return model, place, size and chi2 of a source, in a line."""
    parts = [str(row["model"]), f"S/N {row['snr']:.1f}"]
    x, y = (value_and_error(number(row[n]), number(row[f"{n}_err"])) for n in ("x", "y"))
    parts.append(f"x {x}, y {y}")
    if "ra" in row.colnames:
        parts.append(f"RA {number(row['ra']):.6f}°, Dec {number(row['dec']):.6f}°")
    name, unit = ("size_arcsec", "arcsec") if "size_arcsec" in row.colnames else ("size", "px")
    parts.append(f"size {value_and_error(number(row[name]), number(row[f'{name}_err']))} {unit}")
    parts.append(f"χ² {row['chi2']:.2f}")
    return " · ".join(parts)


def _panels(result: Deblended, seen: _Seen, k: int, identity: str, row: Any) -> list[Panel]:
    """Return the pictures of a source: data, without neighbors, model, residual, and sharp."""
    view, obs = seen.view, seen.view.observation
    half = int(np.clip(_RADII * np.nan_to_num(number(row["size"])) / view.scale, _LEAST, _MOST))
    cut = _cut(seen.places[k], half, obs.shape)
    own, total = seen.convolved[k][:, *cut], seen.total[:, *cut]
    data, weights = obs.images[:, *cut], obs.weights[:, *cut]
    # Colors are those of the scene; the brightness is the source's own.
    level, floor = band_levels(obs.images, sky_noise(view))
    peak = float((own.max((1, 2)) / level).max())
    compose = scaled_composer(level, stretch=max(6 * floor, 0.12 * peak), softening=5)
    sharp = result.free_form.model(k)[view.which]
    bright = max(float((sharp.max((1, 2)) / level).max()), 1e-30)
    sharply = scaled_composer(level, stretch=0.05 * bright, softening=8)
    near = _cut(result.center[k], max(_LEAST, round(half * view.scale)), sharp.shape[1:])
    colors = (
        (_filled(weights, data, total, compose), "Data about source {}.", "data"),
        (
            _filled(weights, data - total + own, own, compose),
            "Data about source {} minus the light of its neighbors.",
            "data minus neighbors",
        ),
        (compose(own), "Model of source {} as observed.", "model"),
        (sharply(sharp[:, *near]), "Source {} at the model's resolution.", "model, sharp"),
    )
    panels = [Panel(exact(image), alt.format(identity), title) for image, alt, title in colors]
    residual = Panel(
        exact_pulls(seen.residual[cut], (weights > 0).any(0)),
        f"Residual of all bands about source {identity}, in units of its noise.",
        "residual / noise",
    )
    return [*panels[:3], residual, panels[3]]


def _cut(place: np.ndarray, half: int, shape: Sequence[int]) -> tuple[slice, slice]:
    """Return slices of rows and columns about a place, within an image."""
    out = []
    for at, size in zip(place, shape, strict=True):
        side = min(2 * half + 1, size)
        first = int(np.clip(round(float(at)) - half, 0, size - side))
        out.append(slice(first, first + side))
    return out[0], out[1]


def _head(result: Deblended, table: QTable) -> list[str]:
    """Return names of the columns of `_rows`."""
    fluxes = [f"flux {band}" for band in (*result.observation.bands, "total")]
    sky = ["RA [deg]", "Dec [deg]"] if "ra" in table.colnames else []
    size = "size [arcsec]" if "size_arcsec" in table.colnames else "size [px]"
    return ["source", "x", "y", *sky, "model", "S/N", *fluxes, size, "χ²", "flags"]


def _rows(result: Deblended, table: QTable) -> list[list[str]]:
    """Return the cells of the catalog that the page shows, but for the flags."""
    size = "size_arcsec" if "size_arcsec" in table.colnames else "size"

    def measured(row, name, error):
        return value_and_error(number(row[name]), number(row[error]))

    out = []
    for row in table:
        cells = [str(row["id"]), *(measured(row, n, f"{n}_err") for n in ("x", "y"))]
        if "ra" in table.colnames:
            cells += [f"{number(row[n]):.6f}" for n in ("ra", "dec")]
        cells += [str(row["model"]), f"{row['snr']:.1f}"]
        for band in (*result.observation.bands, "total"):
            cells.append(measured(row, f"flux_{band}", f"flux_err_{band}"))
        out.append([*cells, measured(row, size, f"{size}_err"), f"{row['chi2']:.2f}"])
    return out


def run_facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return command, input, date, settings, times and versions of a summary, as texts by label."""
    fit = facts["parametric"]
    known: list[tuple[str, Any]] = [
        ("command", facts.get("command")),
        ("input", ", ".join(facts.get("input") or [])),
        ("date", facts.get("date")),
        ("prior", facts["prior"] and f"{facts['prior']}, σ₀ = {facts['sigma0']:.3g}"),
        ("seed", str(facts["seed"])),
        ("iterations", f"{facts['iterations']} (profiles: {fit['iterations']})"),
        ("noise of sources from the model", ", ".join(facts["noise_from_model"])),
        ("sky fitted", "" if facts["sky"] is None else "yes"),
        ("outliers with less weight", _by_band(facts["down_weighted"], "{:d} pixels")),
        ("error of the model", _by_band(facts["model_error"], "{:.1%} of the light")),
        ("seconds", ", ".join(f"{n.replace('_', ' ')} {v:g}" for n, v in facts["seconds"].items())),
        *facts["versions"].items(),
    ]
    return [(name, str(value)) for name, value in known if value]


def _by_band(values: Mapping[str, float], form: str) -> str:
    """Return the values that are not zero, by band."""
    return ", ".join(f"{band}: {form.format(value)}" for band, value in values.items() if value)
