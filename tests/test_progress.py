"""One protocol of progress: a function, a bar, or silence."""

import io

import pytest
from rich.console import Console

from scorepriors import _progress
from scorepriors._progress import Lines, Minutes, duration, reporting, unless_quiet


def test_a_function_gets_what_is_reported():
    seen = []
    with reporting(lambda *said: seen.append(said), "fit", 3) as report:
        report(1, 3, "one")
        report(0, 2, "another part")
    assert seen == [(1, 3, "one"), (0, 2, "another part")]


@pytest.mark.parametrize(("progress", "name"), [(True, "fit"), ("galaxies", "galaxies")])
def test_a_bar_on_a_terminal(monkeypatch, progress, name):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    monkeypatch.setattr(_progress, "console", console)
    with reporting(progress, "fit", 3) as report:
        report(2, 4, "potential 1")
    assert name in stream.getvalue()
    assert "2/4" in stream.getvalue()
    assert "potential 1" in stream.getvalue()


@pytest.mark.parametrize("progress", [False, None])
def test_silence(capsys, progress):
    with reporting(progress, "fit") as report:
        report(1, 1, "text")
    assert capsys.readouterr() == ("", "")


def test_commands_are_silent_if_they_are_told_to_be():
    assert (unless_quiet("x", quiet=False), unless_quiet("x", quiet=True)) == ("x", False)


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def log(monkeypatch):
    """What is printed where there is no terminal."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=False, width=40)
    monkeypatch.setattr(_progress, "console", console)
    return stream


def test_a_line_a_minute_without_a_terminal(monkeypatch, log):
    clock = Clock()
    monkeypatch.setattr(_progress, "_MINUTES", minutes := Minutes(clock))
    # Two loops of half a minute each: what counts is how long nothing was said.
    for name in ("profiles", "sample"):
        with reporting(name, "fit") as report:
            assert isinstance(report, Lines)
            clock.now += 35
            report(10, 2300, "")
    assert log.getvalue() == "scorepriors: sample: 10 of 2,300, 17.1/min, 2 h 13 min left\n"
    clock.now += 59
    unless_quiet(True, quiet=False)  # another command of this process
    clock.now += 2
    assert not minutes.over()


def test_lines_tell_rate_and_time_left(log):
    clock = Clock()
    report = Lines("sample", Minutes(clock))
    for done in (0, 100, 100, 200):
        report(done, 1000, "warm-up: acceptance 0.81")
        clock.now += 30
    assert log.getvalue() == (
        "scorepriors: sample: 100 of 1,000, warm-up: acceptance 0.81, 3.3/s, 4 min 30 s left\n"
    )
    # Another part of the run begins: its rate is its own.
    report(0, 40, "[draws]")
    clock.now += 60
    report(2, 40, "[draws]")
    assert log.getvalue().splitlines()[1:] == [
        "scorepriors: sample: 0 of 40, [draws]",
        "scorepriors: sample: 2 of 40, [draws], 2.0/min, 19 min 0 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.4, "59 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min")]
)
def test_durations_round_up_to_the_next_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("name", ["fit", "simulating pairs of a survey with a very long name"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 200,
        "potential -1234567.8, 8 of 8 blends, acceptance 0.81, 12 divergences, and further facts",
        "[red] two\nlines",
    ],
)
def test_a_bar_of_80_columns_keeps_count_speed_and_time_left(monkeypatch, name, text):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(_progress, "console", console)
    console.get_time = clock = Clock()
    with reporting(name, "fit", 3) as report:
        bar = report.__closure__[0].cell_contents
        for done in (0, 100_000, 200_000):
            report(done, 1_234_567, text)
            clock.now += 10.0
        (line,) = _lines_of(bar)
    assert len(line) <= 80
    assert line.startswith(name[:10])
    assert " 200000/1234567 10,000/s 0:01:44" in line
    if text:
        assert text[:3] in line.partition("0:01:44")[2]


def _lines_of(bar):
    """Return the lines of a bar that is being drawn, on a terminal of its own."""
    stream = io.StringIO()
    Console(file=stream, width=80, color_system=None).print(bar.get_renderable())
    return stream.getvalue().splitlines()
