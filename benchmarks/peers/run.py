"""This package and its peers on the same blends: time, memory and accuracy.

    python benchmarks/peers/run.py --blends 30 --output DIR

makes DIR/environment with scarlet2, scarlet and scarlet_lite if it is not there (``--environment``
names another), simulates the blends, runs each code in processes of its own and writes
``table.md``, ``results.json`` and ``figure.png``.  A code that can't be installed stands in the table
with the reason.  ``--source scarlet=PATH`` installs a checkout in place of what is downloaded.
``--only`` runs some codes again and keeps what is known of the others.  Needs the ``simulation``
extra, and a C++ compiler for two of the peers.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from environment import PEERS, install, python_of
from table import entry, floor, missing, write

from scorepriors.models.simulation._blend_sets import BlendSet, simulate_set, write_set

HERE = Path(__file__).resolve().parent

#: Rows of this package: name, and settings of the adapter.
OURS = {"scorepriors": {}, "scorepriors, profiles only": {"free_form": False}}

FLOOR = "least squares with the true shapes"


def simulated(options) -> BlendSet:
    """Return the blends; what deblenders may see of them lies beside, in one file for all."""
    path = options.output / f"blends-{options.blends}-{options.seed}.npz"
    if not path.exists():
        write_set(path, simulate_set("lsst", options.blends, seed=options.seed))
    blends = BlendSet(path)
    seen = [blends.observation(i) for i in range(len(blends))]
    centers = [blends.truth(i).center for i in range(len(blends))]
    np.savez(
        options.output / "seen.npz",
        path=str(path.resolve()),
        images=np.stack([np.asarray(obs.images) for obs in seen]),
        weights=np.stack([np.asarray(obs.weights) for obs in seen]),
        psfs=np.stack([np.asarray(obs.psfs) for obs in seen]),
        bands=np.array(seen[0].bands),
        centers=np.concatenate(centers),
        src_start=np.concatenate([[0], np.cumsum([len(one) for one in centers])]),
    )
    return blends


def timed(options, python: Path, adapter: str, settings: dict, limit: int | None, cache: Path):
    """Run a code in a process of its own; return what it made, or why not, and the seconds."""
    made = options.output / "made.npz"
    made.unlink(missing_ok=True)
    command = [python, HERE / "child.py", HERE / "adapters" / f"{adapter}.py"]
    command += [options.output / "seen.npz", made, "--settings", json.dumps(settings)]
    command += [] if limit is None else ["--limit", limit]
    began = time.perf_counter()
    try:
        done = subprocess.run(
            list(map(str, command)),
            env=os.environ | {"SCOREPRIORS_CACHE": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=options.limit,
        )
    except subprocess.TimeoutExpired:
        return f"not done within {options.limit} s", options.limit
    seconds = time.perf_counter() - began
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return f"exit code {done.returncode}: {said[-1] if said else ''}", seconds
    with np.load(made, allow_pickle=False) as arrays:
        return dict(arrays), seconds


def compared(options, blends, python: Path, adapter: str, name: str, settings: dict, cache: Path):
    """Return the entry of a code, from one process for the first blend and one for all."""
    first, first_seconds = timed(options, python, adapter, settings, 1, cache / "first")
    made, seconds = timed(options, python, adapter, settings, None, cache / "all")
    if isinstance(made, str):
        return missing(name, made)
    errors = [str(error) for error in made["errors"]]
    return entry(
        name,
        blends,
        len(blends),
        made["models"],
        version=str(made["version"]),
        settings=settings,
        first_seconds=None if isinstance(first, str) else first_seconds,
        all_seconds=seconds,
        peak_bytes=int(made["peak_bytes"]),
        failed=sum(map(bool, errors)),
        errors=[error for error in errors if error],
    )


def wanted(options, name: str) -> bool:
    """Return whether a code is to run."""
    return not options.only or name in options.only


def codes(options, blends):
    """Return the entries, one after the other."""
    cache = options.output / "cache" / str(time.time_ns())
    for name, settings in OURS.items():
        if not wanted(options, name):
            continue
        own = cache / name.replace(" ", "-")
        for times in ("programs not compiled before", "programs kept"):
            yield compared(
                options,
                blends,
                Path(sys.executable),
                "scorepriors_fit",
                f"{name}, {times}",
                settings,
                own,
            )
    for peer, facts in PEERS.items():
        runs = {n: s for n, s in facts.runs.items() if wanted(options, n)}
        if not runs:
            continue
        print(f"installing {peer}", flush=True)
        python = python_of(options.environment)
        why = install(python, peer, options.source.get(peer))
        for name, settings in runs.items():
            yield (
                missing(name, f"not installed: {why}")
                if why
                else compared(options, blends, python, facts.adapter, name, settings, cache)
            )
    yield entry(FLOOR, blends, len(blends), floor(blends, len(blends)))


def parsed():
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blends", type=int, default=30)
    parser.add_argument("--seed", type=int, default=32)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--environment", type=Path, help="[default: OUTPUT/environment]")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--only", action="append", metavar="NAME", help="may be given again")
    parser.add_argument("--limit", type=float, default=1800, help="seconds of one process")
    options = parser.parse_args()
    options.environment = options.environment or options.output / "environment"
    options.source = dict(one.split("=", 1) for one in options.source)
    runs = [name for peer in PEERS.values() for name in peer.runs]
    for given, known in ((options.only or (), [*OURS, *runs]), (options.source, [*PEERS])):
        for name in given:
            if name not in known:
                parser.error(f"{name!r}: there are {'; '.join(known)}.")
    return options


def main():
    """Run everything; what is done is written after each code."""
    options = parsed()
    options.output.mkdir(parents=True, exist_ok=True)
    blends = simulated(options)
    number = len(blends)
    facts = {
        "blends": number,
        "seed": options.seed,
        "sources": sum(len(blends.truth(i).flux) for i in range(number)),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    path = options.output / "results.json"
    known = []
    if options.only and path.exists():
        before = json.loads(path.read_text())
        if (before["facts"]["blends"], before["facts"]["seed"]) == (number, options.seed):
            known = before["codes"]
    results = {"facts": facts, "codes": known}
    for one in codes(options, blends):
        others = [code for code in results["codes"] if code["name"] != one["name"]]
        results["codes"] = [*others, one]
        text = write(results, options.output)
        print(text.splitlines()[1 + len(results["codes"])], flush=True)
    print(text)


if __name__ == "__main__":
    main()
