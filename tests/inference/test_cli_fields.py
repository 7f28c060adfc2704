"""Fields in the shell: `deblend` on a large image, and `source`."""

import errno
import json
import os

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS
from click.testing import CliRunner

from scorepriors import InputError
from scorepriors.inference import deblend_field
from scorepriors.inference.cli import main
from scorepriors.inference.deblending._flags import FLAGS
from scorepriors.inference.fields import _executors
from scorepriors.models import Observation, gaussian_psf

#: The last is so close to the border that it has a flag.
PLACES = np.array([[20.0, 24.0], [26.0, 33.0], [70.0, 90.0], [30.0, 129.0]])
FLUXES = np.array([60.0, 50.0, 70.0, 60.0])


def run(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write an image with a WCS and its catalog."""
    folder = tmp_path_factory.mktemp("files")
    shape = (104, 136)
    rows, columns = np.indices(shape)
    image = np.zeros((2, *shape))
    for (row, column), flux in zip(PLACES, FLUXES):
        r2 = (rows - row) ** 2 + (columns - column) ** 2
        image += flux * np.exp(-r2 / (2 * 2.2**2)) / (2 * np.pi * 2.2**2)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [68.0, 52.0]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    obs = Observation.from_arrays(
        image + np.random.default_rng(0).normal(0, 0.4, image.shape),
        variance=np.full(image.shape, 0.16),
        psfs=np.stack([gaussian_psf(1.6, 25)] * 2),
        bands=("g", "i"),
        zero_point=31.4,
        wcs=wcs,
    )
    obs.to_fits(folder / "field.fits")
    table = Table({"id": list("abcd"), "x": PLACES[:, 1], "y": PLACES[:, 0]})
    table.write(folder / "catalog.ecsv")
    return folder


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "results"
    found = run(
        "deblend", files / "field.fits", "--field", "--catalog", files / "catalog.ecsv",
        "--output", output, "--resume", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    return output, found


def test_a_field_leaves_its_files(finished, files):
    output, found = finished
    assert "4 sources" in found.output
    table = QTable.read(output / "catalog.fits")
    assert list(table["id"]) == list("abcd")
    assert set(table["model"]) == {"profile"}
    pull = (table["flux_i"].value - FLUXES) / table["flux_err_i"].value
    assert np.abs(pull).max() < 5
    wcs = WCS(fits.getheader(files / "field.fits", "IMAGE"), naxis=2)
    x, y = wcs.world_to_pixel_values(table["ra"], table["dec"])
    np.testing.assert_allclose(x, table["x"], atol=1e-3)
    np.testing.assert_allclose(y, table["y"], atol=1e-3)
    data = fits.getdata(files / "field.fits", "IMAGE")
    for band, name in enumerate(("g", "i")):
        model, rest = (fits.getdata(output / f"{n}.fits", name) for n in ("model", "residual"))
        np.testing.assert_allclose(model + rest, data[band], atol=0.05)
    facts = json.loads((output / "summary.json").read_text())
    assert facts["num_sources"] == 4
    assert facts["seed"] == 0
    assert facts["input"] == [str(files / "field.fits")]
    # Flags with their sentences, none of which is "ok".
    lines = found.stderr.splitlines()
    assert facts["flags"]["edge"] == 1
    for word, number in facts["flags"].items():
        (line,) = (one for one in lines if one.startswith(f"{word} ({number})"))
        assert FLAGS[word].sentence.startswith(line.partition(": ")[2].strip())
    assert not any(line.startswith("ok") for line in lines)
    assert json.loads(found.stdout) == {"output": str(output), **facts}
    assert "</html>" in (output / "report.html").read_text()


def test_one_source_of_a_field(finished, tmp_path):
    output, _ = finished
    found = run(
        "source", output, "b", "--output", tmp_path / "b.fits", "--picture", tmp_path / "b.png"
    )
    assert found.exit_code == 0, found.output
    assert "b" in found.output
    with fits.open(tmp_path / "b.fits") as hdus:
        alone, rest, model = (hdus[n].data for n in ("ALONE", "RESIDUAL", "OBSERVED"))
        np.testing.assert_allclose(alone - model, rest, atol=1e-4)
    assert (tmp_path / "b.png").stat().st_size > 10_000
    missing = run("source", output, "nobody")
    assert missing.exit_code == 2
    assert "no source 'nobody'" in missing.output


def test_a_run_that_is_to_go_on_starts_where_there_is_none(finished):
    output, found = finished
    sentence = f"there is no {output / 'run'} to go on with; the run starts."
    assert found.stderr.count(sentence) == 1


def test_results_without_a_run_are_not_for_resume(files, tmp_path):
    (tmp_path / "catalog.fits").write_text("of before")
    again = run("deblend", files / "field.fits", "--field", "--resume", "--output", tmp_path)
    assert again.exit_code == 2
    assert "catalog.fits exists; use --force" in again.stderr
    assert (tmp_path / "catalog.fits").read_text() == "of before"


def test_results_are_not_replaced_unasked(finished, files):
    output, _ = finished
    again = run("deblend", files / "field.fits", "--field", "--output", output)
    assert again.exit_code == 2
    assert "--force" in again.output
    other = run("deblend", files / "field.fits", "--field", "--resume", "--output", output)
    assert other.exit_code == 2
    assert "another image, catalog" in other.output


def test_ctrl_c_says_how_to_go_on(files, tmp_path, monkeypatch):
    catalog = ("--catalog", files / "catalog.ecsv", "--output", tmp_path / "out")
    usual = _executors.Serial.map

    def interrupted(self, function, tasks, shared=None):
        for number, value in usual(self, function, tasks, shared):
            yield number, value
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_executors.Serial, "map", interrupted)
        first = run("deblend", files / "field.fits", "--field", *catalog)
    assert first.exit_code == 130
    assert "--resume goes on" in first.output
    assert not (tmp_path / "out" / "catalog.fits").exists()
    second = run("deblend", files / "field.fits", "--field", *catalog, "--resume")
    assert second.exit_code == 0, second.output
    assert "the run starts" not in second.stderr
    assert len(QTable.read(tmp_path / "out" / "catalog.fits")) == 4


@pytest.mark.parametrize("room", [1, 3])
def test_a_full_disk_is_said_and_the_run_goes_on(finished, files, tmp_path, monkeypatch, room):
    """There is room for so many parts; half of the next one is written."""
    where = ("--field", "--catalog", files / "catalog.ecsv", "--output", tmp_path / "out")
    usual, written = np.savez, []

    def full(stream, **arrays):
        if len(written) == room:
            stream.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(arrays)
        usual(stream, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        first = run("deblend", files / "field.fits", *where)
    assert first.exit_code == 2
    assert first.stderr.splitlines()[-1] == (
        f"scorepriors: cannot write to '{tmp_path / 'out'}': No space left on device; what is done is "
        "kept, and --resume goes on with it."
    )
    assert "Traceback" not in first.output
    kept = list((tmp_path / "out").rglob("*.npz"))
    assert len(kept) == room
    assert not (tmp_path / "out" / "catalog.fits").exists()
    second = run("deblend", files / "field.fits", *where, "--resume")
    assert second.exit_code == 0, second.output
    ours, theirs = (QTable.read(one / "catalog.fits") for one in (finished[0], tmp_path / "out"))
    assert theirs.colnames == ours.colnames
    for name in ours.colnames:
        np.testing.assert_array_equal(np.asarray(theirs[name]), np.asarray(ours[name]), name)


def test_a_full_disk_without_a_folder_of_the_run(files, monkeypatch):
    """Nothing is kept then, and nothing else is said."""

    def full(stream, **arrays):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=r"No space left on device; give output="):
        deblend_field(files / "field.fits", files / "catalog.ecsv")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers", 2], "--workers is for fields"),
        (["--scheduler", "tcp://x:1"], "--scheduler is for fields"),
        (["--field", "--diagnose"], "--diagnose is for single scenes"),
        (["--scene", "--diagnose", "--models", "profiles"], "--models profiles does without it"),
    ],
)
def test_options_that_do_not_go_together(files, tmp_path, options, sentence):
    found = run("deblend", files / "field.fits", *options, "--output", tmp_path / "out")
    assert found.exit_code == 2
    assert sentence in found.output
    assert not (tmp_path / "out").exists()


def test_the_example_is_no_field(tmp_path):
    found = run("deblend", "--example", "--field", "--output", tmp_path / "out")
    assert found.exit_code == 2
    assert "--field goes with files" in found.output


@pytest.mark.parametrize("kind", ["--scene", "--field"])
@pytest.mark.parametrize("models", [None, "simplest", "free-form", "profiles"])
def test_models_are_given_to_scenes_and_fields(files, tmp_path, monkeypatch, kind, models):
    """Without the option each has the default of its own function."""
    given = {}

    def caught(*arguments, **options):
        given.update(options)
        raise InputError("that is enough.")

    home = "fields._deblend_field.deblend_field"
    home = home if kind == "--field" else "deblending._deblend.deblend_many"
    monkeypatch.setattr(f"scorepriors.inference.{home}", caught)
    option = [] if models is None else ["--models", models]
    found = run("deblend", files / "field.fits", kind, *option, "--output", tmp_path / "out")
    assert "that is enough" in found.output
    assert given.get("models") == models
