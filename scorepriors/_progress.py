"""Progress of long loops: one protocol for all, one style of bars, and a line a minute in logs.

Long computations take an argument ``progress`` (`Progress`): a function that is called as
``progress(done, total, text)``, True for a bar, a text for a bar of that name, or False.
`done` may start again, with another `total`, where a run has several parts.  Where there is no
terminal (a log file, a batch system) a bar is a line each minute.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

#: Function called with the steps done, their total, and a text to show.
Report = Callable[[int, int, str], object]

#: How to report: a function, True or a name for a bar, or not at all.
Progress = bool | str | Report | None

#: Progress goes to stderr, so that tables and paths on stdout can be piped.
console = Console(stderr=True)

#: Seconds between lines where there is no terminal.
EVERY = 60.0

#: Reports from which the rate is taken: the first steps are compiled and say little.
RECENT = 20


class Pace:
    """Rate of a loop of late, and the time it will take.

    Parameters
    ----------
    clock
        Function that returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT + 1)

    def start(self, done: int = 0) -> None:
        """Begin a loop of which `done` steps need not be done."""
        self._recent.clear()
        self.count(done)

    def count(self, done: int) -> None:
        """Note that `done` steps are done."""
        self._recent.append((self._clock(), done))

    @property
    def rate(self) -> float | None:
        """Steps per second; None while it is not known."""
        (before, first), (now, last) = self._recent[0], self._recent[-1]
        return (last - first) / (now - before) if now > before and last > first else None

    def left(self, total: int) -> float | None:
        """Seconds until `total` steps are done; None if they are, or while it is not known."""
        rate, steps = self.rate, total - self._recent[-1][1]
        return steps / rate if rate is not None and steps > 0 else None


class Minutes:
    """Lines of a log file, one a minute.

    Parameters
    ----------
    clock
        Function that returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.start()

    def start(self) -> None:
        """Begin a minute."""
        self._told = self.clock()

    def over(self) -> bool:
        """Return whether a minute is over; if so, another one begins."""
        if self.clock() - self._told < EVERY:
            return False
        self.start()
        return True


#: That of all loops together: many short ones after each other take long as well.
_MINUTES = Minutes()


class Lines:
    """A report for `reporting` that prints a line a minute, with rate and time left.

    Parameters
    ----------
    name
        Name of the loop.
    minutes
        When a line is due.
    """

    def __init__(self, name: str, minutes: Minutes):
        self._name, self._minutes, self._pace = name, minutes, Pace(minutes.clock)
        self._done = 0
        self._pace.start()

    def __call__(self, done: int, total: int, text: str) -> None:
        """Count, and print a line if one is due."""
        if done < self._done:
            self._pace.start(done)
        elif done > self._done:
            self._pace.count(done)
        self._done = done
        if self._minutes.over():
            rate, left = self._pace.rate, self._pace.left(total)
            facts = [f"{done:,} of {total:,}", text]
            facts.append("" if rate is None else speed(rate))
            facts.append("" if left is None else f"{duration(left)} left")
            say(f"{self._name}: {', '.join(filter(None, facts))}")


def say(line: str) -> None:
    """Print one line of progress."""
    console.print(f"scorepriors: {line}", highlight=False, soft_wrap=True, markup=False)


def has_screen() -> bool:
    """Return whether bars can be drawn."""
    return console.is_terminal or console.is_jupyter


def speed(rate: float) -> str:
    """Return a number of steps per second in words.

    Examples
    --------
    >>> speed(214.3), speed(3.21), speed(0.05)
    ('214/s', '3.2/s', '3.0/min')
    """
    if rate < 1:
        return f"{60 * rate:.1f}/min"
    return f"{rate:.1f}/s" if rate < 10 else f"{rate:,.0f}/s"


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


#: Longest name of a bar that is not cut: numbers have room beside it in 80 columns.
LONGEST_NAME = 24


class _Line:
    """Words on one line, which are cut to the room that there is, down to one character.

    Parameters
    ----------
    words
        The words; markup of rich is none here.
    """

    def __init__(self, words: str):
        self._text = Text(" ".join(words.split()), no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(1, self._text.cell_len), self._text.cell_len)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self._text.copy()
        text.truncate(options.max_width, overflow="ellipsis")
        yield text


class _Words(ProgressColumn):
    """Words beside a bar, which are cut where the line has no room.

    Parameters
    ----------
    words
        Function that returns them from a task.
    longest
        Most characters; as many as there is room for if not given.
    """

    def __init__(self, words: Callable[[Task], str], longest: int | None = None):
        # rich takes room from columns that may be wrapped, before it cuts the others.
        super().__init__(table_column=Column(no_wrap=longest is not None))
        self._words, self._longest = words, longest

    def render(self, task: Task) -> _Line:
        """Return the words as one line."""
        words = self._words(task)
        if self._longest is not None and len(words) > self._longest:
            words = f"{words[: self._longest - 1]}…"
        return _Line(words)


def _name_of(task: Task) -> str:
    return task.description


def _text_of(task: Task) -> str:
    return str(task.fields["text"])


class _Speed(ProgressColumn):
    """Steps per second of late."""

    def render(self, task: Task) -> Text:
        """Return the speed in words; nothing while it is not known."""
        rate = task.finished_speed or task.speed
        return Text("" if not rate else speed(rate), style="progress.data.speed")


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
    name = progress if isinstance(progress, str) else label
    if callable(progress):
        yield progress
    elif progress and not has_screen():
        yield Lines(name, _MINUTES)
    elif progress:
        columns = (
            _Words(_name_of, LONGEST_NAME),
            BarColumn(bar_width=16, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _Speed(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            _Words(_text_of),
        )
        with Bar(*columns, console=console, transient=True) as bar:
            task = bar.add_task(name, total=total, text="")
            yield lambda done, total, text: bar.update(task, completed=done, total=total, text=text)
    else:
        yield lambda done, total, text: None


def unless_quiet(progress: Progress, quiet: bool) -> Progress:
    """Return what a command gives as `progress`; the first minute of a log begins."""
    _MINUTES.start()
    return False if quiet else progress
