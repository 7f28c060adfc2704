"""Runs that end when their chains agree."""

import json

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from conftest import gaussian_prior, small_observation

from scorepriors import InputError
from scorepriors.inference import SamplingWarning, Until, deblend, sample
from scorepriors.inference.deblending._quantities import scene_quantities
from scorepriors.inference.deblending._sampling import measured, sample_deblended, unpadded
from scorepriors.models import Positions

#: Runs as short as these are warned of, for their few draws.
few_draws = pytest.mark.filterwarnings(f"ignore::{SamplingWarning.__module__}.SamplingWarning")


def two_widths():
    numpyro.sample("x", dist.Normal(jnp.zeros(3), 1.0))
    numpyro.sample("y", dist.Normal(0.0, 2.0))


def test_a_run_ends_at_the_first_look_within_the_limits():
    key = jax.random.key(0)
    until = Until(ess=1500, every=40, at_least=80)
    tree = sample(two_widths, key=key, num_warmup=200, num_samples=until)
    kept = tree.attrs["draws_kept"]
    assert kept < until.at_most
    assert (kept - until.at_least) % until.every == 0
    assert float(az.ess(tree)[["x", "y"]].to_array().min()) >= 1500
    # Draws are those of a run of that length, and one look earlier the limits were not met.
    fixed = sample(two_widths, key=key, num_warmup=200, num_samples=kept)
    np.testing.assert_array_equal(tree["posterior"]["y"], fixed["posterior"]["y"])
    before = tree["posterior"].isel(draw=slice(kept - until.every))
    assert float(az.ess(before)[["x", "y"]].to_array().min()) < 1500


@few_draws
def test_only_the_chosen_quantities_are_asked():
    asked = []

    def level(values):
        asked.append({name: v.shape[1:] for name, v in values.items()})
        return values["x"][:, :1]

    until = Until(ess=30, at_least=20, every=20, quantities=level)
    tree = sample(two_widths, key=jax.random.key(1), num_warmup=200, num_samples=until)
    assert tree.attrs["draws_kept"] == 20
    assert asked == [{"x": (3,), "y": ()}]


@few_draws
def test_a_run_that_never_agrees_ends_at_its_longest():
    until = Until(at_most=60, at_least=20, every=20, ess=1e9)
    tree = sample(two_widths, key=jax.random.key(1), num_warmup=60, num_samples=until)
    assert tree.attrs["draws_kept"] == 60
    assert not tree.attrs["interrupted"]


def test_a_resumed_run_ends_where_a_whole_one_does(tmp_path):
    class Stop(Exception):
        pass

    def progress(done, total, text):
        if done >= 240:
            raise Stop

    given = {
        "key": jax.random.key(0),
        "num_warmup": 200,
        "num_samples": Until(ess=1500, every=40, at_least=80),
    }
    whole = sample(two_widths, **given)
    given["checkpoint"] = tmp_path / "run.npz"
    import scorepriors.inference.sampling._sample as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHECKPOINT_INTERVAL", 0.0)
        with pytest.raises(Stop):
            sample(two_widths, **given, progress=progress)
    resumed = sample(two_widths, **given)
    assert resumed.attrs["draws_kept"] == whole.attrs["draws_kept"]
    np.testing.assert_array_equal(resumed["posterior"]["x"], whole["posterior"]["x"])


def test_slow_draws_are_told_and_interrupted_one_by_one(monkeypatch):
    """However long a draw takes, a run has the same ones and the same end."""
    given = {
        "key": jax.random.key(0),
        "num_warmup": 60,
        "num_samples": Until(ess=400, every=40, at_least=40),
    }
    whole = sample(two_widths, **given)
    told = []
    monkeypatch.setattr("scorepriors.inference.sampling._run.PATIENCE", 0.0)
    parts = sample(two_widths, **given, progress=lambda done, total, text: told.append(done))
    assert {*range(1, 60 + whole.attrs["draws_kept"])} <= {*told}
    assert parts.attrs["draws_kept"] == whole.attrs["draws_kept"]
    np.testing.assert_array_equal(parts["posterior"]["x"], whole["posterior"]["x"])
    assert parts.attrs["stein_discrepancy"] == whole.attrs["stein_discrepancy"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"at_least": 0}, "`at_least` must be between 4 and at_most=2000"),
        ({"at_most": 50}, "`at_least` must be between 4 and at_most=50, got 100"),
        ({"every": 0}, "`every` must be at least 1"),
        ({"rhat": 1.0}, "`rhat` must be above 1"),
        ({"ess": 0}, "`ess` above 0"),
    ],
)
def test_limits_out_of_range_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        Until(**settings)


def test_quantities_of_a_wrong_shape_are_refused():
    until = Until(at_least=20, every=20, quantities=lambda values: values["y"])
    with pytest.raises(InputError, match=r"`quantities` returned the shape \(80,\)"):
        sample(two_widths, key=jax.random.key(1), num_warmup=60, num_samples=until)


@few_draws
def test_the_quantities_of_a_scene_are_those_its_fluxes_follow_from():
    obs = small_observation([(9.0, 8.0), (14.0, 15.0)])
    positions = Positions(("a", "b"), np.array([[9.0, 8.0], [14.0, 15.0]]), np.zeros(2, bool))
    result = deblend(obs, positions, prior=gaussian_prior(box=16), max_iterations=60)
    tree = sample_deblended(
        result,
        key=jax.random.key(1),
        models="given",
        algorithm="dynamic_hmc",
        num_warmup=60,
        num_samples=20,
    )
    scene, _ = unpadded(result.scene, result.free_form.fit)
    posterior = tree["posterior"]
    stacked = {
        site: np.asarray(posterior[site.replace("/", "_")]).reshape(
            -1, *posterior[site.replace("/", "_")].shape[2:]
        )
        for site in result.free_form.fit.posterior.sites()
    }
    found = scene_quantities(scene, shaped=True)(stacked)
    known = measured(tree)
    place = np.asarray(known["centroid"]).reshape(len(found), -1)
    for column in place.T:
        assert np.abs(found - column[:, None]).max(0).min() < 1e-4
    assert found.shape[1] > scene_quantities(scene, shaped=False)(stacked).shape[1]
    assert json.loads(tree.attrs["scene"])
