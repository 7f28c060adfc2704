"""Correlated noise in a deblending: fits, errors, evidence, files, fields and the shell."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner
from conftest import gaussian_prior

from scorepriors._errors import InputError
from scorepriors.inference import deblend, deblend_field
from scorepriors.inference.cli import main
from scorepriors.inference.deblending._evidence import weigh
from scorepriors.inference.deblending._options import Options, Settings
from scorepriors.inference.deblending._scene_file import load_scene, save_scene
from scorepriors.inference.fields._folder import fingerprint
from scorepriors.inference.reports._outputs import summary
from scorepriors.models import (
    Correlated,
    Diagonal,
    FieldWarning,
    Observation,
    Positions,
    draw_correlated,
    drizzle_correlation,
    gaussian_psf,
)
from scorepriors.models.data._correlations import field_with_correlation
from scorepriors.models.data._field import Field

PRIOR = gaussian_prior(box=16)
SETTINGS = Settings(Options(), (PRIOR,))
KERNEL = drizzle_correlation(1.33)
PLACES = np.array([[16.0, 15.0], [21.0, 21.0], [32.0, 30.0]])


def observation(seed=0, shape=(48, 44), fluxes=(500.0, 350.0, 0.0)):
    """Round galaxies in two bands with the noise of a drizzle, of variance one."""
    rng = np.random.default_rng(seed)
    row, column = np.indices(shape)
    variance = 1.6**2 + 1.5**2
    images = draw_correlated(rng, (2, *shape), KERNEL).astype(float)
    for (y, x), flux in zip(PLACES, fluxes, strict=True):
        squared = (row - y) ** 2 + (column - x) ** 2
        images += flux * np.exp(-squared / 2 / variance) / (2 * np.pi * variance)
    weights = np.ones_like(images)
    weights[:, 5:7, 3:20] = 0
    psf = gaussian_psf(1.6, 21)[None]
    return Observation.from_arrays(
        images, weights=weights, psfs=psf, bands=("g", "r"), zero_point=31.4, scale=0.2
    )


def positions(places=PLACES):
    ids = tuple(str(k + 1) for k in range(len(places)))
    return Positions(ids, np.asarray(places), np.zeros(len(places), bool))


def parametric(obs, correlation, at=None):
    return deblend(
        obs,
        positions() if at is None else at,
        prior=PRIOR,
        free_form=False,
        correlation=correlation,
    )


@pytest.fixture(scope="module")
def results():
    obs = observation()
    return {name: parametric(obs, name) for name in ("white", "drizzle:1.33")}


def test_errors_are_larger(results):
    white, known = results["white"], results["drizzle:1.33"]
    assert isinstance(white.scene.exposures[0].noise, Diagonal)
    assert isinstance(known.scene.exposures[0].noise, Correlated)
    for name in ("error", "measured_error"):
        ratio = getattr(known.photometry, name)[:2] / getattr(white.photometry, name)[:2]
        assert (ratio > 1.2).all()
        assert (ratio < 2.0).all()
    fixed = known.parametric.flux_error / white.parametric.flux_error
    assert (fixed[:2] > 1.3).all()
    assert known.free_form.chi2 == pytest.approx(1, abs=0.15)
    # The noise peak or hole where there is no source is less significant.
    assert abs(known.photometry.snr[2]) < abs(white.photometry.snr[2])


def test_measured_fluxes_are_covered():
    """Fluxes of one scene over realizations of the noise scatter by their errors."""
    pulls = {"white": [], "drizzle:1.33": []}
    for seed in range(8):
        obs = observation(seed)
        for name, found in pulls.items():
            photometry = parametric(obs, name).photometry
            true = np.array([500.0, 350.0])[:, None]
            found.append(((photometry.measured[:2] - true) / photometry.measured_error[:2]).ravel())
    spread = {name: np.sqrt(np.mean(np.square(found))) for name, found in pulls.items()}
    # 32 pulls are known to an eighth.
    assert 0.6 < spread["drizzle:1.33"] < 1.4
    assert spread["white"] > 1.3 * spread["drizzle:1.33"]


def test_evidence_for_noise_peaks(results):
    """Where there is only noise, its peaks are no evidence for sources once they are known."""
    needed = {}
    for name, fitted in results.items():
        obs = observation()
        needed[name] = weigh(obs, positions(), fitted.parametric, SETTINGS).needed
        assert (needed[name][:2] > 20).all()
    assert (needed["drizzle:1.33"][:2] < 0.8 * needed["white"][:2]).all()
    assert needed["drizzle:1.33"][2] < 4.5


def test_the_scene_and_its_correlation_in_a_file(results, tmp_path):
    result = results["drizzle:1.33"]
    save_scene(result, tmp_path / "scene.npz")
    again = load_scene(tmp_path / "scene.npz", prior=PRIOR)
    noise = again.scene.exposures[0].noise
    np.testing.assert_array_equal(noise.taps, result.scene.exposures[0].noise.taps)
    np.testing.assert_allclose(again.photometry.error, result.photometry.error, rtol=1e-3)
    facts = summary(again)["noise_correlation"]
    assert facts == {"g": pytest.approx(1.775, abs=0.01), "r": pytest.approx(1.775, abs=0.01)}
    assert summary(results["white"])["noise_correlation"] == {"g": 1.0, "r": 1.0}


def test_a_warning_where_it_is_seen_and_not_given():
    obs = observation(shape=(110, 110))
    with pytest.warns(FieldWarning, match=r"too small by a factor of up to 1\.[67]"):
        parametric(obs, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parametric(obs, "measure")
        parametric(obs, KERNEL)
        parametric(obs, "white")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("lancsoz", "unknown correlation 'lancsoz'"),
        (0.5, "of the shape"),
        ([[1.0], [1.0, 2.0]], "ragged"),
        (np.ones((3, 3)), "not that of any noise"),
        (("measure", "white"), "2 correlations for one observation"),
        ("measure", "too few to measure"),
    ],
)
def test_wrong_correlations(bad, said):
    with pytest.raises(InputError, match=said):
        parametric(observation(shape=(40, 38)), bad)


def test_options_compare_and_can_be_written():
    given = Options(correlation=KERNEL)
    assert given == Options(correlation=KERNEL.tolist())
    assert given != Options(correlation="measure")
    assert json.dumps(given.correlation)


def test_a_field_measures_once_and_knows_it_in_every_window():
    obs = observation(shape=(200, 190))
    field = Field.of(obs)
    known = field_with_correlation(field, "measure")
    assert known.correlation.shape == (2, 7, 7)
    np.testing.assert_array_equal(known.window(-5, 40, 64, 64).correlation, known.correlation)
    assert fingerprint(field, None, SETTINGS, (False, False)) != fingerprint(
        known, None, SETTINGS, (False, False)
    )
    with pytest.raises(InputError, match="unknown correlation"):
        deblend_field(field, positions(), prior=PRIOR, correlation="drizle:1")


def test_a_field_is_deblended_with_it():
    obs = observation(shape=(64, 64))
    options = {"prior": PRIOR, "free_form": False}
    white = deblend_field(obs, positions(), correlation="white", **options)
    known = deblend_field(obs, positions(), correlation=KERNEL, **options)
    ratio = known.catalog["flux_err_total"][:2] / white.catalog["flux_err_total"][:2]
    assert (ratio > 1.2).all()
    assert known.facts["noise_correlation"]["g"] == pytest.approx(1.775, abs=0.01)


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """The command `deblend` with profiles alone."""
    monkeypatch.setattr(Options, "of", lambda keywords: Options(**keywords, free_form=False))
    obs = observation(shape=(110, 110), fluxes=(500.0, 350.0, 300.0))
    obs.to_fits(tmp_path / "blend.fits")
    table = tmp_path / "catalog.csv"
    Table({"x": PLACES[:, 1], "y": PLACES[:, 0]}).write(table)

    def run(*options):
        given = ["--catalog", table, "--output", tmp_path / "out", "--force", "--quiet"]
        command = ["deblend", tmp_path / "blend.fits", *given, *options]
        return CliRunner().invoke(main, [str(one) for one in command]), tmp_path / "out"

    return run


def test_the_shell(shell):
    outcome, folder = shell("--correlation", "drizzle:1.33")
    assert outcome.exit_code == 0, outcome.output
    assert "the noise was taken as correlated" in outcome.stderr
    assert json.loads((folder / "summary.json").read_text())["noise_correlation"]["g"] > 1.7
    assert Table.read(folder / "catalog.ecsv").meta["noise_correlation"]["r"] > 1.7
    outcome, _ = shell()
    assert outcome.exit_code == 0, outcome.output
    (line,) = [one for one in outcome.stderr.splitlines() if "scatter together" in one]
    assert "--correlation measure" in line
    outcome, _ = shell("--correlation", "drizzle:much")
    assert outcome.exit_code == 2
    assert len(outcome.stderr.splitlines()) == 1


def test_a_file_that_knows(tmp_path):
    known = dataclasses.replace(observation(), correlation=KERNEL)
    known.to_fits(tmp_path / "known.fits")
    result = parametric(Observation.read(tmp_path / "known.fits"), None)
    assert isinstance(result.scene.exposures[0].noise, Correlated)
