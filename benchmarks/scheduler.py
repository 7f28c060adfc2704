"""What 10^5 scenes on 1,000 workers would ask of a Dask scheduler, from tasks that only sleep.

    python benchmarks/scheduler.py --workers 4 16 64 --tasks 2000 --run DIR/deblended/run

The scheduler is a process of its own, whose processor time is measured; the workers are objects in
one other process, which talk to it by TCP as those of a cluster do.  `--run` measures files of a run.
Rows that say so are extrapolated: nothing here has run on 1,000 workers.
"""

import argparse
import asyncio
import contextlib
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

#: What is extrapolated to.
SCENES, WORKERS = 100_000, 1_000


def sleep(shared, task):
    """A task: a value as large as that of a batch of scenes."""
    del shared
    time.sleep(task["seconds"])
    return {"scenes": 16, "sources": 100}


def task_of(seconds: float, scenes: int, sources: int = 6) -> dict:
    """A task as large as the description of a batch: sources of scenes, and those of their halos."""
    rng = np.random.default_rng(0)
    each = [
        {
            "ids": [str(number) for number in rng.integers(10**5, size=2 * sources)],
            "row_column": rng.normal(size=(2 * sources, 2)),
            "sky_and_noise": rng.normal(size=(2, 6)),
            "before": f"run/profiles-0/{rng.bytes(16).hex()}.npz",
        }
        for _ in range(scenes)
    ]
    return {"seconds": seconds, "scenes": each}


async def serve(file: str, count: int) -> None:
    """Run workers of one thread in this process until it is ended."""
    from distributed import Worker

    workers = [Worker(scheduler_file=file, nthreads=1, name=k) for k in range(count)]
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


@contextlib.contextmanager
def started(count: int):
    """Yield the file of a scheduler with so many workers, and its process."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder) / "scheduler.json"
        scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0"]
        scheduler += ["--scheduler-file", str(file), "--dashboard-address", "127.0.0.1:0"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        first = stack.enter_context(subprocess.Popen(scheduler, **quiet))
        stack.callback(first.terminate)
        while not file.exists():
            time.sleep(0.1)
        serving = [sys.executable, __file__, "--serve", str(file), "--workers", str(count)]
        second = stack.enter_context(subprocess.Popen(serving, **quiet))
        stack.callback(second.kill)
        yield str(file), psutil.Process(first.pid)


def used(process: psutil.Process) -> float:
    """Processor time of a process in seconds."""
    times = process.cpu_times()
    return times.user + times.system


def measured(count: int, number: int, seconds: float, scenes: int) -> dict:
    """Measure a run of tasks on so many workers."""
    from distributed import Client

    from scorepriors.inference.fields._executors import executor

    with started(count) as (file, process):
        with Client(scheduler_file=file) as client:
            client.wait_for_workers(count, timeout=120)
        time.sleep(3)
        before = used(process)
        time.sleep(10)
        idle = (used(process) - before) / 10
        tasks = [task_of(seconds, scenes)] * number
        with executor(scheduler=file) as run:
            list(run.map(sleep, tasks[:count]))
            before, moved, start = used(process), psutil.net_io_counters().bytes_sent, time.time()
            list(run.map(sleep, tasks))
            wall = time.time() - start
            return {
                "workers": count,
                "idle": idle,
                "cpu": (used(process) - before - idle * wall) / number,
                "rate": number / wall,
                "bytes": (psutil.net_io_counters().bytes_sent - moved) / number,
                "memory": process.memory_info().rss / 1e6,
            }


def table(rows: list[dict], scenes: int, seconds: float) -> str:
    """Table of what was measured, and of what follows for `SCENES` on `WORKERS`."""
    lines = [
        "| workers | idle scheduler, share of a core | scheduler per task, ms | tasks a second "
        "| bytes moved per scene | scheduler's memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['workers']} | {r['idle']:.3f} | {1e3 * r['cpu']:.2f} | {r['rate']:.0f} "
        f"| {r['bytes'] / scenes:.0f} | {r['memory']:.0f} |"
        for r in rows
    ]
    last = rows[-1]
    # Heartbeats become rarer with the number of workers: n / 200 + 1 seconds apart.
    beats = last["workers"] / interval(last["workers"])
    idle = last["idle"] * WORKERS / interval(WORKERS) / beats
    demanded = WORKERS / (scenes * seconds)
    lines += [
        "",
        f"Extrapolated to {SCENES:,} scenes of {seconds:g} s in batches of {scenes} on "
        f"{WORKERS:,} workers, one round:",
        "",
        f"- {SCENES // scenes:,} tasks in {SCENES * seconds / WORKERS:.0f} s, "
        f"{demanded:.0f} a second; load of the scheduler "
        f"{demanded * last['cpu'] + idle:.2f} of a core;",
        f"- {SCENES * last['bytes'] / scenes / 1e6:.0f} MB through the network, without the images "
        "that workers read and the parts that they write;",
        f"- {SCENES // scenes:,} files.",
    ]
    return "\n".join(lines)


def interval(workers: int) -> float:
    """Seconds between heartbeats of a worker, as `distributed` has them."""
    from distributed.scheduler import heartbeat_interval

    return heartbeat_interval(workers)


def files(folder: Path) -> str:
    """Number and size of the files of a run."""
    parts = [path for path in folder.rglob("*.npz") if path.is_file()]
    size = sum(path.stat().st_size for path in parts)
    return f"{folder}: {len(parts)} parts, {size / 1e6:.1f} MB."


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds of a task")
    parser.add_argument("--batch", type=int, default=16, help="scenes of a task")
    parser.add_argument("--scene", type=float, default=0.4, help="seconds of a scene, assumed")
    parser.add_argument("--run", type=Path, help="folder of a run, whose files are measured")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.workers[0]))
        return
    task = pickle.dumps(task_of(options.sleep, options.batch))
    print(f"a task of {options.batch} scenes is {len(task)} bytes")
    rows = [measured(n, options.tasks, options.sleep, options.batch) for n in options.workers]
    print(table(rows, options.batch, options.scene))
    if options.run is not None:
        print(files(options.run))


if __name__ == "__main__":
    main()
