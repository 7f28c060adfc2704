"""Progress of a field: scenes done, sources per second, time left; a bar or a line a minute."""

import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from scorepriors import _progress as common
from scorepriors._progress import Minutes, Pace, Progress, duration


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
        self._started, self._minutes = clock(), Minutes(clock)
        self._scenes = self._sources = 0
        self._pace, self._pace_of_sources = Pace(clock), Pace(clock)
        self._report = progress if callable(progress) else None
        self._lines = bool(progress) and self._report is None
        self._bar: Bar | None = None
        if self._lines and common.has_screen():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            text = TextColumn("{task.fields[text]}")
            self._bar = Bar(*columns, text, console=common.console, transient=True)
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
        self._started = self._clock()
        self._minutes.start()
        self._pace.start(self._scenes)
        self._pace_of_sources.start()
        self._show([f"{done:,} {unit} done before"] if done else [])

    def advance(self, scenes: int = 1, sources: int = 0) -> None:
        """Count scenes that are done, and the sources in them."""
        self._scenes += int(scenes)
        self._sources += int(sources)
        self._pace.count(self._scenes)
        self._pace_of_sources.count(self._sources)
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
        rate, left = self._pace_of_sources.rate, self._pace.left(self._total)
        if rate is not None:
            facts.append(f"{_rate(rate)} sources/s")
        if left is not None:
            facts.append(f"{duration(left)} left")
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
        elif self._lines and self._minutes.over():
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
            common.say(line)


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
