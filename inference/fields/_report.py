"""The report of a field: one page of HTML without network, with an image that one can zoom."""

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np

from scorepriors import __version__
from scorepriors._progress import duration
from scorepriors.inference.deblending._flags import FLAGS, SERIOUS, SERIOUS_BITS, SEVERITY
from scorepriors.inference.reports._charts import bars, curves
from scorepriors.inference.reports._pictures import RANGE
from scorepriors.inference.reports._templates import page_text

from ._layers import Mosaic
from ._strips import strips
from ._tables import flag_counts, kinds_of, model_counts
from ._worst import MOST_WORST, brightness_counts, worst_sources

#: Most sources whose rows are in the page; the others are in the catalog.
SHOWN = 20_000

#: Signal to noise from which a true source that was not found is marked.
MISSED_SNR = 5.0

#: Columns of the page's rows beside those of the bands, as far as the catalog has them.
_COLUMNS = (
    "id", "x", "y", "ra", "dec", "model", "p_star", "snr", "size", "size_arcsec", "e1", "e2",
    "chi2", "flags", "flag_bits", "group", "scene",
)  # fmt: skip

#: Columns by band.
_BY_BAND = ("flux", "flux_err", "mag", "mag_err")

#: Decimals of columns; others have five significant digits.
_DECIMALS = {"x": 2, "y": 2, "ra": 6, "dec": 6, "p_star": 3, "mag": 3, "mag_err": 3}


def field_page(
    result: Any,
    *,
    evaluation: Mapping[str, Any] | None = None,
    command: str | None = None,
    folder: str = "",
    files: Sequence[str] = (),
    date: str | None = None,
) -> str:
    """Return the report of a field as one HTML document.

    Parameters
    ----------
    result
        Result of `deblend_field`.
    evaluation
        What `evaluate_field` found, if the truth is known.
    command
        The command of the run; that of `result.facts` if not given.
    folder
        Folder of the results, for the command that shows one source.
    files, date
        Files that were read, and when the results were written.

    Returns
    -------
    str
        A page of at most about 18 MB, whatever the size of the field.
    """
    mosaic = Mosaic(result)
    for strip in strips(result):
        mosaic.add(strip)
    pyramids = mosaic.pyramids()
    rows = shown_rows(result.catalog)
    facts, catalog = result.facts, result.catalog
    field = result.field
    data = {
        "height": field.shape[0],
        "width": field.shape[1],
        "layers": {
            name: [level._asdict() for level in levels] for name, levels in pyramids.items()
        },
        "columns": page_columns(catalog, field.bands, rows),
        "units": _units(catalog, field.bands),
        "bands": list(field.bands),
        # In this order the row of a source names its flags.
        "flags": {word: [FLAGS[word].bit, FLAGS[word].sentence] for word in SEVERITY},
        "serious": SERIOUS_BITS,
        "truth": truth_marks(evaluation),
        "folder": shlex.quote(folder) if folder else "",
    }
    converged = np.asarray(result.scenes["converged"], bool)
    templates = _templates()
    return templates.get_template("report.html.j2").render(
        title=f"Field {field.name}" if field.name else "A field",
        data=data,
        script=_text("viewer.js"),
        style=page_text("page.css") + _text("report.css"),
        num_sources=len(catalog),
        num_scenes=len(result.scenes),
        num_failed=int(np.count_nonzero(~converged)),
        num_serious=int(np.count_nonzero(np.asarray(catalog["flag_bits"]) & SERIOUS_BITS)),
        num_shown=len(rows),
        shape=field.shape,
        bands=field.bands,
        range=f"{RANGE:g}",
        missed_snr=f"{MISSED_SNR:g}",
        doubts=dict(facts.get("doubts", {})),
        notes=list(facts.get("notes", [])),
        models=model_counts(catalog),
        flags=_flag_rows(catalog),
        counts=_counts_chart(result),
        truth=_truth_chart(evaluation),
        truth_facts=_truth_facts(evaluation),
        worst=worst_sources(result, mosaic.compose),
        num_worst=MOST_WORST,
        seconds=_seconds(facts.get("seconds", {})),
        facts=_facts(facts, command, files, date),
        folder=folder,
    )


