"""Progress of a field: scenes done, sources per second, time left; a bar or a line a minute."""

import time
from collections import deque
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from scorepriors._progress import Progress, console

#: Seconds between lines where there is no terminal.
EVERY = 60.0

#: Reports from which the rate is taken: the first batch of a shape is compiled and says little.
_RECENT = 20


class FieldProgress:
    """What is shown while a field runs, step by step.

    On a terminal it is a bar, elsewhere (a log file, a batch system) a line each minute; steps that
    are done leave a line in both.

    Parameters
    ----------
    progress
        True or a name to show something; a function called as ``progress(done, total, text)``
        instead; False or None for nothing.
    dashboard
        Address of the page on which a scheduler shows its tasks; None if there is none.
    clock
        Function that returns seconds.

    Examples
    --------
    >>> shown = FieldProgress(lambda done, total, text: print(done, total, text), clock=lambda: 0.0)
    >>> shown.step("final", 8)
    0 8 final
    >>> shown.advance(2, 9)
    2 8 final, 9 sources
    >>> shown.close()
    """

    def __init__(
        self,
        progress: Progress,
        *,
        dashboard: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock = clock
        self._name, self._total, self._unit = "", 0, "scenes"
        self._started = self._told = clock()
        self._scenes = self._sources = 0
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=_RECENT + 1)
        self._report = progress if callable(progress) else None
        self._lines = bool(progress) and self._report is None
        self._bar: Bar | None = None
        if self._lines and (console.is_terminal or console.is_jupyter):
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Bar(
                *columns, TextColumn("{task.fields[text]}"), console=console, transient=True
            )
            self._task = self._bar.add_task("", total=None, text="")
            self._bar.start()
        if dashboard:
            self._say(f"the scheduler shows its tasks at {dashboard}")

    def step(self, name: str, total: int, *, done: int = 0, unit: str = "scenes") -> None:
        """Begin a step.

        Parameters
        ----------
        name
            Its name.
        total
            Number of its scenes (or of another `unit`).
        done
            Those that an earlier run has done; they do not count for the rate.
        unit
            What is counted, in the plural.
        """
        self._finish()
        self._name, self._total, self._unit = name, int(total), unit
        self._scenes, self._sources = int(done), 0
        self._started = self._told = self._clock()
        self._recent.clear()
        self._recent.append((self._started, self._scenes, 0))
        self._show([f"{done:,} {unit} done before"] if done else [])

    def advance(self, scenes: int = 1, sources: int = 0) -> None:
        """Count scenes that are done, and the sources in them."""
        self._scenes += int(scenes)
        self._sources += int(sources)
        self._recent.append((self._clock(), self._scenes, self._sources))
        self._show(self._facts())

    def close(self) -> None:
        """End the last step; nothing is shown afterwards."""
        self._finish()
        self._name = ""
        if self._bar is not None:
            self._bar.stop()
        self._report, self._lines, self._bar = None, False, None

    def __enter__(self) -> "FieldProgress":
        return self

    def __exit__(self, *error) -> None:
        # A step that an error ended is not said to be done.
        self._name = "" if error[0] is not None else self._name
        self.close()

    def _facts(self) -> list[str]:
        """Return number and rate of the sources and the time left, as far as they are known."""
        facts = [f"{self._sources:,} sources"] if self._sources else []
        (before, scenes, sources), (now, *_) = self._recent[0], self._recent[-1]
        passed = now - before
        if passed <= 0:
            return facts
        if self._sources > sources:
            facts.append(f"{_rate((self._sources - sources) / passed)} sources/s")
        left = self._total - self._scenes
        if left > 0 and self._scenes > scenes:
            facts.append(f"{duration(left * passed / (self._scenes - scenes))} left")
        return facts

    def _show(self, facts: list[str]) -> None:
        if self._report is not None:
            self._report(self._scenes, self._total, ", ".join([self._name, *facts]))
        elif self._bar is not None:
            self._bar.update(
                self._task,
                completed=self._scenes,
                total=self._total,
                description=self._name,
                text=", ".join(facts),
            )
        elif self._lines and self._clock() - self._told >= EVERY:
            self._told = self._clock()
            counts = f"{self._scenes:,} of {self._total:,} {self._unit}"
            self._say(f"{self._name}: {', '.join([counts, *facts])}")

    def _finish(self) -> None:
        """Leave a line about the step that is done."""
        if not self._name:
            return
        found = f", {self._sources:,} sources" if self._sources else ""
        took = duration(self._clock() - self._started)
        unit = self._unit.removesuffix("s") if self._scenes == 1 else self._unit
        self._say(f"{self._name}: {self._scenes:,} {unit}{found} in {took}")

    def _say(self, line: str) -> None:
        if self._lines:
            console.print(f"scorepriors: {line}", highlight=False, soft_wrap=True, markup=False)


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Return a time in words.

    Examples
    --------
    >>> duration(3.4), duration(76), duration(7380)
    ('3 s', '1 min 16 s', '2 h 3 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
