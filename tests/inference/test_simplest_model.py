"""Every source gets the simplest model that the data can't refuse."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner
from conftest import gaussian_prior, small_observation

from scorepriors import InputError
from scorepriors.inference import (
    catalog,
    deblend,
    deblend_many,
    diagnose,
    evaluate,
    sample_deblended,
    simplest,
)
from scorepriors.inference.cli import main
from scorepriors.inference.deblending import _sampling as sampling
from scorepriors.inference.deblending import _simplest
from scorepriors.inference.deblending._choice import explained, no_better, source_values
from scorepriors.inference.deblending._simplest import as_sampled
from scorepriors.models import Observation, Positions
from scorepriors.models.simulation._blend_sets import BlendSet, write_set

PLACES = np.array([(9.0, 9.0), (30.0, 30.0), (8.0, 32.0)])
# The ring is so much brighter than its galaxy that the profile takes it for outliers, or needs an error
# as large: neither is the subject here.
WEIGHTS = {"outliers": False, "model_error": False}
OPTIONS = {"prior": gaussian_prior(box=16), "max_iterations": 60, "padding": 2} | WEIGHTS


def positions(stars=()):
    point = np.array([i in stars for i in range(len(PLACES))])
    return Positions(("a", "b", "c"), PLACES, point)


def smooth(seed=0, flux=90.0):
    return small_observation(PLACES, shape=(46, 46), seed=seed, flux=flux)


def structured(seed=0):
    """The second galaxy has a ring, which no bulge and disk explains."""
    obs = smooth(seed)
    rows, columns = np.indices(obs.shape)
    radius = np.hypot(rows - PLACES[1, 0], columns - PLACES[1, 1])
    ring = 60 * np.exp(-((radius - 5) ** 2) / 2 / 1.5**2)
    return Observation.from_arrays(obs.images + ring, weights=obs.weights, psfs=obs.psfs)


@pytest.fixture(scope="module")
def result():
    return deblend(structured(), positions(stars=(2,)), models="simplest", **OPTIONS)


def test_only_what_profiles_do_not_explain_is_free_form(result):
    assert result.kinds.tolist() == ["profiles", "galaxies", "stars"]
    assert result.free_form.models.tolist() == ["profile", "free-form", "point"]
    assert explained(result.parametric).tolist()[:2] == [True, False]
    assert result.free_form.chi2 < result.parametric.chi2


def test_the_catalog_says_which_model(result):
    table = catalog(result)
    assert table["model"].tolist() == ["profile", "free-form", "point"]
    assert "profile" in table["model"].info.description
    # Columns of the parametric scene are those of all galaxies.
    assert np.isfinite(table["profile_radius"][:2].value).all()
    assert np.isfinite(table["flux_total"].value).all()
    assert (table["flux_err_total"].value > 0).all()


def test_without_free_forms_the_parametric_scene_is_the_result():
    found = deblend(smooth(), positions(), models="simplest", **OPTIONS)
    assert found.free_form is found.parametric
    assert set(catalog(found)["model"]) == {"profile"}
    usual = deblend(smooth(), positions(), **OPTIONS)
    assert set(catalog(usual)["model"]) == {"free-form"}
    assert set(catalog(deblend(smooth(), positions((0, 1, 2)), **OPTIONS))["model"]) == {"point"}


def test_a_result_of_free_forms_is_simplified_as_deblend_does(result, monkeypatch):
    given = deblend(structured(), positions(stars=(2,)), **OPTIONS)
    assert given.kinds.tolist() == ["galaxies", "galaxies", "stars"]
    # More than its free forms took.
    given = dataclasses.replace(given, max_iterations=300)
    found = simplest(given)
    assert found.kinds.tolist() == result.kinds.tolist()
    assert found.free_form.models.tolist() == result.free_form.models.tolist()
    assert found.free_form.fit.converged
    error = result.photometry.total[1]
    assert (np.abs(found.photometry.total[0] - result.photometry.total[0]) < 0.2 * error).all()
    # Fitted once; in another process the models of the draws are fitted, not chosen anew.
    models = found.free_form.models.tolist()
    assert simplest(given) is found
    assert as_sampled(given, models) is found
    there = dataclasses.replace(given)
    monkeypatch.setattr(_simplest, "explained", lambda scene: np.zeros(3, bool))
    again = as_sampled(there, models)
    assert again.free_form.models.tolist() == models
    monkeypatch.undo()
    assert again is not found
    np.testing.assert_allclose(again.free_form.flux, found.free_form.flux, rtol=1e-4)
    # It keeps to the options of the result, and says where that is too little.
    said = []
    short = dataclasses.replace(given, max_iterations=2)
    with pytest.warns(UserWarning, match="simplest models did not converge: .* iterations"):
        found_short = simplest(short, progress=lambda done, total, text: said.append(total))
    assert found_short.free_form.fit.num_iterations == 2
    assert said
    # What is simple already stays as it is.
    assert simplest(found) is found
    assert simplest(result) is result
    plain = deblend(smooth(), positions(), **OPTIONS)
    bare = simplest(plain)
    assert bare.free_form is plain.parametric
    assert bare.photometry.flux.shape == plain.photometry.flux.shape


def a_set(obs):
    """A set of one blend; of its truth only the places are used."""
    light = np.ones((len(PLACES), *obs.images.shape), np.float32)
    return {
        "images": obs.images[None],
        "psfs": np.asarray(obs.psfs, np.float32)[None],
        "skyvar": np.ones((1, 3)),
        "gain": np.full(3, 1e-6),
        "bands": np.array(list("gri")),
        "src_start": np.array([0, len(PLACES)]),
        "centers": PLACES,
        "conv": light,
        "flux_stamp": light.sum((2, 3)),
        "flux_total": light.sum((2, 3)),
        "meta": np.array(json.dumps({"zp": 31.4, "survey": "lsst"})),
    }


class Reached(Exception):
    """A run would begin here."""


@pytest.mark.parametrize("make", [smooth, structured])
def test_python_shell_and_evaluate_sample_the_same_models_by_the_same_algorithm(
    make, tmp_path, monkeypatch
):
    """Up to the first draw, of one scene; the draws themselves are those of `sample`."""
    seen = []

    def sample(bound, *, algorithm, **_):
        (scene,), _ = bound.arguments
        kinds = [(group.name, len(group.at)) for group in scene.sources]
        seen.append((type(algorithm).__name__, sorted(kinds)))
        raise Reached

    monkeypatch.setattr(sampling, "sample", sample)
    prior = OPTIONS["prior"]
    for module in ("deblending._deblend", "evaluation._evaluate"):
        monkeypatch.setattr(
            f"scorepriors.inference.{module}.load_priors", lambda *_, **__: (prior,)
        )
    path = write_set(tmp_path / "set.npz", a_set(make()))
    blends = BlendSet(path)
    obs, center = blends.observation(0), blends.truth(0).center
    where = Positions(("0", "1", "2"), center, np.zeros(3, bool))
    Table({"x": center[:, 1], "y": center[:, 0]}).write(tmp_path / "at.csv")
    with pytest.raises(Reached):
        sample_deblended(deblend(obs, where, center_error=0.05, **WEIGHTS), key=jax.random.key(0))
    with pytest.raises(Reached):
        evaluate(path, method="posterior", **WEIGHTS)
    arguments = [str(path), "--index", "0", "--catalog", str(tmp_path / "at.csv"), "--no-outliers"]
    arguments += ["--no-model-error", "--output", str(tmp_path / "out")]
    outcome = CliRunner().invoke(main, ["sample", *arguments])
    assert isinstance(outcome.exception, Reached), outcome.output
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][0] == ("Reduced" if make is smooth else "DynamicHMC")


def test_draws_of_other_models_than_the_result_are_refused():
    given = deblend(smooth(), positions(), **OPTIONS)
    tree = SimpleNamespace(attrs={"models": json.dumps(["profile"] * 3)})
    with pytest.raises(InputError, match=r"models='given', or give `simplest\(result\)`"):
        diagnose(given, tree, key=jax.random.key(0))
    assert as_sampled(given, ["free-form"] * 3) is given
    assert as_sampled(given, ["profile"] * 3).free_form is given.parametric
    with pytest.raises(InputError, match="give the result that was sampled"):
        as_sampled(given, ["profile", "point", "profile"])
    with pytest.raises(InputError, match="must be 'simplest' or 'given', got 'free-form'"):
        sample_deblended(given, key=jax.random.key(0), models="free-form")


def test_profiled_spectra_are_refused_before_anything_is_fitted(result, monkeypatch):
    def fit(*_, **__):
        raise Reached

    monkeypatch.setattr(_simplest, "fit_map", fit)
    scene = dataclasses.replace(result.free_form.scene, treatment="profiled")
    given = dataclasses.replace(
        result, free_form=dataclasses.replace(result.free_form, scene=scene)
    )
    with pytest.raises(InputError, match="spectra='profiled', a maximum and no density"):
        sample_deblended(given, key=jax.random.key(0))


def test_many_blends_of_both_kinds(result):
    stars = positions(stars=(2,))
    both = deblend_many(
        [smooth(2), structured(), smooth(2)], [stars] * 3, models="simplest", **OPTIONS
    )
    assert [one.kinds.tolist().count("galaxies") for one in both] == [0, 1, 0]
    error = result.photometry.total[1]
    assert (np.abs(both[1].photometry.total[0] - result.photometry.total[0]) < 0.1 * error).all()


def test_faint_sources_keep_their_profiles():
    # A ring as above, but a hundredth as bright.
    faint = structured().images - smooth().images
    obs = smooth(flux=15.0)
    obs = Observation.from_arrays(obs.images + faint / 100, weights=obs.weights, psfs=obs.psfs)
    found = deblend(obs, positions(), models="simplest", **OPTIONS)
    assert set(found.kinds) == {"profiles"}


def test_galaxies_that_free_forms_explain_no_better_keep_their_profiles():
    """A pattern finer than the PSF is no structure of a galaxy; a ring is."""
    obs = structured()
    rows, columns = np.indices(obs.shape)
    near = np.hypot(rows - PLACES[0, 0], columns - PLACES[0, 1]) < 6
    pattern = 2 * near * (-1.0) ** (rows + columns) / np.sqrt(obs.weights)

    def with_pattern(obs):
        return Observation.from_arrays(obs.images + pattern, weights=obs.weights, psfs=obs.psfs)

    found, plain = deblend_many(
        [with_pattern(obs), with_pattern(smooth())], [positions()] * 2, models="simplest", **OPTIONS
    )
    # Nothing but profiles is left.
    assert not explained(plain.parametric)[0]
    assert set(plain.kinds) == {"profiles"}
    assert plain.free_form is plain.parametric
    assert explained(found.parametric).tolist() == [False, False, True]
    assert found.kinds.tolist() == ["profiles", "galaxies", "profiles"]
    assert found.free_form.models.tolist() == ["profile", "free-form", "profile"]
    assert no_better(found.parametric, found.free_form).tolist() == [True, False, False]
    # The scene that was fitted again is the one that is returned.
    assert found.free_form.scene.names == ("galaxies", "profiles")
    flux = found.photometry.total
    alone = deblend(structured(), positions(), models="simplest", **OPTIONS).photometry.total
    assert (np.abs(flux[0] - alone[0]) < 2 * flux[1]).all()


def test_values_of_single_sources(result):
    scene, fit = result.parametric.scene, result.parametric.fit
    star = source_values(scene, fit.values, 2)
    assert set(star) >= {"offset", "brightness", "spectrum"}
    galaxy = source_values(scene, fit.values, 1)
    np.testing.assert_allclose(PLACES[1] + galaxy["offset"], result.center[1], rtol=1e-5)


def test_other_words_are_refused():
    with pytest.raises(InputError, match="`models` must be one of free-form, simplest"):
        deblend(smooth(), positions(), models="best", **OPTIONS)