def shown_rows(catalog: Any) -> np.ndarray:
    """Return the rows whose sources are in the page, in their order: the brightest if too many."""
    snr = np.nan_to_num(np.asarray(catalog["snr"], float), nan=-np.inf)
    return np.sort(np.argsort(-snr, kind="stable")[:SHOWN])


def page_columns(catalog: Any, bands: tuple[str, ...], rows: np.ndarray) -> dict[str, list]:
    """Return columns of the catalog as lists that JSON can hold; None for NaN."""
    names = [name for name in _COLUMNS if name in catalog.colnames]
    names += [f"{kind}_{band}" for band in bands for kind in _BY_BAND]
    out = {"model": kinds_of(catalog)[rows].tolist()}
    for name in names:
        if name == "model" or name not in catalog.colnames:
            continue
        column = catalog[name]
        values = np.asarray(getattr(column, "value", column))[rows]
        if values.dtype.kind in "iub":
            out[name] = values.tolist()
        elif values.dtype.kind == "f":
            kind = next((k for k in ("mag_err", "mag") if name.startswith(f"{k}_")), name)
            decimals = _DECIMALS.get(kind)
            out[name] = [_rounded(value, decimals) for value in values.tolist()]
        else:
            out[name] = [str(value) for value in values]
    return out


def _rounded(value: float, decimals: int | None) -> float | None:
    if not np.isfinite(value):
        return None
    return round(value, decimals) if decimals is not None else float(f"{value:.5g}")


def _units(catalog: Any, bands: tuple[str, ...]) -> dict[str, str]:
    names = ["size", "size_arcsec", "ra", "dec"] + [f"{k}_{b}" for b in bands for k in _BY_BAND]
    known = {n: getattr(catalog[n], "unit", None) for n in names if n in catalog.colnames}
    return {name: str(unit) for name, unit in known.items() if unit is not None}


def _flag_rows(catalog: Any) -> list[tuple[str, int, str, bool]]:
    """Return word, number of sources, sentence, and whether it calls for a look, the worst first."""
    counts = flag_counts(catalog)
    known = [word for word in SEVERITY if word in counts]
    return [(word, counts[word], FLAGS[word].sentence, word in SERIOUS) for word in known]


