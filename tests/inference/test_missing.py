"""Sources that a fit of the detected ones lacks, and those that it has too many of."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.wcs import WCS
from conftest import gaussian_prior
from scipy.ndimage import gaussian_filter

from scorepriors.inference import deblend, deblend_many
from scorepriors.inference.deblending import _local
from scorepriors.inference.deblending._evidence import Fitted
from scorepriors.inference.deblending._missing import CANDIDATE, Missing, missing
from scorepriors.inference.deblending._needed import made_up, needed, with_misfit
from scorepriors.inference.fields import _tasks
from scorepriors.inference.fields._census import ADDED
from scorepriors.models import Observation, Positions, detect, gaussian_psf, join_observations

SHAPE, PSF = (48, 48), 1.7
BANDS = ("g", "r", "i")
FIRST, SECOND, APART = (22.0, 20.0), (26.0, 24.0), (36.0, 38.0)
CLOSE = (25.0, 23.0)
PRIOR = gaussian_prior(box=16)


def scene(sources, *, noise=1.0, seed=0, bands=BANDS):
    """Points and round Gaussians ``(place, width, flux)`` under noise of one."""
    images = np.zeros((len(bands), *SHAPE))
    for (row, column), width, flux in sources:
        one = np.zeros(SHAPE)
        one[int(row), int(column)] = flux
        images += gaussian_filter(one, np.hypot(PSF, width), mode="constant", truncate=8)
    images += noise * np.random.default_rng(seed).normal(size=images.shape)
    psf = gaussian_psf(PSF, 41)
    return Observation.from_arrays(
        images, variance=np.ones_like(images), psfs=psf, bands=bands, wcs=sky()
    )


def sky():
    wcs = WCS(naxis=2)
    wcs.wcs.crpix, wcs.wcs.cdelt = (24, 24), (-0.2 / 3600, 0.2 / 3600)
    wcs.wcs.crval, wcs.wcs.ctype = (53.0, -28.0), ("RA---TAN", "DEC--TAN")
    return wcs


def positions(*places):
    ids = tuple(str(i + 1) for i in range(len(places)))
    return Positions(ids, np.array(places), np.zeros(len(places), bool))


def fitted(obs, *places):
    options = {"free_form": False, "outliers": False, "model_error": False}
    return deblend(obs, positions(*places), prior=PRIOR, **options).parametric


def distance(places, to):
    return np.linalg.norm(np.reshape(places, (-1, 2)) - np.asarray(to), axis=1).min(initial=np.inf)


def test_an_isolated_source_gains_half_of_its_squared_signal_to_noise():
    both = scene([(FIRST, 1.5, 900.0), (APART, 0.0, 150.0)], noise=0.0)
    alone = scene([(APART, 0.0, 150.0)], noise=0.0)
    found = missing(both, fitted(both, FIRST))
    squared = float((alone.images**2 * alone.weights).sum())
    assert len(found.places) == 1
    assert distance(found.places, APART) < 0.2
    # Its spectrum is not quite the mean one, and templates end.
    assert 0.8 < found.gain[0] / (squared / 2) < 1.01


def test_candidates_gain_at_least_what_is_asked():
    obs = scene([(FIRST, 1.5, 900.0), (APART, 0.0, 150.0)], noise=0.0)
    one = fitted(obs, FIRST)
    gain = float(missing(obs, one).gain[0])
    assert len(missing(obs, one, least=0.99 * gain).places) == 1
    assert len(missing(obs, one, least=1.01 * gain).places) == 0


def test_a_shape_that_could_change_makes_up_for_a_neighbor():
    obs = scene([(FIRST, 1.5, 1500.0), (SECOND, 1.0, 600.0)], noise=0.0)
    one = fitted(obs, FIRST)
    free = missing(obs, one)
    assert distance(free.places, SECOND) < 2.5
    # Known shapes say less of what they have taken already.
    (part,) = _local.windows(one, np.arange(1))
    count, bands = part.amplitude.shape
    stiff = _local.information(part.exposures, part.columns, count, bands, 1e8 * part.precision)
    assert missing(obs, one, parts=[part._replace(known=stiff)]).gain.max() < free.gain.max()


def test_a_fit_that_is_right_lacks_nothing():
    sources = [(FIRST, 1.5, 1500.0), (SECOND, 1.0, 600.0), (APART, 2.0, 400.0)]
    obs = scene(sources)
    found = missing(obs, fitted(obs, *(place for place, *_ in sources)))
    assert found.gain.max(initial=0) < 12


def test_of_two_sources_on_one_galaxy_one_is_dropped():
    obs = scene([(FIRST, 1.5, 400.0), (APART, 1.0, 300.0)])
    shred = (FIRST[0] + 1.5, FIRST[1] + 1.0)
    kept = needed(fitted(obs, FIRST, shred, APART), 9.0)
    assert kept[2]
    assert kept[:2].sum() == 1


def test_two_galaxies_that_overlap_are_both_needed():
    obs = scene([(FIRST, 1.0, 1500.0), (SECOND, 1.0, 900.0)])
    assert needed(fitted(obs, FIRST, SECOND), 9.0).all()


def test_what_others_make_up_for_is_the_drop_of_the_fit():
    # The rise of chi2 without a source is what it gains alone, less what others make up for.
    obs = scene([(FIRST, 1.0, 1500.0), (SECOND, 1.0, 300.0)], noise=0.0)
    both, one = fitted(obs, FIRST, SECOND), fitted(obs, FIRST)
    light = both.convolved[0][1]
    alone = 0.5 * float((light**2 * obs.weights).sum())
    rise = 0.5 * obs.weights.size * (one.chi2 - both.chi2)
    others, _ = made_up(both, np.array([1]))
    assert 0.5 * rise < alone - others[0] < 2 * rise
    assert others[0] > 0.2 * alone


def test_windows_change_little(monkeypatch):
    obs = scene([(FIRST, 1.0, 1500.0), (SECOND, 1.0, 600.0), (APART, 1.5, 500.0)])
    found = fitted(obs, FIRST, SECOND, APART)
    whole = made_up(found, np.arange(3))
    monkeypatch.setattr(_local, "CORE", 25)
    np.testing.assert_allclose(made_up(found, np.arange(3)), whole, rtol=0.02, atol=0.05)
    np.testing.assert_allclose(made_up(found, np.array([1])), whole[:, [1]], rtol=0.02, atol=0.05)


def test_little_light_on_much_may_be_an_error_of_the_model():
    assert with_misfit(50.0, 0.0) == pytest.approx(50.0)
    assert with_misfit(1e9, 0.2) == pytest.approx(0.5 / 0.2**2)


def test_a_neighbor_without_a_maximum_is_found():
    obs = scene([(FIRST, 1.0, 1500.0), (CLOSE, 1.0, 500.0), (APART, 1.0, 700.0)])
    assert len(detect(obs)) == 2
    found = deblend(obs, prior=PRIOR, free_form=False)
    assert len(found.positions) == 3
    for place in (FIRST, CLOSE, APART):
        assert distance(found.center, place) < 1
    # The brightest first, and named by numbers.
    assert found.positions.ids == ("1", "2", "3")
    assert distance(found.positions.row_column[:1], FIRST) < 1


def test_galaxies_alone_stay_alone():
    observations = [scene([(FIRST, 1.5, 1500.0), (APART, 1.0, 400.0)], seed=s) for s in range(6)]
    found = deblend_many(observations, prior=PRIOR, free_form=False)
    assert [len(one.positions) for one in found] == [2] * 6


def test_masked_pixels_edges_and_other_images():
    sources = [(FIRST, 1.0, 1500.0), (SECOND, 1.0, 500.0), ((2.0, 30.0), 1.0, 600.0)]
    obs = scene(sources)
    weights = obs.weights.copy()
    weights[0] = 0
    weights[:, :, 40:] = 0
    hurt = dataclasses.replace(obs, weights=weights)
    assert len(deblend(hurt, prior=PRIOR, free_form=False).positions) == 3
    joint = join_observations(obs, scene(sources, seed=1, bands=("Y", "J", "H")))
    assert len(deblend(joint, prior=PRIOR, free_form=False).positions) == 3


def test_of_a_field_each_scene_looks_about_its_own_sources(monkeypatch):
    near, halo, hidden = (10.0, 12.0), (30.0, 33.0), (2.0, 12.0)
    nats = Missing(np.array([near, halo, hidden]), np.array([8.0, 18.0, 32.0]))
    asked = []
    monkeypatch.setattr(
        _tasks, "missing", lambda obs, fitted, **how: asked.append(how["least"]) or nats
    )
    center = np.array([[9.0, 9.0], [31.0, 31.0]])
    scene_of = SimpleNamespace(
        own=SimpleNamespace(ids=("a",)),
        window=(100, 200, 64),
        hidden=np.array([[100.0, 214.0, 3.0]]),
    )
    looked = Fitted(None, None, SimpleNamespace(center=center), np.arange(1))
    found = _tasks._lacks(scene_of, looked, [])
    # In pixels of the field, with the significance that such a gain is.
    np.testing.assert_allclose(found, [[110.0, 212.0, 4.0]])
    # A fit is dear: what could not stay afterwards is no reason for one.
    assert CANDIDATE < asked[0] < ADDED
    monkeypatch.setattr(
        _tasks, "missing", lambda obs, fitted, **how: Missing(np.zeros((0, 2)), np.zeros(0))
    )
    assert _tasks._lacks(scene_of, looked, []).shape == (0, 3)
