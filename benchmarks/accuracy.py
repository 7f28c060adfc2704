"""Flux errors of methods on sets of blends, by brightness and blendedness, beside those of peers.

    scorepriors evaluate a.npz --method parametric --json parametric-a.json   # and so on
    python benchmarks/accuracy.py --figure accuracy-peers.png \\
        parametric=parametric-a.json,parametric-b.json map=map-a.json,map-b.json

A method's files are joined.  Error bars of medians are from resampling the blends.
"""

import argparse
import json
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

#: Medians of |e_F| below and above a blendedness of 0.5 on 30 LSST-like blends of other seeds
#: (ugrizy, 64 x 64 pixels, ten-year depth, 2 to 8 sources, true centers), measured with
#: scarlet_lite, scarlet 1.0.1 and scarlet2 0.5.1 (200 iterations, no neural prior), 2026-11.
PEERS = {"scarlet_lite": (0.063, 0.431), "scarlet": (0.097, 0.373), "scarlet2": (0.110, 0.613)}

COLORS = ("#009e73", "#0072b2", "#d55e00", "#cc79a7")
SNR = (5, 8, 12, 20, 40, 100, 1e4)
BETA = (0, 0.1, 0.25, 0.5, 0.75, 1)


def load(names: str) -> list[dict]:
    """Rows of all sources of some files; blends are told apart between files."""
    rows = []
    for number, name in enumerate(names.split(",")):
        with open(name) as stream:
            content = json.load(stream)
        rows += [row | {"blend": (number, row["blend"])} for row in content["sources"]]
    return rows


def median(rows: list[dict], rng, column: str = "e_F") -> tuple[float, float]:
    """Median of the absolute value, and its error."""
    value = np.abs([row[column] for row in rows])
    blends = {}
    for row, one in zip(rows, value, strict=True):
        blends.setdefault(row["blend"], []).append(one)
    groups = list(blends.values())
    again = [
        np.median(np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]))
        for _ in range(200)
    ]
    return float(np.median(value)), float(np.std(again))


def line(name: str, rows: list[dict], rng) -> str:
    """A row of the table."""
    cells = [
        "{:.3f} +- {:.3f}".format(*median(part, rng))
        for part in (
            rows,
            [r for r in rows if r["beta"] < 0.5],
            [r for r in rows if r["beta"] >= 0.5],
        )
    ]
    error = np.abs([r["e_F"] for r in rows])
    xi, sed = (np.array([r[n] for r in rows]) for n in ("xi_morphology", "xi_sed"))
    held = np.array([r["covered"] for r in rows if r["covered"] is not None], float)
    return (
        f"{name:12s} {len({r['blend'] for r in rows})} blends, {len(rows)} sources: "
        f"{' / '.join(cells)}  >.5 {np.mean(error > 0.5):.3f}  "
        f"xi {np.median(xi):.4f} [{np.percentile(xi, 16):.3f}]  "
        f"SED {np.median(sed):.4f} [{np.percentile(sed, 16):.3f}]  "
        f"coverage {held.mean():.3f} +- {np.sqrt(0.22 / len(held)):.3f}"
    )


def panel(axis, methods: dict, column: str, edges, rng):
    """Medians in bins of a column, one line per method."""
    for color, (name, rows) in zip(COLORS, methods.items(), strict=False):
        values = np.array([row[column] for row in rows], float)
        where, middle, spread = [], [], []
        for low, high in pairwise(edges):
            part = [r for r, v in zip(rows, values, strict=True) if low <= v < high]
            if len(part) >= 8:
                center = np.sqrt(low * high) if column == "snr" else (low + high) / 2
                value, error = median(part, rng)
                where.append(min(center, 250) if column == "snr" else center)
                middle.append(value)
                spread.append(error)
        axis.errorbar(where, middle, spread, color=color, marker="o", ms=4, capsize=2, label=name)
    axis.set_yscale("log")
    axis.grid(alpha=0.25)


def figure(methods: dict, path: str, rng):
    """Errors against brightness and against blendedness."""
    left, right = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")[1]
    panel(left, methods, "snr", SNR, rng)
    left.set(xscale="log", xlabel="signal to noise", ylabel="median |flux error|, relative")
    left.set_xticks([6, 10, 20, 50, 100, 200], ["6", "10", "20", "50", "100", "200"])
    left.minorticks_off()
    panel(right, methods, "beta", BETA, rng)
    right.set(xlabel="blendedness")
    for style, (name, pair) in zip(("--", ":", "-."), PEERS.items(), strict=True):
        for value, span in zip(pair, ((0, 0.5), (0.5, 1)), strict=True):
            right.plot(
                span,
                [value] * 2,
                color="0.45",
                linestyle=style,
                label=f"{name}, another set" if span[0] == 0 else None,
            )
    right.legend(fontsize=8, frameon=False, ncols=2, loc="lower right")
    left.set_yticks(
        [0.01, 0.02, 0.05, 0.1, 0.2, 0.5], ["1 %", "2 %", "5 %", "10 %", "20 %", "50 %"]
    )
    left.yaxis.set_minor_formatter(NullFormatter())
    plt.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="+", help="NAME=FILE,FILE,...")
    parser.add_argument("--figure")
    options = parser.parse_args()
    methods = {name: load(files) for name, files in (m.split("=") for m in options.methods)}
    rng = np.random.default_rng(0)
    for name, rows in methods.items():
        print(line(name, rows, rng))
    if options.figure:
        figure(methods, options.figure, rng)


if __name__ == "__main__":
    main()
