"""Tasks on the workers of a Dask cluster, of this machine or of many."""

import contextlib
import itertools
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.scheduler import KilledWorker

from scorepriors._errors import InputError
from scorepriors._files import atomic_path
from scorepriors._programs import cache_folder, keep_programs

#: Tasks that are with the cluster for each of its threads: enough for none to wait, and few for the
#: scheduler to hold.
_AHEAD = 3

#: Fewest of them, and seconds between looks at how many threads there are.
_FEWEST, _LOOK = 16, 5.0

#: Times that the worker of a task may die before the task is given up.
_DEATHS = 5

#: Seconds to wait for a scheduler, and without any worker.
_PATIENCE, _GONE = 30, 300.0

#: Times that what tasks share is sent, should a worker die meanwhile.
_TRIES = 3

#: Variables that limit the threads of XLA (NPROC) and of linear algebra.
_THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

#: What tasks share, by the name of the run, in a worker.
_SHARED: dict[str, Any] = {}

#: A worker runs one task at a time, however many threads it has.
_ONE = threading.Lock()


class Share(WorkerPlugin):
    """Gives what all tasks share to each worker, those that come later too."""

    idempotent = False

    def __init__(self, name: str, payload: bytes | Path):
        self.name, self._payload = name, payload

    def setup(self, worker) -> None:
        """Unpack it in the worker, when a task needs it first."""
        _SHARED[self.name] = _Packed(self._payload)

    def teardown(self, worker) -> None:
        """Forget it."""
        _SHARED.pop(self.name, None)


class _Packed:
    """A value that is unpacked when it is needed, in the thread of a task."""

    def __init__(self, payload: bytes | Path):
        self._payload: bytes | Path | None = payload
        self._value: Any = None

    def value(self) -> Any:
        if self._payload is not None:
            data = self._payload
            try:
                read = data if isinstance(data, bytes) else data.read_bytes()
            except FileNotFoundError as error:
                raise InputError(
                    f"a worker does not see {str(data)!r}: the folder of the results must be one that "
                    "all workers see."
                ) from error
            self._value = pickle.loads(read)
            self._payload = None
        return self._value


class Prepare(WorkerPlugin):
    """Lets workers share the cache of compiled programs; those of this machine ignore Ctrl-C."""

    name = "scorepriors-prepare"

    def __init__(self, environment: dict[str, str], own: bool):
        self._environment, self._own = environment, own

    def setup(self, worker) -> None:
        """Set what JAX reads when it is imported, or JAX itself where it was."""
        if self._own:
            # Ctrl-C in a terminal reaches all processes; the first one ends the others.
            with contextlib.suppress(ValueError):
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            return
        for variable, value in self._environment.items():
            os.environ.setdefault(variable, value)
        jax = sys.modules.get("jax")
        if jax is not None and jax.config.jax_compilation_cache_dir is None:
            keep_programs()


