"""`diagnose`: scenes read from files, and results added to folders."""

import json
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from click.testing import CliRunner
from conftest import gaussian_prior, small_energy, small_observation

from scorepriors import InputError, save_prior
from scorepriors.inference.cli import main
from scorepriors.inference.deblending._catalog import catalog
from scorepriors.inference.deblending._flags import DIAGNOSED, bits_of
from scorepriors.inference.deblending._scene_file import load_scene, save_scene
from scorepriors.inference.diagnosis import _outputs
from scorepriors.inference.diagnosis._outputs import COLUMNS
from scorepriors.inference.reports import _outputs as reports
from scorepriors.inference.reports._outputs import summary
from scorepriors.training._recipe import DataRecipe, NetworkRecipe, Recipe

BOX = 8
CENTERS = np.array([[10.0, 8.0], [11.0, 17.0]])

RECIPE = Recipe(
    name="small",
    sigma0=0.3,
    description="for tests",
    data=DataRecipe(path="images", box=BOX),
    network=NetworkRecipe(modes=6, width=16, inner=16, depth=2),
)


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with a small network about round galaxies."""
    mean = gaussian_prior(BOX).energy.mean.ravel()
    energy = eqx.tree_at(lambda e: e.mean, small_energy(BOX), mean)
    return save_prior(tmp_path_factory.mktemp("prior") / "small.safetensors", energy, RECIPE)


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    """A deblended folder; the second source is a star."""
    path = tmp_path_factory.mktemp("diagnosis")
    obs = small_observation(CENTERS, shape=(24, 26), bands=2, flux=600.0)
    np.savez(
        path / "blend.npz", images=obs.images, variance=1 / obs.weights, psfs=obs.psfs, scale=0.3
    )
    rows = "\n".join(f"{c[1]},{c[0]},{i}" for i, c in enumerate(CENTERS))
    (path / "positions.csv").write_text(f"x,y,is_point\n{rows}\n")
    done = run(
        "deblend",
        path / "blend.npz",
        "--catalog",
        path / "positions.csv",
        "--prior",
        weights,
        "--output",
        path / "results",
        # One of the two is fitted as the star that it is not.
        "--no-model-error",
        "--quiet",
    )
    assert done.exit_code == 0, done.output
    return path / "results"


def test_a_scene_comes_back(weights, folder, tmp_path):
    first = load_scene(folder)
    save_scene(first, tmp_path / "again.npz", prior=weights)
    second = load_scene(tmp_path / "again.npz")
    assert summary(first) == summary(second)
    assert first.observation.pixel_scale == second.observation.pixel_scale == 0.3
    # Rendered again, on transforms of another size.
    before = json.loads((folder / "summary.json").read_text())["chi2"]
    assert summary(first)["chi2"] == pytest.approx(before, rel=1e-6)
    one, two = catalog(first), catalog(second)
    for name in one.colnames:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(two[name]))
    fit = second.free_form.fit
    potential = float(jax.jit(lambda u: fit.posterior.potential_fn(u))(fit.params))
    np.testing.assert_allclose(potential, float(fit.potential), atol=0.01)


def test_the_command_says_what_was_made_up(folder):
    done = run("diagnose", folder)
    assert done.exit_code == 0, done.output
    table = QTable.read(folder / "catalog.ecsv")
    assert set(COLUMNS) <= set(table.colnames)
    for name in (*COLUMNS, "flags"):
        assert table[name].info.description
    point = np.array(["point" in flags for flags in table["flags"]])
    assert point.tolist() == [False, True]
    assert np.isfinite(table["gamma"][~point]).all()
    assert np.isnan(table["gamma"][point]).all()
    assert ((table["data_share"][~point] > 0) & (table["data_share"][~point] < 1)).all()
    assert ((table["typicality"][~point] > 0) & (table["typicality"][~point] <= 1)).all()
    # Free shapes leave fluxes less certain than fixed ones.
    bands = load_scene(folder).observation.bands
    fixed = np.sqrt(sum(np.asarray(table[f"fixed_shape_flux_err_{b}"]) ** 2 for b in bands))
    assert np.asarray(table["flux_err_free_total"])[0] > 0.9 * fixed[0]
    with fits.open(folder / "hallucination.fits") as hdus:
        assert [h.name for h in hdus[1:]] == ["DIAGNOSIS_0"]
        header = hdus[1].header
        assert hdus[1].data.shape == (9, BOX, BOX)
        assert header["PLANE1"] == "mean_delta_f"
        assert 0 < header["SHARE"] < 1
        assert np.isfinite(hdus[1].data).all()
    assert (folder / "hallucination.png").stat().st_size > 10_000
    assert max(map(len, done.output.splitlines())) <= 80
    # The page of the scene has the maps, and says what the run was.
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "held by the data alone" in page
    assert json.loads((folder / "summary.json").read_text())["date"] in page
    words = {w for flags in table["flags"] for w in flags.split(",")}
    assert all(word in done.output for word in words & {flag.word for flag in DIAGNOSED})
    assert table["flag_bits"].tolist() == [bits_of(words) for words in table["flags"]]
    # A second time only when told to, and then the flags are not doubled.
    again = run("diagnose", folder, "--quiet")
    assert again.exit_code == 2
    assert "--force" in again.output
    quiet = run("diagnose", folder, "--quiet", "--force", "--json")
    assert quiet.exit_code == 0
    assert {Path(line).parent for line in quiet.stderr.splitlines()} == {folder}
    found = json.loads(quiet.stdout)
    assert found["output"] == str(folder)
    ids = list(table["id"])
    assert list(found["sources"]) == ids
    assert found["sources"][ids[1]].keys() == {"flags"}
    for name in ("gamma", "data_share", "flux_from_prior", "degrees_of_freedom", "typicality"):
        np.testing.assert_allclose(found["sources"][ids[0]][name], table[name][0], rtol=0.05)
    assert list(QTable.read(folder / "catalog.ecsv")["flags"]) == list(table["flags"])


@pytest.mark.parametrize("installed", [True, False])
def test_no_catalog_of_before_stays_beside_the_new_one(installed, tmp_path, monkeypatch):
    """Without pyarrow `catalog.parquet` cannot get the columns."""
    if installed:
        pytest.importorskip("pyarrow")
    else:
        monkeypatch.setattr(reports, "can_write_parquet", lambda: False)
    QTable({"id": ["0"]}).write(tmp_path / "catalog.ecsv")
    (tmp_path / "catalog.parquet").write_text("of before")

    def with_gamma(table, diagnosis):
        return QTable({**table, "gamma": [0.5]})

    maps = SimpleNamespace(writeto=lambda path: path.write_text("maps"))
    figure = SimpleNamespace(savefig=lambda path, dpi: path.write_text("figure"))
    monkeypatch.setattr(_outputs, "add_columns", with_gamma)
    monkeypatch.setattr(_outputs, "hallucination_images", lambda diagnosis: maps)
    monkeypatch.setattr(_outputs, "diagnosis_figure", lambda diagnosis: figure)
    paths = _outputs.write_diagnosis(SimpleNamespace(result=None), tmp_path)
    assert QTable.read(tmp_path / "catalog.ecsv")["gamma"] == [0.5]
    parquet = tmp_path / "catalog.parquet"
    assert (parquet in paths, parquet.exists()) == (installed, installed)
    if installed:
        assert QTable.read(parquet)["gamma"] == [0.5]


def test_bad_folders(folder, tmp_path):
    done = run("diagnose", tmp_path / "nothing")
    assert done.exit_code == 2
    assert "there is no folder" in done.output
    done = run("diagnose", tmp_path)
    assert done.exit_code == 2
    assert "that `scorepriors deblend` or `sample` wrote" in done.output
    (tmp_path / "scene.npz").write_bytes((folder / "scene.npz").read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged or no deblended scene"):
        load_scene(tmp_path)
    with np.load(folder / "scene.npz") as archive:
        arrays = dict(archive)
    facts = json.loads(str(arrays["facts"]))
    arrays["facts"] = json.dumps(facts | {"version": 0})
    np.savez(tmp_path / "scene.npz", **arrays)
    with pytest.raises(InputError, match="another version"):
        load_scene(tmp_path)
    arrays["facts"] = json.dumps(facts | {"priors": ["lsst-33"]})
    np.savez(tmp_path / "scene.npz", **arrays)
    with pytest.raises(InputError, match="lsst-33"):
        load_scene(tmp_path)
