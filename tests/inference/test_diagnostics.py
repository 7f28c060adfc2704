"""Convergence diagnostics on chains with known properties."""

import arviz as az
import numpy as np
import pytest
import xarray

from scorepriors.inference import ALGORITHMS
from scorepriors.inference.sampling._diagnostics import diagnose
from scorepriors.inference.sampling._rhat import chance_rhat, rank_rhat
from scorepriors.inference.sampling._tree import make_tree

CHAINS, DRAWS, PIXELS = 4, 500, 600


def autocorrelated(size, *, coefficient=0.55, seed=0):
    """Stationary chains that agree; of 2,000 draws about 580 are effective."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(CHAINS, DRAWS, size)).astype(np.float32)
    for t in range(1, DRAWS):
        x[:, t] = coefficient * x[:, t - 1] + np.sqrt(1 - coefficient**2) * x[:, t]
    return x


def judged(**sites):
    rng = np.random.default_rng(1)
    shape = CHAINS, DRAWS
    stats = {"diverging": np.zeros(shape, bool), "energy": rng.normal(size=shape)}
    return diagnose(make_tree({"posterior": sites, "sample_stats": stats}), ALGORITHMS["nuts"])


@pytest.fixture(scope="module")
def pixels():
    return autocorrelated(PIXELS)


def test_rank_rhat_is_that_of_arviz():
    x = autocorrelated(6)[:, :-1]
    x[0, :, 2] += 0.3
    x[1, :, 3] *= 2
    x[:, 1::2, 4] = x[:, 0:-1:2, 4]  # rejected proposals: ties
    dataset = xarray.Dataset({"x": (("chain", "draw", "k"), x)})
    np.testing.assert_allclose(rank_rhat(x), np.asarray(az.rhat(dataset)["x"]), rtol=1e-5)


def test_chance_alone_takes_the_largest_of_many_over_the_limit_of_one(pixels):
    rhat = rank_rhat(pixels)
    assert rhat.max() > 1.01
    assert rhat.max() < chance_rhat(PIXELS, CHAINS, DRAWS, 450)
    found = judged(morphology=pixels)
    assert found.max_pixel_rhat == pytest.approx(rhat.max())
    assert np.isnan(found.max_rhat)
    assert found.warnings == ()


def test_the_bound_is_exceeded_as_often_as_it_says():
    """Fifty sites of 20 elements: in a tenth of them, at most, chance exceeds a tenth's bound."""
    rhat = rank_rhat(np.random.default_rng(2).normal(size=(CHAINS, 400, 1000)))
    allowed = chance_rhat(20, CHAINS, 400, 1600, risk=0.1)
    exceeded = (rhat.reshape(50, 20).max(1) > allowed).mean()
    assert 0 < exceeded < 0.25


@pytest.mark.parametrize("fault", ["stuck", "elsewhere", "too wide", "drifting", "nan"])
def test_one_chain_off_in_one_pixel_is_caught(pixels, fault):
    wrong = pixels.copy()
    if fault == "stuck":
        wrong[2, :, 123] = 0.1
    elif fault == "elsewhere":
        wrong[2, :, 123] += 1.0
    elif fault == "too wide":
        wrong[2, :, 123] *= 3.0
    elif fault == "nan":
        wrong[2, 7, 123] = np.nan
    else:
        wrong[2, :, 123] += np.linspace(-2, 2, DRAWS)
    found = judged(morphology=wrong)
    assert found.warnings
    assert "morphology" in " ".join(found.warnings)


def test_a_few_elements_are_held_to_the_strict_limit(pixels):
    fluxes = autocorrelated(15, coefficient=-0.2)
    assert judged(flux=fluxes, morphology=pixels).warnings == ()
    fluxes[0, :, 3] += 0.35
    found = judged(flux=fluxes, morphology=pixels)
    assert 1.01 < found.max_rhat < chance_rhat(PIXELS, CHAINS, DRAWS, 450)
    (said,) = (w for w in found.warnings if "of flux, should be below 1.01" in w)
    # That of a pixel is larger, but no accident among so many: tables show it.
    assert found.max_pixel_rhat > found.max_rhat
    assert f"; the largest is {found.max_pixel_rhat:.4f}, of morphology)" in said


def test_all_pixels_a_little_off_are_caught(pixels):
    """No pixel beyond what chance gives one of 600, but the typical one is."""
    offset = 0.18 * np.array([1.0, -1, 1, -1])[:, None, None]
    found = judged(morphology=(pixels + offset).astype("f4"))
    assert any("median R-hat" in w for w in found.warnings)


@pytest.mark.parametrize("size", [1, 2, 10, 100])
@pytest.mark.parametrize("coefficient", [-0.3, 0.0, 0.5])
def test_chains_that_agree_seldom_alarm(size, coefficient):
    """Six or more of 40 runs have a chance of 1e-5 even at the limit of one in a hundred."""
    rng = np.random.default_rng(size)
    alarms = 0
    for seed in rng.integers(1 << 30, size=40):
        found = judged(x=autocorrelated(size, coefficient=coefficient, seed=seed))
        alarms += found.warnings != ()
    assert alarms < 6


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_chains_that_disagree_alarm_among_any_number(size):
    """A chain off by .6 of a standard deviation, or wider by half, in one element."""
    elsewhere = autocorrelated(size, coefficient=0.0)
    wider = elsewhere.copy()
    elsewhere[1, :, 0] += 0.6
    wider[1, :, 0] *= 1.5
    for wrong in (elsewhere, wider):
        assert any("R-hat" in w for w in judged(x=wrong).warnings)


def test_slow_chains_alarm_though_their_draws_scatter():
    """Few effective draws do not raise the limit beyond that for 400."""
    found = judged(x=autocorrelated(100, coefficient=0.97))
    assert any("R-hat" in w for w in found.warnings)
    assert any("few effective draws" in w for w in found.warnings)


def test_the_worst_site_is_named():
    fine = autocorrelated(3, coefficient=0.0)
    bad, worst = fine.copy(), fine.copy()
    bad[1, :, 0] += 0.5
    worst[1, :, 2] += 2.0
    for sites in ({"bad": bad, "worst": worst}, {"worst": worst, "bad": bad}):
        (warning,) = (w for w in judged(**sites).warnings if "R-hat" in w)
        assert "of worst, should be below 1.01" in warning
    edge = rank_rhat(worst)[2]
    assert f"R-hat {edge:.4f}" in warning


def test_the_smallest_of_many_effective_sizes_scatters():
    """Of 48 elements with 450 effective draws the smallest estimate is below 400."""
    found = judged(x=autocorrelated(48, coefficient=0.63, seed=3))
    assert found.min_ess < 400
    assert found.warnings == ()
    assert judged(x=autocorrelated(48, coefficient=0.75, seed=3)).warnings
