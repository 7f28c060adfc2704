"""Kill a run over a field at random moments, resume it, and compare with an undisturbed run.

    scorepriors simulate --field --survey lsst --size 256 --output field
    python benchmarks/kills.py field/field.fits --kills 20 --output kills

Every kill is a SIGKILL, after a time that is drawn between nothing and the seconds that a run
takes from where the last one ended.
"""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from astropy.table import QTable


def command(options, output: Path, *more: str) -> list[str]:
    """Return the command of a run."""
    return [
        sys.executable, "-m", "scorepriors.inference.cli", "deblend", options.field, "--field",
        "--output", str(output), "--workers", str(options.workers), "--quiet", *more,
    ]  # fmt: skip


def finished(output: Path, call: list[str], limit: float | None) -> bool:
    """Run, kill it after a time, and return whether it was finished before."""
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            # The session: workers go with it, as when a machine is switched off.
            subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
            process.send_signal(signal.SIGKILL)
            return False
    if process.returncode not in (0, 3):
        sys.exit(f"the run in {output} ended with exit code {process.returncode}.")
    return True


def main() -> None:
    """Run, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("field")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    usual, killed = options.output / "usual", options.output / "killed"
    started = time.monotonic()
    finished(usual, command(options, usual, "--force"), None)
    seconds = time.monotonic() - started
    print(f"undisturbed: {seconds:.0f} s", flush=True)
    kills, done = 0, False
    while not done:
        limit = rng.uniform(0.1, 0.7) * seconds if kills < options.kills else None
        done = finished(killed, command(options, killed, "--resume"), limit)
        if done and kills < options.kills:
            # It got to the end: again from the beginning, until there were enough.
            finished(killed, command(options, killed, "--force"), 0.3 * seconds)
            done = False
        kills += not done
        parts = len(list((killed / "run").rglob("*.npz")))
        print(f"{kills} kills, {parts} parts", flush=True)
    ours, theirs = (QTable.read(one / "catalog.fits") for one in (usual, killed))
    same = list(ours["id"]) == list(theirs["id"])
    names = [name for name in ours.colnames if ours[name].dtype.kind == "f"]
    equal = same and all(
        np.array_equal(np.asarray(ours[n]), np.asarray(theirs[n]), equal_nan=True) for n in names
    )
    print(
        f"same sources: {same}; same numbers: {equal}; flags: {list(ours['flags']) == list(theirs['flags'])}"
    )


if __name__ == "__main__":
    main()