class Cluster:
    """Runs tasks on the workers of a client."""

    def __init__(self, client: Client, dashboard: str | None):
        self._client, self.dashboard = client, dashboard
        self.folder: Path | None = None
        self._shared: Any = None
        self._name = ""
        self._file: Path | None = None

    def map(
        self, function: Callable[[Any, Any], Any], tasks: Sequence[Any], shared: Any = None
    ) -> Iterator[tuple[int, Any]]:
        """Yield (number of the task, ``function(shared, task)``) as tasks end."""
        if not len(tasks):
            return
        self._share(shared)
        waiting = iter(enumerate(tasks))
        ended: queue.SimpleQueue = queue.SimpleQueue()
        numbers: dict[Any, int] = {}
        looked, most = -_LOOK, _FEWEST
        try:
            while True:
                if time.monotonic() - looked > _LOOK:
                    threads = sum(self._client.nthreads().values())
                    looked, most = time.monotonic(), max(_FEWEST, _AHEAD * threads)
                more = list(itertools.islice(waiting, max(most - len(numbers), 0)))
                for number, task in more:
                    future = self._client.submit(
                        _call, self._name, function, task, pure=False, retries=0
                    )
                    numbers[future] = number
                    future.add_done_callback(ended.put)
                if not numbers:
                    return
                future = self._next(ended)
                value = _value(future)
                yield numbers.pop(future), value
        finally:
            # After an error or Ctrl-C: what has not begun never does.
            with contextlib.suppress(Exception):
                self._client.cancel(list(numbers), force=True)

    def _next(self, ended: queue.SimpleQueue) -> Any:
        """Wait for a task that ended, as long as there are workers."""
        seen = time.monotonic()
        while True:
            try:
                return ended.get(timeout=_LOOK)
            except queue.Empty:
                if self._client.nthreads():
                    seen = time.monotonic()
                if time.monotonic() - seen > _GONE:
                    raise InputError(
                        f"there has been no worker for {_GONE:.0f} s; start some, and go on from what "
                        "is done with --resume (resume=True)."
                    ) from None

    def close(self) -> None:
        """Let workers forget what tasks shared."""
        if self._name:
            with contextlib.suppress(Exception):
                self._client.unregister_worker_plugin(self._name)
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        self._name, self._shared, self._file = "", None, None

    def _share(self, shared: Any) -> None:
        if self._name and shared is self._shared:
            return
        self.close()
        self._name, self._shared = f"scorepriors-{uuid.uuid4().hex}", shared
        packed = pickle.dumps(shared)
        if self.folder is not None:
            self._file = self.folder / f"{self._name}.pickle"
            with atomic_path(self._file) as temporary:
                Path(temporary).write_bytes(packed)
        plugin = Share(self._name, self._file or packed)
        for left in reversed(range(_TRIES)):
            try:
                self._client.register_plugin(plugin)
                return
            except OSError:  # a worker died while it was sent
                if not left:
                    raise


def _call(name: str, function: Callable[[Any, Any], Any], task: Any) -> Any:
    with _ONE:
        return function(_SHARED[name].value(), task)


def _value(future) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        raise InputError(
            f"a task ended its worker {error.allowed_failures + 1} times, mostly for want of memory: give "
            "fewer workers, or more memory to each; --resume (resume=True) goes on from what is done."
        ) from error


@contextmanager
def cluster(workers: int) -> Iterator[Cluster]:
    """Yield processes of this machine as an executor."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max((cores or 1) // workers, 1)
    environment = _cache() | dict.fromkeys(_THREADS, str(threads))
    with_page = find_spec("bokeh") is not None
    settings = {
        "distributed.scheduler.allowed-failures": _DEATHS,
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.comm.timeouts.connect": _PATIENCE,
        "distributed.admin.tick.limit": "1h",
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        try:
            local = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=0,  # files that are mapped would count
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
            )
        except (RuntimeError, OSError, TimeoutError) as error:
            raise InputError(
                f"{workers} worker processes could not be started; in a script put the call under "
                "if __name__ == '__main__':, and give fewer if memory is short."
            ) from error
        client = stack.enter_context(Client(local, timeout=_PATIENCE))
        client.register_plugin(Prepare(environment, own=True))
        run = Cluster(client, local.dashboard_link if with_page else None)
        stack.callback(run.close)
        yield run


@contextmanager
def connected(scheduler: str) -> Iterator[Cluster]:
    """Yield the workers of a scheduler as an executor."""
    is_file = scheduler.endswith(".json") or Path(scheduler).is_file()
    if is_file and not Path(scheduler).is_file():
        raise InputError(f"there is no scheduler file at {scheduler!r}.")
    given = {"scheduler_file": scheduler} if is_file else {"address": scheduler}
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(Client(timeout=_PATIENCE, **given))
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(
                f"no Dask scheduler answers at {scheduler!r}; give its address, as "
                "tcp://host:8786 (--scheduler), or the file that it wrote."
            ) from error
        client.register_plugin(Prepare(_cache(), own=False))
        run = Cluster(client, client.dashboard_link)
        stack.callback(run.close)
        yield run


def _cache() -> dict[str, str]:
    """Return the variables by which JAX is told of the cache of compiled programs."""
    import jax

    config: Any = jax.config
    folder = config.jax_compilation_cache_dir or cache_folder()
    least = min(config.jax_persistent_cache_min_compile_time_secs, 0.3)
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(least),
    }
