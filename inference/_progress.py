"""Progress bars of long loops, all in one style."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Progress goes to stderr, so that tables and paths on stdout can be piped.
console = Console(stderr=True)


@contextmanager
def bar(label: str, total: int) -> Iterator[Callable]:
    """Yield ``update(done, text, total)`` that moves a bar."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total, text="")
        yield lambda done, text="", total=total: progress.update(
            task, completed=done, text=text, total=total
        )


@contextmanager
def bar_on_terminal(label: str, total: int, quiet: bool) -> Iterator[Callable]:
    """Yield `update` as `bar` does; without one where nobody looks."""
    if quiet or not console.is_terminal:
        yield lambda done, text="", total=total: None
    else:
        with bar(label, total) as update:
            yield update


@contextmanager
def fit_progress(progress: bool | str | Callable, total: int) -> Iterator[Callable]:
    """Yield ``report(iteration, potential, gain)`` for a fit; silent unless asked."""
    if callable(progress):
        yield progress
    elif progress:
        label = progress if isinstance(progress, str) else "fit"
        with bar(label, total) as update:
            yield lambda i, value, gain: update(i, f"potential {value:.2f}, to gain {gain:.2g}")
    else:
        yield lambda i, value, gain: None
