"""Metrics against closed forms; evaluation end to end, and resumed."""

import json
from types import SimpleNamespace

import click
import numpy as np
import pytest
from astropy.table import QTable
from click.testing import CliRunner
from conftest import gaussian_prior, small_observation

from scorepriors import InputError
from scorepriors._defaults import MODEL_PSF_SIGMA
from scorepriors._moments import shapes
from scorepriors.inference.cli import main
from scorepriors.inference.cli._common import BAD_INPUT, INTERRUPTED
from scorepriors.inference.cli._evaluation import evaluate as command
from scorepriors.inference.deblending import _deblend
from scorepriors.inference.deblending._deblend import deblend
from scorepriors.inference.deblending._options import PROFILES, Options
from scorepriors.inference.deblending._priors import load_priors
from scorepriors.inference.evaluation import _evaluate as module
from scorepriors.inference.evaluation._figures import binned, evaluation_figure
from scorepriors.inference.evaluation._metrics import (
    central_interval,
    correlation,
    match_positions,
    mean_chi2,
    quantities_covered,
    source_metrics,
    summarize,
)
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.rendering._psf import gaussian_psf
from scorepriors.models.scene._blend import TREATMENTS
from scorepriors.models.simulation._blend_sets import BlendSet, blendedness, write_set

KEYS = {
    "median_abs_flux_error",
    "median_abs_flux_error_blended",
    "median_abs_flux_error_isolated",
    "share_flux_error_above_half",
    "xi_morphology_median",
    "xi_morphology_p16",
    "xi_sed_median",
    "xi_sed_p16",
    "chi2_median",
    "coverage_68",
    "seconds_total",
    "seconds_per_blend",
    "sources",
    "method",
    "start",
    "prior",
    "sigma0",
    "versions",
    "seed",
    "number",
}


def gaussian_source(center, width, shape=(24, 24)):
    rows, columns = np.indices(shape)
    squared = (rows - center[0]) ** 2 + (columns - center[1]) ** 2
    return np.exp(-squared / 2 / width**2) / (2 * np.pi * width**2)


def small_set(num=3, bands=3, seed=0):
    """A set of two round galaxies per blend, with its truth in closed form."""
    rng = np.random.default_rng(seed)
    images, psfs, convolved, centers = [], [], [], []
    for _ in range(num):
        middle = rng.uniform(9, 14, 2)
        pair = [middle, middle + rng.uniform(3, 5, 2)]
        obs = small_observation(pair, bands=bands, seed=int(rng.integers(1000)), flux=600.0)
        images.append(obs.images)
        psfs.append([gaussian_psf(1.3 + 0.15 * b, 15) for b in range(bands)])
        for center in pair:
            widths = [((1.3 + 0.15 * b) ** 2 + 1.5) ** 0.5 for b in range(bands)]
            convolved.append([600 * gaussian_source(center, w) for w in widths])
            centers.append(center)
    convolved = np.array(convolved, np.float32)
    betas = [blendedness(convolved[i : i + 2]) for i in range(0, len(convolved), 2)]
    return {
        "images": np.stack(images),
        "psfs": np.array(psfs, np.float32),
        "skyvar": np.ones((num, bands)),
        "gain": np.full(bands, 1e-6),
        "bands": np.array(list("gri")),
        "src_start": np.arange(0, 2 * num + 1, 2),
        "centers": np.array(centers),
        "conv": convolved,
        "morph": np.array(
            [gaussian_source(c, (1.5 + MODEL_PSF_SIGMA**2) ** 0.5) for c in centers], np.float32
        ),
        "flux_stamp": convolved.sum((2, 3)),
        "flux_total": np.full((2 * num, bands), 600.0),
        "beta": np.concatenate(betas),
        "meta": np.array(json.dumps({"zp": 31.4, "survey": "lsst"})),
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("evaluate") / "set.npz", small_set())


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    """Two blends between checkpoints; a prior known in closed form for the command."""
    monkeypatch.setattr(module, "CHUNK", 2)
    known = (gaussian_prior(box=16),)
    monkeypatch.setattr(module, "load_priors", lambda prior, **_: known)


def evaluate(path, **options):
    return module.evaluate(path, **{"max_iterations": 30, **options})


@pytest.fixture(scope="module")
def result(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 2)
        yield evaluate(path, prior=gaussian_prior(box=16))


