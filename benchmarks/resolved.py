"""Galaxies that a telescope in space resolves: learned against parametric fits of the same blends.

    python benchmarks/resolved.py simulate --shapes spirals --number 150 --seed 71 --output set.npz
    scorepriors evaluate set.npz --method parametric --json parametric.json
    scorepriors evaluate set.npz --method map --prior mine.safetensors --json map.json
    python benchmarks/resolved.py table parametric=parametric.json map=map.json

``simulate`` makes blends of two or three galaxies of 20 to 23.5 mag as Euclid's visible camera sees
them, so that about a third have a signal to noise above 50.  Shapes: ``structured``, those of the
training set ``euclid-large`` with other seeds; ``spirals``, the bright ones of simulated fields, a
bulge, a disk and dozens of knots along two arms, which no prior was trained on; or with ``--galaxies``
those of real ones (a catalog in GalSim's format; galaxies drawn much brighter than they are bring
their own noise, which then counts as their shape).  Errors in the table are from resampling the blends; ratios are to the first method.
"""

import argparse
import dataclasses
from unittest import mock

import numpy as np
from accuracy import load

#: Galaxies of the blends, AB mag.
MAGNITUDES = (20.0, 23.5)

#: Signal to noise above which a galaxy counts as resolved.
BRIGHT = 50.0

GROUPS = {
    "S/N > 50": lambda row: row["snr"] > BRIGHT,
    "S/N > 50, beta < .3": lambda row: row["snr"] > BRIGHT and row["beta"] < 0.3,
    "beta .3 to .7": lambda row: 0.3 <= row["beta"] < 0.7,
    "beta > .7": lambda row: row["beta"] >= 0.7,
    "S/N < 50": lambda row: row["snr"] <= BRIGHT,
}


def simulate(args) -> None:
    """Write a set of blends."""
    from scorepriors.models.simulation import _blend_sets as sets

    facts = sets.survey("euclid")
    bright = dataclasses.replace(facts.galaxies, magnitudes=MAGNITUDES)
    resolved = dataclasses.replace(facts, galaxies=bright)
    drawn = _spiral if args.shapes == "spirals" else sets.bulge_and_disk
    with (
        mock.patch.object(sets, "survey", return_value=resolved),
        mock.patch.object(sets, "bulge_and_disk", drawn),
    ):
        blends = sets.simulate_set(
            "euclid",
            args.number,
            seed=args.seed,
            sources=(2, 3),
            galaxies=args.galaxies,
            progress=True,
        )
    sets.write_set(args.output, blends)


def _spiral(galsim, rng, population, magnitude):
    from scorepriors._surveys import survey
    from scorepriors.models.simulation._fields_bodies import draw_structured

    body = draw_structured(galsim, rng, survey("euclid"), ("i",))
    whole = galsim.Sum([profile * float(flux[0]) for profile, flux in body.parts])
    # Those of fields are the largest; these follow the sizes of the fainter ones of a blend.
    return (whole / whole.flux).dilate(0.6 * 10 ** (-0.1 * (magnitude - 21)))


def table(args) -> None:
    """Print medians of flux and shape errors, and coverage, by group."""
    methods = {name: load(files) for name, files in (m.split("=", 1) for m in args.methods)}
    first = next(iter(methods.values()))
    rng = np.random.default_rng(0)
    print("| group | method | sources | median abs e_F | ratio | 1 - xi | ratio | in 68 % |")
    print("|---|---|---|---|---|---|---|---|")
    for group, chosen in GROUPS.items():
        base = _blends(first, chosen)
        for name, rows in methods.items():
            blends = _blends(rows, chosen)
            all_rows = [row for blend in blends.values() for row in blend]
            inside = [row["covered"] for row in all_rows if row["covered"] is not None]
            flux, flux_ratio = _against(blends, base, _flux_error, rng)
            shape, shape_ratio = _against(blends, base, _shape_error, rng)
            print(
                f"| {group} | {name} | {len(all_rows)} | {flux} | {flux_ratio} | {shape} "
                f"| {shape_ratio} | {np.mean(inside):.2f} |"
            )


def _blends(rows, chosen) -> dict:
    found: dict = {}
    for row in rows:
        if chosen(row):
            found.setdefault(row["blend"], []).append(row)
    return found


def _flux_error(row) -> float:
    return abs(row["e_F"])


def _shape_error(row) -> float:
    return 1 - row["xi_morphology"]


def _against(blends, base, value, rng) -> tuple[str, str]:
    """Return a median and its ratio to that of other fits of the same blends, with errors."""
    keys = sorted(blends)
    one = {key: [value(row) for row in blends[key]] for key in keys}
    other = {key: [value(row) for row in base[key]] for key in keys}

    def medians(picks):
        return (
            float(np.median(np.concatenate([values[key] for key in picks])))
            for values in (one, other)
        )

    median, reference = medians(keys)
    again = [
        tuple(medians([keys[i] for i in rng.integers(0, len(keys), len(keys))])) for _ in range(300)
    ]
    spread = np.std([a for a, _ in again]), np.std([a / b for a, b in again])
    return (f"{median:.4f} +- {spread[0]:.4f}", f"{median / reference:.2f} +- {spread[1]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("simulate")
    one.add_argument("--shapes", choices=("structured", "spirals"), default="structured")
    one.add_argument("--galaxies")
    one.add_argument("--number", type=int, default=150)
    one.add_argument("--seed", type=int, default=71)
    one.add_argument("--output", required=True)
    one.set_defaults(run=simulate)
    two = parts.add_parser("table")
    two.add_argument("methods", nargs="+", metavar="NAME=FILE[,FILE]")
    two.set_defaults(run=table)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
