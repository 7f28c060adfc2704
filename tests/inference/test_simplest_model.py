"""Every source gets the simplest model that the data can't refuse."""

import numpy as np
import pytest
from conftest import gaussian_prior, small_observation

from scorepriors import InputError
from scorepriors.inference import catalog, deblend, deblend_many
from scorepriors.inference.deblending._choice import explained, no_better, source_values
from scorepriors.models import Observation, Positions

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