@pytest.fixture(scope="module")
def fixed_errors(path):
    """Errors of total fluxes for fixed shapes, of every source of the set."""
    blends, found = BlendSet(path), []
    for i in range(len(blends)):
        obs, center = blends.observation(i), blends.truth(i).center
        at = Positions(tuple(map(str, range(len(center)))), center, np.zeros(len(center), bool))
        fit = deblend(obs, at, prior=gaussian_prior(box=16), center_error=0.05)
        found += list(np.sqrt(np.sum(fit.free_form.flux_error**2, 1)))
    return found


def run(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


# --- metrics ------------------------------------------------------------------------------


def test_flux_errors_and_correlations_in_closed_form():
    """Gaussians: a.b = 1 / (2 pi (s^2 + t^2)), so xi = 2 s t / (s^2 + t^2)."""
    s, t = 2.0, 3.0
    true = np.stack([gaussian_source((20, 20), s, (41, 41))] * 2) * [[[3.0]], [[4.0]]]
    model = np.stack([gaussian_source((20, 20), t, (41, 41))] * 2) * [[[4.0]], [[4.4]]]
    found = source_metrics(model[None], true[None])
    assert found["e_F"][0] == pytest.approx(8.4 / 7 - 1, abs=1e-6)
    assert found["xi_morphology"][0] == pytest.approx(2 * s * t / (s**2 + t**2), abs=1e-6)
    cosine = (3 * 4 + 4 * 4.4) / 5 / np.hypot(4, 4.4)
    assert found["xi_sed"][0] == pytest.approx(cosine, abs=1e-6)


def test_a_source_that_is_missing_or_not_finite_counts_as_zeros():
    truth = np.ones((2, 3, 4, 4))
    models = np.zeros_like(truth)
    models[1] = np.nan
    found = source_metrics(models, truth)
    assert found["e_F"].tolist() == [-1, -1]
    assert found["xi_morphology"].tolist() == found["xi_sed"].tolist() == [0, 0]
    assert correlation([0.0], [1.0]) == 0


def test_chi2_is_the_mean_over_pixels():
    images = np.arange(8.0).reshape(2, 2, 2)
    weights = np.full((2, 2, 2), 0.5)
    assert mean_chi2(images, images - 2, weights) == pytest.approx(2.0)


def test_intervals_hold_68_per_cent():
    low, high = central_interval(np.array(1.0), np.array(2.0))
    draws = 1 + 2 * np.random.default_rng(0).standard_normal(100_000)
    # Binomial scatter of 100,000 draws, five sigma.
    assert abs(np.mean((low < draws) & (draws < high)) - 0.68) < 5 * np.sqrt(0.68 * 0.32 / 1e5)


def test_matches_are_nearest_first_and_unique():
    true = np.array([[0.0, 0.0], [0.0, 2.0], [20.0, 20.0]])
    found = np.array([[0.0, 1.2], [0.0, 9.0]])
    assert match_positions(found, true, radius=3.0).tolist() == [-1, 0, -1]
    assert match_positions(np.zeros((0, 2)), true, radius=3.0).tolist() == [-1, -1, -1]


def test_a_summary_of_known_rows():
    rows = [
        {"beta": b, "e_F": e, "xi_morphology": 1 - abs(e), "xi_sed": 1.0, "covered": c}
        | {"snr": s, "flux_true": 10.0, "flux_low": 9.0, "flux_high": 9.0 + w}
        | {"measured_flux": 10 * (1 + e), "measured_flux_error": 1.0}
        for b, e, c, s, w in (
            (0.1, 0.02, True, 90.0, 1.0),
            (0.2, -0.04, False, 30.0, 2.0),
            (0.6, 0.9, False, 10.0, 6.0),
            (0.5, -0.3, None, 5.0, 0.0),
        )
    ]
    found = summarize(rows, [1.0, 1.2, 0.9])
    assert found["median_abs_flux_error"] == pytest.approx(0.17)
    assert found["median_abs_flux_error_blended"] == pytest.approx(0.6)
    assert found["median_abs_flux_error_isolated"] == pytest.approx(0.03)
    assert found["share_flux_error_above_half"] == 0.25
    assert found["coverage_68"] == pytest.approx(1 / 3)
    assert found["chi2_median"] == 1.0
    # Sources without an interval count for none of these.
    assert found["snr_thirds"] == pytest.approx([10 + 40 / 3, 30 + 20])
    assert found["coverage_68_by_snr"] == [0, 0, 1]
    assert found["coverage_68_by_blendedness"] == [0.5, 0]
    assert found["interval_68_width"] == pytest.approx(0.2)
    assert found["interval_68_mean_width"] == pytest.approx(0.3)
    pulls = np.array([0.2, -0.4, 9, -3])
    assert found["measured_pull"] == pytest.approx({"mean": pulls.mean(), "sd": pulls.std()})
    empty = summarize(rows[:2], [1.0])
    assert empty["median_abs_flux_error_blended"] is None


def test_coverage_of_positions_shapes_and_magnitudes():
    rng = np.random.default_rng(0)
    true, error = rng.normal(size=4000), 0.5
    rows = [
        {
            "quantities": {
                n: {"value": v, "error": e, "true": t}
                for n, v, e in (
                    ("size", t + error * z, error),
                    ("e1", t + 2 * error * z, error),
                    ("mag_g", t, error),
                    ("mag_r", t + 2, error if t > 0 else None),
                )
            }
        }
        for t, z in zip(true, rng.normal(size=4000), strict=True)
    ]
    found = quantities_covered(rows)
    assert found.keys() == {"size", "e1", "mag"}
    # Errors that are right, and half as large as they should be; a binomial scatter of .007.
    assert found["size"]["covered"] == pytest.approx(0.68, abs=0.03)
    assert found["e1"]["covered"] == pytest.approx(0.381, abs=0.03)
    # Without an error a quantity does not count.
    number = 4000 + (true > 0).sum()
    assert found["mag"]["number"] == number
    assert found["mag"]["covered"] == pytest.approx(4000 / number)
    assert found["mag"]["error"] == error


# --- end to end ---------------------------------------------------------------------------


def test_a_set_is_evaluated(result, path):
    assert result.keys() >= KEYS
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["number"], result["num_sources"], result["prior"]) == (3, 6, "gaussian")
    # The prior's shape is nearly that of the galaxies.
    assert result["median_abs_flux_error"] < 0.1
    assert result["xi_morphology_median"] > 0.98
    assert 0.8 < result["chi2_median"] < 1.2
    assert result["center_error"] == 0.05
    assert [row["blend"] for row in result["sources"]] == [0, 0, 1, 1, 2, 2]
    row = result["sources"][0]
    assert row["flux_true"] == pytest.approx(1800, rel=0.02)
    assert row["flux_low"] < row["flux"] < row["flux_high"]
    quantities = row["quantities"]
    assert quantities["x"]["true"] == row["x"]
    assert {"y", "size", "e1", "e2"} < set(quantities)
    # The set's galaxies are as its file says, and the fit is near.
    with np.load(path) as arrays:
        size, e1, _ = shapes(arrays["morph"][:1])
    assert quantities["size"]["true"] == pytest.approx(size[0])
    assert quantities["e1"]["true"] == pytest.approx(e1[0])
    # Some widths away at most, of errors that mean something.
    off = abs(quantities["size"]["value"] - size[0])
    assert off < 3 * quantities["size"]["error"] < 1.5 * size[0]
    numbers = {name: one["number"] for name, one in result["coverage_68_of"].items()}
    assert numbers["size"] == numbers["x"] == 6


