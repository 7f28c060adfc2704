"""One protocol of progress: a function, a bar, or silence."""

import io

import pytest
from rich.console import Console

from scorepriors import _progress
from scorepriors._progress import on_terminal, reporting


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
    assert (on_terminal("x", quiet=False), on_terminal("x", quiet=True)) == ("x", False)


@pytest.mark.parametrize("progress", [False, None])
def test_silence(capsys, progress):
    with reporting(progress, "fit") as report:
        report(1, 1, "text")
    assert capsys.readouterr() == ("", "")
    assert on_terminal(True, quiet=False) is False
