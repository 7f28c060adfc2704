"""What the shell says of positions, noise and sky, with its exit codes."""

import dataclasses
import json

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

from scorepriors.inference.cli import main
from scorepriors.inference.cli._common import BAD_INPUT, NOT_TRUSTED
from scorepriors.inference.deblending._options import Options
from scorepriors.models.simulation._example import load_example


@pytest.fixture(scope="module")
def example():
    return load_example()


@pytest.fixture
def deblend(tmp_path, monkeypatch, example):
    """The command on a changed example, with profiles alone: the fit is not what is tested."""
    monkeypatch.setattr(Options, "of", lambda keywords: Options(**keywords, free_form=False))

    def run(*options, catalog=None, **changed):
        obs = dataclasses.replace(example[0], catalog=None, **changed)
        obs.to_fits(tmp_path / "blend.fits", overwrite=True)
        if catalog is None:
            catalog = tmp_path / "catalog.csv"
            rows, columns = example[1].center.T
            Table({"x": columns, "y": rows}).write(catalog, overwrite=True)
        given = ["--catalog", catalog, "--output", tmp_path / "out", "--force", "--quiet"]
        command = ["deblend", tmp_path / "blend.fits", *given, *options]
        return CliRunner().invoke(main, [str(one) for one in command])

    return run


def said(outcome):
    return [line for line in outcome.stderr.splitlines() if line]


def noise_of(obs):
    return np.array([np.median(w[w > 0]) ** -0.5 for w in obs.weights])[:, None, None]


def test_nothing_is_said_of_a_good_file(deblend, tmp_path):
    outcome = deblend()
    assert outcome.exit_code == 0, outcome.output
    assert said(outcome) == []
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["notes"] == []
    assert "nothing speaks against" in (tmp_path / "out" / "report.html").read_text()


def test_positions_off_by_one_vector(deblend, example, tmp_path):
    rows, columns = example[1].center.T
    Table({"x": columns + 8, "y": rows}).write(tmp_path / "off.tsv", format="ascii.tab")
    outcome = deblend(catalog=tmp_path / "off.tsv")
    assert outcome.exit_code == NOT_TRUSTED, outcome.output
    (line,) = [one for one in said(outcome) if "apart by one vector" in one]
    assert line.startswith("scorepriors: ")
    assert "(x, y) = (-" in line


def test_rows_outside_are_counted_and_a_margin_keeps_them(deblend, example, tmp_path):
    rows, columns = example[1].center.T
    places = {"x": [*columns, -7.0, 900.0], "y": [*rows, 30.0, 3.0]}
    Table(places).write(tmp_path / "survey.csv")
    outcome = deblend(catalog=tmp_path / "survey.csv")
    assert any("2 of 6 sources of the catalog are outside" in line for line in said(outcome))
    (sentence,) = json.loads((tmp_path / "out" / "summary.json").read_text())["notes"]
    assert "2 of 6 sources of the catalog are outside" in sentence
    outcome = deblend("--margin", 10, catalog=tmp_path / "survey.csv")
    assert any("1 just outside was kept (margin 10 px)" in line for line in said(outcome))
    table = Table.read(tmp_path / "out" / "catalog.ecsv")
    assert len(table) == 5
    assert table["x"][4] < 0


def test_a_margin_is_no_negative_number(deblend):
    assert deblend("--margin", -1).exit_code == BAD_INPUT


def test_noise_that_is_not_what_the_file_says(deblend, example, tmp_path):
    weights = example[0].weights / 64
    outcome = deblend(weights=weights)
    assert outcome.exit_code == NOT_TRUSTED
    (line,) = said(outcome)
    assert "times too large in band" in line
    assert "--rescale-noise" in line
    outcome = deblend("--rescale-noise", weights=weights)
    assert outcome.exit_code == 0, outcome.output
    (line,) = said(outcome)
    assert line.startswith("scorepriors: errors were multiplied by 0.12")
    # It was said once, and is in the files.
    (sentence,) = json.loads((tmp_path / "out" / "summary.json").read_text())["notes"]
    assert line == f"scorepriors: {sentence}"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "errors were multiplied by 0.12" in page
    assert "nothing speaks against" not in page


def test_a_sky_that_is_left_in(deblend, example, tmp_path):
    images = example[0].images + 0.5 * noise_of(example[0])
    outcome = deblend("--sky", "none", images=images)
    assert outcome.exit_code == NOT_TRUSTED
    assert any("a sky is left in that biases fluxes" in line for line in said(outcome))
    outcome = deblend(images=images)
    assert outcome.exit_code == 0, outcome.output
    (line,) = said(outcome)
    assert "it is fitted with the sources" in line
    outcome = deblend("--subtract-sky", images=images)
    assert outcome.exit_code == 0, outcome.output
    (line,) = said(outcome)
    assert "a sky per pixel was subtracted" in line
    table, truth = Table.read(tmp_path / "out" / "catalog.ecsv"), example[1]
    flux = np.array([table[f"flux_{band}"] for band in example[0].bands]).T
    factor = example[0].flux_unit[1]
    assert abs(flux.sum() / (truth.flux * factor).sum() - 1) < 0.05


def test_a_sky_that_no_fit_survives(deblend, example, tmp_path):
    outcome = deblend(images=example[0].images + 500 * noise_of(example[0]))
    assert outcome.exit_code == BAD_INPUT
    (line,) = said(outcome)
    assert "more than 20 times the noise" in line
    assert not (tmp_path / "out").exists()
