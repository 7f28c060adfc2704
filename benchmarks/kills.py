"""Kill a run over a field at random moments, resume it, and compare with an undisturbed run.

    scorepriors simulate --field --survey lsst --size 256 --output field
    python benchmarks/kills.py field/field.fits --kills 20 --output kills

Every kill is a SIGKILL, after a time that is drawn between nothing and the seconds that a run
takes from where the last one ended.  With --one-worker it ends one of the worker processes (--workers 2 or
more) in place of all of them, and the run goes on by itself.
"""

import argparse
import os
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


def workers_of(process: int) -> list[int]:
    """Return the worker processes of a run, which Python has spawned (Linux)."""
    found = []
    for tasks in Path(f"/proc/{process}/task").iterdir():
        for child in (tasks / "children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def kill_one_worker(process: int, rng) -> bool:
    """Kill a worker of a run, and return whether there was one."""
    try:
        os.kill(int(rng.choice(workers_of(process))), signal.SIGKILL)
    except (OSError, ValueError):  # it has just ended, or there is none yet
        return False
    return True


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
    check(output, process.returncode)
    return True


def with_dying_workers(output: Path, call: list[str], seconds: float, most: int, rng) -> int:
    """Run to the end, kill workers at random moments, and return how many."""
    kills = 0
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None:
            try:
                process.wait(rng.uniform(0.1, 0.7) * seconds if kills < most else None)
            except subprocess.TimeoutExpired:
                kills += kill_one_worker(process.pid, rng)
    check(output, process.returncode)
    return kills


def check(output: Path, code: int) -> None:
    """End if a run ended with an error."""
    if code not in (0, 3):
        sys.exit(f"the run in {output} ended with exit code {code}.")


def compare(usual: Path, killed: Path) -> None:
    """Print whether two runs have the same catalog, and how far fluxes are apart."""
    ours, theirs = (QTable.read(one / "catalog.fits") for one in (usual, killed))
    same = list(ours["id"]) == list(theirs["id"])
    names = [name for name in ours.colnames if ours[name].dtype.kind == "f"]
    equal = same and all(
        np.array_equal(np.asarray(ours[n]), np.asarray(theirs[n]), equal_nan=True) for n in names
    )
    print(
        f"same sources: {same}; same numbers: {equal}; flags: {list(ours['flags']) == list(theirs['flags'])}",
        flush=True,
    )
    if same and not equal:
        fluxes = [name.removeprefix("flux_err_") for name in names if name.startswith("flux_err_")]
        apart = [
            np.asarray((ours[f"flux_{n}"] - theirs[f"flux_{n}"]) / ours[f"flux_err_{n}"])
            for n in fluxes
        ]
        print(f"fluxes are at most {np.nanmax(np.abs(apart)):.2g} errors apart", flush=True)


def main() -> None:
    """Run, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("field")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--one-worker", action="store_true", help="Kill workers, not the run.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if options.one_worker and options.workers < 2:
        parser.error("--one-worker needs --workers 2 or more: one worker is the run itself.")
    rng = np.random.default_rng(options.seed)
    usual, killed = options.output / "usual", options.output / "killed"
    started = time.monotonic()
    finished(usual, command(options, usual, "--force"), None)
    seconds = time.monotonic() - started
    print(f"undisturbed: {seconds:.0f} s", flush=True)
    kills, rounds, done = 0, 0, False
    while options.one_worker and kills < options.kills:
        again, rounds = command(options, killed, "--force"), rounds + 1
        kills += with_dying_workers(killed, again, seconds, options.kills - kills, rng)
        if rounds > 5 * (kills + 1):
            parser.error("runs end before a worker can be killed; give a larger field.")
        print(f"{kills} workers killed", flush=True)
        compare(usual, killed)
    if options.one_worker:
        return
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
    compare(usual, killed)


if __name__ == "__main__":
    main()
