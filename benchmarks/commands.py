"""Seconds, compiled programs and traces of whole commands, also as ratios to the machine's arithmetic.

    python benchmarks/commands.py --output DIR [--only NAME ...] [--repeat 3]

Each command runs in a process of its own: what imports, tracing, compilation and figures cost counts.
"Empty" and "full" are JAX's cache and the traces beside it, in a folder of this run.  The least of
`--repeat` runs counts (of an empty cache one: it takes a while).  Ratios are to a 1024 x 1024 matrix
product in single precision, measured before every command in another process, on all threads: these travel
between machines, where seconds do not.  Programs and traces are counted in runs of their own, since
listening to JAX imports it.  Writes ``commands.json`` and ``commands.md``; needs the ``simulation`` extra.
"""

import argparse
import json
import os
import platform
import runpy
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

#: Commands by name: arguments of the interpreter; ``OUT`` is a new folder, ``SET`` 30 blends.
CLI = ("-m", "scorepriors.inference.cli")
COMMANDS = {
    "--help": (*CLI, "--help"),
    "import scorepriors": ("-c", "import scorepriors"),
    "deblend --example": (*CLI, "deblend", "--example", "--output", "OUT", "--quiet"),
    "evaluate, 30 blends": (*CLI, "evaluate", "SET", "--json", "OUT/found.json", "--quiet"),
}

#: Commands that compile nothing: their cache does not matter.
WITHOUT_CACHE = ("--help", "import scorepriors")

WARM = "64 blends, warm process"

#: What JAX tells its listeners.
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "traced",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowered",
    "/jax/core/compile/backend_compile_duration": "compiled",
    "/jax/compilation_cache/cache_hits": "found in the cache",
    "/jax/compilation_cache/compile_requests_use_cache": "looked for in the cache",
}

#: Seconds of a matrix product, and the blends in a warm process, as code of a process.
MATMUL = """
import time, jax, jax.numpy as jnp
a = jnp.ones((1024, 1024), jnp.float32)
product = jax.jit(lambda a: a @ a)
product(a).block_until_ready()
def once():
    start = time.perf_counter(); product(a).block_until_ready()
    return time.perf_counter() - start
print(min(once() for _ in range(20)))
"""
BLENDS = """
import json, sys, time
from astropy.table import Table
from scorepriors._programs import keep_programs
from scorepriors.inference import deblend_many
from scorepriors.models import read_positions
from scorepriors.models.simulation._blend_sets import BlendSet
keep_programs()
def fit(path):
    held = BlendSet(path)
    seen = [held.observation(i) for i in range(len(held))]
    centers = [held.truth(i).center for i in range(len(held))]
    where = [read_positions(Table({"x": c[:, 1], "y": c[:, 0]}), o) for c, o in zip(centers, seen)]
    start = time.perf_counter()
    results = deblend_many(seen, where, center_error=0.05, padding=8)
    return time.perf_counter() - start, sum(bool(r.converged) for r in results)
fit(sys.argv[1])
print(json.dumps(fit(sys.argv[2])))
"""


