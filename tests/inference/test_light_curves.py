"""Light curves of sources that vary, in `deblend`, files and the shell."""

import json

import numpy as np
import pytest
from astropy.table import QTable
from click.testing import CliRunner

from scorepriors._errors import InputError
from scorepriors.inference import deblend, flux_covariance, light_curves, load_scene, load_tree
from scorepriors.inference.cli import main
from scorepriors.inference.reports._outputs import write_outputs
from scorepriors.models import join_observations, read_positions, simulate_epochs

TIMES = 60000.0 + 6.0 * np.arange(4)


def bump(times):
    """A transient of two epochs."""
    return np.where(abs(times - 60009) < 5, 800.0, 0.0)


@pytest.fixture(scope="module")
def epochs():
    return simulate_epochs(TIMES, bump, seed=2)


@pytest.fixture(scope="module")
def result(epochs):
    obs = join_observations(*epochs.observations)
    return deblend(obs, epochs.catalog, variable=["transient"], free_form=False)


def test_the_light_curve_holds_the_truth(epochs, result):
    curve = light_curves(result)
    assert result.converged
    assert set(curve["id"]) == {"transient"}
    assert curve["filter"].tolist() == ["g"] * 4 + ["r"] * 4
    np.testing.assert_allclose(curve["time"].mjd, np.tile(TIMES, 2))
    pull = (curve["flux"].value - epochs.flux.T.ravel()) / curve["flux_err"].value
    assert abs(pull).max() < 4
    assert (pull**2).mean() < 2.5
    # The error is near that of the noise, not of the galaxy's brightness.
    assert (curve["flux_err"].value < 60).all()


def test_a_timescale_does_not_raise_errors(epochs, result):
    obs = join_observations(*epochs.observations)
    smooth = deblend(obs, epochs.catalog, variable=["transient"], timescale=20.0, free_form=False)
    assert smooth.converged
    curve, free = light_curves(smooth), light_curves(result)
    pull = (curve["flux"].value - epochs.flux.T.ravel()) / curve["flux_err"].value
    assert abs(pull).max() < 4.5
    assert (curve["flux_err"].value < 1.02 * free["flux_err"].value).all()


def test_the_host_has_one_flux_per_filter(result):
    host = light_curves(result, "host")
    for band, flux in (("g", 3000), ("r", 5000)):
        values = host["flux"].value[host["filter"] == band]
        assert np.ptp(values) < 0.002 * flux
        assert values[0] == pytest.approx(flux, rel=0.05)


def test_without_a_variable_source_all_are_free(epochs):
    obs = join_observations(*epochs.observations)
    constant = deblend(obs, epochs.catalog, free_form=False)
    assert constant.variable == ()
    with pytest.raises(InputError, match="no source varies"):
        light_curves(constant)
    with pytest.raises(InputError, match="no source 'nova'"):
        light_curves(constant, "nova")


def test_files_hold_it(result, tmp_path):
    paths = write_outputs(result, tmp_path / "out")
    assert "light_curves.ecsv" in [path.name for path in paths]
    read = QTable.read(tmp_path / "out" / "light_curves.ecsv")
    np.testing.assert_allclose(read["flux"].value, light_curves(result)["flux"].value, rtol=1e-6)
    again = load_scene(tmp_path / "out")
    assert again.variable == ("transient",)
    mended = light_curves(again)
    np.testing.assert_allclose(mended["flux"].value, light_curves(result)["flux"].value, rtol=1e-3)
    assert mended["time"].mjd.tolist() == light_curves(result)["time"].mjd.tolist()


def test_wrong_names_are_refused(epochs):
    obs = join_observations(*epochs.observations)
    with pytest.raises(InputError, match="no source 'nova' that could vary"):
        deblend(obs, epochs.catalog, variable="nova")
    with pytest.raises(InputError, match="of one epoch"):
        deblend(epochs.observations[0], epochs.catalog, variable="transient")
    with pytest.raises(InputError, match="`timescale` must be positive"):
        deblend(obs, epochs.catalog, variable="transient", timescale=-1.0)


def test_a_nucleus_may_lie_in_the_middle_of_its_host(epochs):
    catalog = epochs.catalog.copy()
    catalog["x"], catalog["y"] = catalog["x"][0], catalog["y"][0]
    assert len(read_positions(catalog, epochs.observations[0])) == 2
    catalog["is_star"] = False
    with pytest.raises(InputError, match="at the same place"):
        read_positions(catalog, epochs.observations[0])


def test_the_shell_writes_light_curves(epochs, tmp_path):
    files = []
    for number, obs in enumerate(epochs.observations[1:3]):
        files.append(str(tmp_path / f"night{number}.fits"))
        obs.to_fits(files[-1])
    epochs.catalog.write(tmp_path / "sources.ecsv")
    command = ["deblend", files[0], "--with", files[1], "--catalog", str(tmp_path / "sources.ecsv")]
    command += ["--variable", "transient", "--max-iterations", "30", "--quiet"]
    found = CliRunner().invoke(main, [*command, "--output", str(tmp_path / "out")])
    assert found.exit_code in (0, 3), found.output
    table = QTable.read(tmp_path / "out" / "light_curves.ecsv")
    assert len(table) == 4
    assert table["time"].mjd.tolist() == [60006.0, 60012.0] * 2
    wrong = CliRunner().invoke(main, [*command[:-1], "--variable", "nova", "--output", "x"])
    assert wrong.exit_code == 2
    assert "no source 'nova'" in wrong.output