def test_scattered_positions_have_the_errors_of_the_catalog(path):
    blends = BlendSet(path)
    obs, truth = blends.observation(0), blends.truth(0)
    many = SimpleNamespace(center=np.tile(truth.center.mean(0), (400, 1)))
    chosen = module.Settings.of(start="scattered", seed=3)
    assert chosen.options.center_error == 0.3
    found = module._positions(obs, many, chosen, 1).row_column
    off = found - many.center
    # 800 numbers: the standard deviation is known to a fortieth.
    assert off.std() == pytest.approx(0.3, rel=0.1)
    assert np.abs(off.mean(0)).max() < 0.06
    again = module._positions(obs, many, chosen, 1).row_column
    np.testing.assert_array_equal(found, again)
    other = module._positions(obs, many, chosen, 2).row_column
    assert (found != other).all()


def without_seconds(result):
    return {name: value for name, value in result.items() if not name.startswith("seconds")}


@pytest.mark.parametrize("again", [{}, {"restart": True}, {"resume": True}])
def test_a_file_that_is_no_checkpoint_is_left_alone(path, tmp_path, again):
    precious = tmp_path / "precious.json"
    precious.write_text("not ours")
    with pytest.raises(
        InputError, match=r"precious.json cannot be read .* no checkpoint of an evaluation"
    ):
        evaluate(path, checkpoint=precious, **again)
    assert precious.read_text() == "not ours"