def counted(target: Path, command: list[str]) -> None:
    """Run a command in this process, and write how often JAX traced, lowered and compiled."""
    import jax.monitoring

    counts, seconds, names = Counter(), Counter(), Counter()

    def duration(event, value, **about):
        name = EVENTS.get(event)
        if name:
            counts[name] += 1
            seconds[name] += value
            if name == "traced" and "fun_name" in about:
                names[str(about["fun_name"])] += 1

    def event(event, **about):
        if event in EVENTS:
            counts[EVENTS[event]] += 1

    jax.monitoring.register_event_duration_secs_listener(duration)
    jax.monitoring.register_event_listener(event)
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *command[2:]]
            exec(compile(command[1], "<command>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        pass  # how a command ends
    finally:
        found = {
            "counts": dict(counts),
            "seconds_in_jax": dict(seconds),
            "traced_most": names.most_common(10),
        }
        target.write_text(json.dumps(found))


class Bench:
    """The runs of a call; `folder` holds caches and outputs."""

    def __init__(self, folder: Path, repeat: int):
        self.folder, self.repeat = folder, repeat
        self.sets = {}

    def run(self, command, cache: Path, *, listen: bool = False):
        """Return seconds, output and counts of a command in a process of its own."""
        target, out = self.folder / "counts.json", self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        arguments = [one.replace("OUT", str(out)).replace("SET", str(self.set)) for one in command]
        if listen:
            arguments = [__file__, "--count", str(target), "--", *arguments]
        environment = os.environ | {"SCOREPRIORS_CACHE": str(cache)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True
        )
        seconds = time.perf_counter() - began
        # Some blends of a set may not be converged, which is an exit code of its own.
        if done.returncode not in (0, 3):
            sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
        return seconds, done.stdout, json.loads(target.read_text()) if listen else None

    @property
    def set(self) -> Path:
        """Thirty blends."""
        return self.blends(30, 32)

    def blends(self, number: int, seed: int) -> Path:
        """Return a set of blends, simulated once."""
        path = self.folder / f"blends-{number}-{seed}.npz"
        if not path.exists():
            from scorepriors.models.simulation._blend_sets import simulate_set, write_set

            write_set(path, simulate_set("lsst", number, seed=seed))
        return path

    def arithmetic(self) -> float:
        """Return the seconds of a matrix product."""
        return float(self.run(("-c", MATMUL), self.folder / "none")[1])

    def row(self, name: str, cache: str, seconds: float, product: float, found) -> dict:
        """Return a row of the results."""
        return {
            "command": name,
            "cache": cache,
            "seconds": seconds,
            "matrix_product_seconds": product,
            "times_matrix_product": seconds / product,
            **({} if found is None else found),
        }

    def rows(self, name: str):
        """Yield the rows of a command."""
        if name == WARM:
            yield self.warm()
            return
        command, product = COMMANDS[name], self.arithmetic()
        full = self.folder / "full"
        if name in WITHOUT_CACHE:
            self.run(command, full)  # files are read from the disk
            least = min(self.run(command, full)[0] for _ in range(self.repeat))
            found = self.run(command, full, listen=True)[2]
            yield self.row(name, "", least, product, found)
            return
        for cache in ("empty", "full"):
            folder = self.folder / cache / str(time.time_ns()) if cache == "empty" else full
            if cache == "empty":
                # Anew for each of the two runs.
                seconds = self.run(command, folder / "timed")[0]
                found = self.run(command, folder / "counted", listen=True)[2]
                shutil.rmtree(full, ignore_errors=True)
                (folder / "timed").rename(full)
            else:
                product = self.arithmetic()
                seconds = min(self.run(command, full)[0] for _ in range(self.repeat))
                found = self.run(command, full, listen=True)[2]
            yield self.row(name, cache, seconds, product, found)

    def warm(self) -> dict:
        """Return the row of 64 blends after 64 others."""
        product = self.arithmetic()
        code = ("-c", BLENDS, str(self.blends(64, 41)), str(self.blends(64, 42)))
        seconds, converged = json.loads(self.run(code, self.folder / "warm")[1].splitlines()[-1])
        row = self.row(WARM, "", seconds, product, None)
        return row | {"seconds_per_blend": seconds / 64, "converged": converged}


def markdown(results: dict) -> str:
    """Return the table."""
    lines = [
        "| command | cache | s | matrix products | traces | programs compiled | of them found on disk |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results["rows"]:
        counts = one.get("counts")
        cells = (
            [""] * 3
            if counts is None
            else [str(counts.get(key, 0)) for key in ("traced", "compiled", "found in the cache")]
        )
        lines.append(
            f"| {one['command']} | {one['cache']} | {one['seconds']:.2f} | "
            f"{one['times_matrix_product']:.0f} | {' | '.join(cells)} |"
        )
    facts = results["facts"]
    lines += ["", f"{facts['machine']}, {facts['cores']} cores, Python {facts['python']}.", ""]
    return "\n".join(lines)


def main():
    if sys.argv[1:2] == ["--count"]:
        counted(Path(sys.argv[2]), sys.argv[4:])
        return
    names = [*COMMANDS, WARM]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=names)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.output.resolve(), options.repeat)
    facts = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    results = {"facts": facts, "rows": []}
    for name in options.only or names:
        for row in bench.rows(name):
            results["rows"].append(row)
            (options.output / "commands.json").write_text(json.dumps(results, indent=1) + "\n")
            print(markdown(results).splitlines()[1 + len(results["rows"])], flush=True)
    (options.output / "commands.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