@pytest.fixture(scope="module")
def sampled(epochs, tmp_path_factory):
    """Folder of the command `sample` on a night before the transient and one with it."""
    folder = tmp_path_factory.mktemp("sampled")
    files = [str(folder / f"night{number}.fits") for number in range(2)]
    for obs, file in zip(epochs.observations[:2], files, strict=True):
        obs.to_fits(file)
    epochs.catalog.write(folder / "sources.ecsv")
    command = ["sample", files[0], "--with", files[1], "--catalog", str(folder / "sources.ecsv")]
    command += ["--variable", "transient", "--num-chains", "2", "--num-warmup", "60"]
    command += ["--num-samples", "100", "--quiet", "--output", str(folder / "out")]
    found = CliRunner().invoke(main, command)
    assert found.exit_code in (0, 3), found.output
    assert str(folder / "out" / "light_curves.ecsv") in found.output
    return folder / "out"


def test_draws_have_light_curves_too(epochs, sampled):
    table = QTable.read(sampled / "light_curves.ecsv")
    assert table["filter"].tolist() == ["g", "g", "r", "r"]
    assert table["time"].mjd.tolist() == [60000.0, 60006.0] * 2
    flux, error = table["flux"].value, table["flux_err"].value
    assert abs((flux - epochs.flux[:2].T.ravel()) / error).max() < 4
    # The same as of the fit: two estimates of one posterior, one of them from a hundred draws.
    fitted = light_curves(load_scene(sampled))
    assert (abs(flux - fitted["flux"].value) < 0.7 * error).all()
    assert (abs(np.log(error / fitted["flux_err"].value)) < 0.5).all()
    tree = load_tree(sampled / "posterior.nc")
    np.testing.assert_allclose(light_curves(tree)["flux"].value, flux, rtol=1e-6)
    own = flux_covariance(tree).sel(source="transient", source2="transient").values
    np.testing.assert_allclose(error, np.sqrt(np.diag(own))[[0, 2, 1, 3]], rtol=1e-4)
    host = light_curves(tree, "host")
    assert np.ptp(host["flux"].value[host["filter"] == "r"]) < 0.002 * 5000


def test_draws_that_know_no_epochs_are_refused(sampled):
    tree = load_tree(sampled / "posterior.nc")
    assert json.loads(tree.attrs["variable"]) == ["transient"]
    with pytest.raises(InputError, match="no source 'nova'"):
        light_curves(tree, "nova")
    del tree.attrs["filters"]
    with pytest.raises(InputError, match="of an earlier version"):
        light_curves(tree)
    del tree.attrs["scene"]
    with pytest.raises(InputError, match="not of a deblended scene"):
        light_curves(tree)


def variable_nucleus(times):
    """A nucleus that fades and comes back."""
    return 1000 + 600 * np.cos(2 * np.pi * (times - 60000) / 24)


def test_host_nucleus_and_transient_are_told_apart():
    seen = simulate_epochs(TIMES, bump, seed=2, nucleus=variable_nucleus)
    assert seen.catalog["x"][2] == seen.catalog["x"][0]
    obs = join_observations(*seen.observations)
    names = ["transient", "nucleus"]
    found = deblend(obs, seen.catalog, variable=names, free_form=False)
    assert found.converged
    assert abs(found.free_form.chi2 - 1) < 0.05
    curve, covariance = light_curves(found), found.photometry.covariance
    for name, true in zip(names, (seen.flux, seen.nucleus), strict=True):
        mine = curve["id"] == name
        flux, error = curve["flux"].value[mine], curve["flux_err"].value[mine]
        pull = (flux - true.T.ravel()) / error
        assert abs(pull).max() < 4
        assert (pull**2).mean() < 4
        # Neither is so uncertain that any flux would do.
        assert (error < 0.3 * true.max()).all()
    # How a nucleus changes is known far better than how much of the core is its own: changes in a filter.
    row = list(found.positions.ids).index("nucleus")
    own = covariance[row, :, row]
    flux = found.photometry.flux[row]
    for band, true in enumerate(seen.nucleus.T):
        at = band + 2 * np.arange(4)
        for k in range(1, 4):
            one, other = at[0], at[k]
            variance = own[one, one] + own[other, other] - 2 * own[one, other]
            change = flux[one] - flux[other] - (true[0] - true[k])
            assert abs(change) < 4 * np.sqrt(variance)
            assert np.sqrt(variance) < 0.1 * true.max()
    host = light_curves(found, "host")
    for band, bright in (("g", 3000), ("r", 5000)):
        mine = host["filter"] == band
        assert abs(host["flux"].value[mine][0] - bright) < 4 * host["flux_err"].value[mine][0]