def test_a_run_started_again_replaces_its_checkpoint(path, tmp_path):
    checkpoint = tmp_path / "kept.npz"
    evaluate(path, checkpoint=checkpoint, limit=1)
    before = checkpoint.read_bytes()
    evaluate(path, checkpoint=checkpoint, limit=1, restart=True, start="flat")
    assert checkpoint.read_bytes() != before


def test_resuming_gives_what_an_uninterrupted_run_gives(result, path, tmp_path, monkeypatch):
    checkpoint = tmp_path / "kept.npz"
    fit = module.deblend_many
    calls = []

    def interrupted(*args, **kwargs):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return fit(*args, **kwargs)

    monkeypatch.setattr(module, "deblend_many", interrupted)
    first = evaluate(path, checkpoint=checkpoint)
    assert (first["interrupted"], first["number"]) == (True, 2)
    with pytest.raises(InputError, match="resume it, or start again"):
        evaluate(path, checkpoint=checkpoint)
    with pytest.raises(InputError, match="another run: start was catalog and is flat"):
        evaluate(path, checkpoint=checkpoint, resume=True, start="flat")
    # What a run cannot begin with must not cost what another run has reached.
    kept = checkpoint.read_bytes()
    with pytest.raises(InputError, match=r"nowhere\.npz"):
        evaluate(tmp_path / "nowhere.npz", checkpoint=checkpoint, restart=True)
    assert checkpoint.read_bytes() == kept
    monkeypatch.setattr(module, "deblend_many", fit)
    done = []
    second = evaluate(
        path, checkpoint=checkpoint, resume=True, progress=lambda n, total, text: done.append(n)
    )
    assert without_seconds(second) == without_seconds(result)
    assert done[-1] == 3
    assert min(done) == 2  # nothing was fitted twice


def test_detected_sources_are_matched_to_the_truth(path, monkeypatch):
    def detect(obs):
        if obs.name == "set-1":
            raise InputError("no source found")
        centers = small_set()["centers"]
        near = centers[0] if obs.name == "set-0" else centers[4]
        return Positions(("a", "b"), np.array([[3.0, 3.0], near]), np.zeros(2, bool))

    for place in (module, _deblend):
        monkeypatch.setattr(place, "detect", detect)
    # A look at the fits would drop what is not there.
    monkeypatch.setattr(_deblend, "find", lambda images, detected, *_: list(detected))
    # The error of exact positions: another one would compile another program.
    found = evaluate(path, start="detect", center_error=0.05)
    assert module.Settings.of(start="detect").options.center_error == 0.3
    assert (found["num_missed"], found["num_spurious"]) == (4, 2)
    rows = found["sources"]
    assert [row["found"] for row in rows] == [True, False, False, False, True, False]
    missed = [row for row in rows if not row["found"]]
    assert {row["e_F"] for row in missed} == {-1.0}
    assert {row["covered"] for row in missed} == {None}


@pytest.mark.parametrize("start", ["sed20", "flat", "gaussian", "blobs"])
def test_bad_starts_do_not_matter_where_the_density_has_one_mode(result, path, start, fixed_errors):
    bad = evaluate(path, start=start, max_iterations=100, tolerance=0.01)
    for row, other, error in zip(bad["sources"], result["sources"], fixed_errors, strict=True):
        assert abs(row["flux"] - other["flux"]) < 0.5 * error


def test_parametric_and_annealed(result, path):
    parametric = evaluate(path, method="parametric", limit=2)
    assert parametric["number"] == 2
    assert parametric["sources"][0]["flux"] != result["sources"][0]["flux"]
    annealed = evaluate(path, method="annealed", anneal=(1.0,), limit=2)
    assert annealed["anneal"] == [1.0]
    for row, other in zip(annealed["sources"], result["sources"], strict=False):
        assert row["flux"] == pytest.approx(other["flux"], rel=0.1)


