"""Executors of tasks: this process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from scorepriors._errors import InputError


class Serial:
    """Runs tasks in this process, one after the other."""

    dashboard = None

    def map(self, function: Callable, tasks: Sequence, shared: Any = None) -> Iterator:
        """Yield (number, value) of tasks as they end."""
        for number, task in enumerate(tasks):
            yield number, function(shared, task)


@contextmanager
def executor(*, workers: int = 1, scheduler: str | None = None):
    """Yield an executor."""
    if workers > 1 or scheduler:
        raise InputError("workers need the extra [cluster].")
    yield Serial()
