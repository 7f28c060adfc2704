"""The command line: the example, and messages for twenty kinds of bad input."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner

from scorepriors import _progress
from scorepriors._zoo import list_priors, prior_path
from scorepriors.inference.cli import main
from scorepriors.inference.cli._common import BAD_INPUT, NOT_CONVERGED
from scorepriors.inference.deblending import _deblend
from scorepriors.models import read_positions
from scorepriors.models.simulation._example import load_example


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def blend(tmp_path):
    path = tmp_path / "blend.fits"
    load_example()[0].to_fits(path)
    return path


def rewrite(path, change):
    with fits.open(path) as hdus:
        copies = {hdu.name or "PRIMARY": hdu.copy() for hdu in hdus}
    change(copies)
    fits.HDUList(list(copies.values())).writeto(path, overwrite=True)
    return path


def set_data(name, function):
    def change(hdus):
        hdus[name].data = function(np.array(hdus[name].data))

    return change


def negative(array):
    array[0, 5, 5] = -1
    return array


def positions(tmp_path, **columns):
    path = tmp_path / "positions.csv"
    Table(columns).write(path, overwrite=True)
    return path


def corrupt_weights(tmp_path):
    raw = bytearray(prior_path("lsst-32").read_bytes())
    raw[-5] ^= 1
    path = tmp_path / "broken.safetensors"
    path.write_bytes(bytes(raw))
    return path


def written(path, content):
    path.write_bytes(content)
    return path


MISTAKES = {
    "missing file": lambda b, t: [t / "nothing.fits"],
    "truncated FITS": lambda b, t: [written(t / "t.fits", b.read_bytes()[:9000])],
    "empty file": lambda b, t: [written(t / "e.fits", b"")],
    "folder": lambda b, t: [t],
    "not FITS": lambda b, t: [written(t / "x.fits", b"hello" * 1000)],
    "unknown ending": lambda b, t: [written(t / "x.jpg", b"hello")],
    "bad npz": lambda b, t: [written(t / "x.npz", b"hello")],
    "no file": lambda b, t: [],
    "file and example": lambda b, t: [b, "--example"],
    "NaN image": lambda b, t: [rewrite(b, set_data("IMAGE", lambda a: a * np.nan))],
    "negative weight": lambda b, t: [rewrite(b, set_data("WEIGHT", negative))],
    "all masked": lambda b, t: [rewrite(b, set_data("WEIGHT", np.zeros_like))],
    "shapes disagree": lambda b, t: [rewrite(b, set_data("WEIGHT", lambda a: a[:, :-1]))],
    "too few PSFs": lambda b, t: [rewrite(b, set_data("PSF", lambda a: a[:-1]))],
    "PSF off center": lambda b, t: [rewrite(b, set_data("PSF", lambda a: np.roll(a, 9, 1)))],
    "no PSF": lambda b, t: [rewrite(b, lambda hdus: hdus.pop("PSF"))],
    "catalog outside": lambda b, t: [b, "--catalog", positions(t, x=[500.0], y=[3.0])],
    "catalog empty": lambda b, t: [b, "--catalog", positions(t, x=[], y=[])],
    "catalog columns": lambda b, t: [b, "--catalog", positions(t, left=[1.0], up=[3.0])],
    "catalog twice": lambda b, t: [b, "--catalog", positions(t, x=[9.0, 9], y=[9.0, 9])],
    "unknown prior": lambda b, t: [b, "--prior", "hubble-512"],
    "corrupt weights": lambda b, t: [b, "--prior", corrupt_weights(t)],
    "bad sigma": lambda b, t: [b, "--sigma", "-1"],
    "each of the example": lambda b, t: ["--example", "--each"],
    "two files of one name": lambda b, t: ["--each", b, t / "elsewhere" / b.name],
    "output is a file": lambda b, t: [b, "--output", written(t / "out", b"x")],
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_sentence_and_leave_nothing(name, blend, tmp_path):
    arguments = MISTAKES[name](blend, tmp_path)
    if "--output" not in arguments:
        arguments += ["--output", tmp_path / "results"]
    outcome = run("deblend", *arguments)
    assert outcome.exit_code == BAD_INPUT, outcome.output
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("scorepriors: ")
    assert lines[0].endswith(".")
    assert "Traceback" not in outcome.output
    assert not (tmp_path / "results").exists()


def test_the_example_and_its_files(tmp_path):
    target = tmp_path / "results"
    outcome = run("deblend", "--example", "--output", target)
    assert outcome.exit_code == 0, outcome.output
    table = Table.read(target / "catalog.ecsv")
    assert len(table) == 4
    assert str(table["flux_r"].unit) == "nJy"
    assert np.isfinite(table["ra"]).all()
    summary = json.loads((target / "summary.json").read_text())
    assert summary["converged"]
    assert summary["prior"] == "lsst-32"
    assert 0.9 < summary["chi2"] < 1.1
    with fits.open(target / "sources.fits") as hdus:
        cubes = [hdu for hdu in hdus if hdu.name.startswith("SOURCE_")]
        assert len(cubes) == 4
        assert cubes[0].data.shape == (6, 64, 64)
        assert cubes[0].header["CTYPE1"] == "RA---TAN"
    assert (target / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert summary["command"].startswith("scorepriors")
    assert summary["input"] == ["the embedded example"]
    page = (target / "report.html").read_text(encoding="utf-8")
    assert "4 sources; " in page
    assert summary["date"] in page
    again = read_positions(target / "sources.reg", load_example()[0])
    np.testing.assert_allclose(again.row_column[:, 1], table["x"], atol=0.01)
    printed = outcome.stdout.split(str(target))[0].splitlines()
    assert printed[0] == "4 sources, flux in nJy"
    assert max(map(len, printed)) <= 80
    # Nothing is replaced without being told to.
    before = (target / "catalog.ecsv").read_bytes()
    again = run("deblend", "--example", "--output", target)
    assert again.exit_code == BAD_INPUT
    assert "--force" in again.stderr
    assert (target / "catalog.ecsv").read_bytes() == before


def test_the_example_with_sersic_profiles(tmp_path):
    target = tmp_path / "results"
    outcome = run("deblend", "--example", "--profile", "sersic", "--output", target)
    assert outcome.exit_code == 0, outcome.output
    table = Table.read(target / "catalog.ecsv")
    assert "profile_bulge_fraction" not in table.colnames
    index = np.asarray(table["profile_index"])
    assert ((index > 0.5) & (index < 6)).all()
    assert len(np.unique(index)) == 4
    assert json.loads((target / "summary.json").read_text())["parametric"]["converged"]
    unknown = run("deblend", "--example", "--profile", "gaussian", "--output", tmp_path / "other")
    assert unknown.exit_code == BAD_INPUT
    assert "'bulge-disk', 'sersic'" in unknown.stderr


def test_results_of_an_earlier_version_are_noticed(tmp_path):
    (tmp_path / "catalogue.ecsv").write_text("of before")
    outcome = run("deblend", "--example", "--output", tmp_path)
    assert outcome.exit_code == BAD_INPUT
    assert "catalogue.ecsv exists; use --force" in outcome.stderr
    outcome = run("diagnose", tmp_path)
    assert outcome.exit_code == BAD_INPUT
    assert (tmp_path / "catalogue.ecsv").read_text() == "of before"


def test_not_converged_has_a_code_of_its_own_and_keeps_results(tmp_path, monkeypatch):
    # Every line that is due after a minute in the log of a batch system.
    monkeypatch.setattr(_progress, "EVERY", 0.0)
    target = tmp_path / "results"
    options = ("--max-iterations", 2, "--resume", "--json")
    command = ("deblend", "--example", "--output", target, *options)
    outcome = run(*command)
    assert outcome.exit_code == NOT_CONVERGED
    assert "not converged" in outcome.stderr
    # Batch systems restart a job with the command it began with.
    assert "a scene keeps nothing to go on with; the run starts." in outcome.stderr
    for name in ("profiles", "free-form"):
        assert f"scorepriors: {name}: 2 of 2, potential" in outcome.stderr
    before = (target / "summary.json").read_text()
    assert not json.loads(before)["converged"]
    # Nothing but the summary is on stdout.
    assert json.loads(outcome.stdout) == {"output": str(target), **json.loads(before)}
    assert "4 sources, flux in" in outcome.stderr
    again = run(*command)
    assert (again.exit_code, again.stdout) == (BAD_INPUT, "")
    assert (target / "summary.json").read_text() == before


def test_each_file_a_blend_with_a_folder_of_its_own(blend, tmp_path):
    other = tmp_path / "other.fits.gz"
    load_example()[0].to_fits(other)
    target = tmp_path / "results"
    outcome = run(
        "deblend", "--each", blend, other, "--output", target, "--max-iterations", 2, "--seed", 7,
        "--json",
    )  # fmt: skip
    assert outcome.exit_code == NOT_CONVERGED
    assert sum("not converged" in line for line in outcome.stderr.splitlines()) == 2
    for name in ("blend", "other"):
        assert str(target / name) in outcome.stderr
        assert len(Table.read(target / name / "catalog.ecsv")) == 4
        summary = json.loads((target / name / "summary.json").read_text())
        assert summary["seed"] == 7
        assert summary["input"] == [str({"blend": blend, "other": other}[name])]
    found = json.loads(outcome.stdout)
    assert [one["output"] for one in found] == [str(target / name) for name in ("blend", "other")]
    assert not any(one["converged"] for one in found)


def test_files_that_are_done_are_left_when_a_run_goes_on(blend, tmp_path, monkeypatch):
    """The fits of the second and third file are stopped; then the first file and an option change."""
    files = [tmp_path / f"{name}.fits" for name in "abc"]
    for file in files:
        file.write_bytes(blend.read_bytes())
    target = tmp_path / "results"
    fitted = []
    usual = _deblend.Run._some

    def counted(self, blends):
        fitted.extend(blends)
        return usual(self, blends)

    def start(*options, stop_after=None):
        fitted.clear()

        def stopped(self, blends):
            if len(fitted) == stop_after:
                raise KeyboardInterrupt
            return counted(self, blends)

        with monkeypatch.context() as patch:
            patch.setattr(_deblend.Run, "_some", stopped)
            patch.setattr(_deblend, "chunk_of", lambda chunk: 1)
            outcome = run(
                "deblend", "--each", *files, "--output", target, "--models", "profiles", "--quiet",
                *options,
            )  # fmt: skip
        return outcome, len(fitted)

    def dates():
        return {
            name: (target / name / "summary.json").stat().st_mtime_ns
            for name in "abc"
            if (target / name).exists()
        }

    # Whoever is killed loses what was not written: files are, as soon as they are done.
    outcome, number = start("--resume", stop_after=1)
    assert (outcome.exit_code, number) == (130, 1)
    assert f"there is no {target} to go on with; the run starts." in outcome.stderr
    first = dates()
    assert first.keys() == {"a"}
    refused, number = start()
    assert (refused.exit_code, number) == (BAD_INPUT, 0)
    outcome, number = start("--resume", "--json")
    assert (outcome.exit_code, number) == (0, 2), outcome.output
    assert "1 of 3 blends are done, and left as they are." in outcome.stderr
    found = json.loads(outcome.stdout)
    assert [one["output"] for one in found] == [str(target / name) for name in "abc"]
    second = dates()
    assert second.keys() == {"a", "b", "c"}
    assert second["a"] == first["a"]
    # All are done: nothing is fitted, and the exit code is that of what is there.
    outcome, number = start("--resume")
    assert (outcome.exit_code, number, dates()) == (0, 0, second)
    # A diagnosis of what is replaced goes with it.
    (target / "a" / "hallucination.png").touch()
    with fits.open(files[0], mode="update") as hdus:
        hdus["IMAGE"].data *= 1.01
    outcome, number = start("--resume")
    assert (outcome.exit_code, number) == (0, 1)
    sentence = f"{target / 'a'} is of another input or other options; it is done again."
    assert sentence in outcome.stderr
    assert not (target / "a" / "hallucination.png").exists()
    third = dates()
    assert [third[name] != second[name] for name in "abc"] == [True, False, False]
    outcome, number = start("--resume", "--max-iterations", 2)
    assert (outcome.exit_code, number) == (NOT_CONVERGED, 3)
    assert outcome.stderr.count("is of another input or other options") == 3
    # What was not converged stays so when it is left.
    outcome, number = start("--resume", "--max-iterations", 2)
    assert (outcome.exit_code, number) == (NOT_CONVERGED, 0)
    assert outcome.stderr.count("not converged.") == 3
    # Results that no such run wrote are not for --resume to replace.
    facts = json.loads((target / "b" / "summary.json").read_text())
    del facts["request"]
    (target / "b" / "summary.json").write_text(json.dumps(facts))
    outcome, number = start("--resume", "--max-iterations", 2)
    assert (outcome.exit_code, number) == (BAD_INPUT, 0)
    assert "--force" in outcome.stderr


def test_priors_are_listed():
    outcome = run("priors")
    assert outcome.exit_code == 0
    assert "lsst-32" in outcome.output
    assert "ztf-32" in outcome.output
    names = [info.name for info in list_priors()]
    assert run("priors", "--quiet").output.split() == names
    found = json.loads(run("priors", "--json").stdout)
    assert [one["name"] for one in found] == names
    assert found[0].keys() == {
        "name", "box", "sigma0", "pixel_scale", "description", "license", "path",
    }  # fmt: skip


def test_train_refuses_a_bad_recipe(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("name = 'x'\n[data]\nset = 'lsst'\ncolor = 3\n")
    outcome = run("train", recipe)
    assert outcome.exit_code == BAD_INPUT
    assert "data.color" in outcome.stderr
    recipe.write_text("name = 'x'\n[data]\nset = 'lsst'\n")
    outcome = run("train", recipe, "--output", recipe)
    assert outcome.exit_code == BAD_INPUT
    assert "is a file; give a folder for the run" in outcome.stderr


def test_train_writes_weights_and_pictures(tmp_path):
    rows, columns = np.indices((8, 8)) - 3.5
    width = np.linspace(1, 2.5, 120)[:, None, None]
    np.savez(tmp_path / "set.npz", images=np.exp(-(rows**2 + columns**2) / 2 / width**2))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "name = 'mine'\n[data]\npath = 'set.npz'\nbox = 8\n"
        "[network]\nmodes = 8\nwidth = 16\ninner = 16\ndepth = 1\n"
        "[training]\nsteps = 20\nblock = 10\nbatch = 16\n"
    )
    outcome = run("train", recipe, "--output", tmp_path / "run")
    assert outcome.exit_code == 0, outcome.output
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"mine.safetensors", "loss.png", "samples.png", "checkpoint.npz"} <= names
    found = json.loads(run("train", recipe, "--output", tmp_path / "run", "--json").stdout)
    assert found.items() >= {
        "weights": str(tmp_path / "run" / "mine.safetensors"), "finished": True, "steps": 20,
    }.items()  # fmt: skip