def test_laplace_errors_free_the_shapes(result, path, fixed_errors):
    found = evaluate(path, method="laplace", limit=1)
    for free, other, error in zip(found["sources"], result["sources"], fixed_errors, strict=False):
        assert free["flux"] == pytest.approx(other["flux"], rel=1e-4)
        assert free["flux_error"] > 0.9 * error


def test_posterior_images_and_intervals_are_those_of_the_draws(path, monkeypatch):
    """Draws that are the mode times a known factor."""
    from scorepriors.inference.deblending import _draws as fluxes
    from scorepriors.inference.deblending import _sampling as scene
    from scorepriors.inference.sampling import _diagnostics as diagnostics

    seen = {}

    def sample_deblended(result, **options):
        seen["result"] = result
        return SimpleNamespace(attrs={})

    def source_draws(tree):
        fit = seen["result"].free_form.fit
        factor = np.linspace(0.9, 1.1, 101)
        corners = seen["result"].scene["galaxies"].at.corner
        for k in range(2):
            image = np.repeat(np.asarray(fit.values["galaxies/morphology"][k])[None], 101, axis=0)
            spectrum = factor[:, None] * np.asarray(fit.values["spectrum"][k])
            yield fluxes.Draws(image, np.asarray(corners[k]), spectrum)

    monkeypatch.setattr(scene, "sample_deblended", sample_deblended)
    monkeypatch.setattr(fluxes, "source_draws", source_draws)
    monkeypatch.setattr(diagnostics, "said", lambda tree: [])
    columns = ("x", "x_err", "y", "y_err", "size", "size_err", "e1", "e1_err", "e2", "e2_err")
    table = QTable({name: np.arange(2.0) + i for i, name in enumerate(columns)})
    monkeypatch.setattr(fluxes, "flux_catalog", lambda tree: table)
    found = evaluate(path, method="posterior", limit=1, models="free-form")
    mode = seen["result"].free_form.convolved[0].sum((1, 2, 3))
    for row, flux in zip(found["sources"], mode, strict=True):
        assert row["flux"] == pytest.approx(flux, rel=1e-4)
        assert row["flux_low"] == pytest.approx(0.932 * flux, rel=1e-3)
        assert row["flux_high"] == pytest.approx(1.068 * flux, rel=1e-3)
    # Those of the table of the draws.
    size = found["sources"][1]["quantities"]["size"]
    assert (size["value"], size["error"]) == (5, 6)


def test_draws_are_of_the_simplest_models_unless_others_are_named():
    def models(**options):
        return module.Settings.of(**options).options.models

    assert models(method="posterior") == "simplest"
    assert models(method="posterior", models="free-form") == "free-form"
    assert models(method="map") == models(method="laplace") == "free-form"
    # As `parametric`, with any of the methods.
    alone = module.Settings.of(method="map", models="profiles").options
    assert (alone.models, alone.has_free_forms) == ("profiles", False)


#: As few draws as the slow test needs.
FEW = {"num_chains": 1, "num_warmup": 20, "num_samples": 20}


@pytest.mark.slow
def test_posterior_means_and_quantiles(path):
    found = evaluate(path, method="posterior", limit=1, sampling=FEW)
    for row in found["sources"]:
        assert row["flux_low"] < row["flux"] < row["flux_high"]
        assert row["xi_morphology"] > 0.95


# --- figure -------------------------------------------------------------------------------


def test_bins_hold_medians_and_leave_out_the_few():
    x = np.array([0.1] * 5 + [0.6] * 3 + [0.9] * 5)
    y = np.arange(13.0)
    found = binned(x, y, np.array([0, 0.5, 0.8, 1]))
    assert found.middle.tolist() == [0.1, 0.9]
    assert found.median.tolist() == [2, 10]
    assert found.low[0] == pytest.approx(np.percentile(y[:5], 16))


def test_the_figure_says_what_it_shows(result):
    figure = evaluation_figure([result, {**result, "start": "gaussian"}])
    figure.canvas.draw()
    labels = [axis.get_xlabel() + axis.get_ylabel() for axis in figure.axes]
    assert any("[nJy]" in label for label in labels)
    assert sum("correlation" in label for label in labels) == 2
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["map, start catalog", "map, start gaussian"]


# --- the command line ---------------------------------------------------------------------


