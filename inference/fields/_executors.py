"""Executors of tasks: this process, processes of this machine, or a Dask cluster.

A task is a small value that a function turns into another one; what all tasks of a run need is sent
to each worker once.  Nothing depends on where tasks run, nor on their order.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from scorepriors._errors import InputError

#: How to get what workers need.
_EXTRA = "pip install 'scorepriors[cluster]'"


class Executor(Protocol):
    """Runs tasks.

    Attributes
    ----------
    dashboard
        Address of the page that shows them; None if there is none.
    folder
        Folder that all workers see, through which they get what all tasks need; if None, the
        scheduler sends it to them.
    """

    dashboard: str | None
    folder: Path | None

    def map(
        self, function: Callable[[Any, Any], Any], tasks: Sequence[Any], shared: Any = None
    ) -> Iterator[tuple[int, Any]]:
        """Yield (number of the task, ``function(shared, task)``) as tasks end.

        Exceptions of tasks are raised here; then, and at Ctrl-C, what has not begun never does.
        """
        ...


class Serial:
    """Runs tasks in this process, one after the other."""

    dashboard: str | None = None
    folder: Path | None = None

    def map(
        self, function: Callable[[Any, Any], Any], tasks: Sequence[Any], shared: Any = None
    ) -> Iterator[tuple[int, Any]]:
        """Yield numbers and values of tasks as they end."""
        for number, task in enumerate(tasks):
            yield number, function(shared, task)


@contextmanager
def executor(*, workers: int = 1, scheduler: str | None = None) -> Iterator[Executor]:
    """Yield an executor, whose workers end with the block.

    Parameters
    ----------
    workers
        Processes of this machine; one is this process.  Each is given its share of the cores, and
        all use one cache of compiled programs.
    scheduler
        Address of a Dask scheduler, as ``tcp://host:8786``, or a file that it wrote
        (``--scheduler-file``); its workers run the tasks, and go on when this is over.

    Raises
    ------
    InputError
        If both are given, Dask is not installed, or the scheduler does not answer.

    Examples
    --------
    >>> with executor() as run:
    ...     list(run.map(lambda shared, task: shared * task, [1, 2, 3], shared=10))
    [(0, 10), (1, 20), (2, 30)]
    """
    workers = _checked(workers)
    if scheduler is not None and workers > 1:
        raise InputError(
            "give workers= (processes of this machine) or scheduler= (those of a cluster), not both "
            "(--workers, --scheduler)."
        )
    if scheduler is None and workers == 1:
        yield Serial()
        return
    try:
        from ._dask import cluster, connected
    except ImportError as error:
        wanted = f"{workers} workers" if scheduler is None else f"the scheduler {scheduler}"
        raise InputError(f"{wanted} need dask.distributed: {_EXTRA}.") from error
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            "a worker process was started by a script that it runs itself; put the call under "
            "if __name__ == '__main__': in the script."
        )
    with cluster(workers) if scheduler is None else connected(scheduler) as run:
        yield run


def _checked(workers: Any) -> int:
    whole = isinstance(workers, int) and not isinstance(workers, bool)
    if not whole or workers < 1:
        raise InputError(f"workers is {workers!r}; give the number of processes, 1 or more.")
    return workers
