"""A field from end to end: simulated, deblended, evaluated; seconds, memory, cost per source.

    python benchmarks/fields.py 500 1000 --output fields
    python benchmarks/fields.py 1000 --catalog --workers 2 --output fields
    python benchmarks/fields.py 1000 --blends 64 --output fields

One line for each side in pixels, from a process of its own; the memory is the largest sum over
it and its children (proportional shares of what they share, as Linux counts them).  ``--catalog``
gives the true positions in place of detection.  ``--blends`` fits some of the field's sources again,
alone with their neighbors in cut-outs, and compares the errors of their fluxes.  Needs the
``simulation`` extra.  Run it twice: the first run compiles.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from astropy.table import Table

from scorepriors.inference.cli._field_tables import print_field
from scorepriors.inference.evaluation._fields_run import evaluate_directory
from scorepriors.models import simulate_field, write_field

#: Side of cut-outs, pixels, and seconds between looks at the memory.
CUTOUT, INTERVAL = 64, 0.25


def simulated(options, side: int) -> Path:
    """Return the folder of a field, which is made if it is not there."""
    name = f"{options.survey}-{side}-{options.seed}"
    folder = options.output / name
    if not (folder / "field.fits").exists():
        field = simulate_field(
            options.survey,
            side,
            density=options.density,
            stars=options.stars,
            structured=round(options.structured * (side / 1000) ** 2),
            bands=options.bands,
            seed=options.seed,
            progress=True,
        )
        write_field(field, folder)
    return folder


def child(options, folder: Path) -> None:
    """Deblend a field in this process, write its results and print the facts."""
    from scorepriors.inference.cli._common import prepare_jax
    from scorepriors.inference.fields._deblend_field import deblend_field
    from scorepriors.inference.fields._outputs import write_field_outputs

    prepare_jax()
    started = time.monotonic()
    output = folder / "deblended"
    result = deblend_field(
        folder / "field.fits",
        folder / "truth.fits" if options.catalog else None,
        key=jax.random.key(0),
        output=output,
        workers=options.workers,
        force=True,
        progress=True,
    )
    write_field_outputs(result, output, force=True)
    print(json.dumps(result.facts["seconds"] | {"all": time.monotonic() - started}))


def memory_of_tree(pid: int) -> int:
    """Return the bytes that a process and its descendants take, shared pages once."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += 1024 * int(line.split()[1])
        # A scheduler starts its workers from a thread of its own.
        threads = Path(f"/proc/{pid}/task").iterdir()
        children = [one for task in threads for one in (task / "children").read_text().split()]
    except OSError:  # it ended just now
        return total
    return total + sum(memory_of_tree(int(one)) for one in children)


def deblended(options, folder: Path) -> dict:
    """Deblend a field in a process of its own; return its seconds and its peak memory."""
    passed = [f"--workers={options.workers}", *(["--catalog"] if options.catalog else [])]
    command = [sys.executable, __file__, "--child", str(folder), *passed]
    started, peak = time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, memory_of_tree(process.pid))
            time.sleep(INTERVAL)
        last = process.stdout.read().strip().splitlines()[-1:]
    if process.returncode:
        sys.exit(f"{folder}: the run ended with exit code {process.returncode}.")
    return {"wall": time.monotonic() - started, "peak": peak, "steps": json.loads(last[0])}


def as_blends(options, folder: Path, ours: dict) -> dict | None:
    """Compare flux errors of sources in the field and as blends that were cut out of it."""
    from scorepriors.inference import deblend_many
    from scorepriors.models import Field
    from scorepriors.models.data.positions._positions import Positions

    field = Field.open(folder / "field.fits")
    catalog = Table.read(folder / "deblended" / "catalog.fits")
    places = np.stack([np.asarray(catalog["y"], float), np.asarray(catalog["x"], float)], -1)
    rows = {name: np.array(values, float) for name, values in ours["sources"].items()}
    half = CUTOUT // 2
    inside = np.minimum.reduce(
        [rows["x"], rows["y"], field.shape[1] - 1 - rows["x"], field.shape[0] - 1 - rows["y"]]
    )
    usable = np.flatnonzero((inside > half) & np.isfinite(rows["e_F"]) & (rows["saturated"] == 0))
    picks = np.random.default_rng(0).permutation(usable)[: options.blends]
    windows, positions, own = [], [], []
    for k in picks:
        detection = int(rows["detection"][k])
        corner = np.round(places[detection]).astype(int) - half
        near = np.flatnonzero(((places >= corner) & (places <= corner + CUTOUT - 1)).all(1))
        windows.append(field.window(*map(int, corner), CUTOUT, CUTOUT))
        ids = tuple(str(one) for one in near)
        is_point = np.array([str(one) == "point" for one in catalog["model"][near]])
        positions.append(Positions(ids, places[near] - corner, is_point))
        own.append(int(np.flatnonzero(near == detection)[0]))
    # As the field fits them.
    results = deblend_many(
        windows, positions, key=jax.random.key(0), models="simplest", progress=True
    )
    flux = np.array(
        [
            result.photometry.scaled(obs.flux_unit[1]).flux[one].sum()
            for result, obs, one in zip(results, windows, own, strict=True)
        ]
    )
    errors = np.abs(flux / rows["flux_true"][picks] - 1)
    fielded = np.abs(rows["e_F"][picks])
    if not len(picks):
        return None
    beta = rows["blendedness"][picks]
    return {
        "number": len(picks),
        **{
            name: (float(np.median(fielded[which])), float(np.median(errors[which])))
            for name, which in (("all", beta >= 0), ("neighbors", beta >= 0.03))
            if which.any()
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sides", nargs="*", type=int, help="sides of fields, pixels")
    parser.add_argument("--survey", default="lsst")
    parser.add_argument("--bands", default="grizy")
    parser.add_argument("--density", type=float, default=60.0, help="galaxies per square arcmin")
    parser.add_argument("--stars", type=float, default=2.0)
    parser.add_argument("--structured", type=float, default=3.0, help="in 1000 x 1000 pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--catalog", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--blends", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("fields"))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options, options.child)
        return
    options.output.mkdir(exist_ok=True)
    lines = []
    for side in options.sides:
        folder = simulated(options, side)
        run = deblended(options, folder)
        result = evaluate_directory(folder, progress=True)
        print_field(result)
        ours = result["codes"]["scorepriors"]
        steps = ", ".join(f"{name} {value:.1f}" for name, value in run["steps"].items())
        print(f"{side} x {side}: seconds {steps}")
        number = ours["num_detections"] + ours["num_ignored"]
        lines.append((side, number, run, ours))
        if options.blends:
            for name, pair in (as_blends(options, folder, ours) or {}).items():
                said = (
                    pair
                    if name == "number"
                    else "{:.4f} in the field, {:.4f} cut out".format(*pair)
                )
                print(f"  median |flux error|, {name}: {said}")
    print(
        "\n| pixels | sources | seconds | peak memory, GB | ms per source | S/N 10, < .5 / >= .5 |"
        " purity | shreds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for side, number, run, ours in lines:
        ten = [ours["by_snr"][1][kind]["completeness"] for kind in ("isolated", "blended")]
        found = " / ".join("-" if one is None else f"{one:.2f}" for one in ten)
        shreds = ours["shreds_per_bright"]
        print(
            f"| {side} | {number} | {run['wall']:.1f} | {run['peak'] / 1e9:.2f} "
            f"| {1e3 * run['wall'] / max(number, 1):.0f} | {found} | {ours['purity'] or 0:.3f} "
            f"| {'-' if shreds is None else format(shreds, '.3f')} |"
        )


if __name__ == "__main__":
    main()
