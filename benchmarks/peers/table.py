"""Metrics of what the codes made of the blends, as one table and one figure."""

import json
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from scorepriors.inference.evaluation._metrics import mean_chi2, source_metrics, summarize
from scorepriors.models.simulation._blend_sets import BlendSet

COLORS = ("#009e73", "#0072b2", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SNR = (5, 8, 12, 20, 40, 100, 1e4)
BETA = (0, 0.1, 0.25, 0.5, 0.75, 1)

#: Fewest sources of a bin that is drawn.
FEWEST = 8


def measured(blends: BlendSet, number: int, models: np.ndarray) -> tuple[list[dict], list[float]]:
    """Return a row per source, and chi2 per pixel of each blend.

    Parameters
    ----------
    blends
        The blends with their truth.
    number
        Number of them.
    models
        Sources as observed, ``[S, B, H, W]``, those of all blends one after the other.
    """
    rows, chi2, first = [], [], 0
    for index in range(number):
        truth, images = blends.truth(index), blends.observation(index).images
        own = models[first : first + len(truth.flux)]
        first += len(own)
        found = source_metrics(own, truth.convolved, truth.flux)
        chi2.append(mean_chi2(images, np.nan_to_num(own).sum(0), truth.weights))
        for k in range(len(own)):
            metrics = {name: float(values[k]) for name, values in found.items() if name != "flux"}
            known = {"beta": float(truth.blendedness[k]), "snr": float(truth.snr[k])}
            rows.append({"blend": index, "covered": None, **known, **metrics})
    if first != len(models):
        raise ValueError(f"{len(models)} models for {first} sources.")
    return rows, chi2


def floor(blends: BlendSet, number: int) -> np.ndarray:
    """Return the least squares of each band with the true shapes, which no code knows."""
    each = []
    for index in range(number):
        truth, images = blends.truth(index), blends.observation(index).images
        model = np.zeros_like(truth.convolved)
        for band, (image, weight) in enumerate(zip(images, truth.weights, strict=True)):
            root = np.sqrt(weight).ravel()
            shapes = truth.convolved[:, band].reshape(len(model), -1)
            factor = np.linalg.lstsq((shapes * root).T, image.ravel() * root, rcond=None)[0]
            model[:, band] = factor[:, None, None] * truth.convolved[:, band]
        each.append(model)
    return np.concatenate(each)


def entry(name: str, blends: BlendSet, number: int, models: np.ndarray, **facts) -> dict:
    """Return a code's entry in the results."""
    rows, chi2 = measured(blends, number, models)
    summary = summarize(rows, chi2)
    kept = ("median", "share", "xi", "chi2")
    summary = {key: value for key, value in summary.items() if key.startswith(kept)}
    return {"name": name, **facts, "summary": summary, "sources": rows}


def missing(name: str, why: str, **facts) -> dict:
    """Return the entry of a code that could not be installed, or did not run."""
    return {"name": name, "missing": why, **facts}


def markdown(results: dict) -> str:
    """Return the table."""
    head = (
        "code",
        "median abs e_F: all / beta < .5 / beta >= .5",
        "share abs e_F > .5",
        "xi morphology, median [16 %]",
        "xi SED",
        "chi2",
        "first blend, s",
        "all, s",
        "memory, GB",
        "blends that failed",
    )
    lines = [_row(head), "|" + "---|" * len(head)]
    for one in results["codes"]:
        name = f"{one['name']} {one['version']}" if one.get("version") else one["name"]
        if "missing" in one:
            lines.append(_row([name, one["missing"].replace("|", "/"), *[""] * (len(head) - 2)]))
            continue
        found = one["summary"]
        errors = [found[f"median_abs_flux_error{part}"] for part in ("", "_isolated", "_blended")]
        lines.append(
            _row(
                [
                    name,
                    " / ".join(_number(value, ".3f") for value in errors),
                    _number(found["share_flux_error_above_half"], ".2f"),
                    _pair(found, "xi_morphology"),
                    _pair(found, "xi_sed"),
                    _number(found["chi2_median"], ".3f"),
                    _number(one.get("first_seconds"), ".1f"),
                    _number(one.get("all_seconds"), ".1f"),
                    _number(one.get("peak_bytes"), ".2f", 1e-9),
                    _number(one.get("failed"), "d"),
                ]
            )
        )
    facts = results["facts"]
    about = (
        f"{facts['blends']} blends, {facts['sources']} sources (`scorepriors simulate --seed "
        f"{facts['seed']}`); {facts['machine']}, {facts['cores']} cores, {facts['date']}. Seconds are "
        "those of whole processes, imports and compilation included."
    )
    return "\n".join([*lines, "", about, ""])


def _row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value, style: str, factor: float | None = None) -> str:
    if value is None:
        return ""
    return format(value if factor is None else factor * value, style)


def _pair(found: dict, name: str) -> str:
    return f"{found[f'{name}_median']:.4f} [{found[f'{name}_p16']:.3f}]"


def figure(results: dict, path: Path) -> None:
    """Draw errors against brightness, blendedness and time."""
    axes = plt.subplots(1, 3, figsize=(13, 3.8), sharey=True, layout="constrained")[1]
    shown = [one for one in results["codes"] if "missing" not in one]
    spent = [one["all_seconds"] for one in shown if "all_seconds" in one]
    for number, one in enumerate(shown):
        color, rows = COLORS[number % len(COLORS)], one["sources"]
        style = "-" if "all_seconds" in one else ":"
        for axis, column, edges in zip(axes, ("snr", "beta"), (SNR, BETA), strict=False):
            axis.plot(*_medians(rows, column, edges), style, color=color, marker="o", ms=4)
        if "all_seconds" in one:
            value = one["summary"]["median_abs_flux_error"]
            axes[2].plot(one["all_seconds"], value, "o", color=color, label=one["name"])
        else:
            axes[2].plot([], [], style, color=color, label=one["name"])
    axes[0].set(xlabel="signal to noise", ylabel="median |flux error|, relative")
    # Limits of their own: bins of a small set may all be empty.
    axes[0].set(xscale="log", xlim=(5, 500), yscale="log", ylim=(0.005, 1.3))
    axes[0].set_xticks([6, 10, 20, 50, 100, 200], ["6", "10", "20", "50", "100", "200"])
    axes[1].set(xlabel="blendedness", xlim=(0, 1))
    axes[2].set(xlabel=f"seconds for {results['facts']['blends']} blends", xscale="log")
    axes[2].set_xlim(0.7 * min(spent, default=1), 1.4 * max(spent, default=10))
    axes[2].xaxis.set_major_formatter("{x:g}")
    axes[2].xaxis.set_minor_formatter("{x:g}")
    axes[2].legend(fontsize=8, frameon=False)
    ticks = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
    axes[0].set_yticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    for axis in axes:
        axis.grid(alpha=0.25)
    plt.savefig(path, dpi=120)
    plt.close()


def _medians(rows: list[dict], column: str, edges) -> tuple[list[float], list[float]]:
    """Return middles and medians of the bins with enough sources."""
    values = np.array([row[column] for row in rows], float)
    errors = np.abs([row["e_F"] for row in rows])
    where, middle = [], []
    for low, high in pairwise(edges):
        inside = (values >= low) & (values <= high if high == edges[-1] else values < high)
        if inside.sum() >= FEWEST:
            where.append(float(np.median(values[inside])))
            middle.append(float(np.median(errors[inside])))
    return where, middle


def write(results: dict, output: Path) -> str:
    """Write results, table and figure into a folder; return the table."""
    text = markdown(results)
    (output / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    (output / "table.md").write_text(text)
    figure(results, output / "figure.png")
    return text