def test_the_command_writes_json_and_figure_and_compares(path, tmp_path):
    target, figure = tmp_path / "out.json", tmp_path / "out.png"
    options = ("--num-blends", 2, "--max-iterations", 30, "--method", "parametric")
    outcome = run(path, *options, "--json", target)
    assert outcome.exit_code == 0, outcome.output
    assert "median |e_F|" in outcome.stdout
    assert json.loads(target.read_text()).keys() >= KEYS
    assert not list(tmp_path.glob("*checkpoint*"))
    again = run(path, *options, "--json", target)
    assert again.exit_code == BAD_INPUT
    assert "--force" in again.stderr
    more = ("--figure", figure, "--compare", target, "--start", "flat", "--json")
    compared = run(path, *options, *more)
    assert compared.exit_code == 0, compared.output
    # Without a file the JSON alone is on stdout.
    assert json.loads(compared.stdout)["start"] == "flat"
    assert "median |e_F|" in compared.stderr
    assert str(figure) in compared.stderr
    assert figure.read_bytes().startswith(b"\x89PNG")
    quiet = run(path, *options, "--json", target, "--force", "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, f"{target}\n")
    nothing = run(path, *options, "--quiet")
    assert nothing.exit_code == BAD_INPUT
    assert "give --json or --figure" in nothing.stderr


def test_an_interrupted_command_goes_on(path, tmp_path, monkeypatch):
    fit, calls = module.deblend_many, []

    def interrupted(*args, **kwargs):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return fit(*args, **kwargs)

    target = tmp_path / "out.json"
    options = (path, "--max-iterations", 30, "--method", "parametric", "--json", target)
    monkeypatch.setattr(module, "deblend_many", interrupted)
    # Batch systems restart a job with the command it began with.
    outcome = run(*options, "--resume")
    assert outcome.exit_code == INTERRUPTED
    sentence = f"there is no {tmp_path / 'out.checkpoint.npz'} to go on with; the run starts."
    assert sentence in outcome.stderr
    assert "2 of 3 blends" in outcome.stderr
    assert not target.exists()
    monkeypatch.setattr(module, "deblend_many", fit)
    assert run(*options).exit_code == BAD_INPUT  # it would throw away what is there
    second = run(*options, "--resume")
    assert second.exit_code == 0
    assert "the run starts" not in second.stderr
    assert json.loads(target.read_text())["number"] == 3
    finished = run(*options, "--resume")
    assert finished.exit_code == BAD_INPUT
    assert "out.json exists; use --force" in finished.stderr


MISTAKES = {
    "missing file": (lambda p, t: [t / "nothing.npz"], "does not exist"),
    "no npz": (lambda p, t: [_text(t / "set.txt")], "must end in .npz"),
    "unreadable": (lambda p, t: [_text(t / "set.npz")], "not a readable npz"),
    "start": (lambda p, t: [p, "--start", "truth"], "'truth' is not one of"),
    "method": (lambda p, t: [p, "--method", "best"], "'best' is not one of"),
    "limit": (lambda p, t: [p, "--num-blends", 0], "0 is not in the range"),
    "anneal": (lambda p, t: [p, "--anneal", "1,x"], "no list of noise levels"),
    "center": (lambda p, t: [p, "--center-error", 0], "`center_error` must be positive"),
    "ending": (lambda p, t: [p, "--json", t / "out.txt"], "must end in .json"),
    "folder": (lambda p, t: [p, "--figure", t / "no" / "f.png"], "does not exist; make it"),
    "resume": (lambda p, t: [p, "--resume"], "--json FILE or --checkpoint"),
    "both": (lambda p, t: [p, "--resume", "--force"], "either --force"),
    "comparison": (lambda p, t: [p, "--compare", _text(t / "x.json")], "no JSON of an evaluation"),
    "checkpoint": (
        lambda p, t: [p, "--resume", "--checkpoint", _text(t / "x.json")],
        "no checkpoint of an evaluation",
    ),
}


def _text(path):
    path.write_bytes(b"PK\x03\x04 cut short")
    return path


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_exit_2(name, path, tmp_path):
    arguments, message = MISTAKES[name]
    outcome = run(*arguments(path, tmp_path))
    assert outcome.exit_code == BAD_INPUT
    assert message in " ".join(outcome.stderr.split())


def test_simulate_writes_a_set_once(tmp_path):
    pytest.importorskip("galsim")
    target = tmp_path / "set.npz"

    def simulate(*arguments):
        return CliRunner().invoke(main, ["simulate", *map(str, arguments)])

    options = ("--survey", "ztf", "--num-blends", 1, "--sources", "2", "--output", target)
    outcome = simulate(*options)
    assert outcome.exit_code == 0, outcome.output
    first = target.read_bytes()
    again = simulate(*options)
    assert again.exit_code == BAD_INPUT
    assert "--force" in again.stderr
    assert simulate(*options, "--force").exit_code == 0
    assert target.read_bytes() == first
    for arguments, message in (
        (("--survey", "sdss", "--num-blends", 1), "'sdss' is not one of"),
        (("--num-blends", 0), "0 is not in the range"),
        (("--num-blends", 1, "--sources", "many"), "MIN:MAX"),
    ):
        outcome = simulate(*arguments, "--output", tmp_path / "other.npz")
        assert outcome.exit_code == BAD_INPUT
        assert message in " ".join(outcome.stderr.split())
    assert [p.name for p in tmp_path.iterdir()] == ["set.npz"]


def test_the_command_knows_every_method_and_start():
    options = {o.name: o.type.choices for o in command.params if o.name in ("method", "start")}
    assert tuple(options["method"]) == module.METHODS
    assert tuple(options["start"]) == tuple(module.STARTS)
    options = {o.name: o.type.choices for o in command.params if o.name in ("profile", "spectra")}
    assert tuple(options["profile"]) == tuple(PROFILES)
    assert tuple(options["spectra"]) == TREATMENTS[:2]


def test_defaults_of_the_command_are_those_of_python():
    context = click.Context(command)
    found = {o.name: o.get_default(context) for o in command.params}
    plain = Options()
    for name in ("profile", "spectra", "tolerance", "max_iterations"):
        assert found[name] == getattr(plain, name)
    assert not module.SAMPLING["posterior"]
    given = command.make_context("evaluate", ["set.npz"]).params
    assert {given[name] for name in ("chains", "warmup", "draws", "models")} == {None}
    assert found["anneal"] == "1,0.4"
    assert module.ANNEALING == (1.0, 0.4)


def test_a_start_as_earlier_versions_spelled_it(path, monkeypatch):
    chosen = module.Settings.of
    with pytest.warns(FutureWarning, match="'catalogue' is called 'catalog' now"):
        assert chosen(start="catalogue") == chosen(start="catalog")
    seen = {}

    def evaluate(file, **options):
        seen.update(options)
        raise InputError("enough")

    monkeypatch.setattr(module, "evaluate", evaluate)
    outcome = run(path, "--start", "catalogue")
    assert "--start catalogue is called catalog now" in outcome.stderr
    assert seen["start"] == "catalog"
    assert "catalogue" not in CliRunner().invoke(main, ["evaluate", "--help"]).output


def test_options_that_do_not_go_with_a_method():
    with pytest.raises(InputError, match="`free_form` follows from `method`"):
        module.Settings.of(free_form=False)
    with pytest.raises(InputError, match="`sampling` goes with the methods posterior and laplace"):
        module.Settings.of(sampling={"num_samples": 10})
    with pytest.raises(TypeError, match="unknown option 'chains' of a deblending"):
        module.Settings.of(chains=3)


def test_bad_starts_are_named():
    obs = small_observation([(8.0, 8.0)])
    where = Positions(("1",), np.array([[8.0, 8.0]]), np.zeros(1, bool))
    prior = gaussian_prior(box=16)
    with pytest.raises(InputError, match="unknown start 'good'; there are profiles"):
        deblend(obs, where, prior=prior, start="good")
    for level in (-1.0, 0.9 * float(prior.sigma), 1000.0):
        with pytest.raises(
            InputError, match=r"`anneal` must lie above the prior's own, .* learned"
        ):
            deblend(obs, where, prior=prior, anneal=(1.0, level))
    with pytest.raises(InputError, match="`sigma` must be positive and at most 5, the noise"):
        load_priors(prior, sigma=1000.0)
    with pytest.raises(InputError, match=r"at least 0.025 and at most .* lsst-32 has learned"):
        load_priors("lsst-32", sigma=0.005)
    assert load_priors("lsst-32", sigma=0.025)[0].sigma == np.float32(0.025)
