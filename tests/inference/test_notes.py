"""What bears on a result and is no doubt about it: in its files, whatever became of the warnings."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from conftest import gaussian_prior
from field_results import stand_in
from html_pages import Page
from made_scenes import made, sky

from scorepriors import ScorePrior
from scorepriors.inference.deblending import _notes
from scorepriors.inference.deblending._catalog import catalog
from scorepriors.inference.deblending._notes import each_once, mended_noise, notes
from scorepriors.inference.deblending._priors import pixels_sentence
from scorepriors.inference.fields import _deblend_field, _result
from scorepriors.inference.fields._report import field_page
from scorepriors.inference.reports._outputs import summary
from scorepriors.inference.reports._scene_page import scene_page
from scorepriors.models import Field, Observation, join_observations
from scorepriors.models.data._joint import noted
from scorepriors.models.data._observation import with_notes
from scorepriors.models.data._warnings import FileWarning, collected, note, said_before


def quietly(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def observed(psf_sum=2.0, **options):
    """An observation whose PSF does not sum to one, which a warning says."""
    pixels = np.ones((1, 24, 24))
    psf = np.zeros((1, 5, 5))
    psf[0, 2, 2] = psf_sum
    return quietly(Observation.from_arrays, pixels, variance=pixels, psfs=psf, **options)


def test_sentences_are_collected_whatever_becomes_of_the_warnings():
    def said():
        note("one.")
        note("two.", to_results=False)
        with said_before():
            note("three.")

    with collected() as outer, collected() as inner:
        quietly(said)
    assert outer == inner == ["one."]
    with pytest.warns(FileWarning, match="one"):
        note("one.")
    assert inner == ["one."]


def test_an_observation_keeps_what_was_said_of_its_files(tmp_path):
    obs = observed(wcs=sky())
    said = obs.notes[0]
    assert "PSFs do not sum to one" in said
    assert replace(obs, name="other").notes == obs.notes
    assert not any("sum to one" in one for one in observed(1.0).notes)
    assert Field.of(obs).notes == obs.notes
    assert Field.of(obs).window(0, 0, 8, 8).notes == ()
    # Read again it is as good as any.
    obs.to_fits(tmp_path / "a.fits")
    again = quietly(Observation.read, tmp_path / "a.fits")
    assert not any("sum to one" in one for one in again.notes)
    joint = join_observations(again, obs)
    assert set(joint.notes) == {*again.notes, *obs.notes}
    assert set(noted(joint, ["more.", said]).notes) == {"more.", *joint.notes}
    assert with_notes(obs, [said, "more."]).notes == (*obs.notes, "more.")


def test_sentences_of_a_field_are_collected_where_it_is_opened(tmp_path):
    observed(1.0, bands="r").to_fits(tmp_path / "a.fits")
    with fits.open(tmp_path / "a.fits", mode="update") as hdus:
        hdus["PSF"].data = hdus["PSF"].data * 3
    found = quietly(Field.open, tmp_path / "a.fits")
    assert any("PSFs do not sum to one" in one for one in found.notes)


def prior_of(scale):
    """A prior for pixels of this size."""
    one = gaussian_prior(8)
    return ScorePrior(
        one.energy, one.stretch, float(one.sigma), sigma_max=5.0, name="wide", pixel_scale=scale
    )


def test_a_prior_for_other_pixels_is_a_note_of_scenes_and_fields():
    result = made(2)
    assert notes(result) == list(result.observation.notes)
    prior = prior_of(1.01)
    sentence = pixels_sentence(result.observation, prior)
    assert "learned galaxies in pixels of 1.01 arcsec" in sentence
    learned = SimpleNamespace(
        observation=result.observation,
        positions=result.positions,
        noise_from_model=(),
        kept=None,
        priors=lambda: {"galaxies": prior, "large": prior},
    )
    assert notes(learned).count(sentence) == 1
    # Of a field whose galaxies are profiles no prior bears on the result.
    for model, said in (("free-form", [sentence]), ("profile", [])):
        work = SimpleNamespace(
            field=Field.of(result.observation), settings=SimpleNamespace(priors=(prior,))
        )
        sources = Table({"model": [model, "point"]})
        found = {"noise_from_model": [], "psf_change": {"scenes": 0}, "notes": []}
        given = [*result.observation.notes, *said]
        assert _deblend_field._notes(work, sources, (), found, 2) == given


def test_a_prior_that_no_pixels_fit_can_be_done_without():
    result = made(2)
    coarse = SimpleNamespace(pixel_scale=0.05, name="")
    said = pixels_sentence(coarse, prior_of(0.2))
    assert "the image has pixels of 0.05 arcsec" in said
    assert "models='profiles', --models profiles in the shell" in said
    assert not pixels_sentence(result.observation, prior_of(0.2))


def test_correlated_noise_that_is_not_modeled_is_a_note(monkeypatch):
    result = made(2)
    monkeypatch.setattr(_notes, "correlation_sentence", lambda obs, positions: "errors too small.")
    assert notes(result)[-1] == "errors too small."
    assert "errors too small." in summary(result)["notes"]


def test_pages_do_not_say_that_nothing_bears_on_the_result():
    result = made(2)
    result = replace(result, observation=with_notes(result.observation, ["a note < 1."]))
    page = Page(scene_page(result, catalog(result), summary(result)))
    assert page.bad == []
    assert "a note < 1." in page.said
    assert "no check found the scene as a whole at fault, but what follows bears on it" in page.said
    assert "nothing speaks" not in page.said
    whole = stand_in()
    whole.facts["notes"] = ["a note < 2."]
    said = " ".join(Page(field_page(whole)).said.split())
    assert "a note < 2." in said
    assert "no check found the whole at fault, but what follows bears on it" in said
    assert "nothing speaks" not in said


def test_a_field_repeats_what_its_scenes_note_once():
    records = [
        SimpleNamespace(facts={"notes": ["seldom."] if k == 3 else ["often."]}) for k in range(9)
    ]
    assert _result._notes([*records, SimpleNamespace(facts={})]) == ["often.", "seldom."]
    many = [SimpleNamespace(facts={"notes": [f"place {k}.", "often."]}) for k in range(99)]
    found = _result._notes(many)
    assert found[0] == "often."
    assert len(found) == _result.MOST_NOTES + 1
    assert found[-1] == f"{100 - _result.MOST_NOTES} more notes are of single scenes."


def test_sentences_are_once_and_in_their_order():
    assert each_once(["b", "", "a"], ("a", "c")) == ["b", "a", "c"]
    assert mended_noise(()) == ""
    assert "in band g, r follows" in mended_noise(("g", "r"))