def _counts_chart(result: Any) -> str:
    """Return the chart of numbers by magnitude, in the band in the middle."""
    catalog, bands = result.catalog, result.field.bands
    band = bands[len(bands) // 2]
    if f"mag_{band}" in catalog.colnames:
        column, axis = catalog[f"mag_{band}"], f"AB magnitude, band {band}"
        values = np.asarray(getattr(column, "value", column), float)
    else:
        column = catalog[f"flux_{band}"]
        flux = np.asarray(getattr(column, "value", column), float)
        values = -2.5 * np.log10(np.where(flux > 0, flux, np.nan))
        axis = f"magnitude without zero point, band {band}"
    edges, counts = brightness_counts(values, kinds_of(catalog))
    if not counts:
        return ""
    total = np.sum(list(counts.values()), axis=0)
    top = int(np.argmax(total))
    label = (
        f"Numbers of sources by {axis}: {int(total.sum()):,} in all, most of them "
        f"({int(total[top]):,}) between {edges[top]:g} and {edges[top + 1]:g}."
    )
    return bars(edges, counts, x=axis, y="sources", label=label)


def _truth_chart(evaluation: Mapping[str, Any] | None) -> str:
    """Return the chart of completeness by magnitude; empty without a truth."""
    bins = (evaluation or {}).get("by_magnitude") or []
    if not bins:
        return ""
    at = np.array([(b["low"] + b["high"]) / 2 if b["high"] is not None else b["low"] for b in bins])
    shares, errors = {}, {}
    for name in ("all", "isolated", "blended"):
        number = np.array([b[name]["number"] for b in bins], float)
        found = np.array([b[name]["found"] for b in bins], float)
        shares[name] = found / np.where(number > 0, number, np.nan)
        # The deviation of a binomial share, with half a source to either side.
        smooth = (found + 0.5) / (number + 1)
        errors[name] = np.sqrt(smooth * (1 - smooth) / (number + 1))
    whole = shares["all"]
    if not np.isfinite(whole).any():
        return ""
    label = (
        f"Completeness by true magnitude, from {np.nanmax(whole):.2f} down to {np.nanmin(whole):.2f}, "
        "of all, isolated and blended sources."
    )
    return curves(at, shares, errors=errors, x="true magnitude", y="completeness", label=label)


def truth_marks(evaluation: Mapping[str, Any] | None) -> dict[str, list[list[float]]]:
    """Return places (x, y) of sources that were missed, and of detections that are none.

    Missed ones have a signal to noise of `MISSED_SNR` and more, and are not saturated.
    """
    if not evaluation or "sources" not in evaluation:
        return {}
    true, seen = evaluation["sources"], evaluation.get("detections", {"x": [], "y": [], "kind": []})
    numbers = ("detection", "snr", "x", "y")
    found, snr, x, y = (np.array([np.nan if v is None else v for v in true[n]]) for n in numbers)
    missed = (found < 0) & (snr >= MISSED_SNR) & ~np.asarray(true["saturated"], bool)
    places = {"missed": np.stack([x, y], -1)[missed].round(2).tolist()}
    for name in ("shred", "spurious"):
        kinds = zip(seen["x"], seen["y"], seen["kind"], strict=True)
        places[name] = [[round(a, 2), round(b, 2)] for a, b, kind in kinds if kind == name]
    return {name: pairs for name, pairs in places.items() if pairs}


#: What a comparison with the truth says in numbers, and its labels.
_TRUTH_FACTS = (
    ("num_true", "true sources"),
    ("num_found", "of them found"),
    ("completeness", "completeness"),
    ("purity", "purity"),
    ("num_shreds", "shreds of bright sources"),
    ("shreds_per_bright", "shreds per bright source"),
    ("num_spurious", "spurious detections"),
)


def _truth_facts(evaluation: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return measures against the truth as pairs of labels and texts."""
    known = [(label, (evaluation or {}).get(name)) for name, label in _TRUTH_FACTS]
    whole = (evaluation or {}).get("all") or {}
    known += [
        ("median flux error", whole.get("median_abs_flux_error")),
        ("truth within the 68 % interval", whole.get("coverage_68")),
    ]
    return [
        (n, f"{v:.3f}" if isinstance(v, float) else f"{v:,}") for n, v in known if v is not None
    ]


def _seconds(seconds: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Return steps, their times in words, and their shares of all."""
    steps = {name: float(value) for name, value in seconds.items() if name != "total"}
    total = sum(steps.values()) or 1.0
    said = {n: f"{v:.1f} s" if v < 10 else duration(v) for n, v in steps.items()}
    return [(name, said[name], value / total) for name, value in steps.items()]


def _facts(
    facts: Mapping[str, Any], command: str | None, files: Sequence[str], date: str | None
) -> list[tuple[str, str]]:
    """Return command, input, date, settings and versions as pairs of names and texts."""
    run = {"command": command or facts.get("command"), "input": ", ".join(files), "date": date}
    out = [(name, str(value)) for name, value in run.items() if value]
    for name, value in dict(facts.get("settings", {})).items():
        out.append((str(name), value if isinstance(value, str) else json.dumps(value, default=str)))
    versions = {"scorepriors": __version__} | dict(facts.get("versions", {}))
    return out + [(str(name), str(value)) for name, value in versions.items()]


def _text(name: str) -> str:
    return (files("scorepriors.inference.fields") / name).read_text(encoding="utf-8")


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {
        "sort_keys": False
    }  # flags and columns have an order
    return environment
