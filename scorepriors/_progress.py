"""Progress of long loops: one protocol for all, and one style of bars.

Long computations take an argument ``progress`` (`Progress`): a function that is called as
``progress(done, total, text)``, True for a bar, a text for a bar of that name, or False.
`done` may start again, with another `total`, where a run has several parts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

#: Function called with the steps done, their total, and a text to show.
Report = Callable[[int, int, str], object]

#: How to report: a function, True or a name for a bar, or not at all.
Progress = bool | str | Report | None

#: Progress goes to stderr, so that tables and paths on stdout can be piped.
console = Console(stderr=True)


@contextmanager
def reporting(progress: Progress, label: str, total: int = 1) -> Iterator[Report]:
    """Yield ``report(done, total, text)`` for a loop; without `progress` it does nothing.

    Parameters
    ----------
    progress
        Argument of the user.
    label
        Name of the bar, where `progress` gives none.
    total
        Total that a bar shows before the first report.
    """
    if callable(progress):
        yield progress
    elif progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Bar(*columns, console=console, transient=True) as bar:
            name = progress if isinstance(progress, str) else label
            task = bar.add_task(name, total=total, text="")
            yield lambda done, total, text: bar.update(task, completed=done, total=total, text=text)
    else:
        yield lambda done, total, text: None


def on_terminal(progress: Progress, quiet: bool) -> Progress:
    """Return `progress` if the output is a terminal and `quiet` is False."""
    return progress if console.is_terminal and not quiet else False
