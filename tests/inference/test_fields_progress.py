"""Progress of a field: rates and time left, on a terminal, in a log file, and to a function."""

import io

import pytest
from rich.console import Console

from scorepriors import _progress
from scorepriors.inference.fields._progress import FieldProgress


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def screen(monkeypatch, *, terminal):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    monkeypatch.setattr(_progress, "console", console)
    return stream


def test_a_function_gets_counts_rate_and_time_left(clock):
    seen = []
    shown = FieldProgress(lambda *said: seen.append(said), clock=clock)
    shown.step("profiles", 100)
    clock.now += 10
    shown.advance(20, 50)
    assert seen == [
        (0, 100, "profiles"),
        (20, 100, "profiles, 50 sources, 5.0 sources/s, 40 s left"),
    ]
    shown.step("final", 3)
    assert seen[-1] == (0, 3, "final")


def test_the_rate_is_that_of_late(clock):
    """A first batch takes long because it is compiled; the time left forgets it."""
    seen = []
    shown = FieldProgress(lambda *said: seen.append(said), clock=clock)
    shown.step("final", 1000)
    clock.now += 1000
    shown.advance(10, 10)
    for _ in range(_progress.RECENT):
        clock.now += 1
        shown.advance(10, 20)
    assert seen[-1] == (210, 1000, "final, 410 sources, 20 sources/s, 1 min 19 s left")


def test_what_an_earlier_run_did_does_not_count_for_the_rate(clock):
    seen = []
    shown = FieldProgress(lambda *said: seen.append(said), clock=clock)
    shown.step("final", 100, done=60)
    clock.now += 10
    shown.advance(20, 40)
    assert seen == [
        (60, 100, "final, 60 scenes done before"),
        (80, 100, "final, 40 sources, 4.0 sources/s, 10 s left"),
    ]


def test_a_line_a_minute_without_a_terminal(monkeypatch, clock):
    stream = screen(monkeypatch, terminal=False)
    address = "http://127.0.0.1:8787/status"
    with FieldProgress(True, dashboard=address, clock=clock) as shown:
        shown.step("detect", 6, unit="tiles")
        for _ in range(6):
            clock.now += 25
            shown.advance(1)
        shown.step("final", 2)
        clock.now += 10
        shown.advance(2, 5)
    assert stream.getvalue().splitlines() == [
        "scorepriors: the scheduler shows its tasks at http://127.0.0.1:8787/status",
        "scorepriors: detect: 3 of 6 tiles, 1 min 15 s left",
        "scorepriors: detect: 6 of 6 tiles",
        "scorepriors: detect: 6 tiles in 2 min 30 s",
        "scorepriors: final: 2 scenes, 5 sources in 10 s",
    ]


def test_a_bar_on_a_terminal(monkeypatch, clock):
    stream = screen(monkeypatch, terminal=True)
    with FieldProgress("field", clock=clock) as shown:
        shown.step("final", 40)
        clock.now += 10
        shown.advance(10, 30)
    text = stream.getvalue()
    assert "10/40" in text
    assert "30 sources, 3.0 sources/s, 30 s left" in text
    assert "final: 10 scenes, 30 sources in 10 s" in text


def test_a_step_that_failed_is_not_said_to_be_done(monkeypatch, clock):
    stream = screen(monkeypatch, terminal=False)
    shown = FieldProgress(True, clock=clock)
    shown.step("final", 2)
    with pytest.raises(OSError, match="full"), shown:
        raise OSError("the disk is full")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("progress", [False, None])
def test_silence(capsys, progress):
    with FieldProgress(progress, dashboard="http://127.0.0.1:8787") as shown:
        shown.step("final", 2)
        shown.advance(2, 5)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_said_after_the_end(monkeypatch, clock):
    stream = screen(monkeypatch, terminal=False)
    shown = FieldProgress(True, clock=clock)
    shown.step("final", 1)
    shown.close()
    said = stream.getvalue()
    shown.close()
    assert stream.getvalue() == said == "scorepriors: final: 0 scenes in 0 s\n"
